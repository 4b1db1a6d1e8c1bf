"""How often the intervals of `rlaif agree` cover the truth, and how often its tests err, by simulation.

    python benchmarks/agreement_coverage.py --draws 1000 --most 32000 --json agreement-coverage.json
    python benchmarks/agreement_coverage.py --only PPI "alternative annotator" --sizes 100

The samples are those of agreement_cases.py. Beside each interval that is printed stands that of the
percentile bootstrap over the same groups (400 resamples), which is not. As in coverage.py, a coverage within
two standard errors of a limit of the aim is drawn on until it is not, or --most samples are drawn.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from agreement_cases import CASES, Case
from coverage_aim import PRINTED, held, undecided
from facts import where_and_when

COVERAGES = ("agreement", "win rate", "PPI++")  # tables of coverages


def aimed(table: str, name: str) -> bool:
    """Whether a column is the coverage of an interval that `rlaif` prints."""
    return table in COVERAGES and "bootstrap" not in name and "width" not in name


def measure(case: Case, n: int, draws: int, seed: int = 0, most: int = 0) -> dict[str, Any]:
    """The mean of each thing counted, over the samples for which it was printed, and the share of those.

    The draws of a coverage are doubled, up to `most`, while it cannot be told from a limit of the aim.
    """
    rng = np.random.default_rng([seed, n, *f"{case.table}: {case.data}".encode()])
    counted = {name: np.zeros(3) for name in case.draw(rng, n)}  # samples, those printed, their sum
    left, done = set(counted), 0
    while left:
        for _ in range(done or draws):
            sample = case.draw(rng, n)
            for name in counted:  # in one order: bootstraps draw from the same generator
                if name in left:
                    value = sample[name]()
                    counted[name] += 1, value is not None, value or 0.0
        done = 2 * done or draws
        left = {
            name
            for name, (samples, printed, total) in counted.items()
            if aimed(case.table, name)
            and 2 * done <= most
            and samples == done
            and printed > PRINTED * done
            and undecided(printed, total, n)
        }
    figures = {
        name: {
            "mean": float(total / printed) if printed else None,
            "printed": float(printed / samples),
            "draws": int(samples),
        }
        for name, (samples, printed, total) in counted.items()
    }
    return {"table": case.table, "data": case.data, "n": n, "figures": figures}


def cell(figure: dict[str, Any]) -> str:
    """A cell of the table."""
    if not told(figure):
        return "—"
    beside = f" ({1 - figure['printed']:.0%} none)" if figure["printed"] < 0.995 else ""
    return f"{figure['mean']:.3f}{beside}"


def told(figure: dict[str, Any]) -> bool:
    """Whether enough was printed."""
    return figure["mean"] is not None and figure["printed"] >= PRINTED


def statement(rows: list[dict[str, Any]]) -> str:
    """How many coverages are within the aim, and which are not."""
    counted = [
        (f"{name}, {row['data']}, n {row['n']}: {cell(figure)}", held(figure["mean"], row["n"]))
        for row in rows
        for name, figure in row["figures"].items()
        if aimed(row["table"], name) and told(figure)
    ]
    outside = [f"* {text}" for text, inside in counted if not inside]
    return "\n".join([f"Within the aim: {len(counted) - len(outside)} of {len(counted)} cells.", *outside])


def tables(rows: list[dict[str, Any]]) -> str:
    """Every figure as Markdown, a table for each kind."""
    lines: list[str] = []
    for name in dict.fromkeys(row["table"] for row in rows):
        own = [row for row in rows if row["table"] == name]
        heads = list(own[0]["figures"])
        lines += [
            "",
            f"### {name}",
            "",
            f"| data | n | {' | '.join(heads)} |",
            "|---" * (len(heads) + 2) + "|",
        ]
        lines += [
            f"| {row['data']} | {row['n']} | {' | '.join(cell(row['figures'][h]) for h in heads)} |"
            for row in own
        ]
    return "\n".join(lines[1:])


def main() -> None:
    """Measure every case and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000, help="samples of each case and size")
    parser.add_argument("--most", type=int, default=32_000, help="samples of a cell that lies near a limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="cases whose table or data holds one of these"
    )
    parser.add_argument("--sizes", nargs="+", type=int, help="n of the cells, by default all")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    chosen = [c for c in CASES if any(text in f"{c.table}: {c.data}" for text in options.only)]
    rows = [
        measure(case, n, options.draws, options.seed, options.most)
        for case in chosen
        for n in options.sizes or case.sizes
    ]
    print(statement(rows) + "\n\n" + tables(rows))
    if options.json:
        facts = where_and_when()
        options.json.write_text(
            json.dumps({**facts, "draws": options.draws, "seed": options.seed, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()

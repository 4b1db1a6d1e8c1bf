"""How often each interval that the project prints covers the truth, by simulation.

    python benchmarks/coverage.py --draws 2000 --most 32000 --json coverage.json
    python benchmarks/coverage.py --only kappa_interval "near 1 for 0.97" --sizes 20 50

Every function of `rlaif` that returns an interval of a figure is in coverage_cases.py or coverage_weights.py,
with data like those it is printed for: rates from 0.5 to 0.99, win rates with ties, paired differences,
prompts in groups, probabilities, heavy-tailed lengths and divergences. n counts independent prompts or groups
of them. A rate's coverage jumps with n and the rate, because 0/1 values take few means; each draw therefore
takes its rate from a window of ±0.02 around the one named (half as far from 1 as the rate where that is
less). Independent 0/1 values, wins with ties and paired differences of 0/1 values take few enough samples up
to n = 100 (0/1 values up to 1000): there the coverage is no simulation but the sum over all samples, and for
a cell outside the aim the two coverages nearest to 0.95 that any interval could have at the rate named are
shown, because an interval holds or leaves out whole outcomes. An interval that is not printed (`nan`) cannot
miss: its share is shown beside the coverage of the others, with the share of all samples whose printed
interval misses; so is the share of intervals with an open upper end. A cell within two standard errors of a
limit of the aim, on either side of it, is drawn on until it is not, or --most samples are drawn.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from coverage_aim import PRINTED, held, undecided
from coverage_cases import CASES as MEANS_AND_RATES
from coverage_cases import Case
from coverage_weights import induced_weights
from facts import where_and_when
from numpy.typing import NDArray

CASES = [*MEANS_AND_RATES, *induced_weights()]
SIZES = (5, 10, 20, 50, 100, 300, 1000)


def measure(case: Case, n: int, draws: int, seed: int = 0, most: int = 0) -> dict[str, Any]:
    """Coverage among the intervals printed, the shares not printed and open above, the printed estimates'
    bias.

    The draws are doubled, up to `most`, while the coverage cannot be told from a limit of the aim.
    """
    row: dict[str, Any] = {"function": case.function, "data": case.data, "n": n, "aimed": case.aimed}
    known = case.exact(n)
    if known is not None:
        return {**row, **known, "not_printed": 0.0, "open": 0.0, "bias": 0.0}
    rng = np.random.default_rng([seed, n, *case.data.encode()])
    sums = drawn(case, n, draws, rng)
    while 2 * draws <= most and undecided(sums[0], sums[1], n):
        sums, draws = sums + drawn(case, n, draws, rng), 2 * draws
    shown, hits, opened, errors = sums.tolist()
    return {
        **row,
        "draws": draws,
        "coverage": hits / shown if shown else None,
        "not_printed": 1 - shown / draws,
        "open": opened / draws,
        "bias": errors / shown if shown else None,
        "missed": (shown - hits) / draws,
    }


def drawn(case: Case, n: int, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How many intervals of samples of n are printed, hold the truth, are open above; the errors' sum."""
    sums = np.zeros(4)
    for _ in range(draws):
        (low, high), truth, estimate = case.draw(rng, n)
        if not math.isnan(low):
            sums += 1, low - 1e-12 <= truth <= high + 1e-12, math.isinf(high), estimate - truth
    return sums


def told(row: dict[str, Any] | None) -> bool:
    """Whether a cell has a coverage: where hardly any interval is printed there is none."""
    return row is not None and row["coverage"] is not None and row["not_printed"] <= 1 - PRINTED


def cell(row: dict[str, Any] | None) -> str:
    """A cell of the table."""
    if row is None or not told(row):
        return "—"
    beside = [
        f"{row[key]:.0%} {name}"
        for key, name in (("not_printed", "none"), ("open", "open"))
        if row[key] > 0.005
    ]
    if row["not_printed"] > 0.005:
        beside.append(f"{row['missed']:.3f} of all miss")
    if row["function"] == "length_controlled":
        beside.append(f"{row['bias']:+.3f}")
    if "attainable" in row and not held(row["coverage"], row["n"]):
        beside.append("attainable {:.3f} or {:.3f}".format(*row["attainable"]))
    return f"{row['coverage']:.3f}{'*' * ('attainable' in row)}" + (
        f" ({', '.join(beside)})" if beside else ""
    )


def statement(rows: list[dict[str, Any]], facts: dict[str, str], draws: int, most: int, seed: int) -> str:
    """Where, when and how the cells were measured, how many are within the aim and which are not."""
    counted = [row for row in rows if told(row) and row["aimed"]]
    outside = [row for row in counted if not held(row["coverage"], row["n"])]
    error, within = math.sqrt(0.0475 / draws), len(counted) - len(outside)
    return "\n".join(
        [
            f"Measured on {facts['date']} ({facts['machine']}, seed {seed}).",
            f"Cells with a star are exact: sums over all samples. All others have {draws} draws",
            f"(one standard error at 0.95 is {error:.3f}), doubled up to {most} while a cell",
            "lies within two standard errors of a limit of the aim.",
            f"Within the aim: {within} of {len(counted)} cells. Outside:",
            "",
            *(f"* {row['data']}, n {row['n']}: {cell(row)}" for row in outside),
        ]
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The coverage of every case by n, as Markdown."""
    found = {(row["function"], row["data"], row["n"]): row for row in rows}
    sizes = sorted({row["n"] for row in rows})
    lines: list[str] = []
    for name in dict.fromkeys(row["function"] for row in rows):
        lines += [
            "",
            f"### {name}",
            "",
            "| data | " + " | ".join(f"n {n}" for n in sizes) + " |",
            "|---" * (len(sizes) + 1) + "|",
        ]
        for data in dict.fromkeys(row["data"] for row in rows if row["function"] == name):
            lines.append(f"| {data} | " + " | ".join(cell(found.get((name, data, n))) for n in sizes) + " |")
    return "\n".join(lines[1:])


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=2000, help="samples of each case and size")
    parser.add_argument("--most", type=int, default=32_000, help="samples of a cell that lies near a limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="cases whose function or data holds one of these"
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="n of the cells, by default all")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    chosen = [case for case in CASES if any(text in f"{case.function}: {case.data}" for text in options.only)]
    rows = [
        measure(case, n, options.draws, options.seed, options.most)
        for case in chosen
        for n in options.sizes
        if n >= case.least
    ]
    facts = where_and_when()
    print(statement(rows, facts, options.draws, options.most, options.seed) + "\n\n" + table(rows))
    if options.json:
        options.json.write_text(
            json.dumps({**facts, "draws": options.draws, "seed": options.seed, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()

"""What each principle does, for people: sentences, pictures, and a page of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.human.labelled import run_labels
from rlaif.pages import charts
from rlaif.pages.page import ci, fixed, percent, write_page
from rlaif.report import examples
from rlaif.report.principles import coverage
from rlaif.report.run_reader import RunReader

SLOTS = {"decides": "last", "ties": "base", "abstains": "mid1", "unread": "mid0"}
COLUMNS = {  # of the tables in the terminal and on pages, with what they are; the rows of docs/principles.md
    "applies": "share of the labelled comparisons whose prompt it applies to",
    "decides": "of the verdicts asked for, the share that takes a side (both orders together, beyond a tie)",
    "agrees with the preference": "where both take a side, how often it is the same one",
    "agrees with the rest": "the same, against what the other principles (and people) give without it",
    "moves most": "share of the preferences that it moved furthest towards their side",
    "undecided without it": "share of all preferences that would become a tie",
}
LEAD = 3  # pairs of principles that are named
ALIKE = 0.5  # share of what either decides from which two principles are called redundant, or contradictory
DISPUTED = 8  # comparisons on the page


def shown(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What a page shows of the figures: sentences, the shares of each principle's verdicts, two matrices."""
    ids = [row["id"] for row in figures["principles"]]
    bars = [
        (row["id"], [(name, row[name]["value"], slot) for name, slot in SLOTS.items() if row[name]["value"]])
        for row in figures["principles"]
        if row["decides"]["n"]
    ]
    return {
        "figures": figures,
        "words": in_words(figures),
        "columns": COLUMNS,
        "slots": {
            name: slot
            for name, slot in SLOTS.items()
            if any(row[name]["value"] for row in figures["principles"])
        },
        "shares": charts.share_chart("What becomes of each principle's verdicts", bars),
        "same": matrix(ids, figures["pairs"], "same", "last"),
        "opposite": matrix(ids, figures["pairs"], "opposite", "mid0"),
    }


def matrix(ids: list[str], pairs: list[dict[str, Any]], what: str, slot: str) -> Any:
    """The picture of how often two principles say the same, or the opposite."""
    number = {name: at for at, name in enumerate(ids)}
    cells: dict[charts.Point, tuple[float, str]] = {}
    for pair in pairs:
        if (found := pair[what])["value"] is not None:
            tip = f"{pair['a']}, {pair['b']}: {fixed(found['value'], 3)} {ci(found['ci'], 3)} of {found['n']}"
            i, j = number[pair["a"]], number[pair["b"]]
            cells[i, j] = cells[j, i] = found["value"], tip
    return charts.matrix_chart(f"Principles that say the {what}", ids, cells, slot)


def in_words(figures: Mapping[str, Any]) -> list[str]:
    """The figures in sentences: what decides nothing, what is redundant, what contradicts what."""
    idle = [f"{row['id']} ({_why_idle(row)})" for row in figures["principles"] if not row["decides"]["value"]]
    left = figures["undecided"]
    reached = f", no principle applies to {left['no_principle']}" if left["no_principle"] else ""
    return [
        f"Decides nothing: {', '.join(idle) or 'none'}.",
        *_pairs(figures, "same", "redundant", ("Redundant", "Most alike"), "both take one side"),
        *_pairs(
            figures, "opposite", "conflicting", ("Contradictory", "Most opposed"), "they take opposite sides"
        ),
        f"No principle decides any comparison of {left['count']} of {left['n']} prompts "
        f"({percent(left['value'] or 0.0, left['ci'], 1)}){reached}.",
        *(f"Left out: {n:,} × {reason}." for reason, n in figures.get("left_out", {}).items()),
    ]


def _why_idle(row: Mapping[str, Any]) -> str:
    """Why a principle decides nothing."""
    if not row["applies"]["value"]:
        return "never applies"
    if not row["decides"]["n"]:
        return "not asked about"
    return "only ties" if row["ties"]["value"] == 1 else "takes no side"


def _pairs(
    figures: Mapping[str, Any], what: str, key: str, names: tuple[str, str], they: str
) -> Iterator[str]:
    """The first pairs of a ranking: those that stand out, else the first alone under a milder name."""
    rates = {(pair["a"], pair["b"]): pair[what] for pair in figures["pairs"]}
    for place, (a, b) in enumerate(figures[key][:LEAD]):
        found = rates[a, b]
        if found["value"] >= ALIKE or place == 0:
            yield (
                f"{names[found['value'] < ALIKE]}: of the {found['n']} comparisons that {a} or {b} decides, "
                f"{they} in {fixed(found['value'])} {ci(found['ci'])}."
            )


def report_of(path: Path) -> tuple[RunReader, dict[str, Any]]:
    """A run and its figures; raises UserError where no label is by principle."""
    held = run_labels(path)
    reader = RunReader(held.run.path)
    figures = coverage(held, reader.prompts)
    if figures is None:
        raise UserError(
            f"{path}: holds no labels by principle.",
            "a run whose label stage has labelled by principle",
            f"rlaif run {path} --until label",
        )
    return reader, figures


def write_coverage(reader: RunReader, figures: Mapping[str, Any], path: Path) -> Path:
    """The page of a run's principles."""
    return write_page(
        path,
        "coverage.html.j2",
        name=reader.run.config.name,
        folder=str(reader.path),
        constitution=reader.run.constitution,
        coverage=shown(figures),
        undecided=[(i, examples.prompt_text(reader, i)) for i in figures["undecided"]["prompts"]],
        disputed=examples.doubtful(reader, DISPUTED)["disputed"],
    )

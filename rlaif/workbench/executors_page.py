"""What `rlaif constitution executors` found, in words and as one HTML page: the principle that is read most
differently first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlaif.pages.page import ci, fixed, write_page

ASKED = 3  # principles of which examples are printed in a terminal
SHOWN = 12  # principles with examples on the page
LEGEND = (  # of the table, in the terminal and on the page
    "kappa: how far the verdicts (a, b or tie, both orders together) of all executors agree beyond chance "
    "(Fleiss'): 1 where they are always the same, 0 as by chance; with its 95 % interval over clusters of "
    "prompts, the least first.",
    "A column of an executor (a judge, or people): its kappa against each of the others (Cohen's).",
    "silent: it never decides under the principle, and is left out of its kappa. –: too few verdicts to "
    "compare. all: the whole constitution.",
)
TEXTS = (("prompt", "prompt"), ("A", "a"), ("B", "b"))
DARKEST = 38  # percent of the colour of a cell whose kappa is 1


def write_executors(path: Path, found: Mapping[str, Any], constitution: str) -> Path:
    """The page of a comparison of executors; returns its path."""
    rows = ranked(found)
    return write_page(
        path,
        "executors.html.j2",
        found=found,
        constitution=constitution,
        headline=headline(found),
        words=[*together(found), *silent(found)],
        rows=[*found["principles"], *([found["whole"]] if found["whole"] else [])],
        shown=rows[:SHOWN],
        hidden=max(0, len(rows) - SHOWN),
        says=says,
        heat=heat,
        numbers=numbers,
        legend=" ".join(LEGEND),
    )


def ranked(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The principles of which an agreement can be told, the least first."""
    return [row for row in found["principles"] if row["kappa"]["value"] is not None]


def headline(found: Mapping[str, Any]) -> str:
    """The answer: what is read most differently."""
    rows = ranked(found)
    if not rows:
        return "How differently the principles are read cannot be told: too few executors decide under one."
    least = rows[0]
    return (
        f"“{least['id']}” is read most differently: agreement beyond chance (kappa) {_rate(least['kappa'])} "
        f"on {least['kappa']['n']} comparisons."
    )


def says(row: Mapping[str, Any], who: str) -> str:
    """An executor's cell: its kappa against the others, or why there is none."""
    cell = row["executors"].get(who)
    return "–" if cell is None else "silent" if who in row["silent"] else fixed(cell["kappa"]["value"])


def heat(row: Mapping[str, Any], who: str) -> int:
    """How dark an executor's cell is, in percent: the nearer its kappa is to 1, the darker."""
    cell = row["executors"].get(who)
    kappa = cell["kappa"]["value"] if cell and who not in row["silent"] else None
    return round(DARKEST * max(0.0, kappa or 0.0))


def together(found: Mapping[str, Any]) -> Iterator[str]:
    """Agreement over all principles at once."""
    whole = found["together"]
    if whole["agreement"]["n"]:
        yield (
            f"All principles together: {_rate(whole['agreement'])} of {whole['agreement']['n']} pairs of "
            f"verdicts are the same; kappa {_rate(whole['kappa'])}."
        )


def silent(found: Mapping[str, Any]) -> Iterator[str]:
    """Who never decides under which principles."""
    for who in found["executors"]:
        under = [row["id"] for row in found["principles"] if who in row["silent"]]
        if under:
            its = "its kappa" if len(under) == 1 else "their kappa"
            yield f"{who} never decides under {', '.join(under)} (silent): it is left out of {its}."


def numbers(row: Mapping[str, Any]) -> str:
    """How executors differ under one principle, in a sentence."""
    return (
        f"the same verdict in {_rate(row['agreement'])} of {row['agreement']['n']}; where one decides, "
        f"the other does not in {_rate(row['one_sided'])}; where both decide, opposite in "
        f"{_rate(row['opposite'])}"
    )


def in_words(found: Mapping[str, Any]) -> Iterator[str]:
    """The result in sentences: agreement over all, and the principles that are read most differently."""
    yield from together(found)
    yield from silent(found)
    for row in ranked(found)[:ASKED]:
        yield from ("", f"{row['id']}: {row['text']}", f"  {numbers(row)}")
        for example in row["examples"]:
            said = ", ".join(f"{who} {p:.2f}" for who, p in example["p_a"].items())
            yield f"  {example['comparison_id']}  P(A is better): {said}"
            yield from (f"    {name}: {' '.join(example[key].split())}" for name, key in TEXTS)
    for reason, n in found["left_out"].items():
        yield f"left out: {n} × {reason}"


def _rate(row: Mapping[str, Any]) -> str:
    return f"{fixed(row['value'])} {ci(row['ci'])}".rstrip()

"""Judges side by side, in words and as one HTML page: the answer first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rlaif.audit.page import CALIBRATION, FEW, FLIPS
from rlaif.human.agree_page import decision_words
from rlaif.pages import charts
from rlaif.pages.page import ci, count, fixed, signed, write_page

Row = Mapping[str, Any]


def write_judge_comparison(path: Path, data: Mapping[str, Any]) -> Path:
    """The page of a comparison of judges; returns its path."""
    return write_page(
        path,
        "judge_compare.html.j2",
        data=data,
        headline=headline(data),
        warnings=list(judge_warnings(data)),
        decided=decision_words,
        difference=difference_words,
        accuracy=accuracy_chart(data),
        calibrations=[
            (row["name"], chart)
            for row in data["judges"]
            if (chart := charts.calibration_chart(row["calibration"]["bins"], "the judge"))
        ],
        kappas=kappa_chart(data),
    )


def headline(data: Mapping[str, Any]) -> str:
    """The answer in one sentence."""
    first = data["judges"][0]
    if data["people_labels"] is None:
        return (
            f"{_judges(data)} on {count(data['pairs'])} pairs without people's labels: how far they agree, "
            "and nothing of who is right."
        )
    if not first["accuracy"]["n"]:
        pairs = count(data["pairs"])
        return f"Most people take a side on none of the {pairs} pairs: nothing says who is right."
    said = (
        f"{first['name']} is right{' most often:' if len(data['judges']) > 1 else ''} in "
        f"{_rate(first['accuracy'])} of {count(first['accuracy']['n'])} pairs on which most people take a "
        "side"
    )
    if data["differences"]:
        found = data["differences"][0]
        told = "shown" if found["different"] else "not shown"
        said += (
            f"; {signed(found['value'])} {ci(found['ci'])} over {found['between'][1]}, {told} after "
            f"correction for {len(data['differences'])} comparison{'s' * (len(data['differences']) > 1)}"
        )
    return f"{said}."


def _judges(data: Mapping[str, Any]) -> str:
    n = len(data["judges"])
    return f"{n} judge{'s' * (n > 1)}"


def in_words(data: Mapping[str, Any]) -> Iterator[str]:
    """The comparison as lines of text, the answer first."""
    yield headline(data)
    people, best = data["people_labels"], _best_rule(data)
    if people and people["ceiling"]:
        top = people["ceiling"]
        yield (
            f"The ceiling: a person gives the verdict of most of the others in {_rate(top)} of "
            f"{count(top['n'])}."
        )
    if best:
        yield f"The best rule that reads no principle, “{best[0]}”, is right in {_rate(best[1])}."
    for row in data["judges"]:
        yield judge_words(row)
        if row["decision"]:
            yield (
                f"{row['name']} right in at least {row['decision']['limit']:g} (of {_judges(data)}): "
                f"{decision_words(row['decision'])}."
            )
    yield from (difference_words(row) for row in data["differences"])
    yield from (between_words(row) for row in data["between"])
    yield from (f"Read with care: {warning}" for warning in judge_warnings(data))


def judge_words(row: Row) -> str:
    """One judge's figures in a sentence or two."""
    parts = []
    if row["accuracy"]["n"]:
        error, kappa = row["calibration"], row["people"]
        parts += [
            f"right in {_rate(row['accuracy'])} of {count(row['accuracy']['n'])} (of the "
            f"{count(row['readable']['n'])} readable ones {_rate(row['readable'])})",
            f"kappa with people {fixed(kappa['kappa'], 3)} {ci(kappa['kappa_ci'], 3)}",
            f"calibration error {fixed(error['ece'], 3)} (a perfect forecaster's "
            f"{fixed(error['ece_floor'], 3)})",
        ]
    longer = row["prefers_longer"]
    parts += [
        f"flips with the order {_rate(row['order'])} of {count(row['order']['n'])} clear verdicts",
        f"ties {_rate(row['ties'])}",
        f"{count(row['unread'])} pairs unreadable",
        f"prefers the longer response in {_rate(longer)} of {count(longer['n'])}",
        cost_words(row["cost"]),
    ]
    return f"{row['name']}: {'; '.join(parts)}."


def cost_words(cost: Row | None) -> str:
    """What a judge took, over all starts of the command."""
    if cost is None:
        return "its verdicts were stored, nothing was asked"
    money = f", {cost['money']:g} in money" if cost.get("money") else ""
    return (
        f"{count(cost['calls'])} calls, {count(cost['prompt_tokens'] + cost['tokens'])} tokens, "
        f"{fixed(cost['seconds'], 1)} s{money}"
    )


def difference_words(row: Row) -> str:
    """How much more often one judge is right than another, and whether that is shown."""
    x, y = row["between"]
    ahead = x if (row["value"] or 0.0) > 0 else y
    said = f"{ahead} is right more often" if row["different"] else "no difference is shown"
    return (
        f"{x} against {y}: {signed(row['value'], 3)} {ci(row['ci'], 3)}, corrected "
        f"{ci(row['ci_corrected'], 3)}, n {count(row['n'])}: {said} (only the first right "
        f"{count(row['only_first'])}, only the second {count(row['only_second'])})."
    )


def between_words(row: Row) -> str:
    """How far two judges agree."""
    x, y = row["between"]
    if not row["agreement"]["n"]:
        return f"{x} and {y}: no pair that both could read."
    return (
        f"{x} and {y}: the same verdict in {_rate(row['agreement'])} of {count(row['agreement']['n'])}, "
        f"opposite in {_rate(row['opposite'])}, kappa {fixed(row['kappa'], 3)} {ci(row['kappa_ci'], 3)}."
    )


def judge_warnings(data: Mapping[str, Any]) -> Iterator[str]:
    """What a reader should be wary of."""
    for row in data["failed"]:
        yield f"{row['name']} could not be compared: {' '.join(row['error'].split())}"
    people = data["people_labels"]
    if people and people["annotators"] == 1:
        yield "One person's labels are the truth here: nothing says how far people agree."
    if people and people["simulated"]:
        yield "Some of the people are simulated annotators."
    if people and people["no_majority"]:
        yield f"{count(people['no_majority'])} pairs have no majority of people: nothing is right on them."
    if best := _best_rule(data):
        rows = [row for row in data["judges"] if row["accuracy"]["n"]]
        behind = [row["name"] for row in rows if row["accuracy"]["value"] <= best[1]["value"]]
        if behind:
            yield (
                f"“{best[0]}”, a rule that reads no principle, is right at least as often as "
                f"{', '.join(behind)}."
            )
    for row in data["judges"]:
        yield from _of_judge(row)
    models = [row["asked"].get("model") for row in data["judges"]]
    if len(set(models)) < len(models):
        yield "Some of the judges are the same model, asked differently: they share its mistakes."
    for reason, n in data["left_out"].items():
        yield f"{count(n)} left out: {reason}."


def _of_judge(row: Row) -> Iterator[str]:
    name, right = row["name"], row["accuracy"]
    if 0 < right["n"] < FEW:
        yield f"{name} is measured on {right['n']} pairs only."
    if row["unread"]:
        yield (
            f"{count(row['unread'])} of {count(row['pairs'])} pairs got no readable verdict from {name}, and "
            f"count as wrong (single verdicts: {_why_unread(row['readability'])})."
        )
    if (row["order"]["value"] or 0.0) > FLIPS:
        yield f"{_rate(row['order'])} of {name}'s clear verdicts flip with the order; a coin's do in half."
    error, floor = row["calibration"]["ece"], row["calibration"]["ece_floor"]
    if error is not None and error - (floor or 0.0) > CALIBRATION:
        yield (
            f"{name}'s probabilities are off by {fixed(error)} on average (a perfect forecaster's: "
            f"{fixed(floor)})."
        )
    for note in row["asked"].get("notes", ()):
        yield f"{name}: {note}"


def _why_unread(readability: Row) -> str:
    reasons = {"refused": "refused", "too_long": "too long for its context", "not_numbers": "no numbers"}
    said = [f"{count(readability[key])} {words}" for key, words in reasons.items() if readability[key]]
    return f"{', '.join(said) or 'without a reason'} of {count(readability['verdicts'])}"


def _best_rule(data: Mapping[str, Any]) -> tuple[str, Row] | None:
    """The rule that reads no principle and is right most often, None where no truth is known."""
    rules = {name: row for name, row in (data["rules"] or {}).items() if row["n"]}
    return max(rules.items(), key=lambda rule: rule[1]["value"]) if rules else None


def accuracy_chart(data: Mapping[str, Any]) -> Markup:
    """How often each judge is right, beside the rules that read no principle."""
    rows = [("last", row["name"], row["accuracy"]) for row in data["judges"] if row["accuracy"]["n"]]
    rows += [("base", name, row) for name, row in (data["rules"] or {}).items() if rows and row["n"]]
    dots = [
        (name, [charts.Dot(row["value"], (row["ci"][0], row["ci"][1]), slot)]) for slot, name, row in rows
    ]
    return charts.dot_chart("How often right", dots)


def kappa_chart(data: Mapping[str, Any]) -> Markup:
    """Kappa of every two judges, where there are three or more."""
    names = [row["name"] for row in data["judges"]]
    if len(names) < 3:
        return Markup("")
    cells: dict[charts.Point, tuple[float, str]] = {}
    for row in data["between"]:
        x, y = (names.index(name) for name in row["between"])
        if row["kappa"] is not None:
            tip = f"{row['between'][0]} and {row['between'][1]}: kappa {row['kappa']:.3f}"
            cells |= {at: (max(0.0, row["kappa"]), tip) for at in ((x, y), (y, x))}
    return charts.matrix_chart("Kappa of every two judges", names, cells, "last")


def table_rows(data: Mapping[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    """The side-by-side table of a terminal: its columns, and a row a judge."""
    known = data["people_labels"] is not None
    columns = [
        "judge",
        *(["right", "kappa", "ECE"] if known else []),
        "flips",
        "ties",
        "unread",
        "calls",
        "s",
    ]
    rows = []
    for row in data["judges"]:
        cost = row["cost"] or {}
        right = [row["accuracy"]["value"], row["people"]["kappa"], row["calibration"]["ece"]]
        shown = [*(right if known else []), row["order"]["value"], row["ties"]["value"]]
        took = [count(cost.get("calls")), fixed(cost.get("seconds"), 0)]
        rows.append([row["name"], *map(fixed, shown), count(row["unread"]), *took])
    return columns, rows


def _rate(row: Row, digits: int = 3) -> str:
    return f"{fixed(row['value'], digits)} {ci(row['ci'], digits) if row['n'] else ''}".rstrip()

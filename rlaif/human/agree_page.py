"""Agreement in words, and as one HTML page: the answer first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlaif.agreement.stand_in import StandIn
from rlaif.pages.page import ci, fixed, signed, with_names_shown, write_page

POWERED = 6  # estimates that are printed; the page has all
TEXTS = frozenset({"prompt", "a", "b", "rationale", "reason", "path"})  # the others are names
BY_PRINCIPLE = (
    "its verdict (a, b or tie) under one principle alone, beside what most people say of the whole pair; a "
    "tie under a principle that does not decide the pair counts as another verdict, so a low share is no "
    "error rate."
)
WORDS = {"holds": "may stand in", "fails": "may not stand in", "inconclusive": "inconclusive"}


def write_agreement(path: Path, data: dict[str, Any]) -> Path:
    """The page of an agreement; returns its path."""
    data = with_names_shown(data, TEXTS)
    return write_page(
        path,
        "agree.html.j2",
        data=data,
        words=in_words(data),
        warnings=list(agreement_warnings(data)),
        stand_in=stand_in_words,
        anchored=anchored_words,
        decided=decision_words,
        by_principle=BY_PRINCIPLE,
    )


def in_words(data: dict[str, Any]) -> list[str]:
    """The agreement as lines of text, the answer first."""
    data = with_names_shown(data, TEXTS)
    lines = [_headline(data)]
    people = data["groups"]["human–human"]
    if people:
        lines.append(
            f"People among themselves ({people['annotators']}): agreement {_rate(people['agreement'])}, "
            f"Fleiss' kappa {_rate(people['fleiss'])}, Krippendorff's alpha {_rate(people['alpha'])}, "
            f"ordinal {_rate(people['alpha_ordinal'])}, n {people['agreement']['n']}."
        )
    for row in data["between"]:
        if row["kind"] != "human–AI":
            lines.append(
                f"{' and '.join(row['between'])}: agreement {_rate(row['agreement'])}, kappa "
                f"{fixed(row['kappa'], 4)} {ci(row['kappa_ci'], 3)}, n {row['n']}."
            )
    for row in data["judges"]:
        lines += _judge(row, data["epsilon"])
    lines += [anchored_words(row) for row in data["anchored"]]
    longest = [(row["name"], row["leanings"]["longer"]) for row in data["annotators"]]
    for name, longer in [("The people's majority", (data["majority"] or {}).get("longer")), *longest]:
        if longer and longer["n"]:
            lines.append(f"{name} prefers the longer response in {_rate(longer)} of {longer['n']}.")
    powered = [_powered(row) for row in data["powered"]]
    lines += powered[:POWERED]
    if more := len(powered[POWERED:]):
        lines.append(f"{more} more estimates like these: --out FILE.html and --json have them.")
    lines += [f"Left out: {n} × {reason}." for reason, n in data["dropped"].items()]
    return lines


def _headline(data: dict[str, Any]) -> str:
    if data["judges"]:
        row = data["judges"][0]
        strict = row["strict"]
        if not strict["agreement"]["n"]:
            return f"{row['judge']} and the people's majority have no pair in common that could be compared."
        return (
            f"{row['judge']} agrees with the people's majority in {_rate(strict['agreement'], 3)} of "
            f"{strict['agreement']['n']} pairs, "
            f"kappa {fixed(strict['kappa'], 3)} {ci(strict['kappa_ci'], 3)}; "
            f"{stand_in_words(row['stand_in'])}."
        )
    group = data["groups"]["human–human"] or data["groups"]["AI–AI"]
    if group and not group["agreement"]["n"]:
        return (
            f"{group['annotators']} annotators, and no pair on which two of them gave a verdict that can be "
            "read: there is nothing to agree on."
        )
    if group:
        return (
            f"{group['annotators']} annotators agree in {_rate(group['agreement'], 3)} of "
            f"{group['agreement']['n']} pairs, Krippendorff's alpha {_rate(group['alpha'], 3)}."
        )
    return f"One annotator labelled {data['pairs']} pairs: there is nobody to agree with."


def _judge(row: dict[str, Any], epsilon: float) -> Iterator[str]:
    strict, own = row["strict"], row["stand_in"]
    left_out = f"; {row['no_majority']} pairs without a majority are left out" if row["no_majority"] else ""
    yield (
        f"{row['judge']} against the people's majority: agreement {_rate(strict['agreement'])}, kappa "
        f"{fixed(strict['kappa'], 4)} {ci(strict['kappa_ci'], 3)}, n {strict['agreement']['n']}, of which "
        f"{row['unread']} unreadable verdicts count as wrong; of the {row['n']} readable ones "
        f"{_rate(row['agreement'])}, kappa {fixed(row['kappa'], 4)} {ci(row['kappa_ci'], 3)}"
        f"{left_out}."
    )
    ceiling = row["ceiling"]
    if ceiling:
        yield (
            f"The ceiling: a person agrees with the majority of the others in {fixed(ceiling['people'], 3)} "
            f"{ci(ceiling['people_ci'], 3)}, {row['judge']} with the same in {fixed(ceiling['judge'], 3)} "
            f"{ci(ceiling['judge_ci'], 3)}; judge − people {signed(ceiling['gap'], 3)} "
            f"{ci(ceiling['gap_ci'], 3)}. That it is at most {epsilon:g} worse: "
            f"{decision_words(row['ceiling_decision'])}."
        )
    said = stand_in_words(own, full=True)
    yield f"{row['judge']} in place of people: {said[:1].lower()}{said[1:]}."
    if row["principles"]:
        yield f"{row['judge']} by principle: {BY_PRINCIPLE}"
    for name, found in row["principles"].items():
        yield (
            f"  {name}: {principle_words(found)}; more than chance (of {len(row['principles'])} principles): "
            f"{decision_words(found['decision'])}."
        )


def principle_words(found: dict[str, Any]) -> str:
    """How far a judge's verdicts under one principle are those of the people's majority on the whole."""
    if not found["n"]:
        return "no pair with both"
    same = found["same_side"]
    sides = f"the same side in {_rate(same, 3)} of the {same['n']} on which both take one"
    return (
        f"the same verdict in {_rate(found['agreement'], 3)} of {found['n']} pairs (a tie in "
        f"{fixed(found['ties'], 3)}), {sides if same['n'] else 'no pair on which both take a side'}; kappa "
        f"{fixed(found['kappa'], 3)} {ci(found['kappa_ci'], 3)}"
    )


def anchored_words(row: dict[str, Any]) -> str:
    """What seeing a judge's verdict did to one person's labels."""
    gap = row["gap"]
    return (
        f"{row['person']} agrees with {row['judge']} in {_rate(row['blind'], 3)} of {row['n']} pairs blind, "
        f"and in {_rate(row['anchored'], 3)} once its verdict had been seen ({signed(gap['value'], 3)} "
        f"{ci(gap['ci'], 3)}); {row['changed']} labels changed, {row['towards']} of them to the judge's."
    )


def stand_in_words(found: StandIn, full: bool = False) -> str:
    """The alternative annotator test as a clause."""
    said = WORDS[found["verdict"]]
    if found["reason"]:
        return f"whether it may stand in for people cannot be told: {found['reason']}"
    verdict = (
        f"it {said} for these people"
        if found["verdict"] != "inconclusive"
        else (
            "whether it may stand in for these people is inconclusive"
            + (f" (about {found['more']} more labelled pairs would decide)" if found["more"] else "")
        )
    )
    if not full:
        return f"{verdict} (alternative annotator test, ε {found['epsilon']:g})"
    each = ", ".join(
        f"{row['person']} {row['decision']['verdict']} (judge {fixed(row['judge'], 3)}, person "
        f"{fixed(row['own'], 3)}, p {row['p_adjusted']:.3g}, power {fixed(row['decision']['power'])})"
        for row in found["people"]
    )
    return (
        f"{verdict[0].upper()}{verdict[1:]}: alternative annotator test, ε {found['epsilon']:g}, winning "
        f"rate {fixed(found['winning_rate'])}, p by Benjamini and Yekutieli; {each}"
    )


def decision_words(found: dict[str, Any] | None) -> str:
    """A verdict with its power and the smallest detectable effect."""
    if found is None:
        return "cannot be told"
    if found["power"] is None:
        return "inconclusive (too few pairs for an interval)"
    more = ""
    if found["verdict"] == "inconclusive":
        more = (
            f"about {found['more']} more labels would decide; " if found["more"] else "too near to decide; "
        )
    return (
        f"{found['verdict']} ({more}power {fixed(found['power'])} to show {found['margin']:g}, smallest "
        f"detectable effect {fixed(found['detectable'], 3)})"
    )


def _powered(row: dict[str, Any]) -> str:
    start = f"{row['what']}, by {row['n']} labels"
    worth = "" if row["worth"] is None else f"; a label with {row['judge']} is worth up to {row['worth']:.2f}"
    if not row["unlabelled"]:
        return f"{start}: {fixed(row['value'], 3)} {ci(row['ci'], 3)}{worth}."
    return (
        f"{start} and {row['unlabelled']} more verdicts of {row['judge']}: {fixed(row['value'], 3)} "
        f"{ci(row['ci'], 3)} (labels alone {fixed(row['classical'], 3)} {ci(row['classical_ci'], 3)}; about "
        f"{max(0, round(row['saved']))} labels saved){worth}."
    )


def agreement_warnings(data: dict[str, Any]) -> Iterator[str]:
    """What a reader should be wary of."""
    for row in data["annotators"]:
        unread = row["verdicts"]["invalid"]
        if unread:
            yield f"{unread} of {row['pairs']} verdicts of {row['name']} could not be read."
        clear = {v: row["verdicts"][v] for v in ("a", "b")}
        if row["pairs"] >= 30 and max(clear.values()) == row["pairs"]:
            yield f"{row['name']} always gave the same verdict."
    if data["judges"] and not data["groups"]["human–human"]:
        yield "One person alone says nothing of how far people agree: there is no ceiling."
    if any(row["unlabelled"] for row in data["powered"]):
        yield (
            "Estimates from few labels hold where the labelled pairs are a random sample of all; pairs "
            "chosen because a judge was unsure are none."
        )
    for reason, n in data["dropped"].items():
        yield f"{n} left out: {reason}."


def _rate(row: dict[str, Any], digits: int = 4) -> str:
    return f"{fixed(row['value'], digits)} {ci(row['ci'], 3)}"

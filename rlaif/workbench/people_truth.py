"""Pairs with what people say of them, as what judges are asked about and measured by.

The truth about a pair is the verdict that most people gave: a, b or a tie, none where two share the lead.
People who label whole comparisons say what is better under the whole constitution, people who label by
principle what is better under each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlaif.agreement.coefficients import MISSING
from rlaif.agreement.stand_in import human_ceiling
from rlaif.audit.audit import Audit
from rlaif.audit.card import judge_of, tokenizer_of
from rlaif.audit.cases import AuditCase, Side
from rlaif.audit.measures import ALL
from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.human.agree import Table
from rlaif.human.annotated import Rows, item_of
from rlaif.human.said import Annotated
from rlaif.records import Label, Response
from rlaif.runs.folder import silent_progress
from rlaif.workbench.pairs import LabelledPairs, drawn, read_pairs

SIDES: dict[int, Side] = {0: "b", 1: "tie", 2: "a"}  # as `Table` numbers verdicts
TURNED: dict[Side, Side] = {"a": "b", "b": "a", "tie": "tie"}


@dataclass
class LabelledCases:
    """Cases with people's majority as their truth.

    `people` are the labels it was made of, on `labelled` of the cases; `left_out` counts what made no case,
    and `facts` says whose labels they are.
    """

    cases: list[AuditCase]
    sources: list[LabelledPairs]
    people: list[Label] = field(default_factory=list)
    labelled: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> set[str]:
        """The comparisons of the cases."""
        return {case.question.comparison.id for case in self.cases}


UNLABELLED = "without a person's label"


def labelled_cases(
    paths: Sequence[Path], constitution: Constitution, count: int, seed: int, people_alone: bool = True
) -> LabelledCases:
    """At most `count` pairs of each path (0 = all), drawn by the seed.

    With `people_alone` pairs without a person's label are left out and counted, where any path has one.
    Raises UserError where a path cannot be read or no principle applies to any pair.
    """
    sources = [read_pairs(path) for path in paths]
    found = LabelledCases([], sources)
    seen: set[str] = set()
    labelled = [
        [pair for pair in source.comparisons if any(map(_by_person, source.labels.get(pair, ())))]
        for source in sources
    ]
    people_alone = people_alone and any(labelled)
    if people_alone:
        found.left_out[UNLABELLED] += _unlabelled(sources, labelled)
    for source, by_people in zip(sources, labelled, strict=True):
        found.left_out += source.left_out
        for pair in drawn(by_people if people_alone else list(source.comparisons), count, seed):
            question = source.question(pair, constitution.principles)
            item = item_of(question.comparison)
            if item in seen:
                found.left_out["the same pair again"] += 1
            elif not question.principles:
                found.left_out["no principle applies"] += 1
            else:
                seen.add(item)
                found.cases.append(AuditCase(question))
    if not found.cases:
        reasons = ", ".join(f"{n} × {why}" for why, n in found.left_out.items()) or "there are none"
        raise UserError(
            f"{', '.join(map(str, paths))}: no pair that judges can be asked about ({reasons}).",
            "pairs of responses, and principles that apply to their prompts",
            "look at applies_to of the principles, and at the prompts' tags",
        )
    ids = {item_of(case.question.comparison) for case in found.cases}
    of_case = [
        (item, row)
        for source in sources
        for pair, rows in source.labels.items()
        if pair in source.comparisons and (item := item_of(source.comparisons[pair])) in ids
        for row in rows
        if _by_person(row)
    ]
    found.people, found.labelled = [row for _, row in of_case], len({item for item, _ in of_case})
    _add_truth(found, constitution)
    return found


def _unlabelled(sources: Sequence[LabelledPairs], labelled: Sequence[Sequence[str]]) -> int:
    """How many pairs, each counted once, no person labelled in any source."""
    every = {item_of(pair) for source in sources for pair in source.comparisons.values()}
    said = {
        item_of(source.comparisons[id]) for source, ids in zip(sources, labelled, strict=True) for id in ids
    }
    return len(every - said)


def _by_person(label: Label) -> bool:
    return label.annotator.kind != "ai"


def _add_truth(found: LabelledCases, constitution: Constitution) -> None:
    """Give each case what most people say of it, on the whole and by principle."""
    weights = {p.id: p.weight for p in constitution.principles}
    whole = annotated(found, [("people", weights, found.people)])
    truths: dict[str, Mapping[str, Side]] = {ALL: majority(whole)}
    for principle in constitution.ids:
        own = [
            row.model_copy(update={"principle_id": None})
            for row in found.people
            if row.principle_id == principle
        ]
        truths[principle] = majority(annotated(found, [("people", {}, own)])) if own else {}
    found.left_out += whole.dropped
    found.cases = [replace(case, truth=_truth(case, truths)) for case in found.cases]
    table = Table(whole)
    sides = Counter(case.truth.get(ALL) for case in found.cases)
    found.facts = {
        "annotators": len(table.people),
        "labels": len(found.people),
        "simulated": any(row.annotator.kind == "simulated" for row in found.people),
        "decided": sides["a"] + sides["b"],
        "ties": sides["tie"],
        "no_majority": sum(
            read and code == MISSING for read, code in zip(_any(table), table.majority.tolist(), strict=True)
        ),
        "ceiling": ceiling(table),
    }


def _any(table: Table) -> list[bool]:
    """Of each item whether a person's verdict on it could be read."""
    return (table.codes[:, table.people] != MISSING).any(1).tolist()


def _truth(case: AuditCase, truths: Mapping[str, Mapping[str, Side]]) -> dict[str, Side]:
    comparison = case.question.comparison
    item, turned = item_of(comparison), comparison.a > comparison.b
    known: dict[str, Side] = {name: sides[item] for name, sides in truths.items() if item in sides}
    return {name: TURNED[side] for name, side in known.items()} if turned else known


def majority(found: Annotated) -> dict[str, Side]:
    """The verdict that most people gave, by item, told of the item's a and b."""
    table = Table(found)
    codes = zip(table.ids, table.majority.tolist(), strict=True)
    return {item: SIDES[code] for item, code in codes if code != MISSING}


def ceiling(table: Table) -> dict[str, Any] | None:
    """How far a person agrees with the majority of the others; None where no pair has two people."""
    people = table.codes[:, table.people]
    if not ((people != MISSING).sum(1) >= 2).any():
        return None
    found = human_ceiling(people, people[:, 0], table.clusters)
    return {"value": found["people"], "ci": found["people_ci"], "n": found["n"], "groups": found["groups"]}


def annotated(
    found: LabelledCases, said: Iterable[tuple[str, Mapping[str, float], Sequence[Label]]]
) -> Annotated:
    """Labels of several sources, each with the weights of its principles, as opinions on the items of the
    cases."""
    rows, made = Rows(), Annotated()
    for source in found.sources:
        rows.comparisons |= source.comparisons
    for case in found.cases:
        asked = case.question
        rows.prompts[asked.prompt.id] = asked.prompt
        for id, text in ((asked.comparison.a, asked.a), (asked.comparison.b, asked.b)):
            rows.responses[id] = Response(prompt_id=asked.prompt.id, text=text)
    rows.labels = [(source, weights, list(labels)) for source, weights, labels in said]
    rows.add_to(made)
    return made


def card_on_labels(
    config: Config, base: Path, labels: Path, count: int, progress: Any = silent_progress
) -> dict[str, Any]:
    """The judge card of a config's feedback model on pairs that people labelled, whose majority is the truth.

    At most `count` of the pairs are asked about; 0 = all. Raises UserError where people labelled none.
    """
    constitution = Constitution.load(Path(config.constitution))
    found = labelled_cases([labels], constitution, count, config.seed)
    require_people(found, labels)
    varied = max(20, len(found.cases) // 2)
    audit = Audit(
        judge_of(config, base, constitution),
        constitution,
        found.cases,
        config.seed,
        varied,
        None,
        tokenizer_of(config),
        progress,
    )
    return {
        **audit.card(),
        "gold": None,
        "people": {"source": str(labels), **found.facts},
        "left_out": dict(+found.left_out),
    }


def require_people(found: LabelledCases, path: Path) -> None:
    """Raise UserError where no person's label is on any of the cases, or none says what most prefer."""
    if not found.people:
        raise UserError(
            f"{path}: holds no person's label on its pairs.",
            "labels of people: a file that rlaif annotate wrote, or preference data that can be imported",
            "rlaif data import says who labelled what; --annotator human:NAME where the data does not say",
        )
    if not any(case.truth for case in found.cases):
        raise UserError(
            f"{path}: {found.facts['labels']} labels of people, and of none of {len(found.cases)} pairs do "
            f"these say which response most prefer ({found.facts['no_majority']} pairs without a majority).",
            "labels whose verdict is a, b or tie",
            "label more of the pairs (rlaif annotate), or compare judges with each other alone: --run",
        )

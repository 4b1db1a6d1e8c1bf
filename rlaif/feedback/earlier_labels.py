"""Labels taken over from an earlier run (`labels_from`): why the others are not, and what a dry run can say
of it.

A label is taken over where its comparison, principle, order and the judge's identity are the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.config import Config
from rlaif.constitution import Constitution, Principle
from rlaif.feedback.judge import IDENTITY, Slot
from rlaif.prompting.templates import Templates, user
from rlaif.runs.folder import Run
from rlaif.runs.storage import read_json

# The first that holds of a label counts. One that brings others with it stands before them: with `cot`
# another template is used, and another template words every principle anew.
REASONS = {
    "comparison": "of comparisons that it has no labels of (its responses or pairs differ)",
    "question": "under a principle that it was not asked about",
    "decoding": "read in another way (cot, mode, few-shot examples)",
    "shown": "with other responses shown beside them",
    "template": "by another template",
    "principle": "under a principle whose wording for the judge differs",
    "model": "by another judge",
    "number": "that were no number there",
}
KEEP = (
    "To keep its labels, edit only `compare:` of the principle (the judge's wording), "
    "or fork that run at label, which keeps its responses (rlaif run --from RUN --at label)"
)


class TakenOver:
    """How many labels were taken over, and how many were not for each reason; added up a chunk at a time."""

    def __init__(self) -> None:
        self.reused = 0
        self.not_reused: Counter[str] = Counter()

    def add(self, reused: int, missing: Collection[Slot], known: Mapping[str, Sequence[Slot]]) -> None:
        """Count a chunk's labels; `known` are those that the earlier run has, by comparison id."""
        self.reused += reused
        judges: dict[tuple[str, str | None, str], list[tuple[str | None, ...]]] = defaultdict(list)
        for pair in {slot[0] for slot in missing}:
            for slot in known[pair]:
                judges[slot[:3]].append(slot[3])
        for slot in missing:
            reason = _reason(slot[3], judges[slot[:3]]) if known[slot[0]] else "comparison"
            self.not_reused[reason] += 1

    def figures(self) -> dict[str, Any]:
        """For the stage's metrics; `reused` and all of `not_reused` sum to the judge's labels."""
        return {"reused": self.reused, "not_reused": dict(self.not_reused)}

    def notes(self, path: str, critiqued: bool) -> list[str]:
        """The same in words; where most comparisons differ also why, and what to do about it."""
        total = self.reused + self.not_reused.total()
        why = "; ".join(
            f"{self.not_reused[key]:,} {text}" for key, text in REASONS.items() if self.not_reused[key]
        )
        said = f"{self.reused:,} of {total:,} labels taken over from {path}"
        notes = [said + (f"; not taken over: {why}" if why else "")]
        if 2 * self.not_reused["comparison"] > total:
            cause = (
                "a principle's text reaches critique and revision, so an edited one makes another policy, "
                "which samples other responses"
                if critiqued
                else "another seed, policy, prompts or sampling options give other responses"
            )
            notes.append(f"most comparisons differ from those of {path}: {cause}. {KEEP}")
        return notes


def _reason(wanted: Sequence[str | None], judges: Sequence[Sequence[str | None]]) -> str:
    """What no judge that was asked the same question shares with the wanted one, where all before is
    shared."""
    if not judges:
        return "question"
    for name in filter(IDENTITY.__contains__, REASONS):
        at = IDENTITY.index(name)
        judges = [judge for judge in judges if judge[at] == wanted[at]]
        if not judges:
            return name
    return "number"


def estimate_taken_over(
    config: Config, constitution: Constitution, templates: Templates, options: Any
) -> dict[str, Any]:
    """What can be said without running of the labels that a label stage will take over.

    Whether both runs compare the same responses is not known before they are sampled.
    """
    other = Run.load(Path(options.labels_from))
    asked = [stage.options for stage in other.stages if stage.name == "label"][-1]
    sources = read_json(other.path / "templates.json")
    name = options.judge_mode.template(options.cot)

    def way(o: Any, rules: Constitution) -> Any:
        return o.mode, o.cot, templates.comparison_shots(rules, o.few_shot)

    def worded(principle: Principle) -> Any:
        if options.judge_mode.listwise:
            return [templates.best_suffix(principle, each) for each in options.judge_mode.asked]
        return templates.comparison_suffix(principle, options.cot)

    def criticised(principle: Principle) -> Any:
        chat, shots = [user("")], max((o.few_shot for o in critiques), default=0)
        return templates.critique(chat, "", principle, shots), templates.revision(
            chat, "", principle, "", shots
        )

    critiques: list[Any] = [o for o in config.stages if o.stage == "critique"]
    theirs = {principle.id: principle for principle in other.constitution.principles}
    common = [(own, theirs[own.id]) for own in constitution.principles if own.id in theirs]
    return {
        "from": options.labels_from,
        "principles": len(constitution.principles),
        "same_wording": sum(worded(own) == worded(its) for own, its in common),
        "same_judge": _judge(config) == _judge(other.config),
        "same_template": sources.get(name) == templates.sources.get(name),
        "same_decoding": way(options, constitution) == way(asked, other.constitution),
        "criticised_otherwise": sum(criticised(own) != criticised(its) for own, its in common)
        if critiques
        else 0,
    }


def _judge(config: Config) -> dict[str, Any]:
    """What of a feedback model's settings tells one judge from another."""
    names = {"engine", "model", "served_as", "dtype", "chat_template_kwargs", "extra_body"}
    return config.feedback.model_dump(include=names)


def in_words(said: Mapping[str, Any]) -> list[str]:
    """What `estimate_taken_over` found, for the lines of an estimate, or what was counted instead."""
    if "expected" in said:
        missing = said["expected"] - said["taken_over"] - said["own"]
        there = f", {said['own']:,} are there already" if said["own"] else ""
        return [
            f"labels_from {said['from']}: {said['taken_over']:,} of {said['expected']:,} labels are taken "
            f"over{there}, " + (f"{missing:,} are asked for" if missing else "none is asked for")
        ]
    parts = {
        "judge": said["same_judge"],
        "template": said["same_template"],
        "decoding": said["same_decoding"],
    }
    same, other = ([key for key, value in parts.items() if value is wanted] for wanted in (True, False))
    lines = [
        f"labels_from {said['from']}: the judge reads {said['same_wording']} of {said['principles']} "
        f"principles in the same words; the same: {', '.join(same) or 'nothing'}; "
        f"another: {', '.join(other) or 'nothing'}"
    ]
    if other or not said["same_wording"]:
        lines.append("so none of its labels can be taken over")
    else:
        lines.append(
            "taken over is what is also on the same comparisons, which is not known before they are made"
        )
    if n := said["criticised_otherwise"]:
        lines.append(
            f"critique or revision reads {n} principles in other words than there: expect other responses "
            f"and few labels taken over. {KEEP}"
        )
    return lines

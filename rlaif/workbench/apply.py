"""`rlaif constitution apply`: an edit followed to the policy, at the price of the edit.

A fork of the run that keeps its responses and pairs, takes over every label that the edit leaves as it was,
trains the reward model anew, and lets PPO go on from the run's policy against the run's reference. It ends
with a page from the words to the policies, compared on the same held-out prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif import pipeline
from rlaif.config import stage_name, stage_number
from rlaif.constitution import Constitution, Principle
from rlaif.engines import open_engine
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge
from rlaif.options import PpoOptions
from rlaif.preflight.fork import load_parent
from rlaif.records import Evaluation, Preference
from rlaif.report.compare import compare
from rlaif.report.measures import Values, arm_delta
from rlaif.report.run_reader import RunReader, plain, require_consent, untrusted_references
from rlaif.runs.folder import Run, label_files, silent_progress
from rlaif.runs.spending import Account
from rlaif.runs.storage import os_errors_as_user_errors, read_json, write_json
from rlaif.workbench.diff import added, annotators, effects, no_verdict, notes, refuse_strangers
from rlaif.workbench.edit_page import write_edit
from rlaif.workbench.edits import Edit, as_data, edits, load_at_rest
from rlaif.workbench.relabelling import label_stages

SHARE = 3  # PPO goes on for one in so many of the updates that the run's had
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Applied:
    """What is to be done: the run, the edit, where, and from which stage on."""

    parent: Run
    new: Constitution
    edits: Sequence[Edit]
    folder: Path
    at: str
    overrides: tuple[str, ...]
    told: tuple[str, ...]  # what the page says of how it was done


def apply(
    source: Path,
    file: Path,
    out: Path | None = None,
    at: str = "label",
    anew: bool = False,
    overrides: Sequence[str] = (),
    trust: bool = False,
    progress: Any = silent_progress,
    tell: Tell = lambda line: None,
) -> dict[str, Any]:
    """Fork the run at `at` with the edited file and follow the edit to the policy; → what `edit.json` in the
    new folder holds: the data of `diff` and `policy`.

    The same call continues a killed one. `anew` trains PPO as the config says, from where that begins.
    Raises UserError where run and file cannot be used.
    """
    with os_errors_as_user_errors():
        wanted = _wanted(source, file, out, at, anew, overrides)
        reached = [*untrusted_references([source]), *annotators(wanted.parent)]
        require_consent("applying an edit to this run", reached, trust, "add --trust")
        if not wanted.edits:
            raise UserError(
                f"{file}: says what {source} was made with.", "an edit", "change a principle, then apply it"
            )
        return _apply(wanted, wanted.folder / "edit.json", progress, _once(tell))


def _once(tell: Tell) -> Tell:
    """Tells each line once: the fork is run up to its labels, and gone on with, which tells of its stages
    again."""
    told = set[str]()

    def once(line: str) -> None:
        if line not in told or line.endswith(":"):  # a heading belongs to the lines that follow
            told.add(line)
            tell(line)

    return once


def _wanted(
    source: Path, file: Path, out: Path | None, at: str, anew: bool, overrides: Sequence[str]
) -> Applied:
    """The edit and the fork that follows it; UserError where the run is not finished."""
    parent = load_parent(source, option="")
    label_stages(parent)
    if waiting := [stage for stage in parent.stages if not stage.is_done]:
        raise UserError(
            f"{source}: {waiting[0].dir.name} is not done.",
            "a finished run: its policy is what the edited one is compared with",
            f"rlaif resume {source}",
        )
    new = load_at_rest(file)
    refuse_strangers(parent, parent.constitution, new, source)
    folder = out or source.resolve().parent / f"{parent.config.name}-{new.hash[:8]}"
    first = stage_number(parent.config, at, "--at")
    label = next(stage.number for stage in parent.stages if stage.name == "label")
    if first > label:
        raise UserError(
            f"--at {at}: after {stage_name(parent.config, label)}, so no label would change.",
            "label or an earlier stage",
            "leave --at out",
        )
    going_on = () if anew or first < label else _going_on(parent, overrides)
    told = [_fixed(parent, first, label), *(line for _, line in going_on)]
    made = [
        f"constitution={file.resolve()}",
        f"label.labels_from={source.resolve()}",
        *(option for option, _ in going_on),
        *overrides,
    ]
    return Applied(parent, new, edits(parent.constitution, new), folder, at, tuple(made), tuple(told))


def _fixed(parent: Run, first: int, label: int) -> str:
    """What stays as it was, and what that means."""
    if first < label:
        return (
            f"Everything from {stage_name(parent.config, first)} on was made anew with the edited text: "
            "other responses are compared, so few labels could be taken over."
        )
    return (
        "Responses and pairs are those of the run: the edit acts through the labels alone, not through "
        "critique, revision and what the policy would have sampled after them. --at critique follows it "
        "through these, too."
    )


def _going_on(parent: Run, overrides: Sequence[str]) -> list[tuple[str, str]]:
    """The options with which PPO goes on from the run's policy, each with what the page says of it; none
    where the last policy is not PPO's, which is then trained as the config says. Those that `overrides` give
    are as these say."""
    training = [stage for stage in parent.stages if "policy" in stage.options.makes]
    last = training[-1] if training else None
    if (
        last is None
        or parent.config.rounds > 1
        or not isinstance(last.options, PpoOptions)
        or last.options.lora
    ):
        return []
    name, updates = stage_name(parent.config, last.number), math.ceil(last.options.updates / SHARE)
    given = {key: value for key, _, value in (option.partition("=") for option in overrides)}
    if f"{name}.model" in given:
        return []
    updates = given.get(f"{name}.updates", updates)
    return [
        (f"{name}.model={last.dir.resolve() / 'policy'}", ""),
        (
            f"{name}.updates={updates}",
            f"PPO went on from the run's policy for {updates} updates (the run's had "
            f"{last.options.updates}), with the KL to the same reference: what changes is what the edit and "
            "these further updates do. --anew trains it from the reference, as the config says.",
        ),
    ]


def _apply(wanted: Applied, kept: Path, progress: Any, tell: Tell) -> dict[str, Any]:

    def goes_on(line: str) -> None:  # by itself, so how to continue is not said after the labels
        if not line.startswith("next: "):
            tell(line)

    fork = pipeline.run(
        None, wanted.folder, wanted.overrides, "label", progress, goes_on, wanted.parent.path, wanted.at
    )
    _refuse_unread(fork, [edit.id for edit in wanted.edits])
    if _same_preferences(wanted.parent, fork):
        tell("no preference changes: reward model and policy would be the same, nothing is trained")
        policy = None
    else:
        fork = pipeline.resume(wanted.folder, progress=progress, tell=tell)
        policy = _policy(wanted, fork, kept, progress, tell)
    data: dict[str, Any] = {
        "old": _named(wanted.parent.constitution, wanted.parent.path),
        "new": _named(wanted.new, fork.path),
        "edits": [as_data(edit) for edit in wanted.edits],
        **effects(wanted.parent, wanted.new, wanted.edits, tell=tell, more=label_files(fork.path)),
    }
    data["notes"] = [*notes(wanted.parent.constitution, wanted.new, wanted.edits), *data.get("notes", [])]
    data["labels"]["asked"] = added([fork.ledger.figures(stage.dir.name) for stage in label_stages(fork)])
    data["policy"] = policy or _untrained()
    said = [*filter(None, wanted.told), *data["policy"]["notes"]]
    data["policy"]["notes"] = list(dict.fromkeys(said))  # a comparison that is kept has some of them already
    data["fork"] = str(fork.path)
    data = plain(data)
    write_json(kept, data)
    write_edit(kept.with_suffix(".html"), data, data["policy"])
    return data


def _named(constitution: Constitution, path: Path) -> dict[str, Any]:
    return {"path": str(path), "name": constitution.name, "hash": constitution.hash}


def _refuse_unread(fork: Run, ids: Sequence[str]) -> None:
    """UserError, before anything is trained, where no verdict under an edited principle could be read."""
    stage = label_stages(fork)[0]
    rows = stage.summary.get("metrics", {}).get("by_principle", {})
    for name in ids:
        if name in rows and rows[name]["n"] and rows[name]["mean_confidence"] is None:
            other = "use another judge: -s feedback.model=…, and another --out"
            raise no_verdict(stage.dir, name, rows[name]["n"], other)


def _same_preferences(parent: Run, fork: Run) -> bool:
    """Whether both runs' preferences are the same to the last digit."""
    sides = [
        {row.comparison_id: row.p_a for s in label_stages(run) for row in s.rows("preferences", Preference)}
        for run in (parent, fork)
    ]
    return sides[0] == sides[1]


def _untrained() -> dict[str, Any]:
    verdict = "No preference changes, so reward model and policy would be the same: nothing was trained."
    return {"verdict": verdict, "principles": {}, "comparison": None, "notes": []}


def _policy(wanted: Applied, fork: Run, kept: Path, progress: Any, tell: Tell) -> dict[str, Any]:
    """The policies of fork and run on the same held-out prompts, principle by principle."""
    before = read_json(kept).get("policy") if kept.exists() else None
    if before and before["comparison"]:
        return before
    tell("comparing the policies …")
    page = fork.path / "compare.html"
    found = compare([fork.path, wanted.parent.path], out=page, progress=progress)
    return {
        "verdict": found["verdict"]["text"],
        "principles": _by_principle(wanted, fork, found),
        "comparison": {key: found[key] for key in ("prompts", "win_rate", "length", "kl") if key in found},
        "page": page.name,
        "notes": found["notes"],
    }


def _by_principle(wanted: Applied, fork: Run, found: dict[str, Any]) -> dict[str, Any]:
    """Each principle's change, after minus before: by gold where there is one, and in the judge's opinion,
    which is asked about the run's responses under a new wording, too."""
    gold, judged = found.get("gold") or {}, found.get("compliance") or {}
    a, b = found["between"]
    other = {edit.id for edit in wanted.edits if edit.rule[0] != edit.rule[1] and edit.after}
    asked = _under_new_wordings(wanted, fork, other)
    kinds = {edit.id: list(edit.kinds) for edit in wanted.edits}
    rows: dict[str, Any] = {}
    for principle in wanted.new.principles:
        name = principle.id
        rows[name] = {
            "edited": name in kinds,
            "kinds": kinds.get(name, []),
            "gold": _row(gold, name, a, b),
            "judge": asked.get(name) if name in other else _row(judged, name, a, b),
        }
    every = _row(gold, "all", a, b)
    return {**({"all": {"edited": False, "gold": every, "judge": None}} if every else {}), **rows}


def _row(table: dict[str, Any], name: str, a: str, b: str) -> dict[str, Any] | None:
    delta = table.get("delta", {}).get(name)
    return delta and {"before": table[b][name], "after": table[a][name], **delta}


def _under_new_wordings(wanted: Applied, fork: Run, names: set[str]) -> dict[str, Any]:
    """The judge's opinion under reworded principles of the run's responses and of the fork's."""
    principles = [p for p in wanted.new.principles if p.id in names]
    old, new = RunReader(wanted.parent.path), RunReader(fork.path)
    rows = [reader.evaluations.get(reader.final_policy or "", {}) for reader in (old, new)]
    before = _asked_again(fork, old, rows[0], principles) if principles else {}
    tests, clusters = len(wanted.new.principles), new.clusters
    found: dict[str, Any] = {}
    for name, values in before.items():
        after = {i: row.compliance[name] for i, row in rows[1].items() if name in row.compliance}
        both = [i for i in after if i in values]
        if both:
            means = [sum(side[i] for i in both) / len(both) for side in (values, after)]
            found[name] = {
                "before": means[0],
                "after": means[1],
                **arm_delta([after], [values], clusters, tests),
            }
    return found


def _asked_again(
    fork: Run, old: RunReader, rows: dict[str, Evaluation], principles: Sequence[Principle]
) -> dict[str, Values]:
    """principle → prompt → the judge's probability that the run's response keeps it as it is worded now."""
    account = Account(fork.ledger, "edit")
    judge = Judge(open_engine(fork.config.feedback, fork.cache, account), fork.templates)
    judged = [row for row in rows.values() if row.compliance and row.response_id in old.responses]
    items = [
        (prompt, old.responses[row.response_id].text, [p for p in principles if p.applies(prompt.tags)])
        for row in judged
        for prompt in [old.prompts[row.prompt_id]]
    ]
    found: dict[str, Values] = {principle.id: {} for principle in principles}
    for at, said in judge.compliance(items):
        for name, value in said.items():
            found[name][judged[at].prompt_id] = value
    fork.ledger.flush()
    return found

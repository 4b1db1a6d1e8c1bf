"""The whole of `rlaif judge compare`: the same pairs put to several judges, and what people say of them.

    people's labels, runs ─► pairs ─► each judge with each template set ─► verdicts ─► side by side
                                       └ kept as they come: labels.jsonl, spending.jsonl

A judge that cannot be opened, or fails while it is asked, is named with the reason and does not stop the
others; the same command continues where any of them stood.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlaif.audit.card import JudgeSetting
from rlaif.audit.side_by_side import JudgedCases, side_by_side
from rlaif.config import Config, find, load_config, names_config
from rlaif.constitution import Constitution
from rlaif.engines.metered import MeteredEngine
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge
from rlaif.human.labelled import form_of, judge_of, label_stages
from rlaif.preflight.opening import resolve
from rlaif.records import TIE_MARGIN, Label, content_hash
from rlaif.runs.folder import silent_progress
from rlaif.runs.locking import locked
from rlaif.runs.spending import Account, Ledger
from rlaif.runs.storage import os_errors_as_user_errors
from rlaif.workbench.executor_agreement import furthest_apart
from rlaif.workbench.executors import free_name, require_different, stored_judges, stored_labels
from rlaif.workbench.judges import Named
from rlaif.workbench.pairs import judge_labels
from rlaif.workbench.people_truth import ALL, UNLABELLED, LabelledCases, labelled_cases, require_people

OF_A_RUN = 200  # pairs, unless said otherwise
SHORT = 40  # characters of a judge's name
APART, ALL_WRONG = 8, 4  # pairs shown: where judges lie furthest apart, and where all turn a clear majority
KEPT = {"labels.jsonl", "spending.jsonl", ".lock"}  # the folder of the verdicts


@dataclass(frozen=True)
class JudgesAsked:
    """What is compared: judges by name, each with every template set, on people's labels or runs' pairs.

    `pairs` is at most how many of each source, 0 for all; beside labels, runs' pairs that no person labelled
    are asked about with 0 alone. None stands for all labelled pairs, or `OF_A_RUN` of each run. `keep` is the
    folder of the verdicts.
    """

    judges: tuple[str, ...]
    labels: Path | None = None
    runs: tuple[Path, ...] = ()
    constitution: Path | None = None
    templates: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    few_shot: int | None = None
    pairs: int | None = None
    seed: int = 0
    bar: float | None = None
    keep: Path = Path("judge_compare")


@dataclass(frozen=True)
class Asked:
    """One judge to be asked: what names it, with which templates, and as what it is shown."""

    what: str
    templates: str | None
    name: str


def compare_judges(
    how: JudgesAsked,
    progress: Any = silent_progress,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Every figure of `side_by_side`, with where the pairs come from, the judges that failed, and the pairs
    on which the others differ; `tell` gets a line on the pairs before any judge is asked.

    Raises UserError where there are no pairs, or no judge could be asked.
    """
    paths = [*([how.labels] if how.labels else []), *how.runs]
    if not paths:
        raise UserError(
            "No pairs to ask the judges about.",
            "people's labels, or a run",
            "add --labels FILE, or --run RUN",
        )
    constitution = _constitution(how)
    most = how.pairs if how.pairs is not None else 0 if how.labels else OF_A_RUN
    people_alone = bool(how.labels) and how.pairs != 0
    found = labelled_cases(paths, constitution, most, how.seed, people_alone)
    if how.labels:
        require_people(found, how.labels)
    _require_own(how.keep)
    tell(_asked_about(found, len(names_of(how))))
    with locked(how.keep):
        judged, failed = _asked(how, constitution, found, progress)
    judged += _stored(found, constitution, judged)
    if not judged:
        raise UserError(
            "No judge could be asked:\n" + "\n".join(f"  {row['name']}: {row['error']}" for row in failed),
            "a model's folder or hub id, or a config",
        )
    figures = side_by_side(judged, how.bar)
    return {
        "sources": [str(path) for path in paths],
        "constitution": {
            "name": constitution.name,
            "hash": constitution.hash,
            "principles": len(constitution.ids),
        },
        "pairs": len(found.cases),
        "clusters": len({case.question.prompt.cluster for case in found.cases}),
        "people_labels": found.facts if found.people else None,
        "left_out": dict(+found.left_out),
        "failed": failed,
        "kept": str(how.keep),
        **figures,
        "disagreements": _disagreements(judged, found),
    }


def _asked_about(found: LabelledCases, judges: int) -> str:
    """How many pairs the judges are asked about, and which are left out."""
    counts = {"that people labelled": found.labelled, UNLABELLED: len(found.cases) - found.labelled}
    said = f"{judges} judge{'s' * (judges != 1)}, {len(found.cases):,} pairs: "
    said += ", ".join(f"{n:,} {which}" for which, n in counts.items() if n)
    if left := found.left_out[UNLABELLED]:
        said += f"; left out: {left:,} {UNLABELLED} (--num-pairs 0 asks about them, too)"
    return said


def _constitution(how: JudgesAsked) -> Constitution:
    """The constitution that all judges judge by: the named one, that of a run, or that of the first
    config."""
    if how.constitution:
        return Constitution.load(find(str(how.constitution)))
    for path in (*how.runs, *([how.labels] if how.labels else [])):
        if form_of(path) == "run":
            return label_stages(path)[0].constitution
    for what in how.judges:
        if names_config(what):
            path = find(what)
            return Constitution.load(
                Path(resolve(load_config(path, list(how.overrides)), path.parent).constitution)
            )
    raise UserError(
        f"{', '.join(how.judges)}: models, but no constitution to judge by.",
        "--constitution, a run, or a config among the judges",
        "add --constitution constitutions/general.yaml",
    )


def names_of(how: JudgesAsked) -> list[Asked]:
    """Every judge with every template set, each under a name of its own."""
    require_different(how.judges)
    found: dict[str, Asked] = {}
    for what in how.judges:
        for templates in how.templates or (None,):
            name = Path(what).name[:SHORT]
            name = free_name(f"{name} · {templates}" if len(how.templates) > 1 else name, found)
            found[name] = Asked(what, templates, name)
    return list(found.values())


def _require_own(folder: Path) -> None:
    """Raise UserError where verdicts would be written among files of something else, as people's labels."""
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        other = names - KEPT or (names if ".lock" not in names else set())
        if not other:
            return
        what = f"holds {min(other)}, which this command did not write"
    elif folder.exists():
        what = "a file"
    else:
        return
    raise UserError(
        f"{folder}: {what}; the judges' verdicts are kept in a folder of that name.",
        "a folder that is new, or one that this command made",
        "name one with --keep, or the page otherwise with --out",
    )


def _asked(
    how: JudgesAsked, constitution: Constitution, found: LabelledCases, progress: Any
) -> tuple[list[JudgedCases], list[dict[str, Any]]]:
    """The judges that answered, and why others did not; one after the other, so that one model at a time is
    in memory."""
    judged, failed = [], []
    stored = stored_labels(found.sources, constitution, found.ids, found.left_out)
    for asked in names_of(how):
        try:
            with os_errors_as_user_errors():
                judged.append(_ask(asked, how, constitution, found, stored, progress))
        except UserError as error:
            failed.append({"name": asked.name, "error": str(error), "code": error.code})
        except Exception as error:  # whatever a library raises is this judge's failure, and no other's
            failed.append({"name": asked.name, "error": f"{type(error).__name__}: {error}", "code": 1})
    return judged, failed


def _ask(
    asked: Asked,
    how: JudgesAsked,
    constitution: Constitution,
    found: LabelledCases,
    stored: Sequence[Label],
    progress: Any,
) -> JudgedCases:
    config, setting = _open(asked, how)
    judge = setting.judge(constitution)
    identity = judge.identity(constitution.principles[0])
    # By what answers and how it is asked, so that another model under the same name is another account.
    key = content_hash("judge", identity["model"], identity["template"], identity["decoding"])
    ledger = Ledger(how.keep / "spending.jsonl", config)
    account = Account(ledger, key)
    judge = replace(judge, engine=MeteredEngine(judge.engine, config.feedback.model, account))
    questions = [case.question for case in found.cases]
    bar = _timed(progress, asked.name, account, config.feedback.model)
    try:
        by_pair = judge_labels(judge, questions, stored, how.keep / "labels.jsonl", bar)
    finally:
        ledger.flush()
    labels = [row for rows in by_pair.values() for row in rows]
    cost = ledger.figures(key)
    cost["seconds"] = cost.pop("milliseconds", 0) / 1000
    return JudgedCases.of(asked.name, found.cases, labels, constitution, _facts(judge, config, asked), cost)


def _open(asked: Asked, how: JudgesAsked) -> tuple[Config, JudgeSetting]:
    """The judge's config and the judge, its model loaded."""
    overrides = list(how.overrides)
    if asked.templates and names_config(asked.what):
        overrides.append(f"templates={asked.templates}")
    general = find("constitutions/general.yaml")  # a name the config needs; which one is read is said apart
    named = Named.of(asked.what, overrides, general, asked.templates or "default")
    return named.config, named.open(how.few_shot)


def _facts(judge: Judge, config: Config, asked: Asked) -> dict[str, Any]:
    return {
        "judge": asked.what,
        "model": judge.engine.fingerprint,
        "engine": config.feedback.engine,
        "templates": judge.templates.name,
        "few_shot": len(judge.shots) // 2,
        "reasoning": judge.max_tokens,
        "notes": list(judge.engine.notes),
    }


def _timed(progress: Any, name: str, account: Account, model: str) -> Any:
    """The progress bar under the judge's name, which also counts the time to the account."""

    @contextmanager
    def bar(what: str, total: int) -> Iterator[Any]:
        with progress(f"{name}: {what}", total) as tick:
            last = time.monotonic()

            def ticked(n: int = 1) -> None:
                nonlocal last
                now = time.monotonic()
                account.spend(model, {"milliseconds": round(1000 * (now - last))})
                last = now
                tick(n)

            yield ticked

    return bar


def _stored(
    found: LabelledCases, constitution: Constitution, judged: Sequence[JudgedCases]
) -> list[JudgedCases]:
    """Judges whose verdicts stand in the sources and who were not asked anew, on the pairs they judged."""
    names = {judge.name: judge for judge in judged}
    anew = {judge_of(row) for judge in judged for row in judge.labels}
    stored = stored_labels(found.sources, constitution, found.ids, Counter())
    stored = [row for row in stored if judge_of(row) not in anew]
    made = []
    for who, labels in stored_judges(stored, found.sources, SHORT).items():
        pairs = {row.comparison_id for row in labels}
        cases = [case for case in found.cases if case.question.comparison.id in pairs]
        name = free_name(who, names)
        asked = {"model": labels[0].annotator.id, "stored": True}
        names[name] = JudgedCases.of(name, cases, labels, constitution, asked)
        made.append(names[name])
    return made


def _disagreements(judged: Sequence[JudgedCases], found: LabelledCases) -> list[dict[str, Any]]:
    """Pairs worth reading: where all judges turn a clear majority of the people, the surest first, and where
    judges lie furthest apart; the rule is the order, nothing is chosen by hand."""
    said = {
        judge.name: {row.case.question.comparison.id: row.p_a for row in judge.whole if row.p_a is not None}
        for judge in judged
    }
    cases = {case.question.comparison.id: case for case in found.cases}
    wrong = {}
    for pair, case in cases.items():
        truth = case.truth.get(ALL)
        own = [by[pair] for by in said.values() if pair in by]
        if truth in ("a", "b") and own:
            towards = [0.5 - p if truth == "a" else p - 0.5 for p in own]
            wrong[pair] = min(towards)
    first = sorted(
        (pair for pair in wrong if wrong[pair] > TIE_MARGIN), key=lambda pair: (-wrong[pair], pair)
    )
    shown = [(pair, "every judge turns the people's majority") for pair in first[:ALL_WRONG]]
    if len(said) > 1:
        apart = furthest_apart(said, APART)
        shown += [(row["comparison_id"], "judges lie furthest apart") for row in apart]
    reasons: dict[str, str] = {}
    for pair, why in shown:
        reasons.setdefault(pair, why)
    return [_shown(cases[pair], why, said) for pair, why in reasons.items()]


def _shown(case: Any, why: str, said: dict[str, dict[str, float]]) -> dict[str, Any]:
    question = case.question
    pair = question.comparison.id
    return {
        "id": pair,
        "why": why,
        "prompt": question.prompt.messages[-1].content,
        "a": question.a,
        "b": question.b,
        "people": case.truth.get(ALL),
        "p_a": {name: by[pair] for name, by in said.items() if pair in by},
    }

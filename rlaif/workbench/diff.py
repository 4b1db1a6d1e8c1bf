"""`rlaif constitution diff`: an edit by its effect, from the words to the reward model's training set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlaif.config import overridden
from rlaif.constitution import Constitution
from rlaif.errors import UserError, nearest
from rlaif.preflight.counting import cost_of
from rlaif.report.run_reader import model_references, plain, require_consent
from rlaif.runs.catalog import is_run
from rlaif.runs.folder import Run, silent_progress
from rlaif.runs.storage import os_errors_as_user_errors
from rlaif.stats import sum_known
from rlaif.workbench.edits import Edit, as_data, edits, load_at_rest
from rlaif.workbench.effects import Effects
from rlaif.workbench.relabelling import Relabelling, Survey, label_stages

COSTS = ("calls", "prompt_tokens", "shared_tokens", "tokens", "seconds", "money")


def diff(
    old: Path,
    new: Path,
    run: Path | None = None,
    ask: bool = False,
    trust: bool = False,
    progress: Any = silent_progress,
    tell: Callable[[str], None] = lambda line: None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """What the edit from `old` to `new` changes, JSON-able; `old` may be a run, whose constitution then
    counts.

    With a run also which of its labels go stale, which verdicts and which preferences change. `ask` asks
    the run's feedback model for the stale labels alone and keeps them in the run's folder; `overrides` such
    as `budget.calls=500` limit what that may take. Raises UserError where the files or the run cannot be
    used, or have nothing in common, and BudgetReached where the budget is.
    """
    with os_errors_as_user_errors():
        if run is None and is_run(old):
            run = old
        of = Run.load(run) if run else None
        before = of.constitution if of and run == old else load_at_rest(old)
        after = load_at_rest(new)
        found = edits(before, after)
        data: dict[str, Any] = {
            "old": {"path": str(old), "name": before.name, "hash": before.hash},
            "new": {"path": str(new), "name": after.name, "hash": after.hash},
            "edits": [as_data(edit) for edit in found],
            "notes": notes(before, after, found),
        }
        if overrides and not ask:
            raise UserError(f"-s {overrides[0]}: nothing is asked.", "questions to limit", "add --ask")
        if of is None:
            if ask:
                raise UserError("--ask: without a run.", "comparisons to ask about", "add --run RUN")
            return plain(data)
        refuse_strangers(of, before, after, old)
        if ask:
            reached = [*model_references(of.path, of.config.feedback), *annotators(of)]
            require_consent("asking this run's feedback model", reached, trust, "add --trust")
        of = _with_budget(of, overrides)
        return plain(data | effects(of, after, found, ask, progress, tell))


def _with_budget(run: Run, overrides: Sequence[str]) -> Run:
    """The run with another budget; UserError for other options, by which its labels would be other ones."""
    if not overrides:
        return run
    for override in overrides:
        if override.partition("=")[0].partition(".")[0] != "budget":
            raise UserError(
                f"-s {override}: the labels asked for here are asked as the run's were.",
                "budget.calls, budget.tokens or budget.money",
                "leave it out; rlaif constitution apply takes other options for the edited run",
            )
    config = overridden(run.config, overrides, run.path / "config.json")
    return Run(run.path, run.config.model_copy(update={"budget": config.budget}), run.constitution)


def effects(
    run: Run,
    new: Constitution,
    found: Sequence[Edit],
    ask: bool = False,
    progress: Any = silent_progress,
    tell: Callable[[str], None] = lambda line: None,
    more: Sequence[Path] = (),
) -> dict[str, Any]:
    """The effects on a run: `labels`, `principles`, `preferences`, `examples`; `more` are files of labels
    that were made since, beside the run's own."""
    parts = [Relabelling(stage, new) for stage in label_stages(run)]
    surveys = [part.survey() for part in parts]
    labels = _labels(parts, surveys)
    asked = None
    if ask and labels["stale"]:
        stale = [survey.stale.total() for survey in surveys]
        asked = [part.ask(n, progress) for part, n in zip(parts, stale, strict=True) if n]
        surveys = [part.survey() for part in parts]
    if more:
        parts = [Relabelling(stage, new, more) for stage in label_stages(run)]
        surveys = [part.survey() for part in parts]
    if ask:
        _refuse_unread(run, surveys, [edit.id for edit in found])
    made = Effects(found)
    for part in parts:
        tell(f"{part.before.dir.name}: adding up preferences …")
        made.add(part)
    waiting = sum(survey.stale.total() for survey in surveys)
    data = made.data()
    if made.unlike:
        data["notes"] = [
            f"{made.unlike} preferences of the run are not what this version makes of its labels: another "
            "version or rule made them; both sides here are this version's"
        ]
    return {
        "run": str(run.path),
        "labels": labels | {"asked": added(asked) if asked else None, "waiting": waiting},
        **data,
    }


def _labels(parts: Sequence[Relabelling], surveys: Sequence[Survey]) -> dict[str, Any]:
    """How many labels stay and how many are stale, by principle, and what refreshing takes."""
    costs = [cost_of(s.cost, part.before) for part, s in zip(parts, surveys, strict=True)]
    names = parts[0].after.constitution.ids
    return {
        "kept": sum(survey.kept.total() for survey in surveys),
        "stale": sum(survey.stale.total() for survey in surveys),
        "by_principle": {
            name: {
                "kept": sum(survey.kept[name] for survey in surveys),
                "asked_before": sum(survey.since[name] for survey in surveys),
                "stale": sum(survey.stale[name] for survey in surveys),
                "reasons": added([s.reasons.get(name, {}) for s in surveys]),
            }
            for name in names
        },
        "asked_before": sum(survey.since.total() for survey in surveys),
        "refresh": added(costs),
    }


def added(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sums over the stages; None where one of them is not known."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: sum_known([row.get(key, 0) for row in rows]) for key in keys}


def _refuse_unread(run: Run, surveys: Sequence[Survey], ids: Sequence[str]) -> None:
    """UserError where the judge has no readable verdict under an edited principle at all."""
    for name in ids:
        kept, unread = (sum(c[name] for c in counts) for counts in _columns(surveys))
        if kept and kept == unread:
            raise no_verdict(run.path, name, kept, f"ask another judge; {run.asked} has what it was asked")


def no_verdict(place: Path, name: str, asked: int, other: str) -> UserError:
    """What to say where none of the judge's verdicts under a principle can be read."""
    return UserError(
        f"{place}: none of the judge's {asked} verdicts under {name} can be read: it refused, or the "
        "questions are too long for it.",
        "a judge that answers A or B to the new wording",
        f"word {name} otherwise, or {other}",
    )


def _columns(surveys: Sequence[Survey]) -> tuple[list[Any], list[Any]]:
    return [survey.kept for survey in surveys], [survey.unread for survey in surveys]


def annotators(run: Run) -> list[str]:
    """Functions outside rlaif that play people in the run."""
    humans = [stage.options.human for stage in label_stages(run)]
    names = {human.annotator for human in humans if human and human.annotator}
    return [f"{run.path}: calls the annotator {name}" for name in names if not name.startswith("rlaif.")]


def notes(before: Constitution, after: Constitution, found: Sequence[Edit]) -> list[str]:
    """What else there is to say of two files."""
    said = []
    shared = [[i for i in c.ids if i in set(before.ids) & set(after.ids)] for c in (before, after)]
    if shared[0] != shared[1]:
        said.append(
            "The order of the principles differs: the critique stage draws others, and few-shot examples "
            "come in another order; labels do not depend on it otherwise."
        )
    if not found and not said:
        said.append("Nothing differs that a model reads or a preference is made of.")
    return said


def refuse_strangers(run: Run, before: Constitution, after: Constitution, old: Path) -> None:
    """UserError where the run was not labelled by the old constitution, or has nothing in common with the
    new one."""
    theirs = run.constitution
    if not set(theirs.ids) & set(after.ids):
        raise UserError(
            f"{run.path} and the new constitution have no principle in common: {_listed(theirs.ids)} there, "
            f"{_listed(after.ids)} in the file.",
            "a run of an earlier version of the same constitution",
            f"rlaif show {run.path} names the run's constitution",
        )
    unknown = [i for i in before.ids if i not in theirs.ids]
    if unknown:
        raise UserError(
            f"{old}: no principle `{unknown[0]}` in {run.path} — {nearest(unknown[0], theirs.ids)}",
            "the constitution that the run was labelled by",
            f"rlaif constitution diff {run.path} NEW takes the run's own",
        )
    if other := edits(theirs, before):
        raise UserError(
            f"{old}: not the constitution of {run.path}; {other[0].id} is {', '.join(other[0].kinds)} there.",
            "the constitution that the run was labelled by",
            f"rlaif constitution diff {run.path} NEW takes the run's own",
        )


def _listed(ids: Sequence[str], most: int = 4) -> str:
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more

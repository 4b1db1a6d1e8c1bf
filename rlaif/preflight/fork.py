"""A fork: a new run that shares another run's finished stages up to a point and runs the rest with other
settings."""

from __future__ import annotations

import filecmp
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlaif import __version__
from rlaif.config import find, option_name, stage_name, stage_number
from rlaif.engines.cache import copy_cache
from rlaif.errors import UserError
from rlaif.feedback.earlier_labels import estimate_taken_over
from rlaif.options import LabelOptions
from rlaif.preflight.differences import Difference, differences
from rlaif.preflight.opening import RunSpec
from rlaif.runs.catalog import is_run
from rlaif.runs.folder import Run
from rlaif.runs.storage import link, read_json, share

# What may differ though shared stages read it: they keep what they were made with, and the manifest says so.
MAY_DIFFER = ("constitution", "templates", "feedback", "gold", "seed")


@dataclass(frozen=True)
class Fork:
    """What a new run takes from its parent."""

    parent: Run
    shared: int  # stages
    at: str
    differs: tuple[str, ...] = ()  # of what shared stages read
    hints: tuple[str, ...] = ()

    def into(self, making: Path) -> dict[str, Any]:
        """Put the shared stages into a new run's folder; returns what its manifest says of it."""
        stages = self.parent.stages[: self.shared]
        for stage in stages:
            share(stage.dir, making / stage.dir.name, ("checkpoints",))
        own, theirs = (folder / "prompts.jsonl" for folder in (making, self.parent.path))
        if filecmp.cmp(own, theirs, shallow=False):
            own.unlink()
            link(theirs, own)
        if self.parent.cache:
            copy_cache(self.parent.cache, making / self.parent.cache.name)
        return {
            "parent": {
                "id": self.parent.id,
                "path": str(self.parent.path.resolve()),
                "at": self.at,
                "shared": [stage.dir.name for stage in stages],
                "differs": list(self.differs),
            }
        }

    def in_words(self) -> list[str]:
        """What is shared, and what of it was made otherwise than the config now says."""
        path, names = self.parent.path, [stage.dir.name for stage in self.parent.stages[: self.shared]]
        lines = [f"forks {path} at {self.at}; shared: {', '.join(names) or 'nothing'}"]
        if self.differs:
            lines.append("the shared stages keep what they were made with; these differ:")
        return [*lines, *(f"  {text}" for text in self.differs), *self.hints]


def fork_of(
    source: Path, out: Path | None, at: str | None, config: str | None, overrides: Sequence[str]
) -> tuple[Path, RunSpec, Fork | None]:
    """(folder, what it is to be, what it takes from `source`) of a new run; the last is None where the folder
    is a fork of `source` already, which then goes on.
    """
    named = any(override.startswith("name=") for override in overrides)
    if out and config is None and not named and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", out.name):
        overrides = [*overrides, f"name={out.name}"]
    if out and (out / "manifest.json").exists():
        base = Run.load(out)
        _refuse_other_parent(base, source, at)
        return out, _spec(config, base, overrides), None
    parent = load_parent(source)
    spec = _spec(config, parent, overrides)
    folder = out or Path("runs") / spec.config.name
    if source.resolve() in folder.resolve().parents:
        raise UserError(
            f"--out {folder}: inside the run {source}.",
            "a folder of its own: removing that run would remove this one",
            f"--out {shlex.quote(str(source.resolve().parent / folder.name))}",
        )
    if not out and (folder / "manifest.json").exists():
        return fork_of(source, folder, at, config, overrides)
    fork = _fork(parent, spec, at)
    words = f" {spec.words}" if spec.words else ""
    command = (
        f"rlaif run{words} --from {shlex.quote(str(source))} --at {shlex.quote(fork.at)} "
        f"--out {shlex.quote(str(folder))}"
    )
    stages = list(spec.config.stages)
    for number, theirs in enumerate(parent.config.stages[: fork.shared]):
        if stages[number] != theirs:  # by options that cannot change results
            stages[number] = theirs
    kept = spec.config.model_copy(update={"stages": tuple(stages)})
    return folder, replace(spec, config=kept, command=command), fork


def _spec(config: str | None, base: Run, overrides: Sequence[str]) -> RunSpec:
    return RunSpec.of_config(find(config), overrides) if config else RunSpec.of_run(base, overrides)


def load_parent(source: Path, option: str = "--from ") -> Run:
    """The run to fork, as `option` names it; raises UserError where there is none, or where this version
    cannot go on with it."""
    if not is_run(source):
        raise UserError(
            f"{option}{source}: no run there.",
            "a run folder",
            f"rlaif runs {shlex.quote(str(source.parent))} lists those that there are",
        )
    theirs = str(read_json(source / "manifest.json").get("rlaif", "0"))
    newer = _numbers(theirs) > _numbers(__version__)
    try:
        parent = None if newer else Run.load(source)
    except UserError as error:
        if theirs == __version__:
            raise
        raise _other_version(f"{option}{source}", theirs, f" ({error.found})") from None
    if parent is None:
        raise _other_version(f"{option}{source}", theirs)
    parent.verify()
    return parent


def _other_version(named: str, theirs: str, why: str = "") -> UserError:
    return UserError(
        f"{named}: made by rlaif {theirs}, and this is {__version__}{why}.",
        "a run that this version can read",
        f"fork it with rlaif {theirs}, or start anew",
    )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _fork(parent: Run, spec: RunSpec, at: str | None) -> Fork:
    found = differences(parent, spec)
    if at is not None:
        number = stage_number(spec.config, at, "--at")
    elif not found:
        raise UserError(
            f"{parent.path}: nothing differs from it.",
            "a difference that can change results, or the stage from which to run again",
            "add -s stage.option=value, or --at STAGE",
        )
    else:
        number = min(found[0].number, len(spec.config.expanded))
    earlier = [difference for difference in found if difference.number < number]
    if refused := [d for d in earlier if d.part not in MAY_DIFFER]:
        raise _too_late(spec, refused, stage_name(spec.config, number))
    if waiting := [stage for stage in parent.stages[: number - 1] if not stage.is_done]:
        raise UserError(
            f"--from {parent.path}: {waiting[0].dir.name} is not done, so it cannot be shared.",
            f"all stages before {stage_name(spec.config, number)} done",
            f"rlaif resume {shlex.quote(str(parent.path))} --until "
            f"{shlex.quote(stage_name(parent.config, number - 1))}, or add --at "
            f"{shlex.quote(stage_name(spec.config, waiting[0].number))}",
        )
    differs = tuple(difference.text for difference in earlier)
    hints = _labels_to_take_over(parent, spec, number)
    return Fork(parent, number - 1, stage_name(spec.config, number), differs, hints)


def _labels_to_take_over(parent: Run, spec: RunSpec, number: int) -> tuple[str, ...]:
    """That a fork at that stage need not ask again for labels that the parent has, and how, where it has."""
    before = spec.config.expanded[number - 1 :]
    at = next((n for n, (_, options) in enumerate(before) if isinstance(options, LabelOptions)), None)
    if at is None or any("responses" in o.makes or "revisions" in o.makes for _, o in before[:at]):
        return ()
    options = before[at][1]
    assert isinstance(options, LabelOptions)
    labelled = any(stage.name == "label" and stage.has_begun for stage in parent.stages)
    if not (options.ai and labelled and (parent.path / "templates.json").exists()) or options.labels_from:
        return ()
    told = options.model_copy(update={"labels_from": str(parent.path)})
    said = estimate_taken_over(spec.config, spec.constitution, spec.templates, told)
    same = said["same_wording"]
    if not same or not (said["same_judge"] and said["same_template"] and said["same_decoding"]):
        return ()
    begins = f"the judge reads {same} of {said['principles']} principles in the words of the parent:"
    if spec.config.cache and parent.cache and parent.cache.exists() and spec.config.feedback.kind.cached:
        return (f"{begins} the fork has a copy of its cache, so its labels of the same pairs cost no call",)
    name = option_name(spec.config, (number - 1 + at) % len(spec.config.stages))
    override = shlex.quote(f"{name}.labels_from={parent.path}")
    return (
        f"{begins} with -s {override} its labels of the same pairs are taken over and not asked for again",
    )


def _too_late(spec: RunSpec, refused: Sequence[Difference], at: str) -> UserError:
    first = stage_name(spec.config, refused[0].number)
    lines = "\n".join(f"  {difference.text}" for difference in refused[:8])
    return UserError(
        f"--at {at}: stages before it would be shared, and what they were given differs:\n{lines}",
        f"a fork at {first} or earlier, or the same options for what is shared",
        f"--at {shlex.quote(first)}",
    )


def _refuse_other_parent(run: Run, source: Path, at: str | None) -> None:
    """UserError where a folder that exists is no fork of `source` at that stage; the parent may be gone."""
    if run.path.resolve() == source.resolve():
        raise UserError(
            f"{run.path}: the folder of the run that is forked.",
            "another folder for the fork",
            "--out " + shlex.quote(f"{run.path}-2") + f", or -s name={run.config.name}-2",
        )
    recorded = run.manifest.get("parent") or {}
    there = is_run(source)
    same = (
        Run.load(source).id == recorded.get("id") if there else str(source.resolve()) == recorded.get("path")
    )
    if not recorded or not same:
        of = f"a fork of {recorded['path']}" if recorded else "a run that is no fork"
        raise UserError(
            f"{run.path}: holds {of}.",
            f"a fork of {source}, or a new folder",
            "name another folder with --out",
        )
    if at is not None and stage_number(run.config, at, "--at") != len(recorded["shared"]) + 1:
        raise UserError(
            f"{run.path}: was forked at {recorded['at']}, not at {at}.",
            "the stage that it was forked at, or a new folder",
            "name another folder with --out",
        )

"""Opening a run folder: a new one, or the one the same command left; never that of another run.

Options of stages that have made nothing to go on from may change in the folder, and options that cannot
change results always; anything else is refused with the command that forks the run.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlaif.config import Config, stage_name
from rlaif.errors import UserError
from rlaif.human.routing import goes_by_labels, people_are_in
from rlaif.preflight.differences import Difference, differences
from rlaif.preflight.opening import RunSpec
from rlaif.preflight.provenance import asked, endpoints, manifest
from rlaif.records import Prompt
from rlaif.runs.commands import fork_command
from rlaif.runs.folder import Run, Stage
from rlaif.runs.lookup import json_rows
from rlaif.runs.rows import Rows
from rlaif.runs.storage import digest, move_into_place, sync, write_json, write_text

MAKING = "making.partial"
Share = Callable[[Path], dict[str, Any]]  # puts finished stages into a new folder; what the manifest says


def open_run(
    folder: Path,
    spec: RunSpec,
    share: Share = lambda making: {},
    tell: Callable[[str], None] = lambda line: None,
) -> Run:
    """A new run folder, or an existing one of the same spec; what may not differ is refused.

    `tell` gets a line where something that a failed start left is removed.
    """
    making = folder / MAKING
    if not (folder / "manifest.json").exists():
        others = [path.name for path in folder.iterdir() if path.name not in (".lock", making.name)]
        if not (making / "manifest.json").exists():
            if others:
                raise UserError(
                    f"{folder}: not empty and not a run folder.",
                    "a new folder, or that of the same run",
                    "name another folder with --out",
                )
            _make(making, spec, share)
        _move(making, folder)
    shutil.rmtree(making, ignore_errors=True)
    run = Run.load(folder)
    run.verify()
    found = [difference for difference in differences(run, spec) if not _awaited(run, difference)]
    begun = max((stage.number for stage in run.stages if stage.has_begun), default=0)
    if any(difference.number <= begun for difference in found):
        raise _refused(folder, spec, [d for d in found if d.number <= begun])
    if found and not begun:
        _remove_begun(run.stages, tell)
        _make_again(folder, run, spec, share)
    elif found or not all(stage.is_done for stage in run.stages):
        _remove_begun([s for s in run.stages if found and s.number >= found[0].number], tell)
        _change(run, spec, found)
    return Run.load(folder)


def _awaited(run: Run, difference: Difference) -> bool:
    """Whether it is the file of people's labels of a stage that has asked the judge and not yet people."""
    if not difference.key.endswith(".human.file") or not 1 <= difference.number <= len(run.stages):
        return False
    stage = run.stages[difference.number - 1]
    return goes_by_labels(stage) and not people_are_in(stage)


def _make(folder: Path, spec: RunSpec, share: Share) -> None:
    """Write a new run's files; the manifest comes last: a folder that has one is complete."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    Rows(folder / "prompts.jsonl", Prompt).append(spec.prompts)
    _write_spec(folder, spec, spec.config)
    shared = share(folder)
    sync(folder)
    files = {"prompts.jsonl": digest(folder / "prompts.jsonl")}
    made = {"id": secrets.token_hex(8), **manifest(spec), **shared, "files": files}
    write_json(folder / "manifest.json", made)


def _write_spec(folder: Path, spec: RunSpec, config: Config) -> None:
    """Write the files that say what the run is, its prompts apart."""
    write_text(folder / "config.yaml", spec.text)
    write_json(folder / "constitution.json", spec.constitution.model_dump())
    write_json(folder / "templates.json", spec.templates.sources)
    write_json(folder / "config.json", config.model_dump())


def _move(making: Path, folder: Path) -> None:
    """Give a complete new run its place, the manifest last; a start that was killed in between goes on
    here."""
    for path in sorted(making.iterdir(), key=lambda path: path.name == "manifest.json"):
        move_into_place(path, folder / path.name)


def _make_again(folder: Path, run: Run, spec: RunSpec, share: Share) -> None:
    """A run whose first stage has not begun, made anew; without its manifest it is one that is being made."""
    parent = {key: value for key, value in run.manifest.items() if key in ("id", "parent")}
    _make(folder / MAKING, spec, lambda making: share(making) | parent)
    (folder / "manifest.json").unlink()
    _move(folder / MAKING, folder)


def _remove_begun(stages: Sequence[Stage], tell: Callable[[str], None]) -> None:
    """Remove what starts left that made nothing to go on from; of a training's curve that is said."""
    for stage in stages:
        if not stage.dir.exists():
            continue
        curve = sum(len(list(json_rows(path))) for path in stage.dir.rglob("metrics.jsonl"))
        shutil.rmtree(stage.dir, ignore_errors=True)
        if curve:
            tell(
                f"{stage.dir.name}: begins anew with other options; the curve of the start before "
                f"({curve} rows) is removed"
            )


def _change(run: Run, spec: RunSpec, found: list[Difference]) -> None:
    """Note in the folder what differs and may: the manifest last, so that a killed start does it again."""
    config = _kept_where_done(run, spec.config)
    if found or run.config != config:
        _write_spec(run.path, spec, config)
    before = run.manifest
    there, here = before.get("endpoints", endpoints(run.config)), endpoints(spec.config)
    recorded = {
        **before,
        **(asked(spec) if found or run.config != config else {}),
        "inputs": before.get("inputs", {}) | spec.inputs,
        "endpoints": {role: sorted({*there.get(role, []), *new}) for role, new in here.items()},
    }
    if before != recorded:
        write_json(run.path / "manifest.json", recorded)


def _kept_where_done(run: Run, config: Config) -> Config:
    """The config with the options that finished stages had: what is given later does not reach them."""
    count = len(run.config.stages)
    done = [all(stage.is_done for stage in run.stages[at::count]) for at in range(count)]
    stages = [
        run.config.stages[at] if at < count and done[at] else options
        for at, options in enumerate(config.stages)
    ]
    return config.model_copy(update={"stages": tuple(stages)})


def _refused(folder: Path, spec: RunSpec, differing: Sequence[Difference]) -> UserError:
    """What differs, and the command that makes a run of it."""
    lines = [f"  {difference.text}" for difference in differing[:8]]
    more = [f"  and {len(differing) - 8} more"] if len(differing) > 8 else []
    number, way_out = differing[0].number, "add --out with another folder, or delete this one"
    if 1 < number <= len(spec.config.expanded):
        way_out = fork_command(folder, stage_name(spec.config, number), spec.words)
    return UserError(
        "\n".join([f"{folder}: holds another run; these differ:", *lines, *more]),
        "what stages were given that have made rows, a model or a checkpoint; the rest may change",
        way_out,
    )

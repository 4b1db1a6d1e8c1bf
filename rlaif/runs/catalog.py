"""The runs of a folder: listed, removed and renamed, with the references between them kept valid.

Forks share files as hard links, so either run may go. What else names a run is found by path in the
configs of the runs beside it: labels taken over, a policy to start from, a reward model. A run that is
finished does without what its stages were given.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlaif.errors import UserError, nearest
from rlaif.runs.folder import Run, Stage
from rlaif.runs.locking import is_locked, locked
from rlaif.runs.storage import files_below, read_json, write_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
FROM = "renamed_from"  # of the manifest: the name that the run was last renamed from


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's; one that is still being made has no manifest."""
    return (folder / "manifest.json").is_file()


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """What there is to say of each run in a folder, oldest first; of a damaged one what is wrong."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder.", "a folder of runs", "rlaif runs DIR")
    paths = [path for path in sorted(folder.iterdir()) if is_run(path) and not path.name.startswith(".")]
    names: dict[str, str] = {}
    for path in paths:
        try:
            names[Run.load(path).id] = path.name
        except UserError:
            continue
    rows = [_row(path, names) for path in paths]
    return sorted(rows, key=lambda row: (str(row["created"] or ""), row["name"]))


def where_runs_are(folder: Path) -> str:
    """What to do where a folder has no runs in it: it is one, or they stand in folders of it, or there are
    none yet."""
    if is_run(folder):
        there, around = (shlex.quote(str(path)) for path in (folder, folder.resolve().parent))
        return f"{folder} is a run itself: rlaif show {there}, or rlaif runs {around} for those beside it"
    found = sorted({path.parent.parent for path in folder.glob("*/*/manifest.json")})
    if found:
        return f"{folder}: runs are in {', '.join(f'rlaif runs {shlex.quote(str(f))}' for f in found[:3])}"
    return f"{folder}: runs are made by rlaif run CONFIG, in runs/ of the folder where it is typed"


def _row(path: Path, names: dict[str, str]) -> dict[str, Any]:
    sizes = list(_sizes(path))
    row: dict[str, Any] = {
        "name": path.name,
        "path": str(path),
        "status": "",
        "constitution": None,
        "parent": None,
        "headline": None,
        "created": None,
        "bytes": sum(size.st_size for size in sizes),
        "shared_bytes": sum(size.st_size for size in sizes if size.st_nlink > 1),
    }
    try:
        run = Run.load(path)
        parent = _parent(run) or None
        return row | {
            "status": _status(run),
            "constitution": run.constitution.name,
            "parent": parent and {**parent, "name": names.get(str(parent.get("id")))},
            "headline": headline(run),
            "created": run.manifest.get("created"),
        }
    except UserError as error:
        return row | {"status": f"damaged: {error.found}"}


def _sizes(folder: Path) -> Iterator[os.stat_result]:
    for path in files_below(folder):
        with suppress(FileNotFoundError):  # a checkpoint that is no longer kept
            yield path.stat()


def _status(run: Run) -> str:
    """ "done", or how the first stage stands that is not."""
    stage = next((stage for stage in run.stages if not stage.is_done), None)
    if stage is None:
        return "done"
    status = status_of(stage)
    if status == "waiting" and is_locked(run.path):
        status = "running"
    return f"{status}: {stage.dir.name}"


def status_of(stage: Stage) -> str:
    """How a stage stands: what its stage.json says, but "interrupted" where a killed process left "running",
    and "waiting" before it has begun."""
    status = stage.summary.get("status", "waiting")
    return "interrupted" if status == "running" and not is_locked(stage.run.path) else status


def headline(run: Run) -> dict[str, Any] | None:
    """The figure that says most of how far a run has come: {"what", "value"}, None before there is any."""
    metrics = {stage.name: stage.summary.get("metrics", {}) for stage in run.stages if stage.is_done}
    policies = metrics.get("evaluate", {}).get("policies", {})
    name, policy = next(reversed(policies.items()), ("", {}))
    tried = (
        (f"gold of {name}", policy.get("gold", {}).get("all")),
        (f"win rate of {name}", (policy.get("win_rate") or {}).get("value")),
        ("reward model, held out", metrics.get("reward", {}).get("heldout_accuracy")),
        ("labels, agreement with gold", metrics.get("label", {}).get("agreement_with_gold")),
    )
    return next(({"what": what, "value": value} for what, value in tried if value is not None), None)


def remove(path: Path) -> list[str]:
    """Delete a run; returns the names of forks beside it that shared files with it, and stay whole.

    A call that was killed is finished by the same call.

    Raises UserError where another run beside it still needs a file of its, or one stands inside it.
    """
    path = _whole(path)
    if not path.exists() and (leftover := _removed(path)):
        for aside in leftover:
            shutil.rmtree(aside)
        return []
    run = _existing(path)
    found = [p.parent for p in sorted(path.rglob("manifest.json")) if p.parent.name != "making.partial"]
    if inside := next((folder for folder in found if folder != path), None):
        raise UserError(
            f"{path}: the run {inside} stands inside it.",
            "a folder of one run",
            f"rlaif runs rm {shlex.quote(str(inside))} first",
        )
    with locked(path):
        users = [other for other in _others(run) if _needs(other, run)]
        if users:
            other = shlex.quote(str(users[0].path))
            raise UserError(
                f"{path}: {users[0].path} names files of it ({', '.join(_needs(users[0], run))}) that it has "
                "still to read.",
                "a run that no other run beside it needs",
                f"finish that run (rlaif resume {other}), or remove it (rlaif runs rm {other}), first"
                if not all(map(_is_done, users[0].stages))
                else f"rlaif runs rm {other} first",
            )
        forks = [other.path.name for other in _others(run) if _parent(other).get("id") == run.id]
        # So that no half of a run is left in its place; by its id, so that it is nobody else's folder.
        aside = path.with_name(f".{path.name}.{run.id}.removed")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
        shutil.rmtree(aside)
    return forks


def _removed(path: Path) -> list[Path]:
    """What a killed removal of a run left: a folder beside it, named by the run and its id."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.removed")
    return [p for p in path.parent.iterdir() if pattern.fullmatch(p.name)] if path.parent.is_dir() else []


def rename(path: Path, name: str) -> Path:
    """Give a run's folder another name, and write that into the runs beside it that name it.

    A call that was killed is finished by the same call.
    """
    if not NAME.fullmatch(name):
        raise UserError(f'"{name}": no name of a run.', "letters, digits, _, - and . alone")
    path = _whole(path)
    new = path.with_name(name)
    moved = not path.exists() and is_run(new) and _manifest(new).get(FROM) == path.name
    run = _existing(new if moved else path)
    if new.exists() and not moved:
        raise UserError(f"{new}: is there already.", "a name that is free")
    own = run.id
    with locked(run.path):
        users = [other for other in _others(run) if _names(other, path.resolve())]
        for other in users:
            if is_locked(other.path):
                raise UserError(
                    f"{other.path}: is running, and names files of {path}.",
                    "no run at work that needs it",
                    "wait for it",
                )
        if not moved:
            write_json(path / "manifest.json", {**_manifest(path), FROM: path.name})
            os.replace(path, new)
        write_json(new / "config.json", {**read_json(new / "config.json"), "name": name})
        for other in users:
            config = _moved(read_json(other.path / "config.json"), str(path.resolve()), str(new.resolve()))
            write_json(other.path / "config.json", config)
        for other in _others(Run.load(new)):
            if _parent(other).get("id") == own:
                parent = {**_parent(other), "path": str(new.resolve())}
                write_json(other.path / "manifest.json", {**other.manifest, "parent": parent})
        write_json(new / "manifest.json", {**_manifest(new), "name": name})
    return new


def _manifest(path: Path) -> dict[str, Any]:
    return read_json(path / "manifest.json")


def _whole(path: Path) -> Path:
    """The run's folder with its whole path; UserError for a link, whose folder has another place and name."""
    if path.is_symlink():
        raise UserError(f"{path}: a link to {path.resolve()}.", "the run's own folder", "name that folder")
    return path.resolve()


def _existing(path: Path) -> Run:
    if not is_run(path):
        around = path.parent.iterdir() if path.parent.is_dir() else ()
        names = [p.name for p in around if is_run(p) and not p.name.startswith(".")]
        raise UserError(
            f"{path}: {'not a run folder' if path.exists() else 'no such run'}.",
            f"a run of {path.parent}; {nearest(path.name, names)}" if names else "a run folder",
            f"rlaif runs {shlex.quote(str(path.parent))} lists them",
        )
    return Run.load(path)


def _others(run: Run) -> Iterator[Run]:
    """The readable runs beside one."""
    for path in sorted(run.path.resolve().parent.iterdir()):
        if path != run.path.resolve() and is_run(path) and not path.name.startswith("."):
            try:
                yield Run.load(path)
            except UserError:
                continue


def _parent(run: Run) -> dict[str, Any]:
    found = run.manifest.get("parent")
    return found if isinstance(found, dict) else {}


def _names(run: Run, folder: Path) -> list[str]:
    """The values of a run's config that lie in a folder, with their keys."""
    found: list[str] = []

    def look(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                look(item, f"{key}.{name}" if key else name)
        elif isinstance(value, list | tuple):
            for item in value:
                look(item, item["stage"] if isinstance(item, dict) and "stage" in item else key)
        elif isinstance(value, str) and _inside(value, str(folder)):
            found.append(key)

    look(run.config.model_dump(mode="json"), "")
    return found


def _needs(other: Run, run: Run) -> list[str]:
    """The keys by which another run has still to read files of a run: a finished one has read what its stages
    were given, and labels are taken over once."""
    stages = {
        stage.name: [_is_done(s) for s in other.stages if s.name == stage.name] for stage in other.stages
    }
    finished = all(all(done) for done in stages.values())
    read = {f"{name}." for name in stages} if finished else set[str]()
    if all(stages.get("label", ())):
        read.add("label.labels_from")
    keys = _names(other, run.path.resolve())
    return [key for key in keys if not key.startswith(tuple(read))]


def _is_done(stage: Stage) -> bool:
    """Whether a stage is; one with a damaged stage.json is not."""
    try:
        return stage.is_done
    except UserError:
        return False


def _inside(value: str, folder: str) -> bool:
    return value == folder or value.startswith(folder + os.sep)


def _moved(value: Any, old: str, new: str) -> Any:
    """The same data with every path in a folder in the folder's new place."""
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, old, new) for item in value]
    return new + value[len(old) :] if isinstance(value, str) and _inside(value, old) else value

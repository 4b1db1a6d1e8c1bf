"""`extends:` in a config: another config's keys and stages, of which this one names what differs.

Keys under keys are put together one by one; any other value, a list included, stands in place of the extended
one. `stages` may be a list, which is then the whole list, or name stages of the extended config, as `-s`
does: options change these of a stage, and a list of stages stands in its place (an empty one takes it out).

Paths are looked up as if the extended config's keys stood in this file: beside it, in the working directory,
among the shipped files.

    extends: quickstart.yaml
    name: dpo
    stages:
      reward: []                          # taken out
      sample[1]: {k: 8}                   # changed
      ppo: [{stage: dpo, beta: 0.1}]      # replaced
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rlaif.errors import UserError, nearest
from rlaif.old_names import with_new_names
from rlaif.yamlfile import Lines, load_yaml

Place = tuple[str | int, ...]
OPTIONS_OR_STAGES = (
    "options, such as {updates: 10}; or what stands in its place, such as [{stage: dpo}], or [] for nothing"
)
EXAMPLE = "a config's file, beside this one or shipped with rlaif: extends: configs/quickstart.yaml"
PACKAGE = Path(__file__).parent
# In a checkout the shipped files stand beside the package; a wheel carries them inside it.
ASSETS = PACKAGE / "assets" if (PACKAGE / "assets").is_dir() else PACKAGE.parent


def load_extended(path: Path, below: Sequence[Path] = ()) -> tuple[Any, Lines]:
    """Plain data of a config with all that it extends, and where each key stands; `below` are the files
    extending it."""
    return extended(*load_yaml(path), path, below)


def shipped(name: str) -> Path | None:
    """The file or folder of that name among those that come with rlaif, None where there is none; a name that
    leads out of them is none."""
    path = Path(os.path.normpath(ASSETS / name))
    return path if path.is_relative_to(ASSETS) and path.exists() else None


def extended(data: Any, own: Lines, path: Path, below: Sequence[Path] = ()) -> tuple[Any, Lines]:
    """The same of plain data that stands, or would stand, in the file `path`."""
    data = with_new_names(data)
    if not isinstance(data, dict) or "extends" not in data:
        return data, own
    name = data.pop("extends")
    where = own.where(path, ("extends",))
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: extends: {name!r} is no file.", EXAMPLE)
    there = path.parent / name if (path.parent / name).is_file() else shipped(name)
    if there is None or not there.is_file():
        looked = f"{path.parent / name} was looked for, and {name} among the shipped files"
        raise UserError(f"{where}: extends: {name}: no such file.", EXAMPLE, looked)
    chain = [*below, path]
    if there.resolve() in (file.resolve() for file in chain):
        circle = " → ".join(str(file) for file in [*chain, there])
        raise UserError(f"{where}: extends goes round in a circle: {circle}.", "a config that ends the chain")
    base, lines = load_extended(there, chain)
    if not isinstance(base, dict):
        raise UserError(f"{there}: holds no keys and values.", "a config to extend")
    merged = Lines(own.root, path)
    merged.origins = {(): (own, ()), **{(key,): (lines, (key,)) for key in base}}
    stages = data.pop("stages", None)
    found = _overlay(base, data, (), (), own, merged)
    if isinstance(stages, dict):
        listed = base.get("stages")
        found["stages"] = _edit_stages(listed if isinstance(listed, list) else [], stages, lines, own, merged)
    elif stages is not None:
        found["stages"] = stages
        merged.origins[("stages",)] = own, ("stages",)
    return found, merged


def as_text(path: Path) -> str:
    """A config as it was given; with what it extends, where it does."""
    data, lines = load_extended(path)
    if not lines.origins:
        return path.read_text(encoding="utf-8-sig")
    return f"# {path.name} with what it extends\n{yaml_text(data)}"


def yaml_text(data: Any) -> str:
    """Plain data as YAML."""
    text = StringIO()
    YAML(typ="safe", pure=True).dump(data, text)
    return text.getvalue()


def _overlay(base: Any, data: Any, place: Place, at_own: Place, own: Lines, into: Lines) -> Any:
    """`base` with what `data` says over it; `place` is where that stands in the result and `at_own` in its
    own file."""
    found = dict(base)
    for key, value in data.items():
        here, there = (*place, key), (*at_own, key)
        if isinstance(base.get(key), dict) and isinstance(value, dict):
            found[key] = _overlay(base[key], value, here, there, own, into)
        else:
            found[key], into.origins[here] = value, (own, there)
    return found


def _edit_stages(
    listed: list[Any], stages: dict[str, Any], lines: Lines, own: Lines, into: Lines
) -> list[Any]:
    """The extended config's stages with what is said of those that are named."""
    edits: dict[int, list[str]] = {}
    for name, value in stages.items():
        where = own.where(own.path or Path(), ("stages", name))
        meant = stages_named(listed, name, where)
        if not meant:
            known = sorted({str(stage.get("stage")) for stage in listed if isinstance(stage, dict)})
            raise UserError(f'{where}: no stage "{name}" in what is extended — {nearest(name, known)}')
        if not isinstance(value, dict | list) or (isinstance(value, dict) and "stage" in value):
            raise UserError(f"{where}: {name}: neither options nor a list of stages.", OPTIONS_OR_STAGES)
        if isinstance(value, list) and len(meant) > 1:
            raise UserError(
                f"{where}: {name}: there are {len(meant)} stages of that name.", f"which, from {name}[0] on"
            )
        for at in meant:
            edits.setdefault(at, []).append(name)
    found: list[Any] = []
    for at, stage in enumerate(listed):
        # A list stands in a stage's place whatever else is said of that stage.
        given = next((name for name in edits.get(at, ()) if isinstance(stages[name], list)), None)
        if given is not None:
            into.origins |= {
                ("stages", len(found) + n): (own, ("stages", given, n)) for n in range(len(stages[given]))
            }
            found += stages[given]
            continue
        place = "stages", len(found)
        into.origins[place] = lines, ("stages", at)
        for name in edits.get(at, ()):
            stage = _overlay(stage, stages[name], place, ("stages", name), own, into)
        found.append(stage)
    return found


def stages_named(stages: Sequence[Any], name: str, where: str) -> list[int]:
    """The numbers of the stages that `ppo` or `sample[1]` means, none where there is no such stage.

    Without a number it means every stage of that name; raises UserError where the number is too large.
    """
    match = re.fullmatch(r"([\w-]+)(?:\[([0-9]{1,4})\])?", name)
    plain, number = (match[1], match[2]) if match else (name, None)
    named = [at for at, stage in enumerate(stages) if isinstance(stage, dict) and stage.get("stage") == plain]
    if not named or number is None:
        return named
    if int(number) >= len(named):
        raise UserError(f"{where}: there are {len(named)} {plain} stages, counted from 0.")
    return [named[int(number)]]

"""What weights a model folder holds, read from the headers of its safetensors files, and whether its config
fits them.

A folder's files are other people's. Numbers in config.json decide what is built before the first weight is
read, so they are held against the weights first; headers are checked before anything trusts them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from rlaif.errors import UserError, first_line

Shapes = dict[str, tuple[int, ...]]
_HEADER = 100_000_000  # bytes, the format's own limit
_INDEX = "model.safetensors.index.json"
_LAYERS = re.compile(r"(num|n)_(hidden_)?layers?")
_COUNT = re.compile(r"(num|n)_.*|.*_(size|dim|rank)")
_FEW = 64  # layers or experts that any config may name
_SMALL = 65_536  # and numbers of anything else


def check(folder: Path) -> None:
    """UserError where config.json, the headers or the index of the weights are damaged, or ask for what is
    not there."""
    config, held = read_config(folder), shapes(folder)
    _check_index(folder)
    layers = [int(n) + 1 for name in held for n in re.findall(r"(?<![^.])\d+(?![^.])", name)]
    stacked = [shape[0] for shape in held.values() if len(shape) > 2]
    few = max([_FEW, *layers, *stacked])
    many = max([_SMALL, len(held), *(size for shape in held.values() for size in shape)])
    for key, value in _numbers(config):
        limit = few if _LAYERS.fullmatch(key) or "expert" in key else many
        if _COUNT.fullmatch(key) and value > limit:
            raise UserError(
                f"{folder / 'config.json'}: {key} is {value}, and the weights beside it hold nothing of that "
                f"size (the largest is {limit}).",
                "a config.json that belongs to the weights",
                "copy or download the folder again",
            )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it is."""
    return _read_object(folder / "config.json")


def _read_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: cannot be read ({first_line(error)}).",
            "a JSON object, as UTF-8",
            "copy or download the folder again",
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds no JSON object.", "the file that save_pretrained writes")
    return found


def _numbers(data: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Every integer of nested mappings, with its key."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _numbers(value, name)
    elif isinstance(data, int | float) and not isinstance(data, bool):
        yield key, int(min(data, 1 << 62)) if data == data else 0


def _check_index(folder: Path) -> None:
    """A sharded folder's index names files of this folder, safetensors alone."""
    if not (folder / _INDEX).exists():
        return
    named = _read_object(folder / _INDEX).get("weight_map")
    files = (
        set(named.values())
        if isinstance(named, dict) and all(isinstance(v, str) for v in named.values())
        else {""}
    )
    for name in sorted(files):
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise UserError(
                f"{folder / _INDEX}: names {name!r} as a file of weights.",
                "safetensors files of this folder, all of them there",
                "copy or download the folder again",
            )


def vocabulary(folder: Path) -> int:
    """How many tokens the model has an embedding for, by its config; unbounded where that doesn't say."""
    config = read_config(folder)
    sizes = [part.get("vocab_size") for part in (config, config.get("text_config")) if isinstance(part, dict)]
    return next((size for size in sizes if isinstance(size, int)), 1 << 30)


def shapes(folder: Path) -> Shapes:
    """The shape of every tensor that the folder's safetensors hold."""
    return {
        name: shape
        for file in sorted(folder.glob("*.safetensors"))
        for name, shape in read_header(file).items()
    }


def read_header(file: Path) -> Shapes:
    """The shapes of a safetensors file's tensors; raises UserError where it is damaged."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            room = file.stat().st_size - 8 - length
            if not 0 < length <= _HEADER or room < 0:
                raise ValueError("it is cut off or empty")
            header = json.loads(stream.read(length))
        return {name: _shape(name, header[name], room) for name in header if name != "__metadata__"}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file}: not a whole safetensors file ({first_line(error)}).",
            "weights saved by save_pretrained",
            "copy or download the file again",
        ) from None


def _shape(name: str, tensor: Any, room: int) -> tuple[int, ...]:
    shape, (start, end) = tuple(tensor["shape"]), tensor["data_offsets"]
    if not all(type(size) is int and size >= 0 for size in (*shape, start, end)):
        raise ValueError(f"{name} has the shape {list(shape)} from {start} to {end}")
    if not start <= end <= room or prod(shape) > 2 * (end - start):  # no number takes less than half a byte
        raise ValueError(f"{name} has {end - start} bytes up to {end} of {room} for {list(shape)}")
    return shape

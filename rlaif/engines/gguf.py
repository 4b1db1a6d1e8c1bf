"""GGUF files as model folders: weights, tokenizer and chat template are converted once and kept in a cache
folder.

The folder is named after the file and the SHA-256 of its content, so the same file is converted once on a
machine, wherever it lies, and an exchanged file is another model. Weights are kept in fp32, as exact as the
file has them; this is about seven times the size of a file with four bits a weight.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import struct
import tempfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlaif import DISTRIBUTION
from rlaif.errors import UserError
from rlaif.runs.storage import move_into_place

SOURCE = "gguf.json"  # beside the converted weights: which file they were made from
_ALONE = "model.gguf"
_HEAD = struct.Struct("<4sIQQ")  # magic, version, number of tensors, number of keys


def gguf_file(name: str | Path) -> Path | None:
    """The GGUF file that a name means: itself, or the only one of a folder without a config.json."""
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf" and not path.is_dir():
        if not path.is_file():
            raise UserError(f"{name}: no such GGUF file.", "a file that is there", "check the spelling")
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise UserError(
            f"{name}: holds several GGUF files ({', '.join(p.name for p in found[:4])}).",
            "one model",
            f"name the file: {found[0]}",
        )
    return found[0] if found else None


def converted(file: Path) -> Path:
    """The folder of safetensors, tokenizer and chat template that the file is converted into, once."""
    folder, digest = _place(file)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(folder.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be converting the same file
            if not folder.is_dir():
                partial = folder.with_name(folder.name + ".partial")
                shutil.rmtree(partial, ignore_errors=True)
                _convert(file, partial)
                (partial / SOURCE).write_text(json.dumps({"file": file.name, "sha256": digest}) + "\n")
                move_into_place(partial, folder)
    return folder


def to_convert(name: str | Path) -> Path | None:
    """The folder that a GGUF file will be converted into, None where there is nothing left to convert."""
    file = gguf_file(name)
    folder = _place(file)[0] if file else None
    return folder if folder and not folder.is_dir() else None


def _place(file: Path) -> tuple[Path, str]:
    """(the folder a file is converted into, the SHA-256 of its content)."""
    state = file.stat()
    digest = _digest(file, state.st_size, state.st_mtime_ns)
    return cache_folder() / "gguf" / f"{file.stem}-{digest[:16]}", digest


def cache_folder() -> Path:
    """Where rlaif keeps what it can make again: $RLAIF_CACHE, else `rlaif` in the user's cache folder."""
    own = os.environ.get("RLAIF_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlaif"


@lru_cache(maxsize=16)
def _digest(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _convert(file: Path, folder: Path) -> None:
    """Write the file's model into a new folder; raises UserError where it holds no whole language model."""
    if find_spec("gguf") is None:
        raise UserError(
            f"{file}: GGUF files are read with the package gguf, which is not installed.",
            "the extra of that name",
            f'pip install "{DISTRIBUTION}[gguf]"',
        )
    try:
        with tempfile.TemporaryDirectory() as alone:  # what else lies beside the file is not looked at
            (Path(alone) / _ALONE).symlink_to(file.resolve())
            _check(file, alone)
            model, tokenizer = _read(alone)
    except Exception as error:  # a damaged file surfaces in whatever class trips over it
        raise UserError(
            f"{file}: not a GGUF file of a language model that can be read, or not a whole one "
            f"({str(error).strip().split(chr(10))[0][:300] or type(error).__name__}).",
            "a whole GGUF file of an architecture that transformers converts",
            "copy or download the file again, or serve it (llama.cpp) and use engine: openai",
        ) from None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check(file: Path, alone: str) -> None:
    """ValueError for another kind of file, and where its numbers ask for more layers than it has tensors: a
    model is built before its weights are read."""
    from transformers import AutoConfig

    with file.open("rb") as stream:
        head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size or not head.startswith(b"GGUF"):
        raise ValueError("it does not begin as one")
    tensors = _HEAD.unpack(head)[2]
    config = AutoConfig.from_pretrained(alone, gguf_file=_ALONE, trust_remote_code=False)
    layers = config.get_text_config().num_hidden_layers
    if layers > tensors:
        raise ValueError(f"it names {layers} layers and has {tensors} tensors")


def _read(alone: str) -> tuple[Any, Any]:
    """(model, tokenizer) of the file in a folder of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=_ALONE, trust_remote_code=False)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        alone,
        gguf_file=_ALONE,
        quantization_config=GgufConfig(dequantize=True),
        dtype="float32",
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{len(missing)} tensors are missing, {missing[0]} among them")
    return model, tokenizer

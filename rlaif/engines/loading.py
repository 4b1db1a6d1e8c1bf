"""Opening model folders: safetensors only, no remote code, complete weights, and errors that say what is wrong.

A hub id is first turned into a local folder, so everything after that deals with folders alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.errors import UserError
from rlaif.prompts import end_of_turn

if TYPE_CHECKING:
    import torch

UNBOUNDED = 1 << 30
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_FILES = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt")
# Below this many parameters bf16 saves nothing on a GPU and costs accuracy.
_SMALL = 100_000_000


def model_folder(name: str | Path) -> Path:
    """The local folder of a model, downloading a hub id's safetensors and tokenizer first; checks what it holds."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _download(str(name))
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{name}: not a model folder (no config.json).", "a folder written by save_pretrained"
        )
    if not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(p.name for p in folder.glob("*.bin"))) or "none"
        raise UserError(f"{name}: no safetensors weights (other weight files: {found}).",
                        "weights as safetensors; pickled ones can run code and are never opened",
                        "convert them once with model.save_pretrained(…) in a place you trust")  # fmt: skip
    return folder


def _download(name: str) -> Path:
    if not _HUB_ID.fullmatch(name):
        raise UserError(f"{name}: no such model folder.", "a folder written by save_pretrained, or a hub id such "
                        "as organisation/model", "check the spelling, or build the model first")  # fmt: skip
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:  # network, permission and spelling errors come in many classes
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{name}: no such folder here, and the hub did not give it ({type(error).__name__}: {reason}).",
                        "a local model folder, or a hub id that can be reached",
                        "check the spelling; gated models need `hf auth login`") from None  # fmt: skip


def load_tokenizer(path: str | Path) -> Any:
    """The folder's tokenizer, padding on the left, with a pad token that is not EOS wherever it has a spare one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_folder(path), trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # a missing or broken tokenizer surfaces as anything from OSError to TypeError
        raise UserError(f"{path}: its tokenizer cannot be loaded ({_first_line(error)}).",
                        "tokenizer.json and tokenizer_config.json beside the weights",
                        "save it there with tokenizer.save_pretrained(…)") from None  # fmt: skip
    tokenizer.padding_side = "left"
    # Over-long inputs are counted by whoever meets them; the library's warning would only add noise.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    _ensure_pad(tokenizer)
    return tokenizer


def _ensure_pad(tokenizer: Any) -> None:
    """Choose a pad token among those the vocabulary has: a spare pad-like one, else unknown, else BOS, else EOS."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    spare = [t for t in tokenizer.get_added_vocab() if "pad" in t.lower()]
    for token in [*spare, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token]:
        if token is not None and token != tokenizer.eos_token:
            tokenizer.pad_token = token
            return
    if tokenizer.eos_token is None:
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no special token at all.",
                        "at least an EOS token", "set eos_token and pad_token and save the tokenizer")  # fmt: skip
    tokenizer.pad_token = tokenizer.eos_token


def resolve_device(name: str = "auto") -> torch.device:
    """The device a config names; "auto" takes a GPU where there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device "{name}" cannot be used here ({_first_line(error)}).', "auto, cpu, cuda, cuda:1 or mps",
                        "set device: auto") from None  # fmt: skip
    return device


def resolve_dtype(name: str, device: torch.device, params: int) -> torch.dtype:
    """The dtype a config names; "auto" is fp32 on a CPU and for small models, bf16 for others on a GPU."""
    import torch

    if name == "auto":
        return torch.float32 if device.type == "cpu" or params < _SMALL else torch.bfloat16
    return getattr(torch, name)


def count_params(folder: Path) -> int:
    """How many numbers the folder's safetensors hold, read from their headers alone."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in read_header(file).items():
            if name != "__metadata__":
                count = 1
                for size in tensor["shape"]:
                    count *= size
                total += count
    return total


def read_header(file: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: name → dtype, shape, offsets."""
    try:
        with file.open("rb") as stream:
            return json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except (OSError, ValueError, MemoryError, OverflowError):
        raise UserError(f"{file}: not a whole safetensors file.", "weights saved by save_pretrained",
                        "copy or download the file again") from None  # fmt: skip


def load_causal_lm(path: str | Path, device: str = "auto", dtype: str = "auto") -> Any:
    """A language model in eval mode; raises UserError where weights are missing, an LM head above all."""
    from transformers import AutoModelForCausalLM

    model, missing = _load(AutoModelForCausalLM, path, device, dtype)
    if missing:
        raise UserError(f"{path}: not a whole language model, these weights are missing: {_some(missing)}.",
                        "a causal language model with its head", "name the model that was trained to write text")  # fmt: skip
    return model


def load_reward_model(
    path: str | Path, device: str = "auto", dtype: str = "auto", new_head: bool = False
) -> Any:
    """A sequence classifier with one output, in eval mode; `new_head` allows a language model to start from."""
    from transformers import AutoModelForSequenceClassification

    model, missing = _load(AutoModelForSequenceClassification, path, device, dtype, num_labels=1)
    lost = [name for name in missing if not (new_head and name.split(".")[0] in ("score", "classifier"))]
    if lost:
        raise UserError(f"{path}: not a whole reward model, these weights are missing: {_some(lost)}.",
                        "a sequence-classification folder with one output")  # fmt: skip
    if model.config.pad_token_id is None:
        model.config.pad_token_id = load_tokenizer(path).pad_token_id
    return model


def _load(auto: Any, path: str | Path, device: str, dtype: str, **options: Any) -> tuple[Any, list[str]]:
    """(model, names of weights the folder lacks)."""
    folder = model_folder(path)
    target = resolve_device(device)
    number_type = resolve_dtype(dtype, target, count_params(folder))
    try:
        with _quiet():
            model, info = auto.from_pretrained(folder, dtype=number_type, use_safetensors=True, trust_remote_code=False,
                                           output_loading_info=True, **options)  # fmt: skip
    except Exception as error:  # config and weights that do not fit surface in many classes
        raise UserError(f"{path}: cannot be loaded as {auto.__name__.removeprefix('AutoModelFor')} "
                        f"({_first_line(error)}).", "a model transformers knows without remote code, saved whole",
                        "check the folder with `rlaif check`, or use another model") from None  # fmt: skip
    return model.to(target).eval(), sorted(info["missing_keys"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' load report and bars: what it would say is in our errors."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a text: the generation config's, the tokenizer's, the chat template's end of turn."""
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = [named] if isinstance(named, int) else named or []
    ids = [*listed, tokenizer.eos_token_id, end_of_turn(tokenizer)]
    return tuple(dict.fromkeys(i for i in ids if i is not None))


def context_length(model: Any) -> int:
    """The most tokens the model can read, `UNBOUNDED` where its config sets no limit."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]

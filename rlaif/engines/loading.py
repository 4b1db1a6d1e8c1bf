"""Opening model folders: safetensors only, no remote code, complete weights, and errors that say what is
wrong.

A hub id or a GGUF file is first turned into a local folder, so everything after that deals with folders
alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.engines import weights
from rlaif.engines.gguf import converted, gguf_file
from rlaif.errors import UserError, first_line
from rlaif.extends import shipped
from rlaif.prompting.chat import end_of_turn, turn_tokens

if TYPE_CHECKING:
    import torch

UNBOUNDED = 1 << 30
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_FILES = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt")
# Below this many parameters bf16 saves nothing on a GPU and costs accuracy.
_SMALL = 100_000_000


def model_folder(name: str | Path) -> Path:
    """The local folder of a model, from the working directory or among what comes with rlaif, downloading a
    hub id's safetensors and tokenizer or converting a GGUF file first; checks what it holds."""
    folder = Path(name).expanduser()
    if file := gguf_file(name):
        with _local_files_only(bars=True):  # a conversion takes a minute and more
            folder = converted(file)
    elif folder.is_file():
        raise UserError(f"{name}: a file, which no model is.", "a model's folder, a hub id or a GGUF file")
    elif not folder.is_dir():
        own = shipped(str(name))
        folder = own if own and (own / "config.json").is_file() else _download(str(name))
    if (folder / "manifest.json").is_file() and (folder / "config.yaml").is_file():
        raise UserError(
            f"{name}: a run, which no model is.",
            "a model's folder, a hub id or a GGUF file, or a config where one may be named",
            f"name the run's config ({folder / 'config.yaml'}), or one of the models in its stages' folders",
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{name}: not a model folder (no config.json).", "a folder written by save_pretrained"
        )
    if (folder / "adapter_config.json").exists():  # transformers would load what that names as well
        raise UserError(
            f"{name}: holds an adapter (adapter_config.json).",
            "a whole model",
            "merge it with peft's merge_and_unload(), or name it in ppo.lora.adapter",
        )
    if not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(p.name for p in folder.glob("*.bin"))) or "none"
        raise UserError(
            f"{name}: no safetensors weights (other weight files: {found}).",
            "weights as safetensors; pickled ones can run code and are never opened",
            "convert them once with model.save_pretrained(…) in a place you trust",
        )
    weights.check(folder)
    return folder


def _download(name: str) -> Path:
    if not _HUB_ID.fullmatch(name):
        raise UserError(
            f"{name}: no such model folder.",
            "a folder written by save_pretrained, a GGUF file, or a hub id such as organisation/model",
            "check the spelling, or build the model first",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:  # network, permission and spelling errors come in many classes
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{name}: no such folder here, and the hub did not give it ({type(error).__name__}: {reason}).",
            "a local model folder, or a hub id that can be reached",
            "check the spelling; gated models need `hf auth login`",
        ) from None


def load_tokenizer(
    path: str | Path, chat_template_kwargs: Mapping[str, Any] | None = None, alone: bool = False
) -> Any:
    """The folder's tokenizer, padding on the left, with a pad token that is not EOS wherever it has a spare
    one.

    What turns are made of is special in it, whatever its files say, so that no text holds it.
    `chat_template_kwargs` go to the chat template and are saved with the tokenizer. `alone`: the folder need
    hold no weights, and any there are do not matter.
    """
    from transformers import AutoTokenizer

    bare = alone and (Path(path).expanduser() / "tokenizer.json").is_file()
    folder = Path(path).expanduser() if bare else model_folder(path)
    try:
        with _local_files_only():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a missing or broken tokenizer surfaces as anything from OSError to TypeError
        raise UserError(
            f"{path}: its tokenizer cannot be loaded ({first_line(error)}).",
            "tokenizer.json and tokenizer_config.json beside the weights, as UTF-8",
            "save it there with tokenizer.save_pretrained(…)",
        ) from None
    tokenizer.padding_side = "left"
    # Over-long inputs are counted where they are read; the library's warning would only add noise.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    tokenizer.init_kwargs.pop("auto_map", None)
    if chat_template_kwargs:
        tokenizer.init_kwargs["chat_template_kwargs"] = dict(chat_template_kwargs)
    rows = UNBOUNDED if alone else weights.vocabulary(folder)
    _ensure_pad(tokenizer, rows)
    _ensure_special(tokenizer)
    _refuse_beyond(tokenizer, rows, path)
    return tokenizer


def _ensure_pad(tokenizer: Any, rows: int = UNBOUNDED) -> None:
    """Choose a pad token among those the model has one of its `rows` for: a spare pad-like one, else unknown,
    else BOS, else EOS. What stands in place of padding is masked, so that any will do.
    """
    own = tokenizer.pad_token_id
    if own is not None and own != tokenizer.eos_token_id and 0 <= own < rows:
        return
    added = tokenizer.get_added_vocab()
    spare = [t for t in added if "pad" in t.lower() and added[t] < rows]
    for token in [*spare, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token]:
        if token is not None and token != tokenizer.eos_token:
            tokenizer.pad_token = token
            return
    if tokenizer.eos_token is None:
        raise UserError(
            f"{tokenizer.name_or_path}: its tokenizer has no special token at all.",
            "at least an EOS token",
            "set eos_token and pad_token and save the tokenizer",
        )
    tokenizer.pad_token = tokenizer.eos_token


def _ensure_special(tokenizer: Any) -> None:
    """Make the tokens of turns and what ends them special: some tokenizers have them as added tokens alone,
    which then stay in texts.
    """
    from tokenizers import AddedToken

    added = tokenizer.added_tokens_decoder
    turns = {end_of_turn(tokenizer), *turn_tokens(tokenizer)} & added.keys()
    plain = [added[i].content for i in sorted(turns) if not added[i].special]
    if plain:
        special = [AddedToken(content, special=True, normalized=False) for content in plain]
        tokenizer.add_special_tokens({"extra_special_tokens": special}, replace_extra_special_tokens=False)


def _refuse_beyond(tokenizer: Any, rows: int, path: str | Path) -> None:
    """UserError where a text, or the chat template, can bring a token that the model has no embedding for."""
    beyond = {id: token for token, id in tokenizer.get_vocab().items() if id >= rows}
    if not beyond:
        return
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    written = {tokenizer.eos_token_id, end_of_turn(tokenizer), *turn_tokens(tokenizer, generation=True)}
    missing = [f"{beyond[id]!r} ({id})" for id in sorted(beyond) if id not in special or id in written]
    if missing:
        raise UserError(
            f"{path}: its tokenizer has tokens that its embedding of {rows} rows lacks: {_some(missing)}.",
            "a tokenizer and weights that belong together",
            "model.resize_token_embeddings(len(tokenizer)), train the new rows, and save both",
        )


def resolve_device(name: str = "auto") -> torch.device:
    """The device a config names; "auto" takes a GPU where there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f'device "{name}" cannot be used here ({first_line(error)}).',
            "auto, cpu, cuda, cuda:1 or mps",
            "set device: auto",
        ) from None
    return device


def resolve_dtype(name: str, device: torch.device, params: int) -> torch.dtype:
    """The dtype a config names; "auto" is fp32 on a CPU and for small models, bf16 for others on a GPU."""
    import torch

    if name == "auto":
        return torch.float32 if device.type == "cpu" or params < _SMALL else torch.bfloat16
    return getattr(torch, name)


def frozen_dtype(name: str, device: torch.device, folder: Path, tokenizer: Any) -> torch.dtype:
    """The same for a model that only answers: "auto" takes bf16 on a CPU, too, where that is faster there and
    the model's verdicts stay the same (`rlaif.engines.precision`)."""
    import torch

    from rlaif.engines.precision import bf16_suits

    params = count_params(folder)
    measured = name == "auto" and device.type == "cpu" and params >= _SMALL
    if measured and bf16_suits(folder, lambda: load_causal_lm(folder, "cpu", "float32"), tokenizer):
        return torch.bfloat16
    return resolve_dtype(name, device, params)


def count_params(folder: Path) -> int:
    """How many numbers the folder's safetensors hold, read from their headers alone."""
    return sum(prod(shape) for shape in weights.shapes(folder).values())


def load_model_config(path: str | Path) -> Any:
    """The folder's config as transformers knows it, without anything in it that names code to fetch."""
    from transformers import AutoConfig

    folder = model_folder(path)
    try:
        with _local_files_only():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise _unloadable(path, "a model", error) from None
    config._attn_implementation = config._experts_implementation = None
    for own in (config, config.get_text_config()):
        for name in ("auto_map", "transformers_weights", "use_kernels", "kernel_config"):
            vars(own).pop(name, None)
        pad = getattr(own, "pad_token_id", None)
        if pad is not None and pad >= weights.vocabulary(folder):
            own.pad_token_id = None
    return config


def load_causal_lm(path: str | Path, device: str = "auto", dtype: str = "auto") -> Any:
    """A language model in eval mode; raises UserError where weights are missing, an LM head above all."""
    from transformers import AutoModelForCausalLM

    model, missing = _load(AutoModelForCausalLM, path, device, dtype)
    if missing:
        raise UserError(
            f"{path}: not a whole language model, these weights are missing: {_some(missing)}.",
            "a causal language model with its head",
            "name the model that was trained to write text",
        )
    return model


def load_reward_model(
    path: str | Path, device: str = "auto", dtype: str = "auto", new_head: bool = False
) -> Any:
    """A sequence classifier with one output, in eval mode; `new_head` allows a language model to start
    from."""
    from transformers import AutoModelForSequenceClassification

    model, missing = _load(AutoModelForSequenceClassification, path, device, dtype, labels=1)
    lost = [name for name in missing if not (new_head and name.split(".")[0] in ("score", "classifier"))]
    if lost:
        raise UserError(
            f"{path}: not a whole reward model, these weights are missing: {_some(lost)}.",
            "a sequence-classification folder with one output",
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = load_tokenizer(path).pad_token_id
    return model


def _load(auto: Any, path: str | Path, device: str, dtype: str, labels: int = 0) -> tuple[Any, list[str]]:
    """(model, names of weights the folder lacks)."""
    folder, config = model_folder(path), load_model_config(path)
    if getattr(config, "quantization_config", None):  # whose layers may be code of the hub
        raise UserError(
            f"{path}: its weights are quantised.",
            "weights in floating point",
            "serve it with engine: vllm or openai, or use the model it was made from",
        )
    if labels:
        config.num_labels = labels
    target = resolve_device(device)
    number_type = resolve_dtype(dtype, target, count_params(folder))
    try:
        with _local_files_only():
            model, info = auto.from_pretrained(
                folder,
                config=config,
                dtype=number_type,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # config and weights that do not fit surface in many classes
        raise _unloadable(path, auto.__name__.removeprefix("AutoModelFor"), error) from None
    return model.to(target).eval(), sorted(info["missing_keys"])


def _unloadable(path: str | Path, kind: str, error: Exception) -> UserError:
    return UserError(
        f"{path}: cannot be loaded as {kind} ({first_line(error)}).",
        "a model transformers knows without remote code, saved whole",
        "check the folder with `rlaif check`, or use another model",
    )


@contextmanager
def _local_files_only(bars: bool = False) -> Iterator[None]:
    """Nothing but the folder is opened, whatever its files name; and without transformers' load report and,
    unless asked for, its bars: what it would say is in our errors.
    """
    from huggingface_hub import constants
    from transformers.utils import logging

    level, shown, offline = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        constants.HF_HUB_OFFLINE,
    )
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a text: the generation config's, the tokenizer's, the chat template's end of
    turn."""
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = [named] if isinstance(named, int) else named or []
    ids = [*listed, tokenizer.eos_token_id, end_of_turn(tokenizer)]
    return tuple(dict.fromkeys(i for i in ids if i is not None))


def context_length(model: Any) -> int:
    """The most tokens a model, or the model of a config, can read; `UNBOUNDED` where no limit is set."""
    config = getattr(model, "config", model).get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

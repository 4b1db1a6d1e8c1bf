"""LoRA (arXiv 2106.09685) for PPO and for judges: adapters in place, the reference as the same model with
them off, weights merged.

peft puts its layers into the model it is given, so to everything else the model stays what it was.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from rlaif import DISTRIBUTION
from rlaif.errors import UserError
from rlaif.options import LoraOptions

BASE = "base.json"  # beside an adapter: the content hash of the model it was trained on


def require_peft(what: str) -> None:
    """UserError where peft, which `what` needs, is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UserError(
            f"{what} needs peft, which is not installed.",
            "the extra `lora`",
            f"pip install '{DISTRIBUTION}[lora]'",
        ) from None


def attach(model: Any, options: LoraOptions, base: str, seed: int) -> Any:
    """Adapters in all linear layers of `model`, drawn by `seed` or loaded; → the peft model around it.

    `base` is the content hash of the model's folder; a saved adapter of another model is refused.
    """
    require_peft("ppo.lora")
    from peft import LoraConfig, get_peft_model

    folder = Path(options.adapter).expanduser() if options.adapter else None
    if folder:
        config = _saved_config(folder, base)
    else:
        head = ["score"] if hasattr(model, "score") else None  # it is trained whole
        config = LoraConfig(
            r=options.rank, lora_alpha=options.alpha, target_modules="all-linear", exclude_modules=head
        )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            with warnings.catch_warnings():  # of peft about transformers, which nobody here can heed
                warnings.simplefilter("ignore", FutureWarning)
                wrapped = get_peft_model(model, config)
        except ValueError as error:  # the layers it names are not there
            raise _other_base(folder, str(error).split(".")[0]) if folder else error from None
    if folder:
        _load(wrapped, folder)
    if hasattr(model, "score"):
        model.score.float().requires_grad_(True)
    return wrapped


@contextmanager
def without_adapters(model: Any) -> Iterator[Any]:
    """The model without its adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield model
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight by the name it has without adapters, with theirs merged in; the model itself stays as it
    is."""
    layers = [name for name, module in model.named_modules() if hasattr(module, "get_delta_weight")]
    inside = tuple(f"{name}." for name in layers)
    for name, weight in model.named_parameters():
        if not name.startswith(inside):
            yield name, weight
    for name in layers:
        layer = model.get_submodule(name)
        for own, weight in layer.base_layer.named_parameters():
            deltas = map(layer.get_delta_weight, layer.active_adapters if own == "weight" else ())
            yield f"{name}.{own}", reduce(torch.add, deltas, weight)


def save_adapter(wrapped: Any, folder: Path, base: str) -> None:
    """The adapter as a peft folder that says which model it belongs to."""
    wrapped.save_pretrained(folder)
    (folder / BASE).write_text(json.dumps({"base": base}) + "\n")


def _saved_config(folder: Path, base: str) -> Any:
    from peft import LoraConfig, PeftConfig

    if not (folder / "adapter_config.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            f"ppo.lora.adapter: {folder} is not an adapter saved as safetensors.",
            "a folder with adapter_config.json and adapter_model.safetensors",
        )
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise UserError(f"ppo.lora.adapter: {folder} holds {config.peft_type}, not LoRA.", "a LoRA adapter")
    try:
        known = json.loads((folder / BASE).read_text())["base"] if (folder / BASE).is_file() else base
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"ppo.lora.adapter: {folder / BASE} is damaged.",
            '{"base": "…"} as it was written',
            "copy the adapter again",
        ) from None
    if known != base:
        raise _other_base(folder, f"it was trained on a model whose content is {known}, this one's is {base}")
    config.inference_mode, config.lora_dropout = False, 0.0
    return config


def _load(wrapped: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    own = {name: weight.shape for name, weight in get_peft_model_state_dict(wrapped).items()}
    saved = load_file(folder / "adapter_model.safetensors")
    wrong = sorted(name for name in {*own, *saved} if name not in saved or own.get(name) != saved[name].shape)
    if wrong:
        raise _other_base(folder, f"{len(wrong)} of its weights do not fit, {wrong[0]} first")
    set_peft_model_state_dict(wrapped, saved)


def _other_base(folder: Path | None, why: str) -> UserError:
    return UserError(
        f"ppo.lora.adapter: {folder} belongs to another base model ({why}).",
        "an adapter saved for the policy this stage starts from",
        "name that model as policy.model, or leave ppo.lora.adapter out",
    )

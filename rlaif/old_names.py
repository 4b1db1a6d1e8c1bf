"""Options that had other names before: configs, `-s`, run folders and commands may still use those."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.errors import UserError

_PROMPTS = {"prompts": "num_prompts"}
_ONLINE = {"watch": "num_watched_prompts", "watch_judge": "judge_watched_prompts"}
_GROUPS = {**_ONLINE, "group": "group_size"}
# By the stage, or the key that holds the options: the name that an option had, and the one it has.
OLD_NAMES: dict[str, dict[str, str]] = {
    "sample": _PROMPTS,
    "best_of_n": _PROMPTS,
    "evaluate": {**_PROMPTS, "judge": "num_judged_prompts"},
    "reward": {"center": "center_coef"},
    "rloo": _GROUPS,
    "grpo": _GROUPS,
    "ppo": {
        **_ONLINE,
        "shared_trunk": "shared_trunk_vf_coef",
        "stop_kl": "max_update_kl",
        "ema": "ema_decay",
    },
    "ptx": {"block": "block_size"},
    "judge_card": {
        "pairs": "num_pairs",
        "accuracy": "min_accuracy",
        "ece": "max_ece",
        "order_flips": "max_order_flips",
        "invalid": "max_invalid",
        "mass": "min_answer_mass",
        "injected": "max_injected",
        "persuaded": "max_persuaded",
        "instructed": "max_instructed",
    },
}


_OLD_WORDS = {"--probe": "--pairs"}  # options of commands


class RenamedWarning(FutureWarning):
    """An option was given by the name that it had before."""


def with_new_names(data: Any, section: str = "") -> Any:
    """A config's plain data under the names that its options have now, with a `RenamedWarning` for each old
    one.

    `section` is the stage or the key that holds the data. Raises UserError where both names are given.
    """
    if isinstance(data, list | tuple):
        return [with_new_names(item) for item in data]
    if not isinstance(data, dict):
        return data
    section = str(data.get("stage", section)).partition("[")[0]
    found = {}
    for key, value in data.items():
        name = OLD_NAMES.get(section, {}).get(key, key)
        if name != key:
            if name in data:
                raise UserError(
                    f"{section}: {key} is the old name of {name}, and both are given.",
                    f"{section}.{name} alone",
                )
            warnings.warn(f"{section}.{key} is now {section}.{name}", RenamedWarning, stacklevel=2)
        found[name] = with_new_names(value, key)
    return found


def with_new_name(keys: Sequence[str], value: Any) -> tuple[list[str], Any]:
    """The same for one option: its name as a list of keys, from the section on, and its value."""
    data = value
    for key in reversed(keys):
        data = {key: data}
    data = with_new_names(data)
    names: list[str] = []
    for _ in keys:
        ((name, data),) = data.items()
        names.append(name)
    return names, data


def with_new_words(words: Sequence[str]) -> list[str]:
    """The words of a command under the names that its options have now, with a `RenamedWarning` for each old
    one.

    `--pairs` says where pairs come from and `--num-pairs` how many: it was the number in some commands, and
    `--probe` the file in others.
    """
    found: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        option, _, value = word.partition("=")
        number = (value or following).isdecimal() and not Path(value or following).exists()
        new = "--num-pairs" if option == "--pairs" and number else _OLD_WORDS.get(option, option)
        if new != option:
            warnings.warn(f"{option} is now {new}", RenamedWarning, stacklevel=2)
        found.append(new + word[len(option) :])
    return found

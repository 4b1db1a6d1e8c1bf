"""Writes docs/config.md: every option of a config.

    python docs/config.py          # writes the page; a test fails where it is not up to date

What is said of an option stands at the option (`rlaif.options`, `rlaif.config`).
"""

from __future__ import annotations

from pathlib import Path

from data import table

from rlaif.preflight.explained import Explained, explained, purpose

PAGE = Path(__file__).with_name("config.md")
TOP = """# The options of a config, one by one

Made by `python docs/config.py` from the code; a test compares them. `rlaif options STAGE OPTION` prints the \
same for one
option, and `rlaif options --schema` the JSON Schema with which an editor completes and checks a config.

A config has the keys of the run and a list `stages`, each entry with the key `stage` and that stage's \
options. `-s` names
an option as this page does: `-s ppo.updates=10`, `-s seed=1`. `a.b` is the key `b` of `a`, `a[].b` the key \
`b` of each entry
of the list `a`, and `<name>` stands for any name. A file is looked up beside the config, in the working \
directory and
among those that come with rlaif. `extends: FILE` takes over another config and changes some of its keys. \
What is marked ° changes
how a run is carried out or watched, and its results by rounding at most.
"""


def row(one: Explained) -> tuple[str, str, str]:
    """An option's line: its key, its type with range and default, its meaning."""
    kind = ", ".join(part for part in (one.type, one.range) if part)
    default = "required" if one.required else f"default {one.default_text}"
    return one.name, f"{kind}; {default}", one.meaning + ("" if one.affects_results else " °")


def page() -> str:
    """docs/config.md."""
    parts = [
        f"## `{section}`\n\n{purpose(section)}\n\n{table([row(one) for one in options])}\n"
        for section, options in explained().items()
    ]
    return "\n".join([TOP, *parts])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

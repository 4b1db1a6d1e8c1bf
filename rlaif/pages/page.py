"""HTML pages from templates: every value is escaped, nothing is loaded from anywhere, one file holds all.

Control characters, and those that turn the direction of writing, are spelt out: a text could otherwise hide
or reorder what stands beside it.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlaif.errors import printable
from rlaif.records import content_hash

STATIC = Path(__file__).parent / "static"  # scripts and styles of served pages
MOST_OF_A_NAME = 80  # characters; one of any length could fill a page, or look like several lines of it
MOST_CHARACTERS = 1500  # of one shown text, so that a page of examples stays small


def difference_in_words(change: Mapping[str, Any], a: str, b: str, same: bool) -> str:
    """A difference a − b in words; `same` says that nothing but the seed was chosen
    differently."""
    low, high = change["ci"] if change["ci"][0] is not None else (0.0, 0.0)
    if change["different"]:
        return f"{a if change['value'] > 0 else b} is ahead"
    if low <= 0 <= high:
        return "no difference shown"
    return "within seed noise: nothing else differs" if same else "not shown after correction"


def _shown(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return Markup(printable(value)) if isinstance(value, Markup) else printable(value)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "fixed": fixed,
        "ci": ci,
        "signed": signed,
        "cut": cut,
        "count": count,
        "shell": shlex.quote,
        "difference_in_words": difference_in_words,
    }
    return environment


def render_page(template: str, **values: Any) -> str:
    """A template's HTML with these values, all of them escaped."""
    return _environment().get_template(template).render(**values)


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template to a file, atomically; returns the path."""
    text = render_page(template, **values)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path


def fixed(value: float | None, digits: int = 2) -> str:
    """A number with fixed digits, a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, a true minus."""
    return (
        "–"
        if value is None or not math.isfinite(value)
        else f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")
    )


def ci(interval: Any, digits: int = 2) -> str:
    """An interval in brackets, which says where its upper end is open or where too few values allow none."""
    if interval is None:
        return ""
    known = [edge is not None and math.isfinite(edge) for edge in interval]
    if not known[0]:
        return "[no interval]"
    low, high = (
        signed_zero(edge, digits) if ok else "open" for edge, ok in zip(interval, known, strict=True)
    )
    return f"[{low}, {high}]" if known[1] else f"[{low}, open)"


def percent(value: float, interval: Any = None, digits: int = 0) -> str:
    """A share in percent, with its interval in brackets where there is one."""
    edges = interval or (None,)
    known = all(edge is not None and math.isfinite(edge) for edge in edges)
    brackets = f" [{', '.join(f'{edge:.{digits}%}' for edge in edges)}]" if known else ""
    return f"{value:.{digits}%}{brackets}"


def signed_zero(value: float, digits: int) -> str:
    """A number with fixed digits, a true minus and no minus before 0."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def count(value: float | None) -> str:
    """A whole number with thousands apart, a dash where there is none."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\u202f")


def one_line(name: str) -> str:
    """A name that others gave as it is shown: on one line, a long one cut, with its hash."""
    flat = " ".join(name.split())
    if len(flat) <= MOST_OF_A_NAME:
        return flat
    return f"{flat[:MOST_OF_A_NAME]}… ({content_hash(name)[:6]})"


def with_names_shown(data: Any, texts: frozenset[str] = frozenset()) -> Any:
    """Plain data with every name, also a key, as `one_line` shows it; what stands under the keys `texts` is
    left as it is."""
    if isinstance(data, Mapping):
        return {
            one_line(key): value
            if key in texts and isinstance(value, str)
            else with_names_shown(value, texts)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [with_names_shown(value, texts) for value in data]
    return one_line(data) if isinstance(data, str) else data


def cut(text: str) -> str:
    """A text shortened for showing, saying so."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} … ({len(text) - MOST_CHARACTERS} more characters)"

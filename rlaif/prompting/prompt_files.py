"""Prompts from anywhere: rows of ours, text lines, columns of text or conversations, pairs of TRL or HH-RLHF.

Rows of ours (`messages` and what else `Prompt` has) are checked strictly: a mistake in one is an error. Of
others' rows the prompt is taken and what cannot be used is dropped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.errors import UserError, nearest
from rlaif.options.data import PromptSourceOptions
from rlaif.prompting.conversations import (
    ZERO_BYTE,
    Unusable,
    asked,
    group_of,
    holds_zero_byte,
    shared_turns,
    turns_of,
)
from rlaif.prompting.tables import Place, read_table
from rlaif.records import Prompt

COLUMNS = ("prompt", "messages", "conversations")
PAIRED = ("chosen", "rejected")
EXAMPLE = 'rows such as {"messages": [{"role": "user", "content": "Hello"}]}, or {"prompt": "Hello"}'
Row = dict[str, Any]


@dataclass
class Prompts:
    """The prompts of a source, and what became of its rows: read = prompts + repeated + all of dropped."""

    prompts: list[Prompt] = field(default_factory=list)
    read: int = 0
    repeated: int = 0  # rows with the messages of an earlier one, merged into it
    cut: int = 0  # conversations that ended with a response, which is left out
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "in": self.read,
            "kept": len(self.prompts),
            "repeated": self.repeated,
            "responses_left_out": self.cut,
            "dropped": dict(sorted(self.dropped.items())),
        }


def left_out_in_words(counts: dict[str, Any], name: str) -> str:
    """The counts of `Prompts` in a sentence, empty where every row became a prompt as it was."""
    parts = [f"{n} × {reason}" for reason, n in counts.get("dropped", {}).items()]
    parts = ["dropped: " + ", ".join(parts)] if parts else []
    if n := counts.get("repeated"):
        parts.append(f"{n} rows repeat another one's messages: merged, with the tags of both")
    if n := counts.get("responses_left_out"):
        parts.append(f"{n} conversations end with a response, which is left out")
    return "; ".join([f"{name}: {counts['kept']} prompts of {counts['in']} rows", *parts]) if parts else ""


def load_prompts(source: PromptSourceOptions | Path) -> list[Prompt]:
    """The prompts of a source; see `read_prompts`."""
    return read_prompts(source).prompts


def read_prompts(source: PromptSourceOptions | Path) -> Prompts:
    """The prompts of a source, rows of the same messages merged into one with all their tags.

    Raises UserError where it holds no prompt, or one id or group with two meanings.
    """
    source = PromptSourceOptions(path=str(source)) if isinstance(source, Path) else source
    found = Prompts()
    kept: dict[Any, tuple[Place, Prompt]] = {}
    by_id: dict[str, Place] = {}
    read: Callable[[Place, Any], Prompt | Unusable] | None = None
    for place, row in read_table(source):
        read = read or _reader(source, place, row, found)
        found.read += 1
        prompt = read(place, row)
        if isinstance(prompt, Unusable):
            found.dropped[prompt] += 1
        else:
            _merge(kept, by_id, place, prompt)
    found.prompts = [prompt for _, prompt in kept.values()]
    found.repeated = found.read - len(kept) - found.dropped.total()
    if not found.prompts:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in found.dropped.items())
        raise UserError(f"{source.name}: holds no prompt{f' ({reasons})' if reasons else ''}.", EXAMPLE)
    return found


def _merge(kept: dict[Any, tuple[Place, Prompt]], by_id: dict[str, Place], place: Place, row: Prompt) -> None:
    """Put a row among those kept, into the one with its messages where there is one."""
    key = row.identity()
    first, known = kept.get(key, (place, row))
    if row.id in by_id and (key not in kept or known.id != row.id):
        raise UserError(
            f'{place}: the id "{row.id}" stands in {by_id[row.id].short} with another text.',
            "one id a prompt",
            f"give {place.short} another id, or none: it is then made from the messages",
        )
    if known.group and row.group and known.group != row.group:
        raise UserError(
            f'{place}: the group "{row.group}", but "{known.group}" in {first.short} for the same messages.',
            "one group a prompt",
            f"fix {place.short} of {place.file}",
        )
    tags = tuple(dict.fromkeys((*known.tags, *row.tags)))
    kept[key] = first, known.model_copy(update={"tags": tags, "group": known.group or row.group})
    by_id.setdefault(row.id, place)


def _reader(
    source: PromptSourceOptions, place: Place, first: Any, counts: Prompts
) -> Callable[[Place, Any], Prompt | Unusable]:
    """What reads a source's rows, decided by the first one."""
    named = {key: getattr(source, key) for key in ("column", "system", "group", "tags")}
    columns = list(first) if isinstance(first, dict) else []
    for name in filter(None, named.values()):
        if name not in columns:
            raise UserError(
                f'{place}: no column "{name}" — {nearest(name, columns) if columns else "the rows are texts"}'
            )
    ours = isinstance(first, dict) and "messages" in first and not {"prompt", "conversations"} & first.keys()
    if ours and place.unit == "line" and not any(named.values()):
        return _own
    column = source.column or (_column(columns, place) if columns else None)
    return lambda place, row: _foreign(row, source, column, counts)


def _column(columns: list[str], place: Place) -> str | None:
    """The column with the prompt; None where it is what a chosen and a rejected conversation share."""
    known = [name for name in COLUMNS if name in columns]
    if not known and set(PAIRED) <= set(columns):
        return None
    known = known or (columns if len(columns) == 1 else [])
    if len(known) == 1:
        return known[0]
    raise UserError(
        f"{place}: which column holds the prompt? There are {', '.join(known or columns)}.",
        f"a column named {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}, or its name",
        f"{' or '.join(f'column: {name}' for name in (known or columns)[:4])} in prompts: {{path: …}} of the "
        "config; with -s prompts.column=…; or --column of rlaif init",
    )


def _own(place: Place, row: Any) -> Prompt:
    """A row of ours; raises UserError for every mistake in it."""
    try:
        prompt = Prompt.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "row"
        raise UserError(
            f"{place}: {where}: {first['msg']}.",
            "a Prompt row of JSON: messages, and tags, group and source where there are some",
            f"fix {place.short} of {place.file}, or read the messages alone: {{path: …, column: messages}}",
        ) from None
    last = prompt.messages[-1].role
    if last != "user":
        raise UserError(
            f"{place}: the conversation ends with the {last}'s turn.",
            "a user's turn at the end",
            "cut what stands behind the last user's turn, or leave responses out: "
            "{path: …, column: messages}",
        )
    if holds_zero_byte((m.role, m.content) for m in prompt.messages):
        raise UserError(f"{place}: {ZERO_BYTE}.", "text", "fix or leave out the row")
    if any(m.role == "user" and not m.content.strip() for m in prompt.messages):
        raise UserError(
            f"{place}: a user's turn is empty.", "text in every user's turn", "fix or leave out the row"
        )
    return prompt


def _foreign(row: Any, source: PromptSourceOptions, column: str | None, counts: Prompts) -> Prompt | Unusable:
    """The prompt of somebody else's row, or why there is none."""
    cells: Row = row if isinstance(row, dict) else {"": row}
    if not isinstance(row, dict) and (column is not None or not isinstance(row, str)):
        return Unusable("a row without columns")
    if column is None and isinstance(row, dict):
        turns = shared_turns(*(cells.get(name) for name in PAIRED))
    else:
        turns = turns_of(cells.get(column or ""))
    parts = turns if isinstance(turns, Unusable) else asked(turns)
    if isinstance(parts, Unusable):
        return parts
    messages, responses = parts
    system, group, tags = (cells.get(getattr(source, key) or key) for key in ("system", "group", "tags"))
    if isinstance(system, str) and system.strip():
        if messages[0][0] == "system":
            return Unusable("two system prompts")
        messages = (("system", system), *messages)
    if holds_zero_byte(messages):
        return ZERO_BYTE
    labels = tags_of(tags)
    if labels is None:
        return Unusable("tags that are neither a list of texts nor a text")
    try:
        prompt = Prompt.model_validate(
            {
                "messages": [{"role": role, "content": content} for role, content in messages],
                "tags": labels,
                "group": group_of(group),
                "source": Path(source.path).name if source.path else source.name,
            }
        )
        prompt.to_json().encode()
    except (ValidationError, ValueError):
        return Unusable("not valid Unicode text")
    counts.cut += bool(responses)
    return prompt


def tags_of(value: Any) -> Iterable[str] | None:
    """Tags of a cell: a list, or a text with commas between them; None where it is neither."""
    if value is None:
        return ()
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return None
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))

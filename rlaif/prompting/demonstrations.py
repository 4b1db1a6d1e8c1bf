"""Demonstrations from anywhere: a conversation and the response that people, or another model, wrote to it.

Read are `prompt` and `response` or `completion` (texts, or turns as TRL has them), and conversations that end
with the assistant's turn (`messages`, or ShareGPT's `conversations`). What cannot be used is dropped and
counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from rlaif.errors import UserError
from rlaif.options.data import DataSourceOptions
from rlaif.prompting.conversations import (
    ZERO_BYTE,
    Turn,
    Unusable,
    asked,
    group_of,
    holds_zero_byte,
    turns_of,
)
from rlaif.prompting.tables import read_table
from rlaif.records import Prompt, Response

WRITTEN = ("response", "completion")
WHOLE = ("messages", "conversations")
EXAMPLE = (
    'rows such as {"prompt": "Hello", "response": "Hi!"}, or messages that end with the assistant\'s turn'
)


@dataclass
class Demonstrations:
    """The demonstrations of a source, and what became of its rows: read = rows + all of dropped."""

    rows: list[tuple[Prompt, Response]] = field(default_factory=list)
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def read_demonstrations(source: DataSourceOptions, option: str) -> Demonstrations:
    """The demonstrations of a source; raises UserError, which names the option, where it holds none."""
    found = Demonstrations()
    for _, row in read_table(source):
        found.read += 1
        made = demonstration(row)
        if isinstance(made, Unusable):
            found.dropped[made] += 1
        else:
            found.rows.append(made)
    if not found.rows:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in found.dropped.items())
        raise UserError(
            f"{option}: {source.name}: holds no demonstration{f' ({reasons})' if reasons else ''}.", EXAMPLE
        )
    return found


def demonstration(row: Any) -> tuple[Prompt, Response] | Unusable:
    """The prompt and the response of a row, or why it has none."""
    if not isinstance(row, dict):
        return Unusable("a row without columns")
    turns = _turns(row)
    parts = turns if isinstance(turns, Unusable) else asked(turns)
    if isinstance(parts, Unusable):
        return parts
    messages, responses = parts
    if len(responses) != 1:
        return Unusable("two responses in a row" if responses else "no response at the end")
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        if messages[0][0] == "system":
            return Unusable("two system prompts")
        messages = (("system", system), *messages)
    if holds_zero_byte((*messages, *responses)):
        return ZERO_BYTE
    try:
        prompt = Prompt.model_validate(
            {
                "messages": [{"role": role, "content": content} for role, content in messages],
                "group": group_of(row.get("group")),
            }
        )
        response = Response(prompt_id=prompt.id, text=responses[0][1])
        (prompt.to_json() + response.to_json()).encode()
    except (ValidationError, ValueError):
        return Unusable("not valid Unicode text")
    return prompt, response


def _turns(row: dict[str, Any]) -> tuple[Turn, ...] | Unusable:
    """The whole conversation of a row."""
    whole = next((row[name] for name in WHOLE if row.get(name) is not None), None)
    if whole is not None:
        return turns_of(whole) if isinstance(whole, list) else Unusable("a conversation that is no list")
    written = next((row[name] for name in WRITTEN if row.get(name) is not None), None)
    if row.get("prompt") is None or written is None:
        return Unusable("neither a prompt with a response nor a conversation")
    before = turns_of(row["prompt"])
    after = (("assistant", written),) if isinstance(written, str) else turns_of(written)
    for turns in (before, after):
        if isinstance(turns, Unusable):
            return turns
    return (*before, *after)  # type: ignore[misc]

"""The gold scorer: a held-out truth, where there is one, named in the config as `module:function`."""

from __future__ import annotations

from collections.abc import Callable

from rlaif.constitution import Constitution
from rlaif.plugin import load_function
from rlaif.records import Prompt

Gold = Callable[[Prompt, str], dict[str, bool]]


def load_gold(spec: str | None, constitution: Constitution) -> Gold | None:
    """(prompt, reply) → {principle id: kept?} by the function `score(messages, reply, principles)`."""
    if spec is None:
        return None
    score = load_function(spec, "gold")
    principles = [{"id": p.id, "text": p.text} for p in constitution.principles]
    return lambda prompt, reply: dict(score(prompt.chat, reply, principles))


def with_all(kept: dict[str, bool]) -> dict[str, bool]:
    """The per-principle truths and "all": every principle at once; nothing where the scorer knows no principle."""
    return {"all": all(kept.values()), **kept} if kept else {}

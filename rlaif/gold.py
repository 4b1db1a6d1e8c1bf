"""The gold scorer: a held-out truth, where there is one, named in the config as `module:function`."""

from __future__ import annotations

from collections.abc import Callable

from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.plugin import load_function
from rlaif.records import Prompt

Gold = Callable[[Prompt, str], dict[str, bool]]


def load_gold(spec: str | None, constitution: Constitution) -> Gold | None:
    """(prompt, reply) → {principle id: kept?} by the function `score(messages, reply, principles)`.

    What that raises, or gives instead of such a mapping, is raised as a UserError by the scorer.
    """
    if spec is None:
        return None
    score = load_function(spec, "gold")
    principles = [{"id": p.id, "text": p.text} for p in constitution.principles]

    def gold(prompt: Prompt, reply: str) -> dict[str, bool]:
        try:
            return dict(score(prompt.chat, reply, principles))
        except Exception as error:  # whatever a user's function does wrong
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            raise UserError(f"gold: {spec} failed ({reason}) on the reply {reply[:80]!r}.", "{principle id: kept or not}",
                            "mend it and run the same command again: it continues") from error  # fmt: skip

    return gold


def with_all(kept: dict[str, bool]) -> dict[str, bool]:
    """The per-principle truths and "all": every principle at once; nothing where the scorer knows no principle."""
    return {"all": all(kept.values()), **kept} if kept else {}

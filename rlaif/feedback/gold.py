"""The gold scorer: a held-out truth, where there is one, named in the config as `module:function`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlaif.constitution import Constitution
from rlaif.errors import UserError, reason_of
from rlaif.plugin import check_call, load_function
from rlaif.records import Prompt

Gold = Callable[[Prompt, str], dict[str, bool]]
PROBES = 8  # prompts a principle on which a scorer is tried


def load_gold(spec: str | None, constitution: Constitution) -> Gold | None:
    """(prompt, response) → {principle id: kept?} by the function `score(messages, response, principles)`.

    It is asked about the principles that apply to the prompt, each an {"id", "text"}; one that it leaves out,
    or answers with None, has no gold there. What it raises, or gives instead, is raised as a UserError by the
    scorer.
    """
    if spec is None:
        return None
    score = load_function(spec, "gold")
    check_call(score, f"gold: {spec}", "score(messages, response, principles)", [], "", [])

    def gold(prompt: Prompt, response: str) -> dict[str, bool]:
        principles = [{"id": p.id, "text": p.text} for p in constitution.applicable(prompt.tags)]
        try:
            given = dict(score(prompt.chat, response, principles)) if principles else {}
            return {p["id"]: _verdict(given[p["id"]]) for p in principles if given.get(p["id"]) is not None}
        except Exception as error:  # a user's function may raise anything
            raise UserError(
                f"gold: {spec} failed ({reason_of(error)}) on the response {response[:80]!r}.",
                "{principle id: kept or not}",
                "fix it and run the same command again: it continues",
            ) from error

    return gold


def _verdict(given: object) -> bool:
    if given not in (True, False):
        raise TypeError(f"{given!r} is neither True nor False")
    return bool(given)


def with_all(kept: dict[str, bool]) -> dict[str, bool]:
    """The per-principle truths and "all": every principle that has gold here; nothing where none has."""
    return {"all": all(kept.values()), **kept} if kept else {}


def ungraded(gold: Gold | None, constitution: Constitution, prompts: Sequence[Prompt]) -> list[str]:
    """Ids of the principles that the scorer says nothing about, tried on an empty response to a few prompts
    each."""
    if gold is None:
        return []
    found = []
    for principle in constitution.principles:
        tried = [prompt for prompt in prompts if principle.applies(prompt.tags)][:PROBES]
        if tried and not any(principle.id in gold(prompt, "") for prompt in tried):
            found.append(principle.id)
    return found


def no_gold(ids: Sequence[str], spec: str | None) -> list[str]:
    """What to tell of principles without gold: one line, none where all have it."""
    named = ", ".join(f"`{i}`" for i in ids)
    return (
        [f'No gold for {named}: {spec} cannot check this wording; gold\'s "all" is of the other principles.']
        if ids
        else []
    )

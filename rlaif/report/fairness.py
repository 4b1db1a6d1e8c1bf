"""What makes a comparison of two arms unfair: differences in how they are measured, beside their training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlaif.report.arms import Arm, ComparedRun
from rlaif.report.teachers import taught_by, weights

# Options that change what the policies are asked for, beside templates and sampling.
BOTH, NEITHER = "both", "neither"
PARTIAL = "The judge is partial"
ASKED = ("policy.chat_template_kwargs",)


def unfair(
    a: Arm, b: Arm, shared: int, differs: Mapping[str, Mapping[str, Any]], judge: str | None
) -> list[str]:
    """Sentences that the first lines of a comparison say; empty where both arms were measured alike.

    `shared` is the number of held-out prompts that both answered, `differs` as `differences` gives it, and
    `judge` the weights of the model that decides win rates, None where none does.
    """
    if not shared:
        return []
    return [*_prompts(a, b, shared), *_base(a, b), *_asked(differs), *_sampling(a, b), *_judge(a, b, judge)]


def _prompts(a: Arm, b: Arm, shared: int) -> Iterator[str]:
    for arm in (a, b):
        if len(arm.rows) > shared:
            yield (
                f"Other prompts: {shared} of {arm.name}'s {len(arm.rows)} held-out prompts are shared and "
                "compared; the others are left out."
            )


def _base(a: Arm, b: Arm) -> Iterator[str]:
    found = [_model(arm.first, "base") for arm in (a, b)]
    if all(found) and found[0] != found[1]:
        yield "Other models: the runs start from different policies, so that not all comes from training."


def _model(side: ComparedRun, policy: str) -> str | None:
    """The weights that wrote a policy's evaluated responses."""
    rows = side.reader.evaluations.get(policy, {}).values()
    texts = (side.reader.responses.get(row.response_id) for row in rows)
    return next((weights(text.model) for text in texts if text and text.model), None)


def _asked(differs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if differs["templates"]:
        yield (
            f"Other templates: {', '.join(sorted(differs['templates']))} are worded differently, so that a "
            "judge or a critic was asked for something else."
        )
    if any(key.startswith(ASKED) for key in differs["config"]):
        yield "Other chat templates: the policies were asked in different forms."


def _sampling(a: Arm, b: Arm) -> Iterator[str]:
    found = [_settings(arm.first) for arm in (a, b)]
    keys = sorted({key for settings in found for key in settings})
    apart = [key for key in keys if found[0].get(key) != found[1].get(key)]
    if apart and all(found):
        said = "; ".join(f"{key} {found[0].get(key, '–')} and {found[1].get(key, '–')}" for key in apart)
        yield f"Other sampling: the evaluated responses of {a.name} and {b.name} were made with {said}."


def _settings(side: ComparedRun) -> dict[str, Any]:
    """How the last policy's responses were sampled, and whether they were chosen among several."""
    texts = (side.reader.responses.get(row.response_id) for row in side.rows.values())
    sampling = next((text.sampling for text in texts if text and text.sampling), None)
    if sampling is None:
        return {}
    chosen = side.policy in side.reader.best_of_n_policies
    return {"top_p": 1.0, **sampling, "responses": "chosen among several" if chosen else "as sampled"}


def _judge(a: Arm, b: Arm, judge: str | None) -> Iterator[str]:
    if judge is None:
        return
    mine, theirs = _roles(a, judge), _roles(b, judge)
    for arm, other, own in ((a, b, mine - theirs), (b, a, theirs - mine)):
        if own:
            yield (
                f"{PARTIAL}: it {' and '.join(sorted(own))} that {arm.name} learned from, and not "
                f"those of {other.name}. Its win rate favours {arm.name}; --judge names another one."
            )


def taught(a: Arm, b: Arm, judge: str) -> str:
    """Which arm the judge with these weights had the larger part in training: an arm's letter, BOTH where its
    part was the same, or NEITHER."""
    mine, theirs = _roles(a, judge), _roles(b, judge)
    if mine == theirs:
        return BOTH if mine else NEITHER
    return a.letter if mine > theirs else b.letter if theirs > mine else BOTH


def _roles(arm: Arm, judge: str) -> set[str]:
    return set(taught_by(arm.first.reader, judge))

"""Functions of the user's own are tried before anything runs: a wrong one is found now and not inside PPO.

The gold scorer is tried where its principles are counted (`rlaif.feedback.gold.ungraded`).
"""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.errors import UserError, reason_of
from rlaif.human.rankings import simulate
from rlaif.options.sources import FunctionSource
from rlaif.plugin import check_call, load_function
from rlaif.records import Prompt, Response

TRIED = ("Yes.", "I cannot help with that.")  # the responses that functions are tried on


def try_functions(config: Config, constitution: Constitution, prompts: Sequence[Prompt]) -> None:
    """Call every reward function and annotator of a config once, on the first prompt; raises UserError for
    one that cannot be called or returns what its place has no use for."""
    rewards = [source.source for stage in config.stages for source in getattr(stage, "rewards", ())]
    for source in dict.fromkeys(rewards):
        if FunctionSource.takes(source):
            _try_reward(source, prompts[0])
    for stage in config.stages:
        human = getattr(stage, "human", None)
        if human is not None and human.annotator is not None:
            annotate = load_function(human.annotator, "annotator")
            call = "annotate(messages, responses, principles, seed=seed, **options)"
            check_call(annotate, f"annotator: {human.annotator}", call, [], [], [], seed=0, **human.options)
            shown = [Response(prompt_id=prompts[0].id, text=text) for text in TRIED]
            by_prompt = {prompts[0].id: shown}
            simulate(annotate, human.options, prompts[:1], by_prompt, constitution.principles, config.seed)


def _try_reward(source: str, prompt: Prompt) -> None:
    function = load_function(source, "rewards")
    check_call(function, f"rewards: {source}", "score(prompts, responses)", [], [])
    try:
        given = list(function([prompt.chat] * len(TRIED), list(TRIED)))
        scores = [None if score is None else float(score) for score in given]
    except UserError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise UserError(
            f"rewards: {source} failed when it was tried ({reason_of(error)}).",
            "a list of numbers, one for each response",
            "see docs/functions.md",
        ) from error
    if len(scores) != len(TRIED):
        raise UserError(
            f"rewards: {source} gave {len(scores)} scores for {len(TRIED)} responses when it was tried.",
            "a list of numbers, one for each response",
            "see docs/functions.md",
        )

"""PPO's reward function: a weighted sum of sources, each on the scale of its scores of reference samples.

A reward model scores at the last token. It reads the sampled tokens as they are where it shares the policy's
tokenizer, and otherwise the text, decoded and encoded anew with its own tokenizer and chat template. A
function reads text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rlaif.errors import UserError, reason_of
from rlaif.prompting.chat import TemplateRefused, encode_chat, encode_turn, end_of_turn
from rlaif.records import Prompt
from rlaif.rl.episodes import Episodes, join, micro_batches
from rlaif.rl.forward import final_scores
from rlaif.rl.ranks import Ranks
from rlaif.rl.texts import texts_of

NO_ROOM = "prompt and response do not fit the model's context"
Scorer = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float | None]]  # (prompts, responses) → scores


class RewardFailed(UserError):
    """A source of reward that gave no usable scores; nothing was learnt from its batch."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the raw scores of reference samples; fixed once, so that a score means
    the same all along."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, scores_B: Tensor) -> Scale:
        """The scale on which these scores have mean 0 and standard deviation 1; constant scores are only
        centred."""
        std = float(scores_B.std(correction=0))
        return cls(float(scores_B.mean()), std if std > 1e-6 else 1.0)


class Score(Protocol):
    """What scores episodes (→ B); `unread` is the share of the last batch that it could not read, or not to
    the end."""

    unread: float

    def why_unscorable(self, prompt: Prompt) -> str | None:
        """Why responses to this prompt cannot be read at all, None where they can."""
        ...

    def __call__(self, episodes: Episodes, prompts: Sequence[Prompt]) -> Tensor: ...


@dataclass
class Source:
    """One thing that is rewarded, what scores it, and its weight."""

    name: str
    weight: float
    score: Score
    scale: Scale = field(default_factory=Scale)


class Rewards:
    """The reward function of several sources; `seen` has each one's mean raw score of the last batch, of
    `count` episodes."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources, self.count = sources, 0
        self.seen: dict[str, float] = {}

    def __call__(self, episodes: Episodes, prompts: Sequence[Prompt]) -> Tensor:
        """Weighted sum of the scaled scores of each episode. → B"""
        self.seen, self.count = {}, len(episodes)
        total_B = torch.zeros(len(episodes), device=episodes.ids_BL.device)
        for source in self.sources:
            scores_B = self._raw(source, episodes, prompts)
            total_B += source.weight * (scores_B - source.scale.mean) / source.scale.std
        return total_B

    def _raw(self, source: Source, episodes: Episodes, prompts: Sequence[Prompt]) -> Tensor:
        scores_B = source.score(episodes, prompts).float()
        bad = (~scores_B.isfinite()).nonzero()[:, 0].tolist()
        if bad:
            raise RewardFailed(
                f"the reward {source.name} gave {float(scores_B[bad[0]])} for {len(bad)} of {len(episodes)} "
                f"responses, the first of them to {prompts[bad[0]].messages[-1].content[-80:]!r}.",
                "finite numbers; nothing was learnt from this batch",
            )
        label = "/".join(Path(source.name).parts[-3:])  # of a folder no more than tells it from others
        self.seen[f"score/{label}"] = float(scores_B.mean())
        if source.score.unread:
            self.seen[f"unread/{label}"] = source.score.unread
        return scores_B

    def gather_seen(self, ranks: Ranks) -> dict[str, float]:
        """`seen` of the whole batch, of which each process has read its share; to be called by all."""
        shares = ranks.gather([(self.count, self.seen)])
        names, total = {name for _, seen in shares for name in seen}, sum(count for count, _ in shares)
        return {
            name: sum(count * seen.get(name, 0.0) for count, seen in shares) / total for name in sorted(names)
        }

    def measure(
        self,
        batches: Sequence[tuple[Episodes, Sequence[Prompt]]],
        scaled: Sequence[str],
        tick: Callable[[int], None],
    ) -> None:
        """Fix the scales of the sources named in `scaled` on reference samples; `tick` is told of each
        batch's size."""
        for source in self.sources:
            if source.name in scaled:
                scores = []
                for episodes, prompts in batches:
                    scores.append(self._raw(source, episodes, prompts))
                    tick(len(episodes))
                source.scale = Scale.of(torch.cat(scores))


class FunctionReward:
    """Scores by a function of prompts and responses as text.

    Where it gives None it has no opinion: the response gets the mean of the batch's others, so that it
    neither gains nor loses by it.
    """

    def __init__(self, name: str, function: Scorer, tokenizer: Any) -> None:
        self.name, self.function, self.tokenizer = name, function, tokenizer
        self.unread = 0.0

    def why_unscorable(self, prompt: Prompt) -> str | None:
        """Nothing: text has no limit here."""
        return None

    def __call__(self, episodes: Episodes, prompts: Sequence[Prompt]) -> Tensor:
        """Raw score of each episode. → B"""
        scores = self.ask(prompts, texts_of(self.tokenizer, episodes))
        read = [score for score in scores if score is not None]
        self.unread = 1 - len(read) / len(scores)
        if not read:
            raise RewardFailed(
                f"the reward {self.name} has no opinion of any of {len(scores)} responses.",
                "a score for most responses",
                "look at what it is asked and what it returns",
            )
        mean = sum(read) / len(read)
        return torch.tensor([mean if s is None else s for s in scores], device=episodes.ids_BL.device)

    def ask(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        """The function's scores, checked; None where it has no opinion."""
        try:
            scores = [None if score is None else float(score) for score in self.function(prompts, texts)]
        except UserError:
            raise
        except Exception as error:  # a user's function may raise anything
            raise RewardFailed(
                f"the reward {self.name} failed ({reason_of(error)}).",
                "a list of numbers, one for each response",
                "fix it and run the same command again: it continues",
            ) from error
        if len(scores) != len(texts):
            raise RewardFailed(
                f"the reward {self.name} gave {len(scores)} scores for {len(texts)} responses.",
                "a list of numbers, one for each response, in their order",
            )
        return scores


def same_tokens(one: Any, other: Any, prompts: Sequence[Prompt]) -> bool:
    """Whether two tokenizers know the same tokens and write these prompts with them alike, or refuse the
    same."""

    def written(tokenizer: Any, prompt: Prompt) -> list[int] | None:
        try:
            return encode_chat(tokenizer, prompt.chat)
        except TemplateRefused:
            return None

    return one.get_vocab() == other.get_vocab() and all(written(one, p) == written(other, p) for p in prompts)


class ModelReward:
    """Scores by a sequence-classification model; with the `policy_tokenizer` it reads text and not the
    tokens.

    `own_tokens` says whether its vocabulary is the policy's.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        context: int,
        micro_batch: int,
        policy_tokenizer: Any = None,
        own_tokens: bool = True,
    ) -> None:
        self.model, self.tokenizer, self.policy_tokenizer = model, tokenizer, policy_tokenizer
        self.context, self.micro_batch, self.own_tokens = context, micro_batch, own_tokens
        self.end, self.unread = end_of_turn(tokenizer), 0.0

    def why_unscorable(self, prompt: Prompt) -> str | None:
        """Why the prompt leaves no room in the model's context, in its own tokens, or has none in its chat
        template."""
        try:
            return None if len(encode_chat(self.tokenizer, prompt.chat)) < self.context else NO_ROOM
        except TemplateRefused as refused:
            return refused.reason

    @torch.no_grad()
    def __call__(self, episodes: Episodes, prompts: Sequence[Prompt]) -> Tensor:
        """Raw score of each episode. → B"""
        read = self._as_text(episodes, prompts) if self.policy_tokenizer else self._closed(episodes)
        scores_B = torch.empty(len(read), device=read.ids_BL.device)
        every = torch.arange(len(read), device=scores_B.device)
        for rows in micro_batches(every, read.length_B, self.micro_batch):
            part = read.select(rows)
            scores_B[rows] = final_scores(self.model, part.ids_BL, part.length_B)
        return scores_B

    def _closed(self, episodes: Episodes) -> Episodes:
        """Ended responses with the end token the reward model was trained on: a policy may have several."""
        if self.end is None:
            return episodes
        ids_BL = episodes.ids_BL.clone()
        ended = episodes.ended_B.nonzero()[:, 0]
        ids_BL[ended, episodes.length_B[ended] - 1] = self.end
        return Episodes(ids_BL, episodes.prompt_B, episodes.response_B, episodes.ended_B)

    def _as_text(self, episodes: Episodes, prompts: Sequence[Prompt]) -> Episodes:
        texts = texts_of(self.policy_tokenizer, episodes)
        turns = [
            encode_turn(self.tokenizer, prompt.chat, text, self.end if ended else None)
            for prompt, text, ended in zip(prompts, texts, episodes.ended_B.tolist(), strict=True)
        ]
        # Text may take more tokens here than it took the policy; it is then read as far as it can be.
        self.unread = sum(len(p) + len(r) > self.context for p, r in turns) / len(turns)
        turns = [(p, r[: self.context - len(p)]) for p, r in turns]
        return join(
            [p for p, _ in turns], [r for _, r in turns], episodes.ended_B, self.tokenizer.pad_token_id
        )


def rebase_head(model: Any, scale: Scale, weight: float = 1.0) -> Any:
    """The model with a `score` head that gives weighted scaled scores: where a value model starts from."""
    old = model.score
    head = torch.nn.Linear(old.in_features, 1, device=old.weight.device, dtype=old.weight.dtype)
    bias = old.bias.detach() if old.bias is not None else torch.zeros(1, device=old.weight.device)
    head.weight.data = weight * old.weight.detach() / scale.std
    head.bias.data = weight * (bias - scale.mean) / scale.std
    model.score = head
    return model


def zero_head(model: Any) -> Any:
    """The model with a `score` head that gives 0 everywhere, the mean of scaled scores."""
    model.score = torch.nn.Linear(model.score.in_features, 1, device=model.device)
    for parameter in model.score.parameters():
        torch.nn.init.zeros_(parameter)
    return model

"""A reward model as PPO's reward function: its score at the last token, brought to the scale of reference samples.

The reward model reads the sampled tokens as they are where it shares the policy's tokenizer, and otherwise the text,
decoded and encoded anew with its own tokenizer and chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlaif.errors import UserError
from rlaif.prompts import encode_chat, encode_turn, end_of_turn
from rlaif.records import Prompt
from rlaif.rl.episodes import Episodes, join, micro_batches
from rlaif.rl.forward import final_scores


@dataclass(frozen=True)
class Scale:
    """Mean and spread of the raw scores of reference samples; fixed once, so that a score means the same all along."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, scores_B: Tensor) -> Scale:
        """The scale on which these scores have mean 0 and spread 1; constant scores are only centred."""
        std = float(scores_B.std(correction=0))
        return cls(float(scores_B.mean()), std if std > 1e-6 else 1.0)


def same_tokens(one: Any, other: Any, prompts: Sequence[Prompt]) -> bool:
    """Whether two tokenizers know the same tokens and write these prompts with them alike."""
    return one.get_vocab() == other.get_vocab() and all(
        encode_chat(one, p.chat) == encode_chat(other, p.chat) for p in prompts
    )


class ModelReward:
    """The reward function of a sequence-classification model; `policy_tokenizer` is given where the two differ."""

    def __init__(
        self, model: Any, tokenizer: Any, context: int, micro_batch: int, policy_tokenizer: Any = None
    ) -> None:
        self.model, self.tokenizer, self.policy_tokenizer = model, tokenizer, policy_tokenizer
        self.context, self.micro_batch = context, micro_batch
        self.end = end_of_turn(tokenizer)
        self.scale = Scale()

    @torch.no_grad()
    def __call__(self, episodes: Episodes, prompts: Sequence[Prompt]) -> Tensor:
        """Scaled score of each episode. → B"""
        read = self._as_text(episodes, prompts) if self.policy_tokenizer else self._closed(episodes)
        scores_B = torch.empty(len(read), device=read.ids_BL.device)
        every = torch.arange(len(read), device=scores_B.device)
        for rows in micro_batches(every, read.length_B, self.micro_batch):
            scores_B[rows] = final_scores(self.model, read.select(rows))
        return (scores_B - self.scale.mean) / self.scale.std

    def _closed(self, episodes: Episodes) -> Episodes:
        """Ended responses with the end token the reward model was trained on: a policy may have several."""
        if self.end is None:
            return episodes
        ids_BL = episodes.ids_BL.clone()
        ended = episodes.ended_B.nonzero()[:, 0]
        ids_BL[ended, episodes.length_B[ended] - 1] = self.end
        return Episodes(ids_BL, episodes.prompt_B, episodes.response_B, episodes.ended_B)

    def _as_text(self, episodes: Episodes, prompts: Sequence[Prompt]) -> Episodes:
        texts = self.policy_tokenizer.batch_decode(episodes.responses(), skip_special_tokens=True)
        turns = [
            encode_turn(self.tokenizer, prompt.chat, text.strip(), self.end if ended else None)
            for prompt, text, ended in zip(prompts, texts, episodes.ended_B.tolist(), strict=True)
        ]
        longest = max(len(prompt) + len(reply) for prompt, reply in turns)
        if longest > self.context:
            raise UserError(f"a response is {longest} tokens long with its prompt, but the reward model reads {self.context}.",
                            "a reward model that can read what the policy writes", "lower ppo.max_tokens")  # fmt: skip
        return join(
            [p for p, _ in turns], [r for _, r in turns], episodes.ended_B, self.tokenizer.pad_token_id
        )


def rebase_head(model: Any, scale: Scale) -> Any:
    """The model with a `score` head that gives scaled scores, bias included: where a value model starts from."""
    old = model.score
    head = torch.nn.Linear(old.in_features, 1, device=old.weight.device, dtype=old.weight.dtype)
    bias = old.bias.detach() if old.bias is not None else torch.zeros(1, device=old.weight.device)
    head.weight.data = old.weight.detach() / scale.std
    head.bias.data = (bias - scale.mean) / scale.std
    model.score = head
    return model


def zero_head(model: Any) -> Any:
    """The model with a `score` head that gives 0 everywhere, the mean of scaled scores."""
    model.score = torch.nn.Linear(model.score.in_features, 1, device=model.device)
    for parameter in model.score.parameters():
        torch.nn.init.zeros_(parameter)
    return model

"""Pre-training text beside PPO's episodes, so that the policy does not forget (arXiv 2203.02155, appendix
C.4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlaif.errors import UserError
from rlaif.prompting.chat import token_ids
from rlaif.rl.episodes import Episodes, join
from rlaif.runs.seeds import in_rounds


@dataclass(frozen=True)
class Pretraining:
    """Blocks of tokens, each of at least two, and how many go into an optimiser step with what weight."""

    blocks: Sequence[list[int]]
    size: int
    coef: float
    seed: int

    def parts(self, step: int, micro_batch: int, device: torch.device) -> list[Episodes]:
        """The blocks of the `step`-th optimiser step in micro-batches: a block's first token as prompt, the
        others as response."""
        drawn = in_rounds(self.blocks, step, self.size, self.seed)
        cut = [drawn[at : at + micro_batch] for at in range(0, len(drawn), micro_batch)]
        return [
            join(
                [b[:1] for b in part],
                [b[1:] for b in part],
                torch.ones(len(part), dtype=torch.bool, device=device),
                0,
            )
            for part in cut
        ]


def blocks_of(file: Path, tokenizer: Any, length: int) -> list[list[int]]:
    """A text file, or the `text` of JSONL rows, as one stream of tokens in blocks; each text ends with an
    EOS."""
    stream: list[int] = []
    for text in _texts(file):
        stream += [*token_ids(tokenizer, text), tokenizer.eos_token_id]
    blocks = [stream[at : at + length] for at in range(0, len(stream), length)]
    blocks = [block for block in blocks if len(block) > 1]
    if not blocks:
        raise UserError(
            f"ppo.ptx: {file} holds no text.", "text to mix in, .txt or .jsonl with a text in each row"
        )
    return blocks


def _texts(file: Path) -> list[str]:
    """The texts of a file; raises UserError that names the line which does not fit."""
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"ppo.ptx: {file} cannot be read ({error}).", "a UTF-8 file, .txt or .jsonl"
        ) from None
    if file.suffix != ".jsonl":
        return [content.strip()]
    texts = []
    for number, line in enumerate(content.split("\n"), 1):
        try:
            texts += [str(json.loads(line)["text"])] if line.strip() else []
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f'{file}:{number}: no row with a "text".', '{"text": "…"} a line') from None
    return texts

"""Trains a small causal language model on bundles: packing, the masked loss and the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from rlaif.playground.corpus import LABELS, WORD_LABEL, Bundle
from rlaif.playground.tokenizer import PAD_ID

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

WORD_SHARE = 4.0  # matching the forbidden word with a response's words is what the probe learns last


def flatten(
    bundle: Bundle,
) -> tuple[list[int], list[int], list[int], list[tuple[int, int, int, float, float]]]:
    """A bundle as one row: ids, positions, segments (0 = prefix) and targets.

    A target is (where it is predicted, id, other id, probability of the first, weight).
    """
    ids, start = list(bundle.prefix), len(bundle.prefix)
    positions, segments = list(range(start)), [0] * start
    targets = [(i - 1, ids[i], ids[i], 1.0, w) for i, w in enumerate(bundle.weights) if i and w]
    for number, branch in enumerate(bundle.branches, 1):
        for offset, (token, weight) in enumerate(zip(branch.ids, branch.weights, strict=True)):
            before = len(ids) - 1 if offset else start - 1
            if weight and branch.choice and offset == branch.choice[0]:
                targets.append((before, *branch.choice[1:], weight))
            elif weight:
                targets.append((before, token, token, 1.0, weight))
            ids.append(token)
            positions.append(start + offset)
            segments.append(number)
    return ids, positions, segments, targets


def all_marks(bundle: Bundle) -> list[tuple[int, int]]:
    """(place in the row, label) of all that the probe reads in a bundle."""
    marks, start = list(bundle.marks), len(bundle.prefix)
    for branch in bundle.branches:
        marks += [(start + place, label) for place, label in branch.marks]
        start += len(branch.ids)
    return marks


def collate(bundles: list[Bundle], grain: int = 64) -> dict[str, torch.Tensor]:
    """Bundles as padded tensors: ids, positions (B, L), mask (B, 1, L, L), and flat targets.

    L is a multiple of `grain`: with few distinct lengths a compiled model is compiled few times.
    """
    rows = [flatten(b) for b in bundles]
    longest = max(len(r[0]) for r in rows)
    length = math.ceil(longest / grain) * grain
    ids = torch.full((len(rows), length), PAD_ID)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    segments = torch.full((len(rows), length), -1)
    where, first, second, p, weight = [], [], [], [], []
    marks = [(i * length + at, label) for i, b in enumerate(bundles) for at, label in all_marks(b)]
    for i, (row_ids, row_positions, row_segments, targets) in enumerate(rows):
        n = len(row_ids)
        ids[i, :n] = torch.tensor(row_ids)
        positions[i, :n] = torch.tensor(row_positions)
        segments[i, :n] = torch.tensor(row_segments)
        for at, one, other, chance, w in targets:
            where.append(i * length + at)
            first.append(one)
            second.append(other)
            p.append(chance)
            weight.append(w)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0)
    return {
        "ids": ids,
        "positions": positions,
        "mask": (same & causal)[:, None],
        "where": torch.tensor(where),
        "first": torch.tensor(first),
        "second": torch.tensor(second),
        "p": torch.tensor(p),
        "weight": torch.tensor(weight),
        "marked": torch.tensor([at for at, _ in marks], dtype=torch.long),
        "label": torch.tensor([label for _, label in marks], dtype=torch.long),
    }


def run_layers(trunk: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden states (B, L, width) after the last norm, and half-way up."""
    hidden = trunk.embed_tokens(batch["ids"])
    rope = trunk.rotary_emb(hidden, batch["positions"])
    middle = hidden
    for number, layer in enumerate(trunk.layers, 1):
        hidden = layer(hidden, attention_mask=batch["mask"], position_embeddings=rope)
        if number == len(trunk.layers) // 2:
            middle = hidden
    return trunk.norm(hidden), middle


def loss_of(
    model: Any, batch: dict[str, torch.Tensor], probe: Any = None, layers: Any = run_layers
) -> torch.Tensor:
    """Weighted mean cross-entropy at the targets; a verdict's target is a distribution over two tokens.

    `probe` reads the fault of each marked sentence half-way up: seeing faults early is what the verdicts wait
    for.
    """
    hidden, middle = layers(model.model, {name: batch[name] for name in ("ids", "positions", "mask")})
    logp = F.log_softmax(model.lm_head(hidden.flatten(0, 1)[batch["where"]]), -1)
    one = logp.gather(1, batch["first"][:, None])[:, 0]
    other = logp.gather(1, batch["second"][:, None])[:, 0]
    loss = -(batch["p"] * one + (1 - batch["p"]) * other)
    mean = (loss * batch["weight"]).sum() / batch["weight"].sum()
    if probe is None or not len(batch["marked"]):
        return mean
    read = F.cross_entropy(probe(middle.flatten(0, 1)[batch["marked"]]), batch["label"], reduction="none")
    share = torch.where(batch["label"] >= WORD_LABEL, WORD_SHARE, 1.0)
    return mean + (read * share).sum() / share.sum()


def bucketed(sample: Callable[[], Bundle], size: int, pool: int = 8) -> Iterator[list[Bundle]]:
    """Endless batches of about equal length: `pool` batches are drawn, sorted by length and cut."""
    while True:
        drawn = sorted((sample() for _ in range(size * pool)), key=len)
        for start in range(0, len(drawn), size):
            yield drawn[start : start + size]


def schedule(step: int, steps: int, warmup: int = 100) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine down to a twentieth."""
    ramp = min(1.0, (step + 1) / max(1, min(warmup, steps // 5)))
    return ramp * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _optimizers(model: Any, weights: list[torch.nn.Parameter], peak: float) -> list[torch.optim.Optimizer]:
    inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
    known = set(map(id, inner))
    others = [p for p in weights if id(p) not in known]
    return [
        torch.optim.Muon(inner, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def train(
    model: LlamaForCausalLM,
    batches: Iterator[list[Bundle]],
    steps: int,
    peak: float,
    progress: Callable[[str], None] = print,
    fast: bool = False,
    grain: int = 64,
    probing: bool = False,
) -> float:
    """Muon for the layers' matrices and AdamW for the rest, with a cosine schedule; returns the smoothed
    loss.

    `fast` compiles the model; `probing` adds the probe of `loss_of`, which is then dropped.
    """
    probe = torch.nn.Linear(model.config.hidden_size, LABELS) if probing else None
    weights = [*model.parameters(), *(probe.parameters() if probe else ())]
    optimizers = _optimizers(model, weights, peak)
    layers = torch.compile(run_layers, dynamic=False) if fast else run_layers
    smooth, started = 0.0, time.perf_counter()
    model.train()
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = peak * schedule(step, steps)
        loss = loss_of(model, collate(next(batches), grain), probe, layers)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            progress(f"step {step}/{steps} loss {smooth:.4f} {time.perf_counter() - started:.0f} s")
    model.eval()
    return smooth

"""Judging a pair under 16 principles in both orders: shared-prefix scoring against what is done elsewhere.

    python benchmarks/labels.py --json labels.json

Sides, on the same tokens, turn and turn about, the peers at the batch size that is fastest for the strongest:
    shared       ours, batched as the transformers engine does it: `rlaif.engines.shared.score_shared`
    last token   batched full forwards, logits of the last position only (the strongest naive peer)
    all logits   batched full forwards, logits of every position
    generate     `model.generate` of an 8-token verdict that is then parsed (as distilabel's engine works)
A question is `--prefix` shared tokens and 16 suffixes of 32 tokens. The limit is naive tokens over unique
tokens: (P + S)·16·2 / (2P + 32·S) per comparison. Probabilities of the first answer are compared over all
verdicts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from measuring import interleaved, llama, machine, paired_ratio, spread
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlaif.config import ModelConfig
from rlaif.engines.shared import exact_limit, score_shared
from rlaif.engines.transformers import TokenizedQuestion, batches

PRINCIPLES, SUFFIX, VERDICT_TOKENS = 16, 32, 8
BATCH_TOKENS: int = ModelConfig.model_fields["batch_tokens"].default
BATCH_SIZES = (4, 16, 64, 256)
LENGTHS = {"long": 500, "short": 50}
ROOT = Path(__file__).parent.parent
NOTHING: Any = None  # the request a question came from, which scoring does not read


@dataclass
class Task:
    """Random questions to one model: prefixes [Q][P], suffixes [Q][16][32]; two questions (orders) a
    comparison."""

    model: Any
    prefixes: list[list[int]]
    suffixes: list[list[list[int]]]

    @classmethod
    def draw(cls, model: Any, prefix: int, comparisons: int) -> Task:
        """Questions of random tokens; token 0 is left out, since a peer may take it for padding."""
        generator = torch.Generator().manual_seed(0)

        def tokens(n: int) -> list[int]:
            return torch.randint(3, model.config.vocab_size, (n,), generator=generator).tolist()

        principles = [tokens(SUFFIX) for _ in range(PRINCIPLES)]
        return cls(model, [tokens(prefix) for _ in range(2 * comparisons)], [principles] * (2 * comparisons))

    @property
    def rows(self) -> Tensor:
        """Every question under every principle, written out. [Q·16, P + 32]"""
        whole = [[*p, *s] for p, group in zip(self.prefixes, self.suffixes, strict=True) for s in group]
        return torch.tensor(whole, device=self.model.device)


def answers(table: Tensor) -> Tensor:
    """P(A) against P(B) [N] from logits or log-probabilities [N, V]; tokens 1 and 2 stand for A and B."""
    return table[:, [1, 2]].float().softmax(-1)[:, 0]


def shared(task: Task) -> Tensor:
    """As the engine does it: questions in batches of a bounded number of tokens."""
    questions: list[Any] = [
        TokenizedQuestion(i, NOTHING, p, s)
        for i, (p, s) in enumerate(zip(task.prefixes, task.suffixes, strict=True))
    ]
    found: list[Any] = [None] * len(questions)
    for batch in batches(questions, lambda q: q.tokens, BATCH_TOKENS):
        table = score_shared(task.model, [q.prefix for q in batch], [q.suffixes for q in batch])
        for question, rows in zip(batch, table.split(PRINCIPLES), strict=True):
            found[question.index] = answers(rows)
    return torch.cat(found)


@torch.inference_mode()
def last_token(task: Task, size: int) -> Tensor:
    """Full forwards, the head at the last position only, in two dimensions: three cost a copy of it for each
    row in bf16."""
    tables = []
    for ids in task.rows.split(size):
        hidden = task.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        tables.append(task.model.get_output_embeddings()(hidden[:, -1]).float().log_softmax(-1))
    return answers(torch.cat(tables))


@torch.inference_mode()
def all_logits(task: Task, size: int) -> Tensor:
    """Full forwards with the logits of every position."""
    tables = [task.model(input_ids=ids, use_cache=False).logits[:, -1] for ids in task.rows.split(size)]
    return answers(torch.cat(tables).float().log_softmax(-1))


@torch.inference_mode()
def generate(task: Task, size: int) -> Tensor:
    """A greedy verdict of some tokens; what a parser would read is replaced by the first token's
    probabilities."""
    found = []
    for ids in task.rows.split(size):
        out = task.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=VERDICT_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
            eos_token_id=None,
        )
        found.append(out.logits[0])
    return answers(torch.cat(found))


def best_size(task: Task, clock: str) -> int:
    """The batch size at which a full forward is fastest."""
    trials = {str(s): lambda s=s: last_token(task, s) for s in BATCH_SIZES if s <= len(task.rows)}
    seconds = interleaved(trials, 1, clock)
    return int(min(seconds, key=lambda name: seconds[name]))


def fitting(size: int, task: Task) -> int:
    """The batch size, or fewer rows where the logits of all of them would need more than 2 GB."""
    return max(1, min(size, 2_000_000_000 // (4 * task.model.config.vocab_size * task.rows.shape[1])))


def measure(model: Any, prefix: int, options: argparse.Namespace) -> dict[str, Any]:
    """One model at one prefix length: seconds, ratios, the share of the limit, and how far the verdicts
    differ."""
    task = Task.draw(model, prefix, options.comparisons or (2 if prefix > 200 else 4))
    peers = {"last token": last_token, "all logits": all_logits, "generate": generate}
    size = best_size(task, options.clock)
    sizes = {"last token": size, "all logits": fitting(size, task), "generate": size}
    works: dict[str, Callable[[], Tensor]] = {"shared": lambda: shared(task)}
    works |= {name: lambda w=work, s=sizes[name]: w(task, s) for name, work in peers.items()}
    verdicts = {name: work() for name, work in works.items()}
    seconds = interleaved(works, options.repetitions, options.clock)
    limit = (prefix + SUFFIX) * PRINCIPLES * 2 / (2 * prefix + 2 * PRINCIPLES * SUFFIX)
    ratio = paired_ratio(seconds["last token"], seconds["shared"])
    return {
        "prefix": prefix,
        "comparisons": len(task.prefixes) // 2,
        "batch_sizes": sizes,
        "limit": limit,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "verdicts_per_second": len(task.rows) / spread(seconds["shared"])["median"],
        "ratio_vs_last_token": ratio["median"],
        "ratio_spread": [ratio["min"], ratio["max"]],
        "ratio_vs_all_logits": paired_ratio(seconds["all logits"], seconds["shared"])["median"],
        "ratio_vs_generate": paired_ratio(seconds["generate"], seconds["shared"])["median"],
        "share_of_limit": ratio["median"] / limit,
        "max_difference": {
            name: float((p - verdicts["shared"]).abs().max())
            for name, p in verdicts.items()
            if name != "shared"
        },
        "same_choice": float(((verdicts["last token"] > 0.5) == (verdicts["shared"] > 0.5)).float().mean()),
    }


def opened(name: str, dtype: torch.dtype, device: str) -> Any:
    """A model by its size, or the playground's judge."""
    torch.manual_seed(0)
    if name == "playground":
        model = AutoModelForCausalLM.from_pretrained(ROOT / "rlaif" / "playground" / "weights" / "feedback")
        model.config.max_position_embeddings = 1024
    else:
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(llama(name), dtype=dtype)
    model = cast(Any, model).to(device=device, dtype=dtype).eval().requires_grad_(False)
    reason = exact_limit(model)[1]
    assert not reason, reason
    return model


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| model | dtype | P | shared s [min, max] | last token s | all logits s | generate s | × last "
        "token [min, max] "
        "| × all | × generate | limit | share | max Δp |",
        "|" + "---|" * 13,
    ]
    for r in rows:
        s = r["seconds"]
        peers = " | ".join(f"{s[name]['median']:.2f}" for name in ("last token", "all logits", "generate"))
        low, high = r["ratio_spread"]
        lines.append(
            f"| {r['model']} | {r['dtype']} | {r['prefix']} "
            f"| {s['shared']['median']:.3f} [{s['shared']['min']:.3f}, {s['shared']['max']:.3f}] | {peers} "
            f"| **{r['ratio_vs_last_token']:.2f}** [{low:.2f}, {high:.2f}] | {r['ratio_vs_all_logits']:.1f} "
            f"| {r['ratio_vs_generate']:.1f} | {r['limit']:.2f} | {r['share_of_limit']:.0%} "
            f"| {max(r['max_difference'].values()):.0e} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every model at every length, print the table, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--models", nargs="+", help="playground, 7M, 36M, 0.5B or 7B; the first three on a CPU"
    )
    parser.add_argument("--dtypes", nargs="+", help="float32 on a CPU, bfloat16 elsewhere")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--comparisons", type=int, help="pairs judged in one repetition: 2 long or 4 short ones"
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine shared with others"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    cpu = options.device == "cpu"
    rows = []
    for name in options.models or (["playground", "7M", "36M"] if cpu else ["0.5B", "7B"]):
        for dtype in options.dtypes or (["float32"] if cpu else ["bfloat16"]):
            model = opened(name, getattr(torch, dtype), options.device)
            for length in options.lengths:
                rows.append({"model": name, "dtype": dtype, **measure(model, LENGTHS[length], options)})
                print(table(rows[-1:]), flush=True)
            del model
    print("\n" + table(rows))
    if options.json:
        options.json.write_text(json.dumps(summary(rows, options), indent=1))


def summary(rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """The 36M model's figures in fp32 (or the last model measured) by length, and the full table."""
    chosen = [r for r in rows if (r["model"], r["dtype"]) == ("36M", "float32")] or rows[-2:]
    named = {length: next((r for r in chosen if r["prefix"] == p), None) for length, p in LENGTHS.items()}
    keys = ("model", "dtype", "ratio_vs_last_token", "share_of_limit")
    heads = {length: {key: row[key] for key in keys} for length, row in named.items() if row}
    settings = {
        "principles": PRINCIPLES,
        "suffix": SUFFIX,
        "repetitions": options.repetitions,
        "clock": options.clock,
    }
    return {**heads, "table": rows, "settings": settings, "machine": machine(options.device)}


if __name__ == "__main__":
    main()

"""Builds the playground's two models from a seed: tokenizer, policy, feedback model, and what they can do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from rlaif.playground.corpus import (
    RESPONSE_WORDS,
    TRAINED_NOUNS,
    FeedbackCorpus,
    PolicyCorpus,
    vocabulary_texts,
)
from rlaif.playground.grammar import PlaygroundQuestion, sample_question
from rlaif.playground.tokenizer import build_tokenizer
from rlaif.prompting.chat import render_chat
from rlaif.prompting.templates import Templates

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Progress = Callable[[str], None]
POLICY_STEPS, CHAT_STEPS, FEEDBACK_STEPS, WORD_STEPS, OWN_QUESTIONS = 1200, 600, 6000, 2500, 3000


def _report(progress: Progress, name: str, text: str) -> None:
    progress(f"{name}: {text}")


def train_policy(
    tokenizer: PreTrainedTokenizerFast, seed: int, scale: float, progress: Progress, fast: bool
) -> LlamaForCausalLM:
    """Next-token pretraining on the mixed corpus, then a short chat-only fine-tune."""
    import torch

    from rlaif.playground.training import bucketed, train
    from rlaif.training.raw_text import new_model

    torch.manual_seed(seed)
    model = new_model(tokenizer, layers=4, width=128, inner=320)
    corpus, rng = PolicyCorpus(tokenizer), Random(f"policy-{seed}")
    # A batch's loss is a mean over its tokens: sorting by length would favour short responses, so the last
    # stage does not.
    for name, sample, steps, peak, pool in (
        ("policy", corpus.page, POLICY_STEPS, 3e-3, 8),
        ("policy chat", corpus.chat, CHAT_STEPS, 5e-4, 1),
    ):
        batches = bucketed(lambda sample=sample: sample(rng), 64, pool)
        report = partial(_report, progress, name)
        train(model, batches, max(2, int(steps * scale)), peak, report, fast=fast, grain=32)
    return model


def sample_own(
    model: Any, tokenizer: PreTrainedTokenizerFast, rng: Random, count: int, each: int = 4
) -> list[tuple[PlaygroundQuestion, list[str]]]:
    """Questions with `each` responses of the policy itself, at temperature 1."""
    import torch

    own = []
    while len(own) < count:
        questions = [sample_question(rng) for _ in range(min(64, count - len(own)))]
        texts = [render_chat(tokenizer, q.messages) for q in questions]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=48,
                num_return_sequences=each,
            )
        responses = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        own += [(q, responses[i * each : (i + 1) * each]) for i, q in enumerate(questions)]
    return own


def train_feedback(
    tokenizer: PreTrainedTokenizerFast,
    own: list[tuple[PlaygroundQuestion, list[str]]],
    seed: int,
    scale: float,
    progress: Progress,
    fast: bool,
) -> LlamaForCausalLM:
    """One model for comparison, compliance, critique and revision, all as text.

    First it learns thirty forbidden nouns by heart; with every word of the responses forbidden it learns to
    look.
    """
    import torch

    from rlaif.playground.training import bucketed, train
    from rlaif.training.raw_text import new_model

    torch.manual_seed(seed)
    model = new_model(tokenizer, layers=4, width=160, inner=400)
    templates = Templates.load("brief")
    for name, words, steps, peak in (
        ("feedback", TRAINED_NOUNS, FEEDBACK_STEPS, 2e-3),
        ("feedback words", RESPONSE_WORDS, WORD_STEPS, 1e-3),
    ):
        corpus, rng = FeedbackCorpus(tokenizer, templates, own, words), Random(f"{name}-{seed}")
        batches = bucketed(lambda corpus=corpus, rng=rng: corpus.sample(rng), 8)
        report = partial(_report, progress, name)
        train(model, batches, max(2, int(steps * scale)), peak, report, fast=fast, probing=True)
    return model


CARD = """---
license: apache-2.0
library_name: transformers
tags: [rlaif, playground]
---
# The playground's {role}

A Llama-architecture language model of {parameters:,} parameters, trained from scratch on text drawn from the
small grammar in `rlaif/playground/grammar.py`; no other data. {does}

It knows that grammar and nothing else: outside it, responses and verdicts mean nothing. Rebuild it with
`rlaif playground build`; `rlaif/playground/measure.py` measures what it can do.
"""
DOES = {
    "policy": "Its corpus is by careful and by careless writers, so it insults, rambles, errs and helps "
    "with harm.",
    "feedback model": "It criticises, rewrites, compares and checks responses by a written rule, and makes "
    "some mistakes.",
}


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a plain folder that any loader of the Hugging Face family reads, with a card."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    role = "policy" if "policy" in folder.name else "feedback model"
    card = CARD.format(role=role, parameters=model.num_parameters(), does=DOES[role])
    (folder / "README.md").write_text(card, encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    named = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(named, indent=2) + "\n")


def build(out: Path, seed: int = 0, scale: float = 1.0, progress: Progress = print) -> dict[str, Any]:
    """Train both models from a seed, write `out/policy` and `out/feedback`, and return their paths and
    `measured`.

    `scale` shortens every training by that factor. Long trainings compile the model first where there is a
    compiler.
    """
    from rlaif.playground.measure import measure, table

    templates = Templates.load("brief")
    fast = scale >= 0.5 and shutil.which("c++") is not None
    tokenizer = build_tokenizer(vocabulary_texts(templates))
    folders = {"policy": Path(out) / "policy", "feedback": Path(out) / "feedback"}
    policy = train_policy(tokenizer, seed, scale, progress, fast)
    save(policy, tokenizer, folders["policy"])
    own = sample_own(policy, tokenizer, Random(f"own-{seed}"), max(16, int(OWN_QUESTIONS * scale)))
    kept = [pair for pair in own if not pair[0].held_out]
    save(train_feedback(tokenizer, kept, seed, scale, progress, fast), tokenizer, folders["feedback"])
    measured = measure(folders["feedback"], folders["policy"], n=max(2, int(100 * scale)), seed=seed)
    progress(table(measured))
    return {**{name: str(folder) for name, folder in folders.items()}, "measured": measured}

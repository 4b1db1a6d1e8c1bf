"""The playground's corpus as files: text to pretrain on, and demonstrations of how to answer a question."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from rlaif.playground.grammar import sample_question, sample_written

ASKED = 0.7  # share of the texts that show a question, too


def page(rng: Random) -> str:
    """A text with no turns of a chat in it: a forum's question and answer, or what somebody wrote, good and
    bad alike."""
    question = sample_question(rng)
    written = sample_written(rng, question)
    return f"Question: {question.text}\nAnswer: {written}" if rng.random() < ASKED else written


def demonstration(rng: Random) -> dict[str, Any]:
    """A chat of one question and its response by the same writers; its group is what is asked."""
    question = sample_question(rng)
    response = {"role": "assistant", "content": sample_written(rng, question)}
    return {"messages": [*question.messages, response], "group": question.group}


def write_texts(out: Path, texts: int, demonstrations: int, seed: int = 0) -> dict[str, Any]:
    """Write `text.jsonl` and `demonstrations.jsonl` into a folder; everything follows from the seed."""
    out.mkdir(parents=True, exist_ok=True)
    pages, chats = (Random(f"{what}-{seed}") for what in ("texts", "demonstrations"))
    files: dict[str, Iterable[dict[str, Any]]] = {
        "text": ({"text": page(pages)} for _ in range(texts)),
        "demonstrations": (demonstration(chats) for _ in range(demonstrations)),
    }
    for name, rows in files.items():
        with (out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    counts = {"text": texts, "demonstrations": demonstrations}
    return {name: {"file": str(out / f"{name}.jsonl"), "rows": count} for name, count in counts.items()}

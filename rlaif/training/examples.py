"""Prompts with responses to learn from, as tokens: what sft and rejection train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlaif.prompting.chat import TemplateRefused
from rlaif.prompting.turns import turn_of
from rlaif.records import Prompt, Response
from rlaif.runs.folder import Stage

Example = tuple[Prompt, Response]
Row = dict[str, Any]  # prompt_id, input_ids, start (how many of these are the prompt's)


def tokenise(stage: Stage, tokenizer: Any, examples: Sequence[Example], limit: int) -> list[Row]:
    """The examples of at most `limit` tokens; one that cannot be trained on is dropped with its reason."""
    rows: list[Row] = []
    with stage.progress(len(examples), "examples tokenised") as tick:
        for prompt, response in examples:
            tick(1)
            try:
                prompt_ids, response_ids = turn_of(tokenizer, prompt.chat, response)
            except TemplateRefused as refused:
                stage.dropped[refused.reason] += 1
                continue
            ids = prompt_ids + response_ids
            if not response.text.strip():
                stage.dropped["empty response"] += 1
            elif len(ids) > limit:
                stage.dropped[f"longer than {limit} tokens"] += 1
            else:
                rows.append({"prompt_id": prompt.id, "input_ids": ids, "start": len(prompt_ids)})
    return rows

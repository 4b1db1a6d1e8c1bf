"""Scores of a run's reward model on the responses that people are shown: what the queue `reward` goes by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.human.annotating.material import Material
from rlaif.prompting.chat import TemplateRefused
from rlaif.records import Grade, Response
from rlaif.runs.catalog import is_run
from rlaif.runs.folder import Run, silent_progress
from rlaif.runs.rows import Rows, pieces

SOURCE = "reward_model"
BATCH = 32


def graded(
    material: Material, out: Path, progress: Any = silent_progress, option: str = "--queue"
) -> Material:
    """The material with the raw score of the run's last reward model on every response.

    Scores are appended to grades.jsonl of `out` as they are made; responses that the model cannot read have
    none. Material that is no run, or whose responses have scores, is left as it is. Raises UserError where
    the run has no reward model.
    """
    ids = list(dict.fromkeys(id for pair in material.comparisons for id in (pair.a, pair.b)))
    if not is_run(material.path) or all(material.grades(id) for id in ids):
        return material
    run = Run.load(material.path)
    made = [stage for stage in run.stages if "reward_model" in stage.options.makes and stage.is_done]
    if not made:
        raise UserError(
            f"{option} reward: {material.path} has no reward model.",
            "a run whose reward stage is done",
            f"{option} random",
        )
    rows = Rows(out / "grades.jsonl", Grade)
    have = {row.response_id for row in rows}
    todo = [id for id in ids if id not in have]
    if todo:
        score = _scorer(made[-1].dir / SOURCE, run.config.policy.device, run.config.policy.dtype)
        with progress("scores of the reward model", len(ids), len(have)) as tick:
            for part in pieces((material.response(id) for id in todo), BATCH):
                rows.append(score(material, part))
                tick(len(part))
    scores = {row.response_id: row.scores for row in rows}
    return replace(material, grades=lambda id: scores.get(id, {}))


def _scorer(folder: Path, device: str, dtype: str) -> Any:
    """From responses to their grades by a model folder."""
    import torch

    from rlaif.engines.loading import context_length, load_reward_model, load_tokenizer
    from rlaif.prompting.chat import encode_turn, end_of_turn
    from rlaif.rl.episodes import join
    from rlaif.rl.reward import ModelReward

    tokenizer = load_tokenizer(folder)
    model = load_reward_model(folder, device, dtype)
    reward = ModelReward(model, tokenizer, context_length(model), BATCH)
    end = end_of_turn(tokenizer)

    def fitting(material: Material, responses: Sequence[Response]) -> Iterator[tuple[str, Any]]:
        for response in responses:
            closed = end if response.finish_reason == "stop" else None
            try:
                turn = encode_turn(tokenizer, material.prompt(response.prompt_id).chat, response.text, closed)
            except TemplateRefused:
                continue
            if turn[1] and len(turn[0]) + len(turn[1]) <= reward.context:
                yield response.id, turn

    def score(material: Material, responses: Sequence[Response]) -> list[Grade]:
        turns = dict(fitting(material, responses))
        scores: dict[str, float] = {}
        if turns:
            ended = torch.tensor([r.finish_reason == "stop" for r in responses if r.id in turns])
            both = turns.values()
            rows = join(
                [p for p, _ in both], [r for _, r in both], ended.to(model.device), tokenizer.pad_token_id
            )
            scores = dict(zip(turns, reward(rows, ()).tolist(), strict=True))
        return [
            Grade(
                prompt_id=r.prompt_id,
                response_id=r.id,
                scores={SOURCE: scores[r.id]} if r.id in scores else {},
            )
            for r in responses
        ]

    return score

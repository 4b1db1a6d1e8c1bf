"""Which part a feedback model had in a run's training, and which judge had the least in several runs'.

A judge that labelled what a policy learned from prefers what it taught: its opinion of that policy says how
well the loop worked, and less how good the policy is (over-optimisation, arXiv 2210.10760).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from rlaif.config import Config, ModelConfig
from rlaif.options import LabelOptions, RewardedOptions
from rlaif.records import Label

if TYPE_CHECKING:
    from rlaif.report.run_reader import RunReader

LABELS, REWARDS, CRITIQUES = "labelled the preferences", "gave rewards", "wrote the critiques"


def roles(config: Config) -> tuple[str, ...]:
    """What the config's feedback model does in training, the strongest influence first; empty: it only
    evaluates."""
    stages = config.stages
    found = {
        LABELS: any(isinstance(stage, LabelOptions) and stage.ai for stage in stages),
        REWARDS: any(
            isinstance(stage, RewardedOptions) and any(source.kind.asks_judge for source in stage.rewards)
            for stage in stages
        ),
        CRITIQUES: any(stage.stage == "critique" for stage in stages),
    }
    return tuple(role for role, there in found.items() if there)


def deciding(configs: Sequence[Config]) -> int:
    """Whose feedback model decides win rates: the first one that taught no run, else the first run's."""
    taught = [_model(config.feedback) for config in configs if roles(config)]
    untaught = (at for at, config in enumerate(configs) if _model(config.feedback) not in taught)
    return next(untaught, 0)


def _model(model: ModelConfig) -> str:
    return f"{model.engine}:{model.model}"


def weights(fingerprint: str) -> str:
    """What stays of a model's fingerprint wherever its weights lie and however they are run."""
    found = re.search(r"@(\w+):", fingerprint)
    return found[1] if found else fingerprint


def same_judge(a: RunReader, b: RunReader) -> bool:
    """Whether one model evaluated both runs: by their fingerprints, else by their configs."""
    named = [reader.metrics("evaluate").get("judge") for reader in (a, b)]
    mine, theirs = named if all(named) else (reader.run.config.feedback for reader in (a, b))
    return mine == theirs


def evaluated_by(reader: RunReader) -> str:
    """The weights of the judge that evaluated a run, by its config where its rows do not say."""
    named = reader.metrics("evaluate").get("judge")
    return weights(named) if named else _model(reader.run.config.feedback)


def taught_by(reader: RunReader, judge: str) -> tuple[str, ...]:
    """What the judge with these weights did in a run's training, as `roles`."""
    mine = roles(reader.run.config) if judge == evaluated_by(reader) else ()
    labelled = reader.label_sources
    if not labelled or (labelled["ai"] and not reader.metrics("evaluate").get("judge")):
        return mine
    # Who labelled is known from the rows: people alone, or in a fork the model of its parent.
    rest = tuple(role for role in mine if role != LABELS)
    return (LABELS, *rest) if judge in _labellers(reader) else rest


def _labellers(reader: RunReader) -> set[str]:
    """The weights of the models that gave the run's labels, one a label stage at most."""
    if not reader.label_sources["ai"]:
        return set()
    found = set[str]()
    for stage in reader.every("label"):
        models = (
            row.annotator.id for row in reader.each(stage, "labels", Label) if row.annotator.kind == "ai"
        )
        found.update(weights(model) for model in islice(models, 1))
    return found

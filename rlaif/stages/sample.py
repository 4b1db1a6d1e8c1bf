"""sample: k responses of the current policy to each training prompt."""

from __future__ import annotations

from rlaif.options import SampleOptions
from rlaif.runs.folder import Stage
from rlaif.training.sampling import sample_responses


def run(stage: Stage[SampleOptions]) -> None:
    """Write responses.jsonl; prompts that do not fit the model's context are dropped and counted."""
    options = stage.options
    prompts = stage.shuffled(stage.run.prompts("train"), "prompts")[: options.num_prompts]
    sample_responses(stage, prompts, options.k, options.top_p)

"""Numbers that are not finite are refused where they come in: in options, and in a policy's weights."""

import pytest
from pydantic import ValidationError

from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest
from rlaif.engines.loading import load_causal_lm
from rlaif.engines.transformers import TransformersEngine
from rlaif.errors import UserError
from rlaif.options import STAGES
from rlaif.options.base import Options
from rlaif.prompting.templates import user
from tests.tiny_models import tiny_policy


def numbers_of(kind: type[Options]) -> list[str]:
    """The options of a stage that take a float."""
    return [
        name
        for name, field in kind.model_fields.items()
        if "float" in str(field.annotation) and "[str" not in str(field.annotation)
    ]


@pytest.mark.parametrize(
    ("stage", "option"), [(name, o) for name, kind in STAGES.items() for o in numbers_of(kind)]
)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_no_stage_takes_a_number_that_is_not_finite(stage, option, value):
    with pytest.raises(ValidationError, match=option):
        STAGES[stage].model_validate({"stage": stage, option: value})


def test_a_policy_whose_weights_are_nan_writes_nothing_and_says_so(tmp_path):
    folder = tiny_policy(tmp_path / "policy")
    model = load_causal_lm(folder, "cpu")
    model.base_model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(folder)
    engine = TransformersEngine(ModelConfig(model=str(folder), device="cpu"))
    with pytest.raises(UserError, match="its logits are NaN or infinite"):
        list(engine.generate([GenerateRequest([user("tell me")], 8)]))

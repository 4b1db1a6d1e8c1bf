"""A step in micro-batches is the step on the whole batch, loss and gradient, however its rows are cut."""

import pytest

from rlaif.runs.rows import JsonlLog
from rlaif.stages import dpo, reward, sft
from rlaif.training.loop import even_part
from tests.tiny_models import hand_made_run, preference, prompts_of, response, revision, tiny_policy

WORDS = ("good", "bad and rude", "thanks it is fine weather today", "sunny rain", "cold")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


def curve_of(folder, policy, name, prompts=15, **options):
    """The first step on 9 of 15 prompts in micro-batches of 4, 4 and 1, or of `micro_batch`; the other 6
    measure."""
    options = {"stage": name, "batch_size": 12, "heldout": 0.4, "epochs": 1, **options}
    stage = hand_made_run(folder, policy, options, prompts=prompts)
    for n, prompt in enumerate(prompts_of(stage)):
        responses = [response(stage, prompt, WORDS[(n + i) % 5], i) for i in range(3)]
        if name == "sft":
            revision(stage, responses[0], responses[1])
        for i in range(1 + n % 2 if options.get("by_prompt") else 1):
            preference(stage, responses[i], responses[i + 1], 0.9 if n % 3 else 0.3, weight=1 + n % 4)
    {"reward": reward, "dpo": dpo, "sft": sft}[name].run(stage)
    return JsonlLog(stage.dir / "metrics.jsonl", "step").rows()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reward", {"center_coef": 0.1}),
        ("reward", {"by_prompt": True}),
        ("dpo", {}),
        ("dpo", {"by_prompt": True}),
        ("sft", {}),
    ],
    ids=str,
)
def test_rows_weigh_evenly_whatever_the_micro_batch(tmp_path, policy, name, options):
    whole = curve_of(tmp_path / "whole", policy, name, **options)
    for size in (4, 2):
        parts = curve_of(tmp_path / f"of {size}", policy, name, micro_batch=size, **options)
        assert len(whole) == len(parts) == 3  # before, the step, after
        for one, other in zip(whole, parts, strict=True):
            for key in {"loss", "grad_norm", "heldout_loss"} & one.keys():
                assert other[key] == pytest.approx(one[key], rel=2e-5), (key, size)


def test_a_micro_batch_that_does_not_divide_the_batch_leaves_it_as_it_is(tmp_path, policy):
    whole = curve_of(tmp_path / "whole", policy, "sft", 35, batch_size=9)
    parts = curve_of(tmp_path / "parts", policy, "sft", 35, batch_size=9, micro_batch=4)
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (whole, parts)]
    assert len(losses[0]) == 3  # 21 rows: 9, 9 and 3
    assert losses[1] == pytest.approx(losses[0], rel=2e-5)


@pytest.mark.parametrize(("whole", "most", "part"), [(9, 4, 3), (32, 12, 8), (7, 4, 1), (5, 9, 5), (1, 1, 1)])
def test_the_largest_micro_batch_that_divides_a_batch(whole, most, part):
    assert even_part(whole, most) == part

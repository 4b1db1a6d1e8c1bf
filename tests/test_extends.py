"""`extends:` in a config: what is put together, what a list and what options under `stages` mean, and whose
line is named."""

from pathlib import Path

import pytest

from rlaif.config import load_config
from rlaif.errors import UserError
from rlaif.extends import as_text
from rlaif.preflight.opening import resolve

ROOT = Path(__file__).parent.parent
BASE = """name: base
constitution: c.yaml
prompts: p.jsonl
policy: {model: a, dtype: float32}
feedback:
  model: b
stages:
  - stage: sample
    k: 1
  - stage: critique
  - stage: sft
  - stage: sample
    k: 4
  - stage: pair
  - stage: label
  - stage: reward
    epochs: 2
  - stage: ppo
    updates: 20
    lora: {rank: 4, alpha: 8}
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="own.yaml"):
        (tmp_path / "base.yaml").write_text(BASE)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def refused(path, *overrides):
    with pytest.raises(UserError) as error:
        load_config(path, list(overrides))
    return str(error.value)


def names(config):
    return [options.stage for options in config.stages]


def test_keys_are_put_together_and_lists_stand_in_place(write):
    config = load_config(write("extends: base.yaml\nname: own\npolicy: {model: c}\nseed: 3\n"))
    assert (config.name, config.seed, config.policy.model, config.policy.dtype) == ("own", 3, "c", "float32")
    assert names(config) == ["sample", "critique", "sft", "sample", "pair", "label", "reward", "ppo"]
    only = load_config(write("extends: base.yaml\nstages:\n  - stage: sample\n    k: 7\n"))
    assert names(only) == ["sample"]
    assert only.stages[0].k == 7


def test_named_stages_are_changed_replaced_and_taken_out(write):
    config = load_config(
        write(
            "extends: base.yaml\nstages:\n  sample: {max_tokens: 9}\n  sample[1]: {k: 8}\n  reward: []\n"
            "  ppo: [{stage: dpo, beta: 0.5}, {stage: evaluate}]\n"
        )
    )
    assert names(config) == ["sample", "critique", "sft", "sample", "pair", "label", "dpo", "evaluate"]
    assert [(o.k, o.max_tokens) for o in config.stages if o.stage == "sample"] == [(1, 9), (8, 9)]
    assert config.stages[6].beta == 0.5
    nested = load_config(write("extends: base.yaml\nstages:\n  ppo: {lora: {rank: 16}}\n"))
    assert (nested.stages[-1].lora.rank, nested.stages[-1].lora.alpha) == (16, 8)
    assert nested.stages[-1].updates == 20


def test_options_of_the_command_line_reach_what_is_put_together(write):
    path = write("extends: base.yaml\nstages:\n  ppo: {updates: 30}\n")
    config = load_config(path, ["ppo.updates=40", "reward.epochs=3", "feedback.model=d"])
    assert config.stages[-1].updates == 40
    assert config.stages[-2].epochs == 3
    assert config.feedback.model == "d"


def test_a_config_extends_one_that_extends_another(write, tmp_path):
    write("extends: ../base.yaml\nstages:\n  reward: []\n  ppo: [{stage: dpo}]\n", "sub/middle.yaml")
    config = load_config(write("extends: sub/middle.yaml\nname: own\nstages:\n  dpo: {beta: 0.7}\n"))
    assert names(config)[-1] == "dpo"
    assert config.stages[-1].beta == 0.7
    (tmp_path / "sub" / "middle.yaml").write_text("extends: ../base.yaml\nstages:\n  ppo:\n    updats: 3\n")
    path = write("extends: sub/middle.yaml\nname: own\nstages:\n  ppo: {clip: 0.3}\n")
    assert 'sub/middle.yaml:4: unknown key "updats"' in refused(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: none.yaml\n", "own.yaml:1: extends: none.yaml: no such file"),
        ("name: x\nextends: own.yaml\n", "own.yaml:2: extends goes round in a circle"),
        ("extends: 3\n", "own.yaml:1: extends: 3 is no file"),
        (
            "extends: base.yaml\npolicy:\n  modle: c\n",
            'own.yaml:3: unknown key "modle" — did you mean "model"?',
        ),
        ("extends: base.yaml\nstages:\n  ppo:\n    updats: 3\n", 'own.yaml:4: unknown key "updats"'),
        ("extends: base.yaml\nstages:\n  ppo:\n    updates: none\n", "own.yaml:4: updates: "),
        (
            "extends: base.yaml\nstages:\n  ppo:\n  - stage: dpo\n    bta: 3\n",
            'own.yaml:5: unknown key "bta"',
        ),
        (
            "extends: base.yaml\nstages:\n  pppo: {}\n",
            'own.yaml:3: no stage "pppo" in what is extended — did you',
        ),
        (
            "extends: base.yaml\nstages:\n  sample: []\n",
            "own.yaml:3: sample: there are 2 stages of that name",
        ),
        ("extends: base.yaml\nstages:\n  sample[2]: {k: 1}\n", "own.yaml:3: there are 2 sample stages"),
        ("extends: base.yaml\nstages:\n  ppo: {stage: dpo}\n", "own.yaml:3: ppo: neither options nor a list"),
        ("extends: base.yaml\nstages:\n  ppo:\n", "own.yaml:3: ppo: neither options nor a list"),
        (
            "extends: base.yaml\nstages:\n- stage: ppo\n",
            "a mapping such as {ppo: {updates: 10}} changes",
        ),
        ("extends: base.yaml\nstages:\n  reward: []\n", 'base.yaml:18: stage "ppo" needs reward_model'),
    ],
)
def test_a_mistake_names_the_file_and_line_it_stands_in(write, text, said):
    assert said in refused(write(text))


def test_a_mistake_in_the_extended_file_names_that_file(write, tmp_path):
    path = write("extends: base.yaml\nname: own\n")
    (tmp_path / "base.yaml").write_text(BASE.replace("updates: 20", "updats: 20").replace("dtype", "dtpe"))
    said = refused(path)
    assert 'base.yaml:19: unknown key "updats"' in said
    assert 'base.yaml:4: unknown key "dtpe"' in said
    assert "own.yaml" not in said


def test_a_circle_of_two_is_said_in_full(write):
    write("extends: own.yaml\n", "other.yaml")
    assert "own.yaml → " in (said := refused(write("extends: other.yaml\n")))
    assert "other.yaml:1" in said


def test_the_run_keeps_the_whole(write):
    own = write("extends: base.yaml\nname: own\nstages:\n  ppo: {updates: 30}\n")
    kept = own.with_name("kept.yaml")
    kept.write_text(as_text(own))
    assert "extends:" not in kept.read_text()
    assert load_config(kept) == load_config(own)
    base = own.with_name("base.yaml")
    assert as_text(base) == base.read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_shipped_config_copies_the_quickstart(path):
    quickstart = (ROOT / "configs" / "quickstart.yaml").read_text().splitlines()
    copied = [line for line in path.read_text().splitlines() if line in quickstart and "#" not in line]
    assert path.stem in ("quickstart", "hf_local", "one_gpu") or len(copied) < 10


def test_the_resolved_config_is_of_the_whole():
    path = ROOT / "configs" / "arms" / "dpo.yaml"
    own = resolve(load_config(path), path.parent)
    base = resolve(load_config(path.parent.parent / "quickstart.yaml"), path.parent.parent)
    assert own.stages[:6] == base.stages[:6]
    assert own.policy == base.policy
    assert names(own)[6:] == ["dpo", "evaluate"]


def test_the_example_of_the_documentation(tmp_path):
    page = (ROOT / "docs" / "arms.md").read_text()
    text = "extends: " + page.split("```yaml\nextends: ", 1)[1].split("```", 1)[0]
    path = tmp_path / "own.yaml"
    path.write_text(text.replace("../quickstart.yaml", str(ROOT / "configs" / "quickstart.yaml")))
    config = load_config(path)
    assert names(config) == ["sample", "critique", "sft", "sample", "pair", "label", "dpo", "evaluate"]
    assert (config.seed, config.policy.dtype, config.stages[3].k) == (3, "float32", 8)

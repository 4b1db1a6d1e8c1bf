"""The pretrain stage: what it reads, how it packs, and the policy that it makes."""

import json

import pytest
from datasets import Dataset, DatasetDict

from rlaif import pipeline
from rlaif.config import load_config
from rlaif.errors import UserError
from rlaif.runs.folder import Run
from rlaif.stages import pretrain
from rlaif.training.raw_text import blocks_of, num_heldout_blocks, read_texts
from tests.test_arms import run_of
from tests.tiny_models import tiny_policy

SIZES = {"layers": 1, "width": 16, "inner": 24, "heads": 1, "context": 32}
TEXTS = ["tell me about the weather", "thanks it is good", "sunny and warm today"] * 20


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


def written(folder, rows):
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stage_of(tmp_path, policy, text=None, **options):
    text = text or written(tmp_path, [{"text": text} for text in TEXTS])
    last = {"stage": "pretrain", "text": str(text), "block_size": 16, "batch_size": 4, "learning_rate": 1e-2}
    return run_of(tmp_path / "run", policy, {**last, "heldout": 0.2, **options}).stages[0]


def test_texts_are_packed_with_an_end_after_each(policy):
    from rlaif.engines.loading import load_tokenizer

    tokenizer = load_tokenizer(policy)
    texts = ["tell me now", "thanks it", "tell me"]
    blocks = blocks_of(texts, tokenizer, 4)
    end = tokenizer.eos_token
    assert tokenizer.decode([token for block in blocks for token in block]) == "".join(t + end for t in texts)
    assert [len(block) for block in blocks] == [4, 4, 2]
    assert len(blocks_of(["tell me now"] * 2 + [""], tokenizer, 4)) == 2  # a last block of one token is none


@pytest.mark.parametrize(("blocks", "share", "held"), [(100, 0.05, 5), (10, 0.01, 1), (2, 0.9, 1)])
def test_some_blocks_measure_and_never_all(blocks, share, held):
    assert num_heldout_blocks([[1, 2]] * blocks, share) == held


def test_text_is_read_from_files_and_datasets(tmp_path):
    (tmp_path / "plain.txt").write_text("﻿Grüße\n\nan alle\n")
    assert read_texts(tmp_path / "plain.txt", "pretrain.text") == ["Grüße\n\nan alle"]
    assert read_texts(written(tmp_path, [{"text": "a"}, {"text": "b\u2028c"}]), "x") == ["a", "b\u2028c"]
    table = Dataset.from_list([{"text": "one"}, {"text": "two"}])
    table.save_to_disk(tmp_path / "table")
    DatasetDict(train=table, test=table).save_to_disk(tmp_path / "splits")
    for name in ("table", "splits"):
        assert read_texts(tmp_path / name, "pretrain.text") == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\xff\xfe\x00caf\xe9", "a.txt cannot be read"),
        ("b.jsonl", b'{"text": "x"}\n{"body": "y"}\n', r"b.jsonl:2: no row with a \"text\""),
        ("c.jsonl", b'{"text": 3}\n', "c.jsonl:1: no row"),
        ("d", None, "no texts can be read from the folder"),
    ],
)
def test_text_that_cannot_be_read_is_named(tmp_path, name, content, said):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_texts(path, "pretrain.text")


def test_a_column_that_a_dataset_lacks_is_named(tmp_path):
    Dataset.from_list([{"body": "one"}]).save_to_disk(tmp_path / "table")
    with pytest.raises(UserError, match=r"pretrain.text: no texts can be read.*text"):
        read_texts(tmp_path / "table", "pretrain.text")


def test_random_weights_learn_the_text(tmp_path, policy):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [*({"text": text} for text in TEXTS), {"text": " "}]
    stage = stage_of(tmp_path, policy, written(tmp_path, rows), architecture=SIZES, epochs=12)
    pretrain.run(stage)
    model = AutoModelForCausalLM.from_pretrained(stage.dir / "policy")
    tokenizer = AutoTokenizer.from_pretrained(stage.dir / "policy")
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (1, 16)
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.chat_template
    figures = stage.metrics
    assert figures["heldout_loss_before"] > 5  # of about 360 tokens none is likelier than another
    assert figures["heldout_loss_after"] < 3
    assert figures["parameters"] == model.num_parameters()
    assert stage.dropped == {"empty text": 1}
    assert (stage.summary["in"], stage.summary["kept"]) == (61, 60)
    curve = [json.loads(line) for line in (stage.dir / "metrics.jsonl").read_text().splitlines()]
    assert sum("heldout_loss" in row for row in curve) > 8  # not at the ends of epochs alone


def test_a_given_model_goes_on(tmp_path, policy):
    stage = stage_of(tmp_path, policy, epochs=1, learning_rate=1e-5)
    pretrain.run(stage)
    from rlaif.engines.loading import load_causal_lm

    before, after = load_causal_lm(policy, "cpu"), load_causal_lm(stage.dir / "policy", "cpu")
    moved = max(
        float((a - b).detach().abs().max())
        for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
    assert 0 < moved < 1e-3
    assert after.generation_config.eos_token_id == before.generation_config.eos_token_id


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"block_size": 65}, "more than the model's context of 64"),
        ({"block_size": 64, "text": "short"}, "1 blocks of 64"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, policy, options, said):
    if "text" in options:
        options = {**options, "text": written(tmp_path, [{"text": "tell me"}])}
    with pytest.raises(UserError, match=said):
        pretrain.run(stage_of(tmp_path, policy, **options))


def test_weights_need_no_model_but_a_tokenizer(tmp_path, policy):
    bare = tmp_path / "tokenizer"
    bare.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (bare / name).write_bytes((policy / name).read_bytes())
    stage = stage_of(tmp_path, bare, architecture=SIZES)
    pretrain.run(stage)
    assert (stage.dir / "policy" / "model.safetensors").is_file()
    with pytest.raises(UserError, match="not a model folder"):
        pretrain.run(stage_of(tmp_path / "run", bare))


CONFIG = """name: nothing
constitution: constitution.yaml
prompts: prompts.jsonl
templates: brief
threads: 1
policy: {{model: {model}, device: cpu}}
feedback: {{engine: scripted, model: "tests.scripts:feedback"}}
stages:
  - stage: pretrain
    text: text.jsonl
    block_size: 16
    architecture: {{layers: 1, width: 16, inner: 24, heads: 1, context: 128}}
  - {{stage: sample, num_prompts: 4, max_tokens: 4}}
  - {{stage: critique, max_tokens: 8, few_shot: 0}}
  - {{stage: sft, batch_size: 4}}
  - {{stage: evaluate, max_tokens: 4, num_prompts: 3}}
"""


def test_what_is_made_of_nothing_is_the_base_policy(project, policy):
    written(project, [{"text": text} for text in TEXTS])
    config = project / "config.yaml"
    config.write_text(CONFIG.format(model=policy))
    plan = pipeline.dry_run(config)
    this = pipeline.run(config, project / "run")
    assert this.policies == {
        "base": this.path / "01_pretrain" / "policy",
        "sft": this.path / "04_sft" / "policy",
    }
    assert plan["stages"][-1]["rows"] == 2 * 3
    assert set(Run.load(this.path).stages[-1].summary["metrics"]["policies"]) == {"base", "sft"}


@pytest.mark.parametrize("change", ["rounds=2", "second"])
def test_random_weights_come_first_and_once(project, policy, change):
    text = CONFIG.format(model=policy)
    config = project / "config.yaml"
    if change == "second":
        text = text.replace("stages:\n", "stages:\n  - {stage: sample}\n")
    config.write_text(text)
    with pytest.raises(UserError, match="can only be the first stage, of one round"):
        load_config(config, [] if change == "second" else [change])

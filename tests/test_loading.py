"""Opening model folders: what is accepted, what is refused and in which words."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from rlaif.engines import loading
from rlaif.errors import UserError
from rlaif.extends import shipped
from tests.tiny_models import tiny_policy


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_policy(tmp_path_factory.mktemp("tiny") / "policy")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def test_a_folder_gives_a_model_ready_to_run(tiny: Path):
    model = loading.load_causal_lm(tiny, "cpu")
    assert not model.training
    assert model.dtype == torch.float32
    assert loading.context_length(model) == 64
    assert sum(p.numel() for p in model.parameters()) == loading.count_params(tiny)


def test_a_model_that_comes_with_rlaif_is_found_from_any_folder(tmp_path, monkeypatch):
    name = "rlaif/playground/weights/feedback"
    monkeypatch.chdir(tmp_path)
    assert loading.model_folder(name) == shipped(name)
    assert len(loading.load_tokenizer(name)) > 0


def test_padding_is_on_the_left_and_pad_is_not_eos(tiny: Path):
    tokenizer = loading.load_tokenizer(tiny)
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        ({"unk_token": "<|user|>"}, "<|pad|>"),  # a spare token named like a pad comes first
        ({}, "<|pad|>"),
    ],
)
def test_a_missing_pad_token_is_found_in_the_vocabulary(copy: Path, named: dict, chosen: str):
    file = copy / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | named | {"pad_token": None}
    file.write_text(json.dumps(settings))
    assert loading.load_tokenizer(copy).pad_token == chosen


def test_without_a_spare_token_pad_is_eos():
    class Bare:
        pad_token_id, eos_token_id = None, 0
        pad_token, unk_token, bos_token, eos_token = None, "<end>", "<end>", "<end>"

        def get_added_vocab(self):
            return {"<end>": 0}

    bare = Bare()
    loading._ensure_pad(bare)
    assert bare.pad_token == "<end>"


def test_every_end_token_counts(tiny: Path):
    model, tokenizer = loading.load_causal_lm(tiny, "cpu"), loading.load_tokenizer(tiny)
    model.generation_config.eos_token_id = [7, 9]
    assert loading.eos_ids(model, tokenizer) == (7, 9, tokenizer.eos_token_id)
    model.generation_config.eos_token_id = None
    assert loading.eos_ids(model, tokenizer) == (tokenizer.eos_token_id,)


def test_dtype_follows_device_and_size():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert loading.resolve_dtype("auto", cpu, 10**10) == torch.float32
    assert loading.resolve_dtype("auto", gpu, 10**6) == torch.float32
    assert loading.resolve_dtype("auto", gpu, 10**9) == torch.bfloat16
    assert loading.resolve_dtype("float16", cpu, 1) == torch.float16


def test_a_language_model_is_no_reward_model_unless_a_new_head_is_asked_for(tiny: Path):
    with pytest.raises(UserError, match=r"not a whole reward model.*score\.weight"):
        loading.load_reward_model(tiny, "cpu")
    model = loading.load_reward_model(tiny, "cpu", new_head=True)
    assert model.score.weight.shape == (1, 32)
    assert model.config.pad_token_id is not None


def refused(folder: Path | str, load=loading.load_causal_lm) -> str:
    with pytest.raises(UserError) as error:
        load(folder)
    return str(error.value)


def test_a_missing_folder(tmp_path: Path):
    assert "no such model folder" in refused(tmp_path / "absent")


def test_a_hub_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    said = refused("organisation/model")
    assert "no such folder here" in said
    assert "no network" in said


def test_a_run_in_place_of_a_model_names_its_config(tmp_path: Path):
    for name in ("manifest.json", "config.yaml", "config.json"):
        (tmp_path / name).write_text("{}")
    said = refused(tmp_path)
    assert "a run, which no model is" in said
    assert str(tmp_path / "config.yaml") in said


def test_pickled_weights_are_refused_by_name(copy: Path):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    said = refused(copy)
    assert "no safetensors weights" in said
    assert "pytorch_model.bin" in said


def test_a_torn_weights_file(copy: Path):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5])
    assert "not a whole safetensors file" in refused(copy)


def test_a_weights_file_cut_in_the_middle(copy: Path):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "not a whole safetensors file" in refused(copy)


def test_no_tokenizer(copy: Path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    assert "tokenizer cannot be loaded" in refused(copy, loading.load_tokenizer)


def test_no_language_head(copy: Path):
    from transformers import LlamaConfig, LlamaModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaModel(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(copy)
    said = refused(copy)
    assert "not a whole language model" in said
    assert "lm_head" in said


def test_an_unknown_architecture(copy: Path):
    (copy / "config.json").write_text('{"model_type": "nothing-like-it"}')
    assert "cannot be loaded" in refused(copy)


def test_an_unusable_device():
    assert "cannot be used here" in refused("quantum", loading.resolve_device)

"""GGUF files where a model is named: the same logits and chat template, converted once, refused when
damaged."""

import json
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch

from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest, gguf, open_engine
from rlaif.engines.loading import load_causal_lm, load_tokenizer, model_folder
from rlaif.errors import UserError
from rlaif.runs.storage import fingerprint
from tests.tiny_gguf import tiny_gguf


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def file(tmp_path, cache) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models" / "tiny.gguf"


def test_a_gguf_file_is_the_model_it_was_made_from_with_its_chat_template(file):
    model = tiny_gguf(file)
    loaded, tokenizer = load_causal_lm(file, "cpu"), load_tokenizer(file)
    ids = torch.tensor([[1, 40, 41, 258, 2]])
    assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-5)
    assert tokenizer("ab c")["input_ids"] == [259, *tokenizer.convert_tokens_to_ids(["Ġ", "c"])]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False)
    assert text == "<|im_start|>user\nab<|im_end|>\n"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"  # it names none; the unknown one ends nothing


def test_it_is_converted_once_and_by_content(file, cache, monkeypatch):
    tiny_gguf(file)
    folder = model_folder(file)
    assert folder.parent == cache
    assert json.loads((folder / gguf.SOURCE).read_text())["file"] == "tiny.gguf"
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted again"))
    assert model_folder(file.parent) == folder, "a folder that holds it alone"
    moved = file.rename(file.with_name("other.gguf"))
    monkeypatch.undo()
    monkeypatch.setenv("RLAIF_CACHE", str(cache.parent))
    before = fingerprint(moved)
    tiny_gguf(moved, seed=1)
    assert fingerprint(moved) != before
    assert model_folder(moved) != folder
    assert not list(cache.glob("*.partial"))


def test_an_engine_tells_files_apart_by_their_content(file):
    tiny_gguf(file)
    engine = open_engine(ModelConfig(model=str(file), device="cpu"))
    request = GenerateRequest([{"role": "user", "content": "ab"}], 4, temperature=0.0)
    assert [made.tokens for _, made in engine.generate([request])]
    first = engine.fingerprint
    assert "tiny.gguf@" in first
    tiny_gguf(file, seed=1)
    assert open_engine(ModelConfig(model=str(file), device="cpu")).fingerprint != first


def test_what_else_lies_beside_the_file_is_not_looked_at(file):
    tiny_gguf(file)
    (file.parent / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    (file.parent / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    assert load_tokenizer(file).eos_token == "<|im_end|>"


@pytest.mark.parametrize("kept", [10, 3000, -200])
def test_a_truncated_file_is_refused(file, cache, kept):
    tiny_gguf(file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match="not a whole one"):
        model_folder(file)
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_a_file_that_claims_more_layers_than_it_has_tensors_is_refused(file):
    tiny_gguf(file, layers=1_000_000)
    with pytest.raises(UserError, match="1000000 layers"):
        model_folder(file)


def test_other_files_several_files_and_none(file):
    file.write_text("no such thing")
    with pytest.raises(UserError, match="does not begin as one"):
        model_folder(file)
    file.with_name("second.gguf").write_text("")
    with pytest.raises(UserError, match=r"several GGUF files \(second.gguf, tiny.gguf\)"):
        model_folder(file.parent)
    with pytest.raises(UserError, match="no such GGUF file"):
        model_folder(file.with_name("absent.gguf"))


def test_without_the_package_the_extra_is_named(file, monkeypatch):
    tiny_gguf(file)
    monkeypatch.setattr(gguf, "find_spec", lambda name: PathFinder.find_spec("no_such_package"))
    with pytest.raises(UserError, match=r'pip install "rlaif-loop\[gguf\]"'):
        model_folder(file)

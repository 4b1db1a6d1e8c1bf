"""dtype auto on a CPU: bf16 for frozen models where it is faster and agrees, decided once and kept."""

from pathlib import Path

import pytest
import torch

from rlaif.config import ModelConfig
from rlaif.engines import loading, open_engine, precision
from rlaif.engines.precision import Agreement, agreement
from rlaif.runs.storage import read_json
from tests.tiny_gguf import tiny_gguf


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "_SMALL", 0)
    monkeypatch.setattr(precision, "QUESTIONS", ("A or B?",))
    tiny_gguf(tmp_path / "tiny.gguf")
    return ModelConfig(model=str(tmp_path / "tiny.gguf"), device="cpu")


@pytest.mark.parametrize(
    ("found", "suits"),
    [
        (Agreement(0.01, 1.0, 3.0, 8), True),
        (Agreement(0.01, 1.0, 1.1, 8), False),
        (Agreement(0.06, 1.0, 3.0, 8), False),
    ],
)
def test_bf16_is_taken_where_it_is_faster_and_agrees(model, monkeypatch, found, suits):
    monkeypatch.setattr(precision, "agreement", lambda *_: found)
    engine = open_engine(model)
    assert str(engine.model.dtype) == ("torch.bfloat16" if suits else "torch.float32")
    assert engine.fingerprint.endswith("bfloat16" if suits else "float32")
    monkeypatch.setattr(precision, "agreement", lambda *_: pytest.fail("measured again"))
    assert open_engine(model).fingerprint == engine.fingerprint
    assert open_engine(model.model_copy(update={"dtype": "float32"})).fingerprint.endswith("float32")


def test_what_is_measured_is_a_models_own_verdicts(model):
    fp32 = loading.load_causal_lm(model.model, "cpu", "float32")
    tokenizer = loading.load_tokenizer(model.model)
    found = agreement(fp32, tokenizer, ("A or B?", "ab"))
    assert fp32.dtype == torch.bfloat16
    assert 0 < found.difference < 0.05, "bf16 rounds"
    assert found.same in (0.0, 0.5, 1.0)
    assert found.speedup > 0


def test_small_models_and_short_memory_stay_in_fp32(model, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "agreement", lambda *_: Agreement(0.0, 1.0, 9.0, 8))
    monkeypatch.setattr(precision, "_free_memory", lambda: 1.0)
    assert open_engine(model).fingerprint.endswith("float32")
    assert not list((tmp_path / "cache" / "bf16").glob("*.json"))
    monkeypatch.undo()
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    assert open_engine(model).fingerprint.endswith("float32"), "a small model is not measured"
    assert not list((tmp_path / "cache" / "bf16").glob("*.json"))


def test_the_decision_says_what_was_measured(model, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "agreement", lambda *_: Agreement(0.01, 1.0, 3.0, 8))
    open_engine(model)
    (path,) = (tmp_path / "cache" / "bf16").glob("*.json")
    kept = read_json(path)
    assert (kept["difference"], kept["same"], kept["speedup"], kept["suits"]) == (0.01, 1.0, 3.0, True)

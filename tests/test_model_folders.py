"""Model folders of strangers: damaged files are said, nothing large is built of a number, and no file runs
code."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest
from rlaif.engines.loading import load_causal_lm, load_reward_model, load_tokenizer, model_folder
from rlaif.engines.transformers import TransformersEngine
from rlaif.errors import UserError
from rlaif.prompting.templates import user
from tests import zoo

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.build(zoo.MODELS[0], tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """A copy of the plain model that a test may damage."""
    return Path(shutil.copytree(plain, tmp_path / "model"))


def refused(folder: Path, words: str) -> None:
    """Opening is refused with these words."""
    with pytest.raises(UserError, match=words):
        load_causal_lm(folder, "cpu")
    with pytest.raises(UserError, match=words):
        TransformersEngine(ModelConfig(model=str(folder), device="cpu"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def header(content: bytes | dict[str, Any], rest: int = 64) -> bytes:
    """A safetensors file with this header and so many bytes of numbers."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + bytes(rest)


def tensor(shape: Any, start: Any = 0, end: Any = 64) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        bytes(8),
        b"\xff" * 8,
        (10**18).to_bytes(8, "little") + b"{}",
        header(b"[1, 2]"),
        header(b'"w"'),
        header(b"{"),
        header(b"\xff\xfe{}"),
        header(b"[" * 100_000),
        header({"w": "none"}),
        header({"w": {"dtype": "F32"}}),
        header({"w": None}),
        header(tensor([-4, -4])),
        header(tensor([4.5])),
        header(tensor("ab")),
        header(tensor([10**12])),
        header(tensor([16], 0, 6400)),
        header(tensor([16], 64, 0)),
        header(tensor([16], None)),
        header(tensor([16]), rest=10),
        header({"w": tensor([16])["w"] | {"data_offsets": [0]}}),
    ],
)
def test_a_damaged_header_is_said(folder: Path, content: bytes):
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, r"model\.safetensors: not a whole safetensors file")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"3", b'{"a":' * 100_000, b"null"])
def test_a_damaged_config_is_said(folder: Path, content: bytes):
    (folder / "config.json").write_bytes(content)
    refused(folder, r"config\.json: (cannot be read|holds no JSON object)")


@pytest.mark.parametrize(
    "key",
    [
        "num_hidden_layers",
        "n_layer",
        "num_labels",
        "hidden_size",
        "head_dim",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
        "num_local_experts",
        "n_routed_experts",
        "num_experts",
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_config_that_names_more_than_the_weights_hold_is_refused(folder: Path, key: str, inside: bool):
    edit(folder / "config.json", **({"text_config": {key: 10**9}} if inside else {key: 10**9}))
    refused(
        folder, rf"config\.json: {key} is 1000000000, and the weights beside it hold nothing of that size"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 0.5),
        ("num_hidden_layers", -1),
        ("num_attention_heads", 0),
        ("vocab_size", 7),
        ("hidden_size", "16"),
        ("rope_parameters", 3),
        ("model_type", 5),
        ("model_type", "none-such"),
        ("dtype", "floaty"),
        ("architectures", {"a": 1}),
        ("pad_token_id", "x"),
        ("hidden_act", "none-such"),
        ("num_hidden_layers", 3),
        ("rms_norm_eps", None),
        ("layer_types", [1] * 9),
    ],
)
def test_a_config_of_other_values_is_a_message_or_ignored(folder: Path, key: str, value: Any):
    edit(folder / "config.json", **{key: value})
    for load in (load_causal_lm, load_tokenizer):
        with suppress(UserError):
            load(folder)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("chat_template.jinja", b"\xff\xfe{{ messages }}", "its tokenizer cannot be loaded"),
        ("tokenizer_config.json", b"[]", "its tokenizer cannot be loaded"),
        ("tokenizer.json", b"{}", "its tokenizer cannot be loaded"),
        ("tokenizer.json", b"", "its tokenizer cannot be loaded"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"w": "pytorch_model.bin"}}',
            r"index\.json: names 'pytorch_model\.bin'",
        ),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"w": "../model/model.safetensors"}}',
            "names '../model/model.safetensors'",
        ),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"w": "model-2.safetensors"}}',
            r"names 'model-2\.safetensors'",
        ),
        ("model.safetensors.index.json", b"[]", "holds no JSON object"),
    ],
)
def test_other_damaged_files_are_said(folder: Path, file: str, content: bytes, words: str):
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_tokenizer(folder)


def test_the_command_line_says_it_and_ends_with_2(folder: Path, tmp_path: Path):
    (folder / "model.safetensors").write_bytes(b"")
    (tmp_path / "prompts.jsonl").write_text('{"messages": [{"role": "user", "content": "x"}]}\n' * 2)
    (tmp_path / "constitution.yaml").write_text("name: c\nprinciples: [{id: kind, text: Be kind.}]\n")
    (tmp_path / "config.yaml").write_text(
        f"name: c\nconstitution: constitution.yaml\nprompts: prompts.jsonl\npolicy: {{model: {folder}}}\n"
        f"feedback: {{model: {folder}}}\nstages: [{{stage: sample}}]\n"
    )
    command = [sys.executable, "-m", "rlaif.cli", "run", "config.yaml"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "not a whole safetensors file" in done.stderr
    assert "Traceback" not in done.stderr


class Evil:
    """A pickle that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def code(mark: Path) -> str:
    return f"import os; os.mkdir({str(mark)!r})\nclass Model: pass\nclass Config: pass\n"


def pickles(folder: Path, mark: Path) -> None:
    for name in (
        "pytorch_model.bin",
        "adapter_model.bin",
        "training_args.bin",
        "optimizer.pt",
        "model.pkl",
        "model.pt",
        "vocab.pkl",
    ):
        (folder / name).write_bytes(pickle.dumps(Evil(mark)))


def named_weights(folder: Path, mark: Path) -> None:
    pickles(folder, mark)
    edit(folder / "config.json", transformers_weights="pytorch_model.bin")


def remote_code(folder: Path, mark: Path) -> None:
    for name in ("modeling_x.py", "configuration_x.py", "tokenization_x.py", "__init__.py"):
        (folder / name).write_text(code(mark))
    classes = {
        "AutoConfig": "configuration_x.Config",
        "AutoModelForCausalLM": "modeling_x.Model",
        "AutoModelForSequenceClassification": "modeling_x.Model",
    }
    edit(folder / "config.json", auto_map=classes)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokenization_x.Model"]})


def remote_code_of_an_unknown_kind(folder: Path, mark: Path) -> None:
    remote_code(folder, mark)
    edit(folder / "config.json", model_type="x")


def remote_code_elsewhere(folder: Path, mark: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "org/repo--modeling_x.Model"})
    edit(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["org/repo--tokenization_x.Model", None]}
    )


def kernels(folder: Path, mark: Path) -> None:
    edit(
        folder / "config.json",
        attn_implementation="org/kernel",
        _attn_implementation="org/kernel",
        experts_implementation="org/kernel",
        use_kernels=True,
        kernel_config={"RMSNorm": "org/kernel:Layer"},
    )


def quantised(folder: Path, mark: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "mxfp4"})


def adapter(folder: Path, mark: Path) -> None:
    file = {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/other",
        "auto_mapping": {"parent_library": "os"},
    }
    (folder / "adapter_config.json").write_text(json.dumps(file))


def generate(folder: Path, mark: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code(mark))
    edit(folder / "generation_config.json", custom_generate="org/other", assistant_model="org/other")


def template(folder: Path, mark: Path) -> None:
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ raise_exception.__globals__['__builtins__'] }}"
    (folder / "chat_template.jinja").write_text(escape + zoo.TURNS)


def other_files(folder: Path, mark: Path) -> None:
    for name in (
        "sitecustomize.py",
        "conftest.py",
        "transformers.py",
        "setup.py",
        "handler.py",
        "pipeline.py",
    ):
        (folder / name).write_text(code(mark))
    (folder / "requirements.txt").write_text("https://example.org/evil.tar.gz\n")
    edit(
        folder / "tokenizer_config.json",
        tokenizer_file="org/other",
        vocab_file="https://example.org/vocab",
        tokenizer_class="PreTrainedTokenizerFast",
        processor_class="Evil",
    )


ROUTES: dict[Callable[[Path, Path], None], str] = {
    pickles: "",
    named_weights: "",
    remote_code: "",
    remote_code_of_an_unknown_kind: "cannot be loaded",
    kernels: "",
    generate: "",
    remote_code_elsewhere: "",
    quantised: "quantised",
    adapter: "holds an adapter",
    template: "chat template fails",
    other_files: "",
}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
def test_no_file_of_a_model_folder_runs_code_or_asks_the_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, route: Callable[[Path, Path], None]
):
    """Every file that could name code: it is never run, and the model loads without it or is refused in
    words."""
    from transformers.integrations import hub_kernels

    def never(*_: object, **__: object) -> None:
        raise AssertionError("asked for something outside the folder")

    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(hub_kernels, "get_kernel", never)
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda *_: True)
    mark, request = tmp_path / "mark", GenerateRequest([user("x")], 4)
    route(folder, mark)
    if ROUTES[route]:
        with pytest.raises(UserError, match=ROUTES[route]):
            dict(TransformersEngine(ModelConfig(model=str(folder), device="cpu")).generate([request]))
    else:
        engine = TransformersEngine(ModelConfig(model=str(folder), device="cpu"))
        assert dict(engine.generate([request]))[0].finish_reason in ("stop", "length")
        assert engine.model.config._attn_implementation in ("sdpa", "eager")
        assert load_reward_model(folder, "cpu", new_head=True).config.num_labels == 1
        for made in (engine.model, engine.tokenizer):  # what is saved brings no code to whoever loads it
            made.save_pretrained(tmp_path / "saved")
        saved = [file.read_text() for file in (tmp_path / "saved").glob("*.json")]
        assert not any("auto_map" in text or "org/" in text for text in saved if "tokenizer_file" not in text)
    assert not mark.exists()


def test_weights_in_pieces_are_opened(plain: Path, tmp_path: Path):
    model = load_causal_lm(plain, "cpu")
    model.save_pretrained(tmp_path / "pieces", max_shard_size="10KB")
    load_tokenizer(plain).save_pretrained(tmp_path / "pieces")
    assert len(list(model_folder(tmp_path / "pieces").glob("*.safetensors"))) > 1
    again = load_causal_lm(tmp_path / "pieces", "cpu")
    assert all(bool((a == b).all()) for a, b in zip(model.parameters(), again.parameters(), strict=True))

"""The label stage through an endpoint that does everything wrong: no label lost or doubled, all troubles
counted."""

import json
from collections import Counter
from pathlib import Path
from zlib import crc32

import pytest

import rlaif.engines.endpoints as endpoints
import rlaif.engines.openai as module
from rlaif.errors import UserError
from rlaif.pipeline import run
from rlaif.runs.storage import read_json
from tests.scripts import judge
from tests.stub_server import Stub, serving

KEY = "sk-seen-by-the-server-alone"
STAGES = """stages:
  - {stage: sample, num_prompts: 16, k: 2}
  - {stage: pair}
  - {stage: label}
"""
FAULTS = ["429", f"500 no, {KEY}", "half", "empty", "bare", "cut", "silence"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setattr(endpoints, "PAUSE", 0.001)
    monkeypatch.setattr(endpoints, "LONGEST", 0.02)
    monkeypatch.setattr(module, "TIMEOUT", 0.5)


def verdict(body: dict) -> list[tuple[str, float]]:
    """The scripted judge behind the server."""
    text = body["messages"][-1]["content"]
    return list(zip("AB", judge(body["messages"], text, ("A", "B")), strict=True))


class Faulty(Stub):
    """Each question has its own first faults, so that all of them happen at any time."""

    def fault(self, body: dict) -> str | None:
        super().fault(body)
        key = json.dumps(body["messages"])
        nth = sum(json.dumps(b["messages"]) == key for b in self.asked) - 1
        first = crc32(key.encode())
        return FAULTS[(first + nth) % len(FAULTS)] if nth < 2 else None


def endpoint_config(project: Path, url: str, patience: float = 60.0) -> Path:
    text = (project / "config.yaml").read_text().split("stages:")[0]
    role = json.dumps(
        {
            "engine": "openai",
            "model": "judge",
            "base_url": url,
            "api_key_env": "JUDGE_KEY",
            "patience": patience,
            "concurrency": 4,
        }
    )
    lines = [f"feedback: {role}" if line.startswith("feedback:") else line for line in text.splitlines()]
    path = project / "endpoint.yaml"
    path.write_text("\n".join([*lines, STAGES]))
    return path


def labels(folder: Path) -> dict[tuple[str, str, str], float]:
    """p_a by (comparison, principle, order), each of them once."""
    rows = [json.loads(line) for line in (folder / "03_label" / "labels.jsonl").read_text().splitlines()]
    found = Counter((row["comparison_id"], row["principle_id"], row["order"]) for row in rows)
    assert set(found.values()) <= {1}
    return {(row["comparison_id"], row["principle_id"], row["order"]): row.get("p_a") for row in rows}


def written_anywhere(folder: Path, text: str) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


@pytest.fixture
def truth(project: Path) -> dict[tuple[str, str, str], float]:
    stub = Stub()
    stub.verdict = verdict
    with serving(stub) as url:
        run(endpoint_config(project, url), project / "well")
    assert stub.keys == {KEY}
    return labels(project / "well")


def test_a_label_stage_through_every_fault(project: Path, truth: dict):
    stub = Faulty()
    stub.verdict = verdict
    with serving(stub) as url:
        run(endpoint_config(project, url), project / "faulty")
    assert labels(project / "faulty") == pytest.approx(truth)
    summary = json.loads((project / "faulty" / "03_label" / "stage.json").read_text())
    retried = {k.removeprefix("retried: "): n for k, n in summary["usage"].items() if k.startswith("retried")}
    assert set(retried) >= {
        "HTTP 429",
        "HTTP 500",
        "half a response",
        "no choices in the response",
        "no log-probabilities",
        "no connection",
        "no response in time",
    }
    assert summary["usage"]["calls"] == len(truth) + retried["no log-probabilities"]
    assert any("asked again after" in note for note in summary["notes"])
    assert written_anywhere(project / "faulty", KEY) == []


def asked_at_a_new_address(project: Path, name: str, *overrides: str, until: str | None = None) -> int:
    """Questions that a server at a new address is asked when a run is started, or goes on, with it."""
    stub = Stub()
    stub.verdict = verdict
    with serving(stub) as url:
        run(endpoint_config(project, url), project / name, overrides, until)
    return len(stub.asked)


def test_a_run_goes_on_at_another_address_and_its_judge_is_the_same(project: Path):
    assert asked_at_a_new_address(project, "run", until="pair") == 0
    faster = ("feedback.concurrency=8", "feedback.patience=9", "policy.device=cpu", "threads=1")
    assert asked_at_a_new_address(project, "run", *faster) > 0
    addresses = read_json(project / "run" / "manifest.json")["endpoints"]
    assert addresses["policy"] == []
    assert len(addresses["feedback"]) == 2
    assert read_json(project / "run" / "config.json")["feedback"]["patience"] == 9
    assert asked_at_a_new_address(project, "other", f"label.labels_from={project / 'run'}") == 0
    with pytest.raises(UserError, match=r"feedback\.served_as: None there, 'else' now"):
        asked_at_a_new_address(project, "run", "feedback.served_as=else")


def test_a_server_that_falls_silent_and_comes_back(project: Path, truth: dict):
    stub = Stub()
    stub.verdict = verdict
    with serving(stub) as url:
        config = endpoint_config(project, url, patience=1.0)
        good = stub.fault
        stub.fault = lambda body: good(body) or ("silence" if len(stub.asked) > 20 else None)
        with pytest.raises(UserError, match=r"no endpoint has responded for .* × no response in time"):
            run(config, project / "silent")
        kept = labels(project / "silent")
        assert 0 < len(kept) <= 20
        failed = json.loads((project / "silent" / "03_label" / "stage.json").read_text())
        assert failed["status"] == "failed"
        assert "no response in time" in failed["error"]
        assert failed["usage"]["retried: no response in time"] >= 1
        assert failed["notes"]
        assert written_anywhere(project / "silent", KEY) == []

        stub.fault = good
        stub.asked.clear()
        run(config, project / "silent")
    assert labels(project / "silent") == pytest.approx(truth)
    assert kept.items() <= labels(project / "silent").items()
    assert len(stub.asked) <= len(truth) - len(kept)
    done = json.loads((project / "silent" / "03_label" / "stage.json").read_text())
    assert done["usage"]["calls"] >= len(truth)
    assert done["usage"]["retried: no response in time"] == failed["usage"]["retried: no response in time"]


def test_refused_questions_are_counted_and_the_run_goes_on(project: Path, truth: dict):
    stub = Stub()

    def fault(body: dict) -> str | None:
        stub.asked.append(body)
        text = body["messages"][-1]["content"]
        return "403 not this one" if crc32(text.encode()) % 7 == 0 and text != "Hello." else None

    stub.fault = fault
    stub.verdict = lambda body: verdict(body) if body["messages"][-1]["content"] != "Hello." else stub.top
    with serving(stub) as url:
        run(endpoint_config(project, url), project / "moderated")
    rows = labels(project / "moderated")
    left = {key for key, p_a in rows.items() if p_a is None}
    assert 0 < len(left) < len(truth) / 2
    assert {key: p for key, p in rows.items() if key not in left} == pytest.approx(
        {key: p for key, p in truth.items() if key not in left}
    )
    summary = read_json(project / "moderated" / "03_label" / "stage.json")
    assert summary["status"] == "done"
    assert summary["usage"]["refused: HTTP 403"] == len(left)
    assert any(f"{len(left)} questions refused ({len(left)} × HTTP 403" in note for note in summary["notes"])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("other model", 'asked for "judge", answered by "tiny-chat"'),
        (f"404 no model judge for {KEY}", 'no model "judge" there'),
        (f"401 {KEY} is no key", "refuses the key in JUDGE_KEY"),
    ],
)
def test_mistakes_stop_the_run_at_once(project: Path, fault: str, words: str):
    stub = Stub()
    stub.always = fault
    with serving(stub) as url, pytest.raises(UserError) as error:
        run(endpoint_config(project, url), project / "wrong")
    assert words in str(error.value)
    assert KEY not in str(error.value)
    assert len(stub.asked) <= 4
    assert words in json.loads((project / "wrong" / "03_label" / "stage.json").read_text())["error"]
    assert written_anywhere(project / "wrong", KEY) == []
    assert written_anywhere(project / "wrong", "JUDGE_KEY")  # its name is

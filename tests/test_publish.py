"""Publishing to a hub that runs here: what is pushed, privately unless asked, and nothing without --to."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.errors import UserError
from rlaif.human.importers import import_file
from rlaif.report.publish import PARQUET, prepare, push
from rlaif.runs.folder import Run
from tests.fake_run import fake_run
from tests.stub_hub import Hub, serving

ROOT = Path(__file__).parent.parent


FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights", "tokenizer.json": b"{}"}


@pytest.fixture
def run(tmp_path):
    path = fake_run(tmp_path / "run", prompts=24)
    for stage in Run.load(path).stages:
        if stage.name in ("sft", "ppo", "reward"):
            folder = stage.dir / ("reward_model" if stage.name == "reward" else "policy")
            folder.mkdir()
            for name, data in FILES.items():
                (folder / name).write_bytes(data + stage.name.encode() if "weights" in str(data) else data)
    return path


@pytest.fixture
def hub(monkeypatch):
    found = Hub()
    with serving(found) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield found


def pushed(
    run: Path, folder: Path, what: str, to: str, public: bool = False, licence: str = "unknown"
) -> dict:
    made = prepare(run, what, folder, licence)
    return made | push(Path(made["folder"]), made["what"], to, public)


def test_what_is_pushed_and_that_it_is_private(run, hub, tmp_path):
    told = pushed(run, tmp_path / "1", "policy", "me/policy")
    assert (told["what"], told["name"], told["private"], told["url"]) == (
        "policy",
        "ppo",
        True,
        f"{hub.address}/me/policy",
    )
    policy = hub.repos["model", "me/policy"]
    assert policy["private"]
    card = policy["files"].pop("README.md")
    assert b"policy `ppo` of a run" in card
    assert policy["files"] == {**FILES, "model.safetensors": b"weightsppo"}
    assert not pushed(run, tmp_path / "2", "reward_model", "me/rm", public=True)["private"]
    assert hub.repos["model", "me/rm"]["files"]["model.safetensors"] == b"weightsreward"
    assert not hub.repos["model", "me/rm"]["private"]
    pushed(run, tmp_path / "3", "preferences", "me/prefs", licence="mit")
    prefs = hub.repos["dataset", "me/prefs"]
    assert prefs["private"]
    assert prefs["files"].keys() == {"README.md", PARQUET}
    assert b'license: "mit"' in prefs["files"]["README.md"]
    from huggingface_hub import DatasetCard, ModelCard
    from pyarrow.parquet import read_table

    rows = len(read_table(io.BytesIO(prefs["files"][PARQUET])))
    assert rows > 5
    assert import_file(None, tmp_path / "3", tmp_path / "back")["kept"] == rows
    for name, head in (("1", ModelCard), ("2", ModelCard), ("3", DatasetCard)):
        assert head.load(tmp_path / name / "README.md").data.license == ("mit" if name == "3" else "unknown")


def test_a_repository_that_all_can_read_is_not_pushed_to_unless_asked(run, hub, tmp_path):
    hub.repos["model", "me/open"] = {"private": False, "files": {}}
    hub.repos["model", "me/mine"] = {"private": True, "files": {}}
    with pytest.raises(UserError, match="everybody can read"):
        pushed(run, tmp_path / "1", "policy", "me/open")
    assert hub.repos["model", "me/open"]["files"] == {}
    assert not pushed(run, tmp_path / "2", "policy", "me/open", public=True)["private"]
    assert hub.repos["model", "me/open"]["files"]
    assert pushed(run, tmp_path / "3", "policy", "me/mine")["private"]


def test_a_hub_that_refuses_or_is_not_there_is_one_message(run, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="the hub refused it") as refused:
        pushed(run, tmp_path / "1", "policy", "me/policy")
    assert "hf_wrong" not in str(refused.value)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the hub refused it"):
        pushed(run, tmp_path / "2", "policy", "me/policy")
    assert hub.repos == {}


def rlaif(run: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rlaif", "publish", str(run), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_command_pushes_nothing_without_to(run, hub, tmp_path):
    assert "neither --to nor --out" in rlaif(run).stderr
    said = rlaif(run, "--out", str(tmp_path / "made"), "--what", "policy:sft")
    assert said.stdout.strip() == str(tmp_path / "made")
    assert "policy `sft` of a run" in (tmp_path / "made" / "README.md").read_text()
    assert hub.tokens == set()
    said = rlaif(run, "--to", "me/policy", "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["private"]
    assert hub.repos["model", "me/policy"]["files"].keys() == {*FILES, "README.md"}
    assert [path.name for path in run.parent.iterdir() if path.name.startswith("tmp")] == []


@pytest.mark.parametrize(("at", "lands"), [("/repos/create", True), ("/commit/", False), ("/commit/", True)])
def test_killed_while_it_pushes_the_same_command_ends_it(run, hub, at, lands):
    command = [sys.executable, "-m", "rlaif", "publish", str(run), "--to", "me/policy", "--license", "mit"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:

        def loses(path: str) -> bool:
            if at not in path or process.poll() is not None:
                return False
            while hub.landed.acquire(blocking=False):  # what landed before
                pass
            process.kill()
            process.wait()
            return not lands

        hub.loses = loses
        assert process.wait() == -9
    hub.landed.acquire(timeout=20 if lands else 0)  # what was asked for may be done after that
    assert [p.name for p in run.parent.iterdir() if "publishing" in p.name] == [".run.publishing"]
    there = hub.repos["model", "me/policy"]
    assert set(there["files"]) == ({*FILES, "README.md"} if at == "/commit/" and lands else set())
    done = CliRunner().invoke(app, command[3:])
    assert done.exception is None, done.output
    assert there["private"]
    assert there["files"].keys() == {*FILES, "README.md"}
    assert there["files"]["model.safetensors"] == b"weightsppo"
    assert [p.name for p in run.parent.iterdir() if "publishing" in p.name] == []


def test_a_folder_is_whole_or_not_there_and_the_same_call_goes_on(run, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    out = tmp_path / "made"
    with monkeypatch.context() as patch:
        patch.setattr("rlaif.report.publish.unshare", kill)
        patch.setattr("rlaif.report.publish.shutil.rmtree", lambda *_, **__: None)  # a kill ends before it
        with pytest.raises(Killed):
            prepare(run, "policy", out)
    assert not out.exists()
    assert (tmp_path / ".made.making" / "model.safetensors").exists()
    for what in ("policy", "preferences"):
        first = prepare(run, what, tmp_path / what)
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / what).rglob("*")}
        assert prepare(run, what, tmp_path / what) == first  # whole: nothing is left to do
        assert {p: p.stat().st_mtime_ns for p in (tmp_path / what).rglob("*")} == before
    prepare(run, "policy", out)
    assert list(tmp_path.glob(".*making")) == []
    (out / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds something else already"):
        prepare(run, "policy", out)
    assert (out / "README.md").read_text() == "mine"


def test_the_run_stays_as_it_was_and_a_damaged_one_is_refused(run, tmp_path):
    stage = next(s for s in Run.load(run).stages if s.name == "ppo")
    stage.started = 0.0
    stage.finish()
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    prepare(run, "policy", tmp_path / "made")
    (tmp_path / "made" / "config.json").write_text("another")
    Run.load(run).verify()
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == before
    (stage.dir / "policy" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json"):
        prepare(run, "policy", tmp_path / "again")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("judge", "one of policy, reward_model, preferences"),
        ("policy:dpo", "no policy dpo.*\n.*one of sft, ppo"),
        ("preferences:x", "one of policy"),
    ],
)
def test_what_cannot_be_published(run, tmp_path, what, message):
    with pytest.raises(UserError, match=message):
        prepare(run, what, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_ids_that_are_none(tmp_path):
    none = ("policy", "a/b/c", "me/../x y", "me/a--b", "me/a..b", "me/-a", "me/a.", "me/a.git", "me/é")
    for id in (*none, f"me/{'a' * 97}"):
        with pytest.raises(UserError, match="no id of a repository"):
            push(tmp_path, "policy", id)

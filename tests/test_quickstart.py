"""The whole loop on the embedded models: small in the fast tests, in full and against its floors in the slow
ones."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rlaif
from rlaif.report.summary import summarise
from rlaif.runs.storage import read_json, write_json
from tests.test_data_page import undescribed

ROOT = Path(__file__).parent.parent
SMALL = [
    "threads=1",
    "sample[0].num_prompts=40",
    "sample[1].num_prompts=40",
    "ppo.updates=6",
    "ppo.batch_size=16",
    "ppo.checkpoint_every=2",
    "evaluate.num_prompts=24",
    "evaluate.num_judged_prompts=12",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    rlaif.run(ROOT / "configs" / "quickstart.yaml", out, overrides=SMALL)
    return out


def test_the_data_page_describes_every_key(small):
    assert undescribed(small) == {}


def test_show_has_the_keys_that_scripts_rely_on(small):
    shown = json.loads(json.dumps(summarise(small)))
    assert shown["status"] == "done"
    names = ["sample", "critique", "sft", "sample", "pair", "label", "reward", "ppo", "evaluate"]
    assert [s["name"] for s in shown["stages"]] == names
    assert all({"status", "seconds", "in", "kept", "dropped"} <= s.keys() for s in shown["stages"])
    assert list(shown["policies"]) == ["base", "sft", "ppo"]
    for policy in shown["policies"].values():
        assert {"all", "polite", "harmless", "honest", "helpful"} <= policy["gold"].keys()
        assert {"kl", "length", "refusal_rate", "compliance"} <= policy.keys()
    assert shown["policies"]["base"]["kl"] == 0
    assert shown["policies"]["ppo"]["kl"] > 0
    judged_by = read_json(small / "09_evaluate" / "stage.json")["metrics"]["judge"]
    assert judged_by.startswith("transformers:feedback@")
    assert shown["labels"].keys() >= {
        "comparisons",
        "calls",
        "agreement_with_gold",
        "order_flip_rate",
        "invalid_rate",
    }
    assert shown["reward_model"].keys() >= {"heldout_accuracy", "ece"}
    assert shown["ppo"].keys() >= {"updates", "episodes", "kl", "reward_start", "reward_end"}
    assert shown["ppo"]["episodes"] == 6 * 16


def test_the_report_holds_itself(small):
    page = (small / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert len(page) < 2_000_000
    assert "<script src" not in page


def test_policies_are_plain_folders(small):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = rlaif.load_run(small).policies["ppo"]
    AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_compare_with_itself_under_another_seed_declares_nothing(small, tmp_path):
    other = tmp_path / "other"
    rlaif.run(ROOT / "configs" / "quickstart.yaml", other, overrides=[*SMALL, "seed=1"])
    found = rlaif.compare(small, other, out=tmp_path / "page.html")
    assert found["prompts"] == 24
    assert {"value", "ci", "ties", "invalid", "judge"} <= found["win_rate"].keys()
    assert found["gold"]["delta"].keys() >= {"all", "polite"}
    assert "seed" in json.dumps(found["differs"]["config"])
    assert (tmp_path / "page.html").stat().st_size < 2_000_000


def rows_of(folder: Path) -> dict[str, set[str]]:
    """Every generated or labelled row of a run; metrics without what a clock says."""
    found = {}
    for path in sorted(folder.glob("*/*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row.pop("seconds", None)
        found[str(path.relative_to(folder))] = [json.dumps(row, sort_keys=True) for row in rows]
        assert len(set(found[str(path.relative_to(folder))])) == len(rows), f"{path}: a row stands twice"
    return {name: set(rows) for name, rows in found.items()}


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


MOMENTS = (
    ("01_sample/responses.jsonl", 1),
    ("02_critique/revisions.jsonl", 30),
    ("06_label/labels.jsonl", 200),
    ("07_reward/metrics.jsonl", 2),
    ("08_ppo/metrics.jsonl", 3),
)


def test_labels_broken_off_end_as_if_nothing_had_happened(small, tmp_path):
    out = tmp_path / "broken_off"
    shutil.copytree(small, out, ignore=shutil.ignore_patterns("07_*", "08_*", "09_*"))
    label = out / "06_label"
    rows = (label / "labels.jsonl").read_text().splitlines(keepends=True)
    (label / "labels.jsonl").write_text("".join(rows[: len(rows) // 3]))
    (label / "preferences.jsonl").unlink()
    write_json(label / "stage.json", read_json(label / "stage.json") | {"status": "running"})
    rlaif.run(ROOT / "configs" / "quickstart.yaml", out, overrides=SMALL, until="label")
    mine, whole = rows_of(out), rows_of(small)
    for name in ("06_label/labels.jsonl", "06_label/preferences.jsonl"):
        assert mine[name] == whole[name], name


@pytest.mark.slow
def test_killed_five_times_it_ends_as_if_nothing_had_happened(small, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "rlaif.cli", "run", "configs/quickstart.yaml", "--out", str(out)]
    command += [word for override in SMALL for word in ("-s", override)]
    for name, count in MOMENTS:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
        while lines(out / name) < count and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None, f"ended before {name} had {count} rows"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    mine, whole = rows_of(out), rows_of(small)
    assert mine.keys() == whole.keys()
    for name in whole:
        assert mine[name] == whole[name], name


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quickstart_in_full(tmp_path, seed):
    out = tmp_path / "run"
    rlaif.run(ROOT / "configs" / "quickstart.yaml", out, overrides=[f"seed={seed}"])
    shown = summarise(out)
    base, ppo = shown["policies"]["base"], shown["policies"]["ppo"]
    assert ppo["n"] >= 500
    assert base["gold"]["all"] <= 0.40
    assert ppo["gold"]["all"] >= 0.90  # questions that no training asked
    assert ppo["wordings"]["gold"]["all"] >= 0.90  # other wordings of questions that training asked
    manner = ("polite", "harmless", "concise", "in-role", "no-word")
    assert all(ppo["gold"][key] >= max(0.95, base["gold"][key]) for key in manner)
    assert shown["labels"]["agreement_with_gold"] >= 0.93

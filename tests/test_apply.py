"""`rlaif constitution apply`: an edit followed to the policy by a fork that asks and trains what the edit
reaches."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rlaif
from rlaif import pipeline
from rlaif.engines import GenerateRequest
from rlaif.engines.cache import CachedEngine
from rlaif.errors import UserError
from rlaif.preflight.fork import Fork
from rlaif.records import Label, Preference
from rlaif.runs.folder import Run
from rlaif.runs.rows import Rows
from rlaif.runs.storage import read_json
from rlaif.workbench.apply import _going_on, apply
from rlaif.workbench.diff import diff
from tests import scripts
from tests.fake_run import fake_run
from tests.test_cli import refused
from tests.test_cli import rlaif as command
from tests.test_edit import REWORDED, asked, constitution, labelled, lecturing, preferences, run  # noqa: F401
from tests.test_quickstart import SMALL

ROOT = Path(__file__).parent.parent


def test_it_asks_the_edited_principle_alone_and_shares_the_rest(project, run, asked):  # noqa: F811
    new = constitution(project / "new.yaml", REWORDED)
    told: list[str] = []
    data = apply(run, new, project / "applied", trust=True, tell=told.append)
    assert not [line for line in told if "to go on" in line]
    assert sum(line.startswith("05_label: done") for line in told) == 1
    assert len(told) == len(set(told))
    this = Run.load(project / "applied")
    edited = [row for row in this.stages[4].rows("labels", Label) if row.principle_id == "no-rude"]
    assert (asked["SAMPLE"], asked["CRITIQUE"]) == (0, 0)
    assert asked["LABEL"] == len(edited) == data["labels"]["asked"]["calls"] == data["labels"]["stale"]
    assert this.stages[4].summary["usage"]["calls"] == len(edited)
    assert this.manifest["parent"]["shared"] == ["01_sample", "02_critique", "03_sample", "04_pair"]
    assert data["labels"]["waiting"] == 0
    assert data["preferences"]["changed"] > 0
    assert data["preferences"] == diff(run, new, ask=True, trust=True)["preferences"]
    assert "the edit acts through the labels alone" in data["policy"]["notes"][0]
    page = (project / "applied" / "edit.html").read_text()
    assert "<ins>rain.</ins>" in page
    assert "The policy" in page
    kept = read_json(project / "applied" / "edit.json")
    assert kept == json.loads(json.dumps(data))


def test_what_was_asked_is_said_of_all_rounds(project, asked):  # noqa: F811
    run = labelled(project, "rounds=2")  # noqa: F811
    asked.update(LABEL=0)
    data = apply(run, constitution(project / "new.yaml", REWORDED), project / "applied", trust=True)
    stages = [stage for stage in Run.load(project / "applied").stages if stage.name == "label"]
    assert len(stages) == 2
    assert data["labels"]["asked"]["calls"] == asked["LABEL"] > stages[0].summary["usage"]["calls"]


@pytest.mark.parametrize(("given", "said"), [("seed=1", None), ("ppo.updates=5", 5), ("ppo.model=else", 0)])
def test_how_far_ppo_goes_on_is_said_as_it_was_asked_for(tmp_path, given, said):
    run = Run.load(fake_run(tmp_path / "run", prompts=24))  # noqa: F811
    updates = next(stage.options for stage in run.stages if stage.name == "ppo").updates
    told = [line for _, line in _going_on(run, [given]) if line]
    number = math.ceil(updates / 3) if said is None else said
    assert [f" {number} updates (the run's had {updates})" in line for line in told] == [True][:number]


def estimated(told: list[str]) -> tuple[str, str]:
    """The calls of the label stage that the estimate says, all calls where it says none, and its line on
    labels."""
    lines = told[told.index("estimate, at most:") + 1 :]
    calls = next(line for line in lines if line.startswith(("  label: ", "  all: ")))
    return calls.split(",")[0].strip(), next(line for line in lines if "labels_from" in line).split(": ")[-1]


CARD = ("-s", "judge_card.num_pairs=8", "-s", "judge_card.enforce=false")


@pytest.mark.parametrize("examined", [False, True])
def test_the_estimate_counts_the_calls_for_stale_labels_alone(project, examined):
    """As many as the ledger then has, with the judge card of the run or without one; 0 where nothing
    is stale, also because `diff --ask` has asked."""
    source = labelled(project, *(CARD[1::2] if examined else ()))
    new = constitution(project / "new.yaml", REWORDED)

    def applied(file: Path, out: str) -> tuple[list[str], int]:
        told: list[str] = []
        apply(source, file, project / out, trust=True, tell=told.append)
        return told, Run.load(project / out).ledger.figures("05_label")["calls"]

    told, calls = applied(new, "one")
    total = len(Run.load(project / "one").stages[4].rows("labels", Label))
    words = f"{total - calls} of {total} labels are taken over, {calls} are asked for"
    assert estimated(told) == (f"label: {calls} calls", words)
    assert 0 < calls < total
    assert not [line for line in told if "of which the judge card" in line]
    told, calls = applied(constitution(project / "heavy.yaml", {0: {"weight": 9.0}}), "two")
    nothing = ("all: 0 calls", f"{total} of {total} labels are taken over, none is asked for")
    assert (calls, estimated(told)) == (0, nothing)
    diff(source, new, ask=True, trust=True)
    told, calls = applied(new, "three")
    assert (calls, estimated(told)) == (0, nothing)


def test_the_estimate_of_a_fork_that_was_killed_counts_what_is_left(project, run, asked):  # noqa: F811
    new = constitution(project / "new.yaml", REWORDED)
    words = ("constitution", "apply", run, new, "--out", project / "applied", "--trust")
    assert command(*words, KILL_LABEL="9").returncode == -9
    told: list[str] = []
    apply(run, new, project / "applied", trust=True, tell=told.append)
    calls, line = estimated(told)
    assert calls == f"label: {asked['LABEL']} calls"
    assert f"labels are taken over, 8 are there already, {asked['LABEL']} are asked for" in line


def test_labels_that_diff_asked_for_are_not_asked_again(project, run, asked):  # noqa: F811
    new = constitution(project / "new.yaml", REWORDED)
    first = diff(run, new, ask=True, trust=True)
    count = asked["LABEL"]
    data = apply(run, new, project / "applied", trust=True)
    assert asked["LABEL"] == count
    assert data["preferences"] == first["preferences"]
    rows = {
        row.comparison_id: row
        for row in Run.load(project / "applied").stages[4].rows("preferences", Preference)
    }
    assert sum(rows[i].p_a != row.p_a for i, row in preferences(run).items() if i in rows) > 0


def test_killed_and_called_again_it_continues(project, run, asked):  # noqa: F811
    new = constitution(project / "new.yaml", REWORDED)
    words = ("constitution", "apply", run, new, "--out", project / "applied", "--trust")
    assert command(*words, KILL_LABEL="9").returncode == -9
    kept = len(Rows(project / "applied" / "05_label" / "labels.jsonl", Label))
    data = apply(run, new, project / "applied", trust=True)
    stale = data["labels"]["stale"]
    assert 0 < asked["LABEL"] < stale
    assert kept > 8  # taken over, and asked before the kill
    whole = apply(run, new, project / "whole", trust=True)
    for key in ("preferences", "principles", "examples", "edits"):
        assert data[key] == whole[key]
    before = (project / "applied" / "05_label" / "labels.jsonl").stat().st_mtime_ns
    again = apply(run, new, project / "applied", trust=True)
    assert (project / "applied" / "05_label" / "labels.jsonl").stat().st_mtime_ns == before
    assert again["preferences"] == whole["preferences"]
    assert again["policy"] == apply(run, new, project / "applied", trust=True)["policy"] == data["policy"]


def test_where_no_preference_changes_nothing_is_trained(project, run):  # noqa: F811
    new = constitution(project / "new.yaml", {0: {"critique": "Say where it is rude."}})
    data = apply(run, new, project / "applied", trust=True)
    assert data["policy"]["verdict"].startswith("No preference changes")
    assert data["labels"]["stale"] == data["preferences"]["changed"] == 0
    assert "nothing was trained" in (project / "applied" / "edit.html").read_text()


def test_it_can_follow_the_edit_through_critique(project, run, asked):  # noqa: F811
    new = constitution(project / "new.yaml", REWORDED)
    data = apply(run, new, project / "applied", at="critique", trust=True)
    assert asked["CRITIQUE"] > 0
    assert "made anew with the edited text" in data["policy"]["notes"][0]
    assert Run.load(project / "applied").manifest["parent"]["shared"] == ["01_sample"]


def test_bad_input_is_said(project, run):  # noqa: F811
    new = constitution(project / "new.yaml", REWORDED)

    def said(match: str, *paths: Path, **options) -> None:
        with pytest.raises(UserError, match=match):
            apply(*paths, **{"trust": True, "out": project / "bad", **options})
        assert not (project / "bad").exists()

    said("calls the scripted engine tests.scripts:feedback(?s:.*)--trust", run, new, trust=False)
    said("says what .* was made with", run, constitution(project / "same.yaml"))
    strange = constitution(project / "strange.yaml", {}, (0, 1, 2), [{"id": "x", "text": "Be x."}])
    said("no principle in common", run, strange)
    said(f"^{re.escape(str(project / 'nowhere'))}: no run there", project / "nowhere", new)
    pipeline.run(project / "config.yaml", project / "young", until="pair")
    said("has no labels", project / "young", new)
    message = refused(command("constitution", "apply", run, new, "--at", "labels", "--trust"))
    assert "--at labels: no such stage" in message


def test_a_judge_that_refuses_the_new_wording_is_said_before_anything_is_trained(
    project,
    run,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setattr(scripts, "feedback", lecturing)
    with pytest.raises(UserError, match=r"none of the judge's .* verdicts under no-rude can be read"):
        apply(run, constitution(project / "new.yaml", REWORDED), project / "applied", trust=True)


def test_a_file_that_changed_since_is_not_taken_for_the_same_edit(project, run):  # noqa: F811
    new = constitution(project / "new.yaml", REWORDED)
    apply(run, new, project / "applied", trust=True)
    constitution(new, {0: {"text": "Never say nice."}})
    with pytest.raises(UserError, match=r"holds another run(?s:.*)Never say rain.* there, .*Never say nice"):
        apply(run, new, project / "applied", trust=True)


def test_a_fork_takes_the_cache_along_and_does_without_a_damaged_one(project, run):  # noqa: F811
    cache = run / "cache.sqlite"
    request = GenerateRequest([{"role": "user", "content": "Question 1?"}], 5, seed=3)
    engine = CachedEngine(scripts.policy(), cache)
    [(_, first)] = engine.generate([request])
    del engine
    for name in ("whole", "damaged"):
        making = project / name
        making.mkdir()
        (making / "prompts.jsonl").write_bytes((run / "prompts.jsonl").read_bytes())
        if name == "damaged":
            for path in run.glob("cache.sqlite*"):
                path.unlink()
            cache.write_bytes(b"no database" * 999)
        Fork(Run.load(run), 1, "critique").into(making)
        assert (making / "cache.sqlite").exists() == (name == "whole")
    copied = CachedEngine(scripts.policy(), project / "whole" / "cache.sqlite")
    assert [text for _, text in copied.generate([request])] == [first]
    assert (copied.usage.calls, copied.usage.cached) == (0, 1)


def ten_lines() -> list[str]:
    """The commands that docs/edit.md begins with."""
    return re.search(r"```sh\n(.*?)```", (ROOT / "docs" / "edit.md").read_text(), re.DOTALL)[1].splitlines()


@pytest.mark.slow
def test_the_page_s_lines_do_what_they_say(tmp_path):
    lines = ten_lines()
    assert len(lines) <= 10
    first = next(line for line in lines if line.startswith("rlaif run"))
    rlaif.run(ROOT / "configs" / "quickstart.yaml", tmp_path / "runs" / "quickstart", overrides=SMALL)
    script = "\n".join(line for line in lines if line != first)
    call = f'set -e\nrlaif() {{ {sys.executable} -m rlaif.cli "$@"; }}\ncd {tmp_path}\n'
    copied = script.replace("constitutions/playground.yaml", str(ROOT / "constitutions" / "playground.yaml"))
    done = subprocess.run(["bash", "-c", call + copied], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    edited = read_json(tmp_path / "runs" / "mine" / "edit.json")
    assert [edit["id"] for edit in edited["edits"]] == ["no-word"]
    fork, parent = (Run.load(tmp_path / "runs" / name) for name in ("mine", "quickstart"))
    labels = [row for row in parent.stages[5].rows("labels", Label) if row.principle_id == "no-word"]
    # Those that `diff --ask` has asked for are taken over.
    assert fork.stages[5].summary["usage"]["calls"] == 0
    assert len(Rows(parent.asked, Label)) == edited["labels"]["asked_before"] == len(labels)
    ppo = fork.config.stages[7]
    assert (ppo.model, ppo.updates) == (str(parent.stages[7].dir / "policy"), 2)
    assert edited["policy"]["principles"]["no-word"]["edited"]
    assert edited["policy"]["principles"]["no-word"]["gold"]["n"] == 24
    assert edited["policy"]["principles"]["no-word"]["judge"]["n"] == 12
    usage = fork.stages[8].summary["usage"]
    assert usage["cached"] > 0  # base and sft are as they were
    assert (tmp_path / "runs" / "mine" / "edit.html").stat().st_size < 2_000_000
    again = subprocess.run(
        ["bash", "-c", call + copied.splitlines()[-1]], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr

"""The flow on scripted models: order of stages, counts, continuing after a kill, refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.config import load_config
from rlaif.errors import UserError
from rlaif.feedback.preferences import aggregate
from rlaif.records import Comparison, Label, Preference, Response, Revision
from rlaif.runs.folder import Run
from rlaif.runs.rows import Rows
from tests import scripts

ROOT = Path(__file__).parent.parent


def run(project: Path, *overrides: str, **options):
    return pipeline.run(project / "config.yaml", project / "run", overrides, **options)


def rows(folder: Path, stage: str, name: str, record):
    return list(Rows(folder / stage / f"{name}.jsonl", record))


def lines_by_file(folder: Path) -> dict[str, set[str]]:
    return {
        str(path.relative_to(folder)): set(path.read_text().splitlines()) for path in folder.glob("*/*.jsonl")
    }


def test_the_flow_leaves_every_artefact(project):
    this = run(project)
    assert [stage.dir.name for stage in this.stages] == [
        "01_sample",
        "02_critique",
        "03_sample",
        "04_pair",
        "05_label",
    ]
    assert all(stage.is_done for stage in this.stages)
    assert len(rows(this.path, "01_sample", "responses", Response)) == 24
    assert len(rows(this.path, "02_critique", "revisions", Revision)) == 48
    assert len(rows(this.path, "03_sample", "responses", Response)) == 72
    assert (this.path / "report.html").exists()


def test_revisions_follow_the_drawn_principle_and_keep_the_trace(project):
    this = run(project, until="critique")
    texts = this.stages[1].responses()
    prompts = this.stages[1].prompts_by_id()
    words = {"no-rude": "rude", "no-wrong": "wrong"}
    revisions = rows(this.path, "02_critique", "revisions", Revision)
    for step in revisions:
        before, after = texts[step.from_id].text, texts[step.to_id].text
        word = words[step.principle_id]
        assert word not in after.split()
        assert step.status == ("ok" if word in before.split() else "unchanged")
        assert (word in step.critique) == (word in before.split())
        if step.principle_id == "no-wrong":
            assert "fact" in prompts[step.prompt_id].tags
    second = {step.from_id for step in revisions if step.round == 2}
    assert second == {step.to_id for step in revisions if step.round == 1}
    assert {step.principle_id for step in revisions} == set(words)
    # A principle is drawn anew for every round: of the prompts to which two apply, some get one and then the
    # other.
    drawn = [
        {s.principle_id for s in revisions if s.prompt_id == i} for i in {s.prompt_id for s in revisions}
    ]
    assert 0 < sum(len(ids) == 2 for ids in drawn) < len(drawn)


def test_labels_agree_with_the_truth_and_preferences_follow_from_them(project):
    this = run(project)
    metrics = this.stages[4].summary["metrics"]
    assert metrics["agreement_with_gold"] == 1.0
    assert metrics["agreement_with_gold_ci"][1] == 1.0
    assert 0 < metrics["agreement_with_gold_ci"][0] < 1
    assert 0 < metrics["gold_groups"] <= metrics["gold_decided"]
    assert metrics["order_flip_rate"] == 0.0
    assert metrics["by_principle"]["no-rude"]["agreement_with_gold"] == 1.0
    labels = rows(this.path, "05_label", "labels", Label)
    assert len({label.id for label in labels}) == len(labels)
    by_pair: dict[str, list[Label]] = {}
    for label in labels:
        by_pair.setdefault(label.comparison_id, []).append(label)
    for preference in rows(this.path, "05_label", "preferences", Preference):
        p_a, _ = aggregate(by_pair[preference.comparison_id], this.constitution)
        assert preference.p_a == pytest.approx(p_a)


def test_every_row_in_is_kept_or_dropped_with_a_reason(project):
    this = run(project)
    for stage in this.stages:
        summary = stage.summary
        assert summary["in"] == summary["kept"] + sum(summary["dropped"].values()), stage.name
    pair, label = this.stages[3].summary, this.stages[4].summary
    assert pair["dropped"]["revision left the text as it was"] > 0
    # 72 samples in triples and 24 originals.
    assert pair["in"] == 72 + 24
    assert label["in"] == pair["kept"]


def test_a_revision_counts_only_if_the_judge_prefers_it(project):
    sound = pipeline.run(project / "config.yaml", project / "sound")
    made = {p.id: p for p in rows(sound.path, "04_pair", "comparisons", Comparison) if p.origin == "revision"}
    texts = sound.stages[4].responses()
    assert all(texts[p.b].model == "scripted:policy" != texts[p.a].model for p in made.values())
    kept = [p for p in rows(sound.path, "05_label", "preferences", Preference) if p.comparison_id in made]
    assert len(kept) > len(made) / 2
    assert all(p.p_a > 0.5 for p in kept)
    this = run(project, "feedback.model=tests.scripts:biased_judge")
    pairs = {p.id: p for p in rows(this.path, "04_pair", "comparisons", Comparison)}
    revised = sum(pair.origin == "revision" for pair in pairs.values())
    assert revised > 0
    assert this.stages[4].summary["dropped"]["revision not confirmed by the judge"] == revised
    assert not any(
        pairs[p.comparison_id].origin == "revision"
        for p in rows(this.path, "05_label", "preferences", Preference)
    )


def test_a_finished_run_is_left_alone(project):
    run(project)
    before = {path: path.read_bytes() for path in (project / "run").glob("0*/*")}
    scripts.CALLS.clear()
    run(project)
    assert {path: path.read_bytes() for path in (project / "run").glob("0*/*")} == before
    assert scripts.CALLS == {}


def test_a_folder_of_another_run_is_refused_with_what_differs(project):
    run(project, until="critique")
    with pytest.raises(UserError, match=r"seed: 0 there, 7 now"):
        run(project, "seed=7")
    text = (project / "constitution.yaml").read_text().replace("Never say rude", "Never say rain")
    (project / "constitution.yaml").write_text(text)
    with pytest.raises(UserError, match=r"constitution.principles.0.text"):
        run(project)
    (project / "other").mkdir()
    (project / "other" / "precious.txt").write_text("x")
    with pytest.raises(UserError, match="not a run folder"):
        pipeline.run(project / "config.yaml", project / "other")
    assert (project / "other" / "precious.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("where", "calls"),
    [("SAMPLE", 10), ("CRITIQUE", 20), ("CRITIQUE", 60), ("SAMPLE", 60), ("LABEL", 40), ("LABEL", 180)],
)
def test_killed_anywhere_the_same_command_finishes_with_the_same_rows(project, where, calls):
    whole = pipeline.run(project / "config.yaml", project / "whole")
    command = [
        sys.executable,
        "-m",
        "rlaif.cli",
        "run",
        str(project / "config.yaml"),
        "--out",
        str(project / "run"),
    ]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, f"KILL_{where}": str(calls)}, check=False)
    assert killed.returncode == -9
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert lines_by_file(project / "run") == lines_by_file(whole.path)
    for mine, theirs in zip(Run.load(project / "run").stages, whole.stages, strict=True):
        for key in ("in", "kept", "dropped", "metrics"):
            assert mine.summary[key] == theirs.summary[key], (mine.name, key)


def test_a_stage_that_fails_says_how_to_go_on(project, monkeypatch):
    monkeypatch.chdir(project)

    def failing(error):
        def fail(stage):
            raise error

        monkeypatch.setattr("rlaif.stages.pair.run", fail)

    failing(UserError("no pair.", "some pairs", "make some"))
    with pytest.raises(UserError, match=r"Next: make some; rlaif resume run continues this run$"):
        pipeline.run("config.yaml", "run")
    failing(UserError("no pair.", "", "rlaif run --from run --at sample"))
    with pytest.raises(UserError, match=r"Next: rlaif run --from run --at sample$"):
        pipeline.run("config.yaml", "run")
    failing(UserError("no pair."))
    with pytest.raises(UserError, match=r"Next: rlaif resume run continues this run$"):
        pipeline.run("config.yaml", "run")
    for error in (KeyboardInterrupt(), RuntimeError("a fault")):
        failing(error)
        with pytest.raises(type(error)) as stopped:
            pipeline.run("config.yaml", "run")
        assert "to go on: rlaif resume run" in stopped.value.__notes__


def test_a_torn_last_line_is_written_again(project):
    run(project, until="sample")
    file = project / "run" / "01_sample" / "responses.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    (project / "run" / "01_sample" / "stage.json").unlink()
    run(project, until="sample")
    assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_rounds_repeat_the_stages_and_number_on(project):
    this = run(project, "rounds=2", until="critique")
    assert [stage.dir.name for stage in this.stages][5:7] == ["06_sample", "07_critique"]
    assert not this.stages[5].summary


def test_people_and_judge_are_mixed_by_share_or_weight(project):
    config = project / "config.yaml"
    base = config.read_text()
    human = "human: {annotator: 'tests.scripts:annotate', share: 0.5}"
    config.write_text(base.replace("{stage: label}", f"{{stage: label, ai: rest, {human}}}"))
    half = run(project).stages[4].summary["metrics"]["sources"]
    config.write_text(base.replace("{stage: label}", f"{{stage: label, {human[:-1]}, weight: 2.0}}}}"))
    both = pipeline.run(config, project / "both").stages[4].summary["metrics"]["sources"]
    assert 0 < half["simulated"] < half["ai"] < both["ai"]
    assert both["simulated"] == half["simulated"]
    config.write_text(
        base.replace("{stage: label}", f"{{stage: label, ai: false, {human.replace('0.5', '1.0')}}}")
    )
    alone = pipeline.run(config, project / "alone").stages[4].summary
    assert list(alone["metrics"]["sources"]) == ["simulated"]
    assert alone["metrics"]["agreement_with_gold"] == 1.0


def test_labels_for_comparisons_that_do_not_exist_are_refused(project):
    label = {"comparison_id": "0123456789abcdef", "annotator": {"kind": "human", "id": "ann"}, "verdict": "a"}
    (project / "human.jsonl").write_text(json.dumps(label) + "\n")
    config = project / "config.yaml"
    config.write_text(
        config.read_text().replace("{stage: label}", "{stage: label, human: {file: human.jsonl}}")
    )
    with pytest.raises(UserError, match=r"human.jsonl:1: .*0123456789abcdef"):
        run(project)
    assert Run.load(project / "run").stages[4].summary["status"] == "failed"


def test_a_stage_without_its_input_is_refused_before_anything_runs(project):
    config = project / "config.yaml"
    config.write_text(config.read_text().replace("  - {stage: pair, revisions: true}\n", ""))
    with pytest.raises(UserError, match=r"config.yaml:\d+: stage \"label\" needs comparisons"):
        run(project)
    assert not (project / "run").exists()


def test_until_and_overrides_name_what_is_near(project):
    with pytest.raises(UserError, match='did you mean "label"'):
        run(project, until="lable")
    with pytest.raises(UserError, match='did you mean "sample"'):
        load_config(project / "config.yaml", ["smaple.k=2"])
    with pytest.raises(UserError, match='did you mean "num_prompts"'):
        load_config(project / "config.yaml", ["sample.promts=2"])
    config = load_config(project / "config.yaml", ["sample[1].k=5", "seed=3"])
    assert [s.k for s in config.stages if s.stage == "sample"] == [1, 5]
    assert config.seed == 3


def test_dry_run_counts_and_leaves_nothing(project):
    plan = pipeline.dry_run(project / "config.yaml")
    assert plan["prompts"]["train"] + plan["prompts"]["heldout"] == 60
    by_stage = [(s["stage"], s["rows"], s["calls"]) for s in plan["stages"]]
    assert by_stage[:4] == [("sample", 24, 24), ("critique", 48, 96), ("sample", 72, 72), ("pair", 96, 0)]
    # 96 pairs at most, 1.5 principles a prompt, two orders.
    assert by_stage[4] == ("label", 288, 288)
    assert not (project / "run").exists()


def test_a_second_process_is_refused(project):
    with pipeline.locked(project / "run"), pytest.raises(UserError, match="another process"):
        run(project)


def test_load_run_gives_rows_and_policies(project):
    import rlaif

    run(project)
    this = rlaif.load_run(project / "run")
    assert list(this.policies) == ["base"]
    table = this.dataset("labels")
    assert len(table) == len(rows(this.path, "05_label", "labels", Label))
    assert set(table["stage"]) == {"05_label"}
    with pytest.raises(UserError, match="responses"):
        this.dataset("lables")

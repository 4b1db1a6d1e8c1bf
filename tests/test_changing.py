"""What may change in a run folder that has begun, and what is refused with the command that forks it."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif import pipeline
from rlaif.cli import app
from rlaif.errors import UserError
from rlaif.runs.folder import Run
from rlaif.runs.storage import read_json
from tests import scripts
from tests.tiny_models import tiny_policy


def run(project, *overrides, **options):
    return pipeline.run(project / "config.yaml", project / "run", overrides, **options)


def everything(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "report.html", "manifest.json")
    }


def test_options_of_stages_that_have_not_begun_may_change(project):
    run(project, until="critique")
    before = everything(project / "run" / "01_sample")
    this = run(project, "sample[1].k=2", "pair.limit=30")
    assert this.config.stages[2].k == 2
    assert Run.load(project / "run").config.stages[3].limit == 30
    assert this.stages[3].summary["kept"] == 30
    assert everything(project / "run" / "01_sample") == before
    assert this.manifest["command"].endswith("-s 'sample[1].k=2' -s pair.limit=30")


def test_what_a_stage_that_has_begun_was_given_is_refused_and_the_fork_named(project):
    run(project, until="critique")
    before = everything(project / "run")
    with pytest.raises(UserError) as refused:
        run(project, "critique.rounds=1", "label.few_shot=0")
    assert "critique.rounds: 2 there, 1 now" in str(refused.value)
    assert f"--from {project / 'run'} --at critique --out {project / 'run'}-2" in str(refused.value)
    assert "-s critique.rounds=1" in str(refused.value)
    assert everything(project / "run") == before


def test_a_stage_that_failed_before_a_row_may_be_given_something_else(project):
    with pytest.raises(UserError):
        run(project, "feedback.model=tests.scripts:no_such_thing", until="critique")
    this = Run.load(project / "run")
    assert this.stages[1].summary["status"] == "failed"
    assert not this.stages[1].has_begun
    this = run(project, until="critique")
    assert this.stages[1].summary["status"] == "done"
    assert this.config.feedback.model == "tests.scripts:feedback"
    assert "error" not in this.stages[1].summary


def test_before_anything_has_begun_everything_may_change(project):
    with pytest.raises(UserError):
        run(project, "policy.model=tests.scripts:no_such_thing", "seed=3")
    first = Run.load(project / "run").manifest["id"]
    lines = (project / "prompts.jsonl").read_text().splitlines(keepends=True)
    (project / "prompts.jsonl").write_text("".join(lines[:40]))
    this = run(project, "sample.num_prompts=10", until="sample[0]")
    assert this.manifest["seed"] == this.config.seed == 0
    assert this.manifest["id"] == first
    assert len((project / "run" / "prompts.jsonl").read_text().splitlines()) == 40
    this.verify()


def test_the_constitution_may_change_until_a_stage_that_reads_it(project):
    run(project, until="sample[0]")
    text = (project / "constitution.yaml").read_text()
    (project / "constitution.yaml").write_text(text.replace("Never say rude", "Never say rain"))
    this = run(project, until="critique")
    assert this.constitution.principles[0].text == "Never say rain."
    assert this.manifest["constitution_hash"] == this.constitution.hash
    (project / "constitution.yaml").write_text(text)
    with pytest.raises(UserError, match=r"constitution.principles.0.text.*there(?s:.*)--at critique"):
        run(project)


def test_options_that_cannot_change_results_always_may(project):
    run(project, until="label")
    with pytest.raises(UserError, match="cot: False there"):
        run(project, "label.cot=true")
    (project / "config.yaml").write_text(
        (project / "config.yaml").read_text()
        + "  - {stage: label}\n"  # one more stage, so that the run is not finished
    )
    this = run(project, "threads=3", "name=other", "policy.device=cpu", until="pair")
    assert this.config.threads == 3
    assert this.manifest["name"] == "other"


def test_options_given_to_a_finished_run_rewrite_nothing(project):
    run(project)
    before = everything(project / "run")
    manifest = read_json(project / "run" / "manifest.json")
    told = []
    run(project, "threads=3", "judge_card.enforce=false", tell=told.append)
    assert everything(project / "run") == before
    assert read_json(project / "run" / "manifest.json") == manifest
    assert "every stage is done: options given now change nothing" in told


def test_a_finished_stage_keeps_the_options_it_was_run_with(project):
    run(project, until="critique")
    (project / "config.yaml").write_text(
        (project / "config.yaml").read_text().replace("{stage: label}", "{stage: label, labels_from: null}")
    )
    run(project, until="label")
    text = (project / "config.yaml").read_text()
    (project / "config.yaml").write_text(text + "  - {stage: pair}\n  - {stage: label}\n")
    this = run(project, f"label[0].labels_from={project / 'run'}", until="pair[1]")
    assert this.config.stages[4].labels_from is None
    assert this.stages[5].is_done


def test_resume_needs_the_folder_alone(project):
    whole = pipeline.run(project / "config.yaml", project / "whole", ["sample.k=2", "critique.rounds=1"])
    run(project, "sample.k=2", "critique.rounds=1", until="critique")
    for name in ("config.yaml", "constitution.yaml", "prompts.jsonl"):
        (project / name).rename(project / f"moved_{name}")
    this = pipeline.resume(project / "run")
    assert all(stage.is_done for stage in this.stages)
    for mine, theirs in zip(this.stages, whole.stages, strict=True):
        assert mine.summary["kept"] == theirs.summary["kept"]
        for file in theirs.dir.glob("*.jsonl"):
            assert sorted((mine.dir / file.name).read_bytes().splitlines()) == sorted(
                file.read_bytes().splitlines()
            )
    scripts.CALLS.clear()
    before = everything(project / "run")
    pipeline.resume(project / "run")
    assert everything(project / "run") == before
    assert scripts.CALLS == {}


def test_a_run_keeps_its_templates(project):
    shipped = Path(__file__).parent.parent / "prompts" / "templates" / "brief"
    shutil.copytree(shipped, project / "mine")
    run(project, "templates=mine", until="critique")
    kept = (project / "mine" / "comparison.j2").read_text()
    (project / "mine" / "comparison.j2").write_text(kept + " ")
    with pytest.raises(UserError, match=r"templates\.comparison: "):
        run(project, "templates=mine")
    shutil.rmtree(project / "mine")
    this = pipeline.resume(project / "run")
    assert this.stages[4].is_done
    assert this.templates.sources["comparison"] == kept


def test_resume_takes_changes_as_run_does(project):
    run(project, until="critique")
    this = pipeline.resume(project / "run", ["pair.limit=5", "label.human.annotator=tests.scripts:annotate"])
    assert this.stages[3].summary["kept"] == 5
    assert this.config.stages[4].human.annotator == "tests.scripts:annotate"
    with pytest.raises(UserError, match=r"critique.rounds: 2 there, 3 now"):
        pipeline.resume(project / "run", ["critique.rounds=3"])
    with pytest.raises(UserError, match="not a run folder"):
        pipeline.resume(project / "nowhere")


def test_a_file_that_is_called_like_some_option_is_looked_up(project):
    run(project, until="pair")
    (project / "small").write_text("{}\n")  # as the run is called
    with pytest.raises(UserError, match=f"^{project / 'small'}:1"):
        pipeline.resume(project / "run", ["label.human.file=small"])


def test_a_folder_that_is_no_run_is_not_made_into_one(project):
    with pytest.raises(UserError, match="not a run folder"):
        pipeline.resume(project)
    assert not (project / ".lock").exists()
    assert json.loads((project / "prompts.jsonl").read_text().splitlines()[0])


DIVERGING = """name: failing
constitution: constitution.yaml
prompts: prompts.jsonl
heldout: 0.25
templates: brief
threads: 1
policy: {model: model, device: cpu}
feedback: {engine: scripted, model: "tests.scripts:feedback"}
stages:
  - {stage: sample, num_prompts: 8, max_tokens: 8}
  - {stage: critique}
  - {stage: sft, epochs: 8, batch_size: 2, learning_rate: 1.0e+30}
  - {stage: ppo, updates: 3, batch_size: 4, max_tokens: 6, rewards: [{source: "tests.test_changing:length"}]}
"""


def length(prompts, responses):
    return [float(len(text)) for text in responses]


@pytest.fixture
def diverging(project):
    """A project of a tiny model whose fine-tuning gives NaN."""
    tiny_policy(project / "model")
    (project / "config.yaml").write_text(DIVERGING)
    return project


def printed_command(error):
    """What a message says to type, as it stands there."""
    said = str(error.value).partition("\nNext: ")[2]
    return shlex.split(said[said.index("rlaif run") :])[1:]


def test_a_training_that_failed_before_a_checkpoint_begins_anew_with_other_options(diverging):
    with pytest.raises(UserError, match="not finite at step"):
        run(diverging, until="sft")
    left = diverging / "run" / "03_sft" / "metrics.jsonl"
    rows = len(left.read_text().splitlines())
    assert rows > 0
    before, told = everything(diverging / "run" / "02_critique"), []
    this = run(diverging, "sft.learning_rate=1e-3", until="sft", tell=told.append)
    assert this.stages[2].is_done
    assert this.config.stages[2].learning_rate == 1e-3
    assert everything(diverging / "run" / "02_critique") == before
    assert (
        f"03_sft: begins anew with other options; the curve of the start before ({rows} rows) is removed"
        in told
    )
    assert f"next: 04_ppo; to go on: rlaif resume {diverging / 'run'}" in told


def test_the_advice_of_a_training_that_diverged_works_as_printed(diverging, monkeypatch):
    monkeypatch.chdir(diverging)
    with pytest.raises(UserError, match=r"sft.learning_rate is 1e\+30") as failed:
        run(diverging, until="sft")
    command = printed_command(failed)
    assert command[:3] == ["run", "-s", "sft.learning_rate=0.001"]
    done = CliRunner().invoke(app, [*command, "--until", "sft"], catch_exceptions=False)
    assert done.exit_code == 0
    this = Run.load(diverging / "run-2")
    assert this.stages[2].is_done
    assert this.manifest["parent"]["shared"] == ["01_sample", "02_critique"]


def test_a_training_with_a_checkpoint_is_not_thrown_away_and_the_fork_works_as_printed(
    diverging, monkeypatch
):
    monkeypatch.chdir(diverging)
    sound = ["sft.learning_rate=1e-3"]
    with pytest.raises(UserError, match="update 2 of 3") as failed:
        run(diverging, *sound, "ppo.learning_rate=1e30")
    assert printed_command(failed)[:3] == ["run", "-s", "ppo.learning_rate=0.001"]
    before = everything(diverging / "run" / "04_ppo")
    (diverging / "run-2").mkdir()
    with pytest.raises(UserError, match="have made rows, a model or a checkpoint") as refused:
        run(diverging, *sound, "ppo.learning_rate=1e-4")
    assert everything(diverging / "run" / "04_ppo") == before
    command = printed_command(refused)
    assert command[-1] == str(diverging / "run-3")
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert Run.load(diverging / "run-3").config.stages[3].learning_rate == 1e-4
    assert Run.load(diverging / "run-3").stages[3].is_done


def test_a_model_that_is_broken_already_is_not_a_matter_of_the_learning_rate(diverging):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(diverging / "model")
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    model.save_pretrained(diverging / "model")
    shown = [{"prompt": f"tell me about number {n}", "completion": "it is good"} for n in range(8)]
    (diverging / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    text = DIVERGING.partition("  - {stage: sample")[0]
    (diverging / "config.yaml").write_text(text + "  - {stage: sft, demonstrations: shown.jsonl}\n")
    with pytest.raises(UserError, match="before the first step") as failed:
        run(diverging)
    assert "learning_rate" not in str(failed.value)
    assert "name another model" in failed.value.next


def test_the_advice_names_the_stage_as_options_do():
    from types import SimpleNamespace

    from rlaif.config import Config
    from rlaif.runs.commands import command_with_lower_rate

    sft = {"stage": "sft", "demonstrations": "d.jsonl", "learning_rate": 1e-4}
    config = Config.model_validate(
        {"name": "n", "constitution": "c", "prompts": "p", "rounds": 2, "policy": {"model": "m"}}
        | {"feedback": {"model": "m"}, "stages": [sft, sft]}
    )
    for number in (2, 4):  # the same stage in both rounds: an option is that of all of them
        stage = SimpleNamespace(
            config=config, number=number, options=config.stages[1], run=SimpleNamespace(path=Path("a run"))
        )
        assert command_with_lower_rate(stage) == (
            "rlaif run -s 'sft[1].learning_rate=1e-05' --from 'a run' --at 'sft[1]' --out 'a run-2'"
        )


def test_a_fork_that_differs_in_no_option_has_a_command_without_a_gap(tmp_path):
    from rlaif.runs.commands import fork_command

    folder = tmp_path / "mine"
    assert fork_command(folder, "label", "") == f"rlaif run --from {folder} --at label --out {folder}-2"
    assert fork_command(folder, "label", "-s a=1").startswith("rlaif run -s a=1 --from ")

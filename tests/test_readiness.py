"""`rlaif check CONFIG` and the start of `rlaif run`: what would stop a run is said before it begins."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rlaif.engines.endpoints as endpoints
from rlaif import pipeline
from rlaif.cli import app
from rlaif.engines.loading import context_length, load_model_config
from rlaif.errors import UserError
from rlaif.options import STAGES
from rlaif.preflight import readiness as module
from tests.stub_server import Stub, serving
from tests.tiny_models import tiny_policy

STAGES_OF_IT = """stages:
  - {stage: sample, num_prompts: 8, k: 2}
  - {stage: pair}
  - {stage: label}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-of-the-tests")
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "PATIENCE", 3.0)
    monkeypatch.setattr(endpoints, "PAUSE", 0.001)
    monkeypatch.setattr(endpoints, "LONGEST", 0.02)
    monkeypatch.setattr("rlaif.preflight.provenance.environment", lambda: {"rlaif": "here"})


def config_of(project: Path, url: str, stages: str = STAGES_OF_IT, role: str = "feedback") -> Path:
    text = (project / "config.yaml").read_text().split("stages:")[0]
    served = {"engine": "openai", "model": "judge", "base_url": url, "api_key_env": "JUDGE_KEY"}
    lines = [
        f"{role}: {json.dumps(served)}" if line.startswith(f"{role}:") else line for line in text.splitlines()
    ]
    path = project / "endpoint.yaml"
    path.write_text("\n".join([*lines, stages]))
    return path


def invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401 no such key", "refuses the key in JUDGE_KEY"),
        ("404 what model", 'no model "judge" there'),
        ("400 bad request", "responds with an error"),
    ],
)
def test_a_server_that_refuses_is_a_problem(project, fault, said):
    stub = Stub()
    stub.always = fault
    with serving(stub) as url:
        config = config_of(project, url)
        checked, run = invoke("check", config), invoke("run", config, "--out", project / "run")
    assert checked.exit_code == 2
    assert f"problem: feedback: {url.removeprefix('http://')}" in checked.output
    assert said in checked.output
    assert isinstance(run.exception, UserError)
    assert said in str(run.exception)
    assert "--no-check" in run.exception.next
    assert not (project / "run" / "01_sample" / "stage.json").exists()


def test_no_server_is_a_problem(project):
    config = config_of(project, "http://127.0.0.1:9/v1")
    result = invoke("check", config, "--json")
    assert result.exit_code == 2
    data = json.loads(result.stdout)
    assert "no connection" in data["problems"][0]
    assert data["models"]["policy"].endswith("a script")


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_server_that_never_responds_is_waited_for_aloud_and_told_of_once(project, monkeypatch, command):
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    monkeypatch.chdir(project)  # where the run's folder is made
    stub = Stub()
    stub.always, stub.silence = "silence", 2.0
    with serving(stub) as url:
        result = invoke(command, config_of(project, url))
    said = f"{result.output}\n{result.exception if isinstance(result.exception, UserError) else ''}"
    name = f"feedback at {url.removeprefix('http://')}"
    assert f"{name}: a test question is asked; it has {10 if command == 'check' else 0} s to respond" in said
    assert said.count("no endpoint has responded") == said.count("Needed: ") == said.count("Next: ") == 1
    assert "accepts connections and sends no response" in said
    assert "see in the server's log whether" in said
    assert "raise patience" not in said
    assert "--no-check" in said


def test_every_endpoint_is_asked(project):
    with serving(Stub()) as url:
        config = config_of(project, url)
        config.write_text(config.read_text().replace(f'"{url}"', f'["{url}", "http://127.0.0.1:9/v1"]'))
        found = pipeline.check(config)
    assert len(found.problems) == 1
    assert "127.0.0.1:9" in found.problems[0]
    assert "responds with log-probabilities" in found.found[f"feedback at {url.removeprefix('http://')}"]


def test_a_server_that_responds_is_asked_one_question(project):
    stub = Stub()
    with serving(stub) as url:
        result = invoke("check", config_of(project, url))
        assert len(stub.asked) == 1
        assert stub.asked[0]["logprobs"]
        name = url.removeprefix("http://")
        assert result.exit_code == 0
        assert result.stdout == (
            f"rlaif: here\npolicy: tests.scripts:policy: a script\nfeedback at {name}: well; serves "
            f"judge; responds "
            "with log-probabilities; 0.90 of the probability is on A and B\n"
        )
        asked = len(stub.asked)
        pipeline.run(project / "endpoint.yaml", project / "unchecked", until="sample")
        assert len(stub.asked) == asked
        pipeline.run(project / "endpoint.yaml", project / "checked", until="sample", check=True)
        assert len(stub.asked) == asked  # the stages to be run ask nothing of it
        pipeline.run(project / "endpoint.yaml", project / "checked", check=True)
        assert len(stub.asked) > asked
        done = len(stub.asked)
        pipeline.run(project / "endpoint.yaml", project / "checked", check=True)
        assert len(stub.asked) == done


def test_without_log_probabilities_soft_labels_are_doubtful(project):
    stub = Stub()
    stub.logprobs = False
    with serving(stub) as url:
        config = config_of(project, url)
        soft, reasoned = pipeline.check(config), pipeline.check(config, ["label.cot=true"])
    assert any("label will read verdicts from written text" in said for said in soft.warnings)
    assert reasoned.warnings == []
    assert soft.problems == []


def test_no_check_starts_without_asking(project):
    config = config_of(project, "http://127.0.0.1:9/v1")
    result = invoke("run", config, "--out", project / "run", "--until", "pair", "--no-check")
    assert result.exit_code == 0
    assert invoke("resume", project / "run", "--until", "pair").exit_code == 0
    assert isinstance(invoke("resume", project / "run").exception, UserError)


def test_a_served_policy_writes_a_few_tokens(project):
    stub = Stub()
    with serving(stub) as url:
        found = pipeline.check(config_of(project, url, role="policy"))
    assert found.problems == []
    assert [body["max_tokens"] for body in stub.asked] == [8]


def test_critiques_that_max_tokens_cuts_are_told(project):
    stub = Stub()
    stages = "stages:\n  - {stage: sample, num_prompts: 8}\n  - {stage: critique, max_tokens: 2}\n"
    with serving(stub) as url:
        config = config_of(project, url, stages)
        cut, enough = pipeline.check(config), pipeline.check(config, ["critique.max_tokens=40"])
        stub.asked.clear()
        pipeline.run(config, project / "run", until="sample", check=True)
    assert any("max_tokens 2 cuts 100% of the critiques" in said for said in cut.warnings)
    assert enough.warnings == []


def local(project: Path, folder: Path) -> Path:
    text = (project / "config.yaml").read_text()
    for role in ("policy", "feedback"):
        text = text.replace(f'{{engine: scripted, model: "tests.scripts:{role}"}}', f"{{model: {folder}}}")
    (project / "local.yaml").write_text(
        text.split("stages:")[0] + "stages:\n  - {stage: sample}\n  - {stage: critique}\n"
    )
    return project / "local.yaml"


def test_models_of_this_machine(project, tmp_path):
    folder = tiny_policy(tmp_path / "tiny", context=512)
    config = local(project, folder)
    found = pipeline.check(config, ["critique.max_tokens=4"])
    assert found.problems == []
    assert "tokenizer of" in found.found["policy"]
    # It is random and hardly ever ends a text; what was measured is kept for the run.
    assert any("max_tokens 4 cuts" in said for said in found.warnings)
    told: list[str] = []
    with suppress(UserError):  # no revision of such a model is one
        asked = ["critique.max_tokens=4", "sample.num_prompts=4", "sample.max_tokens=4"]
        pipeline.run(config, project / "run", asked, tell=told.append, check=True)
    assert any("cuts" in line for line in told), told
    template = (folder / "chat_template.jinja").read_text()
    no = (
        "{% for m in messages %}{% if 'Question' in m.content %}{{ raise_exception('no') }}{% endif "
        "%}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(no + template)
    assert any("refuses every prompt" in said for said in pipeline.check(config).problems)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    assert any("its chat template fails" in said for said in pipeline.check(config).problems)
    (folder / "tokenizer.json").unlink()
    assert pipeline.check(config).problems


def test_stages_that_ask_nobody_check_nobody(project):
    config = pipeline.RunSpec.of_config(project / "config.yaml").config
    pair = STAGES["pair"](stage="pair")
    assert module.asked_roles(config, [pair]) == []
    assert module.asked_roles(config, config.stages) == ["policy", "feedback"]
    assert module.asked_roles(config, [STAGES["ppo"](stage="ppo", rewards=[{"source": "judge"}])]) == [
        "policy",
        "feedback",
    ]
    watched = STAGES["ppo"](stage="ppo", judge_watched_prompts=True)
    assert module.asked_roles(config, [watched]) == ["policy", "feedback"]
    assert module.asked_roles(config, [STAGES["label"](stage="label", ai=False, human={"file": "x"})]) == []


def test_a_model_that_a_stage_names_is_looked_for_before_anything_runs(project, tmp_path):
    path = project / "config.yaml"
    text = path.read_text()
    path.write_text(text + "  - {stage: reward, model: nobody-has-this}\n")
    with pytest.raises(UserError, match=r"reward\.model: nobody-has-this"):
        pipeline.run(path, tmp_path / "run", check=True)
    assert not (tmp_path / "run" / "01_sample").exists()
    path.write_text(text + f"  - {{stage: reward, model: {tiny_policy(tmp_path / 'model')}}}\n")
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 0, result.output
    assert "reward.model" in result.output


def test_responses_that_fill_the_policys_context_stop_the_run_before_it_begins(project, tmp_path):
    path, model = project / "config.yaml", tiny_policy(tmp_path / "model")
    context = json.loads((model / "config.json").read_text())["max_position_embeddings"]
    text = path.read_text().replace(
        '{engine: scripted, model: "tests.scripts:policy"}', f"{{model: {model}}}"
    )
    path.write_text(text + "  - {stage: reward}\n  - {stage: ppo, updates: 1}\n")
    (said,) = pipeline.check(path, [f"ppo.max_tokens={context}"]).problems
    assert said.startswith(f"ppo.max_tokens: responses of {context} tokens leave no room")
    assert pipeline.dry_run(path, [f"ppo.max_tokens={context}"])["problems"] == [said]
    assert pipeline.check(path, [f"ppo.max_tokens={context - 1}"]).problems == []
    ptx = f"ppo.ptx={{file: {path}, block_size: {context + 1}}}"
    (said,) = pipeline.check(path, ["ppo.max_tokens=8", ptx]).problems
    assert said.startswith(f"ppo.ptx.block_size: blocks of {context + 1} tokens are more than")


def test_blocks_beyond_the_models_context_are_refused_before_the_run(project, tmp_path):
    """Beyond the policy's own, at every pretrain stage; beyond a new model's, where the config is read."""
    path, model = project / "config.yaml", tiny_policy(tmp_path / "model")
    context = context_length(load_model_config(model))
    (project / "text.txt").write_text("tell me about the weather " * 50)
    scripted = '{engine: scripted, model: "tests.scripts:policy"}'
    text = path.read_text().replace(scripted, f"{{model: {model}}}")
    first, second = (
        f"  - {{stage: pretrain, text: text.txt, block_size: {size}}}\n" for size in (context + 1, 16)
    )
    path.write_text(text.replace("stages:\n", f"stages:\n{first}{second}"))
    said = (
        f"pretrain.block_size: blocks of {context + 1} tokens are more than the policy's context of "
        f"{context}; at most -s pretrain.block_size={context}"
    )
    assert pipeline.check(path).problems == pipeline.dry_run(path)["problems"] == [said]
    refused = invoke("run", path, "--out", tmp_path / "run")
    assert isinstance(refused.exception, UserError)
    assert said in str(refused.exception)
    assert not (tmp_path / "run" / "01_pretrain" / "policy").exists()
    path.write_text(path.read_text().replace(str(context + 1), str(context)))
    assert pipeline.check(path).problems == []
    sizes = "architecture: {layers: 1, width: 8, inner: 8, heads: 1, context: 64}"
    path.write_text(text.replace("stages:\n", f"stages:\n{second}".replace("16", f"65, {sizes}")))
    with pytest.raises(UserError, match="block_size 65 is more than a context of 64"):
        pipeline.check(path)


@pytest.mark.parametrize("stage", ["sft", "rejection", "reward", "dpo"])
def test_rows_longer_than_the_context_are_told_of_before_the_run(project, tmp_path, stage):
    path, model = project / "config.yaml", tiny_policy(tmp_path / "model")
    context = context_length(load_model_config(model))
    text = path.read_text().replace(
        '{engine: scripted, model: "tests.scripts:policy"}', f"{{model: {model}}}"
    )
    before = "  - {stage: reward}\n" if stage == "rejection" else ""
    path.write_text(f"{text}{before}  - {{stage: {stage}}}\n")
    option = [f"{stage}.max_length={context + 1}"]
    said = f"{stage}.max_length: {context + 1} tokens, but the context of {model} is {context}"
    for warnings in (pipeline.check(path, option).warnings, pipeline.dry_run(path, option)["warnings"]):
        assert sum(line.startswith(said) for line in warnings) == 1
    for fits in ([], [f"{stage}.max_length={context}"]):  # the default is for every model
        assert not any("max_length" in line for line in pipeline.check(path, fits).warnings)


def test_a_dry_run_says_what_check_says_of_models_that_are_not_there(project, tmp_path):
    path, model = project / "config.yaml", tiny_policy(tmp_path / "model")
    for name in ("bare", "weightless"):
        (tmp_path / name).mkdir()
    (tmp_path / "weightless" / "config.json").write_text("{}")
    text = path.read_text().replace(
        '{engine: scripted, model: "tests.scripts:policy"}', f"{{model: {model}}}"
    )
    rewards = f"[{{source: {tmp_path / 'weightless'}}}, {{source: judge}}]"
    path.write_text(
        f"{text}  - {{stage: reward, model: {tmp_path / 'bare'}}}\n  - {{stage: dpo}}\n"
        f"  - {{stage: ppo, updates: 1, max_tokens: 8, rewards: {rewards}}}\n"
    )
    result = invoke("run", path, "--dry-run", "--no-check")
    assert result.exit_code == 2
    problems = pipeline.check(path).problems
    assert [said.split(":")[0] for said in problems] == ["reward.model", "ppo.rewards.0.source"]
    assert all(f"problem: {said.splitlines()[0]}" in result.output for said in problems)
    assert pipeline.dry_run(path)["problems"] == problems
    assert pipeline.dry_run(path, until="label")["problems"] == []
    assert invoke("run", path, "--dry-run", "--no-check", "--until", "label").exit_code == 0
    run = invoke("run", path, "--out", tmp_path / "run")
    assert "reward.model" in str(run.exception)
    away = pipeline.dry_run(path, ["reward.model=nobody/has-this"], until="reward")
    assert away["problems"] == []
    assert any("reward.model: nobody/has-this: not on this machine" in said for said in away["warnings"])


def test_where_pretraining_begins_with_random_weights_a_tokenizer_is_enough(project, tmp_path):
    model = tiny_policy(tmp_path / "model")
    (model / "model.safetensors").unlink()
    (model / "config.json").unlink()
    (project / "text.txt").write_text("tell me about the weather " * 50)
    path = project / "config.yaml"
    text = path.read_text().replace(
        '{engine: scripted, model: "tests.scripts:policy"}', f"{{model: {model}}}"
    )
    sizes = "{layers: 1, width: 8, inner: 8, heads: 1, context: 64}"
    first = f"stages:\n  - {{stage: pretrain, text: text.txt, block_size: 16, architecture: {sizes}}}\n"
    path.write_text(text.replace("stages:\n", first))
    assert pipeline.check(path).problems == []
    assert pipeline.dry_run(path)["problems"] == []
    path.write_text(text)
    (found,) = pipeline.check(path).problems
    assert pipeline.dry_run(path)["problems"] == [found]

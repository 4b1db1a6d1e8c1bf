"""`rlaif run --dry-run`: a table of what the stages take, from what was measured of the models once."""

import json

import pytest
from typer.testing import CliRunner

from rlaif import pipeline
from rlaif.audit.audit import verdicts_at_most
from rlaif.cli import app
from rlaif.config import load_config
from rlaif.constitution import Constitution
from rlaif.engines import gguf, loading
from rlaif.options import PpoOptions
from rlaif.preflight import calibration
from rlaif.preflight.calibration import Speed, calibrated
from rlaif.preflight.durations import Durations, durations
from rlaif.preflight.estimate import in_words
from rlaif.preflight.opening import load_prompts
from rlaif.prompting.templates import Templates
from rlaif.records import Message, Prompt
from tests import scripts
from tests.test_auditing import RULES, audit
from tests.tiny_models import tiny_policy

SPEED = Speed(
    load=1.0,
    imports=4.0,
    training_imports=8.0,
    read=0.01,
    learn=0.1,
    write=0.5,
    step=2.0,
    row=0.1,
    ask=0.02,
    steady=1.0,
    characters=4.0,
    lengths=(2, 4, 6, 8),
    cut=0,
    process=100.0,
    parameters=2**20,
    activations=1024,
    passing=64,
)


def changed(**figures: object) -> Speed:
    return Speed(**{**vars(SPEED), **figures})


def test_the_length_of_texts_goes_on_as_it_was_seen():
    assert SPEED.expected(100) == 5
    assert SPEED.expected(5) == (2 + 4 + 5 + 5) / 4
    # Of 20 tokens 2 ended a text: the other half goes on ending one in ten.
    cut = changed(lengths=(4, 4, 6, 6), cut=2)
    assert cut.expected(8) == pytest.approx(5 + 0.5 * (1 + 0.9))
    assert cut.expected(10**6) == pytest.approx(5 + 0.5 * 10)
    assert changed(lengths=(6, 6), cut=2).expected(20) == 20


def test_the_share_that_a_limit_cuts():
    assert SPEED.too_long(5) == 0.5
    assert SPEED.too_long(8) == 0
    assert changed(lengths=(8, 8), cut=1).too_long(9) is None


def project_of(folder, speeds: dict, *overrides: str, engine: str = "transformers"):
    config = load_config(folder / "config.yaml", [f"policy.engine={engine}", "policy.model=p", *overrides])
    config = config.model_copy(update={"feedback": config.policy.model_copy(update={"model": "f"})})
    asked = (
        config,
        Constitution.load(folder / "constitution.yaml"),
        load_prompts(folder / "prompts.jsonl"),
        Templates.load("brief", folder),
    )
    return config, durations(*asked, speeds), asked


def test_seconds_by_hand(project):
    _, found, asked = project_of(project, {"policy": SPEED, "feedback": SPEED}, "label.max_tokens=300")
    run = Durations(*asked, {"policy": SPEED, "feedback": SPEED})
    prompt = run.likely.prompt
    # 24 texts of 5 tokens; the libraries once, the model at every stage.
    assert found[0]["seconds"] == pytest.approx(4 + 1 + 24 * (prompt * 0.01 + 5 * 0.5), abs=0.02)
    assert found[2]["seconds"] == pytest.approx(1 + 72 * (prompt * 0.01 + 5 * 0.5), abs=0.02)
    assert found[3]["seconds"] == 0
    calls, shared, own = 288, run.likely.template() + prompt + 10, run.likely.suffix()
    fresh = calls * (shared + own) - calls * shared * (1 - 1 / 1.5)
    assert found[4]["seconds"] == pytest.approx(1 + fresh * 0.02, rel=0.02)


def test_training_reads_and_learns(project):
    train = [
        'stages=[{"stage": "sample"}, {"stage": "critique"}, {"stage": "sft", "heldout": 0.25, "epochs": 2}]'
    ]
    _, found, asked = project_of(project, {"policy": SPEED, "feedback": SPEED}, *train)
    run = Durations(*asked, {"policy": SPEED, "feedback": SPEED})
    row = run.likely.prompt + 5
    learnt, read = 0.75 * run.likely.train * row * 2, 0.25 * run.likely.train * row * 3
    assert found[2]["seconds"] == pytest.approx(8 + learnt * 0.1 + read * 0.01 + 1, rel=0.01)
    # One model with gradients and two moments, and what a batch of 32 of the longest rows keeps.
    held = 4 * 2**20 + 32 * (run.most.prompt + 256) * 1024
    assert found[2]["memory"] == pytest.approx(100 + held * 4 / 2**20, rel=0.01)
    batch = run.most.train * (run.most.prompt + 256)  # all that is asked, and no more than one batch
    assert found[0]["memory"] == pytest.approx(100 + (2**20 + batch * 64) * 4 / 2**20)
    small = project_of(project, {"policy": SPEED}, *train, "policy.batch_tokens=4096")[1]
    assert small[0]["memory"] == pytest.approx(100 + (2**20 + 4096 * 64) * 4 / 2**20)


def test_the_samples_that_fix_the_scale_are_counted(project):
    plan = Durations(*project_of(project, {"policy": SPEED}, "sample.k=2")[2], {"policy": SPEED}).likely
    ppo = {"stage": "ppo", "updates": 3, "batch_size": 100, "num_watched_prompts": 0, "max_tokens": 7}
    scaled, raw = (
        PpoOptions.model_validate(ppo | {"rewards": [{"source": "reward_model", "scale": scale}]}).work(plan)
        for scale in (True, False)
    )
    assert scaled.written - raw.written == 300 * 7  # 256 in whole batches
    both = 300 * (2 * plan.prompt + 7)  # to write them, and to score them
    assert scaled.read - raw.read == pytest.approx(both)
    assert scaled.learnt == raw.learnt
    assert scaled.rows == 100


def test_few_texts_at_once_are_written_slowly():
    assert SPEED.writing(4) == 0.1 + 2.0 / 4
    assert SPEED.writing(100) == 0.5, "no faster than an engine"


@pytest.mark.parametrize(("judge", "steady"), [(scripts.feedback, 1.0), (scripts.biased_judge, 0.0)])
def test_how_often_a_judge_decides_alike_in_both_orders(judge, steady, monkeypatch):
    engine, texts = judge(), ["rude", "a nice day"] * 4
    ask, asked = engine.score_choices, []

    def counted(requests):
        asked.append(len(requests))
        engine.usage.prompt_tokens += 10 * len(requests)
        return ask(requests)

    engine.score_choices = counted
    ticks = iter([0.0, 8.0, 0.0, 4.0])
    monkeypatch.setattr(calibration, "timed", lambda work, on_cpu: (work(), next(ticks) + next(ticks)))
    prompts = [Prompt(messages=(Message(role="user", content=f"{n}?"),)) for n in range(8)]
    seconds, found = calibration._asking(engine, Templates.load("brief"), RULES, prompts, texts, True)
    assert found == steady
    assert asked == [1, 8, 8]
    # The faster of the two passes, over the tokens of one: the first question is not timed.
    assert seconds == 4.0 / 80


@pytest.mark.parametrize(("judge", "steady"), [(scripts.feedback, 8 / 12), (scripts.biased_judge, 0.0)])
def test_the_judges_card_costs_what_it_is_likely_to(judge, steady):
    written = 8
    calls = audit(judge())["calls"] - written
    assert verdicts_at_most(RULES, 12, 1.0, 8, steady) == calls
    assert verdicts_at_most(RULES, 12, 1.0, 8) >= calls


def test_a_model_of_one_file_is_measured_once_it_is_converted(project, monkeypatch, tmp_path):
    _, _, (config, *asked) = project_of(project, {})
    model = config.policy.model_copy(update={"engine": "transformers", "model": "a.gguf"})
    config = config.model_copy(update={"policy": model, "feedback": model})
    done: list[str] = []
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(gguf, "gguf_file", lambda name: tmp_path / name)
    for module in (gguf, calibration):
        monkeypatch.setattr(module, "to_convert", lambda name: None if done else folder)
    monkeypatch.setattr(loading, "model_folder", lambda name: done.append(name) or folder)
    assert calibrated(config, *asked, measure=False) == {}
    assert done == []
    measured: list[tuple[str, str]] = []

    def measure(role, _, model, *__):
        measured.append((role, model.model))
        return SPEED, []

    monkeypatch.setattr(calibration, "_measured", measure)
    told: list[str] = []
    assert set(calibrated(config, *asked, tell=told.append)) == {"policy", "feedback"}
    assert told[0] == f"a.gguf: converted into {folder}, once"
    assert measured == [("policy", str(folder)), ("feedback", str(folder))]  # nothing is fetched
    assert set(calibrated(config, *asked, measure=False)) == {"policy", "feedback"}


def test_memory_is_not_given_back(project):
    _, found, _ = project_of(project, {"policy": SPEED, "feedback": SPEED})
    memory = [stage["memory"] for stage in found]
    assert memory == sorted(memory)


def test_what_cannot_be_known_is_not_said(project):
    _, found, _ = project_of(project, {"policy": SPEED})
    assert found[0]["seconds"]
    assert found[1]["seconds"] is None
    assert found[4]["seconds"] is None
    plan = pipeline.dry_run(project / "config.yaml")
    assert all(stage.get("memory") is None for stage in plan["stages"])


def test_a_price_of_seconds_comes_before_what_was_measured(project):
    prices = 'prices={"p": {"seconds": 100}}'
    _, found, asked = project_of(project, {"policy": SPEED, "feedback": SPEED}, prices)
    run = Durations(*asked, {"policy": SPEED, "feedback": SPEED})
    assert found[0]["seconds"] == pytest.approx(4 + 24 * (run.likely.prompt + 5) / 10, rel=0.02)


@pytest.fixture
def trained(project, tmp_path, monkeypatch):
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    folder = tiny_policy(tmp_path / "tiny", context=512)
    text = (project / "config.yaml").read_text()
    text = text.replace('{engine: scripted, model: "tests.scripts:policy"}', f"{{model: {folder}}}")
    (project / "config.yaml").write_text(text)
    return project / "config.yaml"


def test_a_model_is_measured_once_and_kept(trained, monkeypatch):
    told: list[str] = []
    plan = pipeline.dry_run(trained, measure=True, tell=told.append)
    assert len(told) == 1
    assert "measuring how fast" in told[0]
    assert plan["stages"][0]["seconds"] > 0
    assert plan["stages"][0]["memory"] > 50
    monkeypatch.setattr(calibration, "_measured", lambda *_: pytest.fail("measured again"))
    again = pipeline.dry_run(trained, measure=True)
    assert again["stages"] == plan["stages"]
    # Without measuring: what is known, and nothing for other threads.
    assert pipeline.dry_run(trained)["stages"] == plan["stages"]
    assert pipeline.dry_run(trained, ["threads=2"])["stages"][0].get("memory") is None


@pytest.mark.parametrize("text", ["", "{}", '{"speeds": 3}', "\x00"])
def test_a_damaged_file_is_made_anew(trained, tmp_path, text):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "calibration.json").write_text(text)
    assert pipeline.dry_run(trained, measure=True)["stages"][0]["seconds"] > 0
    assert json.loads((tmp_path / "cache" / "calibration.json").read_text())["speeds"]


def test_a_model_that_cannot_be_measured_is_told(trained, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("no room\nat all")

    monkeypatch.setattr(calibration, "_measured", broken)
    told: list[str] = []
    plan = pipeline.dry_run(trained, measure=True, tell=told.append)
    assert told[1].endswith("cannot be measured: no room")
    assert plan["stages"][0]["seconds"] is None


def test_the_table_ends_where_the_run_would(project):
    words = ["run", str(project / "config.yaml"), "--dry-run", "--until", "sample[1]"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "120"})
    rows = [line.split("│")[1].strip() for line in result.output.splitlines() if line.startswith("│")]
    assert rows == ["sample", "critique", "sample", "all"]
    plan = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert [stage["stage"] for stage in plan["stages"]] == ["sample", "critique", "sample"]
    assert plan["calls"] == sum(stage["calls"] for stage in plan["stages"])
    assert "–" in result.output
    assert "money" not in result.output


def test_the_judges_card_has_a_row_of_its_own(project):
    words = ["run", str(project / "config.yaml"), "--dry-run", "-s", "judge_card.num_pairs=12"]
    plan = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    (label,) = (stage for stage in plan["stages"] if stage["stage"] == "label")
    without = json.loads(CliRunner().invoke(app, [*words[:3], "--json"]).output)["stages"]
    assert "judge_card" not in without[-1]
    assert label["judge_card"]["calls"] == label["calls"] - without[-1]["calls"] > 0
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "120"}).output
    (row,) = (line for line in shown.splitlines() if "of which the judge card" in line)
    assert f" {label['judge_card']['calls']:,} " in row
    assert any(line.startswith("    of which the judge card: ") for line in in_words(plan))


def test_the_judges_card_has_seconds_of_its_own(project):
    speeds = {"policy": SPEED, "feedback": SPEED}
    (*_, without), (*_, label) = (
        project_of(project, speeds, *words)[1] for words in ((), ("judge_card.num_pairs=12",))
    )
    assert "card_seconds" not in without
    assert label["seconds"] - without["seconds"] == pytest.approx(label["card_seconds"])
    free = ["feedback.engine=transformers", "feedback.model=f", 'prices={"f": {"seconds": 0}}']
    priced = project_of(project, speeds, "judge_card.num_pairs=12", *free)[1]
    assert priced[-1]["card_seconds"] == priced[-1]["seconds"] == 0
    assert project_of(project, {"policy": SPEED}, "judge_card.num_pairs=12")[1][-1]["card_seconds"] is None


def test_the_table_has_money_and_warnings(project):
    words = ["run", str(project / "config.yaml"), "--dry-run", "-s", "label.max_tokens=9"]
    prices = ["-s", 'prices={"tests.scripts:feedback": {"prompt": 1000}}', "-s", "budget.calls=10"]
    output = CliRunner().invoke(app, [*words, *prices], env={"COLUMNS": "120"}).output
    assert "money" in output
    assert "warning: label: max_tokens does nothing without cot" in output
    assert "this may exceed the budget of 10 calls" in output
    output = CliRunner().invoke(app, [*words, *prices[:2], "-s", "budget.money=0.5"]).output
    assert "this may exceed the budget of 0.5 in the currency of the prices" in output


def test_calibrated_measures_nothing_behind_servers(project):
    assert calibrated(*project_of(project, {}, engine="openai")[2]) == {}

"""What a run costs: the estimate before it, the ledger during it, the budget that stops it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.config import load_config
from rlaif.engines import GenerateRequest, ScoreRequest, Scripted, open_engine
from rlaif.engines.metered import MeteredEngine
from rlaif.errors import UserError
from rlaif.options.base import PriceOptions
from rlaif.records import Comparison, Label, Message, Prompt, Response
from rlaif.report.summary import summarise
from rlaif.runs.folder import Run, is_heldout, read_json
from rlaif.runs.rows import RowFile, Rows, read_rows
from rlaif.runs.spending import Account, BudgetReached, Ledger, money
from tests import scripts
from tests.stub_server import Stub, serving

ROOT = Path(__file__).parent.parent


def talker() -> Scripted:
    """A feedback model that counts tokens as words, as an endpoint would."""

    class Talker(Scripted):
        def score_choices(self, requests):
            for index, scores in super().score_choices(requests):
                for suffix in requests[index].suffixes:
                    self.usage.prompt_tokens += len(
                        (requests[index].messages[-1]["content"] + suffix).split()
                    )
                yield index, scores

    return Talker(on_generate=scripts.write_feedback, on_score=scripts.judge, name="feedback")


def run(project: Path, *overrides: str, out: str = "run"):
    return pipeline.run(project / "config.yaml", project / out, overrides)


def lines(folder: Path) -> dict[str, set[str]]:
    files = folder.glob("*/*.jsonl")
    return {str(path.relative_to(folder)): set(path.read_text().splitlines()) for path in files}


def test_money_by_hand():
    price = PriceOptions(prompt=2.0, cached=0.5, completion=10.0)
    used = {"prompt_tokens": 1_000_000, "shared_tokens": 400_000, "tokens": 50_000}
    # 0.6 · 2 + 0.4 · 0.5 + 0.05 · 10.
    assert money(used, price) == pytest.approx(1.9)
    assert money(used, PriceOptions(prompt=2.0)) == pytest.approx(2.0)
    assert money(used, None) == 0.0


# 24 samples, then two rounds of 24 critiques and 24 revisions: a critique that had no revision yet is asked
# again (of a scripted model, whose answers are not cached).
@pytest.mark.parametrize(("cap", "again"), [(1, 0), (30, 6), (100, 20), (250, 0)])
def test_a_budget_of_calls_is_met_exactly_and_the_run_continues_when_it_is_raised(project, cap, again):
    whole = run(project, out="whole")
    with pytest.raises(BudgetReached, match=rf"{cap} of {cap} calls spent") as stop:
        run(project, f"budget.calls={cap}")
    goes_on = f"rlaif resume {project / 'run'} -s budget.calls=… continues; every finished row is kept"
    assert str(stop.value).endswith(f"Needed: a larger budget\nNext: {goes_on}")
    stopped = read_json(project / "run" / "manifest.json")
    assert (stopped["status"], stopped["spent"]["calls"]) == ("stopped", cap)
    shown = summarise(project / "run")
    assert "stopped" in [stage["status"] for stage in shown["stages"]]
    assert shown["next"] == f"rlaif resume {project / 'run'} -s budget.calls=…"
    this = pipeline.resume(project / "run", ["budget.calls=100000"])
    assert lines(this.path) == lines(whole.path)
    assert this.manifest["status"] == "done"
    assert this.manifest["spent"]["calls"] == whole.manifest["spent"]["calls"] + again
    assert this.manifest["spent"]["calls"] == sum(s.summary["usage"]["calls"] for s in this.stages)


def test_a_fault_in_the_report_of_a_run_that_is_stopped_is_not_swallowed(project, monkeypatch):
    def broken(*_):
        raise TypeError("a fault of our own")

    monkeypatch.setattr("rlaif.report.report.headline", broken)
    with pytest.raises(TypeError, match="a fault of our own") as fault:
        run(project, "budget.calls=30")
    assert isinstance(fault.value.__context__, BudgetReached)


@pytest.mark.parametrize("cap", ["tokens=3000", "money=0.003"])
def test_tokens_and_money_are_never_exceeded(project, cap):
    price = 'prices={"tests.test_budget:talker": {"prompt": 1.0}}'
    options = ["feedback.model=tests.test_budget:talker", price]
    with pytest.raises(BudgetReached):
        run(project, *options, f"budget.{cap}")
    spent = read_json(project / "run" / "manifest.json")["spent"]
    assert 2500 < spent["prompt_tokens"] + spent["tokens"] <= 3000 or 0.0025 < spent["money"] <= 0.003
    assert spent["money"] == pytest.approx(spent["prompt_tokens"] / 1e6)


def test_a_killed_run_remembers_what_it_spent(project):
    command = [
        sys.executable,
        "-m",
        "rlaif.cli",
        "run",
        str(project / "config.yaml"),
        "--out",
        str(project / "run"),
    ]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "KILL_LABEL": "60"}, check=False)
    assert killed.returncode == -9
    before = sum(json.loads(line)["calls"] for line in (project / "run" / "spending.jsonl").open())
    again = subprocess.run(
        [*command, "-s", f"budget.calls={before + 10}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert again.returncode == 3
    assert again.stderr.strip().endswith("every finished row is kept")
    assert f"{before + 10:,g} of {before + 10:,g} calls spent" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_torn_line_of_the_ledger_is_cut_off(project):
    config = load_config(project / "config.yaml")
    path = project / "spending.jsonl"
    ledger = Ledger(path, config)
    ledger.spend("05_label", config.feedback.model, {"calls": 3})
    ledger.flush()
    with path.open("a") as file:
        file.write('{"stage": "05_la')
    again = Ledger(path, config)
    # A model that the config does not name was made by the run: the policy's price counts.
    again.spend("03_sample", "/somewhere/policy", {"calls": 2, "tokens": 7})
    again.flush()
    assert Ledger(path, config).figures()["calls"] == 5
    assert [json.loads(line)["model"] for line in path.open()][1] == config.policy.model


def test_no_question_is_asked_that_could_exceed_the_budget(project):
    config = load_config(project / "config.yaml", ["budget.calls=5"])
    ledger = Ledger(project / "spending.jsonl", config)
    engine = MeteredEngine(scripts.feedback(), config.feedback.model, Account(ledger, "label"))
    chat = [{"role": "user", "content": "Reply A: rude\nReply B: sun\n"}]
    requests = [ScoreRequest(chat, ("Rule: Never say rude.",) * 2, ("A", "B"))] * 4
    answers = engine.score_choices(requests)
    assert [next(answers)[0], next(answers)[0]] == [0, 1]
    with pytest.raises(BudgetReached, match="4 of 5 calls"):
        next(answers)
    writing = [GenerateRequest([{"role": "user", "content": "Reply: sun\nRule: Never say sun."}], 8)]
    assert [index for index, _ in engine.generate(writing)] == [0]
    assert engine.usage.calls == 5


@pytest.mark.parametrize(
    ("spent", "advice"),
    [
        ({"calls": 95, "tokens": 9_000}, "-s budget.tokens=… continues"),
        ({"calls": 100, "tokens": 8_000}, "-s budget.calls=… continues"),
        ({"calls": 100, "tokens": 9_000}, "-s budget.calls=… -s budget.tokens=… continues"),
    ],
)
def test_the_caps_to_raise_are_those_that_the_next_question_could_exceed(project, spent, advice):
    config = load_config(project / "config.yaml", ["budget.calls=100", "budget.tokens=10000"])
    ledger = Ledger(project / "spending.jsonl", config)
    ledger.spend("label", config.feedback.model, spent)
    with pytest.raises(BudgetReached, match=rf"the same command {advice}; every"):
        ledger.affordable(config.feedback.model, [{"calls": 1, "prompt_tokens": 1_000, "tokens": 200}])


@pytest.mark.parametrize("logprobs", [True, False])
def test_an_endpoint_stays_within_the_cap_however_often_a_question_must_be_asked(
    project, monkeypatch, logprobs
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-stub")
    stub = Stub()
    if logprobs:  # a router: one in two answers has none
        stub.fault = lambda body: stub.asked.append(body) or ("bare" if len(stub.asked) % 2 else None)
    stub.logprobs = logprobs
    with serving(stub) as url:
        config = load_config(
            project / "config.yaml",
            [f'feedback={{"engine": "openai", "model": "judge", "base_url": "{url}"}}', "budget.calls=40"],
        )
        ledger = Ledger(project / "spending.jsonl", config)
        engine = open_engine(config.feedback, None, Account(ledger, "label"))
        requests = [
            ScoreRequest([{"role": "user", "content": f"{n}: "}], ("a", "b"), ("A", "B")) for n in range(60)
        ]
        with pytest.raises(BudgetReached):
            list(engine.score_choices(requests))
    assert 32 < ledger.figures()["calls"] == engine.usage.calls <= 40


def test_prices_and_budgets_that_cannot_be_meant_are_refused(project):
    with pytest.raises(
        UserError, match=r'prices: no model "tests.scripts:polcy" — did you mean "tests.scripts:policy"'
    ):
        load_config(project / "config.yaml", ['prices={"tests.scripts:polcy": {"prompt": 1}}'])
    with pytest.raises(UserError, match=r"config\.yaml:1: a budget of money needs prices"):
        load_config(project / "config.yaml", ["budget.money=3"])


def test_the_estimate_has_tokens_seconds_and_money(project):
    prices = (
        'prices={"tests.scripts:feedback": {"prompt": 3, "completion": 6, "seconds": 0.5}, '
        '"tests.scripts:policy": {"seconds": 1}}'
    )
    plan = pipeline.dry_run(project / "config.yaml", [prices])
    label = plan["stages"][4]
    # 96 pairs, 1.5 principles, two orders; a scripted judge writes nothing and shares nothing.
    assert (label["calls"], label["tokens"], label["shared_tokens"]) == (288, 0, 0)
    assert label["money"] == pytest.approx(label["prompt_tokens"] * 3 / 1e6)
    assert label["seconds"] == pytest.approx(label["prompt_tokens"] / 1000 * 0.5)
    assert plan["money"] == pytest.approx(sum(stage["money"] for stage in plan["stages"]))
    assert pipeline.dry_run(project / "config.yaml")["money"] is None


def test_a_shared_prefix_is_counted_apart(project):
    plain = pipeline.dry_run(project / "config.yaml", ["feedback.engine=openai", "feedback.model=m"])
    shared = pipeline.dry_run(project / "config.yaml", ["feedback.engine=transformers", "feedback.model=m"])
    label, other = shared["stages"][4], plain["stages"][4]
    assert label["prompt_tokens"] == other["prompt_tokens"]
    # With 1.5 principles a pair a third of the prefixes need not be read again.
    assert 0.2 * label["prompt_tokens"] < label["shared_tokens"] < label["prompt_tokens"] / 3
    assert (other["shared_tokens"], other["tokens"]) == (0, 288)


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({"cot": True}, 576),
        ({"principles": "drawn"}, 192),
        ({"principles": ["no-rude"]}, 144),
        ({"ai": False, "human": {"annotator": "rlaif.playground.annotators:annotate"}}, 0),
    ],
)
def test_the_estimate_follows_the_ways_to_ask(project, options, calls):
    overrides = [f"label.{key}={json.dumps(value)}" for key, value in options.items()]
    assert pipeline.dry_run(project / "config.yaml", overrides)["stages"][4]["calls"] == calls


@pytest.mark.parametrize(
    ("pair", "mode", "exact", "lacking"),
    [
        ("pair.per_prompt=1", "best", True, False),
        ("pair.per_prompt=2", "best and worst", True, True),
        ("pair.limit=5", "best", False, None),
        ("pair.samples=true", "best", True, False),
    ],
)
def test_one_question_on_all_responses_counts_once_a_prompt(project, pair, mode, exact, lacking):
    config, rules = project / "config.yaml", project / "constitution.yaml"
    rules.write_text("\n".join(rules.read_text().splitlines()[:3]))
    config.write_text(
        config.read_text().split("stages:")[0] + "stages:\n  - {stage: sample, num_prompts: 12, k: 3}\n"
        "  - {stage: pair}\n  - {stage: label}\n"
    )
    overrides = [pair, f"label.mode={mode}", "feedback.model=tests.test_labelling:longest_judge"]
    calls = pipeline.dry_run(config, overrides)["stages"][2]["calls"]
    label = pipeline.run(config, project / "run", overrides).stages[2]
    prompts = {row.prompt_id for row in Rows(label.input("comparisons"), Comparison)}
    asked = label.summary["usage"]["calls"]
    assert asked == len(prompts) * 2 * (2 if mode == "best and worst" else 1)
    assert calls == asked if exact else calls >= asked
    noted = any("lack some pairs" in note for note in label.summary["notes"])
    assert noted == lacking or lacking is None


def test_what_the_judge_is_shown_of_ppo_is_counted():
    looks = [
        "ppo.updates=21",
        "ppo.sample_every=10",
        "ppo.num_watched_prompts=8",
        "ppo.judge_watched_prompts=true",
    ]
    plan = pipeline.dry_run("configs/quickstart.yaml", looks)
    # Updates 1, 10, 20 and 21, each prompt under seven principles.
    assert next(s for s in plan["stages"] if s["stage"] == "ppo")["calls"] == 4 * 8 * 7


def test_the_judges_card_is_counted(project):
    gated = "judge_card.num_pairs=12"
    plans = [pipeline.dry_run(project / "config.yaml", overrides) for overrides in ([], [gated])]
    more = plans[1]["calls"] - plans[0]["calls"]
    pipeline.run(project / "config.yaml", project / "gated", [gated], until="label")
    card = read_json(Run.load(project / "gated").stages[4].dir / "judge_card.json")
    assert card["calls"] <= more <= 1.5 * card["calls"]


def test_imported_pairs_are_counted(project):
    folder = project / "pairs"
    folder.mkdir()
    prompts = [
        Prompt(messages=(Message(role="user", content=f"Asked {n}?"),), tags=("fact",)) for n in range(40)
    ]
    responses = [
        (Response(prompt_id=p.id, text="rude day"), Response(prompt_id=p.id, text="sun")) for p in prompts
    ]
    pairs = [Comparison(prompt_id=a.prompt_id, a=a.id, b=b.id) for a, b in responses]
    RowFile(folder / "prompts.jsonl", Prompt).write(prompts)
    RowFile(folder / "responses.jsonl", Response).write([r for two in responses for r in two])
    RowFile(folder / "comparisons.jsonl", Comparison).write(pairs)
    config = project / "config.yaml"
    text = config.read_text()
    config.write_text(
        text[: text.index("stages:")]
        + "stages:\n  - {stage: pair, samples: false, imported: pairs}\n  - {stage: label}\n"
    )
    plan = pipeline.dry_run(config)
    kept = sum(not is_heldout(prompt.id, 0.25) for prompt in prompts)
    assert [stage["rows"] for stage in plan["stages"]] == [kept, kept * 2 * 2]
    this = run(project)
    assert len(Rows(this.stages[1].dir / "labels.jsonl", Label)) == plan["calls"]


def test_an_imported_pair_stands_on_the_side_of_the_runs_own_prompt(project):
    """The import knows no groups; its pairs about held-out questions are left out all the same, and so
    counted."""
    folder = project / "pairs"
    folder.mkdir()
    path = project / "prompts.jsonl"
    own = [row.model_copy(update={"group": f"g{n % 8}"}) for n, row in enumerate(read_rows(path, Prompt))]
    path.write_text("".join(row.to_json() + "\n" for row in own))
    bare = [row.model_copy(update={"group": ""}) for row in own]
    responses = [
        (Response(prompt_id=p.id, text="rude day"), Response(prompt_id=p.id, text="sun")) for p in bare
    ]
    RowFile(folder / "prompts.jsonl", Prompt).write(bare)
    RowFile(folder / "responses.jsonl", Response).write([r for two in responses for r in two])
    pairs = [Comparison(prompt_id=a.prompt_id, a=a.id, b=b.id) for a, b in responses]
    RowFile(folder / "comparisons.jsonl", Comparison).write(pairs)
    config = project / "config.yaml"
    text = config.read_text()
    config.write_text(
        text[: text.index("stages:")] + "stages:\n  - {stage: pair, samples: false, imported: pairs}\n"
    )
    kept = sum(not is_heldout(prompt.cluster, 0.25) for prompt in own)
    assert kept != sum(not is_heldout(prompt.id, 0.25) for prompt in own)
    assert pipeline.dry_run(config)["stages"][0]["rows"] == kept
    (stage,) = run(project).stages
    rows = stage.rows("comparisons", Comparison)
    assert {row.prompt_id for row in rows} == {row.id for row in stage.run.prompts("train")}
    assert {row.group for row in stage.rows("prompts", Prompt)} == {
        p.group for p in stage.run.prompts("train")
    }


def test_the_estimate_is_told_before_the_run_and_warns_of_a_budget(project):
    told: list[str] = []
    with pytest.raises(BudgetReached):
        pipeline.run(project / "config.yaml", project / "run", ["budget.calls=50"], tell=told.append)
    assert told[0] == "estimate, at most:"
    assert any("label: 288 calls" in line for line in told)
    assert any("may exceed the budget of 50 calls" in line for line in told)

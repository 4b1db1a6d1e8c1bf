"""The summary, the report and a row's lineage, read from written run folders."""

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlaif.constitution import Constitution
from rlaif.errors import OBEYED, UserError
from rlaif.feedback.judge import Judge
from rlaif.intervals import mean_interval
from rlaif.options import RlooOptions
from rlaif.options.base import BudgetOptions
from rlaif.pages import charts
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt, Response
from rlaif.report.examples import before_after, doubtful, traces
from rlaif.report.lineage import index_rows, lineage
from rlaif.report.report import headline, write_report
from rlaif.report.run_reader import RunReader
from rlaif.report.story import story
from rlaif.report.summary import summarise
from rlaif.report.warnings import run_warnings, what_to_try
from rlaif.runs.spending import Ledger
from rlaif.runs.storage import read_json, write_json
from rlaif.stages.evaluate import _wins
from tests.fake_run import STAGES, fake_run
from tests.scripts import biased_judge, feedback


def html(path) -> str:
    return write_report(path).read_text()


def warnings_of(run) -> list[str]:
    return [each.found for each in run_warnings(RunReader(run))]


def change_metrics(run, stage: str, **changes) -> None:
    path = next(run.glob(f"*_{stage}/stage.json"))
    data = read_json(path)
    write_json(path, data | {"metrics": data["metrics"] | changes})


def test_the_first_line_is_the_answer_with_its_interval(tmp_path):
    run = fake_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "09_evaluate" / "evaluation.jsonl").read_text().splitlines()]
    shown = []
    for policy in ("base", "ppo"):
        kept = [row["gold"]["all"] for row in rows if row["policy"] == policy]
        low, high = mean_interval(kept)
        shown.append(f"{sum(kept) / len(kept):.2f} [{low:.2f}, {high:.2f}]")
    said = f"Full compliance rose from {shown[0]} to {shown[1]} on {len(rows) // 3} held-out prompts."
    assert headline(RunReader(run)) == said
    assert f"<h1>{said}</h1>" in html(run)


def test_the_first_lines_two_figures_are_of_the_prompts_it_names(tmp_path):
    run = fake_run(tmp_path / "run", gold=False)
    path = run / "09_evaluate" / "evaluation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in [row for row in rows if row["policy"] == "base"][::2]:
        row["unread"] = [name := next(iter(row["compliance"]))]
        del row["compliance"][name]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = {row["prompt_id"] for row in rows if row["policy"] == "base" and not row.get("unread")}
    kept = {
        policy: [
            all(p > 0.5 for p in row["compliance"].values())
            for row in rows
            if row["policy"] == policy and row["prompt_id"] in read
        ]
        for policy in ("base", "ppo")
    }
    before, after = (f"{sum(values) / len(read):.2f}" for values in kept.values())
    found = re.fullmatch(r".* rose from (\S+) \[.*\] to (\S+) \[.*\] on (\d+) .*", headline(RunReader(run)))
    assert found is not None
    assert found.groups() == (before, after, str(len(read)))


def test_a_change_that_may_be_chance_is_not_called_one(tmp_path):
    run = fake_run(tmp_path / "run", keep={"base": 0.7, "ppo": 0.7})
    assert "did not clearly change" in headline(RunReader(run))


def test_without_gold_the_opinions_are_called_opinions(tmp_path):
    run = fake_run(tmp_path / "run", gold=False)
    page = html(run)
    assert "Full compliance in the judge&#39;s opinion rose" in page
    assert "There is no gold scorer in this run" in page
    assert "by the gold scorer" not in page


@pytest.mark.parametrize("until", range(len(STAGES)))
def test_a_run_that_stopped_early_has_a_report_that_says_so(tmp_path, until):
    run = fake_run(tmp_path / "run", until=until)
    page = html(run)
    assert "No policy has been evaluated yet." in page
    assert f"The run is not finished: stage {until + 1} of 9" in page
    assert summarise(run)["status"] == "unfinished"


def test_the_command_to_run_it_again_is_there_with_or_without_a_repository(tmp_path):
    run = fake_run(tmp_path / "run")
    assert "at revision <code>abc123</code>: <code>rlaif run small.yaml</code>" in html(run)
    write_json(run / "manifest.json", {**read_json(run / "manifest.json"), "git": None})
    assert "from the folder of the config: <code>rlaif run small.yaml</code>" in html(run)


def test_texts_of_models_are_shown_and_never_run(tmp_path):
    evil = "<script>alert(1)</script><img src=http://x onerror=alert(2)>{{7*7}}"
    run = fake_run(tmp_path / "run", say=evil)
    page = html(run)
    assert "&lt;script&gt;alert(1)" in page
    assert "{{7*7}}" in page
    assert not re.search(r"<(script|img|iframe|link|object)", page)
    assert "default-src 'none'" in page


def test_the_page_needs_nothing_else_and_stays_small(tmp_path):
    run = fake_run(tmp_path / "run", prompts=800, say="word " * 3000)
    page = html(run)
    assert len(page.encode()) < 2_000_000
    assert "more characters)" in page
    assert not re.search(r"""(src|href)=|url\(|@import""", page)


def test_writing_the_report_changes_no_row(tmp_path):
    run = fake_run(tmp_path / "run")
    torn = run / "06_label" / "labels.jsonl"
    torn.write_text(torn.read_text() + '{"id": "half a li')
    write_json(run / "06_label/stage.json", read_json(run / "06_label/stage.json") | {"status": "running"})
    before = {p: hashlib.sha256(p.read_bytes()).digest() for p in run.rglob("*") if p.is_file()}
    write_report(run)
    summarise(run)
    assert {p: hashlib.sha256(p.read_bytes()).digest() for p in before} == before


def test_a_judge_that_cannot_be_trusted_is_named_so(tmp_path):
    run = fake_run(tmp_path / "run")
    assert warnings_of(run) == []
    edges = {
        "order_flip_rate_ci": [0.41, 0.48],
        "invalid_rate_ci": None,
        "agreement_with_gold_ci": [0.5, 0.6],
    }
    change_metrics(
        run, "label", order_flip_rate=0.44, mass=0.03, agreement_with_gold=0.55, invalid_rate=0.2, **edges
    )
    said = " ".join(warnings_of(run))
    for part in (
        "44% [41%, 48%] of its decided verdicts flip",
        "only 0.03 of its probability",
        "only 55% [50%, 60%] of",
        "20% of the verdicts",
    ):
        assert part in said
        assert part in html(run)
    assert said.endswith("Whatever was trained on these labels learned from such a judge.")
    assert [about for about, _ in what_to_try(run_warnings(RunReader(run)))] == ["The judge"]
    assert html(run).count("a larger or better instructed model") == 1


def test_a_judge_that_goes_by_the_place_alone_is_useless(tmp_path):
    run = fake_run(tmp_path / "run")
    change_metrics(run, "label", order_flip_rate=0.96, first_position_rate=0.02)
    assert "useless here: 98% of its verdicts choose the second response" in " ".join(warnings_of(run))
    change_metrics(run, "label", order_flip_rate=0.5, first_position_rate=0.5)
    assert "useless" not in " ".join(warnings_of(run))


def test_a_reward_model_no_better_than_a_rule_is_named_so(tmp_path):
    run = fake_run(tmp_path / "run")
    change_metrics(run, "reward", heldout_accuracy=0.5, baselines={"longer": 0.61, "constant": 0.5})
    assert any('"longer" (0.61)' in warning for warning in warnings_of(run))
    change_metrics(run, "reward", n_decided=5)
    assert any("measured on 5 decided comparisons only" in warning for warning in warnings_of(run))


def test_alarms_of_ppo_are_warnings_with_what_to_try(tmp_path):
    run = fake_run(tmp_path / "run")
    alarm = {
        "update": 31,
        "kind": "kl",
        "found": "the policy is 0.80 nats a token away",
        "advice": "raise ppo.kl_coef",
    }
    change_metrics(run, "ppo", alarms=[alarm])
    assert warnings_of(run) == ["PPO, update 31: the policy is 0.80 nats a token away."]
    page = html(run)
    assert "0.80 nats a token away" in page
    assert "<h2>What to try next</h2>\n<dl><dt>PPO</dt><dd>raise ppo.kl_coef</dd></dl>" in page


def test_nothing_is_to_try_where_nothing_points_anywhere(tmp_path):
    assert "What to try next" not in html(fake_run(tmp_path / "run"))
    longer = fake_run(tmp_path / "longer", longer=4)
    assert "Read with care" in html(longer)
    assert "What to try next" not in html(longer)


def test_what_to_try_is_said_of_trainings_limits_and_unfinished_runs(tmp_path):
    run = fake_run(tmp_path / "run")
    change_metrics(run, "ppo", updates=30, kl=0.004)
    change_metrics(run, "reward", n_decided=5)
    path = run / "02_critique" / "stage.json"
    cut = {"revision empty, cut off or too long to ask": 60}
    write_json(path, read_json(path) | {"in": 100, "kept": 40, "dropped": cut})
    path = run / "09_evaluate" / "stage.json"
    write_json(path, read_json(path) | {"status": "failed", "error": "no space"})
    found = dict(what_to_try(run_warnings(RunReader(run))))
    assert found["The run"] == f"`rlaif resume {run}` continues it"
    assert found["PPO"] == "raise ppo.learning_rate, or raise ppo.updates"
    assert found["Stage 2 (critique)"] == "raise critique.max_tokens"
    assert found["The reward model"].startswith("more comparisons")
    assert any("PPO: the policy did not move" in line for line in warnings_of(run))


def test_alarms_of_the_other_arms_are_warnings_too(tmp_path):
    reader = RunReader(fake_run(tmp_path / "run"))
    alarm = {"update": 7, "kind": "entropy", "found": "entropy fell", "advice": "raise rloo.kl_coef"}
    rloo = SimpleNamespace(
        name="rloo", options=RlooOptions(stage="rloo"), summary={"metrics": {"alarms": [alarm]}}
    )
    reader.last = lambda name: rloo if name == "rloo" else None
    (warned,) = run_warnings(reader)
    assert (warned.found, warned.advice) == ("RLOO, update 7: entropy fell.", "raise rloo.kl_coef")


def test_curves_stand_under_the_name_of_what_was_trained(tmp_path):
    run = fake_run(tmp_path / "run")
    assert "<h2>PPO</h2>" in html(run)
    config = read_json(run / "config.json")
    stages = [{"stage": "rloo"} if stage["stage"] == "ppo" else stage for stage in config["stages"]]
    write_json(run / "config.json", config | {"stages": stages})
    made = (run / "08_ppo").rename(run / "08_rloo") / "stage.json"
    write_json(made, read_json(made) | {"name": "rloo"})
    rows = run / "09_evaluate" / "evaluation.jsonl"
    rows.write_text(rows.read_text().replace('"ppo"', '"rloo"'))
    assert "<h2>RLOO</h2>" in html(run)


def test_opinions_that_contradict_the_truth_are_named_so(tmp_path):
    run = fake_run(tmp_path / "run")
    rows = run / "09_evaluate" / "evaluation.jsonl"
    rows.write_text(rows.read_text().replace("0.9,", "0.3,").replace("0.9}", "0.3}"))
    assert any("Asked about single responses" in warning for warning in warnings_of(run))


def test_flips_stand_beside_ties_in_the_win_rate(tmp_path):
    run = fake_run(tmp_path / "run")
    assert "flips with the order –" in html(run)  # an older run, which did not count them
    rows = run / "09_evaluate" / "evaluation.jsonl"
    rows.write_text(rows.read_text().replace('"p_win"', '"flips":[1,4],"p_win"'))
    page = html(run)
    assert "flips with the order 0.25" in page
    assert "verdicts that flip with the order 0.25" in page


def test_an_evaluation_counts_the_verdicts_that_flip(tmp_path):
    principles = [{"id": word, "text": f"Never say {word}."} for word in ("rude", "wrong")]
    constitution = Constitution.model_validate({"name": "x", "principles": principles})
    stage = SimpleNamespace(constitution=constitution)
    prompts = [Prompt.model_validate({"messages": [{"role": "user", "content": str(n)}]}) for n in range(3)]
    mine, theirs = (
        {p.id: Response(prompt_id=p.id, text=text) for p in prompts} for text in ("rude day", "nice day")
    )
    for make, flips in ((feedback, (0, 1)), (biased_judge, (2, 2))):  # the first calls "wrong" a tie
        wins = _wins(stage, Judge(make(), Templates.load("brief")), prompts, mine, theirs)
        assert [win["flips"] for win in wins.values()] == [flips] * 3


def test_many_dropped_rows_and_longer_responses_are_warned_of(tmp_path):
    run = fake_run(tmp_path / "run", longer=4)
    path = run / "01_sample" / "stage.json"
    write_json(path, read_json(path) | {"in": 100, "kept": 94, "dropped": {"too long": 6, "never": 0}})
    said = warnings_of(run)
    assert "Stage 1 (sample) dropped 6 of 100 rows (6%): 6 × too long." in said
    assert any(warning.startswith("Responses grew from") for warning in said)


def test_the_summary_has_the_public_keys(tmp_path):
    summary = summarise(fake_run(tmp_path / "run"))
    assert summary["status"] == "done"
    assert [stage["name"] for stage in summary["stages"]] == list(STAGES)
    assert set(summary["stages"][0]) >= {"name", "status", "seconds", "in", "kept", "dropped"}
    assert list(summary["policies"]) == ["base", "sft", "ppo"]
    assert set(summary["labels"]) >= {
        "comparisons",
        "calls",
        "agreement_with_gold",
        "order_flip_rate",
        "invalid_rate",
    }
    assert set(summary["reward_model"]) >= {"heldout_accuracy", "ece"}
    assert set(summary["ppo"]) >= {"updates", "episodes", "kl", "reward_start", "reward_end"}
    assert "NaN" not in json.dumps(summary)


def test_a_row_leads_back_to_its_prompt(tmp_path):
    run = fake_run(tmp_path / "run")
    row = json.loads((run / "06_label" / "preferences.jsonl").read_text().splitlines()[0])
    found = lineage(run, row["id"][:10])
    files = [r["file"] for r in found]
    assert found[0]["id"] == row["id"]
    assert files.count("06_label/labels.jsonl") == 6  # three principles in two orders
    assert files.count("04_sample/responses.jsonl") == 2
    assert files.count("prompts.jsonl") == 1
    with pytest.raises(UserError, match="no row has the id"):
        lineage(run, "nothing")


def test_examples_are_the_largest_changes(tmp_path):
    reader = RunReader(fake_run(tmp_path / "run"))
    cases = before_after(reader, 3)
    assert [case.gain for case in cases["gained"]] == [1.0, 1.0, 1.0]
    assert all(case.gain < 0 for case in cases["lost"])
    assert [r.policy for r in cases["gained"][0].responses] == ["base", "sft", "ppo"]
    assert len({trace.steps[0].principle_id for trace in traces(reader, 3)}) == 3
    pairs = doubtful(reader, 3)
    assert all(any(p != 0.5 for _, p in pair.verdicts) for pair in pairs["uncertain"])
    assert pairs["disputed"][0].spread == pytest.approx(0.8)


def test_cards_name_the_rows_that_they_show(tmp_path):
    run = fake_run(tmp_path / "a <b>" / "run")
    page = html(run)
    assert f"rlaif show &#39;{tmp_path}/a &lt;b&gt;/run&#39; ID" in page
    ids = re.findall(r'<small class="row">(.*?)</small>', page)
    kinds = {Path(row["file"]).stem for row in map(index_rows(run).__getitem__, ids)}
    assert kinds == {"prompts", "responses", "revisions", "comparisons"}
    for row_id in dict.fromkeys(ids):
        assert any(row_id in line for line in story(run, row_id))


def test_axis_ticks_are_round_and_cover():
    assert charts.ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert charts.ticks(3.0, 97.0) == [0.0, 25.0, 50.0, 75.0, 100.0]
    assert charts.ticks(-0.13, 0.2)[0] <= -0.13
    assert len(charts.ticks(9.0, 9.0)) > 1


def test_charts_survive_what_training_leaves():
    nan = float("nan")
    assert charts.line_chart("x", [charts.Line("a", [(1, nan), (2, nan)])]) == ""
    drawn = charts.line_chart("<b>", [charts.Line("a", [(n, 1.0 / (n % 7 or nan)) for n in range(10_000)])])
    assert "<b>&lt;b&gt;</b>" in drawn
    assert drawn.count("<circle") <= charts.MOST_POINTS
    assert "nan" not in drawn
    assert charts.dot_chart("x", []) == ""
    assert charts.calibration_chart([]) == ""


def test_nothing_that_hides_or_reorders_text_reaches_the_page(tmp_path):
    run = fake_run(tmp_path / "run", say="\x1b[2J \x07 \u202e gnol \u2066 \x9b")
    page = html(run)
    assert "gnol" in page
    assert not OBEYED.search(page)
    assert "\\u202e" in page


@pytest.mark.parametrize(
    "points",
    [
        [(1, 0.00075), (99999, 0.00225)],
        [(1, -123456.0), (3, 99000.0)],
        [(0.25, 1.0), (0.75, 2.0)],
        [(1, 1e-7), (2, 3e-7)],
    ],
)
def test_no_number_of_an_axis_is_clipped(points):
    svg = charts.line_chart("x", [charts.Line("a", points)])
    width = float(re.findall(r'viewBox="0 0 (\d+)', svg)[0])
    found = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)" class="">([^<]+)</text>', svg)
    assert len(found) > 5
    for x, anchor, text in found:
        long = 6.6 * len(text)  # at 11.5 pixels no digit is wider
        left = float(x) - {"end": long, "middle": long / 2}[anchor]
        assert left >= 0, text
        assert left + long <= width, text


def test_every_table_scrolls_on_its_own():
    for path in Path("rlaif/report/templates").glob("*.j2"):
        text = path.read_text()
        assert text.count("<table>") == text.count('<div class="wide"><table>'), path


@pytest.mark.parametrize(("amount", "shown"), [(32520.0, "32,520"), (1234567.0, "1,234,567"), (0.25, "0.25")])
def test_amounts_of_a_budget_are_printed_in_full(tmp_path, amount, shown):
    config = SimpleNamespace(budget=BudgetOptions(calls=2_000_000), prices={}, policy=None, feedback=None)
    ledger = Ledger(tmp_path / "spending.jsonl", config)
    ledger.remaining = lambda: {"calls": 2_000_000 - amount}
    assert f"{shown} of 2,000,000 calls spent" in str(ledger._reached(["calls"]))

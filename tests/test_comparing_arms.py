"""Several arms on one scale, unfair comparisons, labels set side by side, and what a run took."""

import json
import shutil
from itertools import combinations

import numpy as np
import pytest

import rlaif
from rlaif.config import ModelConfig
from rlaif.errors import UserError
from rlaif.metrics import METRICS
from rlaif.records import Evaluation, Prompt
from rlaif.refusals import TO_ANSWER, TO_REFUSE, should_refuse
from rlaif.report.bradley_terry import strengths
from rlaif.report.compare import compare
from rlaif.report.comparison_text import in_words
from rlaif.report.first_lines import cost_in_words
from rlaif.report.measures import arm_delta
from rlaif.report.run_reader import untrusted_references
from rlaif.report.teachers import deciding, roles
from rlaif.report.win_rates import _win_rate, match_seeds
from rlaif.runs.folder import Run
from rlaif.runs.storage import read_json, write_json
from tests.fake_run import fake_run

BIASED = {"engine": "scripted", "model": "tests.scripts:biased_judge"}


def change(run, **keys):
    write_json(run / "config.json", read_json(run / "config.json") | keys)
    return run


def arm(tmp_path, name, keep, **options):
    options = {"prompts": 160, **options}
    return change(fake_run(tmp_path / name, keep={"base": 0.5, "ppo": keep}, **options), heldout=0.25)


def games(rng, theta, n, tie=0.6):
    """Outcomes of n prompts of each pair of arms, with ties."""
    found = {}
    for i, j in combinations(range(len(theta)), 2):
        gap = theta[i] - theta[j] + rng.logistic(size=n)
        found[i, j] = [{f"p{at}": 0.5 + 0.5 * (x > tie) - 0.5 * (x < -tie) for at, x in enumerate(gap)}]
    return found


@pytest.mark.parametrize("theta", [(0.4, 0.0, -0.4), (1.0, 0.9, -0.2, -1.7)])
def test_strengths_are_those_of_another_library(theta):
    evalica = pytest.importorskip("evalica")
    pairs = games(np.random.default_rng(1), theta, 90)
    xs, ys, winners = [], [], []
    for (i, j), (row,) in pairs.items():
        named = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
        # The tie that keeps an arm that always wins finite.
        said = [*row.values(), 0.5]
        xs += [f"arm {i}"] * len(said)
        ys += [f"arm {j}"] * len(said)
        winners += [named[x] for x in said]
    scores = evalica.bradley_terry(xs, ys, winners, tolerance=1e-12, limit=10_000).scores
    theirs = np.log([scores[f"arm {k}"] for k in range(len(theta))])
    mine = [found["value"] for found in strengths(pairs, [1] * len(theta), {})]
    assert mine == pytest.approx(list(theirs - theirs.mean()), abs=1e-6)


def test_two_arms_have_the_log_odds_of_their_win_rate():
    row = {f"p{at}": float(at < 70) for at in range(100)}
    a, b = strengths({(0, 1): [row]}, [1, 1], {})
    share = 70.5 / 101  # with the tie that is added
    assert a["value"] == pytest.approx(np.log(share / (1 - share)) / 2)
    assert (a["value"], a["expected"]) == (pytest.approx(-b["value"]), pytest.approx(share))
    # Half the log-odds' standard error, 1/√(n p q), of the sandwich; t has nearly 99 degrees of freedom.
    half = (a["ci"][1] - a["ci"][0]) / 2
    assert half == pytest.approx(1.98 / 2 / np.sqrt(101 * share * (1 - share)), rel=0.03)


def test_an_arm_that_always_wins_stays_finite_and_few_prompts_have_no_interval():
    row = {f"p{at}": 1.0 for at in range(9)}
    a, _ = strengths({(0, 1): [row]}, [1, 1], {})
    assert a["value"] == pytest.approx(np.log(9.5 / 0.5) / 2)
    assert np.isnan(a["ci"]).all()


def test_strengths_of_prompts_that_ask_the_same_are_less_sure():
    pairs = games(np.random.default_rng(0), (0.3, 0.0, -0.3), 30)
    thrice = {at: [{f"{p}.{n}": x for p, x in row.items() for n in range(3)}] for at, (row,) in pairs.items()}
    cluster = {f"p{p}.{n}": f"p{p}" for p in range(30) for n in range(3)}
    once, alone, together = (
        strengths(pairs, [1] * 3, {})[0],
        strengths(thrice, [1] * 3, {})[0],
        strengths(thrice, [1] * 3, cluster)[0],
    )
    widths = [found["ci"][1] - found["ci"][0] for found in (once, alone, together)]
    assert widths[2] == pytest.approx(widths[0], rel=0.05)
    assert widths[1] < 0.7 * widths[0]


def test_three_arms_are_set_each_against_each(tmp_path):
    made = [
        arm(tmp_path, "good", 0.95),
        change(arm(tmp_path, "fair", 0.8), cache=True, heldout=0.26),
        change(arm(tmp_path, "poor", 0.5), heldout=0.27),
    ]
    data = compare(made, out=tmp_path / "page.html")
    found = data["overall"]["gold"]
    assert set(found["pairs"]) == {"A–B", "A–C", "B–C"}
    assert found["text"].startswith("By gold the strongest of 3 arms is good, shown to be ahead of")
    values = [found["strengths"][letter]["value"] for letter in "ABC"]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(0, abs=1e-5)
    assert found["pairs"]["A–B"]["value"] == data["gold_win_rate"]["value"]
    page = (tmp_path / "page.html").read_text()
    assert f"<h1>{found['text']}</h1>" in page
    assert "Each against each" in page
    assert in_words(data)[0] == found["text"]
    assert "overall" not in compare(made[:2])


@pytest.mark.parametrize("seeds", [(5, 1), (6, 2)])
def test_the_spread_of_an_arm_with_fewer_seeds_is_in_the_interval_of_its_win_rate(seeds):
    """Its seeds are matched several times; that the matches then vary less is no certainty."""
    rng, held, n, repeats = np.random.default_rng(0), 0, 120, 150
    for _ in range(repeats):
        noise = [[rng.normal(0, 0.3) + rng.normal(0, 1, n) for _ in range(count)] for count in seeds]
        rows = [[float(x > y) for x, y in zip(*pair, strict=True)] for pair in match_seeds(*noise)]
        tables = [[f"p{at}" for at in range(n)]] * len(rows)
        low, high = _win_rate(rows, tables, seeds=seeds)["ci"]
        held += low <= 0.5 <= high
    assert held / repeats > 0.91  # as if both arms had as many seeds: 0.76 and 0.88


def test_no_win_rate_nor_difference_of_rates_is_beyond_what_it_can_be():
    wins = [[float(at >= 20 * match) for at in range(60)] for match in range(3)]  # in 1, ⅔ and ⅓ of prompts
    tables = [[f"p{at}" for at in range(60)]] * 3
    assert _win_rate(wins, tables, seeds=(3, 1))["ci"][1] == 1
    values = [{f"p{at}": x for at, x in enumerate(row)} for row in wins]
    nothing = {f"p{at}": 0.0 for at in range(60)}
    assert arm_delta(values, [nothing], {})["ci"][1] == 1
    assert arm_delta([nothing], values, {})["ci"][0] == -1


@pytest.mark.parametrize("seeds", [(5, 1, 1), (3, 2, 1)])
def test_strengths_hold_the_spread_of_arms_with_fewer_seeds(seeds):
    rng, n, held, pairs = np.random.default_rng(0), 120, [], list(combinations(range(3), 2))
    for _ in range(60):
        arms = [[rng.normal(0, 0.3) + rng.normal(0, 1, n) for _ in range(count)] for count in seeds]
        games = {
            (i, j): [{f"p{at}": float(x) for at, x in enumerate(a > b)} for a, b in match_seeds(*own)]
            for i, j in pairs
            for own in [(arms[i], arms[j])]
        }
        edges = [found["ci"] for found in strengths(games, seeds, {})]
        held += [low <= 0 <= high for low, high in edges]
    assert np.mean(held) > 0.88  # as if all arms had as many seeds: 0.69 and 0.87 of 900


def test_a_run_and_its_copy_are_no_two_seeds(tmp_path):
    other = change(arm(tmp_path, "other", 0.5), heldout=0.27)
    first = arm(tmp_path, "first", 0.8)
    shutil.copytree(first, tmp_path / "copy")
    with pytest.raises(UserError, match="the same experiment with the same seed") as refused:
        compare([first, tmp_path / "copy", other])
    assert f"leave {tmp_path / 'copy'} out" in str(refused.value.next)
    assert compare([first, tmp_path / "copy"])["verdict"]["winner"] is None


def test_a_judge_that_taught_one_side_declares_no_winner_and_is_said_first(tmp_path):
    made = [
        arm(tmp_path, "ai", 0.95, gold=False),
        arm(tmp_path, "human", 0.5, human=True, gold=False),
    ]
    people = read_json(made[1] / "config.json")["stages"]
    change(made[1], stages=[{**s, "ai": False} if s["stage"] == "label" else s for s in people])
    data = compare(made, out=tmp_path / "page.html")
    assert data["win_rate"]["taught"] == "A"
    assert data["win_rate"]["different"]
    assert data["verdict"]["winner"] is None
    assert "Not known: the judge taught ai and not the other" in data["verdict"]["text"]
    (said,) = data["unfair"]
    assert said.startswith("The judge is partial: it labelled the preferences that ai learned from, and not")
    lines = in_words(data)
    assert lines[1] == f"UNFAIR: {said}"
    page = (tmp_path / "page.html").read_text()
    assert page.index("Not a fair comparison") < page.index("The runs</h2>")
    given = compare(made, judge=ModelConfig.model_validate(BIASED))
    assert given["win_rate"]["judge"] == "scripted:biased"
    assert not [line for line in given["unfair"] if "judge" in line]


def test_a_judge_that_taught_none_of_the_runs_is_preferred(tmp_path):
    made = [arm(tmp_path, "ai", 0.9, gold=False), arm(tmp_path, "human", 0.6, human=True, gold=False)]
    stages = [s for s in read_json(made[1] / "config.json")["stages"] if s["stage"] != "critique"]
    stages = [{**s, "ai": False} if s["stage"] == "label" else s for s in stages]
    change(made[1], stages=stages, feedback=BIASED)
    configs = [Run.load(run).config for run in made]
    assert roles(configs[0]) == ("labelled the preferences", "wrote the critiques")
    assert roles(configs[1]) == ()
    assert (deciding(configs), deciding(configs[:1]), deciding(configs[::-1])) == (1, 0, 0)
    assert any("biased_judge" in line for line in untrusted_references(made))
    assert not any("tests.scripts:feedback" in line for line in untrusted_references(made))


def test_other_sampling_and_other_templates_are_unfair(tmp_path):
    made = [arm(tmp_path, "a", 0.9), arm(tmp_path, "b", 0.6)]
    for run, temperature in zip(made, (0.0, 1.0), strict=True):
        path = run / "09_evaluate" / "responses.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["sampling"] = {"temperature": temperature, "max_tokens": 40}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(made[1] / "templates.json", {"compare_pair": "another"})
    unfair = compare(made)["unfair"]
    assert any("Other sampling" in line and "temperature 0.0 and 1.0" in line for line in unfair)
    assert any("Other templates: compare_pair" in line for line in unfair)


def test_labels_that_turn_are_counted_and_shown(tmp_path):
    made = [arm(tmp_path, name, 0.9, until=6) for name in ("one", "two")]
    path = made[1] / "06_label" / "preferences.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    turned = [row["comparison_id"] for row in rows if row["p_a"] > 0.6][:5]
    for row in rows:
        if row["comparison_id"] in turned:
            row["p_a"] = round(1 - row["p_a"], 9)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = path.with_name("labels.jsonl")
    said = [json.loads(line) for line in labels.read_text().splitlines()]
    for row in said:
        if row["comparison_id"] in turned and row["principle_id"] == "no-sad":
            row["p_a"] = 0.05
    labels.write_text("".join(json.dumps(row) + "\n" for row in said))
    found = compare(made, out=tmp_path / "page.html")["labels"]
    assert found["preferences"]["changed"] == found["preferences"]["flipped"] == 5
    assert found["preferences"]["turned"] == {"a → b": 5}
    assert {case["comparison_id"] for case in found["examples"]} == set(turned)
    assert found["principles"]["no-sad"]["changed"] == 5
    assert found["principles"]["no-rude"]["changed"] == 0
    page = (tmp_path / "page.html").read_text()
    assert "5 of" in page
    assert all(pair in page for pair in turned)


def test_a_reworded_principle_is_not_compared_by_what_the_judge_said_of_either_wording(tmp_path):
    """One id, two texts: the judge answered two questions. Gold is of both texts, each under its own name."""
    first = arm(tmp_path, "first", 0.9)
    other = fake_run(tmp_path / "other", words=("rude", "wrong", "bad"))
    for file in other.rglob("*.json*"):
        file.write_text(file.read_text().replace("no-bad", "no-sad"))
        if file.suffix == ".json":
            write_json(file, {k: v for k, v in json.loads(file.read_text()).items() if k != "checksum"})
    data = compare([first, other], out=tmp_path / "page.html")
    assert list(data["gold"]["delta"]) == ["all", "no-rude", "no-wrong", "no-sad", "no-sad.run2"]
    assert list(data["compliance"]["delta"]) == ["no-rude", "no-wrong"]
    assert any("compliance under no-sad is not compared" in note for note in data["notes"])
    assert "gold against KL, each run by its own principles" in (tmp_path / "page.html").read_text()


def test_what_a_run_took_is_added_up(tmp_path):
    run = arm(tmp_path, "a", 0.9)
    for n, usage in ((1, {"calls": 5, "tokens": 70}), (6, {"calls": 11, "prompt_tokens": 900})):
        path = next(run.glob(f"0{n}_*")) / "stage.json"
        write_json(path, read_json(path) | {"usage": usage, "seconds": 60.5})
    cost = compare([run, arm(tmp_path, "b", 0.9, human=True)])["runs"]["A"]["cost"]
    assert (cost["calls"], cost["tokens"], cost["prompt_tokens"]) == (5 + 11 + 7 * 7, 70, 900)
    assert cost["seconds"] == pytest.approx(2 * 60.5 + 7 * 1.5)
    assert cost["money"] is None


def test_money_is_added_up_as_the_questions_it_paid_for_are(tmp_path):
    """A fork's shared stages count, whose spending stands in the parent; unpriced ones make it unknown."""
    run, other = arm(tmp_path, "a", 0.9), arm(tmp_path, "b", 0.9, human=True)
    for path, money in zip(sorted(run.glob("*/stage.json")), (0.5, 0.25, *[0.0] * 7), strict=True):
        write_json(path, read_json(path) | {"usage": {"calls": 5, "money": money}})
    cost = compare([run, other])["runs"]["A"]["cost"]
    assert (cost["calls"], cost["money"]) == (45, 0.75)
    write_json(path, read_json(path) | {"usage": {"calls": 5}})
    assert compare([run, other])["runs"]["A"]["cost"]["money"] is None


def test_hours_and_differences_that_cannot_be_told_are_no_figures(tmp_path):
    """The hours of two runs of which one was not timed, and a smallest difference beyond any."""
    timed = dict.fromkeys(("ai_labels", "simulated", "calls", "prompt_tokens", "tokens", "seconds", "money"))
    runs = [timed | {"people": 9, "people_hours": hours} for hours in (2.0, None)]
    assert "people's time not measured" in cost_in_words([{**run, "money": 0.0} for run in runs])
    assert "2.00 hours of people" in cost_in_words([{**runs[0], "money": 0.0}])
    seeds = [arm(tmp_path, f"a{n}", 0.9 - 0.4 * n, seed=n, prompts=240) for n in (0, 1)]
    found = compare([*seeds, arm(tmp_path, "b", 0.9, human=True, prompts=240)])
    assert found["detectable"] > 1
    assert "differences of any size, which" in found["answers"]["not_known"].lower()


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (("risky", "role"), True),
        (("safe",), False),
        (("over-refusal",), False),
        (("borderline",), None),
        ((), None),
        (("safe", "harmful"), None),
    ],
)
def test_tags_say_what_is_to_be_refused(tags, expected):
    assert should_refuse(tags) is expected
    assert not TO_ANSWER & TO_REFUSE


def test_over_and_under_refusal_are_of_the_prompts_that_say_so():
    tags = {"p0": ("safe",), "p1": ("safe",), "p2": ("risky",), "p3": ("risky",), "p4": ("talk",)}
    prompts = {
        name: Prompt.model_validate({"messages": [{"role": "user", "content": name}], "tags": own})
        for name, own in tags.items()
    }
    rows = {
        name: Evaluation(policy="p", prompt_id=name, response_id="r", refusal=name in ("p0", "p3", "p4"))
        for name in tags
    }
    figures = {metric.key: metric.values(rows, {}, prompts) for metric in METRICS}
    assert figures["over_refusal"] == {"p0": 1.0, "p1": 0.0}
    assert figures["under_refusal"] == {"p2": 1.0, "p3": 0.0}
    assert len(figures["refusal_rate"]) == 5


def test_the_shipped_prompts_say_which_are_to_be_refused():
    from tests.test_layout import ROOT

    counts = {}
    for name in ("playground", "starter"):
        rows = map(json.loads, (ROOT / "prompts" / f"{name}.jsonl").read_text().splitlines())
        kinds = [should_refuse(row["tags"]) for row in rows]
        counts[name] = [kinds.count(True), kinds.count(False), kinds.count(None)]
    assert counts["playground"][2] == 0
    assert all(n > 20 for n in counts["starter"])


def test_two_seeds_and_few_prompts_have_a_page_without_intervals(tmp_path):
    made = [arm(tmp_path, f"a{n}", 0.9, seed=n) for n in (0, 1)]
    made += [change(arm(tmp_path, name, 0.6), heldout=share) for name, share in (("b", 0.26), ("c", 0.27))]
    data = compare(made, out=tmp_path / "page.html")
    assert data["prompts"] < 50
    assert data["gold"]["delta"]["all"]["ci"] == [None, None]
    assert "Not known, so few prompts and seeds allow no interval: a0 (2 seeds)" in data["verdict"]["text"]
    assert data["overall"]["gold"]["strengths"]["A"]["ci"] == [None, None]
    assert not data["overall"]["gold"]["pairs"]["A–B"]["different"]
    assert "[no interval]" in (tmp_path / "page.html").read_text()


def test_two_paths_to_the_same_content_are_no_difference(tmp_path):
    made = [arm(tmp_path, name, 0.9, seed=n) for n, name in enumerate(("here", "there"))]
    for run, where in zip(made, ("/one", "/two"), strict=True):
        stages = read_json(run / "config.json")["stages"]
        stages = [{**s, "model": f"{where}/judge"} if s["stage"] == "reward" else s for s in stages]
        change(run, prompts=f"{where}/p.jsonl", constitution=f"{where}/c.yaml", stages=stages)
        manifest = read_json(run / "manifest.json")
        write_json(run / "manifest.json", manifest | {"inputs": {"prompts": "1", "stages.6.model": "2"}})
    data = compare(made)
    assert set(data["differs"]["config"]) == {"name", "seed"}
    assert data["same_config"]
    manifest = read_json(made[1] / "manifest.json")
    write_json(made[1] / "manifest.json", manifest | {"inputs": {"prompts": "1", "stages.6.model": "3"}})
    assert set(compare(made)["differs"]["config"]) == {"name", "seed", "reward.model"}


@pytest.mark.parametrize("judge", ["nowhere/judge", "", "run"])
def test_a_judge_that_is_named_and_cannot_be_opened_is_a_mistake(tmp_path, judge):
    """A run's own judge that cannot be asked leaves a note; one that was named is not passed over."""
    runs = [fake_run(tmp_path / name, seed=seed, prompts=30) for seed, name in enumerate(("run", "other"))]
    named = str(tmp_path / judge) if judge else judge
    with pytest.raises(UserError) as found:
        rlaif.compare(*runs, judge=named, trust=True)
    assert found.value.code == 2

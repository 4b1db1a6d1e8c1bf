"""Runs side by side: figures checked against the rows, and no difference declared where there is none."""

import json
import re
import shutil

import numpy as np
import pytest
import scipy.stats

from rlaif.config import ModelConfig
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.pages.page import difference_in_words
from rlaif.report.compare import compare
from rlaif.report.comparison_text import in_words
from rlaif.report.differences import affects_results, flat_config
from rlaif.report.lineage import index_rows
from rlaif.report.measures import arm_delta, with_seed_variance
from rlaif.report.win_rates import all_principles
from rlaif.runs.folder import Run, read_json, write_json
from tests.fake_run import fake_run


def kept(run, name="all") -> dict[str, bool]:
    lines = (run / "09_evaluate" / "evaluation.jsonl").read_text().splitlines()
    return {r["prompt_id"]: r["gold"][name] for r in map(json.loads, lines) if r["policy"] == "ppo"}


def set_config(run, **changes) -> None:
    write_json(run / "config.json", read_json(run / "config.json") | changes)


@pytest.fixture
def ai(tmp_path):
    return fake_run(tmp_path / "ai")


@pytest.fixture
def human(tmp_path):
    return fake_run(tmp_path / "human", human=True, keep={"base": 0.5, "ppo": 0.6})


def test_the_figures_are_those_of_the_rows(ai, human):
    data = compare([ai, human])
    a, b = kept(ai), kept(human)
    assert data["prompts"] == len(a) == len(b)
    assert data["gold"]["A"]["all"] == pytest.approx(np.mean(list(a.values())), abs=1e-5)
    gap = np.mean([float(a[i]) - float(b[i]) for i in a])
    shift = data["gold"]["delta"]["all"]
    assert shift["value"] == pytest.approx(gap, abs=1e-5)
    assert shift["ci"][0] < gap < shift["ci"][1]
    assert data["verdict"]["winner"] == "A"
    assert set(data["win_rate"]) >= {"value", "ci", "ties", "invalid", "judge"}
    assert set(data["length"]) >= {"A", "B"}
    assert data["win_rate"]["value"] > 0.5


def test_two_figures_and_their_difference_are_of_the_same_prompts(ai, human):
    """A KL or an answer that one side lacks counts on neither, so that A − B is the difference printed."""
    for run, part in ((ai, 0), (human, 1)):
        path = run / "09_evaluate" / "evaluation.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for at, row in enumerate(row for row in rows if row["policy"] == "ppo"):
            row["kl"] = None if at % 3 == part else at / 10
            if at % 4 == part:
                row |= {"compliance": {}, "unread": list(row["compliance"])}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = compare([ai, human])
    tables = [data["kl"]] + [
        {side: data["compliance"][side][name] for side in "AB"} | {"delta": change}
        for name, change in data["compliance"]["delta"].items()
    ]
    assert len(tables) == 5
    for table in tables:
        assert 0 < table["delta"]["n"] < data["prompts"]
        assert table["A"] - table["B"] == pytest.approx(table["delta"]["value"], abs=2e-5)


def test_labels_of_all_rounds_count(tmp_path, ai):
    """A further label stage with people's labels on other pairs: the cost, who taught, what both labelled."""
    twice = shutil.copytree(ai, tmp_path / "twice")
    again = [
        stage for stage in read_json(ai / "config.json")["stages"] if stage["stage"] in ("pair", "label")
    ]
    set_config(twice, name="twice", stages=[*read_json(ai / "config.json")["stages"], *again])
    for number, name in ((10, "pair"), (11, "label")):
        shutil.copytree(next(ai.glob(f"*_{name}")), twice / f"{number:02}_{name}")
        path = twice / f"{number:02}_{name}" / "stage.json"
        write_json(path, read_json(path) | {"number": number})
    metrics = read_json(path)["metrics"] | {"sources": {"human": 100}}
    write_json(path, read_json(path) | {"metrics": metrics})
    for name in ("labels", "preferences"):
        rows = [json.loads(line) for line in (path.parent / f"{name}.jsonl").read_text().splitlines()[:100]]
        people = {"annotator": {"kind": "human", "id": "ann"}, "seconds": 36} if name == "labels" else {}
        changed = [row | people | {"comparison_id": f"other {row['comparison_id']}"} for row in rows]
        (path.parent / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    data = compare([ai, twice])
    ai_labels = data["runs"]["A"]["cost"]["ai_labels"]
    cost = data["runs"]["B"]["cost"]
    assert ai_labels > 100
    assert [cost[key] for key in ("ai_labels", "people", "people_hours")] == [ai_labels, 100, 1.0]
    assert data["runs"]["B"]["feedback"] == "AI and human"
    assert data["win_rate"]["taught"] == "both"
    assert data["labels"]["shared"] == data["labels"]["A"] == data["labels"]["B"] - 100
    assert data["labels"]["agreement"] == 1


def test_judge_and_gold_agree_when_the_judge_is_right(ai, human):
    data = compare([ai, human])
    # The scripted judge decides each principle at 0.9 and adds them up: it prefers whoever keeps more.
    assert data["win_rate"]["value"] == pytest.approx(data["gold_win_rate"]["value"])
    assert data["win_rate"]["order_flip_rate"] == 0.0


def test_human_or_ai_is_answered_in_words(ai, human, tmp_path):
    data = compare([ai, human], out=tmp_path / "page.html")
    assert data["verdict"]["text"].startswith(
        "AI or simulated human feedback? AI (ai): ai keeps every principle in"
    )
    assert data["differs"]["config"]["label.human.annotator"] == [None, "tests.scripts:annotate"]
    page = (tmp_path / "page.html").read_text()
    assert f"<h1>{data['verdict']['text']}</h1>" in page
    assert f"<code>rlaif show {ai} ID</code>, <code>rlaif show {human} ID</code>" in page
    ids = re.findall(r'<small class="row">(.*?)</small>', page)
    assert ids
    assert set(ids) <= index_rows(ai).keys() | index_rows(human).keys()
    assert any(line.startswith("win rate of A over B") for line in in_words(data))


def test_two_seeds_of_one_config_are_not_declared_different(tmp_path):
    runs = [fake_run(tmp_path / f"seed{n}", seed=n) for n in (0, 1)]
    data = compare(runs)
    assert data["same_config"]
    assert set(data["differs"]["config"]) == {"name", "seed"}
    assert data["verdict"]["winner"] is None
    assert "No difference shown" in data["verdict"]["text"]
    shifts = [*data["gold"]["delta"].values(), *data["compliance"]["delta"].values()]
    assert not any(shift["different"] for shift in shifts)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sample_every", 7),
        ("num_watched_prompts", 8),
        ("micro_batch", 16),
        ("checkpoint_every", 5),
        ("tracker", "wandb"),
    ],
)
def test_options_that_cannot_affect_results_make_no_other_experiment(tmp_path, key, value):
    runs = [fake_run(tmp_path / f"seed{n}", seed=n, keep={"base": 0.5, "ppo": 0.9 - 0.3 * n}) for n in (0, 1)]
    stages = read_json(runs[1] / "config.json")["stages"]
    set_config(runs[1], stages=[{**s, key: value} if s["stage"] == "ppo" else s for s in stages])
    data = compare(runs)
    assert set(data["differs"]["config"]) == {"name", "seed", f"ppo.{key}"}
    assert data["same_config"]
    assert data["verdict"]["winner"] is None


@pytest.mark.parametrize(
    ("key", "affects"),
    [
        ("ppo.updates", True),
        ("sample[1].k", True),
        ("ppo.sample_every", False),
        ("policy.dtype", True),
        ("policy.model", True),
        ("feedback.concurrency", False),
        ("budget.money", False),
        ("judge_card.num_pairs", False),
        ("label.human.weight", True),
        ("label.labels_from", False),
        ("prices.a.b.prompt", False),
        ("ppo.lora.rank", True),
        ("heldout", True),
        ("stages", True),
        ("no such key", True),
    ],
)
def test_which_keys_can_affect_results(key, affects):
    assert affects_results(key) == affects


def test_what_a_difference_amounts_to_is_said():
    change = {"value": 0.1, "ci": (0.05, 0.15), "n": 100, "different": True}
    assert difference_in_words(change, "A", "B", same=False) == "A is ahead"
    assert (
        difference_in_words(change | {"different": False}, "A", "B", same=False)
        == "not shown after correction"
    )
    assert difference_in_words(change | {"different": False}, "A", "B", same=True).startswith(
        "within seed noise"
    )
    assert (
        difference_in_words(change | {"different": False, "ci": (-0.1, 0.2)}, "A", "B", False)
        == "no difference shown"
    )


def test_a_run_against_itself_is_all_ties(ai):
    data = compare([ai, ai])
    win = data["win_rate"]
    assert (win["value"], win["ties"], win["verdicts"]) == (0.5, 1.0, 0)
    for low, high in (win["ci"], [edge + 0.5 for edge in data["gold"]["delta"]["all"]["ci"]]):
        assert 0.45 < low < 0.5 < high < 0.55  # none of so many differs, which bounds how many do elsewhere
    assert not win["different"]
    assert win["length_controlled"]["reason"].startswith("0 decided pairs")
    assert data["labels"]["agreement"] == 1.0


def test_chance_alone_is_seldom_called_a_difference():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        a, b = (dict(enumerate((rng.random(300) < 0.8).astype(float))) for _ in "ab")
        a, b = ({str(k): v for k, v in side.items()} for side in (a, b))
        found.append(arm_delta([a], [b], {})["different"])
    assert np.mean(found) < 0.1
    assert not arm_delta([{"1": 1.0, "2": 1.0}], [{"1": 0.0, "2": 0.0}], {})[
        "different"
    ]  # two prompts prove nothing


def test_a_removed_principle_is_still_measured_on_both(tmp_path, ai):
    without = fake_run(tmp_path / "without", words=("rude", "wrong"))
    rows = without / "09_evaluate" / "responses.jsonl"
    rows.write_text(rows.read_text().replace("nice", "sad"))
    data = compare([ai, without])
    assert data["differs"]["constitution"] == {"no-sad": {"text": ["Never say sad.", None]}}
    assert data["gold"]["B"]["no-sad"] < 0.5 < data["gold"]["A"]["no-sad"]
    shifts = data["gold"]["delta"]
    assert [i for i, shift in shifts.items() if shift["different"]] == ["all", "no-sad"]
    assert data["verdict"]["principles"].startswith("Principles that differ: no-sad (+")


def test_a_principle_with_another_text_is_another_principle():
    first = Constitution.model_validate(
        {"name": "x", "principles": [{"id": "word", "text": "Never say sun."}]}
    )
    second = Constitution.model_validate(
        {"name": "x", "principles": [{"id": "word", "text": "Never say rain."}]}
    )
    assert all_principles([first, second, second]).ids == ["word", "word.run2"]


def test_labels_of_the_same_comparisons_are_set_side_by_side(tmp_path, ai):
    other = fake_run(tmp_path / "other", human=True)
    labels = compare([ai, other])["labels"]
    assert labels["shared"] == labels["A"] == labels["B"] > 100
    assert (labels["agreement"], labels["kappa"]) == (1.0, 1.0)
    assert compare([ai, fake_run(tmp_path / "else", seed=5)])["labels"]["shared"] == 0


def test_fewer_shared_prompts_are_counted_and_said(tmp_path, ai):
    small = fake_run(tmp_path / "small", prompts=200)
    data = compare([ai, small])
    assert data["prompts"] == len(kept(small)) < len(kept(ai))
    assert f"{len(kept(small))} of ai's {len(kept(ai))} held-out prompts are shared" in data["unfair"][0]
    assert f"UNFAIR: {data['unfair'][0]}" == in_words(data)[1]


def test_a_named_judge_that_cannot_be_opened_is_a_mistake(ai, human):
    with pytest.raises(UserError, match=r'"tests.scripts" has no function "missing"'):
        compare([ai, human], judge=ModelConfig(engine="scripted", model="tests.scripts:missing"))


def test_a_judge_of_the_runs_that_cannot_be_opened_leaves_gold(tmp_path):
    runs = [fake_run(tmp_path / "ai"), fake_run(tmp_path / "human", human=True)]
    for run in runs:
        set_config(run, feedback={"engine": "scripted", "model": "tests.scripts:missing"})
    data = compare(runs)
    assert data["win_rate"]["value"] is None
    assert data["verdict"]["measure"] == "gold"
    assert any("the judge could not be asked" in note for note in data["notes"])


def test_without_gold_the_judge_decides(tmp_path):
    runs = [
        fake_run(tmp_path / name, gold=False, keep={"base": 0.5, "ppo": keep})
        for name, keep in (("a", 0.95), ("b", 0.5))
    ]
    set_config(runs[1], heldout=0.5)
    data = compare(runs)
    assert "gold" not in data
    assert data["verdict"]["measure"] == "judge"
    assert data["verdict"]["text"].startswith("a or b? a: the judge prefers a in")


def test_a_judge_that_goes_by_the_order_is_said_wherever_its_rate_is(tmp_path):
    runs = [
        fake_run(tmp_path / name, gold=False, keep={"base": 0.5, "ppo": keep})
        for name, keep in (("a", 0.9), ("b", 0.5))
    ]
    for heldout, run in zip((0.25, 0.5), runs, strict=True):
        set_config(
            run, heldout=heldout, feedback={"engine": "scripted", "model": "tests.scripts:biased_judge"}
        )
    data = compare(runs)
    assert data["win_rate"]["order_flip_rate"] == 1.0
    rates = [line for line in in_words(data) if "win rate of" in line or "the judge prefers" in line]
    assert rates
    assert all(
        re.search(r"flip with the order 1\.00|1\.00( \[[^]]*\])? flip with the order", line) for line in rates
    )
    trusted = r"can hardly be trusted: 100 ?%.* of the judge's decided verdicts"
    assert any(re.search(trusted, note) for note in data["notes"])


def test_other_judges_and_other_truths_are_not_mixed(ai, human):
    set_config(human, feedback={"engine": "scripted", "model": "tests.scripts:biased_judge"}, gold=None)
    data = compare([ai, human])
    assert "gold" not in data
    assert data["compliance"] == {}
    assert data["win_rate"]["judge"] == "scripted:feedback"
    assert any("win rate is by ai's" in note for note in data["notes"])


@pytest.mark.parametrize("said", ["transformers:judge@1:float32", "transformers:judge@2:float32"])
def test_one_judge_from_two_places_is_one_judge(ai, human, said):
    set_config(human, feedback={"engine": "scripted", "model": "tests.scripts:feedback", "batch_tokens": 64})
    for run, name in ((ai, "transformers:judge@1:float32"), (human, said)):
        path = run / "09_evaluate" / "stage.json"
        stage = read_json(path)
        write_json(path, stage | {"metrics": stage["metrics"] | {"judge": name}})
    data = compare([ai, human])
    same = said.endswith("@1:float32")
    assert bool(data["compliance"]) == same
    assert any("win rate is by ai's" in note for note in data["notes"]) != same


def seeds(tmp_path, name: str, keep: list[float], **options) -> list:
    return [
        fake_run(tmp_path / f"{name}{n}", seed=n, keep={"base": 0.5, "ppo": share}, **options)
        for n, share in enumerate(keep)
    ]


def test_several_seeds_are_one_arm(tmp_path):
    ai = seeds(tmp_path, "ai", [0.9, 0.8, 0.85])
    human = seeds(tmp_path, "human", [0.7, 0.6], human=True)
    data = compare([ai[0], human[0], ai[1], human[1], ai[2]], out=tmp_path / "page.html")
    assert data["arms"] == {
        "A": {"name": "ai0 (3 seeds)", "runs": ["A1", "A2", "A3"]},
        "B": {"name": "human0 (2 seeds)", "runs": ["B1", "B2"]},
    }
    assert [data["runs"][name]["name"] for name in ("A1", "A2", "A3", "B1", "B2")] == [
        "ai0",
        "ai1",
        "ai2",
        "human0",
        "human1",
    ]
    shared = set.intersection(*(set(kept(run)) for run in (*ai, *human)))
    assert data["prompts"] == len(shared)
    a, b = (np.array([[kept(run)[i] for i in sorted(shared)] for run in arm], float) for arm in (ai, human))
    assert data["gold"]["A"]["all"] == pytest.approx(a.mean(), abs=1e-5)
    assert data["gold"]["B"]["all"] == pytest.approx(b.mean(), abs=1e-5)
    shift = data["gold"]["delta"]["all"]
    assert shift["value"] == pytest.approx(a.mean() - b.mean(), abs=1e-5)
    # The spread among seeds, by the textbook: pooled variance, Student's t with 2 + 1 degrees of freedom.
    pooled = (a.mean(1).var() * 3 + b.mean(1).var() * 2) / 3
    half = scipy.stats.t.ppf(0.975, 3) * np.sqrt(pooled * (1 / 3 + 1 / 2))
    assert (shift["ci"][1] - shift["ci"][0]) / 2 > half - 1e-5
    assert "spread among seeds (3 of A, 2 of B)" in data["notes"][-1]
    assert "A against B: ai0 (3 seeds) and human0 (2 seeds)" in (tmp_path / "page.html").read_text()


def test_seeds_that_scatter_more_than_the_arms_differ_show_no_difference(tmp_path):
    ai = seeds(tmp_path, "ai", [0.95, 0.6])
    human = seeds(tmp_path, "human", [0.9, 0.45], human=True)
    assert compare([ai[0], human[0]])["verdict"]["winner"] == "A"
    both = compare([*ai, *human])
    assert both["gold"]["delta"]["all"]["value"] > 0.02
    assert both["verdict"]["winner"] is None
    assert not any(change["different"] for change in both["gold"]["delta"].values())


def test_one_seed_each_says_what_the_interval_leaves_out(ai, human):
    assert "not another training" in compare([ai, human])["notes"][-1]


def test_an_interval_is_widened_by_the_spread_of_seeds():
    assert with_seed_variance(0.5, (0.4, 0.6)) == (0.4, 0.6)
    assert with_seed_variance(0.5, (0.4, 0.6), [0.5], [0.7]) == (0.4, 0.6)
    low, high = with_seed_variance(0.5, (0.4, 0.6), [0.4, 0.6])
    half = scipy.stats.t.ppf(0.975, 1) * np.std([0.4, 0.6], ddof=1) / np.sqrt(2)
    assert (low, high) == pytest.approx((0.5 - np.hypot(0.1, half), 0.5 + np.hypot(0.1, half)))


def test_runs_without_an_evaluated_policy_are_compared_by_their_labels(tmp_path, ai):
    early = [
        fake_run(tmp_path / name, human=human, until=6) for name, human in (("one", False), ("two", True))
    ]
    data = compare(early, out=tmp_path / "page.html")
    assert data["prompts"] == 0
    assert data["win_rate"]["n"] == 0
    assert data["labels"]["shared"] > 100
    assert data["verdict"]["text"].startswith(
        "AI or simulated human feedback? Their labels agree in 1.00 [0.99, 1.00] of the "
    )
    assert "No policy of one has been evaluated, so only labels are compared." in data["notes"]
    assert any(line.startswith("labels: ") for line in in_words(data))
    mixed = compare([ai, early[1]])
    assert "No policy of two has been evaluated, so only labels are compared." in mixed["notes"]


def test_further_runs_are_set_against_the_first(tmp_path, ai, human):
    third = fake_run(tmp_path / "third", seed=3)
    set_config(third, heldout=0.3)
    data = compare([ai, human, third], out=tmp_path / "page.html")
    assert list(data["runs"]) == ["A", "B", "C"]
    assert data["others"][0]["between"] == ["A", "C"]
    assert "win rate of A under each principle" in (tmp_path / "page.html").read_text()
    assert "A against C: ai and third" in (tmp_path / "page.html").read_text()


def test_the_page_escapes_and_loads_nothing(tmp_path):
    runs = [fake_run(tmp_path / name, seed=n, say="<script>x</script>") for n, name in enumerate("ab")]
    compare(runs, out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "src=" not in page


def test_mistakes_are_named(tmp_path, ai):
    with pytest.raises(UserError, match="runs given: 1"):
        compare([ai])
    with pytest.raises(UserError, match="not a run folder"):
        compare([ai, tmp_path])
    with pytest.raises(UserError, match="no policy of this run has been evaluated, and nothing is labelled"):
        compare([ai, fake_run(tmp_path / "early", until=5)])
    with pytest.raises(UserError, match="share no held-out prompt"):
        compare([ai, fake_run(tmp_path / "alien", say="other", prompts=40)])


def test_stage_options_go_by_the_stage_name(ai):
    flat = flat_config(Run.load(ai).config)
    assert flat["ppo.updates"] == 100
    assert {"sample[0].k", "sample[1].k"} <= set(flat)
    assert flat["stages"][0] == "sample"

"""Who labels what: people get what a queue, tags and a number send them, and the judge the rest."""

import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.errors import Paused, UserError
from rlaif.feedback.preferences import aggregate, counting
from rlaif.human.annotating.opening import open_material
from rlaif.human.annotating.queues import QUEUES
from rlaif.human.routing import Routed, for_people, route
from rlaif.human.waiting import people_of
from rlaif.options import LabelOptions
from rlaif.records import Annotator, Comparison, Grade, Label, Preference, Prompt
from rlaif.runs.folder import Run
from rlaif.runs.rows import Rows
from rlaif.runs.storage import read_json, write_json
from rlaif.training.pairs import weighed
from tests.annotating import session
from tests.fake_run import fake_run
from tests.test_waiting import by_hand, config_with, sheet, start

ROOT = Path(__file__).parent.parent
SIMULATED = "annotator: 'tests.scripts:annotate'"
FIRST = [name for name, queue in QUEUES.items() if queue.score]


def read(run: Run, name: str, record: type) -> list:
    return list(Rows(run.stages[4].dir / f"{name}.jsonl", record))


def distances(run: Run) -> dict[str, float]:
    """How far from ½ the judge's opinion of each pair is, counted without the package's code: orders averaged
    as logits, principles added with their weights within ±4."""
    odds: dict[str, dict[str, list[float]]] = {}
    for label in read(run, "labels", Label):
        if label.annotator.kind == "ai":
            logit = math.log(label.p_a / (1 - label.p_a))
            odds.setdefault(label.comparison_id, {}).setdefault(label.principle_id, []).append(logit)
    weights = {"no-rude": 1.0, "no-wrong": 2.0}
    found = {}
    for pair, said in odds.items():
        whole = sum(weights[p] * max(-4.0, min(4.0, sum(x) / len(x))) for p, x in said.items())
        found[pair] = abs(1 / (1 + math.exp(-whole)) - 0.5)
    return found


def test_people_get_what_the_judge_is_unsure_about_and_the_judge_keeps_the_rest(project):
    config_with(project, "ai: rest, human: {file: people.jsonl, route: unsure, num_pairs: 12}")
    told = []
    start(project, until="pair", tell=told.append)
    assert not any("waits for people" in line for line in told)  # nobody knows yet what they get
    with pytest.raises(UserError, match="the judge has not labelled every comparison yet"):
        open_material(project / "run")
    with pytest.raises(
        Paused, match=r"one of the 12 comparisons(.|\n)*where the judge is unsure \(route: un"
    ):
        start(project)
    run = Run.load(project / "run")
    shown = [row["comparison_id"] for row in sheet(project)]
    far = distances(run)
    assert len(far) == run.stages[3].summary["kept"] > 24
    assert len(set(shown)) == 12
    assert max(far[i] for i in shown) <= min(far[i] for i in far if i not in shown)
    kept = read(run, "routed", Routed)
    assert [row.comparison_id for row in kept] == shown
    assert [row.score for row in kept] == pytest.approx([-far[i] for i in shown], abs=1e-9)
    found = open_material(project / "run")
    assert [pair.id for pair in found.comparisons] == shown
    assert found.waits_for == project / "people.jsonl"
    calls = run.ledger.figures("05_label")["calls"]

    other = next(i for i in far if i not in shown)
    by_hand(project, [*sheet(project)[:10], {"comparison_id": other, "a": "rude"}])
    run = pipeline.resume(project / "run")
    summary = run.stages[4].summary
    assert run.ledger.figures("05_label")["calls"] == calls
    made = {row.comparison_id: row for row in read(run, "preferences", Preference)}
    of_people = {i for i, row in made.items() if row.sources == ("human",)}
    assert of_people == set(shown[:10])
    assert all(row.sources == ("ai",) for i, row in made.items() if i not in of_people)
    # A vote on its own is (1 + 1/8) / (1 + 1/4), whatever the judge said.
    assert {round(max(made[i].p_a, 1 - made[i].p_a), 9) for i in of_people} == {0.9}
    assert all(sum(made[i].votes.values()) == 1 for i in of_people)
    assert summary["metrics"]["preferences_by"] == {"people": 10, "the judge": len(made) - 10}
    assert summary["metrics"]["people"] == {"route": "unsure", "asked": 12, "labelled": 10}
    notes = "\n".join(summary["notes"])
    assert f"people get 12 of {len(far)} comparisons: where the judge is unsure (route: unsure)" in notes
    assert f"preferences: 10 by people, {len(made) - 10} by the judge" in notes
    assert "1 × label on a pair that people are not asked about" in notes
    # Who computes preferences from the stored labels anew finds the same.
    labels: dict[str, list[Label]] = {}
    for label in read(run, "labels", Label):
        labels.setdefault(label.comparison_id, []).append(label)
    assert all({x.annotator.kind for x in labels[i]} == {"ai", "human"} for i in of_people)
    options = run.stages[4].options
    for i, row in made.items():
        assert aggregate(labels[i], run.constitution, options.human_weight)[0] == row.p_a
    assert open_material(project / "run").waits_for is None


def test_with_ai_true_the_routed_pairs_have_both(project):
    config_with(project, f"human: {{{SIMULATED}, route: principles, share: 0.25, weight: 3}}")
    run = start(project)
    made = read(run, "preferences", Preference)
    total = run.stages[3].summary["kept"]
    figures = run.stages[4].summary["metrics"]
    assert figures["people"]["asked"] == round(total / 4)
    by = Counter(row.sources for row in made)
    assert by == {("ai",): total - round(total / 4), ("ai", "simulated"): round(total / 4)}
    assert figures["preferences_by"] == {
        "people and the judge": by["ai", "simulated"],
        "the judge": by["ai",],
    }


def test_the_file_may_be_another_one_until_people_are_in(project):
    config_with(project, "human: {file: people.jsonl, route: orders, num_pairs: 9}")
    with pytest.raises(Paused):
        start(project)
    before = (project / "run" / "05_label" / "labels.jsonl").read_bytes()
    elsewhere = project / "elsewhere.jsonl"
    elsewhere.write_text('{"comparison_id": "none"}\n')
    with pytest.raises(UserError, match=r"elsewhere.jsonl:1"):
        pipeline.resume(project / "run", [f"label.human.file={elsewhere}"])
    by_hand(project, sheet(project)[:5])
    (project / "people.jsonl").rename(elsewhere)
    run = pipeline.resume(project / "run")
    assert run.stages[4].is_done
    assert run.stages[4].summary["metrics"]["people"]["labelled"] == 5
    assert (project / "run" / "05_label" / "labels.jsonl").read_bytes().startswith(before)


def test_a_label_on_a_pair_that_is_not_in_the_run_is_refused(project):
    config_with(project, "human: {file: people.jsonl, route: unsure, num_pairs: 5}")
    with pytest.raises(Paused):
        start(project)
    by_hand(project, [{"comparison_id": "ffffffffffffffff", "a": "rude"}])
    with pytest.raises(UserError, match=r'people.jsonl:1: a label on the comparison "ffffffffffffffff"'):
        start(project)


def test_killed_while_the_judge_labels_it_sends_people_the_same(project):
    config_with(project, "ai: rest, human: {file: people.jsonl, route: unsure, num_pairs: 8}")
    words = ["run", project / "config.yaml", "--out", project / "run"]
    command = [sys.executable, "-m", "rlaif.cli", *map(str, words)]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "KILL_LABEL": "50"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (project / "run" / "05_label" / "routed.jsonl").exists()
    with pytest.raises(Paused):
        start(project)
    with pytest.raises(Paused):
        pipeline.run(project / "config.yaml", project / "whole")
    mine, whole = (
        [(project / name / "05_label" / f"{file}.jsonl").read_text() for file in ("labels", "routed")]
        for name in ("run", "whole")
    )
    assert sorted(mine[0].splitlines()) == sorted(whole[0].splitlines())
    assert mine[1] == whole[1]
    assert len(mine[1].splitlines()) == 8


def test_people_label_what_is_tagged_and_the_judge_what_is_not(project):
    config_with(project, f"ai: rest, human: {{{SIMULATED}, tags: [fact]}}")
    run = start(project)
    tags = {p.id: p.tags for p in Rows(run.path / "prompts.jsonl", Prompt)}
    pairs = {pair.id: tags[pair.prompt_id] for pair in run.stages[4].load("comparisons", Comparison)}
    kinds = {(label.annotator.kind, pairs[label.comparison_id]) for label in read(run, "labels", Label)}
    assert kinds == {("simulated", ("fact",)), ("ai", ("talk",))}
    assert any(
        "in random order (route: random), of prompts tagged fact" in note
        for note in run.stages[4].summary["notes"]
    )


def test_a_number_of_pairs_by_chance_holds_every_smaller_number(project):
    config_with(project, f"ai: false, human: {{{SIMULATED}, num_pairs: 20}}")
    run = start(project)
    stage = run.stages[4]
    pairs = stage.load("comparisons", Comparison)
    found = {}
    for wanted in ({"num_pairs": 5}, {"num_pairs": 20}, {"share": 0.5}, {"num_pairs": 10**6}):
        human = stage.options.human.model_copy(update={"num_pairs": None, **wanted})
        stage.options = stage.options.model_copy(update={"human": human})
        found[str(wanted)] = {pair.id for pair in for_people(stage, pairs)}
    few, some, half, every = found.values()
    assert (len(few), len(some), len(every)) == (5, 20, len(pairs))
    assert few < some < half < every
    human = stage.options.human.model_copy(update={"route": "in-order", "share": 0.5, "num_pairs": None})
    stage.options = stage.options.model_copy(update={"human": human})
    assert for_people(stage, pairs) == pairs[: round(len(pairs) / 2)]
    assert len({label.comparison_id for label in read(run, "labels", Label)}) == 20


@pytest.mark.parametrize("name", FIRST)
def test_a_route_is_the_queue_of_the_ranking_page(tmp_path, name):
    """What people get is the beginning of what `rlaif annotate --queue` shows first."""
    path = fake_run(tmp_path / "run", until=6, prompts=40)
    stage = Run.load(path).stages[5]
    labels = list(Rows(stage.dir / "labels.jsonl", Label))
    # Another judge, who differs; and what the same judge said under another wording, which is not asked.
    other = Annotator(kind="ai", id="other")
    turned = [x.model_copy(update={"annotator": other, "p_a": (x.p_a or 0.5) ** 3, "id": ""}) for x in labels]
    stale = [x.model_copy(update={"judge": {**x.judge, "principle": "old"}, "p_a": 0.5}) for x in labels]
    rows = [Label.model_validate({**x.model_dump(), "id": ""}) for x in (*turned, *stale)]
    Rows(stage.dir / "earlier_labels.jsonl", Label).append(rows)
    pairs = stage.load("comparisons", Comparison)
    ids = {id: pair.prompt_id for pair in pairs for id in (pair.a, pair.b)}
    grades = [Grade(prompt_id=p, response_id=i, scores={"r": int(i[:4], 16) / 2**16}) for i, p in ids.items()]
    Rows(Run.load(path).stages[3].dir / "grades.jsonl", Grade).append(grades)
    config = read_json(path / "config.json")
    config["stages"][5] |= {"human": {"annotator": "tests.scripts:annotate", "route": name, "num_pairs": 9}}
    write_json(path / "config.json", config)
    stage = Run.load(path).stages[5]
    route(stage)
    kept = list(Rows(stage.dir / "routed.jsonl", Routed))
    assert {row.route for row in kept} == {name}
    made = session(path, tmp_path / "out", queue=name)
    score = QUEUES[name].score
    scores = [score(made.opinions.evidence(item.comparisons[0])) for item in made.desk.items]
    assert [row.score for row in kept] == scores[:9]
    assert len(scores) > 20
    evidence = made.opinions.evidence(pairs[0])
    assert len(evidence.judges()) == 2
    assert not any(label.judge.get("principle") == "old" for label in evidence.labels)
    assert people_of(stage, []).asked == 9


REFUSED = [
    (
        f"human: {{{SIMULATED}, route: unsur, share: 0.5}}",
        r'label.human.route "unsur" — did you mean "unsure"',
    ),
    (
        f"ai: false, human: {{{SIMULATED}, route: unsure, share: 0.5}}",
        "goes by a judge's labels; with ai: false",
    ),
    (f"human: {{{SIMULATED}, route: judges, share: 0.5}}", "this run has one judge"),
    (f"human: {{{SIMULATED}, route: reward, share: 0.5}}", "no stage before it makes a reward model"),
    (
        f"human: {{{SIMULATED}, tags: [facts]}}",
        r'"facts" — none of the prompts has that tag; did you mean "fact"',
    ),
    (f"human: {{{SIMULATED}, share: 0}}", "share"),
    (f"human: {{{SIMULATED}, share: 1.5}}", "share"),
    (f"human: {{{SIMULATED}, share: 0.5, num_pairs: 5}}", "set one of them"),
]


@pytest.mark.parametrize(("label", "said"), REFUSED)
def test_what_can_mean_nothing_is_refused_before_anything_runs(project, label, said):
    config_with(project, label)
    with pytest.raises(UserError, match=said):
        start(project)
    assert not (project / "run" / "01_sample").exists()


def test_tags_of_imported_prompts_are_checked_by_the_stage(project):
    config_with(project, f"human: {{{SIMULATED}, tags: [fact]}}")
    run = start(project, until="pair")
    stage = run.stages[4]
    human = stage.options.human.model_copy(update={"tags": ("other",)})
    stage.options = stage.options.model_copy(update={"human": human})
    with pytest.raises(
        UserError, match=r'"other" — none of the comparisons. prompts has that tag; known: fact'
    ):
        for_people(stage, stage.load("comparisons", Comparison))


def label(kind: str, p_a: float, principle: str | None = None) -> Label:
    who = Annotator(kind=kind, id=kind)
    return Label(comparison_id="c", annotator=who, principle_id=principle, p_a=p_a, verdict="tie")


def test_with_ai_rest_the_judge_counts_where_people_say_nothing():
    from rlaif.constitution import Constitution

    rules = [{"id": "p", "text": "P."}, {"id": "q", "text": "Q.", "weight": 0.0}]
    constitution = Constitution.model_validate({"name": "c", "principles": rules})
    weights = {"p": 1.0, "q": 0.0}
    rest = LabelOptions.model_validate({"stage": "label", "ai": "rest", "human": {"file": "f"}}).human_weight
    judge, person, silent = label("ai", 0.9, "p"), label("human", 0.0), label("human", 0.0, "q")
    assert aggregate([judge, person], constitution, rest) == (pytest.approx(0.1), None)
    assert aggregate([judge, silent], constitution, rest) == (pytest.approx(0.9), "p")
    assert aggregate([judge], constitution, rest) == (pytest.approx(0.9), "p")
    assert aggregate([judge, person], constitution, 1.0)[0] == pytest.approx((0.9 + 0.1) / 2)
    assert counting([judge, person], weights, rest) == [person]
    assert counting([judge, silent], weights, rest) == [judge, silent]
    assert counting([judge, person], weights, 5.0) == [judge, person]
    by_principle = label("human", 0.2, "p")
    assert aggregate([judge, by_principle], constitution, rest)[1] == "p"


def pairs(*kinds: str, weight: float = 1.0) -> list[dict]:
    return [{"sources": tuple(kind.split("+")), "weight": weight} for kind in kinds]


@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.9])
def test_people_have_their_ratio_of_the_weight_however_few_they_are(ratio):
    found = weighed(pairs("human", "ai", "ai", "ai", "ai+simulated", "ai", weight=2.0), ratio, "07_reward")
    theirs = sum(row["weight"] for row in found if row["sources"] != ("ai",))
    assert theirs == pytest.approx(ratio * 12)
    assert sum(row["weight"] for row in found) == pytest.approx(12)
    assert [row["weight"] for row in found[:2]] == pytest.approx([ratio * 12 / 2, (1 - ratio) * 12 / 4])


def test_a_ratio_of_one_leaves_the_judge_out_and_one_kind_alone_has_no_ratio():
    found = weighed(pairs("human", "ai", "ai"), 1.0, "07_reward")
    assert [(row["sources"], row["weight"]) for row in found] == [(("human",), 3.0)]
    assert weighed(pairs("human"), 1.0, "07_reward") == pairs("human")
    for given, said in ((pairs("ai", "ai"), "none of 2"), (pairs("human"), "each of 1")):
        with pytest.raises(UserError, match=f"07_reward: human_ratio: 0.5, but {said} preferences"):
            weighed(given, 0.5, "07_reward")


def test_a_ratio_needs_people_and_no_other_weights(project):
    text = (
        (project / "config.yaml")
        .read_text()
        .replace('engine: scripted, model: "tests.scripts:policy"', "model: p")
    )

    def refused(label: str, reward: str) -> str:
        path = project / "config.yaml"
        path.write_text(text.replace("{stage: label}", label) + f"  - {{stage: reward, {reward}}}\n")
        with pytest.raises(UserError) as error:
            start(project)
        return str(error.value)

    assert "no label stage has people's labels" in refused("{stage: label}", "human_ratio: 0.5")
    people = f"{{stage: label, ai: rest, human: {{{SIMULATED}, share: 0.5}}}}"
    assert "both weigh people" in refused(people, "human_ratio: 0.5, source_weights: {ai: 2}")
    for ratio in ("0", "1.2"):
        assert "human_ratio" in refused(people, f"human_ratio: {ratio}")


def test_the_page_names_every_way_of_mixing():
    page = (ROOT / "docs" / "labelling.md").read_text()
    for word in ("human.weight", "human_ratio", "human.tags", "human.route", "num_pairs", "routed.jsonl"):
        assert f"`{word}`" in page, word
    assert "annotate.md#queues" in page

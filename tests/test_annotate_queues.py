"""What can be annotated, and in which order: a run, files and folders, queues."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest

from rlaif.errors import UserError
from rlaif.human.annotating.grading import graded
from rlaif.human.annotating.material import with_labels
from rlaif.human.annotating.opening import open_material
from rlaif.human.annotating.page import BLURRED
from rlaif.human.annotating.queues import QUEUES, Evidence, ordered
from rlaif.records import Annotator, Label
from tests.annotating import Person, rows, session, write_file
from tests.fake_run import fake_run
from tests.tiny_models import tiny_policy

ROOT = Path(__file__).parent.parent


def label(p_a, principle="p", order="ab", judge="j"):
    who = Annotator(kind="ai", id=judge)
    return Label(
        comparison_id="c", annotator=who, principle_id=principle, order=order, p_a=p_a, verdict="tie"
    )


def both(p_ab, p_ba=None, principle="p", judge="j"):
    again = p_ab if p_ba is None else p_ba
    return [label(p_ab, principle, "ab", judge), label(again, principle, "ba", judge)]


# The first of each list is what its queue is to show first.
CASES = {
    "unsure": [both(0.52), both(0.7), both(0.05)],
    "orders": [both(0.9, 0.1), both(0.6, 0.5), both(0.8)],
    "principles": [
        both(0.9) + both(0.1, principle="q"),
        both(0.9) + both(0.4, principle="q"),
        both(0.9) + both(0.9, principle="q"),
    ],
    "judges": [
        both(0.9) + both(0.1, judge="k"),
        both(0.6) + both(0.8, judge="k"),
        both(0.9) + both(0.9, judge="k"),
    ],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_a_queue_shows_first_where_a_label_tells_most(name, seed):
    found = {place: Evidence(labels) for place, labels in enumerate(CASES[name])} | {3: Evidence()}
    mixed = random.Random(seed).sample(list(found), len(found))
    assert ordered(QUEUES[name], mixed, lambda place: [found[place]], seed) == [0, 1, 2, 3]


def test_the_orders_of_one_model_asked_in_two_ways_are_not_mixed():
    asked = [row.model_copy(update={"judge": {"template": "t"}}) for row in both(0.1)]
    assert QUEUES["orders"].score(Evidence([*both(0.9), *asked])) == 0
    assert QUEUES["orders"].score(Evidence([*both(0.9), asked[1]])) == 0


def test_a_queue_compares_the_reward_model_with_the_judge():
    found = [Evidence(both(0.9), rewards=r) for r in [(0, 3), (0, 0), (3, 0)]]
    assert ordered(QUEUES["reward"], [2, 0, 1], lambda place: [found[place]], 0) == [0, 1, 2]
    assert QUEUES["reward"].score(Evidence(both(0.9), rewards=(1.0, 1.0))) == pytest.approx(0.4, abs=1e-6)


def test_people_are_no_judges_to_a_queue():
    who = Annotator(kind="human", id="ann")
    people = [Label(comparison_id="c", annotator=who, p_a=0.5, verdict="tie")]
    for name, queue in QUEUES.items():
        assert queue.score is None or queue.score(Evidence(people, rewards=(0, 0))) is None, name


def test_random_and_in_order():
    assert ordered(QUEUES["in-order"], [3, 1, 2], lambda item: [], 0) == [3, 1, 2]
    first, second = (ordered(QUEUES["random"], range(50), lambda item: [], seed) for seed in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == ordered(QUEUES["random"], range(50), lambda item: [], 0)


def test_a_queue_without_its_rows_is_refused(tmp_path):
    source = write_file(tmp_path / "f.jsonl")
    with pytest.raises(UserError, match=r"--queue unsure.*\n.*a judge's labels\n.*--queue random"):
        session(source, tmp_path / "out", queue="unsure")
    with pytest.raises(UserError, match='did you mean "unsure"'):
        session(source, tmp_path / "out", queue="unsur")


def test_files_of_any_format_are_opened(tmp_path):
    trl = tmp_path / "trl.jsonl"
    trl.write_text(json.dumps({"prompt": "Why?", "chosen": "So.", "rejected": "No."}) + "\n")
    found = open_material(trl)
    assert len(found.comparisons) == 1
    assert len(found.labels(found.comparisons[0].id)) == 1
    sheet = tmp_path / "sheet.jsonl"
    pair = {"prompt": [{"role": "user", "content": "Why?"}], "a": "So.", "b": "No."}
    lines = [pair, {**pair, "b": "So."}, {"prompt": "", "a": "x", "b": "y"}, {**pair, "a": 5}, 7]
    sheet.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = open_material(sheet)
    assert len(found.comparisons) == 1
    assert sum(found.left_out.values()) == 4
    (tmp_path / "empty").mkdir()
    for path, said in ((tmp_path / "none", "no such file"), (tmp_path / "empty", "without a file of rows")):
        with pytest.raises(UserError, match=said):
            open_material(path)


def test_a_runs_pairs_are_annotated_where_its_judge_is_unsure(tmp_path):
    run = fake_run(tmp_path / "run", until=6, prompts=80)
    made = session(run, tmp_path / "out", queue="unsure", most=10)
    scores = [abs(made.opinions.on(item.id) - 0.5) for item in made.desk.items]
    assert len(scores) == 10
    assert scores == sorted(scores)
    everything = session(run, tmp_path / "all", queue="random").desk.items
    assert max(scores) <= min(
        abs(made.opinions.on(item.id) - 0.5) for item in everything if item not in made.desk.items
    )
    state = Person(made).state
    assert [rule["text"] for rule in state["task"]["principles"]] == [
        f"Never say {word}." for word in ("rude", "wrong", "sad")
    ]


def test_a_runs_reward_model_scores_what_its_queue_goes_by(tmp_path):
    from transformers import AutoTokenizer, LlamaForSequenceClassification

    run = fake_run(tmp_path / "run", until=7, prompts=30)
    model = tiny_policy(tmp_path / "tiny")
    folder = run / "07_reward" / "reward_model"
    LlamaForSequenceClassification.from_pretrained(model, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    (tmp_path / "out").mkdir()
    found = graded(open_material(run), tmp_path / "out")
    pairs = found.comparisons
    scores = {id: found.grades(id)["reward_model"] for pair in pairs for id in (pair.a, pair.b)}
    assert len(rows(tmp_path / "out" / "grades.jsonl")) == len(scores)
    assert len(set(scores.values())) > len(scores) / 2

    def apart(item):
        return abs(
            made.opinions.on(item.id)
            - 1 / (1 + math.exp(scores[item.response_ids[1]] - scores[item.response_ids[0]]))
        )

    shutil.rmtree(folder)  # what is scored is not scored again
    made = session(
        run, tmp_path / "out", queue="reward", material=graded(open_material(run), tmp_path / "out")
    )
    distances = [apart(item) for item in made.desk.items]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > distances[-1]
    with pytest.raises(UserError, match="has no reward model"):
        graded(open_material(fake_run(tmp_path / "no", until=6, prompts=30)), tmp_path / "out")


def test_further_judges_labels_are_added(tmp_path):
    run = fake_run(tmp_path / "run", until=6, prompts=30)
    with pytest.raises(UserError, match="--queue judges"):
        session(run, tmp_path / "out", queue="judges")
    other = [
        Label.model_validate({**row, "id": "", "annotator": {"kind": "ai", "id": "other"}})
        for row in rows(run / "06_label" / "labels.jsonl")
    ]
    pair = other[-1].comparison_id
    turned = [
        x.model_copy(update={"p_a": 1 - x.p_a, "verdict": "tie"})
        if x.comparison_id == pair and x.p_a != 0.5
        else x
        for x in other
    ]
    path = tmp_path / "other.jsonl"
    path.write_text("\n".join(row.to_json() for row in turned))  # as an editor without a last end of line
    assert turned[-1].id in {row.id for row in with_labels(open_material(run), [path]).labels(pair)}
    made = session(
        run, tmp_path / "out", queue="judges", material=with_labels(open_material(run), [path, run])
    )
    apart = [
        max(said) - min(said)
        for said in (made.opinions.evidence(item.comparisons[0]).opinions() for item in made.desk.items)
    ]
    assert apart[0] > 0.1
    assert made.desk.items[0].id == pair
    assert max(apart[1:]) < 1e-9
    other = fake_run(tmp_path / "another", seed=1, until=6, prompts=30, words=("sun", "rain"))
    (reason,) = +with_labels(open_material(run), [other, run]).left_out
    assert reason == f"label of {other} on no pair of {run}"
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"other.jsonl:1"):
        with_labels(open_material(run), [path])


def test_the_page_names_every_queue_file_and_tag(tmp_path):
    page = (ROOT / "docs" / "annotate.md").read_text()
    made = session(write_file(tmp_path / "f.jsonl"), tmp_path / "out")
    Person(made).does("choice", [1, 2])
    made.write()
    files = {f.name for f in (tmp_path / "out").iterdir()} | {
        "rankings.jsonl",
        "repeats.jsonl",
        "anchored.jsonl",
    }
    for word in {*QUEUES, *BLURRED, *files}:
        assert f"`{word}`" in page, word


def test_real_pairs_are_opened(test_data):
    found = open_material(test_data / "pandalm" / "testset-v1.json")
    assert len(found.comparisons) == 999
    hh = open_material(test_data / "hh_rlhf" / "harmless-base-test.jsonl.gz")
    assert 2000 < len(hh.comparisons) <= 2312
    assert hh.prompt(hh.comparisons[0].prompt_id).messages[-1].role == "user"

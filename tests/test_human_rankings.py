"""Rankings and labels files as labels: hand-worked verdicts, refusals that name the line, counted drops."""

import json
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.feedback.judge import JudgeQuestion
from rlaif.human.folder import REPLACED
from rlaif.human.rankings import labels_from_rankings, load_human_labels, simulate, simulate_labels
from rlaif.records import Annotator, Comparison, Label, Prompt, Ranking, Response
from rlaif.runs.rows import read_rows

ANN = Annotator(kind="human", id="ann")
BOB = Annotator(kind="human", id="bob")


def ranking(
    ids: str, ranks: list[int], who: Annotator = ANN, prompt: str = "p", seconds: float | None = None
):
    return Ranking(
        prompt_id=prompt, response_ids=tuple(ids), ranks=tuple(ranks), annotator=who, seconds=seconds
    )


def pair(a: str, b: str, prompt: str = "p") -> Comparison:
    return Comparison(prompt_id=prompt, a=a, b=b)


def write(path, rows):
    path.write_text("".join(row.to_json() + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_ranking_of_four_decides_the_pairs_that_exist():
    pairs = [pair("x", "y"), pair("y", "x"), pair("z", "w"), pair("w", "x"), pair("x", "q")]
    labels, dropped = labels_from_rankings([ranking("xyzw", [2, 1, 3, 3], seconds=12.0)], pairs)
    assert [(label.comparison_id, label.verdict, label.p_a, label.seconds) for label in labels] == [
        (pairs[0].id, "b", 0.0, 3.0),
        (pairs[1].id, "a", 1.0, 3.0),
        (pairs[2].id, "tie", 0.5, 3.0),
        (pairs[3].id, "b", 0.0, 3.0),
    ]
    assert not dropped


def test_what_a_ranking_cannot_say_is_counted():
    rankings = [
        ranking("xy", [1, 2]),
        ranking("yx", [1, 2]),  # the same pair, the same annotator, another opinion
        ranking("xy", [2, 1], BOB),
        ranking("xy", [1, 2], prompt="elsewhere"),
        ranking("yz", [1, 2]),
    ]
    labels, dropped = labels_from_rankings(rankings, [pair("x", "y")])
    assert [(label.annotator.id, label.verdict) for label in labels] == [("ann", "b"), ("bob", "b")]
    assert dropped == Counter({"ranking without a comparison": 2, REPLACED: 1})


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6))
def test_labels_of_a_ranking_never_contradict_it_or_each_other(ranks):
    ids = "abcdef"[: len(ranks)]
    pairs = [pair(a, b) for a, b in combinations(ids, 2)]
    labels, _ = labels_from_rankings([ranking(ids, ranks)], pairs)
    assert len(labels) == len(pairs)
    wins = Counter()
    for label, (a, b) in zip(labels, combinations(ids, 2), strict=True):
        wins[a] += label.p_a
        wins[b] += 1 - label.p_a
    best_first = sorted(ids, key=lambda i: -wins[i])
    assert [ranks[ids.index(i)] for i in best_first] == sorted(ranks)


def test_a_ranking_names_each_response_once():
    with pytest.raises(ValueError, match="ranked twice"):
        ranking("xx", [1, 2])
    with pytest.raises(ValueError, match="2 responses but 3 ranks"):
        ranking("xy", [1, 2, 3])


def test_files_of_rankings_and_of_labels_are_told_apart(tmp_path):
    pairs = [pair("x", "y")]
    ranked = write(tmp_path / "rankings.jsonl", [ranking("xy", [2, 1])])
    [label] = load_human_labels(ranked, pairs)
    assert (label.verdict, label.p_a) == ("b", 0.0)
    again = write(tmp_path / "labels.jsonl", [label])
    assert load_human_labels(again, pairs) == [label]


@pytest.mark.parametrize(
    ("verdict", "p"), [("a", 1.0), ("b", 0.0), ("tie", 0.5), ("abstain", None), ("invalid", None)]
)
def test_a_verdict_alone_implies_its_probability(tmp_path, verdict, p):
    label = Label(comparison_id=pair("x", "y").id, annotator=ANN, verdict=verdict)
    path = write(tmp_path / "labels.jsonl", [label])
    assert load_human_labels(path, [pair("x", "y")])[0].p_a == p


def test_a_label_on_no_comparison_names_file_line_and_id(tmp_path):
    good = Label(comparison_id=pair("x", "y").id, annotator=ANN, verdict="a")
    bad = Label(comparison_id="0123456789abcdef", annotator=ANN, verdict="b")
    path = write(tmp_path / "labels.jsonl", [good, bad])
    with pytest.raises(
        UserError, match=r'labels\.jsonl:2: a label on the comparison "0123456789abcdef"'
    ) as error:
        load_human_labels(path, [pair("x", "y")])
    assert "comparisons.jsonl" in error.value.next


def test_a_label_on_a_pair_that_the_run_leaves_out_is_counted(tmp_path):
    pairs = [pair("x", "y"), pair("x", "z")]
    write(tmp_path / "comparisons.jsonl", pairs)
    path = write(
        tmp_path / "labels.jsonl", [Label(comparison_id=p.id, annotator=ANN, verdict="a") for p in pairs]
    )
    dropped: Counter[str] = Counter()
    assert len(load_human_labels(path, pairs[:1], dropped)) == 1
    assert dropped == {"label on a pair that this run leaves out": 1}


def test_repeated_labels_are_counted(tmp_path):
    label = Label(comparison_id=pair("x", "y").id, annotator=ANN, verdict="a")
    path = write(tmp_path / "labels.jsonl", [label, label.model_copy(update={"verdict": "b"})])
    dropped: Counter[str] = Counter()
    [kept] = load_human_labels(path, [pair("x", "y")], dropped)
    assert kept.verdict == "b"  # the last
    assert dropped == {REPLACED: 1}


def test_rankings_of_another_run_are_refused(tmp_path):
    path = write(tmp_path / "rankings.jsonl", [ranking("xy", [1, 2], prompt="other")])
    with pytest.raises(UserError, match="none of its 1 rankings"):
        load_human_labels(path, [pair("x", "y")])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"verdict": "a", "p_a": 0.2}, r'labels\.jsonl:1: the verdict is "a" but p_a is 0.2'),
        ({"verdict": "b", "p_a": 0.9}, r'labels\.jsonl:1: the verdict is "b" but p_a is 0.9'),
        (
            {"verdict": "first"},
            r"labels\.jsonl:1: verdict: \"first\", which should be 'a', 'b', 'tie', 'abstain' or 'invalid'",
        ),
        ({}, r"labels\.jsonl:1: verdict is missing, which should be one of a, b, tie, abstain, invalid\."),
        ({"verdict": "a", "p_a": 1.5}, r"labels\.jsonl:1: p_a: Input should be less than or equal to 1"),
        ({"verdict": "a", "p_A": 1}, r"labels\.jsonl:1: p_A: Extra inputs"),
    ],
)
def test_bad_label_rows(tmp_path, row, message):
    row = {"comparison_id": pair("x", "y").id, "annotator": {"kind": "human", "id": "ann"}, **row}
    (tmp_path / "labels.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message):
        load_human_labels(tmp_path / "labels.jsonl", [pair("x", "y")])


@pytest.mark.parametrize("content", ["not json\n", "[1]\n", '{"comparison_id": "x"\n', "\xff"])
def test_files_that_are_no_rows(tmp_path, content):
    path = tmp_path / "labels.jsonl"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"labels\.jsonl"):
        load_human_labels(path, [])


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_a_label_is_refused(tmp_path, content):
    (tmp_path / "labels.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"labels\.jsonl: holds no label"):
        load_human_labels(tmp_path / "labels.jsonl", [])


def prompt(text: str) -> Prompt:
    return Prompt.model_validate({"messages": [{"role": "user", "content": text}]})


def shortest_first(messages, responses, principles, seed, unit=1):
    return [len(response) // unit for response in responses]


def test_simulated_people_rank_every_prompt_with_two_answers():
    asked = [prompt("one"), prompt("two")]
    responses = {
        asked[0].id: [Response(prompt_id=asked[0].id, text=t) for t in ("long answer", "short", "tiny.")],
        asked[1].id: [Response(prompt_id=asked[1].id, text="alone")],
    }
    [made] = simulate(shortest_first, {"unit": 1}, asked, responses, [], seed=3)
    assert made.response_ids == tuple(r.id for r in responses[asked[0].id])
    assert made.ranks == (7, 1, 1)
    assert (made.annotator.kind, made.annotator.id) == ("simulated", "shortest_first")


@pytest.mark.parametrize("given", [[1], [1.0, 2.0], ["1", "2"]])
def test_an_annotator_that_returns_no_ranking_is_refused(given):
    asked = prompt("one")
    responses = {asked.id: [Response(prompt_id=asked.id, text=t) for t in "ab"]}
    with pytest.raises(UserError, match="one whole number a response"):
        simulate(lambda *_, **__: given, {}, [asked], responses, [], seed=0)


def test_simulated_labels_rank_all_answers_of_a_prompt_together():
    asked = prompt("one")
    texts = {"x": "aaa", "y": "a", "z": "aa"}
    questions = [
        JudgeQuestion(pair(a, b, asked.id), asked, texts[a], texts[b], ()) for a, b in ("xy", "zx", "yz")
    ]
    constitution = Constitution.model_validate({"name": "c", "principles": [{"id": "p", "text": "t"}]})
    labels = simulate_labels("tests.test_human_rankings:shortest_first", {}, questions, constitution, seed=0)
    assert [label.verdict for label in labels] == ["b", "a", "a"]
    assert {label.annotator.kind for label in labels} == {"simulated"}
    assert [label.comparison_id for label in labels] == [q.comparison.id for q in questions]


def test_human_labels_of_the_imported_folder_fit_its_comparisons(tmp_path):
    from rlaif.human.importers import import_hh

    rows = [{key: f"\n\nHuman: q{n}\n\nAssistant: {key}" for key in ("chosen", "rejected")} for n in range(8)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_hh(tmp_path / "x.jsonl", tmp_path / "hh")
    pairs = read_rows(tmp_path / "hh/comparisons.jsonl", Comparison)
    assert len(load_human_labels(tmp_path / "hh/labels.jsonl", pairs)) == 8


def test_a_folder_is_told_by_the_file_to_name(tmp_path):
    with pytest.raises(UserError, match=r"a folder\.\n.*\n.*labels\.jsonl"):
        load_human_labels(tmp_path, [pair("x", "y")])
    with pytest.raises(UserError, match=r"nope\.jsonl: cannot be read \(No such file or directory\)\."):
        load_human_labels(tmp_path / "nope.jsonl", [pair("x", "y")])

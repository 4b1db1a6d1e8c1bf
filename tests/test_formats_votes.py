"""PandaLM, ICAI, AnnotatedPairs and Alpaca: who says what, quirks of real files, and the way back."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from rlaif.errors import UserError
from rlaif.human.exporters import export_file
from rlaif.human.folder import read_folder
from rlaif.human.formats import FORMATS, format_of
from rlaif.human.formats.base import truth_from, verdict_from
from rlaif.human.formats.votes import alpaca_row, annotated_pair, pandalm_row
from rlaif.human.importers import import_file
from rlaif.records import Label
from rlaif.runs.rows import read_rows

PANDALM = {
    "idx": 0,
    "cmp_key": "x_y",
    "instruction": "Say hi.",
    "input": "",
    "response1": "Hi.",
    "response2": True,
}


def write(path: Path, data) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def labels(folder: Path) -> list[Label]:
    return read_rows(folder / "labels.jsonl", Label)


def pandalm(test_data: Path) -> list[Path]:
    names = ("testset-v1", "gpt-3.5-turbo-testset-v1", "pandalm-7b-testset-v1")
    return [test_data / "pandalm" / f"{name}.json" for name in names]


def test_pandalm_as_published(tmp_path, test_data):
    people, *judges = pandalm(test_data)
    counts = import_file(None, people, tmp_path / "p", beside=judges)
    assert (counts["format"], counts["in"], counts["kept"], counts["dropped"], counts["left_out"]) == (
        "pandalm",
        999,
        999,
        {},
        {},
    )
    assert counts["rows"]["comparisons"] == 999
    said = labels(tmp_path / "p")
    who = Counter((label.annotator.kind, label.annotator.id) for label in said)
    people = [("human", f"annotator{n}") for n in (1, 2, 3)]
    assert who == dict.fromkeys([*people, ("ai", "gpt-3.5-turbo"), ("ai", "pandalm-7b")], 999)
    gpt = [label for label in said if label.annotator.id == "gpt-3.5-turbo"]
    assert Counter(label.verdict for label in gpt) == {"a": 460, "b": 476, "tie": 38, "invalid": 25}
    assert all(label.p_a is None and label.reason == "refused" for label in gpt if label.verdict == "invalid")
    assert gpt[0].rationale.startswith("Response 1 is better because")
    raw = json.loads(pandalm(test_data)[0].read_text())
    first = [label.verdict for label in said if label.annotator.id == "annotator1"]
    assert first == [("tie", "a", "b")[row["annotator1"]] for row in raw]
    texts = {r.text for r in read_folder(tmp_path / "p").responses.values()}
    assert {"True", "True.", ""} <= texts


def test_a_folder_of_files_is_read_as_its_files(tmp_path, test_data):
    people, *judges = pandalm(test_data)
    one = import_file(None, people, tmp_path / "one", beside=judges)
    two = import_file(None, people.parent, tmp_path / "two")
    for key in ("format", "source", "beside", "kept", "rows"):
        assert two[key] == one[key]
    assert (tmp_path / "one/labels.jsonl").read_bytes() == (tmp_path / "two/labels.jsonl").read_bytes()


def test_pandalm_joins_by_idx_and_counts_what_has_no_partner(tmp_path):
    rows = [{**PANDALM, "idx": n, "instruction": f"q{n}", "annotator1": n} for n in range(3)]
    judge = [
        {"idx": 2, " judge_result ": "1"},
        {"idx": 1, "judge_result": "I would rather not"},
        {"idx": 7, "judge_result": "2"},
    ]
    write(tmp_path / "rows.json", rows)
    write(tmp_path / "j-testset.json", judge)
    counts = import_file(
        "pandalm", tmp_path / "rows.json", tmp_path / "out", beside=[tmp_path / "j-testset.json"]
    )
    assert counts["left_out"] == {
        "row of j-testset that belongs to none of these": 1,
        "verdict of j-testset, which has none on this row": 1,
    }
    said = [label for label in labels(tmp_path / "out") if label.annotator.kind == "ai"]
    assert [(label.verdict, label.rationale) for label in said] == [
        ("invalid", "I would rather not"),
        ("a", None),
    ]
    write(tmp_path / "k.json", [*judge, judge[0]])
    with pytest.raises(UserError, match="idx 2 stands twice"):
        import_file("pandalm", tmp_path / "rows.json", tmp_path / "o2", beside=[tmp_path / "k.json"])


def test_a_boolean_where_text_is_expected_is_its_word():
    row = pandalm_row({**PANDALM, "annotator1": 1})
    assert row.responses == ("Hi.", "True")
    assert pandalm_row({**PANDALM, "response1": 7}) == "a response is not text"


@pytest.mark.parametrize(
    ("cell", "verdict"),
    [
        (0, "tie"),
        (1, "a"),
        (2.0, "b"),
        ("2", "b"),
        ("Tie", "tie"),
        ("garbage", "invalid"),
        (3, "invalid"),
        (None, "invalid"),
        (True, "invalid"),
        ("", "abstain"),
        ("text_b", "b"),
        (" A ", "a"),
        ("Both are fine, but", "invalid"),
    ],
)
def test_verdicts_as_files_spell_them(cell, verdict):
    assert verdict_from(cell) == verdict


@pytest.mark.parametrize(
    ("cell", "truth"),
    [
        ("TRUE", True),
        ("True", True),
        (True, True),
        (1, True),
        ("false", False),
        (0, False),
        ("yes", None),
        (None, None),
        (2, None),
    ],
)
def test_truth_values_as_files_spell_them(cell, truth):
    assert truth_from(cell) is truth


def test_icai_takes_the_prompt_out_of_both_texts_and_keys_may_have_blanks():
    row = FORMATS["icai"].parse(
        {
            " text_a ": "Instruction: q\n\nOutput: x",
            "text_b": "Instruction: q\n\nOutput: y",
            "preferred_text": "text_b",
        }
    )
    assert (row.messages, row.responses, row.votes[0].verdict) == ((("user", "q"),), ("x", "y"), "b")
    other = FORMATS["icai"].parse(
        {
            "text_a": "Instruction: q\n\nOutput: x",
            "text_b": "Instruction: r\n\nOutput: y",
            "preferred_text": "a",
        }
    )
    assert other.messages == (("user", ""),)
    assert len(other.lost) == 1
    assert FORMATS["icai"].parse({"text_a": "x", " text_a": "y"}) == "a key that stands twice, but for blanks"


@pytest.mark.parametrize(
    "name",
    [
        "example",
        "synthetic_data_aligned_vqvtb",
        "synthetic_data_mixed_vqvtb_adcbg",
        "synthetic_data_orthogonal_adcbg",
    ],
)
def test_icai_there_and_back(tmp_path, test_data, name):
    source = test_data / "icai_synthetic" / f"{name}.csv"
    counts = import_file(None, source, tmp_path / "one")
    raw = list(csv.DictReader(source.open(encoding="utf-8-sig")))
    assert counts["format"] == "icai"
    assert counts["in"] == counts["kept"] == len(raw)
    assert [label.verdict for label in labels(tmp_path / "one")] == [row["preferred_text"][-1] for row in raw]
    assert export_file(tmp_path / "one", "icai", tmp_path / "back.csv")["kept"] == len(raw)
    import_file(None, tmp_path / "back.csv", tmp_path / "two")
    for file in ("prompts", "responses", "comparisons", "labels"):
        assert (tmp_path / f"one/{file}.jsonl").read_bytes() == (tmp_path / f"two/{file}.jsonl").read_bytes()


def test_annotated_pairs_there_and_back(tmp_path, test_data):
    source = test_data / "icai_synthetic" / "example_ap.json"
    import_file(None, source, tmp_path / "one")
    said = labels(tmp_path / "one")
    assert [(label.annotator.kind, label.principle_id, label.verdict) for label in said] == [
        ("human", None, "a"),
        ("ai", "2f45a6d0", "a"),
        ("ai", "fafd12b9", "abstain"),
        ("ai", "435cef52", "a"),
    ]
    assert said[1].judge["principle"] == "Select the response that evokes a sense of mystery."
    export_file(tmp_path / "one", "annotated-pairs", tmp_path / "back.json")
    there, back = json.loads(source.read_text()), json.loads((tmp_path / "back.json").read_text())
    [row], [again] = there["comparisons"], back["comparisons"]
    assert {key: row[key] for key in ("id", "prompt", "response_a", "response_b")} == {
        key: again[key] for key in ("id", "prompt", "response_a", "response_b")
    }
    principles = {id: about for id, about in there["annotators"].items() if about["type"] == "principle"}
    assert principles.items() <= back["annotators"].items()
    assert {id: row["annotations"][id] for id in principles}.items() <= again["annotations"].items()
    assert again["annotations"][back["metadata"]["default_annotator"]] == {"pref": "a"}
    import_file(None, tmp_path / "back.json", tmp_path / "two")
    assert labels(tmp_path / "two") == said


def test_why_an_annotation_prefers_neither():
    reasons = ["not_applicable", "invalid", "both", "neither", "something else", None]
    said = {str(n): {"pref": None, "no_pref_reason": reason} for n, reason in enumerate(reasons)}
    row = annotated_pair(
        {
            "prompt": "q",
            "response_a": {"text": "x"},
            "response_b": {"text": True},
            "annotations": {**said, "odd": 7},
        }
    )
    assert [vote.verdict for vote in row.votes] == ["abstain", "invalid", "tie", "tie", "invalid", "invalid"]
    assert [vote.rationale for vote in row.votes][2:4] == ["both", "neither"]
    assert row.lost == ("annotation that is not an object",)


@pytest.mark.parametrize(
    ("preference", "verdict", "p"),
    [
        (1, "a", 1.0),
        (2, "b", 0.0),
        (1.25, "a", 0.75),
        (1.5, "tie", 0.5),
        (0, "tie", 0.5),
        (None, "invalid", None),
        (3, "invalid", None),
        (float("nan"), "invalid", None),
        ("2.0", "b", 0.0),
        ("garbage", "invalid", None),
        (True, "invalid", None),
    ],
)
def test_alpaca_two_means_that_the_second_output_wins(preference, verdict, p):
    row = alpaca_row({"instruction": "q", "output_1": "x", "output_2": "y", "preference": preference})
    assert (row.votes[0].verdict, row.votes[0].p_first) == (verdict, p)


def test_alpaca_knows_people_from_models_and_keeps_a_switched_rows_coordinates():
    row = {"instruction": "q", "output_1": "x", "output_2": "y", "preference": 2, "is_switched_outputs": True}
    found = alpaca_row({**row, "annotator": "some_judge", "generator_1": "m", "generator_2": "n"})
    assert (found.votes[0].annotator.kind, found.votes[0].order, found.votes[0].verdict) == ("ai", "ba", "b")
    assert found.models == ("m", "n")
    for name in (7, "7", None):
        assert alpaca_row({**row, "annotator": name}).votes[0].annotator.kind == "human"


def test_alpaca_there_and_back(tmp_path):
    rows = [
        {
            "instruction": f"q{n}",
            "output_1": "x",
            "output_2": f"y{n}",
            "annotator": "judge",
            "preference": 1 + n / 8,
        }
        for n in range(9)
    ]
    write(tmp_path / "a.json", rows)
    assert import_file(None, tmp_path / "a.json", tmp_path / "one")["format"] == "alpaca"
    assert export_file(tmp_path / "one", "alpaca", tmp_path / "back.jsonl") == {
        "in": 9,
        "kept": 9,
        "dropped": {},
    }
    back = [json.loads(line) for line in (tmp_path / "back.jsonl").open()]
    assert back == rows


def test_the_format_is_recognised_from_the_content_or_the_message_says_what_there_is(tmp_path):
    with pytest.raises(UserError, match="keys of its first row: apples, pears"):
        format_of(write(tmp_path / "x.json", [{"apples": 1, "pears": 2}]))
    both = {
        "text_a": "x",
        "text_b": "y",
        "preferred_text": "a",
        "instruction": "q",
        "output_1": "x",
        "output_2": "y",
        "preference": 1,
    }
    with pytest.raises(UserError, match="could be in the formats icai and alpaca"):
        format_of(write(tmp_path / "y.json", [both]))

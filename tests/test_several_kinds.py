"""Preferences that people and others gave together: no person's labels, in every format, there and back."""

import json
from pathlib import Path

import pytest

from rlaif.human.agree import agree
from rlaif.human.annotated import read_annotated
from rlaif.human.exporters import export_file
from rlaif.human.formats import FORMATS
from rlaif.human.formats.base import NO_KIND
from rlaif.human.importers import import_file
from rlaif.records import Annotator, Label, Preference
from rlaif.runs.folder import Run
from rlaif.runs.rows import RowFile, read_rows
from rlaif.workbench.pairs import read_pairs
from tests.fake_run import fake_run

ONE_ROW = {"prompt": "q", "chosen": "x", "rejected": "y"}


def pair(path: Path, *rows: dict) -> Path:
    path.write_text(
        "".join(json.dumps({**ONE_ROW, "prompt": f"q{n}", **r}) + "\n" for n, r in enumerate(rows))
    )
    return path


def annotators(folder: Path) -> set[str]:
    return {f"{row.annotator.kind}:{row.annotator.id}" for row in read_rows(folder / "labels.jsonl", Label)}


@pytest.mark.parametrize(
    ("row", "who"),
    [
        ({"source": "ai+human"}, "ai:ai+human"),
        ({"source": "human + AI"}, "ai:ai+human"),
        ({"sources": ["human", "ai"]}, "ai:ai+human"),
        ({"source": "reddit", "sources": ["human", "simulated"]}, "simulated:human+simulated"),
        ({"source": "AI"}, "ai:trl"),
        ({"sources": ["human"]}, "human:trl"),
        ({"source": "reddit"}, "human:trl"),
        ({}, "human:trl"),
    ],
)
def test_who_labelled_a_row_of_trl(tmp_path, row, who):
    counts = import_file("trl", pair(tmp_path / "x.jsonl", row), tmp_path / "out")
    assert annotators(tmp_path / "out") == {who}
    kind, _, id = who.partition(":")
    lost = {f"which of {id} labelled what: counts as {kind}": 1} if "+" in id else {}
    assert counts["left_out"] == lost


def test_a_kind_that_is_none_beside_one_that_is_makes_a_row_unusable():
    assert FORMATS["trl"].parse({**ONE_ROW, "source": "ai+reddit"}) == NO_KIND


def test_a_mixture_is_no_person_to_agree_with_and_is_exported_as_one_again(tmp_path):
    rows = [{"source": "ai+human", "p_chosen": 0.75}] * 3
    import_file("trl", pair(tmp_path / "x.jsonl", *rows), tmp_path / "out")
    found = agree(read_annotated([tmp_path / "out"]))
    assert [row["kind"] for row in found["annotators"]] == ["ai"]
    assert found["judges"] == []
    export_file(tmp_path / "out", "trl", tmp_path / "again.jsonl")
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert {row["source"] for row in again} == {"ai+human"}


@pytest.fixture
def mixed(tmp_path):
    """A run in which people and a judge labelled every comparison; the first preference is the judge's."""
    run = fake_run(tmp_path / "run", prompts=60)
    folder = run / "06_label"
    people = [
        Label(
            comparison_id=row.comparison_id, annotator=Annotator(kind="human", id="ann"), verdict="a", p_a=1
        )
        for row in RowFile(folder / "preferences.jsonl", Preference)
    ]
    RowFile(folder / "labels.jsonl", Label).write(people)
    made = [
        row.model_copy(update={"sources": ("ai", "human") if n else ("ai",)})
        for n, row in enumerate(RowFile(folder / "preferences.jsonl", Preference))
    ]
    (folder / "preferences.jsonl").write_text("".join(row.to_json() + "\n" for row in made))
    return run


def test_an_export_says_whose_labels_a_preference_of_the_run_was_made_of(mixed, tmp_path):
    export_file(mixed, "trl", tmp_path / "x.jsonl")
    rows = {row["comparison_id"]: row["source"] for row in map(json.loads, (tmp_path / "x.jsonl").open())}
    made = RowFile(mixed / "06_label/preferences.jsonl", Preference)
    assert rows == {row.comparison_id: "+".join(row.sources) for row in made if row.comparison_id in rows}
    assert {"ai+human"} <= set(rows.values())


def test_an_export_says_the_kinds_of_a_preference_whose_labels_are_gone(mixed, tmp_path):
    path = mixed / "06_label/labels.jsonl"
    *_, last = path.read_text().splitlines()
    path.write_text(last + "\n")
    export_file(mixed, "trl", tmp_path / "x.jsonl")
    assert {json.loads(line)["source"] for line in (tmp_path / "x.jsonl").open()} == {"ai", "ai+human"}


@pytest.mark.parametrize(
    "format", ["trl", "alpaca", "ranking", "ultrafeedback", "label-studio", "argilla", "preferences"]
)
def test_no_mixture_comes_back_as_a_person(mixed, tmp_path, format):
    path = tmp_path / "x.jsonl"
    if format == "preferences":
        Run.load(mixed).preferences().to_json(path)
    else:
        export_file(mixed, format, path)
    import_file("trl" if format == "preferences" else format, path, tmp_path / "out")
    assert {who.partition(":")[0] for who in annotators(tmp_path / "out")} == {"ai"}
    assert any(who == "ai:ai+human" for who in annotators(tmp_path / "out"))


def test_people_who_labelled_together_stay_people(tmp_path):
    rows = [{"prompt": "q", "first": "x", "second": "y", "verdict": 1, "annotator": who} for who in "ab"]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_file("table", tmp_path / "x.jsonl", tmp_path / "two")
    for format in ("alpaca", "ranking", "trl"):
        export_file(tmp_path / "two", format, tmp_path / f"{format}.jsonl")
        import_file(format, tmp_path / f"{format}.jsonl", tmp_path / format)
        assert {who.partition(":")[0] for who in annotators(tmp_path / format)} == {"human"}
    assert read_pairs(tmp_path / "trl").labels

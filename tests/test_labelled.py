"""What a path holds: every command that reads labels reads the same ones of a run with two label stages."""

from collections import Counter
from pathlib import Path

import pytest

from rlaif.errors import UserError
from rlaif.human.annotated import read_annotated
from rlaif.human.annotating.opening import open_material
from rlaif.human.exporters import units
from rlaif.human.formats import FORMATS
from rlaif.human.heldout import load_heldout
from rlaif.human.labelled import form_of, run_labels
from rlaif.human.linting import lint
from rlaif.records import Annotator, Comparison, Label, Preference, Response
from rlaif.report.cards import facts_of_run
from rlaif.report.principles_shown import report_of
from rlaif.runs.folder import Run
from rlaif.runs.rows import RowFile
from rlaif.runs.storage import read_json, write_json
from rlaif.workbench.pairs import read_pairs
from tests.fake_run import fake_run

EARLIER, LATER = "06_label", "11_label"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose second label stage has other pairs, a person's labels, and some rows of the first one."""
    path = fake_run(tmp_path_factory.mktemp("labelled") / "run", prompts=60)
    config = read_json(path / "config.json")
    config["stages"] += [{"stage": "pair"}, {"stage": "label", "ai": True}]
    write_json(path / "config.json", config)
    stages = Run.load(path).stages
    first = {row.prompt_id: row for row in RowFile(stages[0].dir / "responses.jsonl", Response)}
    seconds = {row.prompt_id: row for row in RowFile(stages[3].dir / "responses.jsonl", Response)}
    pairs = [
        Comparison(prompt_id=row.prompt_id, a=row.id, b=seconds[row.prompt_id].id)
        for row in first.values()
        if row.text != seconds[row.prompt_id].text
    ]
    person = Annotator(kind="human", id="one")
    labels = [Label(comparison_id=pair.id, annotator=person, p_a=1.0, verdict="a") for pair in pairs]
    again = [row for row, _ in zip(RowFile(stages[5].dir / "labels.jsonl", Label), range(6), strict=False)]
    preferences = [Preference(comparison_id=pair.id, p_a=1.0, sources=("human",)) for pair in pairs]
    for folder, name, rows in (
        (stages[9].dir, "comparisons", pairs),
        (stages[10].dir, "labels", [*again, *labels]),
        (stages[10].dir, "preferences", preferences),
    ):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.jsonl").write_text("".join(row.to_json() + "\n" for row in rows))
        made = {"name": folder.name[3:], "number": int(folder.name[:2]), "status": "done", "seconds": 1.0}
        write_json(folder / "stage.json", made)
    assert stages[10].dir.name == LATER
    return path


def rows_of(path: Path, name: str, record, *folders: str) -> set[str]:
    return {row.id for folder in folders for row in RowFile(path / folder / f"{name}.jsonl", record)}


@pytest.mark.parametrize(
    ("inside", "stages", "pairs"),
    [
        ("", (EARLIER, LATER), ("05_pair", "10_pair")),
        (EARLIER, (EARLIER,), ("05_pair",)),
        (LATER, (LATER,), ("10_pair",)),
    ],
)
def test_every_reader_takes_the_same_pairs_and_labels(run, inside, stages, pairs):
    path = run / inside
    comparisons = rows_of(run, "comparisons", Comparison, *pairs)
    labels = rows_of(run, "labels", Label, *stages)
    given = {
        row.comparison_id
        for folder in stages
        for row in RowFile(run / folder / "preferences.jsonl", Preference)
    }
    on_given = {
        row.id
        for folder in stages
        for row in RowFile(run / folder / "labels.jsonl", Label)
        if row.comparison_id in comparisons
    }
    held = read_pairs(path)  # induce, executors
    assert held.comparisons.keys() == comparisons
    assert {row.id for rows in held.labels.values() for row in rows} == on_given
    found = lint([path])
    assert (found["pairs"], found["labels"]) == (len(comparisons), len(labels))
    shown = open_material(path)  # annotate
    assert {pair.id for pair in shown.comparisons} == comparisons
    assert {row.id for pair in comparisons for row in shown.labels(pair)} == on_given
    said = read_annotated([path])  # agree
    assert said.sources == [{"path": str(path), "kind": "run", "labels": len(labels)}]
    assert comparisons <= {item.row for item in said.items.values()}
    exported = list(units(path, FORMATS["trl"]))  # data export, publish
    assert {unit.extra["comparison_id"] for unit in exported} == given
    facts = facts_of_run(run_labels(path))  # the card
    assert facts.verdicts.total() == len(labels)
    if EARLIER in stages:
        _, figures = report_of(path)  # coverage
        assert figures["comparisons"] == len(given)
    else:
        with pytest.raises(UserError, match="holds no labels by principle"):
            report_of(path)


def test_of_equal_rows_the_later_stage_counts(run):
    held = run_labels(run)
    ids = Counter(row.id for row in held.each_label())
    assert set(ids.values()) == {1}
    (first, *_) = RowFile(run / LATER / "labels.jsonl", Label)
    assert first.id in {row.id for row in held.labels_of(first.comparison_id)}
    assert len(held.labels_of(first.comparison_id)) == len(
        {row.id for row in held.labels_of(first.comparison_id)}
    )


def test_what_paths_are(run, tmp_path):
    (tmp_path / "rows").mkdir()
    for name in ("comparisons", "labels"):
        (tmp_path / "rows" / f"{name}.jsonl").write_text("")
    (tmp_path / "data.jsonl").write_text("")
    assert form_of(run) == form_of(run / LATER) == "run"
    assert form_of(tmp_path / "rows") == "rows"
    assert form_of(tmp_path / "rows" / "labels.jsonl") == "labels"
    assert form_of(tmp_path / "rows" / "comparisons.jsonl") == form_of(tmp_path / "data.jsonl") == "data"
    assert form_of(run / "05_pair") == "rows"  # it holds comparisons, and is no label stage's
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        form_of(tmp_path / "nowhere")
    with pytest.raises(UserError, match="a run, and its labels are opinions under principles"):
        load_heldout(run, tmp_path / "imported")
    with pytest.raises(UserError, match=r"young: holds no labels\..*\n.*\n.*rlaif resume .*young"):
        read_pairs(fake_run(tmp_path / "young", until=5, prompts=30))

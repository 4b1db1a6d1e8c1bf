"""What a path holds: every command that reads labels reads the same ones of a run with two label stages."""

from collections import Counter
from pathlib import Path

import pytest

from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.human.annotated import read_annotated
from rlaif.human.annotating.opening import open_material
from rlaif.human.exporters import units
from rlaif.human.folder import REPEATED, REPLACED, read_folder
from rlaif.human.formats import FORMATS
from rlaif.human.heldout import load_heldout
from rlaif.human.labelled import form_of, run_labels
from rlaif.human.linting import lint
from rlaif.human.rankings import load_human_labels
from rlaif.records import Annotator, Comparison, Label, Preference, Response
from rlaif.report.cards import facts_of_run
from rlaif.report.principles_shown import report_of
from rlaif.runs.folder import Run
from rlaif.runs.rows import RowFile
from rlaif.runs.storage import read_json, write_json
from rlaif.workbench.judge_fitting import people_labels
from rlaif.workbench.pairs import read_pairs
from rlaif.workbench.people_truth import ALL, labelled_cases
from tests.fake_run import fake_run
from tests.test_human_folder import ANN, foreign

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


RULES = Constitution.model_validate({"name": "one", "principles": [{"id": "kind", "text": "Be kind."}]})
READERS = {
    "agree": lambda path: read_annotated([path]),
    "judge compare, judge audit": lambda path: labelled_cases([path], RULES, 0, 0),
    "judge fit": lambda path: people_labels([path], RULES, Counter()),
    "induce, executors": read_pairs,
    "annotate": open_material,
    "data lint": lambda path: lint([path]),
}


@pytest.mark.parametrize("missing", [("comparisons",), ("prompts",), ("prompts", "responses", "comparisons")])
@pytest.mark.parametrize("reader", READERS)
def test_labels_without_the_pairs_they_are_on_name_the_missing_file(tmp_path, reader, missing):
    folder = foreign(tmp_path / "people")
    for name in missing:
        (folder / f"{name}.jsonl").unlink()
    for path in (folder, folder / "labels.jsonl"):
        if reader == "agree":  # which goes by the pairs' ids where nothing else is known
            assert sum(map(len, read_annotated([path]).said.values())) == 4
            continue
        with pytest.raises(UserError) as told:
            READERS[reader](path)
        *first, last = (f"{name}.jsonl" for name in missing)
        names = f"{', '.join(first)} and {last} are" if first else f"{last} is"
        assert told.value.found == f"{folder}: {names} missing."
        assert told.value.next.startswith("copy ")


def test_a_file_where_a_folder_is_needed_is_told_so(tmp_path):
    folder = foreign(tmp_path / "people")
    for read in (read_folder, lambda path: list(units(path, FORMATS["trl"]))):
        with pytest.raises(UserError, match=r"labels\.jsonl: a file"):
            read(folder / "labels.jsonl")


@pytest.mark.parametrize("ends", ["", "labels.jsonl"])
def test_of_two_verdicts_of_one_person_on_one_pair_the_last_counts_everywhere(tmp_path, ends):
    """The first pair was a and is b; the second is b once more."""
    folder = foreign(tmp_path / "people")
    with (folder / "labels.jsonl").open("a") as file:
        for pair in ("0", "1"):
            label = Label.model_validate({"comparison_id": pair, "annotator": ANN, "verdict": "b"})
            file.write(label.to_json() + "\n")
    path = folder / ends
    pairs = list(read_folder(folder).comparisons)
    counted = {REPLACED: 1, REPEATED: 1}

    said = read_annotated([path])
    settled = tmp_path / "settled"  # the same without the labels that were replaced
    settled.mkdir()
    for name in ("prompts", "responses", "comparisons"):
        (settled / f"{name}.jsonl").write_text((folder / f"{name}.jsonl").read_text())
    lines = (folder / "labels.jsonl").read_text().splitlines(keepends=True)
    (settled / "labels.jsonl").write_text("".join([lines[4], *lines[1:4]]))
    assert said.said == read_annotated([settled]).said
    assert said.dropped == counted
    turned = labelled_cases([path], RULES, 0, 0)
    assert {case.question.comparison.id: case.truth[ALL] for case in turned.cases}[pairs[0]] == "b"
    dropped: Counter[str] = Counter()
    fitted = {pair.comparison.id: pair.opinions() for pair in people_labels([path], RULES, dropped)}
    assert fitted[pairs[0]] == fitted[pairs[1]] == {None: 0.0}
    left_out: Counter[str] = Counter()
    comparisons = read_folder(folder).comparisons.values()
    loaded = load_human_labels(folder / "labels.jsonl", comparisons, left_out)  # label.human
    assert {row.comparison_id: row.verdict for row in loaded}[pairs[0]] == "b"
    shown = open_material(path)
    assert [row.verdict for row in shown.labels(pairs[0])] == ["b"]
    for counts in (turned.left_out, dropped, left_out, shown.left_out):
        assert {reason: counts[reason] for reason in counted} == counted
    assert any(REPLACED in found["what"] for found in lint([path])["findings"])


def test_the_last_source_counts(tmp_path):
    """The same pair under two paths: what people say in the later one is what they say."""
    paths = [foreign(tmp_path / name, pairs=1) for name in ("then", "now")]
    labels = paths[1] / "labels.jsonl"
    labels.write_text(labels.read_text().replace('"verdict": "a"', '"verdict": "b"'))
    for order, verdict in ((paths, "b"), (paths[::-1], "a")):
        said = read_annotated(order)
        assert said.said == read_annotated(order[1:]).said
        assert said.dropped == {REPLACED: 1}
        dropped: Counter[str] = Counter()
        [pair] = people_labels(order, RULES, dropped)
        assert [row.verdict for row in pair.labels] == [verdict]
        assert dropped[REPLACED] == 1

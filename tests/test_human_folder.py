"""Rows from elsewhere: their ids are computed again from what they hold, and what is ambiguous names both
lines."""

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif import pipeline
from rlaif.audit.measures import ALL
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.human.agree import agree
from rlaif.human.annotated import read_annotated
from rlaif.human.annotating.material import with_labels
from rlaif.human.annotating.opening import open_material
from rlaif.human.exporters import AGAIN, export_file
from rlaif.human.folder import RENAMED, REPEATED, REPLACED, read_folder
from rlaif.human.formats import ImportedRow
from rlaif.human.formats.dialogues import hhh_pair
from rlaif.human.heldout import load_heldout
from rlaif.human.importers import import_file
from rlaif.human.rankings import load_human_labels
from rlaif.prompting.conversations import Unusable
from rlaif.records import Comparison, Label, Preference, Ranking, Response
from rlaif.runs.rows import Rows, read_rows
from rlaif.workbench.judge_fitting import people_labels
from rlaif.workbench.pairs import read_pairs
from rlaif.workbench.people_truth import labelled_cases

ANN = {"kind": "human", "id": "ann"}


def write(folder: Path, **rows: list) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, own in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    return folder


def question(text: str, **fields) -> dict:
    return {"messages": [{"role": "user", "content": text}], **fields}


def foreign(folder: Path, pairs: int = 4) -> Path:
    """Pairs whose rows are numbered, each file from 0 on."""
    return write(
        folder,
        prompts=[question(f"Foreign question {n}?", id=str(n)) for n in range(pairs)],
        responses=[{"id": str(n), "prompt_id": str(n // 2), "text": f"text {n}"} for n in range(2 * pairs)],
        comparisons=[
            {"id": str(n), "prompt_id": str(n), "a": str(2 * n), "b": str(2 * n + 1)} for n in range(pairs)
        ],
        labels=[
            {"id": "0", "comparison_id": str(n), "annotator": ANN, "verdict": "ab"[n % 2]}
            for n in range(pairs)
        ],
    )


def test_foreign_ids_are_computed_again_and_references_follow(tmp_path):
    rows = read_folder(foreign(tmp_path))
    assert [p.chat[0]["content"] for p in rows.prompts.values()] == [
        f"Foreign question {n}?" for n in range(4)
    ]
    for found in (rows.prompts, rows.responses, rows.comparisons):
        assert all(key == row.id == row.content_id for key, row in found.items())
    texts = [(rows.responses[c.a].text, rows.responses[c.b].text) for c in rows.comparisons.values()]
    assert texts == [(f"text {2 * n}", f"text {2 * n + 1}") for n in range(4)]
    assert rows.counts[RENAMED] == 4 + 8 + 4
    assert not open_material(tmp_path).left_out + read_pairs(tmp_path).left_out  # they are used


def test_what_we_wrote_keeps_its_ids(tmp_path):
    rows = [{key: f"\n\nHuman: q{n}\n\nAssistant: {key}" for key in ("chosen", "rejected")} for n in range(5)]
    write(tmp_path, x=rows)
    import_file("hh", tmp_path / "x.jsonl", tmp_path / "hh")
    found = read_folder(tmp_path / "hh")
    assert list(found.comparisons.values()) == read_rows(tmp_path / "hh" / "comparisons.jsonl", Comparison)
    assert not +found.counts


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("prompts", question("Another?", id="1")),
        ("responses", {"id": "1", "prompt_id": "0", "text": "another text"}),
        ("comparisons", {"id": "1", "prompt_id": "0", "a": "1", "b": "0"}),
    ],
)
def test_an_id_that_stands_for_two_rows_names_both_lines(tmp_path, file, row):
    folder = foreign(tmp_path)
    lines = (folder / f"{file}.jsonl").read_text()
    (folder / f"{file}.jsonl").write_text(lines + json.dumps(row) + "\n")
    last = lines.count("\n") + 1
    with pytest.raises(
        UserError, match=rf'{file}\.jsonl:{last}: the id "1" stands for another row in line 2'
    ):
        read_folder(folder)


def test_equal_rows_are_one_and_counted(tmp_path):
    folder = foreign(tmp_path)
    for file in ("prompts", "responses", "comparisons"):
        path = folder / f"{file}.jsonl"
        path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    rows = read_folder(folder)
    assert (len(rows.prompts), len(rows.responses), len(rows.comparisons)) == (4, 8, 4)
    assert rows.repeated == 1


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"prompt_id": "9", "a": "0", "b": "1"}, "not there"),
        ({"prompt_id": "0", "a": "0", "b": "77"}, "not there"),
        ({"prompt_id": "0", "a": "0", "b": "2"}, "has responses to"),
    ],
)
def test_a_comparison_of_what_is_not_there_is_refused(tmp_path, pair, message):
    folder = foreign(tmp_path)
    (folder / "comparisons.jsonl").write_text(json.dumps(pair) + "\n")
    with pytest.raises(UserError, match=message):
        read_folder(folder)


def test_labels_under_one_foreign_id_stay_apart(tmp_path):
    folder = foreign(tmp_path)
    pairs = list(read_folder(folder).comparisons.values())
    dropped: Counter[str] = Counter()
    labels = load_human_labels(folder / "labels.jsonl", pairs, dropped)
    assert [(label.comparison_id, label.verdict) for label in labels] == [
        (pair.id, "ab"[n % 2]) for n, pair in enumerate(pairs)
    ]
    assert not +dropped
    ranking = {"prompt_id": "2", "response_ids": ["4", "5"], "ranks": [2, 1], "annotator": ANN}
    write(folder, rankings=[ranking])
    [label] = load_human_labels(folder / "rankings.jsonl", pairs)
    assert (label.comparison_id, label.verdict) == (pairs[2].id, "b")


def test_a_held_out_set_and_an_export_read_foreign_ids(tmp_path):
    folder = foreign(tmp_path / "set")
    write(
        folder,
        labels=[
            *map(json.loads, (folder / "labels.jsonl").read_text().splitlines()),
            {"comparison_id": "no such", "annotator": ANN, "verdict": "a"},
        ],
    )
    found = load_heldout(folder, tmp_path / "imported")
    assert [(pair.a.text, pair.p_a) for pair in found.pairs] == [
        (f"text {2 * n}", float(n % 2 == 0)) for n in range(4)
    ]
    assert found.dropped == {"label on no pair of the folder": 1}
    assert export_file(folder, "hh", tmp_path / "back.jsonl") == {
        "in": 4,
        "kept": 4,
        "dropped": {},
        "left_out": {"label on no pair of the folder": 1},
    }


CONFIG = """name: small
constitution: constitution.yaml
prompts: prompts.jsonl
heldout: 0.01
templates: brief
policy: {engine: scripted, model: "tests.scripts:policy"}
feedback: {engine: scripted, model: "tests.scripts:feedback"}
stages:
  - {stage: sample, num_prompts: 6, k: 2}
  - {stage: pair, imported: import}
  - {stage: label, ai: rest, human: {file: import/labels.jsonl}}
"""


def ranked(folder: Path, *rankings: dict) -> Path:
    """Numbered rows with a person's rankings of the two responses to each prompt, and a score of each."""
    foreign(folder)
    two = [{"prompt_id": str(n), "response_ids": [str(2 * n), str(2 * n + 1)]} for n in range(4)]
    given = [row | {"ranks": [1, 2], "annotator": ANN | {"id": "bea"}} for row in two]
    grades = [
        {"prompt_id": str(n // 2), "response_id": str(n), "scores": {"helpful": n % 2}} for n in range(8)
    ]
    return write(folder, rankings=[*given, *(two[0] | more for more in rankings)], grades=grades)


def test_rankings_and_grades_follow_foreign_ids(tmp_path):
    found = agree(read_annotated([ranked(tmp_path / "rows")]))
    (row,) = found["between"]  # the labels' person and the rankings' one, on the same pairs
    assert (row["n"], row["agreement"]["value"]) == (4, 0.5)
    counts = export_file(tmp_path / "rows", "ranking", tmp_path / "out.jsonl")
    assert (counts["in"], counts["kept"]) == (4, 4)
    material = open_material(tmp_path / "rows")
    assert [material.grades(pair.b) for pair in material.comparisons] == [{"helpful": 1.0}] * 4


def test_further_labels_follow_foreign_ids_and_those_on_no_pair_are_counted(tmp_path):
    file = foreign(tmp_path / "rows") / "labels.jsonl"
    shown = write(foreign(tmp_path / "shown", pairs=3), labels=[])
    material = with_labels(open_material(shown), [file])
    said = {pair.id: [row.verdict for row in material.labels(pair.id)] for pair in material.comparisons}
    assert list(said.values()) == [["a"], ["b"], ["a"]]
    assert +material.left_out == {f"label of {file} on no pair of {shown}": 1}


@pytest.mark.parametrize("turned", [{"ranks": [2, 1]}, {"ranks": [1, 2], "response_ids": ["1", "0"]}])
def test_of_two_rankings_by_one_person_the_last_is_exported(tmp_path, turned):
    again = turned | {"annotator": ANN | {"id": "bea"}}
    counts = export_file(ranked(tmp_path / "rows", again), "ranking", tmp_path / "out.jsonl")
    assert counts["left_out"] == {AGAIN: 1}
    import_file("ranking", tmp_path / "out.jsonl", tmp_path / "back")
    assert len(read_rows(tmp_path / "back" / "rankings.jsonl", Ranking)) == 4
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert dict(zip(first["responses"], first["ranks"], strict=True)) == {"text 0": 2, "text 1": 1}


def test_graded_responses_are_exported_in_the_order_of_their_rows(tmp_path):
    texts = [f"text {n}" for n in range(40)]
    rows = [{"prompt": f"Question {n}?", "completion": text, "label": True} for n, text in enumerate(texts)]
    file = tmp_path / "unpaired.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_file("trl-unpaired", file, tmp_path / "rows")
    export_file(tmp_path / "rows", "trl-unpaired", tmp_path / "out.jsonl")
    made = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert [row["completion"][0]["content"] for row in made] == texts


def test_an_imported_response_under_an_id_of_the_runs_own_changes_no_text(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "constitution.yaml").write_text(
        "name: c\nprinciples: [{id: no-rude, text: Never say rude.}]\n"
    )
    write(tmp_path, prompts=[question(f"Question {n}?") for n in range(6)])
    folder = foreign(tmp_path / "import")
    first = pipeline.run(tmp_path / "config.yaml", tmp_path / "first", until="sample")
    own = next(iter(Rows(first.stages[0].dir / "responses.jsonl", Response)))
    text = (folder / "responses.jsonl").read_text().replace('"id": "3"', f'"id": "{own.id}"')
    (folder / "responses.jsonl").write_text(text)
    text = (folder / "comparisons.jsonl").read_text().replace('"b": "3"', f'"b": "{own.id}"')
    (folder / "comparisons.jsonl").write_text(text)
    run = pipeline.run(tmp_path / "config.yaml", tmp_path / "run")
    label = run.stages[2]
    assert label.responses()[own.id].text == own.text
    pairs = list(Rows(run.stages[1].dir / "comparisons.jsonl", Comparison))
    texts = {label.responses()[i].text for pair in pairs if pair.origin == "import" for i in (pair.a, pair.b)}
    assert texts == {f"text {n}" for n in range(8)}
    people = [row for row in Rows(label.dir / "preferences.jsonl", Preference) if row.sources == ("human",)]
    assert len(people) == 4
    assert any(RENAMED in note for note in run.stages[1].summary["notes"])


def test_every_stage_reads_the_first_row_of_an_id(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "constitution.yaml").write_text(
        "name: c\nprinciples: [{id: no-rude, text: Never say rude.}]\n"
    )
    write(tmp_path, prompts=[question(f"Question {n}?") for n in range(6)])
    foreign(tmp_path / "import")
    run = pipeline.run(tmp_path / "config.yaml", tmp_path / "run", until="pair")
    own = next(iter(Rows(run.stages[0].dir / "responses.jsonl", Response)))
    with (run.stages[1].dir / "responses.jsonl").open("a") as file:  # as older versions let in
        file.write(own.model_copy(update={"text": "forged"}).to_json() + "\n")
    from rlaif.runs.lookup import Lookup

    files = run.stages[2].files("responses")
    assert Lookup(files, Response)[own.id].text == run.stages[2].responses()[own.id].text == own.text


numbers = st.one_of(
    st.integers(-2, 2),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=2),
    st.lists(st.integers(), max_size=2),
)
strings = st.text(st.sampled_from('ab :\n\ud800é"') | st.characters(), max_size=8)
tasks = st.fixed_dictionaries(
    {"input": strings | numbers},
    optional={"target_scores": st.dictionaries(strings, numbers, max_size=3) | numbers},
)
prompted = st.builds(
    lambda q, a, o: {"chosen_instruction": rubric(q, a), "rejected_instruction": rubric(q, o), "source": o},
    strings,
    strings,
    strings,
)
dialogues = st.builds(
    lambda q, a, o: {
        "chosen": f"\n\nHuman: {q}\n\nAssistant: {a}",
        "rejected": f"\n\nHuman: {q}\n\nAssistant:{o}",
    },
    strings,
    strings,
    strings | numbers,
)
anything = st.recursive(
    numbers | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=8,
)
rows = st.lists(tasks | prompted | dialogues | anything, max_size=5)


def rubric(question: str, answer: str) -> str:
    return (
        f"###The instruction to evaluate:\n{question}\n\n###Response to "
        f"evaluate:\n{answer}\n\n###Score Rubrics:"
    )


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"x": 1, "y": 0}, ("x", "a")),
        ({"x": 0, "y": 1}, ("y", "a")),
        ({"x": 1, "y": 1}, ("x", "tie")),
        ({"x": 0, "y": 0}, ("x", "tie")),
        ({"x": 0.5, "y": 0.25}, ("x", "a")),
        ({"x": float("nan"), "y": 0}, None),
        ({"x": float("inf"), "y": 0}, None),
        ({"x": [1], "y": [0]}, None),
        ({"x": "1", "y": 0}, None),
        ({"x": None, "y": 0}, None),
        ({"x": True, "y": False}, None),
    ],
)
def test_target_scores_that_are_equal_are_ties_and_those_that_are_none_are_dropped(scores, expected):
    found = hhh_pair({"input": "Hi?", "target_scores": scores, "subset": "honest"})
    if expected is None:
        assert found == Unusable("target scores are not two numbers")
    else:
        assert isinstance(found, ImportedRow)
        assert (found.responses[0], found.votes[0].verdict) == expected


def test_a_tie_is_written_as_one_half(tmp_path):
    task = {"examples": [{"input": "Hi?", "target_scores": {"Hello.": 1, "Hi.": 1}}]}
    (tmp_path / "task.json").write_text(json.dumps(task))
    import_file("hhh", tmp_path / "task.json", tmp_path / "out")
    [label] = read_rows(tmp_path / "out" / "labels.jsonl", Label)
    assert (label.verdict, label.p_a) == ("tie", 0.5)


@given(
    document=rows | anything | st.fixed_dictionaries({"examples": rows | numbers}),
    format=st.sampled_from(["hh", "hhh"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_document_is_imported_and_counted_or_told(tmp_path_factory, document, format):
    folder = tmp_path_factory.mktemp("any")
    lines = document if isinstance(document, list) else [document]
    text = json.dumps(document) if format == "hhh" else "".join(json.dumps(row) + "\n" for row in lines)
    (folder / "file").write_text(text)
    try:
        counts = import_file(format, folder / "file", folder / "out")
    except UserError:
        return
    assert counts["in"] == counts["kept"] + sum(counts["dropped"].values())
    assert counts["kept"] == len(read_rows(folder / "out" / "labels.jsonl", Label)) > 0
    assert len(load_heldout(folder / "out", folder / "unused").pairs) == counts["rows"]["comparisons"]


ids = st.sampled_from(["0", "1", ""]) | strings
label_rows = st.fixed_dictionaries(
    {},
    optional={
        "id": ids,
        "comparison_id": ids | numbers,
        "annotator": st.just(ANN) | anything,
        "p_a": numbers,
        "verdict": st.sampled_from(["a", "b", "tie", "abstain"]) | numbers,
        "principle_id": ids | numbers,
        "response_ids": st.lists(ids, max_size=3) | numbers,
        "ranks": st.lists(st.integers(), max_size=3) | numbers,
        "prompt_id": ids,
        "text": strings,
        "a": ids,
        "b": ids,
        "messages": anything,
    },
)


@given(people=st.lists(label_rows | anything, max_size=4), others=st.lists(label_rows | anything, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_label_file_is_read_or_told(tmp_path_factory, people, others):
    folder = foreign(tmp_path_factory.mktemp("any"), 2)
    pairs = list(read_folder(folder).comparisons.values())
    write(folder, people=people)
    for name in ("prompts", "responses", "comparisons"):
        with suppress(UserError):
            load_human_labels(folder / "people.jsonl", pairs)
        write(folder, **{name: others})
        with suppress(UserError):
            load_heldout(folder, folder / "unused")


def test_of_two_labels_of_a_person_the_last_counts_whichever_side_was_shown_first(tmp_path):
    """Two sessions draw the sides anew; a label of the other order was a second opinion, and both a tie."""
    folder = foreign(tmp_path / "x")
    first = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    again = [{**row, "verdict": "b", "order": "ba"} for row in first]
    other = [{**row, "annotator": {"kind": "human", "id": "ben"}} for row in first]
    write(folder, labels=[*first, *other, *again])
    found = read_annotated([folder])
    sides = Counter(said.verdict for said in found.said["human:ann"].values())
    assert sides["tie"] == 0
    data = agree(found)
    assert data["dropped"] == {REPEATED: 2, REPLACED: 2}
    assert data["between"][0]["agreement"]["value"] == 0.5
    dropped = Counter()
    kept = load_human_labels(folder / "labels.jsonl", read_folder(folder).comparisons.values(), dropped)
    assert [row.verdict for row in kept if row.annotator.id == "ann"] == ["b"] * 4
    assert dropped == {REPEATED: 2, REPLACED: 2}
    rules = Constitution.model_validate({"name": "c", "principles": [{"id": "p", "text": "Be good."}]})
    sessions = [write(foreign(tmp_path / name), labels=rows) for name, rows in (("1", first), ("2", again))]
    pairs = people_labels(sessions, rules, Counter())
    assert [len(pair.labels) for pair in pairs] == [1] * 4
    truth = [case.truth[ALL] for case in labelled_cases(sessions, rules, 0, 0).cases]
    assert "tie" not in truth

"""What an import dropped or lost, and what belongs to nothing, is said by every command that reads rows."""

import json
from collections import Counter
from pathlib import Path

import pytest

from rlaif.errors import UserError
from rlaif.human.agree import agree
from rlaif.human.agree_page import in_words
from rlaif.human.annotated import read_annotated
from rlaif.human.annotating.opening import open_material
from rlaif.human.exporters import export_file
from rlaif.human.heldout import load_heldout
from rlaif.human.importers import import_file
from rlaif.human.linting import lint
from rlaif.records import Preference
from rlaif.report.principles_shown import in_words as in_words_of_principles
from rlaif.report.principles_shown import report_of
from rlaif.runs.rows import RowFile
from rlaif.runs.storage import read_json
from rlaif.workbench.induce import CandidateSources, induce
from rlaif.workbench.pairs import read_pairs
from tests.fake_run import fake_run

DROPPED = {"fewer than two ranked responses": 1, "not JSON": 1}
LOST = {"response that is not ranked": 3}


@pytest.fixture
def rankings(tmp_path) -> Path:
    path = tmp_path / "rankings.jsonl"
    ranks = [[1, 2, None, None], [2, 1, 3, None], [1, 1, 1, 1], [1, None, None, None]]
    rows = [{"prompt": f"q{n}", "responses": list("wxyz"), "ranks": each} for n, each in enumerate(ranks)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    return path


@pytest.mark.parametrize("imported", [True, False])
def test_agree_says_what_was_left_out_of_other_projects_rankings(rankings, tmp_path, imported):
    if imported:
        import_file(None, rankings, tmp_path / "folder")
    found = agree(read_annotated([tmp_path / "folder" if imported else rankings]))
    assert found["dropped"] == DROPPED | LOST
    assert "Left out: 3 × response that is not ranked." in in_words(found)


@pytest.mark.parametrize("imported", [True, False])
def test_so_do_the_commands_that_ask_a_judge_or_people(rankings, tmp_path, imported):
    if imported:
        import_file(None, rankings, tmp_path / "folder")
    path = tmp_path / "folder" if imported else rankings
    assert +read_pairs(path).left_out == Counter(DROPPED | LOST)
    assert +open_material(path).left_out == Counter(DROPPED | LOST)
    told = {row["kind"]: row["count"] for row in lint([path])["findings"]}
    assert (told["unusable row"], told["lost value"]) == (2, 3)


@pytest.mark.parametrize("record", ['{"dropped": ["not JSON"]}', '{"dropped": {"not JSON": "x"}}', "{}", "["])
def test_a_damaged_record_of_an_import_is_named(rankings, tmp_path, record):
    folder = tmp_path / "folder"
    import_file(None, rankings, folder)
    assert read_json(folder / "import.json")["dropped"] == DROPPED
    (folder / "import.json").write_text(record)
    for read in (
        lambda: read_annotated([folder]),
        lambda: lint([folder]),
        lambda: load_heldout(folder, folder),
    ):
        with pytest.raises(UserError, match=r"folder/import\.json: (damaged|dropped is )"):
            read()


def test_labels_and_preferences_of_no_comparison_of_the_run_are_told(tmp_path):
    run = fake_run(tmp_path / "run", prompts=60)
    for name in ("labels", "preferences"):
        path = run / f"06_label/{name}.jsonl"
        *rows, last = path.read_text().splitlines()
        stray = json.dumps(json.loads(last) | {"comparison_id": "stray"})
        path.write_text("\n".join([*rows, stray]) + "\n")
    assert agree(read_annotated([run]))["dropped"] == {"label on no comparison of the run or stage": 1}
    found = next(row for row in lint([run])["findings"] if row["kind"] == "unusable row")
    assert "1 × label on no comparison of the run or stage" in found["what"]
    stray = {"label on no comparison of the run or stage": 1}
    assert stray.items() <= induce(run, CandidateSources()).figures["left_out"].items()
    _, figures = report_of(run)
    assert figures["left_out"] == stray
    assert in_words_of_principles(figures)[-1] == "Left out: 1 × label on no comparison of the run or stage."
    line = sum(1 for _ in RowFile(run / "06_label/preferences.jsonl", Preference))
    with pytest.raises(UserError, match=f'preferences.jsonl:{line}: a preference of the comparison "stray"'):
        export_file(run, "trl", tmp_path / "x.jsonl")

"""`rlaif agree` of a run and of its own pairs, exported and labelled elsewhere."""

import json

import pytest

from rlaif.human.annotated import read_annotated
from rlaif.human.exporters import export_file
from rlaif.human.importers import import_file
from tests.fake_run import fake_run


@pytest.mark.parametrize("name", ["trl", "sharegpt", "table"])
def test_pairs_of_a_run_that_were_labelled_elsewhere_are_its_pairs(tmp_path, name):
    run = fake_run(tmp_path / "run")
    export_file(run, name, tmp_path / "pairs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    for row in rows:  # the texts alone came back
        for key in [key for key in row if "model" in key or key.endswith("id")]:
            del row[key]
    (tmp_path / "back.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_file(name, tmp_path / "back.jsonl", tmp_path / "back")
    found = read_annotated([run, tmp_path / "back"])
    judge, back = found.said.values()
    assert len(judge.keys() & back.keys()) == len(back) > 3
    for item in back:  # a run's preferences are those of its one judge
        assert back[item].verdict == judge[item].verdict or "tie" in (back[item].verdict, judge[item].verdict)
    assert all(found.items[item].models[0] not in ("", name) for item in back)

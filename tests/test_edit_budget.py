"""`rlaif constitution diff --ask` and the budget of the run: it stops there, and goes on as it says."""

import json

import pytest

from rlaif.errors import UserError
from rlaif.records import Label
from rlaif.runs.rows import Rows
from rlaif.runs.storage import read_json, write_json
from rlaif.workbench.diff import diff
from tests.test_cli import rlaif
from tests.test_edit import ASKING, REWORDED, constitution, run  # noqa: F401


def test_at_the_budget_it_stops_and_the_command_that_it_names_finishes(project, run):  # noqa: F811
    new = constitution(project / "new.yaml", REWORDED)
    write_json(run / "config.json", {**read_json(run / "config.json"), "budget": {"calls": 5}})
    command = ("constitution", "diff", run, new, "--ask", "--trust")
    for _ in range(2):  # the budget holds over all starts
        stopped = rlaif(*command)
        assert stopped.returncode == 3
        said = " ".join(stopped.stderr.split())
        assert "5 of 5 calls spent" in said
        assert said.endswith("Next: the same command -s budget.calls=… continues; every finished row is kept")
        kept = len(Rows(run / "asked" / "labels.jsonl", Label))
        spent = [json.loads(line)["calls"] for line in (run / "asked" / "spending.jsonl").open()]
        assert kept == sum(spent) == 5
    stale = diff(run, new)["labels"]["stale"]
    done = rlaif(*command, "-s", "budget.calls=1000", "--json")
    assert done.returncode == 0, done.stderr
    assert stale == json.loads(done.stdout)["labels"]["asked"]["calls"] > 0
    assert diff(run, new)["labels"]["stale"] == 0
    assert read_json(run / "config.json")["budget"] == {"calls": 5}


def test_no_other_option_than_the_budget_can_be_set(project, run):  # noqa: F811
    new = constitution(project / "new.yaml", REWORDED)
    with pytest.raises(UserError, match=r"-s label.cot=true: the labels asked for here are asked as the run"):
        diff(run, new, **ASKING, overrides=["label.cot=true"])
    with pytest.raises(UserError, match=r"-s budget.calls=5: nothing is asked"):
        diff(run, new, overrides=["budget.calls=5"])
    with pytest.raises(UserError, match="a budget of money needs prices"):
        diff(run, new, **ASKING, overrides=["budget.money=5"])
    assert not (run / "asked").exists()

"""Runs with no and with one evaluated response and one comparison: nothing crashes, and no figure stands for
nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif import pipeline
from rlaif.report.report import write_report
from rlaif.report.summary import summarise
from tests.oracle.awkward import project
from tests.oracle.leaves import check
from tests.oracle.rows import Rows
from tests.oracle.test_show import labels, policies

STAGES = [
    {"stage": "sample", "k": 2, "max_tokens": 8},
    {"stage": "pair", "limit": 1},
    {"stage": "label"},
    {"stage": "evaluate", "num_prompts": 1, "num_judged_prompts": 1, "max_tokens": 8},
]


def optional(oracles: dict[str, Any]) -> dict[str, Any]:
    """The same oracles, of which some have no figure here."""
    return {f"?{pattern}": oracle for pattern, oracle in oracles.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("few")
    config = json.loads(project(where).read_text())
    (where / "config.yaml").write_text(json.dumps({**config, "stages": STAGES}))
    return where


def test_one_comparison_and_no_response_and_then_one(folder: Path) -> None:
    run, reasons = (
        folder / "run",
        dict.fromkeys(
            ("stages/**", "spent/**", "?pair/*", "?prompt_rows/*", "?next"), "tested on the whole run"
        ),
    )
    pipeline.run(folder / "config.yaml", run, until="label")
    printed = summarise(run)
    rows = Rows(run, human_weight=1.0)
    assert len(rows.comparisons) == 1
    assert printed["policies"] == {}
    of_labels = {key: value for key, value in printed.items() if key in ("labels", "stages", "spent")}
    assert check(of_labels, optional(labels(rows)), reasons) > 20
    assert "No policy has been evaluated yet" in write_report(run).read_text()

    pipeline.run(folder / "config.yaml", run)
    printed = summarise(run)
    assert {name: policy["n"] for name, policy in printed["policies"].items()} == {"base": 1}
    rows = Rows(run, human_weight=1.0)
    assert check(printed, optional({**labels(rows), **policies(rows)}), reasons) > 30
    assert "base" in write_report(run).read_text()

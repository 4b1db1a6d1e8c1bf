"""The judge card as a gate before labelling."""

from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.errors import UserError
from rlaif.runs.folder import Run, read_json

GATED = ["judge_card.num_pairs=12"]
BIASED = [*GATED, "feedback.model=tests.scripts:biased_judge"]


def label_stage(folder: Path):
    return next(stage for stage in Run.load(folder).stages if stage.name == "label")


def test_label_refuses_a_judge_whose_card_fails_until_told_otherwise(project: Path):
    out = project / "run"
    with pytest.raises(UserError, match=r"(?s)card fails.*flip with the order.*enforce=false"):
        pipeline.run(project / "config.yaml", out, BIASED)
    stage = label_stage(out)
    assert stage.summary["status"] == "failed"
    assert not (stage.dir / "labels.jsonl").exists()
    card = stage.dir / "judge_card.json"
    made = card.stat().st_mtime_ns
    assert stage.dir.joinpath("judge_card.html").exists()
    page = (out / "report.html").read_text()
    assert "The judge was refused before it labelled: " in page
    assert "verdicts that flip with the order: 1.000, needed at most 0.25" in page
    assert "as feedback.model" in page, "and what to try"
    pipeline.run(project / "config.yaml", out, [*BIASED, "judge_card.enforce=false"])
    assert label_stage(out).is_done
    assert any("labels were made all the same" in note for note in label_stage(out).summary["notes"])
    page = (out / "report.html").read_text()
    assert "The judge is useless here: 100% of its verdicts choose the first response" in page
    assert "as feedback.model" in page
    assert card.stat().st_mtime_ns == made


def test_an_edit_takes_the_card_over_with_the_labels(project: Path):
    pipeline.run(project / "config.yaml", project / "first", GATED, until="label")
    file = project / "constitution.yaml"
    edited = file.read_text().replace("Never say rude.", "Never say rude at all.")
    assert edited != file.read_text()
    file.write_text(edited)
    again = [*GATED, f"label.labels_from={project / 'first'}"]
    pipeline.run(project / "config.yaml", project / "second", again, until="label")
    first, second = (label_stage(project / name) for name in ("first", "second"))
    assert read_json(second.dir / "judge_card.json") == read_json(first.dir / "judge_card.json")
    assert second.summary["metrics"]["reused"] > 0
    assert second.summary["usage"]["calls"] < first.summary["usage"]["calls"] / 2


def test_label_goes_on_where_the_card_passes_and_says_where_none_was_seen(project: Path):
    pipeline.run(project / "config.yaml", project / "gated", GATED)
    stage = label_stage(project / "gated")
    assert stage.is_done
    assert read_json(stage.dir / "judge_card.json")["accuracy"]["value"] == 1.0
    # Twelve pairs without an unreadable verdict do not show that at most one in twenty is.
    notes = [note for note in stage.summary["notes"] if "card" in note]
    unread = "the judge's card is inconclusive: unreadable verdicts: 0.000, needed at most 0.05"
    assert any(note.startswith(unread) for note in notes)
    assert not any("fails" in note for note in notes)
    report = (project / "gated" / "report.html").read_text()
    assert "The judge's card" in report
    assert f'href="{stage.dir.name}/judge_card.html"' in report
    pipeline.run(project / "config.yaml", project / "open")
    notes = label_stage(project / "open").summary["notes"]
    assert any("no judge card was seen" in note for note in notes)

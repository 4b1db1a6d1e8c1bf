"""Labels taken over from another run: what is not, by reason, in the stage's notes and metrics and in the dry
run."""

import json
import shutil

import pytest

from rlaif import pipeline
from rlaif.config import ASSETS
from rlaif.feedback.earlier_labels import TakenOver
from rlaif.preflight.estimate import in_words
from tests.test_labelling import ASKED, CONFIG, WORDS, constitution, folder, rows, run  # noqa: F401


def told(this):
    """(metrics of the label stage, its notes); the counts must sum to the judge's labels."""
    summary = this.stages[2].summary
    metrics = summary["metrics"]
    assert metrics["reused"] + sum(metrics["not_reused"].values()) == len(rows(this, "labels")) > 0
    return metrics, "\n".join(summary["notes"])


def reworded(folder, key):  # noqa: F811
    """The first of the principles with another text, or another wording for the judge alone."""
    path = folder / "constitution.yaml"
    content = json.loads(path.read_text())
    content["principles"][0][key] = "Never say changed."
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("key", ["text", "compare"])
def test_on_the_same_comparisons_only_the_edited_principle_is_asked(folder, key):  # noqa: F811
    run(folder, "first")
    reworded(folder, key)
    metrics, notes = told(run(folder, "second", f"label.labels_from={folder / 'first'}"))
    edited = metrics["reused"] // 15
    assert metrics["not_reused"] == {"principle": edited}
    assert (
        f"{15 * edited:,} of {16 * edited:,} labels taken over from {folder / 'first'}; not taken over: "
        f"{edited:,} under" in notes
    )
    assert "most comparisons differ" not in notes


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("feedback.model=tests.test_labelling:other_judge", "model"),
        ("templates=edited", "template"),
        ("seed=5", "comparison"),
    ],
)
def test_what_changes_everything_is_one_reason(folder, override, reason):  # noqa: F811
    shutil.copytree(ASSETS / "prompts" / "templates" / "brief", folder / "edited")
    with (folder / "edited" / "comparison.j2").open("a") as file:
        file.write("{# edited #}")
    run(folder, "first")
    metrics, notes = told(run(folder, "second", f"label.labels_from={folder / 'first'}", override))
    assert (metrics["reused"], set(metrics["not_reused"])) == (0, {reason})
    assert (
        ("most comparisons differ" in notes) == ("edit only `compare:`" in notes) == (reason == "comparison")
    )


def test_the_first_reason_counts_and_a_new_principle_is_one(folder):  # noqa: F811
    constitution(folder, WORDS[:15])
    run(folder, "first")
    constitution(folder, ["changed", *WORDS[1:]])
    other = "feedback.model=tests.test_labelling:other_judge"
    metrics, _ = told(run(folder, "second", f"label.labels_from={folder / 'first'}", other))
    each = len(rows(run(folder, "second", f"label.labels_from={folder / 'first'}", other), "labels")) // 16
    assert metrics["not_reused"] == {"principle": each, "question": each, "model": 14 * each}


def test_no_number_is_a_reason_and_chained_runs_are_searched(folder):  # noqa: F811
    run(folder, "first", "feedback.model=tests.test_labelling:broken_judge")
    metrics, _ = told(run(folder, "second", f"label.labels_from={folder / 'first'}"))
    assert set(metrics["not_reused"]) == {"number"}
    constitution(folder, ["changed", *WORDS[1:]])
    run(folder, "third", f"label.labels_from={folder / 'second'}")
    constitution(folder)
    metrics, _ = told(run(folder, "fourth", f"label.labels_from={folder / 'third'}"))
    assert metrics["not_reused"] == {}


def test_another_runs_responses_are_imported_and_keep_its_labels(folder):  # noqa: F811
    first = run(folder, "first")
    (folder / "pairs").mkdir()
    for path in (
        first.path / "prompts.jsonl",
        first.stages[0].dir / "responses.jsonl",
        first.stages[1].dir / "comparisons.jsonl",
    ):
        shutil.copy(path, folder / "pairs")
    reworded(folder, "text")
    ASKED.clear()
    imported = (f"pair.imported={folder / 'pairs'}", "pair.samples=false", "seed=5")
    metrics, _ = told(run(folder, "second", f"label.labels_from={folder / 'first'}", *imported))
    assert set(metrics["not_reused"]) == {"principle"}
    assert metrics["reused"] >= 15 * metrics["not_reused"]["principle"] > 0


def test_another_way_of_asking_counts_before_the_template_and_the_wording_that_follow_from_it():
    counts = TakenOver()
    known = {"x": [("x", "p0", "ab", ("m", "t", "p", "d", None))]}
    counts.add(0, {("x", "p0", "ab", ("m", "other", "other", "other", None))}, known)
    counts.add(0, {("x", "p0", "ab", ("other", "other", "other", "d", None))}, known)
    assert counts.not_reused == {"decoding": 1, "template": 1}


def test_why_is_said_by_what_reads_the_principles():
    counts = TakenOver()
    judge = ("m", "t", "p", "d", None)
    counts.add(1, {(pair, "p0", "ab", judge) for pair in "xyz"}, {"x": [], "y": [], "z": []})
    assert counts.figures() == {"reused": 1, "not_reused": {"comparison": 3}}
    assert "reaches critique and revision" in counts.notes("runs/first", True)[1]
    assert "critique" not in counts.notes("runs/first", False)[1]


def test_a_dry_run_says_what_is_known_before(folder):  # noqa: F811
    run(folder, "first")

    def said(*overrides):
        judge = "feedback.model=tests.test_labelling:counting_judge"
        plan = pipeline.dry_run(
            folder / "config.yaml", [judge, f"label.labels_from={folder / 'first'}", *overrides]
        )
        return plan["stages"][-1]["labels_from"], "\n".join(in_words(plan))

    reworded(folder, "compare")
    (folder / "config.yaml").write_text(
        CONFIG.replace("  - {stage: pair}", "  - {stage: critique}\n  - {stage: pair}")
    )
    found, words = said()
    assert found == {
        "from": str(folder / "first"),
        "principles": 16,
        "same_wording": 15,
        "same_judge": True,
        "same_template": True,
        "same_decoding": True,
        "criticised_otherwise": 0,
    }
    assert "15 of 16 principles in the same words; the same: judge, template, decoding" in words
    assert "not known before they are made" in words
    reworded(folder, "text")
    found, words = said()
    assert found["criticised_otherwise"] == 1
    assert "expect other responses" in words
    for override, key in (
        ("templates=default", "same_template"),
        ("label.cot=true", "same_decoding"),
        ("feedback.model=tests.test_labelling:other_judge", "same_judge"),
    ):
        found, words = said(override)
        assert found[key] is False
        assert "none of its labels can be taken over" in words

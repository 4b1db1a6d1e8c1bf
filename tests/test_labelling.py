"""The label stage end to end on scripted judges: what an edit costs, what is kept, ways to ask, refusals."""

import json
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.engines import Scripted
from rlaif.errors import UserError
from rlaif.records import Comparison, Label, Preference
from rlaif.report.summary import summarise
from rlaif.runs.folder import Run, write_json
from rlaif.runs.rows import Rows
from tests import scripts

WORDS = [f"word{n}" for n in range(16)]
CONFIG = """name: small
constitution: constitution.yaml
prompts: prompts.jsonl
templates: brief
policy: {engine: scripted, model: "tests.scripts:policy"}
feedback: {engine: scripted, model: "tests.scripts:feedback"}
stages:
  - {stage: sample, num_prompts: 12, k: 3}
  - {stage: pair}
  - {stage: label}
"""
ASKED: list[tuple[str, str]] = []


def counting_judge() -> Scripted:
    """The tests' judge, its questions written down."""

    def score(messages, suffix, choices):
        ASKED.append((messages[-1]["content"], suffix))
        return scripts.judge(messages, suffix, choices)

    return Scripted(on_score=score, name="counting")


def other_judge() -> Scripted:
    return Scripted(on_score=counting_judge().on_score, name="other")


def refusing_judge() -> Scripted:
    """Lectures about the first rule, answers about the others."""
    return Scripted(on_score=lambda m, s, c: [1e-4, 2e-4] if "word0." in s else [0.8, 0.1], name="refusing")


def broken_judge() -> Scripted:
    """The counting judge, whose arithmetic breaks down at the first rule."""
    sound = counting_judge().on_score
    return Scripted(
        on_score=lambda m, s, c: [float("nan")] * 2 if "word0." in s else sound(m, s, c), name="counting"
    )


def longest_judge() -> Scripted:
    """Finds the response with the most letters best, whichever letter it has."""

    def score(messages, suffix, choices):
        responses = [line for line in messages[-1]["content"].split("\n") if line.startswith("Reply ")]
        lengths = [len(line) if "best" in suffix else -len(line) for line in responses]
        top = lengths.index(max(lengths))
        return [0.7 if at == top else 0.2 / (len(choices) - 1) for at in range(len(choices))]

    return Scripted(on_score=score, name="longest")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    constitution(tmp_path)
    rows = [{"messages": [{"role": "user", "content": f"Question {n}?"}]} for n in range(24)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text(CONFIG)
    ASKED.clear()
    return tmp_path


def constitution(folder: Path, words=WORDS, weights=None, tags=None) -> None:
    rules = [
        {
            "id": f"p{n}",
            "text": f"Never say {word}.",
            "weight": (weights or {}).get(n, 1.0),
            "tags": (tags or {}).get(n, []),
        }
        for n, word in enumerate(words)
    ]
    (folder / "constitution.yaml").write_text(json.dumps({"name": "words", "principles": rules}))


def run(folder: Path, name: str, *overrides: str) -> Run:
    judge = ("feedback.model=tests.test_labelling:counting_judge",)
    return pipeline.run(folder / "config.yaml", folder / name, (*judge, *overrides))


def rows(this: Run, name: str, record=Label):
    return list(Rows(this.stages[2].dir / f"{name}.jsonl", record))


def people(folder: Path, pairs: list[Comparison], **label) -> str:
    """A file of one person's labels on the pairs."""
    row = {"annotator": {"kind": "human", "id": "ann"}, **label}
    text = "".join(json.dumps({"comparison_id": pair.id, **row}) + "\n" for pair in pairs)
    (folder / "people.jsonl").write_text(text)
    return f"label.human.file={folder / 'people.jsonl'}"


@pytest.mark.parametrize(
    "label",
    [
        {"verdict": "abstain"},
        {"verdict": "a", "principle_id": "no such rule"},
        {"verdict": "a", "principle_id": "p15"},
    ],
)
def test_a_person_who_says_nothing_takes_no_pair_from_the_judge_and_moves_none(folder, label):
    constitution(folder, weights={15: 0.0})
    plain = run(folder, "plain")
    pairs = list(Rows(plain.stages[1].dir / "comparisons.jsonl", Comparison))
    alone = run(folder, "alone", people(folder, pairs, **label))
    mixed = run(folder, "mixed", people(folder, pairs, **label), "label.human.weight=5")
    for other in (alone, mixed):
        assert [(row.p_a, row.deciding_principle) for row in rows(other, "preferences", Preference)] == [
            (row.p_a, row.deciding_principle) for row in rows(plain, "preferences", Preference)
        ]
    notes = " ".join(mixed.stages[2].summary["notes"])
    assert ("principle that the constitution lacks" in notes) == (label.get("principle_id") == "no such rule")


def test_a_person_and_the_judge_are_a_mean_at_weight_1(folder):
    plain = run(folder, "plain")
    pairs = list(Rows(plain.stages[1].dir / "comparisons.jsonl", Comparison))
    mixed = run(folder, "mixed", people(folder, pairs, verdict="a"), "label.human.weight=1")
    judged = {row.comparison_id: row.p_a for row in rows(plain, "preferences", Preference)}
    for row in rows(mixed, "preferences", Preference):
        assert row.p_a == pytest.approx((judged[row.comparison_id] + 0.9) / 2)
    assert mixed.stages[2].summary["rule"].startswith("2:")


def test_editing_one_principle_of_sixteen_asks_about_that_one_alone(folder):
    first = run(folder, "first")
    calls = len(ASKED)
    pairs = first.stages[2].summary["in"]
    assert calls == pairs * 16 * 2
    ASKED.clear()
    constitution(folder, ["changed", *WORDS[1:]])
    second = run(folder, "second", f"label.labels_from={folder / 'first'}")
    assert len(ASKED) == calls / 16
    assert all("changed" in suffix for _, suffix in ASKED)
    labels = rows(second, "labels")
    assert len(labels) == calls
    # The labels of the old wording stand beside, in a file that nothing is computed from.
    old = {label.id for label in rows(first, "labels") if label.principle_id == "p0"}
    assert {label.id for label in rows(second, "earlier_labels")} == old
    assert not old & {label.id for label in labels}
    assert second.stages[2].summary["metrics"]["reused"] == calls * 15 / 16
    new = calls // 16
    told = (
        f"{calls - new:,} of {calls:,} labels taken over from {folder / 'first'}; not taken over: "
        f"{new:,} under a principle whose wording for the judge differs"
    )
    assert told in second.stages[2].summary["notes"]
    other = run(folder, "other", "seed=5", f"label.labels_from={folder / 'first'}")
    assert any("of comparisons that it has no labels of" in note for note in other.stages[2].summary["notes"])


def test_reused_labels_give_the_same_preferences_as_asking_again(folder):
    run(folder, "first")
    constitution(folder, ["rude", *WORDS[1:]])
    taken = run(folder, "taken", f"label.labels_from={folder / 'first'}")
    asked = run(folder, "asked")
    assert rows(taken, "preferences", Preference) == rows(asked, "preferences", Preference)
    assert {label.id for label in rows(taken, "labels")} == {label.id for label in rows(asked, "labels")}


@pytest.mark.parametrize(
    "edit",
    [
        {"weights": {0: 5.0, 3: 0.5}},
        {"tags": {0: ["mild"]}},
        {"overrides": ["label.principles=[p1, p2]"]},
        {"tags": {4: ["mild"]}, "overrides": ["label.principles=[mild]"]},
        {"overrides": ["label.clamp=[0.3, 0.7]"]},
    ],
    ids=["weights", "tags", "subset by id", "subset by tag", "clamp"],
)
def test_arithmetic_asks_nothing(folder, edit):
    run(folder, "first")
    ASKED.clear()
    constitution(folder, weights=edit.get("weights"), tags=edit.get("tags"))
    run(folder, "second", f"label.labels_from={folder / 'first'}", *edit.get("overrides", []))
    assert ASKED == []


def test_calls_are_what_was_asked_and_the_gate_asks_nothing_where_nothing_is_missing(folder):
    gate = ("judge_card.num_pairs=4", "judge_card.enforce=false")
    first = run(folder, "first", *gate)
    figures = summarise(first.path)["labels"]
    assert (
        figures["calls"] == len(ASKED) > figures["verdicts"] == len(rows(first, "labels"))
    )  # the gate's as well
    assert (first.stages[2].dir / "judge_card.json").exists()
    ASKED.clear()
    second = run(folder, "second", *gate, f"label.labels_from={folder / 'first'}")
    assert ASKED == []
    taken = summarise(second.path)["labels"]
    assert (taken["calls"], taken["verdicts"], taken["reused"]) == (
        0,
        figures["verdicts"],
        figures["verdicts"],
    )
    assert not (second.stages[2].dir / "judge_card.json").exists()
    constitution(folder, ["changed", *WORDS[1:]])
    third = run(folder, "third", *gate, f"label.labels_from={folder / 'first'}")
    assert (third.stages[2].dir / "judge_card.json").exists()


def test_verdicts_that_were_no_numbers_are_asked_again(folder):
    first = run(folder, "first", "feedback.model=tests.test_labelling:broken_judge")
    calls = len(rows(first, "labels"))
    assert first.stages[2].summary["metrics"]["not_numbers"] == calls / 16
    assert any("dtype: float32" in note for note in first.stages[2].summary["notes"])
    ASKED.clear()
    second = run(folder, "second", f"label.labels_from={folder / 'first'}")
    assert len(ASKED) == calls / 16
    assert all("word0" in suffix for _, suffix in ASKED)
    assert all(label.p_a is not None for label in rows(second, "labels"))
    assert not any("dtype" in note for note in second.stages[2].summary["notes"])
    ASKED.clear()
    third = run(folder, "third", f"label.labels_from={folder / 'second'}")
    assert ASKED == []
    assert rows(third, "preferences", Preference) == rows(second, "preferences", Preference)


def unsealed(this: Run) -> Path:
    """The labels of a run as of an older version, whose stage.json holds no digests of its files."""
    stage = this.stages[2]
    summary = {key: value for key, value in stage.summary.items() if key != "files"}
    write_json(stage.dir / "stage.json", summary)
    return stage.dir / "labels.jsonl"


def test_rows_of_an_earlier_run_that_were_rewritten_are_taken_over_whole(folder):
    first = run(folder, "first")
    path = unsealed(first)
    old = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    turned = [dict(reversed(row.items())) for row in old[::2]] + [{**row, "id": ""} for row in old[1::2]]
    path.write_text("".join(json.dumps(row) + "\n" for row in turned))
    ASKED.clear()
    second = run(folder, "second", f"label.labels_from={folder / 'first'}")
    assert ASKED == []
    taken = (second.stages[2].dir / "labels.jsonl").read_text().split("\n")[:-1]
    assert {json.loads(line)["id"] for line in taken} == {row["id"] for row in old}
    assert rows(second, "preferences", Preference) == rows(first, "preferences", Preference)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda line: line[:-40] + "\n", "labels.jsonl:5: damaged row"),
        (lambda line: "###" + line, "labels.jsonl:5: damaged row"),
        (
            lambda line: line.replace('"verdict":', '"judgement":'),
            "labels.jsonl:5: damaged row .verdict is missing",
        ),
        (
            lambda line: json.dumps({**json.loads(line), "comparison_id": 5}) + "\n",
            "labels.jsonl:5: damaged row",
        ),
    ],
    ids=["cut", "no JSON", "no label", "no text for an id"],
)
def test_a_damaged_row_of_an_earlier_run_is_named(folder, damage, found):
    path = unsealed(run(folder, "first"))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:4], damage(lines[4]), *lines[5:]]))
    with pytest.raises(UserError, match=found):
        run(folder, "second", f"label.labels_from={folder / 'first'}")


@pytest.mark.parametrize("left", [0.1, 0.5, 0.97])
def test_a_run_killed_while_it_takes_labels_over_continues_to_the_same_bytes(folder, left):
    run(folder, "first")
    constitution(folder, ["changed", *WORDS[1:]])
    stage = run(folder, "second", f"label.labels_from={folder / 'first'}").stages[2]
    names = ("labels.jsonl", "earlier_labels.jsonl", "preferences.jsonl")
    whole = [(stage.dir / name).read_bytes() for name in names]
    for name, text in zip(names, whole, strict=True):
        (stage.dir / name).write_bytes(text[: int(left * len(text))])
    write_json(stage.dir / "stage.json", {**stage.summary, "status": "running"})
    run(folder, "second", f"label.labels_from={folder / 'first'}")
    assert [(stage.dir / name).read_bytes() for name in names] == whole


def test_labels_from_is_checked_before_anything_runs(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty: not a run folder"):
        pipeline.dry_run(folder / "config.yaml", [f"label.labels_from={folder / 'empty'}"])
    pipeline.run(folder / "config.yaml", folder / "begun", until="pair")
    with pytest.raises(UserError, match="begun holds no labels"):
        pipeline.dry_run(folder / "config.yaml", [f"label.labels_from={folder / 'begun'}"])


def test_a_subset_decides_alone(folder):
    constitution(folder, tags={4: ["mild"], 7: ["mild"]})
    this = run(folder, "run", "label.principles=[mild, p1]")
    assert {label.principle_id for label in rows(this, "labels")} == {"p1", "p4", "p7"}
    with pytest.raises(UserError, match='"mid" is no id and no tag of words — did you mean "mild"'):
        run(folder, "other", "label.principles=[mid]")


def test_another_judge_asks_everything_and_the_old_labels_stay_beside(folder):
    first = run(folder, "first")
    calls = len(ASKED)
    ASKED.clear()
    other = "feedback.model=tests.test_labelling:other_judge"
    second = run(folder, "second", f"label.labels_from={folder / 'first'}", other)
    assert len(ASKED) == calls
    assert {label.annotator.id for label in rows(second, "labels")} == {"scripted:other"}
    assert {label.id for label in rows(second, "earlier_labels")} == {
        label.id for label in rows(first, "labels")
    }
    ASKED.clear()
    back = run(folder, "back", f"label.labels_from={folder / 'second'}")
    assert ASKED == []
    assert rows(back, "preferences", Preference) == rows(first, "preferences", Preference)


def test_labels_from_a_folder_without_labels_is_refused(folder):
    pipeline.run(folder / "config.yaml", folder / "first", until="pair")
    with pytest.raises(UserError, match="holds no labels"):
        run(folder, "second", f"label.labels_from={folder / 'first'}")


def test_a_refusing_judge_is_counted_and_its_verdicts_are_missing(folder):
    this = run(folder, "run", "feedback.model=tests.test_labelling:refusing_judge")
    labels = [label for label in rows(this, "labels") if label.principle_id == "p0"]
    assert all(row.verdict == "invalid" and row.p_a is None and row.reason == "refused" for row in labels)
    assert labels[0].answer_mass == pytest.approx(3e-4)
    metrics = this.stages[2].summary["metrics"]
    assert metrics["refused"] == len(labels)
    assert metrics["invalid_rate"] == pytest.approx(1 / 16)


@pytest.mark.parametrize("mode", ["best", "best and worst"])
def test_the_best_of_k_gives_comparisons_against_the_rest_and_abstains_on_others(folder, mode):
    this = run(
        folder,
        "run",
        "feedback.model=tests.test_labelling:longest_judge",
        "label.principles=[p0]",
        f"label.mode={mode}",
    )
    pairs = {pair.id: pair for pair in Rows(this.stages[1].dir / "comparisons.jsonl", Comparison)}
    texts = {i: len(r.text) for i, r in this.stages[2].responses().items()}
    questions = mode.count(" ") // 2 + 1
    prompts = {pair.prompt_id for pair in pairs.values()}
    labels = rows(this, "labels")
    assert len(labels) == len(pairs) * 2 * questions
    assert this.stages[2].summary["usage"]["calls"] == len(prompts) * 2 * questions
    for prompt in prompts:
        own = [pair for pair in pairs.values() if pair.prompt_id == prompt]
        if len(own) != 3 or len({texts[i] for pair in own for i in (pair.a, pair.b)}) != 3:
            continue
        low, _, high = sorted({texts[i] for pair in own for i in (pair.a, pair.b)})
        for label in (label for label in labels if label.comparison_id in {pair.id for pair in own}):
            a, b = texts[pairs[label.comparison_id].a], texts[pairs[label.comparison_id].b]
            named = high if "best" in label.judge["decoding"] else low
            if named not in (a, b):
                assert (label.verdict, label.p_a) == ("abstain", None)
            else:
                assert label.verdict == ("a" if a > b else "b")
                # 0.7 for the named one against 0.1 for each other one.
                assert max(label.p_a, 1 - label.p_a) == pytest.approx(0.875)
    summary = this.stages[2].summary
    assert summary["in"] == summary["kept"] + sum(summary["dropped"].values())
    assert summary["metrics"]["invalid_rate"] == 0.0
    if mode == "best":
        assert summary["dropped"]["every verdict is an abstention"] > 0

"""`rlaif data lint`: each thing that can be wrong is planted, found, counted and shown; clean data has
none."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.errors import UserError
from rlaif.human.agree import agree
from rlaif.human.annotated import read_annotated
from rlaif.human.duplicates import near_duplicates
from rlaif.human.importers import import_file
from rlaif.human.linting import lint
from rlaif.records import Prompt
from rlaif.runs.folder import Run, split_of
from rlaif.similarity import overlap, phrases
from tests.fake_run import fake_run

WORDS = [f"word{n}" for n in range(400)]


def text(rng: random.Random, words: int = 12) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def rows(seed: int = 0, count: int = 60, **fixed) -> list[dict]:
    """Pairs without a fault: lengths alike, verdicts by a coin."""
    rng = random.Random(seed)
    return [
        {
            "prompt": text(rng),
            "first": text(rng),
            "second": text(rng),
            "verdict": rng.choice("12"),
            "annotator": "ann",
            **fixed,
        }
        for _ in range(count)
    ]


def table(path: Path, data: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
    return path


def kinds(found: dict) -> dict[str, int]:
    return {finding["kind"]: finding["count"] for finding in found["findings"]}


def found_in(tmp_path: Path, data: list[dict]) -> dict[str, int]:
    return kinds(lint([table(tmp_path / "x.jsonl", data)]))


def test_the_longer_ones_share_has_an_interval_over_groups_of_prompts(tmp_path):
    data = [{**row, "first": row["first"] + " and more"} for row in rows(count=200)]
    import_file(None, table(tmp_path / "x.jsonl", data), tmp_path / "rows")
    [alone] = lint([tmp_path / "rows"])["longer_preferred"].values()
    file = tmp_path / "rows" / "prompts.jsonl"
    prompts = [Prompt.model_validate_json(line) for line in file.read_text().splitlines()]
    grouped = [row.model_copy(update={"group": f"group {n // 20}"}) for n, row in enumerate(prompts)]
    file.write_text("".join(row.to_json() + "\n" for row in grouped))
    [together] = lint([tmp_path / "rows"])["longer_preferred"].values()
    assert together["share"] == alone["share"]
    assert together["n"] == alone["n"] == 200
    assert together["ci"] != alone["ci"]


def test_clean_data_has_no_finding(tmp_path):
    assert found_in(tmp_path, rows()) == {}


def test_longer_winners(tmp_path):
    data = [
        {**row, "first": row["first"] + " and more", "verdict": "1"} if n % 10 else row
        for n, row in enumerate(rows())
    ]
    data = [
        row
        if n % 2
        else {**row, "first": row["second"], "second": row["first"], "verdict": "12"[row["verdict"] == "1"]}
        for n, row in enumerate(data)
    ]
    assert found_in(tmp_path, data)["length bias"] >= 54


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda row: {**row, "second": row["first"] + " "}, "identical pair"),
        (lambda row: {**row, "second": row["first"].upper() + "!"}, "near-identical pair"),
    ],
)
def test_pairs_that_are_the_same(tmp_path, change, kind):
    data = rows()
    data[7] = change(data[7])
    assert found_in(tmp_path, data) == {kind: 1}


def test_repeated_pairs_and_prompts_that_differ_in_a_comma(tmp_path):
    data = rows()
    swapped = {**data[3], "first": data[3]["second"], "second": data[3]["first"], "annotator": "bob"}
    near = {**rows(1, 1)[0], "prompt": data[4]["prompt"].capitalize() + ","}
    assert found_in(tmp_path, [*data, swapped, near]) == {"repeated pair": 1, "near-duplicate prompt": 2}


@pytest.mark.parametrize(("verdict", "swapped", "count"), [("1", "", 60), ("tie", "", 60), ("2", "TRUE", 60)])
def test_an_annotator_who_always_answers_the_same(tmp_path, verdict, swapped, count):
    data = rows(verdict=verdict, swapped=swapped)
    found = lint([table(tmp_path / "x.jsonl", [*data, *rows(1)])])
    assert "same answer" not in kinds(found)  # one annotator, and not always
    other = [{**row, "annotator": "same"} for row in data]
    found = lint([table(tmp_path / "y.jsonl", [*other, *rows(1)])])
    [finding] = [finding for finding in found["findings"] if finding["kind"] == "same answer"]
    assert finding["count"] == finding["of"] == count
    assert "human:same" in finding["what"]


def test_contradictions_and_circles(tmp_path):
    data = rows()
    first = data[0]
    other = {
        **first,
        "first": first["second"],
        "second": first["first"],
    }  # the same verdict on the other side
    q, (x, y, z) = "Which one of these?", ("one here", "two there", "three elsewhere")
    circle = [
        {"prompt": q, "first": a, "second": b, "verdict": "1", "annotator": "ann"}
        for a, b in ((x, y), (y, z), (z, x))
    ]
    assert found_in(tmp_path, [*data, other, *circle]) == {
        "contradiction": 1,
        "circle": 1,
        "repeated pair": 1,
    }
    by_others = [
        other | {"annotator": "bob"},
        *(row | {"annotator": f"a{n}"} for n, row in enumerate(circle)),
    ]
    assert found_in(tmp_path, [*data, *by_others]) == {"repeated pair": 1}  # people may disagree


def test_prompts_in_training_and_held_out_data(tmp_path):
    train, heldout = rows(), rows(1)
    heldout[5] = {**heldout[5], "prompt": train[9]["prompt"]}
    heldout[6] = {**heldout[6], "prompt": train[10]["prompt"].title() + "?"}
    paths = table(tmp_path / "train.jsonl", train), table(tmp_path / "heldout.jsonl", heldout)
    found = lint(paths[:1], paths[1:])
    assert kinds(found) == {"leak": 2}
    assert found["findings"][0]["of"] == 60
    assert kinds(lint(paths)) == {}


def test_rows_that_could_not_be_used_are_findings_of_files_and_of_folders(tmp_path):
    bad = [*rows(), {"prompt": "q"}, {**rows(2, 1)[0], "first": 7}]
    path = table(tmp_path / "x.jsonl", bad)
    assert kinds(lint([path])) == {"unusable row": 2}
    again = [{**row, "annotator": "bob"} for row in rows()]  # of the same pairs
    import_file("table", table(tmp_path / "y.jsonl", [*bad, *again]), tmp_path / "folder")
    [found] = lint([tmp_path / "folder"])["findings"]
    assert (found["kind"], found["count"], found["of"]) == ("unusable row", 2, 122)


def test_labels_that_are_left_out_are_counted_of_all_labels(tmp_path):
    import_file("table", table(tmp_path / "x.jsonl", rows()), tmp_path / "folder")
    (tmp_path / "folder" / "import.json").unlink()
    labels = tmp_path / "folder" / "labels.jsonl"
    first = labels.read_text().splitlines()[0]
    labels.write_text(labels.read_text() + first + "\n")
    [found] = lint([tmp_path / "folder"])["findings"]
    assert (found["kind"], found["count"], found["of"]) == ("unusable row", 1, 61)


def test_a_finding_of_shorter_winners_counts_these(tmp_path):
    data = [
        {**row, "first": row["first"] + " and more", "verdict": "1" if n % 10 == 0 else "2"}
        for n, row in enumerate(rows(count=200))
    ]
    assert found_in(tmp_path, data)["length bias"] == 180


def test_what_an_import_leaves_out_of_rows_that_it_keeps_is_a_finding_and_counted_by_agree(tmp_path):
    lost = [{"p_first": "0.1", "verdict": "1"}, {"seconds": "-5"}, {"seconds": "inf", "p_first": "2"}]
    both = [{**row, **more} for row, more in zip(rows(), lost, strict=False)]
    path = table(tmp_path / "x.jsonl", [*both, *rows()[3:]])
    counts = {"probability that is none, or not on the verdict's side": 2, "time that is none": 2}
    assert agree(read_annotated([path]))["dropped"] == counts
    imported = import_file("table", path, tmp_path / "folder")
    assert (imported["dropped"], imported["left_out"]) == ({}, counts)
    for place in (path, tmp_path / "folder"):
        [found] = lint([place])["findings"]
        assert (found["kind"], found["count"], found["of"]) == ("lost value", 4, 60)
        assert all(f"2 × {reason}" in found["what"] for reason in counts)


def test_a_run_is_linted_by_its_last_labels_and_its_split(tmp_path):
    path = fake_run(tmp_path / "run", prompts=40)
    found = lint([path])
    assert found["labels"] > found["pairs"] > 0
    assert "leak" not in kinds(found)
    run = Run.load(path)
    asked = run.prompts("train")[0].chat[0]["content"]
    others = (
        Prompt.model_validate({"messages": [{"role": "user", "content": asked + "!" * n}]})
        for n in range(1, 99)
    )
    leaked = next(prompt for prompt in others if split_of(prompt, run.config) == "heldout")
    with (path / "prompts.jsonl").open("a") as file:
        file.write(leaked.to_json() + "\n")
    assert kinds(lint([path]))["leak"] == 1


def test_the_folder_of_a_model_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"without a file of rows|in no format"):
        lint([tmp_path])


def test_exit_codes_and_json(tmp_path):
    clean, bad = table(tmp_path / "clean.jsonl", rows()), table(tmp_path / "bad.jsonl", rows(verdict="tie"))
    run = CliRunner().invoke
    assert run(app, ["data", "lint", str(clean)]).exit_code == 0
    told = run(app, ["data", "lint", str(bad)])
    assert told.exit_code == 1
    assert "same answer: 60 of 60" in told.stdout
    as_json = run(app, ["data", "lint", str(bad), "--json"])
    assert as_json.exit_code == 1
    assert kinds(json.loads(as_json.stdout)) == {"same answer": 60}


def test_near_duplicates_are_those_that_a_full_search_finds():
    rng = random.Random(0)
    texts = [text(rng, 40) for _ in range(60)]
    for n in range(20):  # a few words changed: some beyond the limit, some not
        words = texts[n].split()
        for at in rng.sample(range(40), n % 5):
            words[at] = rng.choice(WORDS)
        texts.append(" ".join(words))
    held = dict(enumerate(texts))
    full = {
        (a, b) for a in held for b in held if a < b and overlap(phrases(held[a]), phrases(held[b])) >= 0.8
    }
    assert {tuple(sorted(pair)) for pair in near_duplicates(held)} == full
    assert len(full) > 5


def test_many_equal_texts_are_told_once_each():
    assert sorted(near_duplicates(dict.fromkeys(range(500), "The same!"))) == [(0, n) for n in range(1, 500)]


def test_the_real_pandalm_file(test_data):
    found = lint([test_data / "pandalm" / "testset-v1.json"])
    shares = [figures["share"] for figures in found["longer_preferred"].values()]
    assert shares == pytest.approx([0.673, 0.662, 0.668], abs=0.001)
    assert kinds(found)["length bias"] >= 500

"""What is exported is what trl trains on; cards say what is known and nothing of this machine; hostile
text stays text."""

import csv
import json
from pathlib import Path

import pytest

from rlaif.errors import UserError
from rlaif.human.exporters import export_file
from rlaif.human.importers import import_file
from rlaif.report import cards
from rlaif.report.cards import CARD, data_card, export_with_card, md, model_card
from rlaif.runs.folder import Run
from tests.fake_run import fake_run
from tests.tiny_models import tiny_policy


def test_the_card_of_a_runs_preferences(tmp_path):
    run = fake_run(tmp_path / "run", prompts=24)
    counts = export_with_card(run, "trl", tmp_path / "out", "cc0-1.0")
    card = (tmp_path / "out" / "README.md").read_text()
    loaded = Run.load(run)
    assert card.startswith('---\nlicense: "cc0-1.0"\n')
    assert f"{counts['kept']} of {counts['in']} rows" in card
    assert loaded.constitution.hash in card
    for principle in loaded.constitution.principles:
        assert f"| `{principle.id}` | 1.0 | {principle.text} |" in card
    assert "All labels are a model's" in card
    assert str(tmp_path) not in card


def test_a_datasets_folder_and_parquet_hold_the_same_rows_and_are_read_back(tmp_path):
    from datasets import load_dataset, load_from_disk

    run = fake_run(tmp_path / "run", prompts=24)
    for name in ("out", "out.parquet", "out.jsonl"):
        export_with_card(run, "trl", tmp_path / name)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert list(load_from_disk(str(tmp_path / "out"))) == rows
    cache = str(tmp_path / "cache")
    assert (
        list(load_dataset("parquet", data_files=str(tmp_path / "out.parquet"), cache_dir=cache)["train"])
        == rows
    )
    for name in ("out", "out.parquet", "out.jsonl"):
        counts = import_file(None, tmp_path / name, tmp_path / f"back-{name}")
        assert (counts["format"], counts["kept"]) == ("trl", len(rows))
    assert not (tmp_path / "out.partial").exists()
    with pytest.raises(UserError, match="holds something else already"):  # the card
        export_file(run, "trl", tmp_path / "out")
    with pytest.raises(UserError, match="no kind that rlaif writes"):
        export_file(run, "trl", tmp_path / "out.xlsx")


def test_the_same_export_once_more_is_done_and_another_one_is_refused(tmp_path):
    """As after a kill that came when the folder had its name already."""
    run, out = fake_run(tmp_path / "run", prompts=24), tmp_path / "out"
    counts = export_with_card(run, "trl", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert export_with_card(run, "trl", out) == counts
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    other = fake_run(tmp_path / "other", seed=1, prompts=24)
    with pytest.raises(UserError, match="holds something else already"):
        export_with_card(other, "trl", out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else already"):
        export_with_card(run, "trl", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "run"]
    left = tmp_path / "new.partial"  # a kill leaves no other files there than these
    left.mkdir()
    for name in ("data-00000-of-00001.arrow", "notes.txt"):
        (left / name).write_text("half")
    with pytest.raises(UserError, match=r"new.partial holds something else"):
        export_with_card(run, "trl", tmp_path / "new")
    (left / "notes.txt").unlink()
    assert export_with_card(run, "trl", tmp_path / "new") == {
        **counts,
        "card": str(tmp_path / "new/README.md"),
    }
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export_file(run, "trl", tmp_path / "mine")


def test_a_csv_file_has_the_columns_of_all_rows(tmp_path):
    """Not of the first alone, which may lack what others have."""
    rows = [{"instruction": str(n), "output_1": "x", "output_2": "y", "preference": 1} for n in range(3)]
    rows[1] |= {"generator_1": "k", "generator_2": "l"}
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_file("alpaca", tmp_path / "x.jsonl", tmp_path / "rows")
    labels = tmp_path / "rows" / "labels.jsonl"  # the first pair has two annotators, whom a row cannot name
    again = labels.read_text().splitlines()[0].replace('"id":"people"', '"id":"ann"')
    row = json.loads(again) | {"id": ""}
    labels.write_text(labels.read_text() + json.dumps(row) + "\n")
    for name in ("out.csv", "out.jsonl"):
        export_file(tmp_path / "rows", "alpaca", tmp_path / name)
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    told = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert "annotator" not in told[0]
    assert [{k: str(v) for k, v in row.items()} for row in told] == [
        {k: v for k, v in row.items() if v} for row in table
    ]


@pytest.mark.slow
def test_trls_trainers_take_it_as_it_is(tmp_path):
    from datasets import load_from_disk
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    export_with_card(fake_run(tmp_path / "run", prompts=24), "trl", tmp_path / "out")
    rows = load_from_disk(str(tmp_path / "out"))
    policy = str(tiny_policy(tmp_path / "policy"))
    tokenizer = AutoTokenizer.from_pretrained(policy)
    shared = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    reward = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1)
    reward.config.pad_token_id = tokenizer.pad_token_id
    trainers = [
        RewardTrainer(
            reward,
            RewardConfig(str(tmp_path / "rm"), **shared),
            train_dataset=rows,
            processing_class=tokenizer,
        ),
        DPOTrainer(
            AutoModelForCausalLM.from_pretrained(policy),
            args=DPOConfig(str(tmp_path / "dpo"), **shared),
            train_dataset=rows,
            processing_class=tokenizer,
        ),
    ]
    for trainer in trainers:
        assert trainer.train().global_step == 2
        assert len(trainer.train_dataset) == len(rows)


def test_the_card_of_a_folder_counts_its_annotators(tmp_path, test_data):
    folder = test_data / "pandalm"
    import_file(
        "pandalm", folder / "testset-v1.json", tmp_path / "in", beside=[folder / "pandalm-7b-testset-v1.json"]
    )
    card = data_card(tmp_path / "in", "table", {"in": 999, "kept": 999, "dropped": {}})
    assert "| pandalm-7b | ai | 999 |" in card
    assert "| 3 people | human | 2,997 |" in card
    assert "annotator1" not in card  # people are counted and not named
    assert "All labels are a model's" not in card


def test_the_card_of_a_model_has_its_figures_with_intervals(tmp_path):
    run = Run.load(fake_run(tmp_path / "run", prompts=24))
    stage = run.stages[-1]
    figures = {
        "n": 6,
        "win_rate": {"value": 0.625, "ci": [0.5, None]},
        "gold": {"all": 0.9},
        "gold_ci": {"all": [0.8, 0.95]},
        "compliance": {"kind": 0.7},
        "compliance_ci": {"kind": [None, None]},
    }
    made = json.loads((stage.dir / "stage.json").read_text())
    made.pop("checksum", None)
    made["metrics"]["policies"]["ppo"] = {**figures, "refusal_rate": 0.0, "refusal_rate_ci": [0, 0.4]}
    (stage.dir / "stage.json").write_text(json.dumps(made))
    card = model_card(run, "ppo", "policy")
    assert "| win rate over the base policy, by the run's judge | 0.625 | 0.5 to ∞ |" in card
    assert "| gold: all | 0.9 | 0.8 to 0.95 |" in card
    assert "| compliance by the judge: kind | 0.7 | no interval |" in card
    assert "| refusals | 0 | 0 to 0.4 |" in card
    assert "| accuracy on decided held-out pairs | 0.88 |" in model_card(run, "reward_model", "reward_model")


def test_the_limits_of_a_card_are_those_of_its_run(tmp_path):
    asked = {name: fake_run(tmp_path / name, human=name == "people", gold=False) for name in ("ai", "people")}
    counts = {"in": 1, "kept": 1, "dropped": {}}
    cards_of = {name: data_card(run, "trl", counts) for name, run in asked.items()}
    assert "The judge was not examined" in cards_of["ai"]
    assert "The judge was not examined" not in cards_of["people"]
    policies = {name: model_card(Run.load(run), "ppo", "policy") for name, run in asked.items()}
    assert "by the judge whose labels trained it" in policies["ai"]
    assert "by the run's judge, and by no truth" in policies["people"]
    assert "It was measured" not in model_card(Run.load(asked["ai"]), "dpo", "policy")


def test_hostile_text_stays_text():
    assert (
        md("a|b\n# c <script>x</script> `d` [e](f) &amp;")
        == "a\\|b # c &lt;script&gt;x&lt;/script&gt; \\`d\\` \\[e](f) &amp;amp;"
    )


@pytest.mark.parametrize("text", ["\\[here](http://example.org)", "\\`code`", "left \\| right"])
def test_a_backslash_does_not_undo_an_escape(text):
    """By a reader of Markdown that comes with rich."""
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    page = reader.render(f"| head |\n|---|\n| {md(text)} |")
    assert "<a " not in page
    assert "<code>" not in page
    assert f"<td>{text}</td>" in page


def test_control_characters_are_spelt_out():
    assert md("a\x1b[31mb\u202ec") == "a\\\\x1b\\[31mb\\\\u202ec"


def test_no_path_of_this_machine_is_in_a_card(tmp_path):
    policy = tiny_policy(tmp_path / "secret-place" / "my-model")
    run = Run.load(fake_run(tmp_path / "run", prompts=24))
    object.__setattr__(run.config.policy, "model", str(policy))
    card = model_card(run, "ppo", "policy")
    assert "my-model" in card
    assert "secret-place" not in card
    assert "base_model" not in card


def test_a_card_beside_parquet_is_named_after_it(tmp_path: Path):
    counts = export_with_card(fake_run(tmp_path / "run", prompts=24), "trl", tmp_path / "prefs.parquet")
    assert counts["card"] == str(tmp_path / "prefs.md")
    assert "# Preferences of run" in (tmp_path / "prefs.md").read_text()


def test_a_folder_killed_before_its_card_is_written_by_the_same_command(tmp_path, monkeypatch):
    """A folder has its name once it is whole: the card is in it, or there is no folder."""

    class Killed(BaseException):
        pass

    def killed(*words):
        raise Killed

    source, out = fake_run(tmp_path / "run"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(cards, "data_card", killed)
        with pytest.raises(Killed):
            export_with_card(source, "trl", out)
    assert not out.exists()
    counts = export_with_card(source, "trl", out)
    assert (out / CARD).read_text().count(f"{counts['kept']} of {counts['in']} rows") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]

"""Whatever takes its time has a bar, and no time left is told from the unit that models were loaded in."""

import io
import json
import threading

import pytest
import torch
from rich.console import Console

import rlaif
from rlaif.cli import terminal
from rlaif.engines.loading import load_tokenizer
from rlaif.human.importers import import_file
from rlaif.intervals import ANY, POSITIVE, known_edges, mean_interval
from rlaif.records import Evaluation, Prompt, Response
from rlaif.report.report import write_report
from rlaif.rl import rollout
from rlaif.stages import evaluate, ppo, sft
from rlaif.stages.evaluate import rates
from rlaif.training import rewards
from rlaif.training.monitoring import headline
from rlaif.training.pairs import load_pairs
from tests.fake_run import fake_run
from tests.test_arms import run_of
from tests.test_ppo_stage import stage_of
from tests.tiny_models import hand_made_run, preference, prompts_of, response, revision, tiny_policy


class Recorder:
    """Progress that keeps each bar's name, total, and what was ticked."""

    def __init__(self) -> None:
        self.bars: list[list] = []
        self.notes: list[str] = []

    def __call__(self, what: str, total: int | None, done: int = 0):
        self.bars.append([what, total, done])
        return self

    def __enter__(self):
        bar = self.bars[-1]

        def tick(n: int = 1, note: str = "") -> None:
            bar[2] += n
            self.notes.append(note)

        return tick

    def __exit__(self, *_: object) -> None:
        pass

    def whole(self, ending: str) -> int:
        """The total of the one bar of this name, which ended there."""
        ((_, total, done),) = [bar for bar in self.bars if bar[0].endswith(ending)]
        assert done == total
        return total


def test_no_time_left_is_told_from_the_first_batch(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(terminal.Progress, "told", 0.0)
    monkeypatch.setattr(terminal, "tell", lines.append)
    monkeypatch.setattr(terminal, "stderr", type("Pipe", (), {"is_terminal": False}))
    with terminal.Progress("verdicts", 60) as tick:
        for _ in range(
            3
        ):  # batches of 20 that are given at once; before the first one the model is loaded for a minute
            now[0] += 60 if not lines else 12
            for _ in range(20):
                tick(1)
    assert lines == [
        "verdicts: 1/60",
        "verdicts: 21/60, 1.7/s, 23 s left",
        "verdicts: 41/60, 1.7/s, 11 s left",
    ]


def test_a_long_batch_is_not_silent(monkeypatch):
    lines = []
    monkeypatch.setattr(terminal, "SILENCE", 0.0)
    monkeypatch.setattr(terminal, "stderr", type("Pipe", (), {"is_terminal": False}))
    told = threading.Event()
    monkeypatch.setattr(terminal, "tell", lambda line: (lines.append(line), told.set()))
    with terminal.Progress("critiques", 8):
        assert told.wait(60), "nothing has been done yet, and it is said"
    assert lines[0] == "critiques: 0/8"


def test_between_short_bars_a_stage_is_not_silent(monkeypatch):
    now, lines, told = [100.0], [], threading.Event()
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(terminal.Progress, "told", 100.0)
    monkeypatch.setattr(terminal, "tell", lambda line: (lines.append(line), told.set()))
    monkeypatch.setattr(terminal, "stderr", type("Pipe", (), {"is_terminal": False}))
    with terminal.Progress("05_ppo", None):
        now[0] = 108.0
        with terminal.Progress("05_ppo scores", 2) as tick:
            tick(1)  # eight seconds after the last line: nothing yet
            now[0] = 110.0
            tick(1)  # a new bar did not begin the silence anew
        now[0] = 120.0
        for _ in range(600):
            if len(lines) < 2:
                told.clear()
                told.wait(0.1)
    assert lines[:2] == ["05_ppo scores: 2/2, 0.5/s, 0 s left", "05_ppo: 20 s"]
    assert not terminal.Progress.open


def test_of_bars_inside_one_another_the_innermost_is_shown(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(terminal, "stderr", console)
    outer, inner = terminal.Progress("outer", None), terminal.Progress("inner", 2)
    states = []
    with outer:
        states.append(outer.bar.live.is_started)
        with inner:
            states += [outer.bar.live.is_started, inner.bar.live.is_started]
        states += [outer.bar.live.is_started, inner.bar.live.is_started]
    assert states == [True, False, True, True, False]
    assert not outer.bar.live.is_started


def test_every_stage_has_a_bar_around_it(project):
    seen = Recorder()
    rlaif.run(project / "config.yaml", project / "run", until="critique", progress=seen)
    assert [bar[0] for bar in seen.bars if bar[1] is None] == ["01_sample", "02_critique"]


def test_scale_samples_are_drawn_in_the_dtype_asked_for_under_a_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(rewards, "REFERENCE_SAMPLES", 16)
    drawn, plain = [], rollout.rollout

    def recorded(*args):
        drawn.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return plain(*args)

    monkeypatch.setattr(rollout, "rollout", recorded)
    stage = stage_of(tmp_path / "run", tiny_policy(tmp_path / "policy"))
    low = stage.config.policy.model_copy(update={"dtype": "bfloat16"})
    stage.run.config = stage.config.model_copy(update={"policy": low})
    stage.run.progress = seen = Recorder()
    ppo._open(stage)
    assert drawn == [torch.bfloat16] * 2
    assert seen.whole("responses that fix the scale") == 16
    assert seen.whole("scores that fix the scale") == 16


def test_evaluate_shows_what_it_samples_and_what_it_measures(tmp_path):
    run = run_of(tmp_path / "run", tiny_policy(tmp_path / "policy"), {"stage": "evaluate", "max_tokens": 6})
    run.progress = seen = Recorder()
    evaluate.run(run.stages[0])
    every = len(run.prompts("heldout"))
    assert seen.whole("base: responses") == seen.whole("base: measured") == every
    assert f"opinions of {every} of the next {every}" in seen.notes
    assert f"KL of the next {every}" in seen.notes


@pytest.mark.parametrize(("of_chosen", "bounds"), [(False, POSITIVE), (True, ANY)])
def test_log_ratios_that_happen_to_be_positive_have_no_bound(of_chosen, bounds):
    values = [0.1 + 0.07 * n for n in range(30)]
    rows = [Evaluation(policy="p", prompt_id=str(n), response_id="r", kl=kl) for n, kl in enumerate(values)]
    texts = {"r": Response(prompt_id="0", text="a", finish_reason="stop")}
    messages = [{"role": "user", "content": "Say it."}]
    prompts = {
        row.prompt_id: Prompt.model_validate({"messages": messages, "group": row.prompt_id}) for row in rows
    }
    found = rates(rows, texts, prompts, of_chosen)
    assert found["kl_ci"] == known_edges(mean_interval(values, bounds))
    assert mean_interval(values, ANY) != mean_interval(values, POSITIVE)


def test_a_bar_tells_what_there_is_to_say(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(terminal.Progress, "told", 0.0)
    monkeypatch.setattr(terminal, "tell", lines.append)
    monkeypatch.setattr(terminal, "stderr", type("Pipe", (), {"is_terminal": False}))
    with terminal.Progress("updates", 4) as tick:
        for note in ("", "reward 0.1"):
            now[0] += 11
            tick(1, note)
    assert [line.split(", ")[-1] for line in lines] == ["updates: 1/4", "reward 0.1"]


def test_headlines():
    row = {"update": 1, "reward": 0.12345, "exact_kl": 0.5, "kl": 0.4, "length": 18.26, "policy_loss": 1.0}
    assert headline(row) == "reward 0.123, KL 0.500, tokens 18.3"
    assert headline({"reward": 1.0, "kl": 0.25}) == "reward 1.000, KL 0.250"
    assert headline({"loss": 0.51, "grad_norm": 2.0}) == "loss 0.510"
    assert headline({"heldout_loss": 0.7}) == "held-out loss 0.700"


def test_a_report_has_a_bar_of_its_parts(tmp_path):
    seen = Recorder()
    write_report(fake_run(tmp_path / "run", prompts=8), seen)
    assert seen.whole("report, parts") > 5


def test_an_import_has_a_bar_of_its_rows(tmp_path):
    seen, file = Recorder(), tmp_path / "pairs.jsonl"
    rows = [
        {side: f"\n\nHuman: {n}\n\nAssistant: {side}" for side in ("chosen", "rejected")} for n in range(5)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = import_file("hh", file, tmp_path / "out", limit=4, progress=seen)
    assert counts["kept"] == seen.whole("pairs.jsonl, rows") == 4


def test_label_says_how_many_verdicts_there_are_within_a_chunk(project):
    seen = Recorder()
    rlaif.run(project / "config.yaml", project / "run", until="label", progress=seen)
    pairs = seen.whole("label comparisons")
    assert any(note.endswith(f" verdicts on the next {pairs}") for note in seen.notes)


def test_what_is_trained_on_is_tokenised_under_a_bar(tmp_path):
    policy = tiny_policy(tmp_path / "policy")
    stages = [hand_made_run(tmp_path / name, policy, {"stage": name}) for name in ("reward", "sft")]
    for stage in stages:
        stage.run.progress = Recorder()
        good, bad = (
            response(stage, prompts_of(stage)[0], text, n) for n, text in enumerate(("thanks it is", "rude"))
        )
        revision(stage, bad, good)
        preference(stage, good, bad, 0.9)
    load_pairs(stages[0], load_tokenizer(policy), 64)
    assert stages[0].run.progress.whole("preferences tokenised") == 1
    sft._training_rows(stages[1], load_tokenizer(policy), 64)
    assert [bar[1:] for bar in stages[1].run.progress.bars] == [[1, 1], [0, 0]]


def test_a_name_in_brackets_is_a_name_and_no_markup(monkeypatch):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80)
    monkeypatch.setattr(terminal, "stderr", console)
    with terminal.Progress("a[/b].jsonl, rows", 2) as tick:
        tick(1)
    assert "a[/b].jsonl, rows" in shown.getvalue()

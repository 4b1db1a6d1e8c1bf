"""Alarms on made-up histories: silent on noise and on progress, ringing where something goes wrong."""

import random
from types import SimpleNamespace

import pytest

from rlaif.options import GrpoOptions, PpoOptions
from rlaif.rl.alarms import Alarm, alarms, boilerplate, ends, refusals
from rlaif.stages import ppo
from rlaif.training import groups
from rlaif.training.monitoring import note_warnings


def history(updates=60, seed=0, batch=128, **changes):
    """Rows of a healthy run, as the playground's are; a change is a function of the update."""
    noise = random.Random(seed)
    rows = []
    for n in range(1, updates + 1):
        progress = 1 - 0.93**n
        truth = changes.get("gold", lambda n: 0.35 + 0.58 * (1 - 0.93**n))(n)
        row = {
            "update": n,
            "episodes": n * batch,
            "score": progress + noise.gauss(0, 0.04),
            "exact_kl": 1.3 * progress,
            "length": 15 - 5 * progress + noise.gauss(0, 0.3),
            "entropy": 0.62 - 0.3 * progress,
            "truncated": 0.0,
            "approx_kl": 0.004,
            "refusals": 0.13 + noise.gauss(0, 0.03),
            "boilerplate": 0.12,
            "gold": sum(noise.random() < truth for _ in range(batch)) / batch,
        }
        rows.append({**row, **{key: make(n) for key, make in changes.items() if key != "gold"}})
    return rows


def first(rows, kind):
    return next((n for n in range(1, len(rows) + 1) if kind in {a.kind for a in alarms(rows[:n])}), None)


def test_healthy_runs_are_silent():
    for seed in range(20):
        rows = history(seed=seed)
        assert not [alarm for n in range(1, 61) for alarm in alarms(rows[:n])], seed


def test_a_plateau_is_not_a_fall():
    raised = [first(history(120, seed, gold=lambda n: 0.8), "over-optimisation") for seed in range(20)]
    assert sum(update is not None for update in raised) <= 2


def test_over_optimisation_rings_within_ten_updates_of_the_peak():
    raised = [
        first(
            history(60, seed, gold=lambda n: 0.4 + 0.02 * min(n, 20) - 0.025 * max(0, n - 20)),
            "over-optimisation",
        )
        for seed in range(10)
    ]
    assert all(update is not None and 20 < update <= 30 for update in raised)


def test_a_score_that_falls_with_the_truth_is_another_thing():
    rows = history(gold=lambda n: 0.8 - 0.01 * n, score=lambda n: 1 - 0.01 * n)
    assert first(rows, "over-optimisation") is None


@pytest.mark.parametrize("key", ["heldout_gold", "heldout_judge"])
def test_held_out_looks_ring_too(key):
    rows = history()
    for row in rows:
        row.pop("gold")
        if row["update"] % 10 == 0:
            row |= {"heldout": 64, key: 0.9 if row["update"] <= 30 else 0.5, "heldout_judge_error": 0.04}
    assert first(rows, "over-optimisation") == 40


@pytest.mark.parametrize(("spread", "rings"), [(0.04, 40), (0.2, None)])
def test_a_judges_scores_have_a_scale_of_their_own(spread, rings):
    rows = history()
    for row in rows:
        row.pop("gold")
        if row["update"] % 10 == 0:  # from 1 to 10, or from -1 to 1: no share of anything
            row |= {
                "heldout": 64,
                "heldout_judge": -0.2 if row["update"] <= 30 else -0.6,
                "heldout_judge_error": spread,
            }
    assert first(rows, "over-optimisation") == rings


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("kl", {"exact_kl": lambda n: 0.5 * n}),
        ("kl", {"approx_kl": lambda n: 0.01 * n}),
        ("entropy", {"entropy": lambda n: 0.6 * 0.9**n}),
        ("length", {"length": lambda n: 10 + n}),
        ("length", {"length": lambda n: max(1, 20 - n)}),
        ("truncated", {"truncated": lambda n: n / 40}),
        ("boilerplate", {"boilerplate": lambda n: min(1, n / 40)}),
        ("refusals", {"refusals": lambda n: n / 60}),
    ],
)
def test_what_goes_wrong_is_named_with_what_to_try(kind, changes):
    rows = history(**changes)
    at = first(rows, kind)
    assert at is not None
    assert {alarm.kind for alarm in alarms(rows[:at])} == {kind}
    assert all(alarm.found and alarm.advice("ppo", PpoOptions.model_fields) for alarm in alarms(rows[:at]))


def test_advice_names_the_options_that_the_stage_has_and_no_others():
    alarm = Alarm("kl", "too far", ("raise {kl_coef}", "set {kl_target}", "stop earlier"))
    assert (
        alarm.advice("ppo", PpoOptions.model_fields)
        == "raise ppo.kl_coef, set ppo.kl_target, or stop earlier"
    )
    assert alarm.advice("grpo", GrpoOptions.model_fields) == "raise grpo.kl_coef, or stop earlier"
    assert Alarm("kl", "too far", ("raise {kl_coef}",)).advice("x", ["kl_coef"]) == "raise x.kl_coef"


@pytest.mark.parametrize("options", [PpoOptions, GrpoOptions])
def test_every_alarm_has_something_to_try_in_every_stage(options):
    rows = history(
        exact_kl=lambda n: 2 * n,
        entropy=lambda n: 0.6 * 0.9**n,
        length=lambda n: 10 + n,
        truncated=lambda n: n / 40,
        boilerplate=lambda n: min(1, n / 40),
        refusals=lambda n: n / 60,
        gold=lambda n: max(0.1, 0.9 - 0.02 * n),
        score=lambda n: n / 60,
    )
    found = alarms(rows)
    assert len({alarm.kind for alarm in found}) == 7
    assert all("{" not in alarm.advice("x", options.model_fields) for alarm in found)


def test_boilerplate_and_refusals_by_hand():
    texts = [
        "I am glad you asked. It is Rome.",
        "I am glad you came",
        "It is Rome.",
        "I'm sorry, I can't say.",
    ]
    assert boilerplate(texts) == 0.5
    assert boilerplate(["too short", "both of them"]) == 0
    assert refusals(texts) == 0.25


def test_what_is_wrong_from_the_start_rings_from_the_start():
    assert first(history(3, truncated=lambda n: 0.88), "truncated") == 1
    assert first(history(3, exact_kl=lambda n: 30.0), "kl") == 1
    assert [
        a.kind for a in alarms(history(4, entropy=lambda n: 0.6 if n == 1 else 0.01))
    ] == []  # a change needs a history


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4), (10, 5), (60, 5)])
def test_the_first_and_the_last_rows_do_not_overlap(count: int, size: int):
    rows = history(count)
    early, late = ends(rows)
    assert (early, late) == (rows[:size], rows[-size:])
    assert count == 1 or early[-1]["update"] < late[0]["update"]


def test_a_change_is_seen_before_the_windows_are_full():
    rows = history(8, length=lambda n: 10.0 if n <= 4 else 20.0)
    assert "length" in {a.kind for a in alarms(rows)}


SUMMARY = {
    "reward": 0.0,
    "score": 0.0,
    "exact_kl": 0.5,
    "length": 9.0,
    "truncated": 0.0,
    "entropy": 1.0,
    "seconds": 1.0,
    "episodes": 8,
}


@pytest.mark.parametrize("summary", [ppo.summary, groups.summary])
def test_a_summary_of_three_updates_starts_with_the_first_and_ends_with_the_last(summary):
    rows = [{**SUMMARY, "update": n, "reward": reward} for n, reward in enumerate((0.023, 0.213, 0.205), 1)]
    made = summary(rows)
    assert (made["reward_start"], made["reward_end"]) == (0.023, 0.205)


@pytest.mark.parametrize(
    ("options", "metrics", "said"),
    [
        (
            {"updates": 3, "warmup": 10},
            {},
            "warmup 10, but 3 updates of the policy; it reached 30% of learning_rate",
        ),
        ({"updates": 12, "warmup": 10, "critic_warmup": 4}, {}, "warmup 10, but 8 updates"),
        ({"updates": 30}, {"kl": 0.004}, "the policy did not move: at the end its responses are 0.0040 nats"),
        ({"updates": 30}, {}, ""),
        ({"updates": 10}, {}, ""),
        ({"updates": 1, "warmup": 1}, {"kl": 0.0, "updates": 1}, ""),
    ],
)
def test_a_training_that_could_do_little_says_so(options: dict, metrics: dict, said: str):
    made = {"updates": 30, "kl": 0.5, "unread": {}, "alarms": []} | metrics
    stage = SimpleNamespace(options=PpoOptions(stage="ppo", **options), metrics=made, notes=[])
    note_warnings(stage)
    assert [said in note for note in stage.notes] == ([True] if said else [])

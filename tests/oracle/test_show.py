"""Every figure of `rlaif show --json`, computed again from the rows of a run with awkward content."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from rlaif.report.run_reader import RunReader
from rlaif.report.summary import summarise
from rlaif.training.loop import heldout_prompts
from tests.oracle.figures import Chosen, Labels, Online, Policies, Reward, asked, flow, mean, share
from tests.oracle.leaves import check
from tests.oracle.rows import WEIGHTS, Rows

NO_FIGURES = {
    "critique/*": "counts of the stage itself: tests/test_revisions.py",
    "sft/*": "the learning curve's ends: tests/test_sft.py",
    "pair/*": "counts of the stage itself: tests/test_pipeline.py",
    "stages/*/round": "the number of a round, as the config asks",
    "stages/*/seconds": "time, which no row tells",
    "stages/*/error": "words, of a stage that failed",
    "next": "a command, of a run that is not done",
    "ppo/seconds_per_update": "time, which no row tells",
    "?ppo/alarms/*/update": "where an alarm rang: tests/test_alarms.py",
}
WHOSE = {
    frozenset({"ai"}): "the judge",
    frozenset({"human"}): "people",
    frozenset({"ai", "human"}): "people and the judge",
}
FORWARD = 1e-4  # one response at a time against batches, in fp32


def test_every_figure(runs: SimpleNamespace, rows: Rows) -> None:
    printed = summarise(runs.first)
    assert (
        check(printed, {**stages(rows), **policies(rows), **labels(rows), **trained(rows)}, NO_FIGURES) > 300
    )


def stages(rows: Rows) -> dict[str, Any]:
    counted, used = flow(rows), asked(rows)
    lines = len(rows.prompts)  # every row of the file is another prompt
    total = {key: sum(stage[key] for stage in used) for key in ("calls", "tokens", "prompt_tokens")}
    return {
        "stages/*/in": lambda n: counted[int(n)]["in"],
        "stages/*/kept": lambda n: counted[int(n)]["kept"],
        "stages/*/dropped/*": lambda n, reason: counted[int(n)][reason],
        "stages/*/usage/*": lambda n, key: used[int(n)].get(
            key, 0
        ),  # nothing here is cached or shares a prefix
        "spent/*": lambda key: total.get(key, 0),
        "prompt_rows/*": lambda key: {"in": lines, "kept": lines}.get(key, 0),
    }


def policies(rows: Rows) -> dict[str, Any]:
    p = Policies(rows)

    def judged(policy: str, rule: str) -> dict[str, float]:
        return rows.opinions(policy)[rule]

    return {
        "policies/*/n": lambda policy: len(rows.policy_responses[policy]),
        "policies/*/groups": lambda policy: len(set(rows.keys(rows.policy_responses[policy]))),
        "policies/*/kl_left_out": lambda policy: 0,  # every response was sampled here: its tokens are known
        "policies/*/gold/*": lambda policy, rule: p.rate(rows.gold(policy)[rule])[0],
        "policies/*/gold_ci/*": lambda policy, rule: p.rate(rows.gold(policy)[rule])[1],
        "policies/*/compliance/*": lambda policy, rule: p.rate(judged(policy, rule))[0],
        "policies/*/compliance_ci/*": lambda policy, rule: p.rate(judged(policy, rule))[1],
        "policies/*/compliance_unread": lambda policy: share(*p.unread(policy)),
        "policies/*/compliance_unread_ci": p.unread_ci,
        "policies/*/win_rate/*": lambda policy, name: p.wins(policy)[name],
        "policies/*/kl": (lambda policy: p.figure(policy, "kl")[0], FORWARD),
        "policies/*/kl_ci": (lambda policy: p.figure(policy, "kl")[1], FORWARD),
        **{
            f"policies/*/{name}": lambda policy, name=name: p.figure(policy, name)[0]
            for name in ("length", "truncated", "refusal_rate", "over_refusal", "under_refusal")
        },
        **{
            f"policies/*/{name}_ci": lambda policy, name=name: p.figure(policy, name)[1]
            for name in ("length", "truncated", "refusal_rate", "over_refusal", "under_refusal")
        },
    }


def labels(rows: Rows) -> dict[str, Any]:
    found = Labels(rows)
    kinds = [row["annotator"]["kind"] for row in rows.labels]
    by: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows.labels:
        by[row["comparison_id"]].add(row["annotator"]["kind"])
    return {
        "labels/comparisons": lambda: len(rows.comparisons),
        "labels/verdicts": lambda: len(found.of()),
        "labels/calls": lambda: len(found.of()),
        "labels/decided": lambda: len(found.both()),
        "labels/order_flip_rate": found.flip_rate,
        "labels/order_flip_rate_ci": found.flip_ci,
        "labels/invalid_rate_ci": found.invalid_ci,
        "labels/first_position_rate": found.first_position,
        "labels/first_position_rate_ci": found.first_position_ci,
        "labels/mass": found.mass,
        "labels/written": lambda: 0,  # the script gives probabilities and writes no verdict
        "labels/invalid_rate": lambda: share(len(found.of()) - len(found.read()), len(found.of())),
        "labels/refused": lambda: found.reasons("refused"),
        "labels/too_long": lambda: found.reasons("too long"),
        "labels/not_numbers": lambda: found.reasons("not a number"),
        "labels/abstained": lambda: sum(row["verdict"] == "abstain" for row in found.of()),
        "labels/sources/*": kinds.count,
        "labels/preferences_by/*": lambda whom: sum(
            WHOSE[frozenset(by[i])] == whom for i in rows.preferences
        ),
        "labels/people/asked": lambda: len(rows.comparisons),  # this config leaves nothing out
        "labels/people/labelled": lambda: sum(bool(found - {"ai"}) for found in by.values()),
        "labels/by_principle/*/n": lambda rule: len(found.of(rule)),
        "labels/by_principle/*/decided": lambda rule: len(found.both(rule)),
        "labels/by_principle/*/flip_rate": found.flip_rate,
        "labels/by_principle/*/flip_rate_ci": found.flip_ci,
        "labels/by_principle/*/mean_confidence": lambda rule: mean(abs(p - 0.5) for p in found.read(rule)),
        "labels/by_principle/*/gold_decided": lambda rule: len(found.decided(rule=rule)),
        "labels/by_principle/*/agreement_with_gold": lambda rule: found.agreement(rule=rule),
        "labels/by_principle/*/agreement_with_gold_ci": found.agreement_ci,
        "labels/by_principle/*/gold_groups": found.gold_groups,
        "labels/agreement_with_gold": found.agreement,
        "labels/agreement_with_gold_ci": found.agreement_ci,
        "labels/gold_groups": found.gold_groups,
        "labels/gold_decided": lambda: len(found.decided()),
        "labels/gold_tie_distance": found.tie_distance,
        "labels/agreement_by_source/*": found.agreement,
        "labels/agreement_by_source_ci/*": lambda kind: found.agreement_ci(kind=kind),
    }


def reward_of(rows: Rows) -> Reward:
    stage = RunReader(rows.run).last("reward")
    assert stage is not None
    prompts = [rows.comparisons[pair]["prompt_id"] for pair in rows.preferences]
    return Reward(rows, heldout_prompts(stage, prompts, stage.options.heldout))


def trained(rows: Rows) -> dict[str, Any]:
    r, chosen, online = reward_of(rows), Chosen(rows), Online(rows)
    reference = r.reference()
    return {
        "reward_model/n_train": lambda: len(r.train),
        "reward_model/n_heldout": lambda: len(r.heldout),
        "reward_model/heldout_accuracy": lambda: mean(r.right(r.margins)),
        "reward_model/heldout_accuracy_ci": r.accuracy_ci,
        "reward_model/n_decided": lambda: len(r.decided),
        "reward_model/groups_decided": lambda: len({r.keys[i] for i in r.decided}),
        "reward_model/ece": (lambda: r.calibration["ece"], FORWARD),
        "reward_model/ece_floor": (lambda: r.calibration["ece_floor"], FORWARD),
        "reward_model/reliability/*/*": (lambda b, column: r.bin(int(b))[int(column)], FORWARD),
        "reward_model/cross_entropy": (r.cross_entropy, FORWARD),
        "reward_model/label_entropy": r.entropy,
        "reward_model/excess_cross_entropy": (lambda: r.cross_entropy() - r.entropy(), FORWARD),
        "reward_model/temperature": (r.temperature, 1e-3),
        # Of the few held-out pairs, whose responses depend on the last bits, all may have two sources;
        # tests/oracle/test_stages.py always has some of one.
        "?reward_model/by_source/*/n": lambda who: len(r.right(r.margins, who)),
        "?reward_model/by_source/*/accuracy": lambda who: mean(r.right(r.margins, who)),
        "?reward_model/by_source/*/accuracy_ci": r.accuracy_ci,
        "reward_model/baselines/longer": lambda: mean(r.right(r.longer())),
        "reward_model/baselines/constant": lambda: mean(r.right(r.constant())),
        "reward_model/baselines_ci/longer": lambda: r.rule_ci(r.longer()),
        "reward_model/baselines_ci/constant": lambda: r.rule_ci(r.constant()),
        "reward_model/reward_mean": (lambda: mean(reference), FORWARD),
        "reward_model/reward_std": (
            lambda: mean((x - mean(reference)) ** 2 for x in reference) ** 0.5,
            FORWARD,
        ),
        "ppo/updates": lambda: len(online.updates),
        "ppo/episodes": lambda: 8 * len(online.updates),
        **{
            f"ppo/{name}": lambda name=name: online.over(name)
            for name in (
                "kl",
                "reward_start",
                "reward_end",
                "score_start",
                "score_end",
                "length",
                "truncated",
                "entropy",
            )
        },
        "best_of_n/n": lambda: 4,
        "best_of_n/prompts": lambda: len(rows.graded),
        "best_of_n/curve/*/n": lambda n: 2 ** int(n),
        "best_of_n/curve/*/kl": lambda n: chosen.kl(2 ** int(n)),
        "best_of_n/curve/*/reward": (lambda n: chosen.at(int(n), "reward")[0], FORWARD),
        "best_of_n/curve/*/reward_ci": (lambda n: chosen.at(int(n), "reward")[1], FORWARD),
        "best_of_n/curve/*/gold": lambda n: chosen.at(int(n), "gold")[0],
        "best_of_n/curve/*/gold_ci": lambda n: chosen.at(int(n), "gold")[1],
        "best_of_n/gao/*": lambda name: chosen.gao()[name],
    }


def test_the_labels_are_what_the_judge_said(rows: Rows) -> None:
    asked = set()
    for row in (row for row in rows.labels if row["annotator"]["kind"] == "ai"):
        pair, rule = rows.comparisons[row["comparison_id"]], row["principle_id"]
        said = rows.verdicts(rule, rows.text(pair["a"]), rows.text(pair["b"])).get(row["order"])
        assert (said is None) == (row.get("p_a") is None)
        assert said is None or abs(said - row["p_a"]) < 1e-9
        asked.add((pair["id"], rule, row["order"]))
    pairs = rows.comparisons.values()
    assert len(asked) == sum(2 * len(rows.rules(pair["prompt_id"])) for pair in pairs)


def test_the_preferences_are_the_rule_of_the_docs(rows: Rows) -> None:
    """docs/labelling.md: a judge's rules added as bounded logits, people as a share of votes, both mixed by
    weight."""
    stored = {row["comparison_id"]: row["p_a"] for row in rows.of("label", "preferences")}
    assert stored.keys() == rows.preferences.keys()
    assert all(abs(stored[pair] - p) < 1e-9 for pair, p in rows.preferences.items())
    assert set(WEIGHTS) == {row["principle_id"] for row in rows.labels if row.get("principle_id")}


def test_the_best_of_n_are_those_of_the_highest_reward(rows: Rows) -> None:
    responses, rewards = rows.of("best_of_n", "responses"), rows.graded
    for prompt, chosen in rows.policy_responses["best_of_n"].items():
        ids = [row["id"] for row in responses if row["prompt_id"] == prompt]
        assert rewards[prompt][ids.index(chosen["id"])][0] >= max(r for r, _ in rewards[prompt]) - 1e-4

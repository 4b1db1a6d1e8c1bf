"""Options that do not go together are said before anything runs: refused where they can mean nothing."""

import json

import pytest

from rlaif import pipeline
from rlaif.errors import UserError
from rlaif.preflight.combinations import ALONE, engine_of

HEAD = """name: x
constitution: constitution.yaml
prompts: prompts.jsonl
gold: tests.scripts:gold
policy: {model: policy, engine: transformers}
feedback: {engine: scripted, model: "tests.scripts:feedback"}
stages:
"""
SAMPLED = "  - {stage: sample, k: 4, num_prompts: 24}\n"
LABELLED = SAMPLED + "  - stage: pair\n  - stage: label\n"
REVISED = "  - {stage: sample, num_prompts: 24}\n  - {stage: critique, rounds: 2}\n"
REWARDED = LABELLED + "  - {stage: reward, batch_size: 8}\n"


def stage(name: str, **options: object) -> str:
    return f"  - {json.dumps({'stage': name, **options})}\n"


def ppo(**options: object) -> str:
    return REWARDED + stage("ppo", **options)


def rloo(**options: object) -> str:
    return REWARDED + stage("rloo", **options)


def pair(**options: object) -> str:
    return SAMPLED + stage("pair", **options)


def label(**options: object) -> str:
    return SAMPLED + "  - stage: pair\n" + stage("label", **options)


PEOPLE = {"annotator": "rlaif.playground.annotators:annotate"}
SINGLE = {"minibatches": 1, "epochs": 1}
# (stages, what is said); a config without the last option of each says nothing, see the test below.
ALONE_CASES = [
    (stage("sample", k=2, temperature=0), "sample: with temperature 0 all k responses"),
    (stage("sample", temperature=0, top_p=0.9), "top_p does nothing with temperature 0"),
    (REVISED + stage("sft", batch_size=4, micro_batch=8), "sft: a micro_batch larger than the batch_size"),
    (
        REVISED + stage("pair", samples=False, revisions=True, per_prompt=1),
        "per_prompt does nothing without samples",
    ),
    (label(max_tokens=64), "max_tokens does nothing without cot"),
    (label(ai=False, human=PEOPLE, labels_from="earlier"), "labels_from does nothing with ai: false"),
    (label(human=PEOPLE), "ai: rest asks it only"),
    (
        label(human={**PEOPLE, "weight": 1, "route": "unsure"}),
        "route does nothing without share or num_pairs",
    ),
    (
        label(human={"file": "labels.jsonl", "weight": 1, "options": {"a": 1}}),
        "label.human: options does nothing",
    ),
    (LABELLED + stage("dpo", batch_size=4, micro_batch=8), "dpo: a micro_batch larger than the batch_size"),
    (
        REWARDED + stage("ppo", rewards=[{"source": "reward_model", "pool_k": 2}]),
        "ppo.rewards[0]: pool_k does",
    ),
    (
        ppo(judge_watched_prompts=True, num_watched_prompts=0),
        "judge_watched_prompts does nothing with num_watched_prompts: 0",
    ),
    (ppo(updates=10, warmup=10), "ppo: the warm-up is as long as the training"),
    (rloo(updates=10, warmup=11), "rloo: the warm-up is as long as the training"),
    (rloo(clip=0.1), "rloo: clip does nothing with one optimiser step"),
    (ppo(clip=0.1), "ppo: clip does nothing with one optimiser step"),
    (ppo(dual_clip=3), "dual_clip does nothing with one optimiser step"),
    (ppo(max_update_kl=0.1), "max_update_kl does nothing with one optimiser step"),
    (ppo(kl_horizon=500), "kl_horizon does nothing without kl_target"),
    (ppo(kl_coef=0, kl_in="reward"), "kl_in does nothing with kl_coef 0"),
    (ppo(kl_coef=0, kl_estimator="k2"), "kl_estimator does nothing with kl_coef 0"),
    (ppo(rollout_memory=0.4), "rollout_memory does nothing without rollouts: vllm"),
    (
        ppo(missing_eos="bootstrap", missing_eos_penalty=2),
        "missing_eos_penalty does nothing with missing_eos: boot",
    ),
    (ppo(updates=20, checkpoint_every=30), "no checkpoint before the end"),
    (ppo(lora={"adapter": "adapter", "rank": 4}), "ppo.lora: rank does nothing with an adapter"),
    (ppo(lora={"adapter": "adapter", "alpha": 4}), "ppo.lora: alpha does nothing with an adapter"),
    (
        stage("evaluate", num_prompts=4, num_judged_prompts=8),
        "evaluate: more prompts for the judge than are evaluated",
    ),
]
ACROSS_CASES = [
    (stage("sample", num_prompts=500), "sample: num_prompts 500, but 4"),
    (SAMPLED + stage("pair", per_prompt=7), "pair: per_prompt 7, but 4 responses make 6 pairs a prompt"),
    (
        stage("sample", k=2) + "  - stage: pair\n" + stage("label", mode="best and worst"),
        "asks twice about 2 responses",
    ),
    (SAMPLED + stage("rejection", keep=4, rewards=[{"source": "judge"}]), "rejection: keep 4 of 4 responses"),
    (
        REVISED + stage("sft", batch_size=64),
        "sft: batch_size 64, but at most 48 revisions: one optimiser step",
    ),
    (LABELLED + stage("reward", batch_size=1000), "reward: batch_size 1000, but at most 144 comparisons"),
    (LABELLED + stage("dpo", batch_size=1000), "dpo: batch_size 1000, but at most 144 comparisons"),
    (
        LABELLED + stage("reward", batch_size=8, source_weights={"human": 1, "simulated": 2}),
        "source_weights: simulated, but",
    ),
]
REFUSED = [
    (
        LABELLED + stage("reward", source_weights={"human": 0, "ai": 0, "simulated": 0}),
        "no preference would count",
    ),
    (
        label(ai="rest", human=PEOPLE) + stage("dpo", human_ratio=0.5, source_weights={"ai": 2}),
        "human_ratio and source_weights both weigh people",
    ),
    (LABELLED + stage("reward", human_ratio=0.5), "human_ratio, but no label stage has people's labels"),
    (ppo(rewards=[{"source": "reward_model", "weight": 0}]), "nothing would be rewarded"),
    (ppo(rewards=[{"source": "reward_model", "pool": "worst"}]), "pool: worst of one reward model"),
    (stage("sample") + stage("critique", few_shot=2), "critique: few_shot 2, but no principle"),
    (label(few_shot=2), "label: few_shot 2, but no principle"),
    (ppo(kl_target=6, kl_coef=0), "has to be more than 0"),
    (ppo(updates=5, critic_warmup=5), "the policy would learn nothing"),
    (ppo(batch_size=4, minibatches=8), "some would be empty"),
]


def warned(project, stages: str, *overrides: str, head: str = HEAD) -> list[str]:
    (project / "policy").mkdir(exist_ok=True)
    (project / "adapter").mkdir(exist_ok=True)
    if "earlier" in stages:
        pipeline.run(project / "config.yaml", project / "earlier")
    (project / "labels.jsonl").touch()
    (project / "case.yaml").write_text(head + stages)
    return pipeline.dry_run(project / "case.yaml", list(overrides))["warnings"]


@pytest.mark.parametrize(("stages", "said"), ALONE_CASES + ACROSS_CASES)
def test_a_doubtful_combination_is_warned_of(project, stages, said):
    assert [warning for warning in warned(project, stages) if said in warning]


@pytest.mark.parametrize(("stages", "said"), REFUSED)
def test_a_meaningless_combination_is_refused(project, stages, said):
    with pytest.raises(UserError, match=said.replace("[", r"\[")):
        warned(project, stages)


def test_every_combination_of_one_stage_has_a_case(project):
    told: list[str] = []
    for stages, _ in [*ALONE_CASES, *REFUSED]:
        try:
            told += warned(project, stages)
        except UserError as error:
            told.append(str(error))
    assert not [one.says for one in ALONE if one.says not in "\n".join(told)]


@pytest.mark.parametrize(
    "stages",
    [
        REVISED
        + stage("sft", batch_size=8)
        + SAMPLED
        + stage("pair", per_prompt=2, revisions=True)
        + stage("label"),
        REWARDED
        + stage("ppo", kl_target=6, kl_horizon=5000, epochs=2, clip=0.1, updates=60)
        + stage("evaluate"),
        label(human={**PEOPLE, "weight": 2}),
        label(cot=True, max_tokens=64),
    ],
)
def test_what_goes_together_is_not_warned_of(project, stages):
    assert warned(project, stages) == []


def test_defaults_are_not_told_as_if_given(project):
    for stages in (LABELLED, REVISED, REWARDED, ppo(updates=100), rloo(updates=100)):
        assert warned(project, stages) == []


def test_options_of_another_engine(project):
    found = warned(project, SAMPLED, "policy.base_url=http://localhost:8000/v1", "feedback.gpu_memory=0.5")
    assert found == [
        "policy: base_url is for engine: openai, and this is transformers",
        "feedback: gpu_memory is for engine: vllm, and this is scripted",
    ]
    assert engine_of("model") == engine_of("dtype") == ""


def test_a_policy_without_weights_cannot_be_trained(project):
    with pytest.raises(UserError, match="sft: it opens the policy's model folder, which engine: openai"):
        warned(
            project, REVISED + stage("sft"), "policy.engine=openai", "policy.base_url=http://localhost:1/v1"
        )


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (stage("best_of_n", rewards=[{"source": "judge"}]), "best_of_n"),
        (LABELLED + stage("reward"), "reward"),
        (LABELLED + stage("reward", model="policy"), None),
        (stage("evaluate"), None),
    ],
)
def test_a_stage_that_opens_the_policys_folder_is_refused_with_one_behind_an_endpoint(project, made, name):
    served = ("policy.engine=openai", "policy.base_url=http://localhost:1/v1")
    if name is None:
        warned(project, made, *served)
        return
    with pytest.raises(UserError, match=f"{name}: it opens the policy's model folder, which engine: openai"):
        warned(project, made, *served)


def test_the_run_as_a_whole(project):
    found = warned(project, SAMPLED, "rounds=2", "judge_card={}", "heldout=0.0001")
    assert any("every round is the same" in said for said in found)
    assert any("judge_card: no stage asks the judge" in said for said in found)
    assert any(
        "no prompt is held out" in said for said in warned(project, stage("evaluate"), "heldout=0.0001")
    )
    assert any(
        "told apart by length" in s
        for s in warned(project, stage("evaluate", num_judged_prompts=0), "gold=null")
    )


@pytest.mark.parametrize(
    ("stages", "heldout", "said"),
    [
        (SAMPLED, 0.9999, "sample: every prompt is held out"),
        (stage("ppo", rewards=[{"source": "judge"}]), 0.9999, "ppo: every prompt is held out"),
        (stage("best_of_n", rewards=[{"source": "judge"}]), 0.0001, "best_of_n: no prompt is held out"),
    ],
)
def test_a_stage_without_prompts_is_refused(project, stages, heldout, said):
    with pytest.raises(UserError, match=said):
        warned(project, stages, f"heldout={heldout}")


def test_held_out_wordings_are_something_to_evaluate_on(project):
    rows = [{"prompt": f"Question {n}?", "group": "one"} for n in range(40)]
    (project / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = warned(project, stage("evaluate"), "heldout=0.0001", "heldout_wordings=0.5")
    assert not [said for said in found if "no prompt is held out" in said]


def test_shipped_configs_are_not_warned_of():
    assert pipeline.dry_run("configs/quickstart.yaml")["warnings"] == []


def test_a_run_tells_its_warnings_first(project):
    told: list[str] = []
    pipeline.run(
        project / "config.yaml",
        project / "run",
        ["critique.rounds=1", "label.max_tokens=9"],
        tell=told.append,
    )
    assert told[0] == "warning: label: max_tokens does nothing without cot: it is the length of the reasoning"

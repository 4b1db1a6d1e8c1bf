"""Options that other fast tests observe, each with the test and what of the option stands in it."""

from tests.observed.rows import Elsewhere

ONLINE, PPO, STAGE, REWARDS = "test_groups", "test_ppo_options", "test_ppo_stage", "test_ppo_rewards"
ADDED = "test_what_the_model_config_adds_reaches_the_server_and_the_fingerprint"


def online(name: str) -> dict[str, Elsewhere]:
    """What RLOO and GRPO share."""
    return {
        f"{name}.sample_every": Elsewhere(ONLINE, "test_looks_are_ppos_looks", "heldout"),
        f"{name}.judge_watched_prompts": Elsewhere(
            ONLINE, "test_the_judge_looks_and_a_tracker_is_told", "judge_watched_prompts=True"
        ),
        f"{name}.tracker": Elsewhere(ONLINE, "test_the_judge_looks_and_a_tracker_is_told", "tracker="),
        f"{name}.rewards": Elsewhere(ONLINE, "test_it_learns_what_is_rewarded", "short_words"),
    }


def prompts(name: str, test: str, mention: str) -> dict[str, Elsewhere]:
    """What is said of where the prompts are."""
    return {f"prompts.{name}": Elsewhere("test_prompt_sources", test, mention)}


HUB = "test_parquet_a_saved_data_set_and_the_hub"
IN_A_RUN = "test_a_run_keeps_the_prompts_and_says_what_it_left_out"

ELSEWHERE: dict[str, Elsewhere] = {
    **prompts("column", IN_A_RUN, "prompts.column=question"),
    **prompts("group", IN_A_RUN, "prompts.group=topic"),
    **prompts("hub", HUB, "hub="),
    **prompts("subset", HUB, "subset="),
    **prompts("split", HUB, 'split="test"'),
    **prompts("format", "test_a_format_is_recognised_or_named", 'format="text"'),
    **prompts("system", "test_columns_of_other_names", 'system="rule"'),
    **prompts("tags", "test_columns_of_other_names", 'tags="kind"'),
    "model.chat_template_kwargs": Elsewhere("test_engines_refused", ADDED, "chat_template_kwargs"),
    "model.extra_body": Elsewhere("test_engines_refused", ADDED, "extra_body"),
    "model.base_url": Elsewhere(
        "test_engines_openai", "test_two_endpoints_share_the_work", "engine_at(one, two)"
    ),
    "model.served_as": Elsewhere("test_engines_openai", "test_another_name_for_the_model", "served_as="),
    "model.batch_tokens": Elsewhere(
        "test_engines_transformers", "test_small_batches_change_nothing", "batch_tokens="
    ),
    "model.fit": Elsewhere(
        "test_judge_fit_command", "test_the_command_writes_a_fit_that_a_config_names", "fit="
    ),
    "label.labels_from": Elsewhere(
        "test_taken_over", "test_on_the_same_comparisons_only_the_edited_principle_is_asked", "labels_from"
    ),
    "label.human.file": Elsewhere(
        "test_pipeline", "test_labels_for_comparisons_that_do_not_exist_are_refused", "human: {file:"
    ),
    "judge_card.enforce": Elsewhere(
        "test_gate", "test_label_refuses_a_judge_whose_card_fails_until_told_otherwise", "enforce"
    ),
    "sft.demonstrations": Elsewhere(
        "test_demonstrations", "test_the_policy_learns_what_it_is_shown", '"demonstrations": path'
    ),
    "sft.demonstration_share": Elsewhere(
        "test_demonstrations",
        "test_demonstrations_and_revisions_are_mixed_by_a_share",
        '"demonstration_share": share',
    ),
    "reward.members": Elsewhere(
        "test_reward_more", "test_members_differ_by_seed_and_are_measured_together_and_each", "members="
    ),
    "reward.heldout_sets": Elsewhere(
        "test_reward_more",
        "test_named_sets_are_measured_with_their_baselines_and_never_trained_on",
        "heldout_sets=",
    ),
    "rewards.source": Elsewhere(REWARDS, "test_sources_are_scaled_weighed_and_reported", "source"),
    "rewards.pool": Elsewhere(
        "test_arms", "test_an_ensemble_is_pooled_on_one_scale_and_drives_ppo", '"pool": how'
    ),
    "best_of_n.rewards": Elsewhere(
        "test_arms", "test_best_of_n_chooses_the_best_and_its_curve_ends_there", "likes_good"
    ),
    "rejection.rewards": Elsewhere(
        "test_arms", "test_rejection_learns_to_say_what_was_graded_best", "source()"
    ),
    **online("rloo"),
    **online("grpo"),
    "ppo.model": Elsewhere(
        STAGE, "test_other_weights_may_start_and_the_reference_stays_the_current_policy", "model=str("
    ),
    "ppo.updates": Elsewhere(STAGE, "test_what_the_stage_writes", "[1, 2, 3, 4, 5, 6]"),
    "ppo.rewards": Elsewhere(REWARDS, "test_sources_are_scaled_weighed_and_reported", "rewards"),
    "ppo.sample_every": Elsewhere(REWARDS, "test_held_out_prompts_are_looked_at", "[1, 3, 4]"),
    "ppo.num_watched_prompts": Elsewhere(
        REWARDS, "test_held_out_prompts_are_looked_at", "num_watched_prompts=5"
    ),
    "ppo.judge_watched_prompts": Elsewhere(
        REWARDS, "test_held_out_prompts_are_looked_at", "judge_watched_prompts=True"
    ),
    "ppo.tracker": Elsewhere(
        REWARDS, "test_a_tracker_gets_the_numbers_and_a_missing_one_is_named", "tracker="
    ),
    "ppo.checkpoint_every": Elsewhere(
        STAGE, "test_a_kill_costs_no_more_updates_than_lie_between_checkpoints", "checkpoint_every=every"
    ),
    "ppo.critic_warmup": Elsewhere(
        "test_ppo", "test_critic_warm_up_moves_the_value_model_alone", "critic_warmup=1"
    ),
    "ppo.temperature": Elsewhere(
        "test_ppo", "test_log_probabilities_are_those_of_the_sampling_temperature", "temperature=0.5"
    ),
    "ppo.kl_coef": Elsewhere("test_ppo", "test_kl_is_paid_for_in_the_reward", "kl_coef=0.5"),
    "ppo.kl_target": Elsewhere("test_ppo", "test_adaptive_kl_rises_above_its_target", "kl_target="),
    "ppo.kl_horizon": Elsewhere("test_ppo", "test_adaptive_kl_rises_above_its_target", "kl_horizon="),
    "ppo.missing_eos_penalty": Elsewhere(
        "test_ppo", "test_a_truncated_response_pays_and_an_ended_one_does_not", "missing_eos_penalty=3.0"
    ),
    "ppo.kl_in": Elsewhere(PPO, "test_kl_in_the_loss_leaves_the_reward_alone_and_pulls_back", 'kl_in="loss"'),
    "ppo.missing_eos": Elsewhere(PPO, "test_a_truncated_response_goes_on_with_its_value", "bootstrap"),
    "ppo.score_at": Elsewhere(
        PPO, "test_the_score_can_stand_after_the_eos_and_that_state_is_valued", "after_eos"
    ),
    "ppo.max_update_kl": Elsewhere(
        PPO, "test_an_update_ends_where_the_policy_has_gone_far_enough", "max_update_kl="
    ),
    "ppo.ema_decay": Elsewhere(
        PPO, "test_the_average_follows_the_weights_and_takes_their_place", "ema_decay=0.9"
    ),
    "ppo.importance_cap": Elsewhere(
        PPO, "test_a_sampler_that_differs_is_reported_and_corrected_for", "importance_cap=cap"
    ),
    "ppo.shared_trunk_vf_coef": Elsewhere(
        PPO, "test_on_a_shared_trunk_the_value_loss_moves_the_policy", "shared_trunk_vf_coef=coef"
    ),
    "ppo.lora.adapter": Elsewhere(
        PPO,
        "test_an_adapter_is_saved_and_gone_on_with_and_one_of_another_model_refused",
        "LoraOptions(adapter=",
    ),
    "ppo.rollouts": Elsewhere(
        "test_vllm_rollout", "test_a_stage_samples_by_vllm_and_lets_it_go", 'rollouts="vllm"'
    ),
}

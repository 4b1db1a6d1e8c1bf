"""The mutants: a text of the package that stands there once, what it becomes, and the tests that notice it.

A text is looked for in the whole package (in `file`, where it is given), so a move makes no mutant stale,
and a text that is gone or stands there twice fails in tests/test_mutants.py. Texts are parts of lines:
formatting leaves them alone.
"""

from __future__ import annotations

from tests.mutants.material import MATERIAL
from tests.mutants.mutant import ROOT, Mutant

__all__ = ["MUTANTS", "ROOT", "Mutant"]


def seen(option: str, old: str, new: str, file: str = "") -> Mutant:
    """A mutant that the row of this option in tests/observed notices."""
    return Mutant(old, new, "test_options_observed", f"[{option}]", file)


def shown(old: str, new: str, file: str = "") -> Mutant:
    """A mutant that a golden text notices."""
    return Mutant(old, new, "test_shown", "", file)


MUTANTS = (
    # The next round, the policies and the seeds.
    Mutant(
        "if artefact in stage.options.makes:",
        "if artefact in stage.options.makes and stage.round == self.round:",
        "test_rounds",
    ),
    Mutant(
        "stage.name if stage.round == run.config.rounds else",
        "stage.name if stage.round == 1 else",
        "test_rounds",
    ),
    Mutant("for r in range(1, self.rounds + 1)", "for r in range(1, 2)", "test_config", "rounds"),
    seen("seed", "derive_seed(self.config.seed, self.number,", "derive_seed(0, self.number,"),
    # sample, critique, pair.
    seen("sample.top_p", "options.temperature, top_p, seed)", "options.temperature, 1.0, seed)"),
    seen("sample.max_tokens", "GenerateRequest(p.chat, options.max_tokens,", "GenerateRequest(p.chat, 256,"),
    seen(
        "sample.k",
        "for prompt in prompts for index in range(k)",
        "for prompt in prompts for index in range(1)",
    ),
    seen("sample.num_prompts", '"prompts")[: options.num_prompts]', '"prompts")[:8]'),
    seen("critique.few_shot", "few = stage.options.few_shot", "few = 2"),
    seen(
        "critique.temperature",
        "_temperature(stage.options, what),",
        "1.0,",
    ),
    seen("critique.rounds", "for round in range(1, stage.options.rounds + 1)", "for round in range(1, 2)"),
    seen("critique.critique", "todo if stage.options.critique else []", "todo"),
    Mutant(
        "job.prompt.tags, stage.seed, job.origin.id, round)",
        "job.prompt.tags, stage.seed, job.origin.id, 1)",
        "test_pipeline",
        "drawn_principle",
    ),
    seen("pair.per_prompt", "stage.options.per_prompt or len(different)", "len(different)"),
    seen("pair.limit", '"limit")[: options.limit]', '"limit")'),
    Mutant(
        "a=last.to_id, b=origin, origin",
        "a=origin, b=last.to_id, origin",
        "test_pipeline",
        "artefact or reason or confirmed or prefers",
    ),
    # The judge, labels and preferences.
    seen(
        "label.few_shot",
        "comparison_shots(stage.constitution, options.few_shot)",
        "comparison_shots(stage.constitution, 0)",
    ),
    seen("label.cot", "self.clamp or ((0.4, 0.6) if self.cot else (0.0, 1.0))", "self.clamp or (0.0, 1.0)"),
    seen("label.clamp", "return self.clamp or", "return"),
    seen(
        "label.max_tokens",
        "cot = options.max_tokens if options.cot",
        "cot = 256 if options.cot",
    ),
    seen("label.mode", "tuple(shots), cot, options.judge_mode)", "tuple(shots), cot)"),
    Mutant("(before > 0.5) != (after > 0.5)", "(before > 0.5) == (after > 0.5)", "test_edit", "predicts"),
    Mutant("row.principle_id != name]", "row.principle_id == name]", "test_edit", "each_edit_alone"),
    Mutant(
        "fresh = {slot: row for slot, row in added.items() if slot not in given}",
        "fresh: dict[Slot, Label] = {}",
        "test_edit",
        "kept_and_no_other",
    ),
    Mutant('row.annotator.kind == "ai" and row.principle_id in waiting', "False", "test_edit", "predicts"),
    Mutant("load_causal_lm(o.model or start, ", "load_causal_lm(start, ", "test_ppo_stage", "other_weights"),
    Mutant("new_tensor([[1.0], [-1.0]])", "new_tensor([[1.0], [1.0]])", "test_judge_fit_adapter", "the_loss"),
    Mutant("fitted(self.fold != held)", "fitted(self.fold >= 0)", "test_judge_fit_adapter", "temperature"),
    Mutant("model.unload()", "pass", "test_judge_fit_adapter", "nothing_of_it_stays"),
    Mutant("self.trained(fold != held,", "self.trained(fold >= 0,", "test_judge_fit_adapter", "no_prompt_is"),
    Mutant("theirs.backup(copy)", "pass", "test_apply", "takes_the_cache"),
    seen("label.principles", "if self.subset is None or p in self.subset", "if p"),
    seen(
        "label.human.weight",
        "aggregate(labels, stage.constitution, human_weight, stage.options.bounds)",
        "aggregate(labels, stage.constitution, 1.0, stage.options.bounds)",
    ),
    seen("label.human.share", "/ 2**31 < human.share]", "/ 2**31 < 1.0]"),
    seen("judge_card.num_pairs", "limits.num_pairs, questions, key", "64, questions, key"),
    seen(
        "judge_card.max_invalid",
        '"value": card["readability"]["invalid_rate"],',
        '"value": card["readability"]["mass"],',
    ),
    seen(
        "judge_card.min_accuracy",
        'card["accuracy"], limits.min_accuracy',
        'card["accuracy"], limits.min_answer_mass',
    ),
    Mutant(
        'p_a = first if label.order == "ab" else 1.0 - first',
        "p_a = first",
        "test_judge",
        "both_orders or position",
    ),
    Mutant(
        '(self.a, self.b) if order == "ab" else (self.b, self.a)',
        "(self.a, self.b)",
        "test_judge",
        "both_orders or position",
    ),
    Mutant(
        "sigmoid(sum(weights[i] * logit(p, BOUND) for i",
        "sigmoid(sum(logit(p, BOUND) for i",
        "test_judge",
        "add_up",
    ),
    Mutant(
        "sigmoid(sum(map(logit, p)) / len(p))",
        "sigmoid(sum(map(logit, p)))",
        "test_judge",
        "averaged",
    ),
    Mutant(
        "voted = human_weight * len(people) * share(people)",
        "voted = len(people) * share(people)",
        "test_preferences",
        "votes or weight or added or clamped",
    ),
    Mutant(
        'self.flips += (p["ab"] > 0.5) != (p["ba"] > 0.5)',
        'self.flips += (p["ab"] > 0.5) == (p["ba"] > 0.5)',
        "test_judge",
        "position",
    ),
    Mutant(
        'self.first += (side == "a") == (label.order == "ab")',
        'self.first += (side == "a")',
        "test_judge",
        "position",
    ),
    Mutant(
        '{"all": all(kept.values()), **kept}',
        '{"all": any(kept.values()), **kept}',
        "test_gold",
        "apply or rates",
    ),
    # What trl's trainers are given.
    seen(
        "sft.train_on",
        'if stage.options.train_on == "last" else revisions',
        "if not revisions else revisions",
    ),
    seen("pretrain.block_size", "length = stage.options.block_size", "length = 256"),
    seen("pretrain.architecture.context", "max_position_embeddings=context", "max_position_embeddings=512"),
    Mutant(
        "*token_ids(tokenizer, text), tokenizer.eos_token_id]",
        "*token_ids(tokenizer, text)]",
        "test_pretrain",
        "packed",
    ),
    Mutant("len(blocks) - 1)", "len(blocks))", "test_pretrain", "some_blocks"),
    Mutant(
        'found["base"] = stage.dir / "policy"',
        'found["base"] = found["base"]',
        "test_pretrain",
        "base_policy",
    ),
    Mutant("plan.policies -= self.makes_base", "plan.policies -= 0", "test_pretrain", "base_policy"),
    Mutant(
        "if prompt.identity() not in apart",
        "if True",
        "test_demonstrations",
        "held_out",
    ),
    Mutant(
        "len(revised) / (1 - share), len(demonstrated) / share",
        "len(revised) / share, len(demonstrated) / (1 - share)",
        "test_demonstrations",
        "mixed",
    ),
    Mutant("if len(responses) != 1:", "if not responses:", "test_demonstrations", "reason"),
    seen("sft.epochs", '"num_train_epochs": options.epochs', '"num_train_epochs": 1.0'),
    seen("sft.learning_rate", '"learning_rate": options.learning_rate', '"learning_rate": 1e-5'),
    seen("sft.micro_batch", "options.micro_batch or share", "share"),
    seen("reward.center_coef", "center=stage.options.center_coef", "center=0.0"),
    seen("reward.margin", "margin=stage.options.margin", "margin=0.0", "reward.py"),
    seen("dpo.margin", "margin=stage.options.margin", "margin=0.0", "dpo.py"),
    seen("dpo.beta", "beta=stage.options.beta", "beta=0.1"),
    seen("reward.model", "start = stage.options.model or stage.input", "start = stage.input"),
    seen("reward.max_length", "limit = min(stage.options.max_length, context)", "limit = context"),
    seen("reward.hard_labels", 'float(round(pair["p_a"]))', 'pair["p_a"]'),
    seen("reward.source_weights", '"weight": _weight(stage, preference)', '"weight": 1.0'),
    Mutant(
        "self.center, self.margin)",
        "self.margin, self.center)",
        "test_options_observed",
        "[reward.center_coef] or [reward.margin]",
    ),
    Mutant("a - b - margin * (2 * p_a - 1)", "a - b - margin", "test_reward_more", "margin"),
    Mutant(
        '"n_train": len(train),\n        "n_heldout": len(heldout),',
        '"n_train": len(heldout),\n        "n_heldout": len(train),',
        "test_reward_more test_reward",
        "learns_which or measured",
    ),
    Mutant(
        "correct(lead, p_a) for lead, p_a in zip(longer, labels",
        "correct(-lead, p_a) for lead, p_a in zip(longer, labels",
        "test_reward",
        "by_hand",
    ),
    seen("rloo.group_size", "num_generations=o.group_size", "num_generations=2"),
    seen("rloo.clip", "epsilon=o.clip", "epsilon=0.2"),
    seen("grpo.kl_coef", "beta=o.kl_coef", "beta=0.05"),
    seen("rloo.max_grad_norm", "max_grad_norm=o.max_grad_norm", "max_grad_norm=1.0"),
    seen("rloo.warmup", "kind.stops = o.warmup * steps_of(o)", "kind.stops = 10 * steps_of(o)"),
    seen("grpo.missing_eos_penalty", "(scores_B - self.options.missing_eos_penalty", "(scores_B - 1.0"),
    seen("grpo.scale_rewards", "scale_rewards=stage.options.scale_rewards", 'scale_rewards="group"'),
    # PPO.
    seen("ppo.max_grad_norm", "self.options.max_grad_norm))", "1.0))"),
    seen("ppo.value_clip", "old_N, returns_N, self.options.value_clip)", "old_N, returns_N, 0.2)"),
    seen(
        "ppo.value_clip",
        "old_BS[states_BS], returns_N, self.options.value_clip",
        "old_BS[states_BS], returns_N, 0.2",
    ),
    seen("ppo.gamma", "o.gamma, o.lam, after_B", "o.lam, o.gamma, after_B"),
    seen("ppo.dual_clip", "o.clip, o.dual_clip)", "o.clip)"),
    seen("ppo.clip", "advantages_N, o.clip,", "advantages_N, 0.2,"),
    seen("ppo.whiten_rewards", "if o.whiten_rewards:", "if not o:"),
    seen(
        "ppo.value_learning_rate",
        "(self.value_optimizer, o.value_learning_rate or o.learning_rate, 0)",
        "(self.value_optimizer, o.learning_rate, 0)",
    ),
    seen("ppo.ptx.coef", "ptx.batch_size, ptx.coef,", "ptx.batch_size, 27.8,"),
    seen("ppo.lora.alpha", "lora_alpha=options.alpha", "lora_alpha=32"),
    Mutant("rate_share(number - first, o", "rate_share(number, o", "test_ppo", "warms_up"),
    Mutant("(steps - step + 1) / max", "(steps - step) / max", "test_rl_numerics", "falls"),
    seen("ppo.lr_schedule", "o.warmup, o.lr_schedule)", 'o.warmup, "constant")'),
    seen("rloo.lr_schedule", "kind.lr_schedule = o.lr_schedule", 'kind.lr_schedule = "constant"'),
    Mutant('kl_coef if o.kl_in == "reward" else 0.0', "kl_coef", "test_ppo_options", "kl_in"),
    Mutant("else ends.score_B - o.missing_eos_penalty", "else ends.score_B - 1.0", "test_ppo", "truncated"),
    Mutant(
        "mean.lerp_(weights[name], 1 - decay)",
        "mean.lerp_(weights[name], decay)",
        "test_ppo_options",
        "average",
    ),
    Mutant("> (self.options.max_update_kl or math.inf)", "> math.inf", "test_ppo_options", "far_enough"),
    Mutant(".clamp(max=o.importance_cap)", "", "test_ppo_options", "sampler"),
    Mutant("(pretraining.coef * loss).backward()", "loss.backward()", "test_ppo_options", "mix"),
    Mutant(
        "0.5 * torch.max((values_N - returns_N)",
        "0.5 * torch.min((values_N - returns_N)",
        "test_rl_numerics",
        "value_loss",
    ),
    Mutant(
        "(probs_NV * (log_probs_NV - reference_NV))",
        "(probs_NV * (reference_NV - log_probs_NV))",
        "test_rl_numerics",
        "exact",
    ),
    Mutant(
        "source.weight * (scores_B - source.scale.mean)",
        "(scores_B - source.scale.mean)",
        "test_ppo_rewards",
        "scaled_weighed",
    ),
    Mutant(
        "rebase_head(model, source.scale, source.weight)",
        "rebase_head(model, source.scale)",
        "test_ppo_rewards",
        "value_model",
    ),
    # Grades, and what is chosen by them.
    seen("rewards.weight", "source.weight * (score - centre)", "(score - centre)"),
    seen("rewards.pool_k", "option.pool, option.pool_k)", "option.pool, 1.0)"),
    seen("rejection.keep", "list(texts.values())[:keep]", "list(texts.values())[:1]"),
    Mutant("(-rewards[r.id], r.index)", "(rewards[r.id], r.index)", "test_arms", "best_of_each"),
    Mutant(
        "max(row, key=lambda r: (r[1], -r[0].index))",
        "min(row, key=lambda r: (r[1], -r[0].index))",
        "test_arms",
        "chooses_the_best",
    ),
    # evaluate.
    seen(
        "evaluate.num_judged_prompts",
        "stage.run.evaluated(options.num_judged_prompts)",
        "stage.run.evaluated(options.num_prompts)",
    ),
    Mutant("            kl=kl[at],", "            kl=kl[0],", "test_evaluated"),
    Mutant("compliance.get(at, {}),", "compliance.get(0, {}),", "test_evaluated"),
    seen(
        "evaluate.temperature",
        "GenerateRequest(prompt.chat, options.max_tokens, options.temperature,",
        "GenerateRequest(prompt.chat, options.max_tokens, 1.0,",
    ),
    Mutant("return stage.options.temperature or 1.0", "return 1.0", "test_evaluated"),
    Mutant(
        "JudgeQuestion(pair, prompt, mine.text, theirs.text, principles)",
        "JudgeQuestion(pair, prompt, theirs.text, mine.text, principles)",
        "test_evaluated",
    ),
    Mutant("refusal=refuses(response.text)", "refusal=not refuses(response.text)", "test_evaluated"),
    shown("lambda row, texts, prompts: row.refusal", "lambda row, texts, prompts: not row.refusal"),
    shown("lambda row, texts, prompts: row.tokens", "lambda row, texts, prompts: row.kl"),
    # What is spent.
    seen(
        "prices.completion",
        'used.get("tokens", 0) * price.completion',
        'used.get("tokens", 0) * price.prompt',
    ),
    Mutant(
        "Asked(plan.config.policy, plan.responses,",
        "Asked(plan.config.policy, plan.comparisons,",
        "test_pipeline",
        "dry_run",
    ),
    # What is shown.
    shown('table = Table("", *names)', 'table = Table("", *reversed(names))'),
    shown(
        'cells = [data["policies"][n].get(group, {}).get(key) for n in names]',
        'cells = [data["policies"][n].get(group, {}).get(key) for n in reversed(names)]',
    ),
    shown("next(reversed(self.evaluations), None)", "next(iter(self.evaluations), None)"),
    shown("lambda row, texts, prompts: row.kl", "lambda row, texts, prompts: row.tokens"),
    shown('float(text.finish_reason == "length")', 'float(text.finish_reason != "length")'),
    shown("cell(p[m.key], m.digits)", 'cell(p["length"], m.digits)'),
    shown(
        "{{ row.n | count }}</td><td>{{ row.decided | count }}",
        "{{ row.decided | count }}</td><td>{{ row.n | count }}",
    ),
    shown(
        "{{ reward.n_train | count }} / {{ reward.n_heldout | count }}",
        "{{ reward.n_heldout | count }} / {{ reward.n_train | count }}",
    ),
    shown("{{ labels.mass | fixed(3) }}", "{{ labels.invalid_rate | fixed(3) }}"),
    shown("{fixed(pair[kind][b][name], 3)}", "{fixed(pair[kind][a][name], 3)}"),
    shown(
        "{{ kind[a][id] | fixed(3) }}</td><td>{{ kind[b][id] | fixed(3) }}",
        "{{ kind[b][id] | fixed(3) }}</td><td>{{ kind[a][id] | fixed(3) }}",
    ),
    shown(
        "{{ figure[a] | fixed(m.digits) }}</td><td>{{ figure[b]",
        "{{ figure[b] | fixed(m.digits) }}</td><td>{{ figure[a]",
    ),
    shown("run[m.key] | fixed(m.digits)", 'run["length"] | fixed(m.digits)'),
    shown("rate(card.order.to_first)", "rate(card.order.to_second)"),
    Mutant(
        "if min(first, second) > 0.5 and both", "if max(first, second) > 0.5 and both", "test_example_tests"
    ),
    Mutant("setting.judge(without(constitution, own)) if own else usual", "usual", "test_example_tests"),
    Mutant("judge.compare(questions, done=self._labels.keys())", "judge.compare(questions)", "test_probe"),
    Mutant(
        "if one.before.verdict != one.after.verdict]",
        "if one.before.p_a != one.after.p_a]",
        "test_probe",
        "moved",
    ),
    Mutant("if version_of(content) != version:", "if version is None:", "test_editor", "written_over"),
    Mutant("if host not in self.hosts:", "if not host:", "test_server", "host"),
    Mutant('origin not in (None, f"http://{host}")', 'origin == "null"', "test_server", "origin"),
    shown("{_rate(order)} clear verdicts", "{_rate(accuracy)} clear verdicts"),
    shown("rate(total.preferences, 3)", "rate(total.turned, 3)"),
    Mutant(
        '"to_first": rate(first), "to_second": rate(second)',
        '"to_first": rate(second), "to_second": rate(first)',
        "test_auditing",
        "flips",
    ),
    Mutant(
        '(a if change["value"] > 0 else b)',
        '(a if change["value"] < 0 else b)',
        "test_compare",
        "figures_are or human_or_ai or judge_and_gold",
    ),
    Mutant("None if refuse == answer else refuse", "refuse", "test_comparing_arms", "tags or over_and_under"),
    Mutant("wins_C + ONE_TIE / 2", "wins_C", "test_comparing_arms", "another_library or two_arms"),
    Mutant(
        'data["win_rate"]["taught"] == winner.letter',
        'data["win_rate"]["taught"] != winner.letter',
        "test_comparing_arms",
        "taught_one_side",
    ),
    Mutant(
        "JudgeQuestion(pair, prompt, mine.text, theirs.text, tuple(",
        "JudgeQuestion(pair, prompt, theirs.text, mine.text, tuple(",
        "test_compare",
        "figures_are or human_or_ai or judge_and_gold",
    ),
    Mutant(
        '("kl", "sampled"), ("exact_kl", "exact")', '("exact_kl", "sampled"), ("kl", "exact")', "test_shown"
    ),
    Mutant("(now * then < 0)", "(now * then > 0)", "test_principles"),
    Mutant('ranked(pairs, "opposite")', 'ranked(pairs, "same")', "test_principles"),
    *MATERIAL,
)

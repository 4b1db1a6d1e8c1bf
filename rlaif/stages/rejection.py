"""rejection: fine-tune the policy on the best-rewarded of its own responses ("modified SFT", best-of-n
distilled).

The responses are those of the last sample stage; a reward model, the judge or a function grades them; of each
prompt the best are kept. One round of it is the rejection sampling of Llama 2 (arXiv 2307.09288, section
3.2.3).
"""

from __future__ import annotations

from collections import defaultdict

from rlaif.errors import UserError
from rlaif.options import RejectionOptions
from rlaif.records import Response
from rlaif.rl.checkpoints import train_once
from rlaif.runs.folder import Stage
from rlaif.stats import mean
from rlaif.training.examples import tokenise

SHARED = True  # several processes can do it together
SHARDED = True  # and each can hold a share of the model


def run(stage: Stage[RejectionOptions]) -> None:
    """Write grades.jsonl, policy/ (a model folder) and metrics.jsonl (the learning curve)."""
    from rlaif.engines.loading import context_length, load_causal_lm, load_tokenizer
    from rlaif.rl.ranks import Ranks
    from rlaif.training.loop import curve_summary, fit_responses, heldout_prompts
    from rlaif.training.rewards import grade, open_rewards

    source = stage.input("policy")
    tokenizer = load_tokenizer(source, stage.config.policy.chat_template_kwargs)
    model = load_causal_lm(source, stage.config.policy.device, dtype="float32")
    responses = stage.load("responses", Response)
    rewards = Ranks.current().on_rank0(
        lambda: grade(stage, open_rewards(stage, tokenizer), tokenizer, responses)
    )
    kept = best([r for r in responses if r.id in rewards], rewards, stage.options.keep)
    stage.dropped["graded lower than others of its prompt"] += len(rewards) - len(kept)
    prompts, limit = stage.prompts_by_id(), min(stage.options.max_length, context_length(model))
    rows = tokenise(stage, tokenizer, [(prompts[r.prompt_id], r) for r in kept], limit)
    stage.save("running", **{"in": len(responses), "kept": len(rows)})
    if not rows:
        raise UserError(
            f"{stage.dir.name}: none of {len(responses)} responses can be trained on "
            f"({dict(stage.dropped)}).",
            "at least one response with a grade",
            "look at the sample stage and at rejection.rewards",
        )
    held = heldout_prompts(stage, [row["prompt_id"] for row in rows], stage.options.heldout)
    train_once(stage, "policy", lambda: fit_responses(stage, model, tokenizer, rows, held))
    stage.metrics = {
        **curve_summary(stage),
        "n_heldout": sum(row["prompt_id"] in held for row in rows),
        "reward_all": mean(list(rewards.values())),
        "reward_kept": mean([rewards[r.id] for r in kept]),
    }
    stage.note_example(tokenizer.decode(rows[0]["input_ids"]), f"reward {rewards[kept[0].id]:.3f}")


def best(responses: list[Response], rewards: dict[str, float], keep: int) -> list[Response]:
    """Of each prompt the `keep` best-rewarded responses with different texts, the earlier sample where they
    are equal."""
    by_prompt: dict[str, dict[str, Response]] = defaultdict(dict)
    for response in sorted(responses, key=lambda r: (-rewards[r.id], r.index)):
        by_prompt[response.prompt_id].setdefault(response.text, response)
    return [response for texts in by_prompt.values() for response in list(texts.values())[:keep]]

"""sft: fine-tune the policy on prompts and revised responses, with the loss on the response and its end alone.

Constitutional AI (arXiv 2212.08073), section 3: supervised learning on all revisions, not only on the last.
Left out: the paper's mix with helpful samples of the policy itself.
"""

from __future__ import annotations

from typing import Any

from rlaif.errors import UserError
from rlaif.options import SftOptions
from rlaif.prompting.chat import TemplateRefused
from rlaif.prompting.turns import turn_of
from rlaif.records import Revision
from rlaif.rl.checkpoints import train_once
from rlaif.runs.folder import Stage

SHARED = True  # several processes can do it together
SHARDED = True  # and each can hold a share of the model


def run(stage: Stage[SftOptions]) -> None:
    """Write policy/ (a model folder) and metrics.jsonl (the learning curve)."""
    from rlaif.engines.loading import load_causal_lm, load_tokenizer
    from rlaif.training.loop import fit_responses, heldout_prompts, learned

    source = stage.input("policy")
    tokenizer = load_tokenizer(source, stage.config.policy.chat_template_kwargs)
    model = load_causal_lm(source, stage.config.policy.device, dtype="float32")
    rows = _rows(stage, tokenizer, model)
    held = heldout_prompts(stage, [row["prompt_id"] for row in rows], stage.options.heldout)
    train_once(stage, "policy", lambda: fit_responses(stage, model, tokenizer, rows, held))
    stage.metrics = {**learned(stage), "n_heldout": sum(row["prompt_id"] in held for row in rows)}


def _rows(stage: Stage[SftOptions], tokenizer: Any, model: Any) -> list[dict[str, Any]]:
    """Tokenised examples; every revision that is not one is dropped with its reason."""
    from rlaif.engines.loading import context_length

    revisions = stage.load("revisions", Revision)
    chosen = last_of_each_chain(revisions) if stage.options.train_on == "last" else revisions
    texts, prompts = stage.responses(), stage.prompts_by_id()
    limit = min(stage.options.max_length, context_length(model))
    rows: list[dict[str, Any]] = []
    for revision in chosen:
        response = texts[revision.to_id]
        try:
            prompt_ids, response_ids = turn_of(tokenizer, prompts[revision.prompt_id].chat, response)
        except TemplateRefused as refused:
            stage.dropped[refused.reason] += 1
            continue
        if revision.status == "invalid":
            stage.dropped["invalid revision"] += 1
        elif not response.text.strip():
            stage.dropped["empty response"] += 1
        elif len(prompt_ids) + len(response_ids) > limit:
            stage.dropped[f"longer than {limit} tokens"] += 1
        else:
            rows.append(
                {
                    "prompt_id": revision.prompt_id,
                    "input_ids": prompt_ids + response_ids,
                    "start": len(prompt_ids),
                }
            )
    stage.save("running", **{"in": len(chosen), "kept": len(rows)})
    if not rows:
        raise UserError(
            f"{stage.dir.name}: none of {len(chosen)} revisions can be trained on ({dict(stage.dropped)}).",
            "at least one valid revision",
            "look at the critique stage: `rlaif show` prints what it dropped and why",
        )
    stage.note_example(tokenizer.decode(rows[0]["input_ids"]), "")
    return rows


def last_of_each_chain(revisions: list[Revision]) -> list[Revision]:
    """For each original response its last valid revision, or its first one where none is valid."""
    chains: dict[str, list[Revision]] = {}
    origin: dict[str, str] = {}
    for revision in sorted(revisions, key=lambda r: r.round):
        first = origin.setdefault(revision.to_id, origin.get(revision.from_id, revision.from_id))
        chains.setdefault(first, []).append(revision)
    return [next((r for r in reversed(c) if r.status != "invalid"), c[0]) for c in chains.values()]

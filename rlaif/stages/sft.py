"""sft: fine-tune the policy on prompts and revised or demonstrated responses, with the loss on the response
and its end alone.

Constitutional AI (arXiv 2212.08073), section 3: supervised learning on all revisions, not only on the last.
Demonstrations are what people, or another model, wrote (arXiv 2203.02155, section 3.5). Left out: the paper's
mix with helpful samples of the policy itself.
"""

from __future__ import annotations

from typing import Any

from rlaif.errors import UserError
from rlaif.options import SftOptions
from rlaif.prompting.demonstrations import read_demonstrations
from rlaif.records import Prompt, Revision
from rlaif.rl.checkpoints import train_once
from rlaif.runs.folder import Stage, is_heldout, split_of
from rlaif.training.examples import Example, Row, tokenise

SHARED = True  # several processes can do it together
SHARDED = True  # and each can hold a share of the model


def run(stage: Stage[SftOptions]) -> None:
    """Write policy/ (a model folder) and metrics.jsonl (the learning curve)."""
    from rlaif.engines.loading import context_length, load_causal_lm, load_tokenizer
    from rlaif.training.loop import curve_summary, fit_responses, heldout_prompts

    source = stage.input("policy")
    tokenizer = load_tokenizer(source, stage.config.policy.chat_template_kwargs)
    model = load_causal_lm(source, stage.config.policy.device, dtype="float32")
    rows, others = _training_rows(stage, tokenizer, min(stage.options.max_length, context_length(model)))
    held = heldout_prompts(stage, [row["prompt_id"] for row in rows], stage.options.heldout, others)
    train_once(stage, "policy", lambda: fit_responses(stage, model, tokenizer, rows, held))
    stage.metrics = {**curve_summary(stage), "n_heldout": sum(row["prompt_id"] in held for row in rows)}
    if others:
        stage.metrics["n_demonstrations"] = sum("demonstrated" in row for row in rows)


def _training_rows(
    stage: Stage[SftOptions], tokenizer: Any, limit: int
) -> tuple[list[Row], dict[str, Prompt]]:
    """(what is trained on, the demonstrations' prompts by id); every row that is not is counted."""
    demonstrated = _demonstrated_examples(stage)
    parts = [_revised_examples(stage), demonstrated]
    revised_rows, shown_rows = (tokenise(stage, tokenizer, part, limit) for part in parts)
    rows = _mix_by_share(stage, revised_rows, [{**row, "demonstrated": True} for row in shown_rows])
    total = len(rows) + stage.dropped.total()
    stage.save("running", **{"in": total, "kept": len(rows)})
    if not rows:
        made = "revisions and demonstrations" if demonstrated else "revisions"
        raise UserError(
            f"{stage.dir.name}: none of {total} {made} can be trained on ({dict(+stage.dropped)}).",
            "at least one valid revision or demonstration",
            "look at the critique stage, or at the file: `rlaif show` prints what was dropped and why",
        )
    stage.note_example(tokenizer.decode(rows[0]["input_ids"]), "")
    return rows, {prompt.id: prompt for prompt, _ in demonstrated}


def _revised_examples(stage: Stage[SftOptions]) -> list[Example]:
    """Prompts with their revised responses, where the options ask for them; invalid ones are dropped."""
    share, earlier = stage.options.demonstration_share, stage.run.stages[: stage.number - 1]
    wanted = "revisions" in stage.options.required_artefacts
    if not wanted and (share == 1 or not any("revisions" in s.options.makes for s in earlier)):
        return []
    revisions = stage.load("revisions", Revision)
    chosen = last_of_each_chain(revisions) if stage.options.train_on == "last" else revisions
    texts, prompts = stage.responses(), stage.prompts_by_id()
    stage.dropped["invalid revision"] += sum(revision.status == "invalid" for revision in chosen)
    return [
        (prompts[revision.prompt_id], texts[revision.to_id])
        for revision in chosen
        if revision.status != "invalid"
    ]


def _demonstrated_examples(stage: Stage[SftOptions]) -> list[Example]:
    """The demonstrations, where the options name some, without those of prompts that are held out."""
    source = stage.options.demonstrations
    if source is None:
        return []
    found = read_demonstrations(source, "sft.demonstrations")
    stage.dropped.update(found.dropped)
    apart = {
        prompt.identity()
        for prompt in stage.prompts_by_id().values()
        if split_of(prompt, stage.config) != "train"
    }
    kept = [
        (prompt, response)
        for prompt, response in found.rows
        if prompt.identity() not in apart
        and not (prompt.group and is_heldout(prompt.group, stage.config.heldout))
    ]
    stage.dropped["held out for evaluation"] += len(found.rows) - len(kept)
    return kept


def _mix_by_share(stage: Stage[SftOptions], revised: list[Row], demonstrated: list[Row]) -> list[Row]:
    """As many of both as the stated share of demonstrations allows, drawn by the stage's seed."""
    share = stage.options.demonstration_share
    if share is None or share == 1:
        return [*revised, *demonstrated]
    whole = min(len(revised) / (1 - share), len(demonstrated) / share)
    kept = [
        *stage.shuffled(revised, "revisions")[: round(whole * (1 - share))],
        *stage.shuffled(demonstrated, "demonstrations")[: round(whole * share)],
    ]
    left_out = len(revised) + len(demonstrated) - len(kept)
    stage.dropped["left out for the share of demonstrations"] += left_out
    return kept


def last_of_each_chain(revisions: list[Revision]) -> list[Revision]:
    """For each original response its last valid revision, or its first one where none is valid."""
    chains: dict[str, list[Revision]] = {}
    origin: dict[str, str] = {}
    for revision in sorted(revisions, key=lambda r: r.round):
        first = origin.setdefault(revision.to_id, origin.get(revision.from_id, revision.from_id))
        chains.setdefault(first, []).append(revision)
    return [next((r for r in reversed(c) if r.status != "invalid"), c[0]) for c in chains.values()]

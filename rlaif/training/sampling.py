"""Responses of the stage's policy to prompts, each written as soon as it is
sampled; responses that exist are kept."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.engines import TEMPLATE, GenerateRequest, open_engine
from rlaif.errors import UserError
from rlaif.records import Prompt, Response
from rlaif.runs.folder import Stage
from rlaif.runs.rows import Rows
from rlaif.runs.seeds import derive_seed


def sample_responses(stage: Stage, prompts: Sequence[Prompt], k: int, top_p: float = 1.0) -> Rows[Response]:
    """k responses to each prompt in responses.jsonl; prompts that do not fit the context, or that a server or
    the chat template refuses, are dropped and counted.

    Raises UserError where a chat template refuses every one. The stage's options give `temperature` and
    `max_tokens`; the seed of a sample depends on its prompt and index alone.
    """
    rows = stage.rows("responses", Response)
    have = {(row.prompt_id, row.index) for row in rows}
    wanted = [(prompt, index) for prompt in prompts for index in range(k)]
    missing = [(prompt, index) for prompt, index in wanted if (prompt.id, index) not in have]
    if missing:
        _sample(stage, missing, rows, len(wanted), top_p)
        refuse_none_taken(stage, len(wanted), len(rows))
    stage.note_example(prompts[0].messages[-1].content, next((r.text for r in rows), ""))
    stage.save("running", **{"in": len(wanted), "kept": len(rows)})
    return rows


def refuse_none_taken(stage: Stage, total: int, kept: int) -> None:
    """Raise UserError, with what was said, where nothing of `total` is kept and a chat template refused some
    of it."""
    mark = f"refused: {TEMPLATE}"
    asked = stage.run.ledger.figures(stage.dir.name)
    said = [key.removeprefix(mark) for key in asked if key.startswith(mark)]
    if said and not kept:
        stage.save("running", **{"in": total, "kept": kept})
        raise UserError(
            f"{stage.dir.name}: none of {total} is kept ({dict(+stage.dropped)}); the model's chat "
            "template says: "
            f"{'; '.join(said[:3])}.",
            "conversations whose roles, in their order, the chat template takes",
            "fix chat_template in the tokenizer's folder, or the prompts (a system turn, two turns of one "
            "speaker), and start anew in another folder",
        )


def _sample(
    stage: Stage, missing: Sequence[tuple[Prompt, int]], rows: Rows[Response], total: int, top_p: float
) -> None:
    options = stage.options
    policy = stage.config.policy.model_copy(update={"model": str(stage.input("policy"))})
    engine = open_engine(policy, account=stage.account)
    sampling = {"temperature": options.temperature, "top_p": top_p, "max_tokens": options.max_tokens}
    seeds = [derive_seed(stage.seed, prompt.id, index) for prompt, index in missing]
    requests = [
        GenerateRequest(p.chat, options.max_tokens, options.temperature, top_p, seed)
        for (p, _), seed in zip(missing, seeds, strict=True)
    ]
    with stage.progress(total, "responses", total - len(missing)) as tick:
        for at, made in engine.generate(requests):
            prompt, index = missing[at]
            if made.why_empty:
                stage.dropped[made.why_empty] += 1
            else:
                rows.append(
                    [
                        Response(
                            prompt_id=prompt.id,
                            text=made.text,
                            model=engine.fingerprint,
                            sampling=sampling,
                            seed=seeds[at],
                            index=index,
                            finish_reason=made.finish_reason,
                            tokens=made.tokens,
                            token_ids=made.token_ids,
                            thinking=made.thinking or None,
                        )
                    ]
                )
            tick(1)

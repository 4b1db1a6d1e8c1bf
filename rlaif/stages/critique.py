"""critique: N critique–revision rounds by the feedback model, a principle drawn anew for each round.

Constitutional AI (arXiv 2212.08073), section 3.1: one principle per revision, drawn independently with
replacement (here: among those that apply to the prompt); with `critique: false` the revision is asked for
directly (section 3.5). The full trace is kept: every critique, every intermediate text. What is no revision
(see `revisions`) is dropped and counted by reason, and the response before it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rlaif.constitution import Principle
from rlaif.engines import Engine, GenerateRequest, Generation, open_engine
from rlaif.feedback.revisions import why_no_revision, without_preamble
from rlaif.options import CritiqueOptions
from rlaif.prompting.templates import Chat, Templates
from rlaif.records import Prompt, Response, Revision
from rlaif.runs.folder import Stage
from rlaif.runs.rows import Rows, by_id
from rlaif.runs.seeds import derive_seed
from rlaif.training.sampling import refuse_none_taken

CHUNK = 256  # responses between two writes: what a killed process may have to ask again


@dataclass
class RevisionJob:
    """A response on its way through the rounds."""

    prompt: Prompt
    origin: Response
    current: Response
    principle: Principle | None = None
    critique: str = ""


def run(stage: Stage[CritiqueOptions]) -> None:
    """Write revisions.jsonl (the trace) and responses.jsonl (the revised texts)."""
    origins = stage.load("responses", Response)
    prompts = stage.prompts_by_id()
    revised = stage.rows("responses", Response)
    trace = stage.rows("revisions", Revision)
    jobs = [RevisionJob(prompts[r.prompt_id], r, r) for r in origins]
    total = len(jobs) * stage.options.rounds
    if len(trace) < total:
        engine = open_engine(stage.config.feedback, stage.run.cache, stage.account)
        with stage.progress(total, "revisions", len(trace)) as tick:
            for start in range(0, len(jobs), CHUNK):
                for done in _revise(stage, engine, jobs[start : start + CHUNK], revised, trace):
                    tick(done)
    rows = list(trace)
    for row in rows:
        if row.status == "invalid":
            stage.dropped[f"revision {row.reason or 'empty, cut off or too long to ask'}"] += 1
    stage.dropped["no principle applies"] += total - len(rows)
    unchanged = sum(row.status == "unchanged" for row in rows)
    stage.metrics = {
        "revisions": len(rows),
        "unchanged": unchanged,
        "rounds": stage.options.rounds,
        "preambles_removed": sum(row.preamble is not None for row in rows),
    }
    if rows:
        texts = stage.responses()
        stage.note_example(texts[rows[0].from_id].text, f"{rows[0].critique} → {texts[rows[0].to_id].text}")
    kept = sum(row.status != "invalid" for row in rows)
    refuse_none_taken(stage, total, kept)
    stage.save("running", **{"in": total, "kept": kept})


def _revise(
    stage: Stage[CritiqueOptions],
    engine: Engine,
    jobs: list[RevisionJob],
    revised: Rows[Response],
    trace: Rows[Revision],
) -> Iterator[int]:
    templates = stage.templates
    steps = {(row.round, row.from_id): row for row in trace}
    texts = by_id(list(revised))
    for round in range(1, stage.options.rounds + 1):
        todo: list[RevisionJob] = []
        for job in jobs:
            step = steps.get((round, job.current.id))
            if step is not None:
                job.current = texts.get(step.to_id, job.current)
                continue
            job.principle = stage.constitution.draw(job.prompt.tags, stage.seed, job.origin.id, round)
            todo += [job] if job.principle else []
        for job, text in _write(
            stage, engine, todo if stage.options.critique else [], round, "critique", templates
        ):
            job.critique = "" if text.why_empty else text.text
        for job, written in _write(stage, engine, todo, round, "revision", templates):
            preamble, text = without_preamble(written.text)
            made = replace(written, text=text, token_ids=None) if preamble else written
            critique = job.critique if stage.options.critique else None
            reason = why_no_revision(made, job.prompt, job.current.text, job.principle, critique)
            after = job.current if reason else _response(job, made, engine, stage, round)
            if not reason and made.text == job.current.text:
                status, after = "unchanged", job.current
            else:
                status = "invalid" if reason else "ok"
            revised.append([after] if after is not job.current else [])
            trace.append(
                [
                    Revision(
                        prompt_id=job.prompt.id,
                        round=round,
                        principle_id=job.principle.id if job.principle else "",
                        from_id=job.current.id,
                        to_id=after.id,
                        critique=job.critique,
                        status=status,
                        reason=reason,
                        preamble=preamble or None,
                    )
                ]
            )
            job.current = after
            yield 1


def _write(
    stage: Stage[CritiqueOptions],
    engine: Engine,
    jobs: list[RevisionJob],
    round: int,
    what: str,
    templates: Templates,
) -> Iterator[tuple[RevisionJob, Generation]]:
    few = stage.options.few_shot

    def ask(job: RevisionJob) -> Chat:
        assert job.principle is not None
        if what == "critique":
            return templates.critique(job.prompt.chat, job.current.text, job.principle, few)
        return templates.revision(job.prompt.chat, job.current.text, job.principle, job.critique, few)

    requests = [
        GenerateRequest(
            ask(job),
            stage.options.max_tokens,
            _temperature(stage.options, what),
            seed=derive_seed(stage.seed, what, job.origin.id, round),
        )
        for job in jobs
    ]
    for at, made in engine.generate(requests):
        yield jobs[at], made


def _temperature(options: CritiqueOptions, what: str) -> float:
    own = options.revision_temperature if what == "revision" else None
    return options.temperature if own is None else own


def _response(
    job: RevisionJob, made: Generation, engine: Engine, stage: Stage[CritiqueOptions], round: int
) -> Response:
    return Response(
        prompt_id=job.prompt.id,
        text=made.text,
        model=engine.fingerprint,
        tokens=made.tokens,
        token_ids=made.token_ids,
        thinking=made.thinking or None,
        index=job.origin.index,
        sampling={
            "temperature": _temperature(stage.options, "revision"),
            "max_tokens": stage.options.max_tokens,
            "round": round,
        },
        seed=derive_seed(stage.seed, "revision", job.origin.id, round),
    )

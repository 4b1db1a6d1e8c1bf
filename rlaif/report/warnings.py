"""Warnings for the reader of a run, computed from the run's numbers, and what to try next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.audit.thresholds import failures
from rlaif.feedback.gold import no_gold
from rlaif.feedback.preferences import ShareByCluster
from rlaif.options import STAGES, EvaluateOptions, OnlineOptions
from rlaif.pages.page import percent
from rlaif.report.run_reader import RunReader
from rlaif.rl.alarms import ENDLESS, Alarm, learned_little
from rlaif.runs.folder import Stage
from rlaif.runs.lookup import cut_files
from rlaif.runs.storage import read_json

# Beyond these a figure stops meaning what a reader takes it for.
FLIPS, USELESS, MASS, AGREEMENT = 0.25, 0.75, 0.5, 0.7
MISSING, DROPPED, LENGTH, FEW = 0.05, 0.05, 1.25, 30
ANOTHER_JUDGE = (
    "a larger or better instructed model as feedback.model; templates: brief, which suits small ones; "
    "people's labels (label.human.file). `rlaif judge audit` examines a judge on 60 pairs before a run"
)
MORE_COMPARISONS = (
    "more comparisons: more prompts, or a higher sample.k; and see below how far the labels can be trusted"
)
LIMITS = {"cut off": "max_tokens", "longer than": "max_length"}  # the option behind a reason to drop a row


@dataclass(frozen=True)
class Warned:
    """What was found `about` a part of the run, and what to try where it points somewhere."""

    about: str
    found: str
    advice: str = ""


def run_warnings(reader: RunReader) -> list[Warned]:
    """Every warning of a run: unfinished, judge, reward model, dropped rows, length."""
    online = [name for name, kind in STAGES.items() if issubclass(kind, OnlineOptions)]
    return [
        *_unfinished(reader),
        *_cut_rows(reader),
        *_shared(reader),
        *_refused_judge(reader),
        *_judge(reader.metrics("label")),
        *_gold(reader),
        *_opinions(reader),
        *_reward(reader.metrics("reward")),
        *(warned for name in online if (stage := reader.last(name)) for warned in _online(stage)),
        *_dropped(reader),
        *_responses(reader),
    ]


def what_to_try(warned: Sequence[Warned]) -> list[tuple[str, str]]:
    """(what it is about, advice), each once, in the order of the warnings."""
    return list(dict.fromkeys((each.about, each.advice) for each in warned if each.advice))


def _shared(reader: RunReader) -> Iterator[Warned]:
    parent = reader.manifest.get("parent") or {}
    if parent.get("differs"):
        yield Warned(
            "The run",
            f"Stages {', '.join(parent['shared'])} are shared with {parent['path']} and were made with "
            f"something else than this run's config: {'; '.join(parent['differs'])}.",
        )


def _unfinished(reader: RunReader) -> Iterator[Warned]:
    stage = reader.unfinished
    if stage is not None:
        error = stage.summary.get("error")
        state = f"failed: {error}" if error else stage.summary.get("status", "has not begun")
        yield Warned(
            "The run",
            f"The run is not finished: stage {stage.number} of {len(reader.run.stages)} ({stage.name}) "
            f"{state}. What follows is what there is so far.",
            f"`rlaif resume {shlex.quote(str(reader.path))}` continues it",
        )


def _cut_rows(reader: RunReader) -> Iterator[Warned]:
    """Rows that a kill cut short, or that are being written; in a finished stage they are damage."""
    for folder in (reader.path, *(stage.dir for stage in reader.stages)):
        for file in cut_files(folder):
            yield Warned(
                "The run", f"The last row of {file.relative_to(reader.path)} is not whole: left out."
            )


def _refused_judge(reader: RunReader) -> Iterator[Warned]:
    """Why label refused the judge, where its card missed what the config asks of it."""
    stage, limits = reader.last("label"), reader.run.config.judge_card
    path = stage.dir / "judge_card.json" if stage else None
    if stage and limits and path and stage.summary.get("status") == "failed" and path.exists():
        missed = failures(read_json(path), limits)
        if missed:
            found = f"The judge was refused before it labelled: {'; '.join(missed)}."
            yield Warned("The judge", found, ANOTHER_JUDGE)


def _judge(labels: dict[str, Any]) -> Iterator[Warned]:
    said = list(_faults(labels))
    if said:
        said.append("Whatever was trained on these labels learned from such a judge.")
    yield from (Warned("The judge", found, ANOTHER_JUDGE) for found in said)


def _faults(labels: dict[str, Any]) -> Iterator[str]:
    """Why a judge's labels should not be believed."""
    flips, mass = labels.get("order_flip_rate"), labels.get("mass")
    agreement, invalid = labels.get("agreement_with_gold"), labels.get("invalid_rate")
    first = labels.get("first_position_rate")
    if flips is not None and flips > FLIPS:
        yield (
            f"The judge can hardly be trusted: {percent(flips, labels.get('order_flip_rate_ci'))} of its "
            "decided verdicts flip when the two responses "
            "change places. A coin would do so in half of the cases."
        )
    if flips is not None and first is not None and flips > USELESS:
        place = "first" if first > 0.5 else "second"
        share = max(first, 1 - first)
        yield (
            f"The judge is useless here: {share:.0%} of its verdicts choose the {place} response, whatever "
            "it says. Over both orders it prefers nothing, which is being right in half of the cases."
        )
    if mass is not None and mass < MASS:
        yield (
            f"The judge hardly answers the question: it gives the two answers together only {mass:.2g} of "
            "its probability, the rest goes to other words. Its labels are read from that small rest."
        )
    if agreement is not None and agreement < AGREEMENT:
        yield (
            "The labels agree with the known truth in only "
            f"{percent(agreement, labels.get('agreement_with_gold_ci'))} "
            "of the decided comparisons; "
            "guessing reaches 50%."
        )
    if invalid is not None and invalid > MISSING:
        share = percent(invalid, labels.get("invalid_rate_ci"))
        yield f"{share} of the verdicts could not be read; they are missing, not counted as ties."


def _gold(reader: RunReader) -> Iterator[Warned]:
    """Principles that the gold scorer said nothing about on any evaluated response."""
    rows = [row for rows in reader.evaluations.values() for row in rows.values()]
    known = {name for row in rows for name in row.gold or ()}
    tags = {p.tags for i in {row.prompt_id for row in rows} if (p := reader.prompts.get(i))}
    asked = [p.id for p in reader.run.constitution.principles if any(map(p.applies, tags))]
    if reader.run.config.gold:
        for line in no_gold([i for i in asked if i not in known], reader.run.config.gold):
            yield Warned("Gold", line)


def _opinions(reader: RunReader) -> Iterator[Warned]:
    """Whether the judge's opinion of single responses is worth anything, where the truth is known."""
    rows = [row for rows in reader.evaluations.values() for row in rows.values()]
    right = ShareByCluster()
    for row in rows:
        hits = [
            (p > 0.5) == row.gold[name] for name, p in row.compliance.items() if row.gold and name in row.gold
        ]
        right.add(reader.clusters.get(row.prompt_id, row.prompt_id), sum(hits), len(hits))
    share = right.value
    unread, read = sum(len(row.unread) for row in rows), sum(len(row.compliance) for row in rows)
    if unread > MISSING * (unread + read):
        yield Warned(
            "The judge",
            f"{unread} of the judge's {unread + read} opinions of single responses could not be read: "
            'those responses are left out of its "every principle kept".',
        )
    if share is not None and share < AGREEMENT:
        yield Warned(
            "The judge",
            "Asked about single responses, the judge agrees with the known truth in only "
            f"{percent(share, right.ci)} of {right.of.total()} opinions: its compliance figures do not "
            "measure compliance.",
            ANOTHER_JUDGE,
        )


def _reward(reward: dict[str, Any]) -> Iterator[Warned]:
    accuracy, baselines, n = (
        reward.get("heldout_accuracy"),
        reward.get("baselines") or {},
        reward.get("n_decided"),
    )
    best = max((v for v in baselines.values() if v is not None), default=None)
    if n is not None and n < FEW:
        yield Warned(
            "The reward model",
            f"The reward model was measured on {n} decided comparisons only: its accuracy and calibration "
            "say little.",
            MORE_COMPARISONS,
        )
    elif accuracy is not None and best is not None and accuracy <= best:
        name = max(baselines, key=lambda key: baselines[key] or 0.0)
        yield Warned(
            "The reward model",
            f"The reward model ({accuracy:.2f} right on held-out comparisons) is no better than the rule "
            f'"{name}" ({best:.2f}).',
            MORE_COMPARISONS,
        )


def _online(stage: Stage) -> Iterator[Warned]:
    """Alarms that a stage raised; rewards that were often missing; a training that could do little."""
    name, metrics, named = (
        stage.name.upper(),
        stage.summary.get("metrics", {}),
        type(stage.options).model_fields,
    )
    for source, share in metrics.get("unread", {}).items():
        if share > MISSING:
            yield Warned(
                name,
                f"{name}: the reward {source} could not read {share:.0%} of the responses, or not to their "
                "end.",
            )
    for alarm in metrics.get("alarms", ()):
        yield Warned(name, f"{name}, update {alarm['update']}: {alarm['found']}.", alarm["advice"])
    for alarm in learned_little(stage.options, metrics):
        yield Warned(name, f"{name}: {alarm.found}.", alarm.advice(stage.name, named))


def _dropped(reader: RunReader) -> Iterator[Warned]:
    for stage in reader.stages:
        rows, dropped = stage.summary.get("in"), stage.summary.get("dropped", {})
        lost = sum(dropped.values())
        if rows and lost > DROPPED * rows:
            why = ", ".join(f"{n} × {reason}" for reason, n in dropped.items() if n)
            name = f"Stage {stage.number} ({stage.name})"
            found = f"{name} dropped {lost} of {rows} rows ({lost / rows:.0%}): {why}."
            yield Warned(name, found, _limits(stage, DROPPED * rows))


def _limits(stage: Stage, most: float) -> str:
    """The limits to raise in a stage that dropped more rows for one of them than it should."""
    held = {
        option
        for reason, n in stage.summary.get("dropped", {}).items()
        for said, option in LIMITS.items()
        if said in reason and n > most and option in type(stage.options).model_fields
    }
    return ", ".join(f"raise {stage.name}.{option}" for option in sorted(held))


def _responses(reader: RunReader) -> Iterator[Warned]:
    rows = reader.evaluations
    final = reader.final_policy
    if final is None or "base" not in rows or final == "base":
        return
    lengths = {name: sum(r.tokens for r in rows[name].values()) / len(rows[name]) for name in ("base", final)}
    if lengths["base"] and lengths[final] > LENGTH * lengths["base"]:
        yield Warned(
            "The responses",
            f"Responses grew from {lengths['base']:.1f} to {lengths[final]:.1f} tokens: read the "
            "length-controlled win rate beside the plain one.",
        )
    texts = [reader.responses.get(row.response_id) for row in rows[final].values()]
    cut_off = sum(text is not None and text.finish_reason == "length" for text in texts)
    if cut_off > MISSING * len(texts):
        found = f"{cut_off} of {len(texts)} responses of {final} were cut off at the token limit."
        advice = Alarm("truncated", found, ENDLESS).advice("evaluate", EvaluateOptions.model_fields)
        yield Warned("The responses", found, advice)

"""report.html: what a run did, in one file that opens from disk. Every number comes from the run's rows."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlaif.audit import page as card_page
from rlaif.equal_length import length_controlled
from rlaif.feedback.preferences import ShareByCluster
from rlaif.human.labelled import RunLabels
from rlaif.intervals import WinRate, count, win_rate
from rlaif.metrics import METRICS, Metric
from rlaif.options import OnlineOptions
from rlaif.pages import charts
from rlaif.pages.page import ci, fixed, write_page
from rlaif.records import Evaluation
from rlaif.report import examples
from rlaif.report.measures import Table, Values, clusters_of, compliance, deltas, gold, rate
from rlaif.report.principles import coverage
from rlaif.report.principles_shown import shown
from rlaif.report.run_reader import RunReader, names_damage
from rlaif.report.summary import summarise
from rlaif.report.warnings import run_warnings, what_to_try
from rlaif.runs.folder import Stage, silent_progress
from rlaif.runs.storage import read_json
from rlaif.stats import outcomes

CURVES = (
    ("Reward", (("reward", "less KL"), ("score", "reward model's score"))),
    ("KL to the reference, nats a response", (("kl", "sampled"), ("exact_kl", "exact"))),
    ("Response length, tokens", (("length", "length"),)),
    ("Entropy, nats a token", (("entropy", "entropy"),)),
    ("Gold against the score", (("gold", "gold"), ("score", "score"))),
    ("Value model: explained variance", (("explained_variance", "explained variance"),)),
    ("Clipped share of tokens", (("clip_fraction", "clip fraction"),)),
)


@names_damage
def write_report(path: Path, progress: Any = silent_progress) -> Path:
    """Write `report.html` into a run folder, whatever stage the run has reached; returns its path."""
    reader, parts = RunReader(path), {}
    makers = {
        "headline": headline,
        "more": details,
        "policies": policies,
        "principles": principles,
        "curves": curves,
        "cases": examples.before_after,
        "traces": examples.traces,
        "pairs": examples.doubtful,
        "coverage": coverage_shown,
    }
    with progress("report, parts", len(makers)) as tick:
        for name, make in makers.items():
            parts[name] = make(reader)
            tick(1)
    warned = run_warnings(reader)
    return write_page(
        path / "report.html",
        "report.html.j2",
        name=reader.run.config.name,
        folder=str(path),
        trained=trained.name.upper() if (trained := online(reader)) else "Best of n",
        warnings=[each.found for each in warned],
        next_steps=what_to_try(warned),
        slots=slots(list(reader.evaluations)),
        metrics=shown_metrics(parts["policies"]),
        covered=covered(reader),
        labels=missing_as_none(reader.metrics("label")),
        judged_by=reader.run.config.feedback.model,
        card=judge_card(reader),
        reward=missing_as_none(reader.metrics("reward")),
        calibration=charts.calibration_chart(reader.metrics("reward").get("reliability") or []),
        stages=summarise(path)["stages"],
        asked=asked(reader),
        provenance=provenance(reader),
        config=json.dumps(reader.run.config.model_dump(mode="json", exclude_none=True), indent=1),
        constitution=reader.run.constitution,
        **parts,
    )


def shown_metrics(policies: Sequence[dict[str, Any]]) -> list[Metric]:
    """The figures that are known of some response."""
    return [metric for metric in METRICS if any(policy["known"][metric.key] for policy in policies)]


def judge_card(reader: RunReader) -> dict[str, Any] | None:
    """What the judge's card says where it was examined before it labelled, and where the whole of it lies."""
    stage = reader.last("label")
    path = stage.dir / "judge_card.json" if stage else None
    if path is None or not path.exists():
        return None
    card = read_json(path)
    lines = [
        *card_page.in_words(card),
        *(f"Read with care: {warning}" for warning in card_page.card_warnings(card)),
    ]
    return {
        "lines": lines,
        "pairs": card["pairs"],
        "page": path.with_suffix(".html").relative_to(reader.path),
    }


def coverage_shown(reader: RunReader) -> dict[str, Any] | None:
    """What each principle does to the preferences of the last label stage, as the report's other figures of
    labels are; None where no label is by principle."""
    stage = reader.last("label")
    figures = coverage(RunLabels(reader.path, reader.run, (stage,)), reader.prompts) if stage else None
    return shown(figures) if figures else None


def missing_as_none(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics in which a figure that was never measured is None."""
    return defaultdict(lambda: None, metrics)


def slots(names: Sequence[str]) -> dict[str, str]:
    """A colour name a policy: the first grey, the last the accent, the rest in between."""
    middle = {name: f"mid{index % 3}" for index, name in enumerate(names[1:-1])}
    ends = {names[-1]: "last"} | {names[0]: "base"} if names else {}
    return {name: (ends | middle)[name] for name in names}


def measured(rows: dict[str, Evaluation], has_gold: bool) -> Table:
    """Gold where the run has it, the judge's opinion otherwise."""
    return gold(rows.values()) if has_gold else compliance(rows.values())


def has_gold(reader: RunReader) -> bool:
    """Whether the run's evaluations carry gold verdicts."""
    return any(gold(rows.values()) for rows in reader.evaluations.values())


def headline(reader: RunReader) -> str:
    """The run's result in one sentence with its uncertainty."""
    final, truth = reader.final_policy, has_gold(reader)
    if final is None:
        return "No policy has been evaluated yet."
    measure = "Full compliance" if truth else "Full compliance in the judge's opinion"
    after = measured(reader.evaluations[final], truth).get("all", {})
    before = measured(reader.evaluations.get("base", {}), truth).get("all", {})
    if not after:
        return (
            f"{len(reader.evaluations[final])} responses of {final} were evaluated, but neither gold "
            "nor the judge could read them."
        )
    if final == "base" or not before.keys() & after.keys():
        return f"{measure} of {final} is {_with_ci(after, reader)} on {covered(reader, after)}."
    before, after = _on_both(before, after)
    change = deltas({"all": after}, {"all": before}, reader.clusters)["all"]
    verb = (
        "did not clearly change: it went"
        if not change["different"]
        else ("rose" if change["value"] > 0 else "fell")
    )
    moved = f"{verb} from {_with_ci(before, reader)} to {_with_ci(after, reader)}"
    return f"{measure} {moved} on {covered(reader, after)}."


def _on_both(before: Values, after: Values) -> tuple[Values, Values]:
    """The values of the prompts that are known on both sides, as their difference is of these."""
    both = [prompt for prompt in after if prompt in before]
    return {i: before[i] for i in both}, {i: after[i] for i in both}


def covered(reader: RunReader, prompts: Iterable[str] | None = None) -> str:
    """How many prompts an interval rests on, and in how many groups where these are fewer; by default all
    evaluated."""
    everywhere = (prompt for rows in reader.evaluations.values() for prompt in rows)
    asked = list(dict.fromkeys(everywhere if prompts is None else prompts))
    groups = count(len(asked), clusters_of(asked, reader.clusters))
    return f"{len(asked)} held-out prompts{f' in {groups} groups' if groups < len(asked) else ''}"


def _with_ci(values: dict[str, float], reader: RunReader) -> str:
    value, interval = rate(values, reader.clusters)
    return f"{fixed(value)} {ci(interval)}"


def details(reader: RunReader) -> list[str]:
    """Sentences below the headline: which principles moved, and the judge's win rate."""
    final = reader.final_policy
    if final in (None, "base") or "base" not in reader.evaluations:
        return []
    truth = has_gold(reader)
    before, after = (measured(reader.evaluations[name], truth) for name in ("base", str(final)))
    changes = {
        name: change for name, change in deltas(after, before, reader.clusters).items() if name != "all"
    }
    fell = [
        f"{name} ({change['value']:+.2f})"
        for name, change in changes.items()
        if change["different"] and change["value"] < 0
    ]
    rose = sum(change["different"] and change["value"] > 0 for change in changes.values())
    moved = f"Of {len(changes)} principles {rose} rose clearly, " + (
        f"{len(fell)} fell: {', '.join(fell)}." if fell else "none fell clearly."
    )
    wins = _wins(reader, _asked(reader.evaluations[str(final)]))
    flips = flip_rate(reader, reader.evaluations[str(final)].values())
    judge = (
        f"The judge prefers {final} to base in {fixed(wins['value'])} {ci(wins['ci'])} of {wins['n']} pairs "
    )
    judge += (
        f"(ties {fixed(wins['ties'])} {ci(wins['ties_ci'])}, counted half; verdicts that flip with the order "
        f"{f'{fixed(flips.value)} {ci(flips.ci)}'.rstrip()})."
    )
    source = [] if truth else ["There is no gold scorer in this run: these are opinions of the judge."]
    return [moved, *_wordings(reader, truth), *([judge] if wins["n"] else []), *source]


def _wordings(reader: RunReader, truth: bool) -> list[str]:
    """What became of what is asked in training, in wordings that were held out."""
    rows = reader.wordings
    if "base" not in rows or reader.final_policy not in rows:
        return []
    names = "base", str(reader.final_policy)
    before, after = _on_both(*(measured(rows[name], truth).get("all", {}) for name in names))
    if not after:
        return []
    return [
        f"On {len(after)} held-out wordings of what was asked in training it went from "
        f"{_with_ci(before, reader)} to {_with_ci(after, reader)}."
    ]


def flip_rate(reader: RunReader, rows: Iterable[Evaluation]) -> ShareByCluster:
    """The share of the judge's decided verdicts against base that flip with the order."""
    found = ShareByCluster()
    for row in rows:
        found.add(reader.clusters.get(row.prompt_id, row.prompt_id), *(row.flips or (0, 0)))
    return found


def unread(reader: RunReader, rows: Iterable[Evaluation]) -> ShareByCluster:
    """The share of the judge's opinions of single responses that could not be read."""
    found = ShareByCluster()
    for row in rows:
        asked = len(row.unread) + len(row.compliance)
        found.add(reader.clusters.get(row.prompt_id, row.prompt_id), len(row.unread), asked)
    return found


def policies(reader: RunReader) -> list[dict[str, Any]]:
    """One entry a policy: compliance, win rate against base, and every figure of METRICS."""
    base = reader.evaluations.get("base", {})
    return [_policy(reader, name, rows, base) for name, rows in reader.evaluations.items()]


def _policy(
    reader: RunReader, name: str, rows: dict[str, Evaluation], base: dict[str, Evaluation]
) -> dict[str, Any]:
    everything = list(rows.values())
    asked = _asked(rows)
    judged = [row for row in asked if row.p_win is not None and row.prompt_id in base and name != "base"]
    chances = [row.p_win for row in judged if row.p_win is not None]
    longer = [row.tokens - base[row.prompt_id].tokens for row in judged]
    measures = {kind: make(everything).get("all") for kind, make in (("gold", gold), ("judge", compliance))}
    measures["wordings"] = measured(reader.wordings.get(name, {}), has_gold(reader)).get("all")
    values = {metric.key: metric.values(rows, reader.responses, reader.prompts) for metric in METRICS}
    each = {
        metric.key: rate(
            values[metric.key], reader.clusters, metric.limits(name in reader.best_of_n_policies)
        )
        for metric in METRICS
    }
    flips, missing = flip_rate(reader, everything), unread(reader, everything)
    return {
        "name": name,
        "n": len(rows),
        "known": {key: len(found) for key, found in values.items()},
        **{kind: rate(values, reader.clusters) if values else None for kind, values in measures.items()},
        "wins": _wins(reader, asked) if judged else None,
        "flips": flips.value,
        "flips_ci": flips.ci,
        "unread": missing.hits.total(),
        "asked": missing.of.total(),
        "unread_ci": missing.ci,
        "kl_left_out": sum(row.kl is None for row in everything),
        "controlled": length_controlled(
            outcomes(chances), longer, clusters_of([row.prompt_id for row in judged], reader.clusters)
        )
        if judged
        else None,
        **each,
    }


def _asked(rows: dict[str, Evaluation]) -> list[Evaluation]:
    """The rows that the judge was asked about: it is not where no principle applies to the prompt."""
    return [row for row in rows.values() if row.compliance or row.unread]


def _wins(reader: RunReader, rows: Sequence[Evaluation]) -> WinRate:
    return win_rate(
        [row.p_win for row in rows], clusters_of([row.prompt_id for row in rows], reader.clusters)
    )


def principles(reader: RunReader) -> dict[str, Any]:
    """The table and chart of every principle for every policy, by gold and by the judge."""
    tables = {
        name: (gold(rows.values()), compliance(rows.values())) for name, rows in reader.evaluations.items()
    }
    ids = ["all", *reader.run.constitution.ids]
    present = [i for i in ids if any(i in table for pair in tables.values() for table in pair)]
    colour, truth = slots(list(tables)), has_gold(reader)
    which = 0 if truth else 1
    ends = [pair[which] for pair in tables.values()]
    shift = deltas(ends[-1], ends[0], reader.clusters) if len(ends) > 1 else {}
    rows = [{**_principle(reader, i, tables), "change": shift.get(i)} for i in present]
    plotted = [
        (
            row["id"],
            [
                charts.Dot(cell[0], cell[1], colour[name], name)
                for name, cells in row["cells"].items()
                if (cell := cells["gold" if truth else "judge"])
            ],
        )
        for row in rows
    ]
    return {
        "rows": rows,
        "chart": charts.dot_chart("Compliance of each principle", plotted),
        "gold": truth,
        "judge": any(judge for _, judge in tables.values()),
    }


def _principle(reader: RunReader, name: str, tables: dict[str, tuple[Table, Table]]) -> dict[str, Any]:
    texts = {p.id: p.text for p in reader.run.constitution.principles}
    cells = {
        policy: {
            "gold": rate(truth[name], reader.clusters) if name in truth else None,
            "judge": rate(opinion[name], reader.clusters) if name in opinion else None,
        }
        for policy, (truth, opinion) in tables.items()
    }
    return {"id": name, "text": texts.get(name, "every principle at once"), "cells": cells}


def online(reader: RunReader) -> Stage[Any] | None:
    """The last stage that learned from its own samples."""
    return next((s for s in reversed(reader.stages) if isinstance(s.options, OnlineOptions)), None)


def curves(reader: RunReader) -> list[Any]:
    """Charts of the last stage that learned from its own samples and of best-of-n, those they have data
    for."""
    rows = reader.curve(online(reader))
    drawn: list[Any] = []
    for title, keys in CURVES:
        lines = [
            charts.Line(name, [(r["update"], r[key]) for r in rows if r.get(key) is not None], slot)
            for (key, name), slot in zip(keys, ("last", "mid0"), strict=False)
        ]
        lines = [line for line in lines if line.points]
        if len(lines) == len(keys) or (lines and keys[0][0] != "gold"):
            drawn.append(charts.line_chart(title, lines))
    return drawn + best_of_n(reader)


def best_of_n(reader: RunReader) -> list[Any]:
    """What choosing among n responses earns against its distance, by reward and by gold."""
    points = reader.metrics("best_of_n").get("curve") or []
    lines = [
        charts.Line(name, [(math.sqrt(p["kl"]), p[name]) for p in points if name in p], slot)
        for name, slot in (("gold", "last"), ("reward", "mid0"))
    ]
    lines = [line for line in lines if line.points]
    return [charts.line_chart("Best of n: gold and reward", lines, "√KL")] if lines else []


def asked(reader: RunReader) -> list[dict[str, Any]]:
    """The first question and response of every stage that asked a model."""
    return [
        {"stage": stage.dir.name, **stage.summary["example"]}
        for stage in reader.stages
        if stage.summary.get("example")
    ]


def provenance(reader: RunReader) -> dict[str, Any]:
    """What this run was, key by key: the manifest, hashes, models."""
    config, manifest = reader.run.config, reader.manifest
    flat: dict[str, Any] = {}
    for key, value in manifest.items():
        if key != "command":
            flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return {
        "command": manifest.get("command"),
        "git": manifest.get("git"),
        "facts": {
            "policy": config.policy.model,
            "feedback model": config.feedback.model,
            "gold": config.gold or "none",
            "constitution": f"{reader.run.constitution.name}, {reader.run.constitution.hash}",
            "made by": ", ".join(reader.response_models),
            **{key: value for key, value in flat.items() if value is not None},
        },
    }

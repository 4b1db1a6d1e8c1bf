"""label: the judge's verdict on every comparison under every principle in both orders; people's labels beside it.

Labels are rows as they were read. Preferences are arithmetic on them: orders averaged and principles added in logit
space, people mixed in by share or weight, clamped where the judge reasoned first (Constitutional AI, arXiv
2212.08073, section 4.1: chain-of-thought probabilities saturate, so 40-60 %).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from rlaif.auditing.gate import check_judge
from rlaif.config import find
from rlaif.constitution import Principle
from rlaif.engines import open_engine
from rlaif.gold import Gold, load_gold
from rlaif.human.rankings import load_human_labels, simulate_labels
from rlaif.judge import Judge, Question, aggregate, combine_orders, order_statistics
from rlaif.records import Comparison, Label, Preference
from rlaif.runfolder import Stage
from rlaif.seeds import derive_seed


def run(stage: Stage) -> None:
    """Write labels.jsonl and, computed from them, preferences.jsonl."""
    options = stage.options
    questions = _questions(stage)
    rows = stage.rows("labels", Label)
    people = _people(stage, questions) if options.human else []
    rows.append(people)
    if options.ai:
        shown = {label.comparison_id for label in people}
        # With a weight both label; without one, people's labels stand in for the judge's.
        blend = options.human is not None and options.human.weight is not None
        _ask(stage, [q for q in questions if blend or q.comparison.id not in shown], rows)
    labels: dict[str, list[Label]] = defaultdict(list)
    for label in rows:
        labels[label.comparison_id].append(label)
    preferences = [_preference(stage, question, labels[question.comparison.id]) for question in questions]
    kept = [preference for preference in preferences if preference]
    path = stage.dir / "preferences.jsonl"
    path.unlink(missing_ok=True)
    stage.rows("preferences", Preference).append(kept)
    stage.metrics = _metrics(stage, questions, labels)
    stage.save("running", **{"in": len(questions), "kept": len(kept)})


def _questions(stage: Stage) -> list[Question]:
    prompts, texts = stage.prompts_by_id(), stage.responses()
    questions: list[Question] = []
    for pair in stage.load("comparisons", Comparison):
        prompt = prompts[pair.prompt_id]
        questions.append(
            Question(pair, prompt, texts[pair.a].text, texts[pair.b].text, _principles(stage, prompt, pair))
        )
    return questions


def _principles(stage: Stage, prompt: Any, pair: Comparison) -> tuple[Principle, ...]:
    if stage.options.principles == "all":
        return tuple(stage.constitution.applicable(prompt.tags))
    drawn = stage.constitution.draw(prompt.tags, stage.seed, "label", pair.id)
    return (drawn,) if drawn else ()


def _people(stage: Stage, questions: Sequence[Question]) -> list[Label]:
    human = stage.options.human
    pairs = [question.comparison for question in questions]
    if human.file:
        left_out: Counter[str] = Counter()
        labels = load_human_labels(find(human.file, stage.run.base), pairs, left_out)
        stage.notes += [f"{human.file}: {n} × {reason}" for reason, n in left_out.items()]
    else:
        labels = simulate_labels(human.annotator, human.options, questions, stage.constitution, stage.seed)
    chosen = {pair.id for pair in pairs if derive_seed(stage.seed, "human", pair.id) / 2**31 < human.share}
    return [label for label in labels if label.comparison_id in chosen]


def _ask(stage: Stage, questions: Sequence[Question], rows: Any) -> None:
    options = stage.options
    total = 2 * sum(len(question.principles) for question in questions)
    have = sum(1 for label in rows if label.annotator.kind == "ai")
    if have >= total:
        return
    engine = open_engine(stage.config.feedback, stage.run.cache)
    shots = stage.templates.comparison_shots(stage.constitution, options.few_shot)
    judge = Judge(engine, stage.templates, tuple(shots), options.max_tokens if options.cot else 0)
    check_judge(stage, judge, questions)
    try:
        with stage.progress(total, "labels", have) as tick:
            for labels in judge.compare(questions, rows.ids):
                rows.append(labels)
                tick(len(labels))
    finally:  # what was asked and what went wrong is said of a stage that fails, too
        stage.notes += engine.notes
        stage.usage(engine.usage)
    first = questions[0]
    asked = stage.templates.comparison(first.prompt.chat, first.a, first.b)[0]["content"]
    stage.note_example(
        asked + stage.templates.comparison_suffix(first.principles[0]) if first.principles else asked, ""
    )


def _preference(stage: Stage, question: Question, labels: Sequence[Label]) -> Preference | None:
    options = stage.options
    weight = options.human.weight if options.human and options.human.weight is not None else 1.0
    result = aggregate(labels, stage.constitution, weight)
    if result is None:
        stage.dropped["no principle applies" if not labels else "no verdict could be read"] += 1
        return None
    p_a, deciding = result
    if question.comparison.origin == "revision" and p_a <= 0.5:
        stage.dropped["revision not confirmed by the judge"] += 1
        return None
    low, high = options.clamp or ((0.4, 0.6) if options.cot else (0.0, 1.0))
    return Preference(
        comparison_id=question.comparison.id, p_a=min(high, max(low, p_a)), deciding=deciding,
        votes=dict(Counter(label.verdict for label in labels)),
        sources=tuple(sorted({label.annotator.kind for label in labels})),
    )  # fmt: skip


def _metrics(stage: Stage, questions: Sequence[Question], labels: dict[str, list[Label]]) -> dict[str, Any]:
    everything = [label for rows in labels.values() for label in rows]
    metrics: dict[str, Any] = {
        "comparisons": len(questions),
        **order_statistics(everything),
        "sources": dict(Counter(label.annotator.kind for label in everything)),
        "by_principle": _by_principle(stage, everything),
    }
    gold = load_gold(stage.config.gold, stage.constitution)
    if gold is not None:
        metrics |= _against_gold(gold, questions, labels, metrics["by_principle"])
    return metrics


def _by_principle(stage: Stage, labels: Sequence[Label]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for principle_id in stage.constitution.ids:
        rows = [label for label in labels if label.principle_id == principle_id]
        if rows:
            statistics = order_statistics(rows)
            read = [label.p_a for label in rows if label.p_a is not None]
            confidence = sum(abs(p - 0.5) for p in read) / len(read) if read else None
            table[principle_id] = {
                "n": len(rows), "decided": statistics["decided"], "flip_rate": statistics["order_flip_rate"],
                "mean_confidence": confidence,
            }  # fmt: skip
    return table


def _against_gold(
    gold: Gold, questions: Sequence[Question], labels: dict[str, list[Label]], table: dict[str, Any]
) -> dict[str, Any]:
    """Agreement with the truth where the truth decides: per principle, and people by how many principles are kept."""
    right: dict[str, list[bool]] = defaultdict(list)
    ties: list[float] = []
    for question in questions:
        truth = {"a": gold(question.prompt, question.a), "b": gold(question.prompt, question.b)}
        for (annotator, principle_id), p in combine_orders(labels[question.comparison.id]).items():
            kept = {
                side: sum(t.values()) if principle_id is None else t.get(principle_id)
                for side, t in truth.items()
            }
            if kept["a"] is None or kept["b"] is None:
                continue
            if kept["a"] == kept["b"]:
                ties += [abs(p - 0.5)] if principle_id else []
                continue
            agrees = (p > 0.5) == (kept["a"] > kept["b"]) and p != 0.5
            right["all"].append(agrees)
            right[annotator.split(":")[0]].append(agrees)
            if principle_id:
                right[f"principle {principle_id}"].append(agrees)
    for principle_id, row in table.items():
        found = right[f"principle {principle_id}"]
        row |= {"gold_decided": len(found), "agreement_with_gold": sum(found) / len(found) if found else None}
    return {
        "agreement_with_gold": sum(right["all"]) / len(right["all"]) if right["all"] else None,
        "gold_decided": len(right["all"]),
        "gold_tie_distance": sum(ties) / len(ties) if ties else None,
        "agreement_by_source": {
            k: sum(right[k]) / len(right[k]) for k in ("ai", "human", "simulated") if right[k]
        },
    }

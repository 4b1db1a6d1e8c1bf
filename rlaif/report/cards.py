"""Cards: what a data set or a model is made of, how good it is, and what is not known, in Markdown.

Figures are those of the run, with its intervals; nothing is typed in. Texts of others (principles, names of
annotators) are escaped, so that they stay text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rlaif.constitution import Constitution
from rlaif.errors import UserError, printable
from rlaif.human.exporters import export_file
from rlaif.human.folder import read_folder
from rlaif.human.formats import FORMATS
from rlaif.human.labelled import RunLabels, form_of, run_labels
from rlaif.metrics import METRICS
from rlaif.records import Label, Preference, Prompt
from rlaif.report.summary import summarise
from rlaif.runs.folder import Run
from rlaif.runs.rows import RowFile
from rlaif.runs.storage import write_text

UNKNOWN = "unknown"
_ESCAPED = str.maketrans(
    {"\\": "\\\\", "&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "`": "\\`", "[": "\\["}
)
CARD = "README.md"
SHOWN = 20  # lines of a table of annotators or sources


def md(value: object) -> str:
    """A text of others on one line of Markdown: no tag, no table cell, no heading of its own, control
    characters spelt out."""
    return printable(" ".join(str(value).split())).translate(_ESCAPED)


@dataclass
class Facts:
    """What is counted of the labels behind a data set."""

    annotators: Counter[tuple[str, str]] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    principles: Counter[str] = field(default_factory=Counter)
    judges: dict[str, Counter[str]] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, label: Label) -> None:
        """Count a label."""
        self.annotators[label.annotator.kind, label.annotator.id] += 1
        self.verdicts[label.verdict] += 1
        if label.principle_id is not None:
            self.principles[label.principle_id] += 1
        for key, value in label.judge.items():
            if key != "principle":
                self.judges.setdefault(key, Counter())[_named(value)] += 1


def _named(model: str) -> str:
    """A model as others may know it: a hub id, or the last part of a path on this machine."""
    return Path(model).name if Path(model).is_absolute() else model


def export_with_card(source: Path, format: str, out: Path, licence: str = UNKNOWN) -> dict[str, Any]:
    """`export_file`, and beside a `datasets` folder or a Parquet file its card; returns the counts."""
    if out.suffix.lower() not in ("", ".parquet"):
        return export_file(source, format, out)
    card = out.with_suffix(".md") if out.suffix else out / CARD
    if card.exists() and not out.exists():
        raise UserError(
            f"--out {out}: its card would be {card}, which is there already.",
            "a name whose card is free",
            "name another one",
        )
    if out.suffix:
        counts = export_file(source, format, out)
        write_text(card, data_card(source, format, counts, licence))
    else:

        def complete(folder: Path, counts: dict[str, Any]) -> None:
            write_text(folder / CARD, data_card(source, format, counts, licence))

        counts = export_file(source, format, out, complete)
    return {**counts, "card": str(card)}


def data_card(source: Path, format: str, counts: Mapping[str, Any], licence: str = UNKNOWN) -> str:
    """The card of what was exported from a folder or a run."""
    held = run_labels(source) if form_of(source) == "run" else None
    run = held.run if held else None
    facts = facts_of_run(held) if held else facts_of_folder(source)
    name = run.config.name if run else source.resolve().name
    prompts = ((md(source or UNKNOWN), n) for source, n in facts.sources.most_common(SHOWN))
    return "\n".join(
        [
            *_front({"license": licence, "tags": ["preference-data", "rlaif"]}),
            f"# Preferences of {md(name)}",
            "",
            f"{counts['kept']:,} of {counts['in']:,} rows{written_as(counts)}, in the format "
            f"{FORMATS[format].title} (`{format}`). Left out: {_reasons(counts['dropped'])}.",
            "",
            "## Who says so",
            "",
            *_table(("annotator", "kind", "labels"), _annotators(facts)),
            "",
            f"Verdicts: {_counts(facts.verdicts)}. One that could not be read is `invalid`: it is in no "
            "preference.",
            "",
            "## Prompts",
            "",
            *_table(("source", "prompts"), prompts),
            "",
            *_judge(facts),
            *(_principles(run.constitution, facts.principles) if run else []),
            "## Licences",
            "",
            f"This data: {md(licence)}. Of the prompts, of imported responses and of the models that wrote "
            "the others rlaif knows no licence: look at where they come from before passing this on.",
            "",
            "## Limits",
            "",
            *(f"- {limit}" for limit in _limits(facts, format, run)),
            "",
        ]
    )


def written_as(counts: Mapping[str, Any]) -> str:
    """How many rows of the file an export made of those that it kept, where these are not as many."""
    return f" (written as {counts['written']:,})" if "written" in counts else ""


def _annotators(facts: Facts) -> Iterator[tuple[str, str, int]]:
    """Who labelled, by number of labels; people are counted and not named."""
    people = [n for (kind, _), n in facts.annotators.items() if kind == "human"]
    if people:
        yield f"{len(people)} {'person' if len(people) == 1 else 'people'}", "human", sum(people)
    others = (item for item in facts.annotators.most_common() if item[0][0] != "human")
    for (kind, who), n in islice(others, SHOWN):
        yield md(_named(who)), kind, n


def facts_of_folder(folder: Path) -> Facts:
    """What is counted of an imported folder."""
    facts, rows = Facts(), read_folder(folder)
    for own in rows.labels().values():
        for label in own:
            facts.add(label)
    facts.sources.update(prompt.source for prompt in rows.prompts.values())
    return facts


def facts_of_run(held: RunLabels) -> Facts:
    """What is counted of a run's labels."""
    facts = Facts()
    for label in held.each_label():
        facts.add(label)
    for file in held.run.stages[-1].files("prompts"):
        facts.sources.update(prompt.source for prompt in RowFile(file, Prompt))
    return facts


def _limits(facts: Facts, format: str, run: Run | None) -> Iterator[str]:
    kinds = {kind for kind, _ in facts.annotators}
    if kinds == {"ai"}:
        yield "All labels are a model's: they carry its biases, and people may say otherwise."
    if "simulated" in kinds:
        yield "Some labels are those of a program that stands for people."
    if run and "ai" in kinds and run.config.judge_card is None:
        yield "The judge was not examined before it labelled."
    yield "Texts were not searched for harmful content, personal data or copies of other people's work."
    if FORMATS[format].loses:
        yield f"The format cannot hold: {FORMATS[format].loses}."


def model_card(run: Run, name: str, what: str, licence: str = UNKNOWN) -> str:
    """The card of a policy of a run, or of its reward model (`what` is "policy" or "reward_model")."""
    summary, constitution = summarise(run.path), run.constitution
    base = _named(str(run.config.policy.model))
    front = {
        "license": licence,
        "library_name": "transformers",
        "tags": ["rlaif", what.replace("_", "-")],
        **({"base_model": base} if "/" in base else {}),
    }
    figures = _policy_figures(summary, name) if what == "policy" else _reward_figures(summary)
    return "\n".join(
        [
            *_front(front),
            f"# {md(run.config.name)}: {md(name)}",
            "",
            _made_of(run, name, what, base),
            "",
            _provenance(run),
            "",
            *_principles(constitution, Counter()),
            "## Data",
            "",
            *_table(("stage", "rows", "kept", "left out"), _data_rows(summary)),
            "",
            f"Preferences by who labelled: {_counts(_preference_sources(run)) or 'none'}.",
            "",
            "## Measured",
            "",
            *(figures or ["Nothing was measured in this run."]),
            "",
            "## Limits",
            "",
            *(f"- {limit}" for limit in _model_limits(run, summary, name, what)),
            "",
        ]
    )


def _made_of(run: Run, name: str, what: str, base: str) -> str:
    stages = " → ".join(f"{stage.name}" for stage in run.stages if stage.is_done)
    whose = f"the policy `{md(name)}`" if what == "policy" else "the reward model"
    return f"This is {whose} of a run of rlaif on `{md(base)}`: {stages}."


def _provenance(run: Run) -> str:
    """Which constitution, base model, run, seed and version."""
    made, constitution = run.manifest, run.constitution
    base = made.get("inputs", {}).get("policy.model")
    return (
        f"Constitution **{md(constitution.name)}**, hash `{constitution.hash}`; "
        + (f"base model's fingerprint `{md(base)}`; " if base else "")
        + f"run `{run.id}` of {md(str(made.get('created', UNKNOWN))[:10])}, seed {run.config.seed}, "
        f"rlaif {md(made.get('rlaif', UNKNOWN))}."
    )


def _data_rows(summary: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for stage in summary["stages"]:
        if stage["in"] is not None:
            yield stage["name"], stage["in"], stage["kept"], _reasons(stage["dropped"])


def _preference_sources(run: Run) -> Counter[str]:
    found: Counter[str] = Counter()
    for stage in run.stages:
        found.update("+".join(row.sources) for row in RowFile(stage.dir / "preferences.jsonl", Preference))
    return found


def _policy_figures(summary: Mapping[str, Any], name: str) -> list[str]:
    found = summary["policies"].get(name)
    if not found:
        return []
    rows: list[tuple[object, ...]] = []
    win = found.get("win_rate") or {}
    if win.get("value") is not None:
        rows.append(
            ("win rate over the base policy, by the run's judge", *_figure(win["value"], win.get("ci")))
        )
    for kind, title in (("gold", "gold"), ("compliance", "compliance by the judge")):
        for principle, value in (found.get(kind) or {}).items():
            ci = (found.get(f"{kind}_ci") or {}).get(principle)
            rows.append((f"{title}: {md(principle)}", *_figure(value, ci)))
    for metric in METRICS:
        if found.get(metric.key) is not None:
            rows.append((metric.label, *_figure(found[metric.key], found.get(f"{metric.key}_ci"))))
    head = (
        f"On {found.get('n', 0)} held-out prompts; intervals are 95 %, over groups of prompts, "
        "those without an upper end one-sided."
    )
    return [head, "", *_table(("figure", "value", "interval"), rows)]


def _reward_figures(summary: Mapping[str, Any]) -> list[str]:
    found = summary["reward_model"]
    if not found:
        return []
    rows = [
        (label, *_figure(found[key], found.get(f"{key}_ci")))
        for key, label in (
            ("heldout_accuracy", "accuracy on decided held-out pairs"),
            ("ece", "expected calibration error"),
            ("ece_floor", "the same of a perfect forecaster"),
            ("temperature", "temperature that fits best"),
        )
        if found.get(key) is not None
    ]
    for rule, value in found.get("baselines", {}).items():
        rows.append((f"baseline: {md(rule)}", *_figure(value, found.get("baselines_ci", {}).get(rule))))
    head = f"On {found.get('n_heldout', 0)} held-out preferences; {found.get('n_train', 0)} were trained on."
    return [head, "", *_table(("figure", "value", "interval"), rows)]


def _model_limits(run: Run, summary: Mapping[str, Any], name: str, what: str) -> Iterator[str]:
    if what == "policy" and not summary["policies"].get(name):
        yield "It was not evaluated in this run."
    elif what == "policy" and not run.config.gold:
        labelled = (summary["labels"].get("sources") or {}).get("ai")
        judge = "judge whose labels trained it" if labelled else "run's judge"
        yield f"It was measured by the {judge}, and by no truth outside the loop."
    if what == "reward_model":
        yield "It ranks responses like those it was trained on; far from them its reward means little."
    yield "Safety beyond the principles above was not tested."
    base = _named(str(run.config.policy.model))
    yield f"The licence of the model it comes from ({md(base)}) holds for it, too."


def _judge(facts: Facts) -> list[str]:
    if not facts.judges:
        return []
    rows = (
        (key, ", ".join(md(value) for value, _ in said.most_common(3)))
        for key, said in sorted(facts.judges.items())
    )
    return ["## The judge", "", *_table(("part", "value"), rows), ""]


def _principles(constitution: Constitution, labels: Counter[str]) -> list[str]:
    rows = (
        (f"`{md(p.id)}`", p.weight, md(p.text), *([labels[p.id]] if labels else []))
        for p in constitution.principles
    )
    head = ("principle", "weight", "text", *(["labels"] if labels else []))
    return [
        "## Principles",
        "",
        f"Hash of the constitution: `{constitution.hash}`.",
        "",
        *_table(head, rows),
        "",
    ]


def _figure(value: Any, ci: Any) -> tuple[str, str]:
    low, high = ci or (None, None)
    if low is None:
        return f"{value:.3g}", "no interval" if ci else "–"
    return f"{value:.3g}", f"{low:.3g} to {'∞' if high is None else f'{high:.3g}'}"


def _front(fields: Mapping[str, Any]) -> list[str]:
    """YAML of a card's head; JSON is YAML."""
    return [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()),
        "---",
    ]


def _table(head: Sequence[str], rows: Any) -> list[str]:
    body = [f"| {' | '.join(f'{n:,}' if isinstance(n, int) else str(n) for n in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{n:,} × {md(what)}" for what, n in counter.most_common())


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} × {md(reason)}" for reason, n in dropped.items()) or "nothing"

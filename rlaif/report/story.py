"""One row of a run as a story for people: `rlaif show RUN ROW`.

What led to the row comes first and what came of it last: prompt, response, every round of critique and
revision, pair, preference, verdicts by principle and order, score, evaluation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rlaif.records import Prompt
from rlaif.report.lineage import Row, index_rows, row_named
from rlaif.runs.folder import Run, split_of
from rlaif.runs.lookup import json_rows

SHORT = 100  # characters of a text in a list


def story(path: Path, row_id: str) -> list[str]:
    """The lines that tell of the row with that id, or unambiguous beginning of it.

    Raises UserError where the folder is no run, or no single row has the id.
    """
    index = index_rows(path)
    return list(Story(Run.load(path), index).told(row_named(path, index, row_id)))


class Story:
    """The rows of a run, found by what they are about."""

    def __init__(self, run: Run, index: Mapping[str, Row]) -> None:
        self.run, self.index = run, index
        self.principles = {p.id: p.text for p in run.constitution.principles}
        self.about: dict[str, list[Row]] = defaultdict(list)
        for row in index.values():
            for key in ("prompt_id", "comparison_id", "response_id", "a", "b", "from_id", "to_id"):
                if isinstance(row.get(key), str) and row not in self.about[row[key]][-1:]:
                    self.about[row[key]].append(row)

    def told(self, row: Row) -> Iterator[str]:
        """The row's story, by its kind."""
        kind = Path(row["file"]).stem
        pair = self.index.get(row.get("comparison_id", ""))
        if kind == "prompts":
            yield from self._prompt(row)
            yield from self._responses(row)
        elif kind == "comparisons" or pair:
            yield from self._pair(pair or row)
        elif kind == "revisions":
            yield from self._prompt(self.index.get(row["prompt_id"]))
            yield from self._revision(row)
        elif kind == "evaluation":
            yield from self._response(self.index.get(row.get("response_id", ""), row))
        elif "text" in row and "prompt_id" in row:
            yield from self._response(row)
        else:
            yield from self._plain(row)

    def _plain(self, row: Row) -> Iterator[str]:
        yield _title(row)
        yield from (f"  {key}: {value}" for key, value in row.items() if key not in ("file", "v", "id"))

    def _prompt(self, row: Row | None) -> Iterator[str]:
        if row is None:
            return
        yield _title(row)
        for message in row["messages"]:
            yield from _text(message["role"], message["content"])
        prompt = Prompt.model_validate({key: value for key, value in row.items() if key != "file"})
        notes = [f"split: {split_of(prompt, self.run.config)}"]
        notes += [f"tags: {', '.join(row['tags'])}"] if row.get("tags") else []
        notes += [f"group: {row['group']}"] if row.get("group") else []
        yield from (f"  {note}" for note in notes)

    def _responses(self, prompt: Row) -> Iterator[str]:
        """The responses to a prompt, one a line."""
        for row in self.about[prompt["id"]]:
            if Path(row["file"]).stem == "responses":
                yield f"{_title(row)}: {_short(row['text'])}"
        for file in sorted(self.run.path.glob("*/samples.jsonl")):
            for row in json_rows(file):
                if row.get("prompt_id") == prompt["id"]:
                    said = f"update {row['update']}, score {row['score']:.3f}, KL {row['kl']:.3f}"
                    yield f"{file.parent.name}/samples {said}: {_short(row['response'])}"

    def _response(self, row: Row) -> Iterator[str]:
        yield from self._prompt(self.index.get(row["prompt_id"]))
        steps = self._rounds(row["id"])
        made = [step["round"] for step in steps if row["id"] == step["to_id"] != step["from_id"]]
        earlier = [step for step in steps if made and step["round"] <= max(made)]
        if not made:
            yield _title(row)
            yield from _text("assistant", row.get("text", ""))
        for step in earlier:
            yield from self._revision(step, with_before=step is earlier[0])
        sampling = ", ".join(f"{key} {value}" for key, value in row.get("sampling", {}).items())
        details = [row.get("model"), sampling, row.get("finish_reason")]
        yield f"  by {', '.join(d for d in details if d)}"
        for step in steps[len(earlier) :]:
            yield from self._revision(step, with_before=False)
        for later in self.about[row["id"]]:
            if "a" in later and "b" in later:
                yield from self._outcome(later, row["id"])
            elif "scores" in later:
                yield f"{_title(later)}: score {_named(later['scores'])}"
            elif "response_id" in later:
                yield from self._evaluation(later)

    def _rounds(self, response: str) -> list[Row]:
        """The rounds of critique that led to a response and those that followed it, in their order."""
        found: dict[str, Row] = {}
        waiting, seen = [response], set[str]()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                steps = [row for row in self.about[name] if "from_id" in row and "to_id" in row]
                found |= {step["id"]: step for step in steps}
                waiting += [step[end] for step in steps for end in ("from_id", "to_id")]
        return sorted(found.values(), key=lambda step: step["round"])

    def _revision(self, row: Row, with_before: bool = True) -> Iterator[str]:
        before, after = self.index.get(row["from_id"]), self.index.get(row["to_id"])
        yield f"{_title(row)}, round {row['round']}"
        yield f"  principle {row['principle_id']}: {self.principles.get(row['principle_id'], '')}"
        if before and with_before:
            yield from _text(f"before {before['id']}", before["text"])
        if row["critique"]:
            yield from _text("critique", row["critique"])
        reason = f" ({row['reason']})" if row.get("reason") else ""
        stays = ": kept as it is" if row["from_id"] == row["to_id"] else ""
        yield f"  revision: {row['status']}{reason}{stays}"
        if after and after is not before:
            yield from _text(f"after {after['id']}", after["text"])

    def _outcome(self, pair: Row, response: str) -> Iterator[str]:
        """A pair that a response is in: the preference, and the verdicts behind it."""
        rows, side = self.about[pair["id"]], "a" if pair["a"] == response else "b"
        preference = next((row for row in rows if Path(row["file"]).stem == "preferences"), None)
        said = "no preference"
        if preference:
            p = preference["p_a"] if side == "a" else 1 - preference["p_a"]
            said = f"better than the other with probability {_rounded(p)}{_decided_by(preference)}"
        yield f"{_title(pair)}, as {side}: {said}"
        yield from (f"  {line}" for line in self._verdicts([row for row in rows if "annotator" in row]))

    def _pair(self, row: Row) -> Iterator[str]:
        yield from self._prompt(self.index.get(row["prompt_id"]))
        yield f"{_title(row)} ({row.get('origin', 'samples')})"
        for side in ("a", "b"):
            response = self.index.get(row[side])
            yield from _text(f"{side} {row[side]}", response["text"] if response else "(not stored)")
        rows = self.about[row["id"]]
        yield from self._verdicts([r for r in rows if "annotator" in r])
        for preference in (r for r in rows if Path(r["file"]).stem == "preferences"):
            yield _title(preference)
            yield f"  P(a is better): {_rounded(preference['p_a'])}{_decided_by(preference)}"
            yield f"  votes: {', '.join(f'{n} × {v}' for v, n in preference['votes'].items())}"

    def _verdicts(self, labels: Sequence[Row]) -> Iterator[str]:
        """Verdicts by annotator and principle, the orders side by side."""
        by: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
        for label in labels:
            who = label["annotator"]
            by[f"{who['kind']} {who['id']}", label.get("principle_id") or "the whole pair"][
                label["order"]
            ] = label
        for annotator in dict.fromkeys(who for who, _ in by):
            yield f"verdicts of {annotator}: P(a is better)"
            names = [principle for who, principle in by if who == annotator]
            width = max(map(len, names))
            for principle in names:
                orders = by[annotator, principle]
                cells = [
                    f"{order[0]} first {_probability(orders[order])}"
                    for order in ("ab", "ba")
                    if order in orders
                ]
                yield f"  {principle:<{width}}  {'   '.join(cells)}"
                for label in orders.values():
                    if label.get("rationale"):
                        yield from _text("reasons", label["rationale"])

    def _evaluation(self, row: Row) -> Iterator[str]:
        figures = {"P(beats the base policy's)": row.get("p_win"), "KL": row.get("kl")}
        measured = _named({name: value for name, value in figures.items() if value is not None})
        yield f"{_title(row)}: {row['policy']}{measured and ', '}{measured}"
        gold, judged = row.get("gold") or {}, row.get("compliance") or {}
        width = max(map(len, (*gold, *judged)), default=0)
        for principle in dict.fromkeys((*gold, *judged)):
            cells = [f"gold {'kept' if gold[principle] else 'broken'}"] if principle in gold else []
            cells += [f"P(kept) by the judge {_rounded(judged[principle])}"] if principle in judged else []
            yield f"  {principle:<{width}}  {'   '.join(cells)}"


def _probability(label: Row) -> str:
    if label.get("p_a") is None:
        reason = label.get("reason")
        return f"{label['verdict']}{f' ({reason})' if reason else ''}"
    return f"{_rounded(label['p_a'])} ({label['verdict']})"


def _rounded(p: float) -> str:
    """A probability to three digits, never 0 or 1 where it is not."""
    return "<0.001" if 0 < p < 0.0005 else ">0.999" if 0.9995 < p < 1 else f"{p:.3f}"


def _named(figures: Mapping[str, float]) -> str:
    """Figures with their names."""
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


def _decided_by(preference: Row) -> str:
    principle = preference.get("deciding_principle")
    return f", decided by {principle}" if principle else ""


def _title(row: Row) -> str:
    where = Path(row["file"])
    return f"{where.parent / where.stem} {row['id']}" if where.parent.name else f"{where.stem} {row['id']}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHORT else f"{line[: SHORT - 1]}…"


def _text(name: str, text: str) -> Iterator[str]:
    """A text under its name, each of its lines indented."""
    lines = text.splitlines() or [""]
    yield f"  {name}: {lines[0]}"
    yield from (f"    {line}" for line in lines[1:])

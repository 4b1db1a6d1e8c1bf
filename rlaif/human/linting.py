"""What is wrong with preference data, before anything is trained on it: `rlaif data lint`.

Length bias, near duplicates, identical pairs, prompts in training and in held-out data alike, annotators who
always answer the same, contradictions, and what an import left out. A finding counts what it found and says
where.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaif.human.duplicates import near_duplicates
from rlaif.human.folder import ImportFolder
from rlaif.human.labelled import folder_labels, form_of, run_labels
from rlaif.intervals import UNIT, known_edges, mean_interval
from rlaif.records import Comparison, Label, Prompt
from rlaif.runs.catalog import is_run
from rlaif.runs.folder import Run, split_of
from rlaif.runs.rows import RowFile
from rlaif.similarity import TEXTS, plain

LENGTH = 0.05  # how far from one half the share of longer winners may be, its interval included
FEWEST = 10  # labels of an annotator from which always the same answer is a finding
ALWAYS = 0.95  # share of one answer that is "always", of at least twice as many labels
SHOWN = 5  # examples of a finding


@dataclass
class Finding:
    """One kind of thing that is wrong: how often, of how many, with examples and what to do about it."""

    kind: str
    count: int
    of: int
    what: str
    examples: list[Any] = field(default_factory=list)


@dataclass
class Data:
    """The rows that are looked at, with the labels of each comparison."""

    path: Path
    rows: ImportFolder
    labels: dict[str, list[Label]]
    left_out: dict[str, int]
    lost: dict[str, int] = field(default_factory=dict)  # what an import left out of rows that it kept
    read: int = 0  # rows of the file that an import read

    @property
    def pairs(self) -> Iterator[tuple[Comparison, list[Label]]]:
        """Comparisons with their labels."""
        return ((pair, self.labels.get(id, [])) for id, pair in self.rows.comparisons.items())

    def texts(self, pair: Comparison) -> tuple[str, str]:
        """The texts of both responses."""
        return self.rows.responses[pair.a].text, self.rows.responses[pair.b].text

    def prompt(self, pair: Comparison) -> str:
        """The prompt as one text."""
        return text_of_prompt(self.rows.prompts[pair.prompt_id])


def text_of_prompt(prompt: Prompt) -> str:
    """All turns of a prompt as one text."""
    return "\n\n".join(message.content for message in prompt.messages)


def lint(paths: Sequence[Path], heldout: Sequence[Path] = ()) -> dict[str, Any]:
    """What is wrong with files, imported folders or runs; with `heldout` also which of their prompts are in
    both.

    Returns {"files", "pairs", "labels", "longer_preferred", "findings"}. Raises UserError where one cannot be
    read.
    """
    with tempfile.TemporaryDirectory() as place:
        both = [[_opened(path, Path(place)) for path in group] for group in (paths, heldout)]
        found, longer = [], {}
        for data in both[0] + both[1]:
            own, lengths = _findings(data)
            found += own
            longer |= {f"{data.path}: {who}": figures for who, figures in lengths.items()}
        found += list(_leaks(*both)) if heldout else []
        found += [leak for path in paths if is_run(path) for leak in _leaks_of_run(path)]
    return {
        "files": [str(path) for path in (*paths, *heldout)],
        "pairs": sum(len(data.rows.comparisons) for group in both for data in group),
        "labels": sum(len(own) for group in both for data in group for own in data.labels.values()),
        "longer_preferred": longer,
        "findings": [vars(finding) for finding in found],
    }


def in_words(found: dict[str, Any]) -> Iterator[str]:
    """What `lint` found, a line a finding and its examples below."""
    yield f"{found['pairs']:,} pairs, {found['labels']:,} labels"
    for who, longer in found["longer_preferred"].items():
        low, high = ("?" if edge is None else f"{edge:.1%}" for edge in longer["ci"])
        yield f"longer preferred, {who}: {longer['share']:.1%} ({low} to {high}) of {longer['n']:,}"
    for finding in found["findings"]:
        n, of = f"{finding['count']:,}", f"{finding['of']:,}"
        counted = f"{n} in {of} rows" if finding["kind"] == "lost value" else f"{n} of {of}"
        yield f"{finding['kind']}: {counted} – {finding['what']}"
        for example in finding["examples"]:
            texts = example if isinstance(example, list | tuple) else [example]
            yield "  " + " | ".join(" ".join(str(text).split()) for text in texts)
    if not found["findings"]:
        yield "nothing found"


def _opened(path: Path, place: Path) -> Data:
    """What a path holds, imported where it is another project's."""
    if form_of(path) == "run":
        held = run_labels(path)
        last = held.stages[-1]
        rows = ImportFolder(path, last.prompts_by_id(), last.responses(), held.comparisons)
        return Data(path, rows, held.labels, dict(held.strays))
    held = folder_labels(path, Path(tempfile.mkdtemp(dir=place)) / "rows")
    left_out = held.left_out + Counter(held.imported.get("dropped", {})) + held.rows.left_out
    lost = held.imported.get("left_out", {})
    return Data(path, held.rows, held.labels, dict(left_out), lost, held.imported.get("in", 0))


def _findings(data: Data) -> tuple[list[Finding], dict[str, Any]]:
    longer = {who: _shares(outcomes) for who, outcomes in sorted(_lengths(data).items())}
    found = [
        *_length_bias(data, longer),
        *_same_texts(data),
        *_near_prompts(data),
        *_constant(data),
        *_contradictions(data),
        *_left_out(data),
    ]
    return found, longer


def _lengths(data: Data) -> dict[str, list[tuple[float, str]]]:
    """By annotator, of each decided pair of unequal lengths: whether the longer one is preferred, and the
    prompt's cluster."""
    found: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for pair, labels in data.pairs:
        a, b = map(len, data.texts(pair))
        cluster = data.rows.prompts[pair.prompt_id].cluster
        for label in labels:
            if a != b and label.verdict in ("a", "b"):
                found[_name(label)].append((float((label.verdict == "a") == (a > b)), cluster))
    return found


def _name(label: Label) -> str:
    return f"{label.annotator.kind}:{label.annotator.id}"


def _shares(outcomes: Sequence[tuple[float, str]]) -> dict[str, Any]:
    values = [value for value, _ in outcomes]
    ci = mean_interval(values, UNIT, [cluster for _, cluster in outcomes])
    return {"share": sum(values) / len(values), "ci": known_edges(ci), "n": len(values)}


def _length_bias(data: Data, longer: dict[str, Any]) -> Iterator[Finding]:
    for who, figures in longer.items():
        low, high = figures["ci"]
        if low is not None and high is not None and (low > 0.5 + LENGTH or high < 0.5 - LENGTH):
            n, share = figures["n"], figures["share"]
            yield Finding(
                "length bias",
                round(max(share, 1 - share) * n),
                n,
                f"{data.path}: {who} prefers the {'longer' if share > 0.5 else 'shorter'} response "
                f"(the longer in {share:.1%}, 95 % interval {low:.1%} to {high:.1%}); report accuracy beside "
                "that of length alone",
            )


def _same_texts(data: Data) -> Iterator[Finding]:
    equal, near, seen = [], [], defaultdict(list)
    for pair, _ in data.pairs:
        a, b = data.texts(pair)
        seen[plain_prompt(data, pair), frozenset((a.strip(), b.strip()))].append(pair.id)
        if a.strip() == b.strip():
            equal.append(pair.id)
        elif plain(a) == plain(b) or TEXTS.same(a, b):
            near.append(pair.id)
    again = [ids for ids in seen.values() if len(ids) > 1]
    total = len(data.rows.comparisons)
    for kind, ids, what in (
        ("identical pair", equal, "both responses are the same; nothing can be learnt from them"),
        ("near-identical pair", near, "both responses are nearly the same"),
        ("repeated pair", again, "the same two texts to the same prompt stand more than once"),
    ):
        if ids:
            yield Finding(kind, len(ids), total, f"{data.path}: {what}", ids[:SHOWN])


def plain_prompt(data: Data, pair: Comparison) -> str:
    """The prompt of a pair without case and punctuation."""
    return plain(data.prompt(pair))


def _near_prompts(data: Data) -> Iterator[Finding]:
    texts = {id: text_of_prompt(prompt) for id, prompt in data.rows.prompts.items()}
    pairs = [(a, b) for a, b in near_duplicates(texts) if not _one_group(data, a, b)]
    if pairs:
        yield Finding(
            "near-duplicate prompt",
            len({id for pair in pairs for id in pair}),
            len(texts),
            f"{data.path}: prompts that ask nearly the same count as several, and a split may part them; "
            "give them one `group`",
            [[texts[a][:80], texts[b][:80]] for a, b in pairs[:SHOWN]],
        )


def _one_group(data: Data, a: Any, b: Any) -> bool:
    return data.rows.prompts[a].cluster == data.rows.prompts[b].cluster


def _constant(data: Data) -> Iterator[Finding]:
    """Annotators whose answers are one and the same, by the side shown first where that is known."""
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for _, labels in data.pairs:
        for label in labels:
            answers[_name(label)][_answer(label)] += 1
    for who, said in sorted(answers.items()):
        answer, n = said.most_common(1)[0]
        total = said.total()
        if (n == total >= FEWEST) or (total >= 2 * FEWEST and n >= ALWAYS * total):
            yield Finding("same answer", n, total, f"{data.path}: {who} answers {answer} nearly always")


def _answer(label: Label) -> str:
    """The verdict, told about what was shown."""
    if label.verdict not in ("a", "b"):
        return label.verdict
    return "the first shown" if (label.verdict == "a") == (label.order == "ab") else "the second shown"


def _contradictions(data: Data) -> Iterator[Finding]:
    """What one annotator says of the same two texts in two ways, and of three in a circle."""
    wins: defaultdict[tuple[Any, ...], set[tuple[str, str]]] = defaultdict(set)
    for pair, labels in data.pairs:
        a, b = (text.strip() for text in data.texts(pair))
        for label in labels:
            if label.verdict in ("a", "b") and a != b:
                asked = _name(label), label.principle_id, label.order if label.annotator.kind == "ai" else ""
                better = (a, b) if label.verdict == "a" else (b, a)
                wins[(*asked, plain_prompt(data, pair))].add(better)
    against = [(key, a, b) for key, own in wins.items() for a, b in own if a < b and (b, a) in own]
    circles = [(key, *found) for key, own in wins.items() for found in _circles(own)]
    total = sum(map(len, wins.values()))
    for kind, found, what in (
        ("contradiction", against, "an annotator prefers each of the same two responses to the other"),
        (
            "circle",
            circles,
            "an annotator prefers one to a second, that to a third, and the third to the first",
        ),
    ):
        if found:
            shown = [[key[0], *(text[:80] for text in texts)] for key, *texts in found[:SHOWN]]
            yield Finding(kind, len(found), total, f"{data.path}: {what}", shown)


def _circles(wins: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Three texts of which each is preferred to the next, once each."""
    beats: defaultdict[str, set[str]] = defaultdict(set)
    for better, worse in wins:
        beats[better].add(worse)
    return [
        (a, b, c)
        for a in list(beats)
        for b in beats[a]
        for c in beats.get(b, ())
        if a in beats.get(c, ()) and a == min(a, b, c) and len({a, b, c}) == 3
    ]


def _left_out(data: Data) -> Iterator[Finding]:
    for kind, counts in (("unusable row", data.left_out), ("lost value", data.lost)):
        if total := sum(counts.values()):
            said = ", ".join(f"{n:,} × {reason}" for reason, n in counts.items())
            whole = data.read or total + sum(map(len, data.labels.values()))  # of what was not imported here
            yield Finding(kind, total, whole, f"{data.path}: {said}")


def _leaks(train: Sequence[Data], heldout: Sequence[Data]) -> Iterator[Finding]:
    """Prompts of held-out data that are nearly the same as one of the training data."""
    sides = [
        {(side, id): text_of_prompt(p) for data in group for id, p in data.rows.prompts.items()}
        for side, group in (("train", train), ("held-out", heldout))
    ]
    names = ", ".join(str(data.path) for data in train)
    yield from _leak(sides[0], sides[1], f"prompts of the held-out data are nearly those of {names}")


def _leak(train: dict[Any, str], heldout: dict[Any, str], what: str) -> Iterator[Finding]:
    texts = train | heldout
    leaked: dict[Any, Any] = {}
    for group in _groups(near_duplicates(texts)):
        inside = [key for key in group if key in train]
        leaked |= {key: inside[0] for key in group if key in heldout and inside}
    if leaked:
        shown = [[texts[b][:80], texts[a][:80]] for a, b in list(leaked.items())[:SHOWN]]
        yield Finding("leak", len(leaked), len(heldout), what + "; take them out of one of both", shown)


def _groups(pairs: Iterable[tuple[Any, Any]]) -> list[set[Any]]:
    """Keys that pairs connect, in groups."""
    group: dict[Any, set[Any]] = {}
    for a, b in pairs:
        joined = group.get(a, {a}) | group.get(b, {b})
        group |= dict.fromkeys(joined, joined)
    return list({id(found): found for found in group.values()}.values())


def _leaks_of_run(path: Path) -> Iterator[Finding]:
    """The same of a run's own split."""
    run = Run.load(path)
    sides: dict[bool, dict[Any, str]] = {True: {}, False: {}}
    for prompt in RowFile(path / "prompts.jsonl", Prompt):
        split = split_of(prompt, run.config)
        if split != "wordings":  # which are to ask what training asks
            sides[split == "train"]["train" if split == "train" else "held-out", prompt.id] = text_of_prompt(
                prompt
            )
    yield from _leak(sides[True], sides[False], f"{path}: held-out prompts are nearly those of training")

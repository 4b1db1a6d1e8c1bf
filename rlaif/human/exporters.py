"""Comparisons, rankings and grades in other projects' formats, each row checked to be read back as it was.

They come from a folder of rows or from a run, whose preferences then decide which response is the better one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif.errors import UserError, nearest
from rlaif.feedback.preferences import opinions
from rlaif.human.folder import ImportFolder, read_folder
from rlaif.human.formats import FORMATS, Format, ImportedRow
from rlaif.human.formats.base import NOT_HELD, Pair, Ranks, Vote, kinds_behind, whose
from rlaif.human.labelled import RunLabels, form_of, run_labels
from rlaif.human.rankings import by_content
from rlaif.human.tablefiles import write_rows
from rlaif.prompting.conversations import Unusable
from rlaif.records import Grade, Label, Prompt, Ranking, Response
from rlaif.runs.folder import Stage
from rlaif.runs.lookup import Lookup
from rlaif.runs.preferred import preferred
from rlaif.runs.rows import read_rows

Unit = Pair | ImportedRow
UNRANKED = "comparison with labels that no ranking or graded response holds"
UNHELD = "label that the format holds not at all, or as one with another of the same annotator"
AGAIN = "ranking that a later one of the same annotator takes the place of"
DOCS = "docs/data-formats.md says what each can"
NO_PAIRS = Unusable("the format holds comparisons, and this is none")


def export_file(
    source: Path,
    format: str,
    path: Path,
    complete: Callable[[Path, dict[str, Any]], None] = lambda folder, counts: None,
) -> dict[str, Any]:
    """Write what a folder or a run holds in a format; returns the counts.

    Of a folder the winner is that of the annotators' mean opinion, of a run that of its preferences. Left out
    and counted: a comparison without a winner where the format has no ties, and whatever would not be read
    back the same. `written` is the number of rows where some make several. `left_out` counts labels of a
    folder that are on none of its pairs, that a later one replaces, or that stand beside exported rankings.
    `complete` adds to a folder of `datasets`, told the counts, before it gets its name: a kill leaves a whole
    folder or none. Raises UserError where nothing can be exported.
    """
    made = writable(format)
    dropped, left_out = Counter[str](), Counter[str]()
    kept = written = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal kept, written
        for unit in units(source, made, left_out):
            found = exported(made, unit)
            if isinstance(found, Unusable):
                dropped[found] += 1
            else:
                kept += 1
                left_out[UNHELD] += _unheld(made, unit, found) if made.labels else 0
                written += len(found)
                yield from found
        if not kept:
            reasons = ", ".join(f"{n} × {reason}" for reason, n in sorted(dropped.items()))
            raise UserError(
                f"{source}: holds nothing to export ({reasons or 'it has no comparisons'}).",
                f"preferences that the format {made.name} can hold ({DOCS})",
                "choose another --format, or look at the data with `rlaif data lint`",
            )

    def counts() -> dict[str, Any]:
        found = {"in": kept + dropped.total(), "kept": kept, "dropped": dict(sorted(dropped.items()))}
        found |= {"written": written} if written != kept else {}
        return found | ({"left_out": dict(sorted((+left_out).items()))} if +left_out else {})

    write_rows(rows(), path, made.whole, made.name, lambda folder: complete(folder, counts()))
    return counts()


def writable(name: str) -> Format:
    """The format of that name; UserError where rlaif cannot write it."""
    names = [format.name for format in FORMATS.values() if format.write or format.write_row]
    if name not in names:
        known = f"{FORMATS[name].title} can only be read" if name in FORMATS else nearest(name, names)
        if known.startswith("known: "):  # all of them, which are listed as what is needed
            known = "no such format"
        raise UserError(f'--format "{name}": {known}.', f"one of {', '.join(names)}")
    return FORMATS[name]


def units(source: Path, format: Format, left_out: Counter[str] | None = None) -> Iterator[Unit]:
    """What there is to export: rankings and graded responses where the format has them, else comparisons;
    `left_out` collects why labels of a folder are not."""
    if form_of(source) == "run":
        yield from pairs_of_run(run_labels(source))
        return
    folder = read_folder(source)
    ranked = list(rows_of(folder)) if format.write_row else []
    if format.write and all(isinstance(exported(format, row), Unusable) for row in ranked):
        ranked, folder.counts[AGAIN] = [], 0
    yield from ranked or pairs_of(folder)
    if ranked:
        folder.counts[UNRANKED] += _unranked(folder, ranked)
    if left_out is not None:
        left_out.update(folder.left_out)


def _unheld(format: Format, unit: Unit, rows: Sequence[dict[str, Any]]) -> int:
    """How many labels of a pair its rows do not hold each for itself."""
    back = [row for row in map(format.parse, rows) if isinstance(row, ImportedRow)]
    return len(unit.votes) - sum(len(row.votes) for row in back)


def _unranked(folder: ImportFolder, ranked: Sequence[ImportedRow]) -> int:
    """How many labelled comparisons of a folder are of two responses that no row has together."""
    pairs = {(row.messages, *two) for row in ranked for two in permutations(row.responses, 2)}
    return sum(
        (pair.messages, pair.first, pair.second) not in pairs for pair in pairs_of(folder) if pair.votes
    )


def exported(format: Format, unit: Unit) -> list[dict[str, Any]] | Unusable:
    """The rows of a unit, or why there are none."""
    if isinstance(unit, Pair) and not format.write:
        unit = as_ranking(unit)
    if isinstance(unit, Pair):
        row = format.write(unit) if format.write else NOT_HELD
    else:
        row = format.write_row(unit) if format.write_row else NO_PAIRS
    if isinstance(row, Unusable):
        return row
    rows = row if isinstance(row, list) else [row]
    return rows if all(_is_read_back(format, unit, made) for made in rows) else NOT_HELD


def _is_read_back(format: Format, unit: Unit, row: dict[str, Any]) -> bool:
    back = format.parse(row)
    if not isinstance(back, ImportedRow) or back.messages != unit.messages:
        return False
    if not isinstance(unit, Pair):
        return set(back.responses) <= set(unit.responses)
    if len(back.responses) == 1:
        return back.responses[0] in (unit.first, unit.second)
    return back.responses == ((unit.first, unit.second) if format.sided else unit.sorted)


def as_ranking(pair: Pair) -> ImportedRow:
    """A comparison as a ranking of two; without ranks where nothing is said of it."""
    if pair.p_first is None:
        return ImportedRow(pair.messages, (pair.first, pair.second), models=pair.models)
    ranks = (1, 1) if pair.p_first == 0.5 else (1, 2) if pair.p_first > 0.5 else (2, 1)
    given = Ranks(whose(pair.votes), ranks)
    return ImportedRow(pair.messages, (pair.first, pair.second), rankings=(given,), models=pair.models)


def pairs_of(folder: ImportFolder) -> Iterator[Pair]:
    """The comparisons of a folder with their labels."""
    labels = folder.labels()
    for row in folder.comparisons.values():
        own = labels.get(row.id, [])
        said = opinions(own).values()
        prompt, a, b = folder.prompts[row.prompt_id], folder.responses[row.a], folder.responses[row.b]
        yield _pair(prompt, a, b, fmean(said) if said else None, own)


def _pair(
    prompt: Prompt, a: Response, b: Response, p_a: float | None, labels: Sequence[Label], **extra: Any
) -> Pair:
    models = _model(prompt, a), _model(prompt, b)
    votes = tuple(map(_vote, labels))
    return Pair(turns_of_prompt(prompt), a.text, b.text, p_a, models, votes, prompt.tags, extra)


def turns_of_prompt(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    """The prompt's messages as readers of formats give them."""
    return tuple((message.role, message.content) for message in prompt.messages)


def _model(prompt: Prompt, response: Response) -> str:
    """What wrote a response; an import that does not know names the format instead."""
    return "" if response.model == prompt.source else response.model


def _vote(label: Label) -> Vote:
    principle = label.principle_id
    return Vote(
        label.annotator,
        label.verdict,
        p_first=label.p_a,
        order=label.order,
        principle=(principle, label.judge.get("principle", principle)) if principle is not None else None,
        rationale=label.rationale,
        seconds=label.seconds,
    )


def rows_of(folder: ImportFolder) -> Iterator[ImportedRow]:
    """The rankings of a folder, those of the same responses together; where nobody ranked, its graded
    responses."""
    graded: dict[str, Grade] = {
        folder.id_of("responses", row.response_id): row
        for row in _optional(folder.path / "grades.jsonl", Grade)
    }
    grades = {id: row.scores for id, row in graded.items()}
    last: dict[tuple[str, str, str, frozenset[str]], Ranking] = {}  # of two by one annotator
    for row in _optional(folder.path / "rankings.jsonl", Ranking):
        ranking, who = by_content(row, folder), row.annotator
        item = (who.kind, who.id, ranking.prompt_id, frozenset(ranking.response_ids))
        folder.counts[AGAIN] += item in last
        last[item] = ranking
    groups: defaultdict[tuple[str, tuple[str, ...]], list[Ranking]] = defaultdict(list)
    for ranking in last.values():
        groups[ranking.prompt_id, ranking.response_ids].append(ranking)
    for (prompt_id, ids), rankings in groups.items():
        given = tuple(Ranks(row.annotator, row.ranks, row.seconds) for row in rankings)
        yield _row(folder, prompt_id, ids, given, grades)
    for id, row in graded.items() if not groups else ():
        yield _row(folder, folder.id_of("prompts", row.prompt_id), (id,), (), grades)


def _optional(path: Path, record: Any) -> list[Any]:
    return read_rows(path, record) if path.exists() else []


def _row(
    folder: ImportFolder, prompt_id: str, ids: Sequence[str], rankings: tuple[Ranks, ...], grades: Any
) -> ImportedRow:
    try:
        prompt, responses = folder.prompts[prompt_id], [folder.responses[id] for id in ids]
    except KeyError as error:
        raise UserError(
            f"{folder.path}: a ranking or grade names {error}, which is not there.",
            "prompts.jsonl and responses.jsonl that hold all texts",
        ) from None
    models = tuple(_model(prompt, response) for response in responses)
    scores = tuple(grades.get(id, {}) for id in ids)
    texts = tuple(response.text for response in responses)
    return ImportedRow(turns_of_prompt(prompt), texts, (), rankings, models, scores if any(scores) else ())


def pairs_of_run(held: RunLabels) -> Iterator[Pair]:
    """The preferences of a run's label stages with their texts and labels, read as they are asked for."""
    if not any((stage.dir / "preferences.jsonl").exists() for stage in held.stages):
        raise UserError(f"{held.path}: no preferences.", "a run whose label stage has begun")
    for stage in held.stages:
        yield from _pairs_of_stage(stage)


def _pairs_of_stage(stage: Stage[Any]) -> Iterator[Pair]:
    labels = Lookup([stage.dir / "labels.jsonl"], Label, "comparison_id")
    for found in preferred(stage):
        row = found.row
        said = labels.all(row.comparison_id)
        behind = [label.annotator for label in said if label.annotator.kind in row.sources]
        kinds = sorted({*row.sources, *kinds_behind(behind)})
        extra = {
            **({"source": "+".join(kinds)} if kinds else {}),
            "weight": row.weight,
            "deciding_principle": row.deciding_principle,
            "comparison_id": row.comparison_id,
            "stage": stage.dir.name,
        }
        yield _pair(found.prompt, found.a, found.b, row.p_a, said, **extra)

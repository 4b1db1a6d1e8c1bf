"""A folder of rows from elsewhere: its ids are not trusted but computed again from the rows.

Rows refer to each other by the ids they came with, so these only have to tell the rows of one file apart. An
id that stands for two rows is refused with both lines: what refers to it could mean either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rlaif.errors import UserError
from rlaif.records import Comparison, Label, Order, Prompt, Record, Response, Verdict, with_content_id
from rlaif.runs.rows import numbered_rows
from rlaif.runs.storage import IMPORT, read_json

R = TypeVar("R", bound=Record)
NEEDED = ("prompts", "responses", "comparisons")
RENAMED = "row under an id that is not that of its content: computed again"
STRAY = "label on no pair of the folder"
REPEATED = "label that a later one of the same annotator on the same pair repeats"
REPLACED = "label that a later one of the same annotator on the same pair replaces"
P_A: dict[Verdict, float] = {"a": 1.0, "b": 0.0, "tie": 0.5}
Ids = dict[str, str]  # the id a row came with → the id its content gives


@dataclass
class ImportFolder:
    """The rows of a folder by the ids that their content gives, and the ids that they came with."""

    path: Path
    prompts: dict[str, Prompt] = field(default_factory=dict)
    responses: dict[str, Response] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    ids: dict[str, Ids] = field(default_factory=dict)  # by file
    repeated: int = 0  # comparisons that stand in it more than once
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def left_out(self) -> Counter[str]:
        """Why labels of it are not used; a row whose id is computed again is."""
        return +Counter({reason: n for reason, n in self.counts.items() if reason != RENAMED})

    def id_of(self, file: str, given: str) -> str:
        """The id by content of a row of the folder; an id that the folder lacks is left as it is."""
        return self.ids.get(file, {}).get(given, given)

    def labels(self) -> dict[str, list[Label]]:
        """The labels of the folder by comparison; those on no comparison of it are counted, and those that a
        later one takes the place of."""
        last: dict[Hashable, Label] = {}
        for label in labels_by_content(self.path / "labels.jsonl", self):
            if label.comparison_id in self.comparisons:
                keep_last(last, said_of(label), label, self.counts)
            else:
                self.counts[STRAY] += 1
        found: defaultdict[str, list[Label]] = defaultdict(list)
        for label in last.values():
            found[label.comparison_id].append(label)
        return found


def read_folder(path: Path) -> ImportFolder:
    """prompts.jsonl, responses.jsonl and comparisons.jsonl of a folder, everything that a comparison names in
    it.

    Raises UserError where a file is missing or cannot be read, an id stands for two rows, or a comparison
    names what is not there.
    """
    if path.is_file():
        raise UserError(
            f"{path}: a file.",
            f"a folder with {_files(NEEDED)}",
            "name the folder it is in; rlaif data import makes one of other projects' files",
        )
    if missing := [name for name in NEEDED if not (path / f"{name}.jsonl").exists()]:
        raise UserError(
            f"{path}: {_files(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
            f"{_files(NEEDED)} in one folder: the pairs that labels are on, and their texts",
            f"copy {_files(missing)} to {path} from where the labels were made",
        )
    found = read_partial(path, NEEDED)
    for row in found.comparisons.values():
        a, b = found.responses.get(row.a), found.responses.get(row.b)
        if row.prompt_id not in found.prompts or a is None or b is None:
            raise UserError(
                f"{path / 'comparisons.jsonl'}: a comparison names a prompt or response that is not there "
                f"(prompt {row.prompt_id}, responses {row.a} and {row.b}).",
                "prompts.jsonl and responses.jsonl that hold all texts",
                "write the folder again with `rlaif data import`",
            )
        if not a.prompt_id == b.prompt_id == row.prompt_id:
            raise UserError(
                f"{path / 'comparisons.jsonl'}: a comparison on the prompt {row.prompt_id} has responses to "
                f"{a.prompt_id} and {b.prompt_id}.",
                "two responses to its prompt",
                "fix the prompt_id of the comparison or of its responses",
            )
    return found


def import_record(folder: Path) -> dict[str, Any]:
    """What import.json says of the import that made a folder, nothing where there is none: what was `dropped`
    and what of rows that were kept was `left_out`, by reason. UserError where it is damaged."""
    path = folder / "import.json"
    return read_json(path, "import the data again, or remove the file", IMPORT) if path.exists() else {}


def _files(names: Sequence[str]) -> str:
    """Names of files as a list in words."""
    *first, last = (f"{name}.jsonl" for name in names)
    return f"{', '.join(first)} and {last}" if first else last


def read_partial(path: Path, needed: tuple[str, ...] = ()) -> ImportFolder:
    """The same of a folder that may lack files, and rows that others name: such names are left as they
    are."""
    found = ImportFolder(path)

    def response(row: Response) -> Response:
        return with_content_id(row, prompt_id=found.id_of("prompts", row.prompt_id))

    def comparison(row: Comparison) -> Comparison:
        a, b = found.id_of("responses", row.a), found.id_of("responses", row.b)
        return with_content_id(row, prompt_id=found.id_of("prompts", row.prompt_id), a=a, b=b)

    def read(file: str, record: type[R], own: Callable[[R], R]) -> dict[str, R]:
        there = file in needed or (path / f"{file}.jsonl").exists()
        rows, found.ids[file], again = _read(path / f"{file}.jsonl", record, own) if there else ({}, {}, 0)
        found.counts[RENAMED] += sum(given != by_content for given, by_content in found.ids[file].items())
        found.repeated = again
        return rows

    found.prompts = read("prompts", Prompt, with_content_id)
    found.responses = read("responses", Response, response)
    found.comparisons = read("comparisons", Comparison, comparison)  # the last: `repeated` counts these
    return found


def read_beside(path: Path) -> ImportFolder:
    """The rows beside a file of labels or rankings; none where there is no comparisons.jsonl."""
    there = path.with_name("comparisons.jsonl").exists()
    return read_partial(path.parent) if there else ImportFolder(path.parent)


def labels_by_content(path: Path, beside: ImportFolder) -> list[Label]:
    """The labels of a file, on the ids that the content of the comparisons beside it gives; UserError names
    one that contradicts itself."""
    labels = [with_p(row, f"{path}:{line}") for line, row in numbered_rows(path, Label)]
    return [
        with_content_id(row, comparison_id=beside.id_of("comparisons", row.comparison_id)) for row in labels
    ]


def _read(path: Path, record: type[R], own: Callable[[R], R]) -> tuple[dict[str, R], Ids, int]:
    """The rows by content id, the first of equal ones; the ids they came with; how many were equal to
    another."""
    rows: dict[str, R] = {}
    ids: Ids = {}
    lines: dict[str, int] = {}
    repeated = 0
    for line, given in numbered_rows(path, record):
        row = own(given)
        if ids.setdefault(given.id, row.id) != row.id:
            raise UserError(
                f'{path}:{line}: the id "{given.id}" stands for another row in line {lines[given.id]}.',
                f"an id of its own for each {record.__name__.lower()}",
                f"give lines {lines[given.id]} and {line} different ids, or leave both out where nothing "
                "names them",
            )
        lines.setdefault(given.id, line)
        repeated += row.id in rows
        rows.setdefault(row.id, row)
    return rows, ids, repeated


class Said(Protocol):
    """What one annotator says of one pair."""

    @property
    def verdict(self) -> Verdict:
        """The choice."""
        ...


S = TypeVar("S", bound=Said)
K = TypeVar("K", bound=Hashable)


def order_of(label: Label) -> Order | None:
    """The order that tells a judge's labels on one pair apart; None of people, who have one opinion of a pair
    whichever response they were shown first."""
    return label.order if label.annotator.kind == "ai" else None


def said_of(label: Label) -> Hashable:
    """Whose label it is and what of: a later label of the same takes its place."""
    if label.annotator.kind == "ai":
        return label.id
    return label.comparison_id, label.annotator.kind, label.annotator.id, label.principle_id, label.anchored


def keep_last(kept: dict[K, S], key: K, given: S, counts: Counter[str]) -> None:
    """Keep what an annotator says under the `key` of annotator and pair; of two the last counts, and `counts`
    says that there was an earlier one."""
    if key in kept:
        counts[REPEATED if kept[key].verdict == given.verdict else REPLACED] += 1
    kept[key] = given


def with_implied_p(label: Label) -> Label:
    """The label with the p_a that its verdict implies where it has none."""
    return label if label.p_a is not None else label.model_copy(update={"p_a": P_A.get(label.verdict)})


def with_p(label: Label, where: str) -> Label:
    """The same; refused where p_a and verdict contradict each other."""
    if label.p_a is None:
        return with_implied_p(label)
    if label.verdict in ("abstain", "invalid"):
        raise UserError(
            f'{where}: the verdict is "{label.verdict}" but p_a is {label.p_a}.',
            "no p_a where nothing is said",
            "leave p_a out, or give the verdict that it stands for",
        )
    if (label.verdict == "a" and label.p_a < 0.5) or (label.verdict == "b" and label.p_a > 0.5):
        raise UserError(
            f'{where}: the verdict is "{label.verdict}" but p_a is {label.p_a}.',
            "p_a, the probability that a is better, on the verdict's side of 0.5",
            "leave p_a out",
        )
    return label

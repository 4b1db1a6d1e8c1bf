"""Other projects' preference data as a folder of our records.

What all formats share is done here once: ids, the order of a and b, repeated rows, counting, writing. The
input is streamed, the ids already written are kept on disk, and the same input gives the same bytes. A new
format is an object in `rlaif.human.formats`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.errors import UserError, nearest
from rlaif.human.files import count_rows, files_of, raw_rows
from rlaif.human.folder import P_A
from rlaif.human.formats import FORMATS, Format, ImportedRow, fits_first, format_of_any
from rlaif.human.formats.base import SWAPPED, Ranks, Vote
from rlaif.human.formats.votes import BESIDE
from rlaif.prompting.conversations import Unusable
from rlaif.prompting.tables import require_kept
from rlaif.records import Annotator, Comparison, Grade, Label, Prompt, Ranking, Record, Response, Verdict
from rlaif.runs.folder import silent_progress
from rlaif.runs.storage import digest, fingerprint, move_into_place, read_json, write_json

FILES = ("prompts", "responses", "comparisons", "labels")
MORE_FILES = ("rankings", "grades")  # written where there are any
BEGUN = "import.partial"  # in the folder of an import that is not finished, which the same call may finish


def import_file(
    format: str | Format | None,
    path: Path,
    out: Path,
    limit: int | None = None,
    tags: Sequence[str] = (),
    progress: Any = silent_progress,
    beside: Sequence[Path] = (),
    who: Annotator | None = None,
) -> dict[str, Any]:
    """Write the first `limit` rows of `path` as a folder of our records; returns what `import.json` keeps.

    `format` is an object, a name, or None: recognised from the file's first rows. A row counts under the
    first reason that fits, so `in` = `kept` + all of `dropped`; what is left out of rows that are kept is
    counted in `left_out`. `tags` go on every prompt. Files `beside` it are more of the same, or what the
    format joins to the rows; `who` labelled where the data does not say so, by default people. Raises
    UserError where a file cannot be read, no row is usable, or the folder holds a different import.
    """
    if isinstance(format, str) and format not in FORMATS:
        raise UserError(f'unknown format "{format}" — {nearest(format, list(FORMATS))}')
    if limit is not None and limit < 1:
        raise UserError(
            f"limit: {limit}.", "how many rows to read, 1 or more", "leave it out to read all rows"
        )
    source = _source(format, (path, *beside))
    people = who or Annotator(kind="human", id=source.format.name)
    asked = source.asked() | {"limit": limit, "tags": [*tags]}
    asked |= {"annotator": who.model_dump()} if who else {}
    _refuse_other(out, asked)
    out.mkdir(parents=True, exist_ok=True)
    (out / BEGUN).touch()
    try:
        with progress(f"{source.path.name}, rows", source.count(limit)) as tick:
            counts = _write(source, limit, out, tuple(tags), people, tick)
        if not counts["kept"]:
            reasons = ", ".join(f"{n} × {reason}" for reason, n in counts["dropped"].items()) or "it is empty"
            raise UserError(
                f"{path}: no row can be used ({reasons}).", f"a file in the {source.format.name} format"
            )
    except BaseException:
        for name in (*FILES, *MORE_FILES):
            _partial(out, name).unlink(missing_ok=True)
        if (out / "import.json").exists() or not any((out / f"{name}.jsonl").exists() for name in FILES):
            (out / BEGUN).unlink()  # else it still says whose files these are that a kill left
        raise
    for name in (*FILES, *MORE_FILES):
        if name in FILES or counts["rows"].get(name):
            move_into_place(_partial(out, name), out / f"{name}.jsonl")
        else:
            _partial(out, name).unlink()
            (out / f"{name}.jsonl").unlink(missing_ok=True)  # of another import, which was killed here
    write_json(out / "import.json", {**asked, **counts})
    (out / BEGUN).unlink()
    return {**asked, **counts}


def import_hh(path: Path, out: Path, limit: int | None = None, tags: Sequence[str] = ()) -> dict[str, Any]:
    """Import an HH-RLHF file, `.jsonl` or `.jsonl.gz`; see `import_file`."""
    return import_file("hh", path, out, limit, tags)


def _source(format: str | Format | None, paths: Sequence[Path]) -> Source:
    """The files of these paths, folders among them opened, and their format."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file.", "a file that exists", "check the path")
    files = [file for path in paths for file in (files_of(path) if path.is_dir() else [path])]
    for file in files:
        require_kept(file)
    if isinstance(format, Format):
        made = format
    elif format is not None:
        made = FORMATS[format]
    else:
        made = FORMATS[format_of_any(files)]
    several = len(files) > 1
    first = next((file for file in files if several and fits_first(file, [made])), files[0])
    return Source(made, first, [file for file in files if file != first])


class Source:
    """The files of one import and how their rows are read."""

    def __init__(self, format: Format, path: Path, beside: Sequence[Path]) -> None:
        self.format, self.path = format, path
        names = Counter(file.stem for file in (path, *beside))
        if len(names) <= len(beside):
            double = names.most_common(1)[0][0]
            raise UserError(f"{path}: two files called {double}.", "a name of its own for each file")
        self.joined = [file for file in beside if format.join and not fits_first(file, [format])]
        self.files = [path, *(file for file in beside if file not in self.joined)]

    def asked(self) -> dict[str, Any]:
        """What tells this import from another one into the same folder."""
        more = {file.name: _sha256(file) for file in (*self.files[1:], *self.joined)}
        asked = {"format": self.format.name, "source": self.path.name, "sha256": _sha256(self.path)}
        asked |= {"columns": dict(self.format.columns)} if self.format.columns else {}
        return {**asked, **({"beside": more} if more else {})}

    def count(self, limit: int | None) -> int:
        """How many rows there are at most."""
        if self.format.unfold:
            return sum(1 for _ in islice(self._unfolded(), limit))
        total = sum(count_rows(file, limit) for file in self.files)
        return total if limit is None else min(limit, total)

    def rows(self, left_out: Counter[str]) -> Iterator[ImportedRow | Unusable]:
        """What the rows of the files say; `left_out` counts rows that join none of them."""
        side = {file.stem: _by_key(file, self.format.join or "") for file in self.joined}
        for raw in self._unfolded():
            if side and isinstance(raw, dict) and not isinstance(raw.get(self.format.join), list | dict):
                key = raw.get(self.format.join)
                found = {name: rows.pop(key, None) for name, rows in side.items()}
                for name in (name for name, row in found.items() if row is None):
                    left_out[f"verdict of {name}, which has none on this row"] += 1
                raw = {**raw, BESIDE: {name: row for name, row in found.items() if row is not None}}
            yield self.format.parse(raw)
        for name, rows in side.items():
            left_out[f"row of {name} that belongs to none of these"] += len(rows)

    def _unfolded(self) -> Iterator[Any]:
        for file in self.files:
            for raw in raw_rows(file):
                if self.format.unfold and isinstance(raw, dict) and self.format.fits(raw) and _is_whole(raw):
                    yield from self.format.unfold(raw, file)
                else:
                    yield raw


def _is_whole(row: dict[str, Any]) -> bool:
    """Whether an object is a document with rows in it."""
    return any(isinstance(value, list) and value and isinstance(value[0], dict) for value in row.values())


def _by_key(file: Path, key: str) -> dict[Any, Any]:
    """The rows of a further file by the key that joins them; they are held in memory."""
    found: dict[Any, Any] = {}
    for row in raw_rows(file):
        value = row.get(key) if isinstance(row, dict) else None
        if not isinstance(value, int | str):
            raise UserError(
                f"{file}: a row without {key}.",
                f"rows with {key}, by which they join those of the first file",
            )
        if value in found:
            raise UserError(f"{file}: {key} {value} stands twice.", f"each {key} once")
        found[value] = row
    return found


def _refuse_other(out: Path, asked: dict[str, Any]) -> None:
    record = out / "import.json"
    held = read_json(record) if record.exists() else asked
    differing = [key for key, value in asked.items() if held.get(key) != value]
    if differing:
        raise UserError(
            f"{out}: holds another import ({', '.join(differing)} differ).",
            "a folder of its own",
            "name another folder, or remove this one",
        )
    if out.is_dir() and not record.exists() and not (out / BEGUN).exists() and any(out.iterdir()):
        raise UserError(
            f"{out}: not empty, and holds no import.",
            "a new folder, or that of the same import",
            "name another folder with --out",
        )


class Written:
    """The ids that were written, on disk, and the verdict of each label among them."""

    def __init__(self) -> None:
        self.db = sqlite3.connect("", isolation_level=None)  # no name: a temporary file
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-8192"):
            self.db.execute(f"PRAGMA {setting}")
        self.db.execute("CREATE TABLE ids (id INTEGER PRIMARY KEY, verdict TEXT)")
        self.db.execute("BEGIN")

    def add(self, id: str, verdict: str | None = None) -> bool:
        """Remember an id; False where it was there."""
        row = int(id, 16) - (1 << 63), verdict
        return self.db.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", row).rowcount == 1

    def verdict(self, id: str) -> str | None:
        """The verdict that came with an id."""
        found = self.db.execute("SELECT verdict FROM ids WHERE id = ?", (int(id, 16) - (1 << 63),)).fetchone()
        return found[0] if found else None


def _write(
    source: Source, limit: int | None, out: Path, tags: tuple[str, ...], people: Annotator, tick: Any
) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    rows: Counter[str] = Counter(dict.fromkeys(FILES, 0))
    written = Written()
    make = RowMaker(source.format, tags, people, written, left_out)
    count = kept = 0
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_partial(out, name).open("w", encoding="utf-8"))
            for name in (*FILES, *MORE_FILES)
        }
        for row in islice(source.rows(left_out), limit):
            count += 1
            tick(1)
            made = make(row) if isinstance(row, ImportedRow) else row
            if isinstance(made, Unusable):
                dropped[made] += 1
                continue
            kept += 1
            for name, record in made:
                files[name].write(record.to_json() + "\n")
                rows[name] += 1
    return {
        "sided": source.format.sided,
        "in": count,
        "kept": kept,
        "dropped": dict(sorted(dropped.items())),
        "left_out": dict(sorted((+left_out).items())),
        "rows": dict(rows),
    }


class RowMaker:
    """From an `ImportedRow` to those of our records that are new."""

    def __init__(
        self,
        format: Format,
        tags: tuple[str, ...],
        people: Annotator,
        written: Written,
        left_out: Counter[str],
    ) -> None:
        self.format, self.tags, self.written, self.left_out = format, tags, written, left_out
        self.people = people  # where the data does not say who labelled

    def __call__(self, row: ImportedRow) -> list[tuple[str, Record]] | Unusable:
        """The new rows by file, or why there are none."""
        texts = [text.strip() for text in row.responses]
        if not self.format.sided and len(texts) == 2 and texts[0] == texts[1]:
            return Unusable("identical responses")
        try:
            prompt, responses = self._texts(row)
            said = [*self._votes(row, prompt, responses), *self._rankings(row, prompt, responses)]
            grades = self._grades(row, prompt, responses)
            # Ids are hashes of most texts, which has told already; these are in none.
            "".join([*row.tags, *(vote.rationale or "" for vote in row.votes)]).encode()
        except (ValidationError, UnicodeEncodeError):
            return Unusable("not valid Unicode text")
        labels = self._new_labels(said)
        if isinstance(labels, Unusable):
            return labels
        graded = [("grades", grade) for grade in grades if self.written.add(grade.id)]
        if not labels and not graded:
            return Unusable(
                "nothing is said of its responses" if not said and not grades else "repeats an earlier row"
            )
        self.left_out.update(row.lost)
        texts_first = [("prompts", prompt), *(("responses", response) for response in responses)]
        return [*(pair for pair in texts_first if self.written.add(pair[1].id)), *labels, *graded]

    def _texts(self, row: ImportedRow) -> tuple[Prompt, list[Response]]:
        name = self.format.name
        turns = [{"role": role, "content": content} for role, content in row.messages]
        tags = (*self.tags, *row.tags)
        prompt = Prompt.model_validate({"messages": turns, "tags": tags, "source": name})
        models = row.models or (name,) * len(row.responses)
        seen: Counter[tuple[str, str]] = Counter()
        responses = []
        for text, model in zip(row.responses, models, strict=True):
            # The same text by the same model once more is another sample of it.
            responses.append(Response(prompt_id=prompt.id, text=text, model=model, index=seen[text, model]))
            seen[text, model] += 1
        return prompt, responses

    def _votes(
        self, row: ImportedRow, prompt: Prompt, responses: Sequence[Response]
    ) -> list[tuple[Comparison, Label]]:
        return [self._label(vote, prompt, responses) for vote in row.votes]

    def _rankings(
        self, row: ImportedRow, prompt: Prompt, responses: Sequence[Response]
    ) -> list[tuple[Comparison, Label] | Ranking]:
        """Each ranking, and what it says of every two of its responses."""
        found: list[tuple[Comparison, Label] | Ranking] = []
        for given in row.rankings:
            places = ranked_places(given, self.left_out)
            found.append(
                Ranking(
                    prompt_id=prompt.id,
                    response_ids=tuple(responses[place].id for place in places),
                    ranks=tuple(given.ranks[place] or 0 for place in places),
                    annotator=given.annotator or self.people,
                    seconds=given.seconds,
                )
            )
            found += [self._label(vote, prompt, responses) for vote in votes_of(given, places)]
        return found

    def _label(self, vote: Vote, prompt: Prompt, responses: Sequence[Response]) -> tuple[Comparison, Label]:
        """The comparison and its label.

        Where the data has sides of its own, they are a and b. Where its first is always the better one, ids,
        which are hashes, decide: the better response is then a in half of the pairs.
        """
        first, second = (responses[place] for place in vote.pair)
        turned = not self.format.sided and first.id > second.id
        a, b = (second, first) if turned else (first, second)
        comparison = Comparison(prompt_id=prompt.id, a=a.id, b=b.id, origin="import")
        p_first = P_A.get(vote.verdict) if vote.p_first is None else vote.p_first
        who = vote.annotator or self.people
        judge = {"principle": vote.principle[1]} if vote.principle else {}
        return comparison, Label(
            comparison_id=comparison.id,
            annotator=who,
            principle_id=vote.principle[0] if vote.principle else None,
            order=vote.order,
            p_a=1 - p_first if turned and p_first is not None else p_first,
            verdict=SWAPPED.get(vote.verdict, vote.verdict) if turned else vote.verdict,
            reason="refused" if vote.verdict == "invalid" and who.kind == "ai" else None,
            rationale=vote.rationale,
            seconds=vote.seconds,
            judge=judge | ({"model": who.id} if who.kind == "ai" else {}),
        )

    def _grades(self, row: ImportedRow, prompt: Prompt, responses: Sequence[Response]) -> list[Grade]:
        return [
            Grade(prompt_id=prompt.id, response_id=response.id, scores=dict(scores))
            for response, scores in zip(responses, row.grades, strict=False)
            if scores
        ]

    def _new_labels(
        self, said: Sequence[tuple[Comparison, Label] | Ranking]
    ) -> list[tuple[str, Record]] | Unusable:
        """The rankings, and the labels with their comparisons, that no earlier row had; a row that has
        nothing new is told why."""
        new: list[tuple[str, Record]] = []
        again: Counter[str] = Counter()
        for item in said:
            if isinstance(item, Ranking):
                new += [("rankings", item)] if self.written.add(item.id) else []
                continue
            comparison, label = item
            if self.written.add(label.id, label.verdict):
                new += [("comparisons", comparison)] if self.written.add(comparison.id) else []
                new.append(("labels", label))
            else:
                again["repeats" if self.written.verdict(label.id) == label.verdict else "contradicts"] += 1
        if again and not new:
            return Unusable(f"{'contradicts' if again['contradicts'] else 'repeats'} an earlier row")
        for how, n in again.items():
            self.left_out[f"label that {how} an earlier row"] += n
        return new


def ranked_places(given: Ranks, left_out: Counter[str]) -> list[int]:
    """The places of the responses that have a rank; the others are counted."""
    places = [place for place, rank in enumerate(given.ranks) if rank is not None]
    left_out["response that is not ranked"] += len(given.ranks) - len(places)
    return places


def votes_of(given: Ranks, places: Sequence[int]) -> Iterator[Vote]:
    """What a ranking says of every two of the responses at `places`; its seconds are shared out evenly."""
    pairs = list(combinations(places, 2))
    seconds = given.seconds / len(pairs) if given.seconds is not None and pairs else None
    for first, second in pairs:
        x, y = given.ranks[first] or 0, given.ranks[second] or 0
        verdict: Verdict = "tie" if x == y else "a" if x < y else "b"
        yield Vote(given.annotator, verdict, (first, second), seconds=seconds)


def _partial(out: Path, name: str) -> Path:
    return out / f"{name}.jsonl.partial"


def _sha256(path: Path) -> str:
    return fingerprint(path) if path.is_dir() else digest(path)["sha256"]

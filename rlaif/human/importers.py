"""Other projects' preference data as a folder of our records, and back.

What all formats share is done here once: ids, the order of a and b, repeated rows, counting, writing. The
input is streamed, and the same input gives the same bytes. A new format is a reader in `rlaif.human.formats`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from rlaif.errors import UserError, nearest
from rlaif.feedback.preferences import opinions
from rlaif.human.folder import P_A, read_folder
from rlaif.human.formats import READERS, ImportedPair, Unusable, hh_pair, hh_row
from rlaif.records import Comparison, Label, Prompt, Record, Response, Verdict
from rlaif.runs.folder import silent_progress
from rlaif.runs.storage import read_json, write_json

FILES = ("prompts", "responses", "comparisons", "labels")
SWAPPED: dict[Verdict, Verdict] = {"a": "b", "b": "a"}


def import_file(
    format: str,
    path: Path,
    out: Path,
    limit: int | None = None,
    tags: Sequence[str] = (),
    progress: Any = silent_progress,
) -> dict[str, Any]:
    """Write the first `limit` rows of `path` as a folder of our records; returns what `import.json` keeps.

    A row counts under the first reason that fits, so `in` = `kept` + all of `dropped`. `tags` go on every
    prompt. Raises UserError where the file cannot be read, no row is usable, or the folder holds a different
    import.
    """
    if format not in READERS:
        raise UserError(f'unknown format "{format}" — {nearest(format, list(READERS))}')
    if limit is not None and limit < 1:
        raise UserError(
            f"limit: {limit}.", "how many rows to read, 1 or more", "leave it out to read all rows"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file.", f"a file in the {format} format", "check the path")
    asked = {"format": format, "source": path.name, "sha256": _sha256(path), "limit": limit, "tags": [*tags]}
    _refuse_other(out, asked)
    out.mkdir(parents=True, exist_ok=True)
    try:
        total = sum(1 for _ in islice(READERS[format](path), limit))
        with progress(f"{path.name}, rows", total) as tick:
            counts = _write(islice(READERS[format](path), limit), out, format, tuple(tags), tick)
        if not counts["kept"]:
            reasons = ", ".join(f"{n} × {reason}" for reason, n in counts["dropped"].items()) or "it is empty"
            raise UserError(f"{path}: no row can be used ({reasons}).", f"a file in the {format} format")
    except BaseException:
        for name in FILES:
            _partial(out, name).unlink(missing_ok=True)
        raise
    for name in FILES:
        _partial(out, name).replace(out / f"{name}.jsonl")
    write_json(out / "import.json", {**asked, **counts})
    return {**asked, **counts}


def import_hh(path: Path, out: Path, limit: int | None = None, tags: Sequence[str] = ()) -> dict[str, Any]:
    """Import an HH-RLHF file, `.jsonl` or `.jsonl.gz`; see `import_file`."""
    return import_file("hh", path, out, limit, tags)


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


def _write(
    pairs: Iterator[ImportedPair | Unusable], out: Path, source: str, tags: tuple[str, ...], tick: Any
) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    verdicts: dict[str, Verdict] = {}  # by label id
    written: dict[str, set[str]] = {name: set() for name in FILES}
    count = 0
    with ExitStack() as stack:
        files = {name: stack.enter_context(_partial(out, name).open("w", encoding="utf-8")) for name in FILES}
        for pair in pairs:
            count += 1
            tick(1)
            rows = _records(pair, source, tags, verdicts)
            if isinstance(rows, Unusable):
                dropped[rows] += 1
                continue
            for name, row in rows:
                if row.id not in written[name]:
                    files[name].write(row.to_json() + "\n")
                    written[name].add(row.id)
    return {
        "in": count,
        "kept": len(verdicts),
        "dropped": dict(sorted(dropped.items())),
        "rows": {name: len(ids) for name, ids in written.items()},
    }


def _records(
    pair: ImportedPair | Unusable, source: str, tags: tuple[str, ...], verdicts: dict[str, Verdict]
) -> list[tuple[str, Record]] | Unusable:
    """The rows of one pair by file; `verdicts` remembers the labels so far by id."""
    if isinstance(pair, Unusable):
        return pair
    if pair.first.strip() == pair.second.strip():
        return Unusable("identical responses")
    try:
        turns = [{"role": role, "content": content} for role, content in pair.messages]
        prompt = Prompt.model_validate({"messages": turns, "tags": tags, "source": source})
        texts = (pair.first, pair.second)
        first, second = (Response(prompt_id=prompt.id, text=text, model=source) for text in texts)
        comparison, label = _label(pair, prompt, first, second)
    except ValidationError:
        return Unusable("not valid Unicode text")
    if label.id in verdicts:
        same = verdicts[label.id] == label.verdict
        return Unusable("repeats an earlier row" if same else "contradicts an earlier row")
    verdicts[label.id] = label.verdict
    return [
        ("prompts", prompt),
        ("responses", first),
        ("responses", second),
        ("comparisons", comparison),
        ("labels", label),
    ]


def _label(pair: ImportedPair, prompt: Prompt, first: Response, second: Response) -> tuple[Comparison, Label]:
    """The comparison and its label. Ids are hashes: their order places the better response as a in half of
    the pairs.

    The order in which the annotator saw the responses is not in the data; it is taken to be that of (a, b).
    """
    a, b = sorted((first.id, second.id))
    comparison = Comparison(prompt_id=prompt.id, a=a, b=b, origin="import")
    verdict = pair.verdict if a == first.id else SWAPPED.get(pair.verdict, pair.verdict)
    return comparison, Label(
        comparison_id=comparison.id,
        annotator=pair.annotator,
        order="ab",
        p_a=P_A.get(verdict),
        verdict=verdict,
    )


def export_hh(folder: Path, path: Path) -> dict[str, Any]:
    """Write a folder's comparisons as HH-RLHF rows, the winner being that of its annotators' mean opinion;
    returns the counts.

    Left out and counted: a comparison without a winner, and one that the format cannot hold (a system turn, a
    turn marker inside a response), which is whatever would not be read back the same.
    """
    rows = read_folder(folder)
    labels = rows.labels()
    dropped: Counter[str] = Counter()
    with path.open("w", encoding="utf-8") as file:
        for row in rows.comparisons.values():
            p_a = fmean(opinions(labels.get(row.id, ())).values() or [0.5])
            best, worst = (
                rows.responses[id].text for id in ((row.a, row.b) if p_a > 0.5 else (row.b, row.a))
            )
            turns = tuple((m.role, m.content) for m in rows.prompts[row.prompt_id].messages)
            hh, reason = _hh(turns, best, worst), "no winner" if p_a == 0.5 else ""
            if hh is None or reason:
                dropped[reason or "the format cannot hold it"] += 1
            else:
                file.write(json.dumps(hh, ensure_ascii=False) + "\n")
    total = len(rows.comparisons)
    return {"in": total, "kept": total - dropped.total(), "dropped": dict(dropped)}


def _hh(turns: tuple[tuple[str, str], ...], best: str, worst: str) -> dict[str, str] | None:
    row = hh_row(turns, best, worst)
    back = hh_pair(row)
    same = isinstance(back, ImportedPair) and (back.messages, back.first, back.second) == (turns, best, worst)
    return row if same else None


def _partial(out: Path, name: str) -> Path:
    return out / f"{name}.jsonl.partial"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

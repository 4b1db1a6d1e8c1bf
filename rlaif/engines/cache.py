"""The response cache: an engine's responses in one SQLite file, as JSON, keyed by fingerprint, question and
seed.

Scores are kept suffix by suffix, so an edited principle re-scores itself alone. WAL journalling: a killed
process leaves a readable file and loses at most the last second of responses. Every response carries a
checksum: a damaged one is asked for again, and so is everything where the file itself is damaged, which is
set aside.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlaif.engines import Engine, GenerateRequest, Generation, ScoreRequest, Scores
from rlaif.errors import UserError

_WINDOW = 512  # keys looked up in one query
_FLUSH_ROWS, _FLUSH_SECONDS = 512, 1.0
# What SQLite says of a file that is damaged, or whose table is not ours.
_DAMAGED = re.compile("SQLITE_(CORRUPT|NOTADB|IOERR_SHORT_READ|FORMAT|ERROR$)")


class CachedEngine:
    """An engine that asks the one behind it only what the file does not hold; its usage counts the hits."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine, self.usage, self.notes = engine, engine.usage, engine.notes
        self.batched = engine.batched
        self._rows: list[tuple[bytes, str]] = []
        self._flushed = time.monotonic()
        self.path, self._lost = path, 0
        self._db = self._open()
        self._closing = weakref.finalize(self, self._db.close)

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self.path)
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise UserError(
                    f"{self.path}: not a usable response cache ({error}).",
                    "a writable SQLite file made by rlaif",
                    f"remove {self.path}; the responses will be asked for again",
                ) from None
            return self._set_aside(error)

    def _set_aside(self, error: sqlite3.Error) -> sqlite3.Connection:
        """A new file in the place of a damaged one, which is kept beside it."""
        aside = self.path.with_name(self.path.name + ".damaged")
        os.replace(self.path, aside)
        for end in ("-wal", "-shm"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        self.notes.append(
            f"the response cache was damaged ({error}) and is kept as {aside.name}: its responses are asked "
            "for again"
        )
        return _connect(self.path)

    def _recover(self, error: sqlite3.Error) -> None:
        """Go on with a new file where `error` says that this one is damaged; raises any other error."""
        if not _is_damage(error):
            raise error
        self._closing()
        self._db = self._set_aside(error)
        self._closing = weakref.finalize(self, self._db.close)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the engine behind."""
        return self.engine.fingerprint

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Known texts first, then the others from the engine; greedy texts do not depend on the seed."""
        keys = [
            self._key("generate", {**asdict(r), "seed": r.seed if r.temperature else 0}) for r in requests
        ]
        missing: list[int] = []
        for window in _windows(len(keys)):
            found = self._find([keys[i] for i in window], _is_generation)
            for index in window:
                if keys[index] in found:
                    self.usage.cached += 1
                    yield index, Generation(**_with_new_names(found[keys[index]]))
                else:
                    missing.append(index)
        with self._keeping():
            for place, made in self.engine.generate([requests[i] for i in missing]) if missing else ():
                if made.why_empty is None:
                    self._keep(keys[missing[place]], asdict(made))
                yield missing[place], made

    def score_choices(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """Requests whose suffixes are all known first, then the others, asking only for the missing
        suffixes."""
        missing: list[tuple[int, list[Any]]] = []
        for window in _windows(len(requests)):
            keys = {i: self._suffix_keys(requests[i]) for i in window}
            counts = {len(requests[i].choices) for i in window} | {0}
            found = self._find(
                [key for row in keys.values() for key in row],
                lambda value, counts=counts: _is_row(value, counts),
            )
            for index, row in keys.items():
                known = [None if requests[index].again else found.get(key) for key in row]
                self.usage.cached += sum(value is not None for value in known)
                if None in known:
                    missing.append((index, known))
                else:
                    yield index, Scores(tuple(tuple(value) for value in known if value is not None))
        yield from self._score_missing(requests, missing)

    def _score_missing(
        self, requests: Sequence[ScoreRequest], missing: list[tuple[int, list[Any]]]
    ) -> Iterator[tuple[int, Scores]]:
        holes = [[s for s, value in enumerate(known) if value is None] for _, known in missing]
        asked = [
            replace(requests[i], suffixes=tuple(requests[i].suffixes[s] for s in hole))
            for (i, _), hole in zip(missing, holes, strict=True)
        ]
        with self._keeping():
            for place, made in self.engine.score_choices(asked) if asked else ():
                index, known = missing[place]
                if made.too_long:
                    yield index, made
                    continue
                keys = self._suffix_keys(asked[place])
                for s, key, value in zip(holes[place], keys, made.logprobs, strict=True):
                    known[s] = value
                    if not requests[index].again and (value or not made.refused):
                        self._keep(key, value)
                yield index, replace(made, logprobs=tuple(map(tuple, known)))

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Write the new responses; where something else went wrong, an error of that is not the one to be
        told."""
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error, OSError):
                self._flush()
            raise
        self._flush()

    def _key(self, *parts: Any) -> bytes:
        text = json.dumps([self.fingerprint, *parts], ensure_ascii=False, sort_keys=True)
        return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()

    def _suffix_keys(self, request: ScoreRequest) -> list[bytes]:
        shared = self._key("score", request.messages, request.choices)
        return [
            hashlib.blake2b(s.encode(errors="surrogatepass"), digest_size=16, key=shared).digest()
            for s in request.suffixes
        ]

    def _find(self, keys: Sequence[bytes], fits: Callable[[Any], bool]) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        for start in range(0, len(keys), _WINDOW):
            part = keys[start : start + _WINDOW]
            marks = ",".join("?" * len(part))
            try:
                rows = self._db.execute(
                    f"SELECT key, value FROM answers WHERE key IN ({marks})", part
                ).fetchall()
            except sqlite3.DatabaseError as error:
                self._recover(error)
                return {}
            for key, text in rows:
                value = _verified(key, text)
                if fits(value):
                    found[key] = value
                else:
                    self._note_lost()
        return found

    def _note_lost(self) -> None:
        def note() -> str:
            return f"the response cache held damaged responses, which were asked for again: {self._lost}"

        if note() in self.notes:
            self.notes.remove(note())
        self._lost += 1
        self.notes.append(note())

    def _keep(self, key: bytes, value: Any) -> None:
        text = json.dumps(value, ensure_ascii=True)
        self._rows.append((key, f"{_checksum(key, text)} {text}"))
        if len(self._rows) >= _FLUSH_ROWS or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if self._rows:
            try:
                self._write()
            except sqlite3.DatabaseError as error:
                self._recover(error)
                self._write()
            self._rows.clear()

    def _write(self) -> None:
        if self._db.in_transaction:  # of a write that failed
            self._db.execute("ROLLBACK")
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", self._rows)
        self._db.execute("COMMIT")


def copy_cache(path: Path, new: Path) -> None:
    """A cache's responses in another file; of one that is missing or damaged nothing: they are asked for
    again."""
    if not path.exists():
        return
    with suppress(sqlite3.Error):
        theirs = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        with closing(theirs), closing(sqlite3.connect(new)) as copy:
            theirs.backup(copy)
        return
    new.unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    # One thread uses it, but the collector may close it from another.
    db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID")
    db.execute("SELECT key, value FROM answers LIMIT 1").fetchone()
    return db


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is damaged, and not that it cannot be written."""
    return bool(_DAMAGED.match(getattr(error, "sqlite_errorname", "")))


def _checksum(key: bytes, text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8, key=key).hexdigest()


def _verified(key: bytes, value: Any) -> Any:
    """The response kept as `value`, None where it is damaged; what an earlier version kept has no
    checksum."""
    if not isinstance(value, str):
        return None
    head, _, text = value.partition(" ")
    marked = re.fullmatch("[0-9a-f]{16}", head)
    if marked and head != _checksum(key, text):
        return None
    try:
        return json.loads(text if marked else value)
    except (ValueError, RecursionError):
        return None


def _with_new_names(value: dict[str, Any]) -> dict[str, Any]:
    return {"finish_reason" if key == "finish" else key: kept for key, kept in value.items()}  # an old cache


def _is_generation(value: Any) -> bool:
    kinds = {
        "text": str,
        "finish_reason": str,
        "prompt_tokens": int,
        "tokens": int,
        "token_ids": (str, type(None)),
        "said": str,
        "thinking": str,
    }
    if not isinstance(value, dict):
        return False
    value = _with_new_names(value)
    if not {"text", "finish_reason"} <= value.keys() <= kinds.keys():
        return False
    return all(isinstance(value[key], kinds[key]) for key in value)


def _is_row(value: Any, counts: set[int]) -> bool:
    """Whether it is log-probabilities of one suffix, of as many choices as some question has."""
    numbers = isinstance(value, list) and all(
        isinstance(x, int | float) and not isinstance(x, bool) for x in value
    )
    return numbers and len(value) in counts


def _windows(count: int) -> Iterator[range]:
    return (range(start, min(start + _WINDOW, count)) for start in range(0, count, _WINDOW))

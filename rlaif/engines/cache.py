"""The response cache: an engine's answers in one SQLite file, as JSON, keyed by fingerprint, question and seed.

Scores are kept suffix by suffix, so an edited principle re-scores itself alone. WAL journalling: a killed process
leaves a readable file and loses at most the last second of answers.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlaif.engines import Engine, GenerateRequest, Generation, ScoreRequest, Scores
from rlaif.errors import UserError

_WINDOW = 512  # keys looked up in one query
_FLUSH_ROWS, _FLUSH_SECONDS = 512, 1.0


class CachedEngine:
    """An engine that asks the one behind it only what the file does not hold; its usage counts the hits."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine, self.usage, self.notes = engine, engine.usage, engine.notes
        self.batched = engine.batched
        self._rows: list[tuple[bytes, str]] = []
        self._flushed = time.monotonic()
        try:
            # One thread uses it, but the collector may close it from another.
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise UserError(f"{path}: not a usable response cache ({error}).", "a writable SQLite file made by rlaif",
                            f"remove {path}; the answers will be asked for again") from None  # fmt: skip
        weakref.finalize(self, self._db.close)

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
            found = self._find([keys[i] for i in window])
            for index in window:
                if keys[index] in found:
                    self.usage.cached += 1
                    yield index, Generation(**found[keys[index]])
                else:
                    missing.append(index)
        try:
            for place, made in self.engine.generate([requests[i] for i in missing]) if missing else ():
                if made.unwritten is None:
                    self._keep(keys[missing[place]], asdict(made))
                yield missing[place], made
        finally:
            self._flush()

    def score_choices(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """Requests whose suffixes are all known first, then the others, asking only for the missing suffixes."""
        missing: list[tuple[int, list[Any]]] = []
        for window in _windows(len(requests)):
            keys = {i: self._suffix_keys(requests[i]) for i in window}
            found = self._find([key for row in keys.values() for key in row])
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
        try:
            for place, made in self.engine.score_choices(asked) if asked else ():
                index, known = missing[place]
                if made.too_long:
                    yield index, made
                    continue
                keys = self._suffix_keys(asked[place])
                for s, key, value in zip(holes[place], keys, made.logprobs, strict=True):
                    known[s] = value
                    if not requests[index].again:
                        self._keep(key, value)
                yield index, replace(made, logprobs=tuple(map(tuple, known)))
        finally:
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

    def _find(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        for start in range(0, len(keys), _WINDOW):
            part = keys[start : start + _WINDOW]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", part)
            found.update((key, json.loads(value)) for key, value in rows)
        return found

    def _keep(self, key: bytes, value: Any) -> None:
        self._rows.append((key, json.dumps(value, ensure_ascii=True)))
        if len(self._rows) >= _FLUSH_ROWS or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if self._rows:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", self._rows)
            self._db.execute("COMMIT")
            self._rows.clear()


def _windows(count: int) -> Iterator[range]:
    return (range(start, min(start + _WINDOW, count)) for start in range(0, count, _WINDOW))

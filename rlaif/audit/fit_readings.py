"""What a judge says of pairs in both orders, with its hidden states, as arrays to fit numbers on.

Readings are kept beside the fit that is to be, a file for each chunk of pairs: a killed command goes on, and
one that was refused need not ask again when it has more labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlaif.audit.fit_numerics import Readings
from rlaif.engines import Scores
from rlaif.engines.fit import checksum, packed
from rlaif.feedback.judge import MIN_MASS, Judge, JudgeQuestion
from rlaif.records import ORDERS, Order, content_hash
from rlaif.runs.folder import silent_progress
from rlaif.runs.storage import CHECKSUM, write_bytes
from rlaif.stats import MAX_LOGIT

CHUNK = 32  # pairs a file
LAYERS = (1 / 3, 1 / 2, 2 / 3, 1.0)  # of the model's depth, after which states are read
Table = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Collected:
    """Readings and, by (pair id, principle id), which one it is; `unread` counts what could not be read, and
    `layers` are the states' in the model."""

    readings: Readings
    place: dict[tuple[str, str], int]
    layers: tuple[int, ...]
    unread: int


def collect(
    judge: Judge,
    questions: Sequence[JudgeQuestion],
    principles: Sequence[str],
    kept: Path,
    with_states: bool,
    progress: Any = silent_progress,
) -> Collected:
    """Ask about every question in both orders, but for what stands in the folder `kept` from an earlier
    start."""
    engine: Any = judge.engine
    layers = tuple(sorted({max(1, round(engine.depth * share)) for share in LAYERS})) if with_states else ()
    kept.mkdir(parents=True, exist_ok=True)
    tables: list[Table] = []
    with progress("pairs, in both orders", len(questions)) as tick:
        for start in range(0, len(questions), CHUNK):
            part = questions[start : start + CHUNK]
            tables.append(_kept(judge, part, layers, kept))
            tick(len(part))
    asked = [(q.comparison.id, p.id) for q in questions for p in q.principles]
    read = np.concatenate([t["read"] for t in tables]).astype(bool) if tables else np.zeros(0, bool)
    whole = {k: np.concatenate([t[k] for t in tables]) for k in tables[0]} if tables else {}
    names = list(principles)
    there = [pair for pair, ok in zip(asked, read, strict=True) if ok]
    readings = Readings(
        whole.get("own", np.zeros(0))[read].astype(float),
        whole.get("lean", np.zeros(0))[read].astype(float),
        np.array([names.index(principle) for _, principle in there], np.intp),
        {kind: whole[f"{kind}.differs"][read] for kind in ("responses", "verdicts") if layers},
        {"verdicts": whole["verdicts.leans"][read]} if layers else {},
    )
    return Collected(readings, {pair: at for at, pair in enumerate(there)}, layers, int((~read).sum()))


def _kept(judge: Judge, part: Sequence[JudgeQuestion], layers: tuple[int, ...], folder: Path) -> Table:
    """A chunk's table, from its file where there is one that can be read."""
    asked = [[q.comparison.id, *(judge.identity(p)["principle"] for p in q.principles)] for q in part]
    name = content_hash("readings", judge.engine.fingerprint, judge.wording, list(layers), asked)
    file = folder / f"{name}.safetensors"
    if (found := _read(file, sum(len(q.principles) for q in part))) is not None:
        return found
    table = _ask(judge, part, layers)
    write_bytes(file, packed(table, {CHECKSUM: checksum(name, table)}))
    return table


def _read(file: Path, rows: int) -> Table | None:
    """The table of a file of readings, None where there is none or it is damaged or changed: its pairs are
    asked about again. One of an earlier version, which has no checksum, has to have the rows."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            facts, names = opened.metadata() or {}, opened.keys()
            table = {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError):
        return None
    whole = {"own", "lean", "read"} <= table.keys() and all(x.shape[:1] == (rows,) for x in table.values())
    if whole and not np.isfinite(table["own"] + table["lean"])[table["read"].astype(bool)].all():
        return None
    sealed = facts.get(CHECKSUM)
    return table if whole and sealed in (None, checksum(file.stem, table)) else None


def _ask(judge: Judge, part: Sequence[JudgeQuestion], layers: tuple[int, ...]) -> Table:
    """own, lean, read [M] of the chunk's M pairs under a principle, and states [M, L, D] where layers are
    asked for."""
    jobs: list[tuple[JudgeQuestion, Order]] = [(q, order) for q in part for order in ORDERS]
    requests = [judge.request(q, order, q.principles) for q, order in jobs]
    odds: dict[int, list[float]] = {}
    states: dict[int, NDArray[Any]] = {}
    for index, scores, own in _scored(judge.engine, requests, layers):
        odds[index] = [_log_odds(scores, at) for at in range(len(requests[index].suffixes))]
        states[index] = own
    pairs = range(len(part))
    ab, ba = (np.array([x for i in pairs for x in odds[2 * i + k]]) for k in (0, 1))
    table: Table = {"own": (ab - ba) / 2, "lean": (ab + ba) / 2}
    if layers:
        count = [len(q.principles) for q in part]
        width = next((s.shape[1:] for s in states.values() if s.size), (len(layers), 1))
        empty = [np.full((n, *width), np.nan, np.float32) for n in count]
        first, second = (
            np.concatenate([states[2 * i + k] if states[2 * i + k].size else empty[i] for i in pairs])
            for k in (0, 1)
        )
        table |= {"verdicts.differs": (first - second) / 2, "verdicts.leans": (first + second) / 2}
        table["responses.differs"] = np.repeat(_differences(judge.engine, part, layers, width), count, 0)
    finite = [np.isfinite(x).reshape(len(ab), -1).all(1) for x in table.values()]
    return table | {"read": np.logical_and.reduce(finite)}


def _scored(
    engine: Any, requests: Sequence[Any], layers: tuple[int, ...]
) -> Iterator[tuple[int, Scores, Any]]:
    if layers:
        yield from engine.score_with_states(requests, layers)
    else:
        for index, scores in engine.score_choices(requests):
            yield index, scores, np.zeros(0)


def _differences(
    engine: Any, part: Sequence[JudgeQuestion], layers: tuple[int, ...], width: Any
) -> NDArray[np.float32]:
    """The states of each pair's a less those of its b [pairs, L, D], NaN where they could not be read."""
    found = np.full((len(part), *width), np.nan, np.float32)
    for index, states in engine.response_states([(q.prompt.chat, (q.a, q.b)) for q in part], layers):
        if states.size:
            found[index] = states[0] - states[1]
    return found


def _log_odds(scores: Scores, at: int) -> float:
    """The log-odds of A over B, bounded as a verdict's are; NaN where none can be read."""
    if scores.too_long or not scores.readable(at):
        return float("nan")
    mass = scores.answer_mass(at)
    if mass is not None and mass < MIN_MASS:
        return float("nan")
    a, b = scores.logprobs[at]
    return min(MAX_LOGIT, max(-MAX_LOGIT, a - b))

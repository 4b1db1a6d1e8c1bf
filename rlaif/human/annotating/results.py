"""From actions to rlaif's rows: labels, rankings, second opinions of repeated items, labels after an AI's."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rlaif.human.annotating.actions import Action, ActionLog
from rlaif.human.folder import P_A
from rlaif.records import Annotator, Comparison, Label, Order, Ranking, Record, Verdict
from rlaif.runs.rows import RowFile
from rlaif.runs.storage import digest, read_json, write_json, write_text

MOST_OF_TIME = 0.05  # that rows are made anew in


def rows_of(log: ActionLog, pairs: Iterable[Comparison]) -> dict[str, list[Record]]:
    """What the live actions say, by file.

    labels: the blind choices, one an annotator, comparison and principle; rankings: those of all
    responses to a prompt; repeats: the choices when an item was shown again; anchored: the choices once an
    AI's opinion had been seen, changed or kept.
    """
    found: dict[str, list[Record]] = {"labels": [], "rankings": [], "repeats": [], "anchored": []}
    comparisons = {pair.id: pair for pair in pairs}
    by_prompt: defaultdict[str, list[Comparison]] = defaultdict(list)
    for pair in comparisons.values():
        by_prompt[pair.prompt_id].append(pair)
    for action in log.live():
        if not action.ranks:
            continue
        after = action.kind == "final" or action.anchored
        file = "anchored" if after else "repeats" if action.repeat else "labels"
        is_pair = action.item in comparisons
        asked = [comparisons[action.item]] if is_pair else by_prompt[action.item]
        found[file] += _labels(action, asked, after)
        if file == "labels" and not is_pair:
            found["rankings"].append(
                Ranking(
                    prompt_id=action.item,
                    response_ids=action.response_ids,
                    ranks=action.ranks,
                    annotator=Annotator(kind="human", id=action.annotator),
                    seconds=action.seconds,
                )
            )
    # What was chosen anew after an undo, and kept once the opinion had been seen again, is one label.
    found["anchored"] = list({row.id: row for row in found["anchored"]}.values())
    return found


def _labels(action: Action, asked: Sequence[Comparison], after: bool) -> list[Label]:
    """The choice as a label on every comparison of two of its responses; seconds are shared out evenly."""
    place = {id: at for at, id in enumerate(action.response_ids)}
    asked = [pair for pair in asked if pair.a in place and pair.b in place]
    made = []
    for pair in asked:
        first, second = place[pair.a], place[pair.b]
        x, y = action.ranks[first], action.ranks[second]
        verdict: Verdict = "tie" if x == y else "a" if x < y else "b"
        shown: Order = "ab" if action.order.index(first) < action.order.index(second) else "ba"
        made.append(
            Label(
                comparison_id=pair.id,
                annotator=Annotator(kind="human", id=action.annotator),
                principle_id=action.principle_id,
                order=shown,
                p_a=P_A[verdict],
                verdict=verdict,
                rationale=action.note,
                seconds=None if action.seconds is None else action.seconds / len(asked),
                anchored=True if after else None,
            )
        )
    return made


class Results:
    """The rows beside the log, made anew from it: after every action where that takes no time to speak of."""

    def __init__(self, folder: Path, log: ActionLog, also: Path | None = None) -> None:
        self.folder, self.log, self.also = folder, log, also
        self.written, self.took = -1.0, 0.0
        self.kept_away = False  # from the file beside, which others wrote

    def write(self, at_once: bool = True) -> None:
        """Write labels.jsonl, and the other files where there is something to stand in them."""
        started = time.monotonic()
        if not at_once and self.took > MOST_OF_TIME * (started - self.written):
            return
        found = rows_of(self.log, RowFile(self.folder / "comparisons.jsonl", Comparison))
        for name, rows in found.items():
            path = self.folder / f"{name}.jsonl"
            if rows or name == "labels" or path.exists():
                write_text(path, _text(rows))
        if self.also and found["labels"]:
            self._write_also(self.also, _text(found["labels"]))
        self.written = time.monotonic()
        self.took = self.written - started

    def _write_also(self, path: Path, text: str) -> None:
        """Write the file that a run waits for, unless it holds what was not written here."""
        record = self.folder / "waits.json"
        ours = read_json(record)["sha256"] if record.exists() else []
        there = digest(path)["sha256"] if path.exists() else None
        self.kept_away = there is not None and there not in ours
        new = hashlib.sha256(text.encode()).hexdigest()
        if not self.kept_away and there != new:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(record, {"file": str(path), "sha256": [new, *([there] if there else [])]})
            write_text(path, text)

    def summary(self) -> dict[str, Any]:
        """By annotator: items, ties, skipped, undone, seconds an item, and how often a repeated item got the
        same choice."""
        known = {name: history for name, history in self.log.histories.items() if history.actions}
        return {name: _figures(history.actions, history.live) for name, history in known.items()}


def _text(rows: Sequence[Record]) -> str:
    return "".join(row.to_json() + "\n" for row in rows)


def _figures(actions: Sequence[Action], live: Sequence[Action]) -> dict[str, Any]:
    choices = [action for action in live if action.kind == "choice"]
    first = {(each.item, each.principle_id): each.ranks for each in choices if not each.repeat}
    again = [each for each in choices if each.repeat and (each.item, each.principle_id) in first]
    seconds: defaultdict[tuple[str, bool], float] = defaultdict(float)
    for action in live:
        seconds[action.showing] += action.seconds or 0.0
    finals = {(each.item, each.principle_id): each.ranks for each in live if each.kind == "final"}
    return {
        "items": len({each.item for each in choices}),
        "ties": sum(len(set(ranks)) == 1 for ranks in first.values()),
        "skipped": sum(action.kind == "skip" for action in live),
        "undone": sum(action.kind == "undo" for action in actions),
        "seconds_per_item": median(seconds.values()) if seconds else None,
        "repeated": len(again),
        "repeated_the_same": sum(each.ranks == first[each.item, each.principle_id] for each in again),
        "opinions_seen": len(finals),
        "changed_after": sum(first.get(key) not in (None, ranks) for key, ranks in finals.items()),
    }

"""Who is shown which item next, and what becomes of an answer.

All of it follows from the log, the queue and the options: after a kill at any moment the same item is shown
again, in the same order, to the same annotator.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any, get_args

from rlaif.constitution import Principle
from rlaif.errors import OBEYED, Conflict, UserError, printable
from rlaif.human.annotating.actions import Action, ActionLog, History, Kind, Showing
from rlaif.human.annotating.material import Material
from rlaif.human.annotating.opinions import Opinions
from rlaif.records import Comparison, content_hash
from rlaif.runs.seeds import derive_seed

MOST_RANKED = 9  # responses of a ranking: a key each
REPEATED_AFTER = 10  # items between the two showings of one
MOST_SECONDS = 86_400.0
HELD = 900.0  # seconds after which what nobody answers goes to another annotator
LONGEST_NOTE, LONGEST_NAME = 10_000, 60  # characters
KINDS: tuple[Kind, ...] = get_args(Kind)
PACE = 20  # items that the time left is told from


@dataclass(frozen=True)
class Item:
    """Responses to one prompt that are shown together: a pair, or more to be ranked."""

    id: str
    prompt_id: str
    response_ids: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Settings:
    """How items are handed out. `overlap` is the share of items that every annotator gets, `repeats` the
    share that an annotator gets twice; `blurred` are the tags of prompts whose texts are hidden at first."""

    queue: str = "random"
    seed: int = 0
    overlap: float = 1.0
    repeats: float = 0.0
    per_principle: bool = False
    assisted: bool = False
    reasons: bool = False
    blurred: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Task:
    """One question to one annotator: on a showing of an item, under a principle or on the whole.

    `chosen` is the choice made before the AI's opinion was seen, where that is what is shown.
    """

    id: str
    item: Item
    repeat: bool
    principle_id: str | None
    order: tuple[int, ...]
    chosen: Action | None = None


@dataclass(frozen=True)
class Claim:
    """What an annotator was shown, and when, on the desk's clock."""

    showing: Showing
    since: float


def items_of(
    comparisons: Sequence[Comparison], ranking: bool, left_out: Counter[str] | None = None
) -> list[Item]:
    """Each comparison, or the responses to each prompt that comparisons name, of these at most nine;
    `left_out` counts the others."""
    if not ranking:
        return [Item(pair.id, pair.prompt_id, (pair.a, pair.b), (pair,)) for pair in comparisons]
    by_prompt: defaultdict[str, list[Comparison]] = defaultdict(list)
    for pair in comparisons:
        by_prompt[pair.prompt_id].append(pair)
    found, left_out = [], Counter() if left_out is None else left_out
    for prompt_id, pairs in by_prompt.items():
        every = tuple(dict.fromkeys(id for pair in pairs for id in (pair.a, pair.b)))
        ids = every[:MOST_RANKED]
        left_out[f"response after the first {MOST_RANKED} to a prompt"] += len(every) - len(ids)
        shown = tuple(pair for pair in pairs if {pair.a, pair.b} <= set(ids))
        found.append(Item(prompt_id, prompt_id, ids, shown))
    return found


class Desk:
    """Hands out items and takes in answers; several annotators' requests come at once."""

    def __init__(
        self,
        items: Sequence[Item],
        material: Material,
        opinions: Opinions,
        log: ActionLog,
        settings: Settings,
    ) -> None:
        self.material, self.log, self.settings = material, log, settings
        self.items = items
        self.by_id = {item.id: item for item in items}
        self.opinions = opinions
        self.claims: dict[str, Claim] = {}  # what each annotator was last shown
        self.now = time.monotonic
        seed, share = settings.seed, settings.overlap
        self.shared = {  # what every annotator gets
            item.id for item in items if share >= 1 or derive_seed(seed, "overlap", item.id) / 2**31 < share
        }
        self.lock = threading.Lock()

    def state(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the page shows to values["annotator"]."""
        with self.lock:
            return self._state(self.log.history(name_in(values)))

    def act(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Take in one action, and say what is shown next.

        The same action sent again, because its answer was lost, is taken in once. Raises Conflict where the
        annotator has gone on elsewhere, UserError where the action is none.
        """
        with self.lock:
            history = self.log.history(name_in(values))
            step = values.get("step")
            if not isinstance(step, int) or step < 0:
                raise UserError(f"step: {str(step)[:40]}.", "how many actions came before")
            if step < len(history.actions) and _is_again(history.actions[step], values):
                return self._state(history)
            if step != len(history.actions):
                raise Conflict(f"{history.name} has gone on in another tab.", "what is shown there")
            action = self._action(history, values)
            self.log.append(action)
            self.claims[history.name] = Claim(action.showing, self.now())
            return self._state(history)

    def _action(self, history: History, values: Mapping[str, Any]) -> Action:
        kind: Kind | None = next((kind for kind in KINDS if kind == values.get("kind")), None)
        if kind is None:
            raise UserError(f"kind: {str(values.get('kind'))[:40]}.", f"one of {', '.join(KINDS)}")
        if kind == "undo":
            return self._undo(history)
        task = self._task(history)
        if task is None or values.get("task") != task.id:
            raise UserError(f"task: not what is shown to {history.name}.", "the task that is shown")
        if (kind == "final") != (task.chosen is not None):
            raise UserError(f"kind: {kind}.", "a choice first, then the final one")
        note = _note(values)
        if kind == "choice" and self.settings.reasons and not note:
            raise UserError("No reason yet.", "the reason, before the choice")
        ranks = _ranks(values, task.order) if kind != "skip" else ()
        shown = kind == "choice" and self._shows_opinion(task)
        return self._row(history, task, kind, ranks, shown, note, _seconds(values))

    def _row(
        self,
        history: History,
        task: Task,
        kind: Kind,
        ranks: tuple[int, ...],
        shown: bool,
        note: str | None,
        seconds: float | None,
    ) -> Action:
        seen = history.has_seen_opinion(task.item.id)
        return Action(
            annotator=history.name,
            step=len(history.actions),
            kind=kind,
            task=task.id,
            item=task.item.id,
            response_ids=task.item.response_ids,
            principle_id=task.principle_id,
            order=task.order,
            ranks=ranks,
            repeat=task.repeat,
            opinion_shown=shown,
            anchored=seen and kind != "skip",
            queue=self.settings.queue,
            seconds=seconds,
            note=note,
            at=_now(),
        )

    def _undo(self, history: History) -> Action:
        if not history.live:
            raise UserError("Nothing to undo.", "an action before")
        last = history.live[-1]
        return Action(
            annotator=history.name,
            step=len(history.actions),
            kind="undo",
            task="",
            item=last.item,
            response_ids=last.response_ids,
            principle_id=last.principle_id,
            repeat=last.repeat,
            undoes=last.id,
            at=_now(),
        )

    # What comes next

    def _task(self, history: History) -> Task | None:
        """What the annotator is asked now, None where everything is done."""
        last = [history.live[-1].showing] if history.live else []
        claimed = self.claims.get(history.name)
        for showing in [*([claimed.showing] if claimed else []), *last]:
            if task := self._unanswered(history, showing):
                return task
        showing = self._next(history)
        if showing is None:
            return None
        self.claims[history.name] = Claim(showing, self.now())
        return self._unanswered(history, showing)

    def _unanswered(self, history: History, showing: Showing) -> Task | None:
        """The first open question on a showing."""
        item = self.by_id.get(showing[0])
        made = [action for action in history.live if action.showing == showing]
        if item is None or any(action.kind == "skip" for action in made):
            return None
        choices = {action.principle_id: action for action in made if action.kind == "choice"}
        finals = {action.principle_id for action in made if action.kind == "final"}
        for principle_id in self._questions(item):
            chosen = choices.get(principle_id)
            if chosen is None:
                return self._made(history.name, showing, item, principle_id)
            if chosen.opinion_shown and principle_id not in finals:
                return self._made(history.name, showing, item, principle_id, chosen)
        return None

    def _made(
        self, name: str, showing: Showing, item: Item, principle_id: str | None, chosen: Action | None = None
    ) -> Task:
        phase = "final" if chosen else "choice"
        id = content_hash("task", self.settings.seed, name, *showing, principle_id, phase)
        seed = derive_seed(self.settings.seed, "order", name, *showing)
        places = range(len(item.response_ids))
        order = chosen.order if chosen else tuple(random.Random(seed).sample(places, len(places)))
        return Task(id, item, showing[1], principle_id, order, chosen)

    def _questions(self, item: Item) -> list[str | None]:
        """The principles that are asked about one by one, then the whole."""
        one_by_one = self.settings.per_principle
        return [*([p.id for p in self._principles(item)] if one_by_one else []), None]

    def _principles(self, item: Item) -> list[Principle]:
        constitution = self.material.constitution
        tags = self.material.prompt(item.prompt_id).tags
        return list(constitution.applicable(tags)) if constitution else []

    def _next(self, history: History) -> Showing | None:
        """A repeat that is due, the next item of the queue, a late repeat."""
        repeats = list(self._repeats(history))
        due = [showing for showing, after in repeats if after >= REPEATED_AFTER]
        if due:
            return due[0]
        for item in self._open(history):
            return item.id, False
        return repeats[0][0] if repeats else None

    def _open(self, history: History) -> Iterator[Item]:
        """Items that the annotator has not had and, where one annotator is enough, no other one has."""
        mine = {action.item for action in history.live}
        others = [name for name in self.log.histories if name != history.name]
        live = (action for name in others for action in self.log.histories[name].live)
        theirs = {action.item for action in live if action.kind == "choice"}
        theirs |= {self.claims[name].showing[0] for name in others if self._holds(name)}
        for item in self.items:
            if item.id not in mine and (item.id in self.shared or item.id not in theirs):
                yield item

    def _holds(self, name: str) -> bool:
        """Whether an annotator is at work on what was last shown."""
        return name in self.claims and self.now() - self.claims[name].since < HELD

    def _repeats(self, history: History) -> Iterator[tuple[Showing, int]]:
        """Showings that are to come again, each with how many items came after the first time."""
        first = dict.fromkeys(action.item for action in history.live if not action.repeat)
        skipped = {action.item for action in history.live if action.kind == "skip"}
        again = {action.item for action in history.live if action.repeat}
        for place, id in enumerate(first):
            if id in self.by_id and id not in skipped | again and self._is_repeated(history.name, id):
                yield (id, True), len(first) - place - 1

    def _is_repeated(self, name: str, item: str) -> bool:
        share = self.settings.repeats
        return share > 0 and derive_seed(self.settings.seed, "repeat", name, item) / 2**31 < share

    def _shows_opinion(self, task: Task) -> bool:
        """After the last question on an item: an opinion under one principle is one on the next, too."""
        asked = self.settings.assisted and task.principle_id is None and not task.repeat
        return asked and self.opinions.on(task.item.id) is not None

    # What is shown

    def _state(self, history: History) -> dict[str, Any]:
        task = self._task(history)
        return {
            "annotator": history.name,
            "step": len(history.actions),
            "can_undo": bool(history.live),
            **self._progress(history, task),
            "task": self._shown(task) if task else None,
        }

    def _progress(self, history: History, task: Task | None) -> dict[str, Any]:
        """Showings that are done and to do, and about how many seconds are left."""
        current = (task.item.id, task.repeat) if task else None
        done = {action.showing for action in history.live} - {current}
        mine = {action.item for action in history.live}
        to_come = [item.id for item in self._open(history)]
        new = sum(self._is_repeated(history.name, id) for id in to_come)
        started = current is not None and not current[1] and current[0] in mine
        left = len(to_come) + new + sum(1 for _ in self._repeats(history)) + started
        spent: dict[Showing, float] = {}
        for action in history.live:
            spent[action.showing] = spent.get(action.showing, 0.0) + (action.seconds or 0.0)
        pace = median(list(spent.values())[-PACE:]) if spent else None
        return {"done": len(done), "total": len(done) + left, "seconds_left": pace and pace * left}

    def _shown(self, task: Task) -> dict[str, Any]:
        """A task without anything that says who wrote, or what anybody thinks of it."""
        prompt = self.material.prompt(task.item.prompt_id)
        ids = [task.item.response_ids[place] for place in task.order]
        rules = [{"id": p.id, "text": printable(p.compare or p.text)} for p in self._principles(task.item)]
        shown = {
            "id": task.id,
            "phase": "final" if task.chosen else "choice",
            "messages": [{"role": m.role, "content": printable(m.content)} for m in prompt.messages],
            "responses": [printable(self.material.response(id).text) for id in ids],
            "principles": rules,
            "asked": task.principle_id,
            "blur": bool(self.settings.blurred.intersection(prompt.tags)),
        }
        if task.chosen:
            shown["chosen"] = [task.chosen.ranks[place] for place in task.order]
            shown["opinion"] = self.opinions.shown(task.item.id, ids, task.order[0] == 1)
        return shown


def _is_again(action: Action, values: Mapping[str, Any]) -> bool:
    """Whether a request is the one that made an action."""
    if values.get("kind") != action.kind:
        return False
    if action.kind == "undo":
        return True
    shown = [action.ranks[place] for place in action.order] if action.ranks else []
    given = values.get("ranks") or []
    try:
        return values.get("task") == action.task and _dense(given) == shown
    except TypeError:
        return False


def name_in(values: Mapping[str, Any]) -> str:
    """The annotator's name; UserError where it is none."""
    name = values.get("annotator")
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or OBEYED.search(name):
        raise UserError("annotator: no name.", f"1 to {LONGEST_NAME} printable characters")
    return " ".join(name.split())


def _dense(ranks: Sequence[int]) -> list[int]:
    """The same order in ranks without gaps, from 1."""
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)), 1)}
    return [places[rank] for rank in ranks]


def _ranks(values: Mapping[str, Any], order: Sequence[int]) -> tuple[int, ...]:
    """The ranks by stored place, of those that are given by shown place."""
    given = values.get("ranks")
    whole = isinstance(given, list) and all(type(rank) is int for rank in given)
    if not isinstance(given, list) or not whole or len(given) != len(order):
        raise UserError(f"ranks: {str(given)[:60]}.", f"{len(order)} whole numbers, a rank for each response")
    by_place = dict(zip(order, _dense(given), strict=True))
    return tuple(by_place[place] for place in range(len(order)))


def _seconds(values: Mapping[str, Any]) -> float | None:
    given = values.get("seconds")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= MOST_SECONDS:
        raise UserError(f"seconds: {str(given)[:40]}.", f"a number from 0 to {MOST_SECONDS:.0f}")
    return round(float(given), 2) if math.isfinite(given) else None


def _note(values: Mapping[str, Any]) -> str | None:
    note = values.get("note")
    if note is not None and (not isinstance(note, str) or len(note) > LONGEST_NOTE):
        raise UserError("note: no text, or too long.", f"at most {LONGEST_NOTE} characters")
    return note.strip() or None if note else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

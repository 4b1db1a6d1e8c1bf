"""Where endpoint questions go: who is well, who rests, what is asked again, and when to give up.

Every endpoint has workers of its own, all taking questions from one queue: a fast server gets more of them, a
resting one none. A question that came to nothing goes back into the queue, for whichever endpoint is free. An
endpoint that limits its rate, is not there, or fails three times in a row rests, twice as long each time (or
as long as its Retry-After says), and is then tried by one question at a time until it answers again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from rlaif.errors import UserError

TRIES = 7  # of one question while others are answered: then it is the question
PAUSE, LONGEST = 0.25, 15.0  # seconds; pauses double
FIRST = 20.0  # seconds for an endpoint that never answered and does not say that it will
TIMEOUT, CONNECT = 600.0, 10.0  # of one request, while its endpoint answers others
OPTIONAL = (
    "temperature",
    "top_p",
    "seed",
)  # without these a request can still be asked, and the notes say so
_PATIENT = ("HTTP 429", "HTTP 503", "HTTP 529", "no answer in time")  # busy, not wrong
_AT_ONCE = ("HTTP 429", "no connection")  # rest after one failure


class Trouble(Exception):
    """A try that came to nothing and may be repeated: what it is counted as, and the seconds the server asks
    for."""

    def __init__(self, kind: str, said: str = "", wait: float = 0.0) -> None:
        super().__init__(kind)
        self.kind, self.said, self.wait = kind, said, wait


@dataclass
class Job:
    """A question on its way: `faults` counts the tries that failed through no known fault of an endpoint."""

    key: Any
    question: Any
    faults: int = 0
    first_fault: float = 0.0
    bare: int = 0  # answers without the log-probabilities asked for
    empty: int = 0  # answers without a choice
    asked: tuple[Any, Any] = ((), {})  # the messages and options of its last request


@dataclass
class Endpoint:
    """One address and how it has been doing."""

    url: str
    client: Any = None
    heard: float = 0.0  # when it last answered
    row: int = 0  # failures since its last answer
    rests: int = 0  # times it rested since its last answer
    awake_at: float = 0.0
    troubles: Counter[str] = field(default_factory=Counter)
    last: Trouble | None = None
    top: int = 20  # how many log-probabilities it is asked for, 0 where it gives none
    gave_logprobs: bool = False
    first: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by the question that finds out
    written: int = 0  # verdicts read from a written answer
    limit: str = "max_tokens"  # what it calls the most tokens to write
    not_taken: set[str] = field(default_factory=set)  # options that it refuses and is not sent any more
    refused: Counter[str] = field(default_factory=Counter)  # questions that it would not take, by reason
    said: str = ""  # its words on the last of them
    thinking: int = 0  # texts that begin with the model's thinking
    replaced: int = 0  # lone surrogates in its texts

    @property
    def name(self) -> str:
        """Host, port and path, without anything secret an address may carry."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.hostname}{port}{parts.path.rstrip('/')}"

    @property
    def undecided(self) -> bool:
        """Whether nobody knows yet that it gives log-probabilities, or that it gives none."""
        return self.top > 0 and not self.gave_logprobs

    @property
    def ailing(self) -> bool:
        """Whether it is to be asked by one worker at a time, after a rest."""
        return self.row >= 3 or (self.row > 0 and self.last is not None and self.last.kind in _AT_ONCE)

    def shaped(self, options: dict[str, Any]) -> dict[str, Any]:
        """A request's options as this endpoint takes them."""
        return {
            self.limit if name == "max_tokens" else name: value
            for name, value in options.items()
            if name not in self.not_taken
        }

    def adapts(self, why: str, sent: dict[str, Any]) -> bool:
        """Whether a request that was declined because of its options can be sent again with others."""
        if why == "limit" and "max_tokens" in sent:
            self.limit = "max_completion_tokens"
            return True
        if why in OPTIONAL and why in sent:
            self.not_taken.add(why)
            return True
        return False

    def well(self) -> None:
        """An answer came."""
        self.heard = time.monotonic()
        self.row = self.rests = 0

    def bare(self, last: bool) -> None:
        """An answer came without the log-probabilities asked for; `last` = the question is not asked for them
        again."""
        if not last:
            self.troubles["no log-probabilities"] += 1
        elif self.undecided:
            self.top = 0

    def failed(self, trouble: Trouble, began: float, patience: float) -> None:
        """A try that began at `began` came to nothing; those in flight together count as one reason to
        rest."""
        self.troubles[trouble.kind] += 1
        self.row += 1
        self.last = trouble
        if self.ailing and began >= self.awake_at:
            rest = min(LONGEST, PAUSE * 2 ** min(self.rests, 16)) * random.uniform(0.75, 1.25)
            self.rests += 1
            self.awake_at = time.monotonic() + min(max(rest, trouble.wait), patience)

    def told(self) -> str:
        """Its troubles in words: "3 × HTTP 429, 1 × half an answer"."""
        return ", ".join(f"{n} × {kind}" for kind, n in self.troubles.items())

    def notes(self) -> list[str]:
        """What a reader of the run should know of it."""
        notes, name = list[str](), self.name
        if self.troubles:
            notes.append(f"{name}: asked again after {self.told()}.")
        if self.refused:
            told = ", ".join(f"{n} × {kind}" for kind, n in self.refused.items())
            said = f', the last with "{self.said}"' if self.said else ""
            notes.append(f"{name}: {self.refused.total()} questions refused ({told}{said}).")
        if self.written:
            notes.append(
                f"{name}: {'not always' if self.top else 'no'} "
                f"log-probabilities; {self.written} verdicts are written answers, parsed."
            )
        if self.thinking:
            notes.append(
                f"{name}: {self.thinking} texts begin with the model's thinking, which is no verdict; "
                "most models "
                "are asked without it by chat_template_kwargs: {enable_thinking: false}, hosted ones by "
                "a key of "
                "extra_body such as {reasoning_effort: none}."
            )
        if self.not_taken:
            notes.append(f"{name}: takes no {', '.join(sorted(self.not_taken))}; its own is used.")
        if self.replaced:
            notes.append(f"{name}: {self.replaced} lone surrogates in its texts became U+FFFD.")
        return notes


@dataclass
class _Work:
    """The questions that are left, and what `Pool.ask` was given to deal with each of them."""

    todo: asyncio.Queue[Job]
    ask: Callable[[Endpoint, Job], Coroutine[Any, Any, Any]]
    put: Callable[[Any], None]
    instead: Callable[[Endpoint, Job, Trouble, bool], Coroutine[Any, Any, Any]]


@dataclass
class Pool:
    """The endpoints of one model; `patience` is how many seconds without an answer from any of them are
    borne."""

    endpoints: list[Endpoint]
    concurrency: int
    patience: float
    began: float = 0.0

    @property
    def alive(self) -> float:
        """When anybody last answered, or else when the first question was asked."""
        return max(self.began, *(endpoint.heard for endpoint in self.endpoints))

    async def ask(
        self,
        jobs: list[tuple[Any, Any]],
        connect: Callable[[str], Any],
        ask: Callable[[Endpoint, Job], Coroutine[Any, Any, Any]],
        put: Callable[[Any], None],
        instead: Callable[[Endpoint, Job, Trouble, bool], Coroutine[Any, Any, Any]],
    ) -> None:
        """`put((key, answer))` for every (key, question), each once; raises UserError where that cannot be
        had.

        `instead(endpoint, job, trouble, others_answered)` is what stands for a question that fails while
        others do not, or None where others fail as well.
        """
        todo: asyncio.Queue[Job] = asyncio.Queue()
        work = _Work(todo, ask, put, instead)
        for key, question in jobs:
            todo.put_nowait(Job(key, question))
        self.began = time.monotonic()
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            workers = []
            for endpoint in self.endpoints:
                endpoint.client = await stack.enter_async_context(connect(endpoint.url))
                endpoint.first, turn = asyncio.Lock(), asyncio.Lock()
                for _ in range(min(self.concurrency, len(jobs))):
                    workers.append(group.create_task(self._work(endpoint, turn, work)))
            await todo.join()
            for worker in workers:
                worker.cancel()

    async def _work(self, endpoint: Endpoint, turn: asyncio.Lock, work: _Work) -> None:
        todo = work.todo
        while True:
            if endpoint.ailing:
                async with turn:
                    await asyncio.sleep(endpoint.awake_at - time.monotonic())
                    if endpoint.ailing:
                        await self._try(endpoint, await todo.get(), work)
                continue
            job = await todo.get()
            if endpoint.ailing:  # since the worker began to wait: another endpoint may have it
                todo.put_nowait(job)
                todo.task_done()
                continue
            await self._try(endpoint, job, work)

    async def _try(self, endpoint: Endpoint, job: Job, work: _Work) -> None:
        began, was_well = time.monotonic(), not endpoint.ailing
        try:
            answer = await self._in_time(endpoint, work.ask(endpoint, job), began)
        except Trouble as trouble:
            endpoint.failed(trouble, began, self.patience)
            if trouble.kind not in _AT_ONCE and (was_well or work.todo.empty()):
                job.faults += 1
                job.first_fault = job.first_fault or began
            if (answer := await self._given_up(endpoint, job, trouble, work)) is not None:
                work.put((job.key, answer))
                return
            if not endpoint.ailing:  # it is the question that waits, else the endpoint
                await asyncio.sleep(
                    min(LONGEST, PAUSE * 2 ** min(job.faults, 16)) * random.uniform(0.75, 1.25)
                )
            work.todo.put_nowait(job)
        else:
            endpoint.well()
            work.put((job.key, answer))
        finally:
            work.todo.task_done()

    async def _in_time(self, endpoint: Endpoint, asking: Coroutine[Any, Any, Any], began: float) -> Any:
        """What `asking` comes to; Trouble where the endpoint has answered nobody for as long as is borne.

        A slow server that works through a queue of questions is not a silent one: each answer gives the
        others time.
        """
        task = asyncio.create_task(asking)
        try:
            while not task.done():
                left = max(began, endpoint.heard) + self.patience - time.monotonic()
                if left <= 0:
                    raise Trouble("no answer in time")
                await asyncio.wait({task}, timeout=left)
            return task.result()
        finally:
            task.cancel()

    async def _given_up(self, endpoint: Endpoint, job: Job, trouble: Trouble, work: _Work) -> Any:
        """What stands for a question that fails while others are answered, None where it is to be asked
        again.

        Raises UserError where nobody has answered anything for too long.
        """
        others = job.faults >= TRIES and self.alive > job.first_fault
        silent = time.monotonic() - self.alive
        lasting = all(e.row for e in self.endpoints) and silent >= self._borne()
        # One that is there may refuse this question alone, which may be the last: then there are no others to
        # tell.
        there = trouble.kind not in (*_AT_ONCE, *_PATIENT)
        if (others or (lasting and there)) and (
            given := await work.instead(endpoint, job, trouble, others)
        ) is not None:
            return given
        if lasting:
            raise self._down(silent)
        return None

    def _borne(self) -> float:
        """Seconds without an answer that are borne: little where nothing says that one will ever come."""
        hopeful = any(e.heard or (e.last and e.last.kind in _PATIENT) for e in self.endpoints)
        return self.patience if hopeful else min(FIRST, self.patience)

    def _down(self, seconds: float) -> UserError:
        told = "; ".join(f"{e.name}: {e.told()}{_quoted(e.last)}" for e in self.endpoints)
        return UserError(
            f"no endpoint has answered for {seconds:.0f} s ({told}).",
            "a server at base_url that answers chat completions",
            f"start it (for example `vllm serve MODEL`), or raise patience; {_AGAIN}",
        )


_AGAIN = "run the same command again when it answers: finished rows are kept"


def _quoted(trouble: Trouble | None) -> str:
    return f', "{trouble.said}"' if trouble and trouble.said else ""


def retry_after(headers: Any) -> float:
    """Seconds a server asks to wait: `retry-after-ms`, `Retry-After` in seconds or as a date; 0 where it says
    nothing."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        said = headers.get("retry-after", "0")
        seconds = (
            float(said)
            if said.replace(".", "", 1).isdigit()
            else parsedate_to_datetime(said).timestamp() - time.time()
        )
        return max(0.0, seconds)
    except (TypeError, ValueError):
        return 0.0

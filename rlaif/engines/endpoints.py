"""A pool of endpoints: health and back-off, retries, and when to give up.

Every endpoint has its own workers. All workers take questions from one queue, so a fast server gets more of
them and an endpoint that backs off gets none. A failed question goes back into the queue, for any endpoint.
An endpoint that limits its rate, cannot be reached, or fails three times in a row backs off, twice as long
each time (or as long as its Retry-After says). It then gets one question at a time until it responds again.
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

from rlaif.engines.advice import advice
from rlaif.errors import UserError

TRIES = 7  # failures of one question, while others succeed, before it is given up
PAUSE, LONGEST = 0.25, 15.0  # seconds; pauses double
FIRST = 20.0  # seconds to wait for an endpoint that never responded and did not ask to wait
TIMEOUT, CONNECT = 600.0, 10.0  # seconds of one request, while its endpoint responds to others
OPTIONAL = (
    "temperature",
    "top_p",
    "seed",
)  # without these a request can still be asked, and the notes say so
SILENT = "no response in time"
_PATIENT = ("HTTP 429", "HTTP 503", "HTTP 529", SILENT)  # busy, not wrong
_AT_ONCE = ("HTTP 429", "no connection")  # back off after one failure


class Trouble(Exception):
    """A failed request that may be repeated: the name it is counted under, and the seconds the server asks
    to wait."""

    def __init__(self, kind: str, said: str = "", wait: float = 0.0) -> None:
        super().__init__(kind)
        self.kind, self.said, self.wait = kind, said, wait


@dataclass
class Job:
    """A question in the queue: `faults` counts the failures that no endpoint is known to have caused."""

    key: Any
    question: Any
    faults: int = 0
    first_fault: float = 0.0
    bare: int = 0  # responses without the log-probabilities asked for
    empty: int = 0  # responses without a choice
    asked: tuple[Any, Any] = ((), {})  # the messages and options of its last request


@dataclass
class Endpoint:
    """One address with its health and its counts."""

    url: str
    client: Any = None
    last_response: float = 0.0  # time of its last response
    failures_in_a_row: int = 0  # since its last response
    back_offs: int = 0  # since its last response
    retry_at: float = 0.0
    troubles: Counter[str] = field(default_factory=Counter)
    last: Trouble | None = None
    top: int = 20  # how many log-probabilities it is asked for, 0 where it gives none
    gave_logprobs: bool = False
    first: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by the question that finds out
    written: int = 0  # verdicts parsed from written text
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
    def logprobs_unknown(self) -> bool:
        """Whether it is not known yet if the endpoint gives log-probabilities."""
        return self.top > 0 and not self.gave_logprobs

    @property
    def backing_off(self) -> bool:
        """Whether one worker at a time may ask it, after a pause."""
        return self.failures_in_a_row >= 3 or (
            self.failures_in_a_row > 0 and self.last is not None and self.last.kind in _AT_ONCE
        )

    def shaped(self, options: dict[str, Any]) -> dict[str, Any]:
        """A request's options as this endpoint takes them."""
        return {
            self.limit if name == "max_tokens" else name: value
            for name, value in options.items()
            if name not in self.not_taken
        }

    def adapt(self, why: str, sent: dict[str, Any]) -> bool:
        """Change the options after a request was declined because of them; whether it can be sent again."""
        if why == "limit" and "max_tokens" in sent:
            self.limit = "max_completion_tokens"
            return True
        if why in OPTIONAL and why in sent:
            self.not_taken.add(why)
            return True
        return False

    def record_response(self) -> None:
        """Note a response: the endpoint is healthy."""
        self.last_response = time.monotonic()
        self.failures_in_a_row = self.back_offs = 0

    def bare(self, last: bool) -> None:
        """Note a response without the log-probabilities asked for; `last`: this question asks for none any
        more."""
        if not last:
            self.troubles["no log-probabilities"] += 1
        elif self.logprobs_unknown:
            self.top = 0

    def failed(self, trouble: Trouble, began: float, patience: float) -> None:
        """Note a failure of a request sent at `began`; concurrent failures count as one reason to back
        off."""
        self.troubles[trouble.kind] += 1
        self.failures_in_a_row += 1
        self.last = trouble
        if self.backing_off and began >= self.retry_at:
            rest = min(LONGEST, PAUSE * 2 ** min(self.back_offs, 16)) * random.uniform(0.75, 1.25)
            self.back_offs += 1
            self.retry_at = time.monotonic() + min(max(rest, trouble.wait), patience)

    def failures_in_words(self) -> str:
        """Its failures in words: "3 × HTTP 429, 1 × half a response"."""
        return ", ".join(f"{n} × {kind}" for kind, n in self.troubles.items())

    def notes(self) -> list[str]:
        """What a reader of the run should know about it."""
        notes, name = list[str](), self.name
        if self.troubles:
            notes.append(f"{name}: asked again after {self.failures_in_words()}.")
        if self.refused:
            told = ", ".join(f"{n} × {kind}" for kind, n in self.refused.items())
            said = f', the last with "{self.said}"' if self.said else ""
            notes.append(f"{name}: {self.refused.total()} questions refused ({told}{said}).")
        if self.written:
            notes.append(
                f"{name}: {'not always' if self.top else 'no'} "
                f"log-probabilities; {self.written} verdicts were parsed from written text."
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
    """The endpoints of one model; `patience`: after so many seconds without a response from any of
    them the run stops."""

    endpoints: list[Endpoint]
    concurrency: int
    patience: float
    began: float = 0.0

    @property
    def last_response(self) -> float:
        """Time of the last response of any endpoint, or of the first question."""
        return max(self.began, *(endpoint.last_response for endpoint in self.endpoints))

    async def ask(
        self,
        jobs: list[tuple[Any, Any]],
        connect: Callable[[str], Any],
        ask: Callable[[Endpoint, Job], Coroutine[Any, Any, Any]],
        put: Callable[[Any], None],
        instead: Callable[[Endpoint, Job, Trouble, bool], Coroutine[Any, Any, Any]],
    ) -> None:
        """Call `put((key, response))` once for every (key, question); raises UserError where that fails.

        `instead(endpoint, job, trouble, others_succeeded)` returns the result of a question that fails while
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
                    workers.append(group.create_task(self._worker(endpoint, turn, work)))
            await todo.join()
            for worker in workers:
                worker.cancel()

    async def _worker(self, endpoint: Endpoint, turn: asyncio.Lock, work: _Work) -> None:
        todo = work.todo
        while True:
            if endpoint.backing_off:
                async with turn:
                    await asyncio.sleep(endpoint.retry_at - time.monotonic())
                    if endpoint.backing_off:
                        await self._try(endpoint, await todo.get(), work)
                continue
            job = await todo.get()
            if (
                endpoint.backing_off
            ):  # it began to back off while this worker waited: leave the question to another endpoint
                todo.put_nowait(job)
                todo.task_done()
                continue
            await self._try(endpoint, job, work)

    async def _try(self, endpoint: Endpoint, job: Job, work: _Work) -> None:
        began, was_healthy = time.monotonic(), not endpoint.backing_off
        try:
            response = await self._with_timeout(endpoint, work.ask(endpoint, job), began)
        except Trouble as trouble:
            endpoint.failed(trouble, began, self.patience)
            if trouble.kind not in _AT_ONCE and (was_healthy or work.todo.empty()):
                job.faults += 1
                job.first_fault = job.first_fault or began
            if (response := await self._give_up(endpoint, job, trouble, work)) is not None:
                work.put((job.key, response))
                return
            if not endpoint.backing_off:  # the question waits; otherwise the endpoint does
                await asyncio.sleep(
                    min(LONGEST, PAUSE * 2 ** min(job.faults, 16)) * random.uniform(0.75, 1.25)
                )
            work.todo.put_nowait(job)
        else:
            endpoint.record_response()
            work.put((job.key, response))
        finally:
            work.todo.task_done()

    async def _with_timeout(self, endpoint: Endpoint, asking: Coroutine[Any, Any, Any], began: float) -> Any:
        """The result of `asking`; Trouble where the endpoint has not responded to any question for
        `patience`.

        A slow server that works through a queue of questions is not silent: each response resets the clock.
        """
        task = asyncio.create_task(asking)
        try:
            while not task.done():
                left = max(began, endpoint.last_response) + self.patience - time.monotonic()
                if left <= 0:
                    raise Trouble(SILENT)
                await asyncio.wait({task}, timeout=left)
            return task.result()
        finally:
            task.cancel()

    async def _give_up(self, endpoint: Endpoint, job: Job, trouble: Trouble, work: _Work) -> Any:
        """The result of a question that is given up because it fails while others succeed; None where it is
        to be asked again.

        Raises UserError where no endpoint has responded for too long.
        """
        others = job.faults >= TRIES and self.last_response > job.first_fault
        silent = time.monotonic() - self.last_response
        lasting = all(e.failures_in_a_row for e in self.endpoints) and silent >= self._silence_limit()
        # An endpoint that can be reached may refuse this question alone. If it is the last one, no other
        # question shows that.
        there = trouble.kind not in (*_AT_ONCE, *_PATIENT)
        if (others or (lasting and there)) and (
            given := await work.instead(endpoint, job, trouble, others)
        ) is not None:
            return given
        if lasting:
            raise self._no_endpoint(silent)
        return None

    def _silence_limit(self) -> float:
        """Seconds without a response before the run stops: few where no endpoint has ever responded."""
        hopeful = any(e.last_response or (e.last and e.last.kind in _PATIENT) for e in self.endpoints)
        return self.patience if hopeful else min(FIRST, self.patience)

    def _no_endpoint(self, seconds: float) -> UserError:
        told = "; ".join(f"{e.name}: {e.failures_in_words()}{_quoted(e.last)}" for e in self.endpoints)
        found = f"no endpoint has responded for {seconds:.0f} s ({told})."
        if all(e.last and e.last.kind == SILENT for e in self.endpoints):
            longer = f"raise patience where one response takes longer than {self.patience:g} s"
            return NoResponse(found, RESPONDS, f"{LOOK}, or {longer}; {_AGAIN}")
        kinds = [endpoint.last.kind for endpoint in self.endpoints if endpoint.last]
        need, step = advice(kinds, [endpoint.url for endpoint in self.endpoints], self.patience)
        return UserError(found, need, f"{step}; {_AGAIN}")


class NoResponse(UserError):
    """Every endpoint accepts connections and leaves questions without a response."""


RESPONDS = "a server that responds: this one accepts connections and sends no response"
LOOK = "see in the server's log whether it is still loading its model or is stuck"
_AGAIN = "run the same command again when it responds: finished rows are kept"


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

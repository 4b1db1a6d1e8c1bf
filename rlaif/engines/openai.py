"""The endpoint engine: any server, or list of servers, that speaks the OpenAI chat protocol.

Verdicts are read from the log-probabilities of the first answer token (the 20 likeliest, or 5; a choice outside them
gets the most it can have). Where a server gives none, a short answer is written and parsed, and the notes say so. Rate
limits, server errors, time-outs and malformed answers are counted and asked again (`endpoints`); a wrong key, a wrong
model or a request that no server accepts stops at once, with a message that names the endpoint.
"""

from __future__ import annotations

import asyncio
import os
import queue
import re
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any

from rlaif.config import ModelConfig
from rlaif.defences import COMMON
from rlaif.engines import UNNAMED, Chat, GenerateRequest, Generation, ScoreRequest, Scores, Usage
from rlaif.engines.answers import (
    READS,
    VERDICT_TOKENS,
    Answer,
    answer_of,
    parse_choice,
    same_model,
    sum_variants,
)
from rlaif.engines.endpoints import CONNECT, TIMEOUT, Endpoint, Job, Pool, Trouble, retry_after
from rlaif.errors import UserError, printable
from rlaif.refusals import refuses

_FEWER = {20: 5, 5: 0}  # likeliest tokens to ask for where a server does not take that many
_DECLINED = {
    "too_long": re.compile(
        r"context[ _](length|window|size|limit)|maximum (context|model length)|(prompt|input) is too long|"
        r"max_new_tokens` must be <=|`inputs` must have less than|input token count.*exceeds the maximum",
        re.I | re.S,
    ),
    "logprobs": re.compile(r"log[ _-]?prob", re.I),
    "content_filter": re.compile(r"content[ _](filter|management|policy)", re.I),
}
Read = tuple[tuple[float, ...], int]  # (log-probabilities of the choices, prompt tokens)


class Declined(Exception):
    """The server does not take this question as it is: `why` is a key of `_DECLINED`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class OpenAIEngine:
    """One model behind one or several endpoints; `concurrency` requests are in flight at each."""

    batched = False

    def __init__(self, config: ModelConfig) -> None:
        try:
            import openai
        except ImportError:
            raise UserError("engine: openai needs the openai package.", "the extra of that name",
                            'pip install "rlaif[openai]"') from None  # fmt: skip
        self.api, self.config = openai, config
        self._key = os.environ.get(config.api_key_env, "").strip()
        if not self._key and not config.base_url:
            raise UserError(f"{config.model}: the environment variable {config.api_key_env} is not set.",
                            "an API key there, or base_url of a server that asks for none",
                            f"export {config.api_key_env}=…")  # fmt: skip
        if not self._key.isascii():
            raise UserError(f"{config.api_key_env}: holds characters no key has.", "an API key")
        self.endpoints = [Endpoint(url) for url in config.endpoints]
        self.pool = Pool(self.endpoints, config.concurrency, config.patience)
        self.usage, self.notes = Usage(), list[str]()

    @property
    def fingerprint(self) -> str:
        """The model's name, and the one its answers carry: wherever it is served, it is the same judge."""
        served_as = self.config.served_as
        return f"openai:{self.config.model}{f' served as {served_as}' if served_as else ''}"

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """One chat completion a request, with the request's seed."""
        yield from self._ask_all(list(enumerate(requests)), self._write)

    async def _write(self, endpoint: Endpoint, job: Job) -> Generation:
        request: GenerateRequest = job.question
        try:
            answer = await self._complete(
                endpoint, request.messages, max_tokens=request.max_tokens, temperature=request.temperature,
                top_p=request.top_p, seed=request.seed,
            )  # fmt: skip
        except Declined as declined:
            return Generation("", declined.why)
        text = self._without_key(answer.text).strip()
        return Generation(text, answer.finish, answer.prompt_tokens, answer.tokens)

    def score_choices(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """One request a suffix; a request is yielded when all its suffixes are answered."""
        jobs = [((i, s), (r, r.suffixes[s])) for i, r in enumerate(requests) for s in range(len(r.suffixes))]
        parts: dict[int, dict[int, Any]] = {}
        for (index, place), answer in self._ask_all(jobs, self._judge):
            got = parts.setdefault(index, {})
            got[place] = answer
            if len(got) == len(requests[index].suffixes):
                yield index, _scores([got[s] for s in range(len(got))])
                del parts[index]

    async def _judge(self, endpoint: Endpoint, job: Job) -> Read | None:
        """() for log-probabilities where nothing could be read, None where the question is too long."""
        request, suffix = job.question
        last = request.messages[-1]
        messages = [*request.messages[:-1], {**last, "content": last["content"] + suffix}]
        try:
            return await self._read(endpoint, job, messages, request.choices) or await self._verdict(
                endpoint, messages, request.choices
            )
        except Declined as declined:
            return None if declined.why == "too_long" else ((), 0)

    async def _read(
        self, endpoint: Endpoint, job: Job, messages: Chat, choices: tuple[str, ...]
    ) -> Read | None:
        """Log-probabilities of the first answer token, None where there are none; the first question finds out
        what the endpoint gives, and the others wait for it."""
        if endpoint.undecided:
            async with endpoint.first:
                if endpoint.undecided:
                    return await self._reads(endpoint, job, messages, choices)
        return await self._reads(endpoint, job, messages, choices)

    async def _reads(
        self, endpoint: Endpoint, job: Job, messages: Chat, choices: tuple[str, ...]
    ) -> Read | None:
        """The same, asked up to READS times: an answer without log-probabilities is no failure of the endpoint."""
        while endpoint.top and job.bare < READS:
            answer = await self._likeliest(endpoint, messages)
            if answer and answer.top:
                return sum_variants(answer.top, choices), answer.prompt_tokens
            if answer:
                job.bare += 1
                endpoint.bare(job.bare == READS)
        return None

    async def _likeliest(self, endpoint: Endpoint, messages: Chat) -> Answer | None:
        """An answer of one token with the likeliest ones; None where the server declines to give so many."""
        asked = endpoint.top
        try:
            answer = await self._complete(endpoint, messages, max_tokens=1, temperature=0.0, logprobs=True,
                                          top_logprobs=asked)  # fmt: skip
        except Declined as declined:
            if declined.why != "logprobs":
                raise
            endpoint.top = min(endpoint.top, _FEWER[asked])
            return None
        if answer.top:
            endpoint.gave_logprobs, endpoint.top = True, asked
        return answer

    async def _verdict(self, endpoint: Endpoint, messages: Chat, choices: tuple[str, ...]) -> Read:
        """A written answer as a certain verdict, () where it refuses, names no choice or several."""
        answer = await self._complete(endpoint, messages, max_tokens=VERDICT_TOKENS, temperature=0.0)
        endpoint.written += 1
        named = None if refuses(answer.text) else parse_choice(answer.text, choices)
        verdict = () if named is None else tuple(0.0 if c == named else UNNAMED for c in choices)
        return verdict, answer.prompt_tokens

    async def _complete(self, endpoint: Endpoint, messages: Chat, **options: Any) -> Answer:
        """One chat completion, counted; raises Trouble, Declined or UserError where there is none."""
        messages = [{**m, "content": COMMON.neutral(m["content"])} for m in messages]
        try:
            completion = await endpoint.client.chat.completions.create(
                model=self.config.model, messages=messages, **options
            )
            answer = answer_of(completion) if completion.choices else None
        except Exception as error:  # of the client's own, or whatever half an answer makes it stumble over
            raise self._failure(endpoint, error) from None
        if answer is None:
            raise Trouble("no choices in the answer")
        self._check_model(endpoint, answer.model)
        endpoint.well()
        self.usage.calls += 1
        self.usage.prompt_tokens += answer.prompt_tokens
        self.usage.tokens += answer.tokens
        self.usage.shared_tokens += answer.shared_tokens
        return answer

    def _check_model(self, endpoint: Endpoint, named: str) -> None:
        """Refuse another model's answers: some servers answer with whatever they have loaded."""
        asked = self.config.served_as or self.config.model
        if named and not same_model(asked, named):
            raise UserError(f'{endpoint.name}: asked for "{asked}", answered by "{self._clean(named)}".',
                            "the model that the config names", "set model to what is served there, or served_as where "
                            "that is another name for it")  # fmt: skip

    def _ask_all(
        self, jobs: list[tuple[Any, Any]], ask: Callable[[Endpoint, Job], Coroutine[Any, Any, Any]]
    ) -> Iterator[tuple[Any, Any]]:
        """Answers in the order they arrive; an event loop in a thread of its own.

        What was answered before an error is yielded before it is raised.
        """
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self.pool.ask(jobs, self._client, ask, answers.put))

        def run() -> None:
            try:
                with asyncio.Runner(loop_factory=lambda: loop) as runner:
                    runner.run(_result(task))
                answers.put(None)
            except BaseException as error:
                answers.put(error)

        threading.Thread(target=run, name="rlaif-endpoints", daemon=True).start()
        try:
            while (answer := answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise _first(answer) from None
                yield answer
        finally:
            with suppress(RuntimeError):  # the loop has closed: all is done
                loop.call_soon_threadsafe(task.cancel)
            self._note()

    def _note(self) -> None:
        """Say what happened at each endpoint, in the notes and the usage."""
        self.usage.retried.clear()
        self.notes.clear()
        for endpoint in self.endpoints:
            self.usage.retried.update(endpoint.troubles)
            if endpoint.troubles:
                self.notes.append(f"{endpoint.name}: asked again after {endpoint.told()}.")
            if endpoint.written:
                self.notes.append(f"{endpoint.name}: {'not always' if endpoint.top else 'no'} "
                                  f"log-probabilities; {endpoint.written} verdicts are written answers, parsed.")  # fmt: skip

    def _client(self, url: str) -> Any:
        return self.api.AsyncOpenAI(base_url=url, api_key=self._key or "none", max_retries=0,
                                    timeout=self.api.Timeout(TIMEOUT, connect=CONNECT))  # fmt: skip

    def _failure(self, endpoint: Endpoint, error: Any) -> Exception:
        """What a failed try amounts to: Trouble (ask again), Declined (this question), UserError (stop)."""
        api, said = self.api, self._clean(str(error).split("\n")[0])[:300]
        if isinstance(error, api.APITimeoutError):
            return Trouble("no answer in time")
        if isinstance(error, api.APIConnectionError):
            return Trouble("no connection")
        if not isinstance(error, api.APIStatusError):
            return Trouble("half an answer")
        if error.status_code in (400, 413, 422):
            for why, words in _DECLINED.items():
                if words.search(str(error)):
                    return Declined(why)
        wait_and_see = error.status_code in (408, 409, 425, 429) or error.status_code >= 500
        if wait_and_see and "insufficient_quota" not in str(error):
            return Trouble(f"HTTP {error.status_code}", said, retry_after(error.response.headers))
        return self._mistake(endpoint, error, said)

    def _mistake(self, endpoint: Endpoint, error: Any, said: str) -> UserError:
        """The message for an answer that will not change by asking again."""
        model, name = self.config.model, endpoint.name
        if error.status_code in (401, 403):
            return UserError(f"{name}: refuses the key in {self.config.api_key_env} ({said}).",
                             f"a key that may use {model}", f"export {self.config.api_key_env}=…")  # fmt: skip
        if error.status_code == 404:
            return UserError(f'{name}: no model "{model}" there, or no chat endpoint ({said}).',
                             "a name the server lists", "rlaif check CONFIG lists the models each endpoint serves")  # fmt: skip
        return UserError(f"{name}: answers with an error ({said}).", "a request it accepts",
                         "mend what it names; finished rows are kept")  # fmt: skip

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text

    def _clean(self, text: str) -> str:
        """A server's words for a message: without the key, and nothing in them that a terminal would obey."""
        return printable(self._without_key(text))

    def health(self) -> dict[str, str]:
        """Each endpoint's state in words: what it serves, or why it does not answer."""
        return {endpoint.name: self._health(endpoint) for endpoint in self.endpoints}

    def _health(self, endpoint: Endpoint) -> str:
        client = self.api.OpenAI(
            base_url=endpoint.url, api_key=self._key or "none", max_retries=0, timeout=CONNECT
        )
        try:
            with client:
                served = [model.id for model in client.models.list()]
        except Exception as error:  # as in _complete
            failure = self._failure(endpoint, error)
            return failure.found if isinstance(failure, UserError) else str(failure)
        known = any(same_model(self.config.served_as or self.config.model, name) for name in served)
        return self._clean(f"{'well' if known else 'answers, but has no ' + self.config.model}; serves {', '.join(served[:8])}")  # fmt: skip


async def _result(task: asyncio.Task[None]) -> None:
    await task


def _first(error: BaseException) -> BaseException:
    """The error inside nested groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _scores(parts: list[tuple[tuple[float, ...], int] | None]) -> Scores:
    answers = [part for part in parts if part is not None]
    if len(answers) < len(parts):
        return Scores((), too_long=True)
    return Scores(tuple(logprobs for logprobs, _ in answers), sum(tokens for _, tokens in answers))

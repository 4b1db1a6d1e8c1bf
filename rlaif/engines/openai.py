"""The endpoint engine: any server that speaks the OpenAI chat protocol, asked by many requests at a time.

Verdicts are read from the log-probabilities of the first answer token (the 20 likeliest; a choice outside them gets
the most it can have). Where a server gives none, a short answer is written and parsed, and the notes say so. Rate
limits, server errors and time-outs are retried with growing pauses; what remains is an error that names the endpoint.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import queue
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rlaif.config import ModelConfig
from rlaif.defences import COMMON
from rlaif.engines import Chat, GenerateRequest, Generation, ScoreRequest, Scores, Usage
from rlaif.errors import UserError

Q = TypeVar("Q")
A = TypeVar("A")
RETRIES, PAUSE, TIMEOUT = 6, 0.25, 300.0  # pauses double
_TOP, _VERDICT_TOKENS, _NEVER = 20, 16, -30.0
_TOO_LONG = re.compile(r"context[ _](length|window|size)|maximum context|(prompt|input) is too long", re.I)


class TooLong(Exception):
    """The server says that a question does not fit its model's context."""


class Malformed(Exception):
    """An answer without the fields the protocol promises."""


class OpenAIEngine:
    """One model behind one endpoint."""

    batched = False

    def __init__(self, config: ModelConfig) -> None:
        try:
            import openai
        except ImportError:
            raise UserError("engine: openai needs the openai package.", "the extra of that name",
                            'pip install "rlaif[openai]"') from None  # fmt: skip
        self.api, self.config = openai, config
        self._key = os.environ.get(config.api_key_env, "")
        if not self._key and config.base_url is None:
            raise UserError(f"{config.model}: the environment variable {config.api_key_env} is not set.",
                            "an API key there, or base_url of a server that asks for none",
                            f"export {config.api_key_env}=…")  # fmt: skip
        self.url = config.base_url or "https://api.openai.com/v1"
        self.usage, self.notes = Usage(), list[str]()
        self._gives_logprobs: bool | None = None

    @property
    def fingerprint(self) -> str:
        """Model name and endpoint, without anything secret an address may carry."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"openai:{self.config.model}@{parts.hostname}{port}{parts.path.rstrip('/')}"

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """One chat completion a request, with the request's seed."""
        yield from self._ask_all(list(enumerate(requests)), self._write)

    async def _write(self, client: Any, request: GenerateRequest) -> Generation:
        try:
            choice, usage = await self._complete(
                client, request.messages, max_tokens=request.max_tokens, temperature=request.temperature,
                top_p=request.top_p, seed=request.seed,
            )  # fmt: skip
        except TooLong:
            return Generation("", "too_long")
        text = (choice.message.content or "").strip()
        return Generation(text, choice.finish_reason or "stop", *usage)

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

    async def _judge(
        self, client: Any, job: tuple[ScoreRequest, str]
    ) -> tuple[tuple[float, ...], int] | None:
        """(log-probabilities of the choices, prompt tokens); () where nothing could be read, None where too long."""
        request, suffix = job
        last = request.messages[-1]
        messages = [*request.messages[:-1], {**last, "content": last["content"] + suffix}]
        try:
            if self._gives_logprobs is not False:
                answer = await self._read(client, messages, request.choices)
                if answer is not None:
                    return answer
            return await self._verdict(client, messages, request.choices)
        except TooLong:
            return None

    async def _read(
        self, client: Any, messages: Chat, choices: tuple[str, ...]
    ) -> tuple[tuple[float, ...], int] | None:
        """Log-probabilities of the first answer token; None where the server gives none."""
        try:
            choice, usage = await self._complete(client, messages, max_tokens=1, temperature=0.0, logprobs=True,
                                                 top_logprobs=_TOP)  # fmt: skip
        except self.api.BadRequestError as error:
            if "logprobs" not in str(error):
                raise
            choice, usage = None, (0, 0)
        content = getattr(getattr(choice, "logprobs", None), "content", None)
        if not content or not content[0].top_logprobs:
            if self._gives_logprobs is None:
                self._gives_logprobs = False
                self.notes.append(
                    f"{self.fingerprint} gives no log-probabilities: verdicts are written answers, parsed."
                )
            return None
        self._gives_logprobs = True
        return sum_variants([(t.token, t.logprob) for t in content[0].top_logprobs], choices), usage[0]

    async def _verdict(
        self, client: Any, messages: Chat, choices: tuple[str, ...]
    ) -> tuple[tuple[float, ...], int]:
        """A written answer as a certain verdict, () where it names no choice or several."""
        choice, usage = await self._complete(client, messages, max_tokens=_VERDICT_TOKENS, temperature=0.0)
        named = parse_choice(choice.message.content or "", choices)
        return (() if named is None else tuple(0.0 if c == named else _NEVER for c in choices)), usage[0]

    async def _complete(self, client: Any, messages: Chat, **options: Any) -> tuple[Any, tuple[int, int]]:
        """(first choice, (prompt tokens, tokens)); answers that are no whole JSON are asked for again."""
        messages = [{**m, "content": COMMON.neutral(m["content"])} for m in messages]
        for attempt in range(RETRIES + 1):
            try:
                answer = await client.chat.completions.create(
                    model=self.config.model, messages=messages, **options
                )
                if answer.choices and answer.choices[0].message:
                    break
            except (json.JSONDecodeError, AttributeError, TypeError, self.api.APIResponseValidationError):
                pass  # half an answer parses as an error or as a bare string
            except (self.api.BadRequestError, self.api.UnprocessableEntityError) as error:
                if _TOO_LONG.search(str(error)):
                    raise TooLong from None
                raise
            await asyncio.sleep(min(8.0, PAUSE * 2**attempt) if attempt < RETRIES else 0)
        else:
            raise Malformed
        used = answer.usage
        counts = (used.prompt_tokens or 0, used.completion_tokens or 0) if used else (0, 0)
        self.usage.calls += 1
        self.usage.prompt_tokens += counts[0]
        self.usage.tokens += counts[1]
        return answer.choices[0], counts

    def _ask_all(
        self, jobs: list[tuple[Any, Q]], ask: Callable[[Any, Q], Awaitable[A]]
    ) -> Iterator[tuple[Any, A]]:
        """Answers in the order they arrive, `concurrency` in flight; an event loop in a thread of its own.

        What was answered before an error is yielded before it is raised.
        """
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stop = threading.Event()
        todo = iter(jobs)

        async def worker(client: Any) -> None:
            for key, job in todo:
                if stop.is_set():
                    return
                answers.put((key, await ask(client, job)))

        async def work() -> None:
            async with self._client() as client, asyncio.TaskGroup() as group:
                for _ in range(min(self.config.concurrency, len(jobs))):
                    group.create_task(worker(client))

        def run() -> None:
            try:
                asyncio.run(work())
                answers.put(None)
            except BaseException as error:
                answers.put(error)

        thread = threading.Thread(target=run, name="rlaif-endpoint", daemon=True)
        thread.start()
        try:
            while (answer := answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise self._explain(answer) from None
                yield answer
        finally:
            stop.set()

    def _client(self) -> Any:
        return self.api.AsyncOpenAI(base_url=self.url, api_key=self._key or "none", max_retries=RETRIES,
                                    timeout=TIMEOUT)  # fmt: skip

    def _explain(self, error: BaseException) -> BaseException:
        """The UserError an endpoint's failure amounts to; what is no endpoint failure is returned as it is."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        where, model, api = self.fingerprint.partition("@")[2], self.config.model, self.api
        again = "run the same command again when it answers: finished rows are kept"
        if isinstance(error, Malformed):
            return UserError(f"{where}: its answers are not whole ({RETRIES + 1} tries).", "chat completions as JSON", again)  # fmt: skip
        if isinstance(error, api.APITimeoutError):
            return UserError(f"{where}: no answer within {TIMEOUT:.0f} s.", "a server that keeps up",
                             f"lower concurrency, or {again}")  # fmt: skip
        if isinstance(error, api.APIConnectionError):
            return UserError(f"{where}: cannot be reached.", "a running server at base_url",
                             f"start it (for example `vllm serve {model}`), or {again}")  # fmt: skip
        if isinstance(error, (api.AuthenticationError, api.PermissionDeniedError)):
            return UserError(f"{where}: refuses the key in {self.config.api_key_env}.", "a key that may use "
                             f"{model}", f"export {self.config.api_key_env}=…")  # fmt: skip
        if isinstance(error, api.NotFoundError):
            return UserError(f'{where}: no model "{model}" there, or no chat endpoint ({self._said(error)}).',
                             "a name the server lists", f"curl {self.url.rstrip('/')}/models")  # fmt: skip
        if isinstance(error, api.APIStatusError):
            return UserError(f"{where}: answers with an error ({self._said(error)}).", "a request it accepts", again)  # fmt: skip
        return error

    def _said(self, error: Any) -> str:
        """The server's words, short and without the key."""
        text = str(error).split("\n")[0][:300]
        return text.replace(self._key, "…") if self._key else text


def _scores(parts: list[tuple[tuple[float, ...], int] | None]) -> Scores:
    answers = [part for part in parts if part is not None]
    if len(answers) < len(parts):
        return Scores((), too_long=True)
    return Scores(tuple(logprobs for logprobs, _ in answers), sum(tokens for _, tokens in answers))


def sum_variants(top: Sequence[tuple[str, float]], choices: Sequence[str]) -> tuple[float, ...]:
    """Each choice's log-probability from the likeliest tokens: spellings summed; () where no choice is among them.

    A token counts for the one choice it equals, or else begins, leading and trailing blanks apart. A choice that is
    not among them gets the most it can have: no more than the last of them, nor than all that is left.
    """
    mass = dict.fromkeys(choices, 0.0)
    for token, logprob in top:
        word = token.strip()
        meant = [c for c in choices if c == word] or [c for c in choices if word and c.startswith(word)]
        if len(meant) == 1:
            mass[meant[0]] += math.exp(logprob)
    if not any(mass.values()):
        return ()
    left = 1.0 - sum(math.exp(logprob) for _, logprob in top)
    most = max(min(left, min(math.exp(logprob) for _, logprob in top)), math.exp(_NEVER))
    return tuple(math.log(mass[c] or most) for c in choices)


def parse_choice(text: str, choices: Sequence[str]) -> str | None:
    """The one choice a written answer names as a word of its own; None where it names none or several."""
    named = {c for c in choices if re.search(rf"(?<![\w'’]){re.escape(c)}(?![\w'’])", text)}
    return named.pop() if len(named) == 1 else None

"""The endpoint engine: any server, or list of servers, that speaks the OpenAI chat protocol.

Verdicts are read from the log-probabilities of the first answer token (the 20 likeliest, or 5; a choice
outside them gets the most it can have). Where a server gives none, a short text is written and parsed, and
the notes say so. Rate limits, server errors, time-outs and malformed responses are counted and asked again
(`endpoints`). A question that a server refuses is counted and left (`declined`); a wrong key, a wrong model
or a form of request that no server accepts stops at once, with a message that names the endpoint.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from rlaif import DISTRIBUTION
from rlaif.config import ModelConfig
from rlaif.engines import UNNAMED, Chat, GenerateRequest, Generation, ScoreRequest, Scores, Usage
from rlaif.engines.advice import permanent_error
from rlaif.engines.declined import Declined, Rejected, declined
from rlaif.engines.endpoints import CONNECT, TIMEOUT, Endpoint, Job, Pool, Trouble, retry_after
from rlaif.engines.responses import READS, VERDICT_TOKENS, Answer, parse_response, same_model, sum_variants
from rlaif.engines.transport import client, tls_fault
from rlaif.engines.verdicts import parse_choice
from rlaif.errors import UserError, printable, replace_surrogates
from rlaif.prompting.defences import COMMON
from rlaif.records import content_hash

_FEWER = {20: 5, 5: 0}  # likeliest tokens to ask for where a server does not take that many
_EMPTY = 3  # answers without a choice before a question counts as refused
# Characters: a shorter key, such as the `none` that local servers are given, is also an ordinary word.
_LONG_KEY = 8
_HARMLESS = "Hello."
Read = tuple[tuple[float, ...], int]  # (log-probabilities of the choices, prompt tokens)
REFUSED: Read = ((), -1)  # of a question that the server would not take; None is one that is too long


class OpenAIEngine:
    """One model behind one or several endpoints; `concurrency` requests are in flight at each."""

    batched = False

    def __init__(self, config: ModelConfig) -> None:
        try:
            import openai
        except ImportError:
            raise UserError(
                "engine: openai needs the openai package.",
                "the extra of that name",
                f'pip install "{DISTRIBUTION}[openai]"',
            ) from None
        self.api, self.config = openai, config
        self._key = os.environ.get(config.api_key_env, "").strip()
        if not self._key and not config.base_url:
            raise UserError(
                f"{config.model}: the environment variable {config.api_key_env} is not set.",
                "an API key there, or base_url of a server that asks for none",
                f"export {config.api_key_env}=…",
            )
        if not self._key.isascii():
            raise UserError(f"{config.api_key_env}: holds characters no key has.", "an API key")
        if len(self._key) >= _LONG_KEY and any(self._key in url for url in config.endpoints):
            raise UserError(
                f"base_url holds the key of {config.api_key_env}.",
                "an address without it: configs are copied into run folders",
            )
        self._extra = dict(config.extra_body)
        if config.chat_template_kwargs:
            self._extra["chat_template_kwargs"] = config.chat_template_kwargs
        self.endpoints = [Endpoint(url) for url in config.endpoints]
        self.pool = Pool(self.endpoints, config.concurrency, config.patience)
        self.usage, self.notes = Usage(), list[str]()

    @property
    def fingerprint(self) -> str:
        """The model's name, the one its responses carry, and what is added to every request: wherever it is
        served, it is the same judge.
        """
        served_as = self.config.served_as
        extra = f" with {content_hash(self._extra)}" if self._extra else ""
        return f"openai:{self.config.model}{f' served as {served_as}' if served_as else ''}{extra}"

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """One chat completion a request, with the request's seed."""
        yield from self._ask_all(list(enumerate(requests)), self._write, Generation("", "refused"))

    async def _write(self, endpoint: Endpoint, job: Job) -> Generation:
        request: GenerateRequest = job.question
        try:
            response = await self._complete(
                endpoint,
                job,
                request.messages,
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
            )
        except Declined as no:
            return Generation("", self._refusal(endpoint, no))
        text = response.text.strip()
        if response.finish_reason == "content_filter" and not text:
            return Generation("", self._refusal(endpoint, Declined("refused", "content filter")))
        endpoint.thinking += response.thinks
        return Generation(text, response.finish_reason, *response.used, thinking=response.thinking)

    def _refusal(self, endpoint: Endpoint, no: Declined) -> str:
        """What becomes of a declined question: "too_long", or "refused", which is counted."""
        if no.why == "too_long":
            return no.why
        endpoint.refused[no.kind or no.why] += 1
        return "refused"

    def score_choices(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """One request a suffix; a request is yielded when all its suffixes have a result."""
        jobs = [((i, s), (r, r.suffixes[s])) for i, r in enumerate(requests) for s in range(len(r.suffixes))]
        parts: dict[int, dict[int, Any]] = {}
        for (index, place), response in self._ask_all(jobs, self._judge, REFUSED):
            got = parts.setdefault(index, {})
            got[place] = response
            if len(got) == len(requests[index].suffixes):
                yield index, _scores([got[s] for s in range(len(got))])
                del parts[index]

    async def _judge(self, endpoint: Endpoint, job: Job) -> Read | None:
        """() for log-probabilities that could not be read, REFUSED or None where it was not taken."""
        request, suffix = job.question
        last = request.messages[-1]
        messages = [*request.messages[:-1], {**last, "content": last["content"] + suffix}]
        try:
            return await self._read(endpoint, job, messages, request.choices) or await self._verdict(
                endpoint, job, messages, request
            )
        except Declined as no:
            return None if self._refusal(endpoint, no) == "too_long" else REFUSED

    async def _read(
        self, endpoint: Endpoint, job: Job, messages: Chat, choices: tuple[str, ...]
    ) -> Read | None:
        """Log-probabilities of the first answer token, None where there are none; the first question finds
        out what the endpoint gives, and the others wait for it.
        """
        if endpoint.logprobs_unknown:
            async with endpoint.first:
                if endpoint.logprobs_unknown:
                    return await self._read_logprobs(endpoint, job, messages, choices)
        return await self._read_logprobs(endpoint, job, messages, choices)

    async def _read_logprobs(
        self, endpoint: Endpoint, job: Job, messages: Chat, choices: tuple[str, ...]
    ) -> Read | None:
        """The same, asked up to READS times: a response without log-probabilities is no failure of the
        endpoint."""
        while endpoint.top and job.bare < READS:
            response = await self._first_token(endpoint, job, messages)
            if response and response.top:
                read = sum_variants(response.top, choices)
                endpoint.thinking += not read and response.thinks
                return read, response.prompt_tokens
            if response:
                job.bare += 1
                endpoint.bare(job.bare == READS)
        return None

    async def _first_token(self, endpoint: Endpoint, job: Job, messages: Chat) -> Answer | None:
        """A response of one token with the likeliest ones; None where the server declines to give so many."""
        asked = endpoint.top
        try:
            response = await self._complete(
                endpoint, job, messages, max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=asked
            )
        except Declined as no:
            if no.why != "logprobs":
                raise
            endpoint.top = min(endpoint.top, _FEWER[asked])
            return None
        if response.top:
            endpoint.gave_logprobs, endpoint.top = True, asked
        elif response.finish_reason == "content_filter":  # which says nothing of what the endpoint gives
            raise Declined("refused", "content filter")
        return response

    async def _verdict(self, endpoint: Endpoint, job: Job, messages: Chat, request: ScoreRequest) -> Read:
        """Written text as a certain verdict, () where it announces none."""
        response = await self._complete(endpoint, job, messages, max_tokens=VERDICT_TOKENS, temperature=0.0)
        endpoint.written += 1
        cut = response.finish_reason == "length"
        named = parse_choice(response.text, request.choices, worst=request.worst, cut=cut)
        endpoint.thinking += named is None and response.thinks
        verdict = () if named is None else tuple(0.0 if c == named else UNNAMED for c in request.choices)
        return verdict, response.prompt_tokens

    async def _complete(self, endpoint: Endpoint, job: Job, messages: Chat, **options: Any) -> Answer:
        """One chat completion, counted; raises Trouble, Declined or UserError where there is none."""
        clean = COMMON.break_control_tokens
        job.asked = [{**m, "content": clean(replace_surrogates(m["content"])[0])} for m in messages], options
        try:
            response = await self._post(endpoint, *job.asked)
            if response is not None:
                return response
            job.empty += 1
            if job.empty < _EMPTY:
                raise Trouble("no choices in the response")
            no = Rejected(200, "no choices in the response", "")
        except Rejected as rejected:
            no = rejected
        if no.said:
            endpoint.said = no.said
        if await self._accepts_another(endpoint, job):
            raise Declined("refused", no.kind)
        if no.status == 200:
            raise Trouble(no.kind)
        raise permanent_error(endpoint, self.config, self._key, no.status, no.said)

    async def _accepts_another(self, endpoint: Endpoint, job: Job) -> bool:
        """Whether an endpoint accepts a harmless question in the form of the one that it rejected."""
        messages, options = job.asked
        try:
            harmless = [{**message, "content": _HARMLESS} for message in messages]
            return await self._post(endpoint, harmless, options) is not None
        except (Rejected, Declined, UserError):
            return False

    async def _refuse(self, endpoint: Endpoint, job: Job, trouble: Trouble, others: bool, empty: Any) -> Any:
        """`empty`, counted as a refusal, for a question that fails where others succeed; else None."""
        with suppress(Trouble):
            if others or await self._accepts_another(endpoint, job):
                endpoint.refused[trouble.kind] += 1
                return empty
        return None

    async def _post(self, endpoint: Endpoint, messages: Chat, options: dict[str, Any]) -> Answer | None:
        """One request, again where only its options were wrong; None for a response without a choice."""
        while True:
            sent = endpoint.shaped(options)
            try:
                raw = await endpoint.client.chat.completions.with_raw_response.create(
                    model=self.config.model, messages=messages, extra_body=self._extra or None, **sent
                )
                body = json.loads(raw.http_response.content)
                response = parse_response(body)
            except Exception as error:  # an error of the client, or one caused by half a response
                failure = self._failure(endpoint, error)
                if isinstance(failure, Declined) and endpoint.adapt(failure.why, sent):
                    continue
                raise failure from None
            if response is None:
                self._raise_error_in_body(endpoint, body)
                return None
            self._check_model(endpoint, response.model)
            endpoint.record_response()
            endpoint.replaced += response.replaced
            self.usage.calls += 1
            self.usage.prompt_tokens += response.prompt_tokens
            self.usage.tokens += response.tokens
            self.usage.shared_tokens += response.shared_tokens
            return response

    def _raise_error_in_body(self, endpoint: Endpoint, body: dict[str, Any]) -> None:
        """Raise the exception for an error in the body of a response with status 200, where it names a
        status."""
        error = body.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        if error:
            endpoint.said = self._printable(json.dumps(error))[:300]
        if isinstance(code, int) and 400 <= code < 600:
            raise self._for_status(endpoint, code, json.dumps(error), endpoint.said)
        if error and (no := declined(400, json.dumps(error))):
            raise no

    def _check_model(self, endpoint: Endpoint, named: str) -> None:
        """Refuse responses of another model: some servers respond with any model they have loaded."""
        asked = self.config.served_as or self.config.model
        if named and not same_model(asked, named):
            raise UserError(
                f'{endpoint.name}: asked for "{asked}", answered by "{self._printable(named)}".',
                "the model that the config names",
                "set model to what is served there, or served_as where that is another name for it",
            )

    def _ask_all(
        self,
        jobs: list[tuple[Any, Any]],
        ask: Callable[[Endpoint, Job], Coroutine[Any, Any, Any]],
        empty: Any,
    ) -> Iterator[tuple[Any, Any]]:
        """Responses in the order they arrive, `empty` for a refused one, from an event loop in a thread.

        Responses that arrived before an error are yielded before it is raised.
        """
        responses: queue.SimpleQueue[Any] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        instead = partial(self._refuse, empty=empty)
        task = loop.create_task(self.pool.ask(jobs, self._client, ask, responses.put, instead))

        def run() -> None:
            try:
                with asyncio.Runner(loop_factory=lambda: loop) as runner:
                    runner.run(_await(task))
                responses.put(None)
            except BaseException as error:
                responses.put(error)

        threading.Thread(target=run, name="rlaif-endpoints", daemon=True).start()
        try:
            while (response := responses.get()) is not None:
                if isinstance(response, BaseException):
                    raise _innermost(response) from None
                yield response
        finally:
            with suppress(RuntimeError):  # the loop has closed: all is done
                loop.call_soon_threadsafe(task.cancel)
            self._note()

    def _note(self) -> None:
        """Say what happened at each endpoint, in the notes and the usage."""
        self.usage.retried.clear()
        self.usage.refused.clear()
        self.notes.clear()
        for endpoint in self.endpoints:
            self.usage.retried.update(endpoint.troubles)
            self.usage.refused.update(endpoint.refused)
            self.notes += endpoint.notes()

    def _client(self, url: str) -> Any:
        return client(self.api, url, self._key, TIMEOUT)

    def _failure(self, endpoint: Endpoint, error: Any) -> Exception:
        """The exception for a failed try: Trouble (retry), Declined or Rejected, UserError (stop)."""
        api, said = self.api, self._printable(str(error).split("\n")[0])[:300]
        if isinstance(error, Trouble):
            return error
        if isinstance(error, api.APITimeoutError):
            return Trouble("no response in time")
        if fault := tls_fault(error):
            why = getattr(fault, "verify_message", None) or fault.reason or str(fault)
            return Trouble("TLS error", self._printable(str(why)))
        if isinstance(error, api.APIConnectionError):
            return Trouble("no connection")
        if not isinstance(error, api.APIStatusError):
            return Trouble("half a response")
        wait, target = retry_after(error.response.headers), error.response.headers.get("location", "")
        if error.status_code < 400:
            return self._redirected(endpoint, error.status_code, target)
        # Codes such as insufficient_quota stand in the body alone, not in the client's message.
        return self._for_status(endpoint, error.status_code, f"{error} {error.body}", said, wait)

    def _for_status(
        self, endpoint: Endpoint, status: int, text: str, said: str, wait: float = 0.0
    ) -> Exception:
        """The exception for an error status, with what the server says about it."""
        if no := declined(status, text):
            endpoint.said = said if no.why == "refused" else endpoint.said
            return no
        if (status in (408, 409, 425, 429) or status >= 500) and "insufficient_quota" not in text:
            return Trouble(f"HTTP {status}", said, wait)
        if status in (400, 403, 422, 451):
            return Rejected(status, f"HTTP {status}", said)
        return permanent_error(endpoint, self.config, self._key, status, said)

    def _redirected(self, endpoint: Endpoint, status: int, target: str) -> UserError:
        parts = urlsplit(target)
        to = self._printable(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "another path"
        )
        return UserError(
            f"{endpoint.name}: redirects to {to} (HTTP {status}).",
            "the address that responds: redirects are "
            "not followed, since prompts and the key go only where the config says",
            "set base_url to it, if you trust it",
        )

    def _printable(self, text: str) -> str:
        """A server's words for a message: without the key, and no control characters.

        The model's own texts are kept as they are, whatever words the key may share with them.
        """
        if len(self._key) >= _LONG_KEY:
            text = text.replace(self._key, "…")
        elif self._key:
            text = re.sub(rf"(?<!\w){re.escape(self._key)}(?!\w)", "…", text)
        return printable(text)

    def health(self) -> dict[str, str]:
        """Each endpoint's state in words: what it serves, or why it does not respond."""
        return {endpoint.name: self._health(endpoint) for endpoint in self.endpoints}

    def _health(self, endpoint: Endpoint) -> str:
        try:
            served = asyncio.run(self._served(endpoint))
        except Exception as error:  # as in _post
            failure = self._failure(endpoint, error)
            said = f': "{failure.said}"' if isinstance(failure, Trouble) and failure.said else ""
            return failure.found if isinstance(failure, UserError) else f"{failure}{said}"
        known = any(same_model(self.config.served_as or self.config.model, name) for name in served)
        return self._printable(
            f"{'well' if known else 'responds, but has no ' + self.config.model}; serves "
            f"{', '.join(served[:8])}"
        )

    async def _served(self, endpoint: Endpoint) -> list[str]:
        async with client(self.api, endpoint.url, self._key, CONNECT) as asked:
            return [str(model.id) async for model in asked.models.list()]


async def _await(task: asyncio.Task[None]) -> None:
    await task


def _innermost(error: BaseException) -> BaseException:
    """The error inside nested groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _scores(parts: list[tuple[tuple[float, ...], int] | None]) -> Scores:
    responses = [part for part in parts if part is not None]
    if len(responses) < len(parts):
        return Scores((), too_long=True)
    prompt_tokens = sum(tokens for _, tokens in responses if tokens > 0)
    return Scores(tuple(logprobs for logprobs, _ in responses), prompt_tokens, refused=REFUSED in responses)

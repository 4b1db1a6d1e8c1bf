"""The in-process engine: any causal language model that transformers loads, on a CPU or one GPU.

Text is written by our own decode loop (`decoding`), verdicts are read by shared-prefix scoring (`shared`)
where that is exact for the model and by plain forwards otherwise. The weights are opened at the first
question, so a run whose answers are all in the cache never loads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlaif.config import ModelConfig
from rlaif.engines import TEMPLATE, Chat, GenerateRequest, Generation, ScoreRequest, Scores, Usage
from rlaif.engines.loading import (
    context_length,
    eos_ids,
    frozen_dtype,
    load_causal_lm,
    load_tokenizer,
    model_folder,
    resolve_device,
)
from rlaif.errors import UserError
from rlaif.prompting.chat import (
    TemplateRefused,
    control_of,
    encode_chat,
    encode_turn,
    end_of_turn,
    has_chat_template,
    split_chat,
    token_ids,
)
from rlaif.prompting.turns import written_text, written_turn_end
from rlaif.records import encode_tokens
from rlaif.runs.storage import folder_hash

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
States = NDArray[np.float32]
NO_STATES: States = np.empty(0, np.float32)
NO_QUESTION = ScoreRequest([], (), ())  # of responses that are read without a question
Task = tuple[int, GenerateRequest, list[int]]  # a text's place, what is asked, and the prompt's tokens
_WINDOW = 4096


class TransformersEngine:
    """A model folder or hub id behind the engine protocol."""

    kind = "transformers"
    batched = True

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.folder = model_folder(config.model)
        self.tokenizer = load_tokenizer(self.folder, config.chat_template_kwargs)
        self.usage = Usage()
        self.notes: list[str] = []
        self.device = resolve_device(config.device)
        self.plain_turns = not has_chat_template(self.tokenizer)
        self._continue = lru_cache(maxsize=65536)(partial(continuation_ids, self.tokenizer))
        self._variants = lru_cache(maxsize=64)(partial(choice_tokens, self.tokenizer))
        dtype = frozen_dtype(config.dtype, self.device, self.folder, self.tokenizer)
        self.dtype = str(dtype).removeprefix("torch.")
        self._fingerprint = f"{self.kind}:{Path(config.model).name}@{folder_hash(self.folder)}:{self.dtype}"
        if config.chat_template_kwargs:
            self._fingerprint += ":" + json.dumps(config.chat_template_kwargs, sort_keys=True)
        if self.plain_turns:
            self._note(
                "brings no chat template: plain Human/Assistant turns are used, and a text ends where the "
                "model writes the next Human turn"
            )

    def _note(self, text: str) -> None:
        self.notes.append(f"{self.config.model} {text}.")

    @property
    def fingerprint(self) -> str:
        """Folder name, content hash of config, weights and tokenizer, and the dtype it runs in."""
        return self._fingerprint

    @cached_property
    def model(self) -> Any:
        """The loaded model; raises UserError for architectures without keys and values to keep."""
        model = load_causal_lm(self.folder, self.config.device, self.dtype).requires_grad_(False)
        if model._is_stateful:
            raise UserError(
                f"{self.config.model}: {type(model).__name__} is recurrent, which the transformers engine "
                "does not run.",
                "an attention model, or this one behind an endpoint",
                "serve it and use engine: openai",
            )
        return model

    @cached_property
    def depth(self) -> int:
        """How many layers the model has: hidden states stand after 0 (the embeddings) to so many."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @cached_property
    def shared_limit(self) -> int:
        """Tokens up to which shared-prefix scoring is exact for this model; measured once."""
        from rlaif.engines.shared import UNBOUNDED, exact_limit

        limit, reason = exact_limit(self.model)
        if limit < UNBOUNDED:
            beyond = f"beyond {limit} tokens" if limit else "always"
            self._note(f"is judged by plain forwards {beyond} instead of sharing the prefix: {reason}")
        return limit

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Write a text for each request, longest first, in batches of at most `batch_tokens`."""
        for window in windows(len(requests)):
            tasks: list[Task] = []
            for index in window:
                try:
                    prompt = encode_chat(self.tokenizer, requests[index].messages)
                except TemplateRefused as refused:
                    self._count_refused(refused)
                    yield index, Generation("", "template", said=refused.said)
                else:
                    tasks.append((index, requests[index], prompt))
            if tasks:
                yield from self._generate(tasks)

    def _count_refused(self, refused: TemplateRefused) -> None:
        self.usage.refused[TEMPLATE + refused.said] += 1

    def _generate(self, tasks: list[Task]) -> Iterator[tuple[int, Generation]]:
        from rlaif.engines.decoding import LogitsNotFinite, decode

        limit, ends = context_length(self.model), eos_ids(self.model, self.tokenizer)
        sizes = [len(prompt) + r.max_tokens for _, r, prompt in tasks]
        for (index, _, prompt), size in zip(tasks, sizes, strict=True):
            if size > limit:
                yield index, Generation("", "too_long", len(prompt))
        fitting = [task for task, size in zip(tasks, sizes, strict=True) if size <= limit]
        for batch in batches(fitting, lambda t: len(t[2]) + t[1].max_tokens, self.config.batch_tokens):
            try:
                rows = decode(
                    self.model,
                    [t[2] for t in batch],
                    [t[1] for t in batch],
                    ends,
                    self.tokenizer.pad_token_id,
                    self._stopped if self.plain_turns else None,
                )
            except LogitsNotFinite:
                raise self._not_finite() from None
            for (index, _, prompt), ids in zip(batch, rows, strict=True):
                self._count(len(prompt), len(ids))
                yield index, self._finish(ids, ids[-1] in ends, len(prompt))

    def _not_finite(self) -> UserError:
        return UserError(
            f"{self.config.model}: it can write nothing, its logits are NaN or infinite (in {self.dtype}).",
            "a model whose weights are finite numbers; a training that diverged leaves others",
            "another model, or dtype: float32 if it overflows in half precision",
        )

    def _stopped(self, ids: list[int]) -> bool:
        return written_turn_end(self.tokenizer, ids[-24:]) is not None

    def _finish(self, ids: list[int], stopped: bool, prompt_tokens: int) -> Generation:
        """The generation a row of new tokens amounts to: without a chat template, those up to the next Human
        turn."""
        end = written_turn_end(self.tokenizer, ids)
        text, finish = written_text(self.tokenizer, ids), "stop" if stopped or end else "length"
        return Generation(text, finish, prompt_tokens, len(ids[:end]), encode_tokens(ids[:end]))

    def _count(self, prompt_tokens: int, tokens: int, calls: int = 1) -> None:
        self.usage.calls += calls
        self.usage.prompt_tokens += prompt_tokens
        self.usage.tokens += tokens

    def score_choices(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """Read the choices' log-probabilities at the answer position after each request's suffixes."""
        for index, scores, _ in self.score_with_states(requests, ()):
            yield index, scores

    def score_with_states(
        self, requests: Sequence[ScoreRequest], layers: Sequence[int]
    ) -> Iterator[tuple[int, Scores, States]]:
        """The same with the hidden states [S, L, D] of the answer positions after these layers; empty without
        layers and where nothing was read."""
        for window in windows(len(requests)):
            questions: list[TokenizedQuestion] = []
            for index in window:
                try:
                    questions.append(self._question(index, requests[index]))
                except TemplateRefused as refused:
                    self._count_refused(refused)
                    yield index, Scores(((),) * len(requests[index].suffixes), refused=True), NO_STATES
            if questions:
                yield from self._score(questions, layers)

    def tokens_of(self, request: ScoreRequest) -> list[int]:
        """A question with one suffix as the model reads it."""
        question = self._question(0, request)
        return question.prefix + question.suffixes[0]

    def choice_logprobs(self, rows: Sequence[Sequence[int]], choices: tuple[str, ...]) -> torch.Tensor:
        """Log-probabilities [N, C] in fp32 of the choices after rows of tokens, by one plain forward through
        which gradients go back."""
        import torch

        from rlaif.engines.decoding import left_pad, positions

        ids, mask = left_pad(rows, 0, self.model.device)
        known = {"attention_mask": mask, "position_ids": positions(mask), "use_cache": False}
        logits = self.model(input_ids=ids, logits_to_keep=1, **known).logits[:, -1]
        table = logits.float().log_softmax(-1)
        return torch.stack([table[:, own].logsumexp(-1) for own in self._variants(choices)], 1)

    def response_states(
        self, asked: Sequence[tuple[Chat, Sequence[str]]], layers: Sequence[int]
    ) -> Iterator[tuple[int, States]]:
        """Hidden states [K, L, D] of the K responses to each prompt after these layers, the mean over a
        response's tokens and the one that ends its turn; empty where they do not fit the context or the
        template."""
        from rlaif.engines.shared import mean_states_plain, mean_states_shared

        limit, budget, end = context_length(self.model), self.config.batch_tokens, end_of_turn(self.tokenizer)
        for window in windows(len(asked)):
            rows: list[TokenizedQuestion] = []
            for index in window:
                prompt, texts = asked[index]
                try:
                    turns = [encode_turn(self.tokenizer, prompt, text, end) for text in texts]
                except TemplateRefused as refused:
                    self._count_refused(refused)
                    yield index, NO_STATES
                    continue
                row = TokenizedQuestion(index, NO_QUESTION, turns[0][0], [ids for _, ids in turns])
                if row.longest > limit or not all(row.suffixes):
                    yield index, NO_STATES
                else:
                    rows.append(row)
            for shares in (True, False):
                part = [row for row in rows if (row.longest <= self.shared_limit) == shares]
                size = (lambda q: q.tokens) if shares else (lambda q: q.longest * len(q.suffixes))
                for batch in batches(part, size, budget):
                    read = mean_states_shared if shares else mean_states_plain
                    table = read(self.model, *_rows(batch), layers).cpu().numpy()
                    for row, own in zip(batch, _parts(table, batch), strict=True):
                        self._count(row.tokens, 0, 0)
                        yield row.index, own

    def _question(self, index: int, request: ScoreRequest) -> TokenizedQuestion:
        prefix, tail = split_chat(self.tokenizer, request.messages)
        ids = token_ids(self.tokenizer, prefix, start=self.plain_turns)
        neutral = control_of(self.tokenizer).break_control_tokens
        suffixes = [self._continue(neutral(suffix) + tail) for suffix in request.suffixes]
        if not all(suffixes):  # an answer position needs a token before it
            suffixes = [[ids[-1], *s] for s in suffixes]
            ids.pop()
        return TokenizedQuestion(index, request, ids, suffixes)

    def _score(
        self, questions: list[TokenizedQuestion], layers: Sequence[int]
    ) -> Iterator[tuple[int, Scores, States]]:
        from rlaif.engines.shared import score_with_states_plain, score_with_states_shared

        limit, budget = context_length(self.model), self.config.batch_tokens
        for question in questions:
            if question.longest > limit:
                yield question.index, Scores((), len(question.prefix), too_long=True), NO_STATES
        fitting = [q for q in questions if q.longest <= limit]
        shared = [q for q in fitting if q.prefix and q.longest <= self.shared_limit]
        plain = [q for q in fitting if not (q.prefix and q.longest <= self.shared_limit)]
        for batch in batches(shared, lambda q: q.tokens, budget):
            self.usage.shared_tokens += sum((len(q.suffixes) - 1) * len(q.prefix) for q in batch)
            yield from self._read(batch, *score_with_states_shared(self.model, *_rows(batch), layers))
        for batch in batches(plain, lambda q: q.longest * len(q.suffixes), budget):
            yield from self._read(batch, *score_with_states_plain(self.model, *_rows(batch), layers, budget))

    def _read(
        self, batch: list[TokenizedQuestion], table: torch.Tensor, states: torch.Tensor
    ) -> Iterator[tuple[int, Scores, States]]:
        """Sum each choice's variants in a table [suffixes of all questions, V] of log-probabilities."""
        own = _parts(states.cpu().numpy(), batch) if states.numel() else [NO_STATES] * len(batch)
        for question, rows, at in zip(batch, table.split([len(q.suffixes) for q in batch]), own, strict=True):
            self._count(question.unshared, 0, len(question.suffixes))
            columns = [
                rows[:, ids].logsumexp(-1).tolist() for ids in self._variants(question.request.choices)
            ]
            yield question.index, Scores(tuple(zip(*columns, strict=True)), question.tokens), at


@dataclass
class TokenizedQuestion:
    """A tokenised ScoreRequest: the shared prefix and the suffixes, each with the chat template's tail; or a
    prompt and its responses."""

    index: int
    request: ScoreRequest
    prefix: list[int]
    suffixes: list[list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the longest whole question."""
        return len(self.prefix) + max(map(len, self.suffixes), default=0)

    @property
    def tokens(self) -> int:
        """Tokens to read when the prefix is read once."""
        return len(self.prefix) + sum(map(len, self.suffixes))

    @property
    def unshared(self) -> int:
        """Tokens of all its whole questions: what they would take one by one."""
        return len(self.prefix) * len(self.suffixes) + sum(map(len, self.suffixes))


def _parts(table: States, batch: list[TokenizedQuestion]) -> list[States]:
    """The rows of a table [suffixes of all questions, …] question by question."""
    return np.split(table, np.cumsum([len(q.suffixes) for q in batch])[:-1])


def _rows(batch: list[TokenizedQuestion]) -> tuple[list[list[int]], list[list[list[int]]]]:
    return [q.prefix for q in batch], [q.suffixes for q in batch]


def continuation_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that continues another one: without special tokens and without a made-up leading
    space."""
    ids, letter, line = (token_ids(tokenizer, t) for t in (text, "a", "\n"))
    if not tokenizer.convert_ids_to_tokens(letter[0]).startswith("▁"):
        return ids
    # SentencePiece puts a space before every text; after a line break, which merges with nothing, it does
    # not.
    after = token_ids(tokenizer, "\n" + text)
    return after[len(line) :] if after[: len(line)] == line else ids


def choice_tokens(tokenizer: Any, choices: Sequence[str]) -> tuple[list[int], ...]:
    """For each choice the tokens that mean it as an answer's first token, with and without a leading space.

    A choice that is no single token is told by its first token, where no other choice begins with it; raises
    UserError where choices cannot be told apart.
    """
    spellings = [[continuation_ids(tokenizer, text) for text in (choice, " " + choice)] for choice in choices]
    firsts = [{ids[0] for ids in spelling if ids} for spelling in spellings]
    found = []
    for index, (choice, spelling) in enumerate(zip(choices, spellings, strict=True)):
        others = set().union(*firsts[:index], *firsts[index + 1 :])
        single = {ids[0] for ids in spelling if len(ids) == 1}
        tokens = (single or firsts[index]) - others
        if not tokens:
            raise UserError(
                f'the answer "{choice}" cannot be told from {", ".join(c for c in choices if c != choice)} '
                "by its first token.",
                "answers whose first tokens differ in this model's vocabulary",
            )
        found.append(sorted(tokens))
    return tuple(found)


def windows(count: int) -> Iterator[range]:
    """Consecutive index ranges: requests are tokenised and sorted a window at a time, so memory stays
    flat."""
    return (range(start, min(start + _WINDOW, count)) for start in range(0, count, _WINDOW))


def batches(items: Sequence[T], size: Callable[[T], int], budget: int) -> Iterator[list[T]]:
    """Items in batches, longest first; count × longest stays within the budget, and a batch has at least one
    item."""
    batch: list[T] = []
    for item in sorted(items, key=size, reverse=True):
        if batch and (len(batch) + 1) * size(batch[0]) > budget:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch

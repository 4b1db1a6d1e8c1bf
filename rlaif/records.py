"""The rows a run is made of: one type for each thing, ids that are content hashes, a version in every row.

Human, AI and simulated labels are one `Label`; comparing sources of feedback is a filter on its rows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import struct
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEMA = 1
MOST = 2**53  # of a count: whole numbers beyond are not told apart
ROUNDING = 1e-6  # by which a probability may be beyond 0 or 1
YEAR = 366 * 24 * 3600.0  # seconds, the longest that one label may take
AnnotatorKind = Literal["human", "ai", "simulated"]
Verdict = Literal["a", "b", "tie", "abstain", "invalid"]
Order = Literal["ab", "ba"]
ORDERS: tuple[Order, ...] = get_args(Order)  # the judge is asked about every comparison once in each
HeldOut = Literal["heldout", "wordings"]  # whole groups, and wordings of what is asked in training


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else str(value)


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_plain).encode


def content_hash(*parts: Any) -> str:
    """16 hex digits that are the same for the same JSON-able content on every machine."""
    return hashlib.sha256(_encode(parts).encode()).hexdigest()[:16]


def finite(number: float | None) -> float | None:
    """The number; None where it is not known, as one that JSON has no form for is not."""
    return number if number is not None and math.isfinite(number) else None


def time_taken(seconds: float | None) -> float | None:
    """How long one label took; None where that is no time."""
    return seconds if seconds is not None and 0 <= seconds <= YEAR else None


def encode_tokens(ids: Sequence[int]) -> str:
    """Token ids as compact text: "H" or "I", then base64 of them as little-endian integers of 2 or 4 bytes
    each."""
    kind = "H" if max(ids, default=0) < 1 << 16 else "I"
    return kind + base64.b64encode(struct.pack(f"<{len(ids)}{kind}", *ids)).decode()


def decode_tokens(text: str) -> list[int]:
    """The token ids that `encode_tokens` made `text` of; raises ValueError where it is no such text."""
    kind = text[:1]
    try:
        data = base64.b64decode(text[1:], validate=True)
        if kind not in ("H", "I"):
            raise ValueError
        return list(struct.unpack(f"<{len(data) // struct.calcsize(kind)}{kind}", data))
    except (ValueError, binascii.Error, struct.error):
        raise ValueError(f'not token ids ("H" or "I" and base64): {text[:20]!r}') from None


class Record(BaseModel):
    """A row of JSONL; unknown keys are refused, rows never change once written."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    v: int = SCHEMA
    """Version of the row's format; 1 so far."""
    id: str = ""
    """Content hash of the row, 16 hex digits: the same for the same content on every machine."""

    @classmethod
    def with_new_names(cls, row: dict[str, Any]) -> dict[str, Any]:
        """A row as it stands in a file, under the names that its fields have now."""
        old = {
            choice: name
            for name, field in cls.model_fields.items()
            if isinstance(field.validation_alias, AliasChoices)
            for choice in field.validation_alias.choices
        }
        return {old.get(key, key): value for key, value in row.items()}

    def identity(self) -> tuple[Any, ...]:
        """What the id is a hash of."""
        raise NotImplementedError

    @property
    def content_id(self) -> str:
        """The id that the content gives, which a row from elsewhere need not have."""
        return content_hash(type(self).__name__, *self.identity())

    @model_validator(mode="after")
    def _fill_id(self) -> Record:
        if not 1 <= self.v <= SCHEMA:
            raise ValueError(
                f"version {self.v} was written by a newer rlaif; this one reads version {SCHEMA}"
            )
        if not self.id:
            object.__setattr__(self, "id", self.content_id)
        return self

    def to_json(self) -> str:
        """One line of JSON."""
        return self.model_dump_json(exclude_none=True)


class Message(BaseModel):
    """One chat turn."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    role: Literal["system", "user", "assistant"]
    """Who says it."""
    content: str
    """The text."""


class Prompt(Record):
    """A conversation that ends where the policy must respond.

    Prompts of one `group` ask the same thing in other words: all are trained on or all are held out.
    """

    messages: tuple[Message, ...] = Field(min_length=1)
    """The conversation, which ends where the policy must respond."""
    tags: tuple[str, ...] = ()
    """What `applies_to` of principles is matched with."""
    source: str = ""
    """Where the prompt comes from."""
    group: str = ""
    """Name shared by prompts that ask the same in other words; empty: none."""

    def identity(self) -> tuple[Any, ...]:
        return tuple((m.role, m.content) for m in self.messages)

    def to_json(self) -> str:
        """One line of JSON; without a group it is the line of versions that knew no groups."""
        return self.model_dump_json(exclude_none=True, exclude=None if self.group else {"group"})

    @property
    def cluster(self) -> str:
        """What the prompt is split and resampled by: its group, or itself where it has none."""
        return self.group or self.id

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages as plain dictionaries, the form chat templates and engines take."""
        return [m.model_dump() for m in self.messages]


class Response(Record):
    """A model's response to a prompt; `index` tells apart the K samples of one prompt.

    `token_ids` are the tokens it was sampled as, by `encode_tokens` and of the tokenizer of `model`, the one
    that ended it included; None where they are not known (endpoints, imports, scripts). Text is for people
    and judges; a log-probability is that of tokens, and a text encoded anew need not give the same ones.
    """

    prompt_id: str
    """`id` of the prompt."""
    text: str
    """The response as text."""
    model: str = ""
    """Fingerprint of the model that wrote it; empty where that is not known."""
    sampling: dict[str, float | int] = Field(default_factory=dict)
    """The sampling options that were used, by name."""
    seed: int = 0
    """Seed of the row's random numbers."""
    index: int = 0
    """Which of the prompt's samples it is, from 0."""
    finish_reason: str = Field(default="stop", validation_alias=AliasChoices("finish_reason", "finish"))
    """Why it ended: `stop` (by itself), `length` (the tokens ran out) or `content_filter` (a service broke it
    off)."""
    tokens: int | None = Field(default=None, ge=0, le=MOST)
    """Length in tokens of the model; missing where it is not known."""
    token_ids: str | None = None
    """Its tokens by `rlaif.records.encode_tokens`; missing where they are not known or not needed."""
    thinking: str | None = None
    """What a reasoning model wrote before it: no judge sees it; missing where there is none. `token_ids` hold
    it too."""

    @field_validator("token_ids")
    @classmethod
    def _readable(cls, text: str | None) -> str | None:
        if text is not None:
            decode_tokens(text)
        return text

    def identity(self) -> tuple[Any, ...]:
        return (self.prompt_id, self.text, self.model, sorted(self.sampling.items()), self.seed, self.index)


class Revision(Record):
    """One critique–revision step: which principle was drawn, what the critic wrote, what became of the text.

    `critique` is empty where the revision was asked for directly; `reason` says why a revision is invalid
    (None in older rows); `preamble` is what was taken off its beginning.
    """

    prompt_id: str
    """`id` of the prompt."""
    round: int
    """Critique round, from 1."""
    principle_id: str
    """`id` of the principle that was drawn."""
    from_id: str
    """`id` of the response that was revised."""
    to_id: str
    """`id` of the revised response."""
    critique: str
    """What the critic wrote; empty where the revision was asked for directly."""
    status: Literal["ok", "unchanged", "invalid"]
    """What became of the text."""
    reason: str | None = None
    """Why it is invalid; missing otherwise."""
    preamble: str | None = None
    """What was taken off its beginning; missing where nothing was."""

    def identity(self) -> tuple[Any, ...]:
        return (self.prompt_id, self.round, self.from_id)


class Comparison(Record):
    """A pair of responses to one prompt, before it is judged."""

    prompt_id: str
    """`id` of the prompt."""
    a: str
    """`id` of the first response."""
    b: str
    """`id` of the second response."""
    origin: Literal["samples", "revision", "import"] = "samples"
    """Two samples, a revision (a) and the text before it (b), or imported."""

    def identity(self) -> tuple[Any, ...]:
        return (self.prompt_id, self.a, self.b)


class Annotator(BaseModel):
    """Who gave a label."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    kind: AnnotatorKind
    """A person, a model, or a program that stands for a person."""
    id: str
    """Name of the person or fingerprint of the model."""


class Label(Record):
    """One annotator's verdict on one comparison, always told about (a, b) as the comparison stores them.

    `p_a` is None where nothing could be read (`verdict="invalid"`); `reason` then says why: "refused" (no
    verdict, or hardly any probability on one), "too long", or "not a number" (the judge's scores are NaN).
    """

    NUMBERLESS: ClassVar = "not a number"  # asked about again wherever labels are taken over
    comparison_id: str
    """`id` of the comparison."""
    annotator: Annotator
    """Who gave the label."""
    principle_id: str | None = None
    """`id` of the principle it is under; missing where it is on the whole comparison."""
    order: Order = "ab"
    """Which response was shown first."""
    p_a: float | None = Field(default=None, ge=0.0, le=1.0)
    """Probability that a is better; missing where nothing could be read."""
    verdict: Verdict
    """The choice that `p_a` stands for."""
    answer_mass: float | None = Field(default=None, validation_alias=AliasChoices("answer_mass", "mass"))
    """Probability that the judge put on the answers; missing where written text was parsed, and of people."""
    reason: Literal["refused", "too long", "not a number"] | None = None
    """Why the verdict is invalid; missing otherwise."""
    rationale: str | None = None
    """What a judge wrote before its verdict, with `cot`, or a person's reason; missing where none is."""
    seconds: float | None = None
    """Seconds a person took; missing where not measured."""
    anchored: bool | None = None
    """True where the annotator had seen an AI's opinion before; missing of blind labels."""
    judge: dict[str, str] = Field(default_factory=dict)
    """What the judge's identity is made of: model, template, principle as it is worded, decoding; empty for
    people."""
    _timed = field_validator("seconds")(time_taken)

    def identity(self) -> tuple[Any, ...]:
        return (
            self.comparison_id,
            self.annotator.kind,
            self.annotator.id,
            self.principle_id,
            self.order,
            sorted(self.judge.items()),
            *(["anchored"] if self.anchored else []),
        )


class Preference(Record):
    """Labels of one comparison, aggregated; computed, never edited."""

    comparison_id: str
    """`id` of the comparison."""
    p_a: float = Field(ge=0.0, le=1.0)
    """Probability that a is better, of all labels together."""
    votes: dict[str, int] = Field(default_factory=dict)
    """How many labels have each verdict."""
    sources: tuple[str, ...] = ()
    """Kinds of annotators behind it."""
    weight: float = 1.0
    """Weight in the reward model's loss."""
    deciding_principle: str | None = Field(
        default=None, validation_alias=AliasChoices("deciding_principle", "deciding")
    )
    """`id` of the principle that moved it most; missing where none did."""

    def identity(self) -> tuple[Any, ...]:
        return (self.comparison_id,)


class Ranking(Record):
    """A K-wise ranking of one prompt's responses: rank 1 is best, equal ranks are ties."""

    prompt_id: str
    """`id` of the prompt."""
    response_ids: tuple[str, ...]
    """`id`s of the ranked responses."""
    ranks: tuple[int, ...]
    """Rank of each, 1 is best; equal ranks are ties."""
    annotator: Annotator
    """Who ranked."""
    seconds: float | None = None
    """Seconds it took; missing where not measured."""
    _timed = field_validator("seconds")(time_taken)

    def identity(self) -> tuple[Any, ...]:
        return (self.prompt_id, self.response_ids, self.annotator.kind, self.annotator.id)

    @model_validator(mode="after")
    def _one_rank_each(self) -> Ranking:
        if len(self.response_ids) != len(self.ranks):
            raise ValueError(f"{len(self.response_ids)} responses but {len(self.ranks)} ranks")
        if len(set(self.response_ids)) < len(self.response_ids):
            raise ValueError("a response is ranked twice")
        return self

    def verdict(self, a: str, b: str) -> Verdict:
        """Which of two ranked responses stands higher."""
        rank = dict(zip(self.response_ids, self.ranks, strict=True))
        return "tie" if rank[a] == rank[b] else ("a" if rank[a] < rank[b] else "b")


class Grade(Record):
    """What the sources of reward say of one response, raw and by name; one that could not be read is
    missing."""

    prompt_id: str
    """`id` of the prompt."""
    response_id: str
    """`id` of the response."""
    scores: dict[str, float]
    """Raw score of each source of reward by name; one that could not be read is missing."""

    def identity(self) -> tuple[Any, ...]:
        return (self.response_id,)


class Evaluation(Record):
    """One policy's response to one held-out prompt, and everything measured on it."""

    policy: str
    """Name of the policy: `base`, or the stage that trained it."""
    prompt_id: str
    """`id` of the held-out prompt."""
    response_id: str
    """`id` of the policy's response."""
    split: HeldOut = "heldout"
    """Whether the prompt's whole group is held out or only this wording of it."""
    gold: dict[str, bool] | None = None
    """Whether each principle is kept, by the gold scorer; missing where there is none or it knows none of
    them."""
    compliance: dict[str, float] = Field(default_factory=dict)
    """The judge's probability that each principle is kept; empty where it was not asked."""
    unread: tuple[str, ...] = ()
    """Principles that the judge was asked about without a readable answer."""
    p_win: float | None = Field(default=None, ge=-ROUNDING, le=1 + ROUNDING)
    """The judge's probability that it beats the base policy's response; missing where it was not asked."""
    flips: tuple[int, int] | None = None
    """Of the verdicts behind `p_win`: how many flip with the order, and how many are decided."""
    kl: float | None = None
    """KL to the base policy at its tokens, nats; missing where its text does not give its tokens."""
    tokens: int = Field(default=0, ge=0, le=MOST)
    """Length in tokens."""
    refusal: bool = False
    """Whether it refuses, by patterns."""

    @field_validator("compliance")
    @classmethod
    def _probabilities(cls, values: dict[str, float]) -> dict[str, float]:
        if not all(-ROUNDING <= p <= 1 + ROUNDING for p in values.values()):
            raise ValueError("not all are probabilities")
        return values

    _known = field_validator("kl")(finite)

    def identity(self) -> tuple[Any, ...]:
        return (self.policy, self.prompt_id)


# What the rows of a run's files are, by the file's name.
ROWS: dict[str, type[Record]] = {
    "prompts": Prompt,
    "responses": Response,
    "best": Response,
    "revisions": Revision,
    "comparisons": Comparison,
    "labels": Label,
    "earlier_labels": Label,
    "preferences": Preference,
    "grades": Grade,
    "evaluation": Evaluation,
}


TIE_MARGIN = 0.1


def verdict_of(p_a: float | None, tie_margin: float = TIE_MARGIN) -> Verdict:
    """The hard verdict of a probability; within `tie_margin` of one half it is a tie."""
    if p_a is None or math.isnan(p_a):
        return "invalid"
    if abs(p_a - 0.5) <= tie_margin:
        return "tie"
    return "a" if p_a > 0.5 else "b"


R = TypeVar("R", bound=Record)


def with_content_id(row: R, **changes: Any) -> R:
    """The row with these fields changed, under the id that its content then gives, whatever id it came
    with."""
    changed = row.model_copy(update=changes)
    return (
        changed if changed.id == changed.content_id else changed.model_copy(update={"id": changed.content_id})
    )

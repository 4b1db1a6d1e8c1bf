"""Any list of pairs judged by a constitution, without a run: what `rlaif.judge` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.config import ModelConfig, find
from rlaif.constitution import Constitution
from rlaif.engines import Engine, open_engine
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge, JudgeQuestion
from rlaif.feedback.preferences import aggregate, combine_orders
from rlaif.options.modes import PAIRWISE
from rlaif.prompting.conversations import Turn, Unusable, asked, turns_of
from rlaif.prompting.prompt_files import tags_of
from rlaif.prompting.templates import Templates
from rlaif.records import Comparison, Label, Prompt, Response, Verdict, verdict_of
from rlaif.runs.folder import silent_progress

FORMS = (
    '(prompt, a, b), {"prompt": …, "a": …, "b": …} or {"prompt": …, "chosen": …, "rejected": …}; '
    "each a text, or messages"
)


@dataclass(frozen=True)
class Judgement:
    """What the judge says of one pair; probabilities are from 0 to 1.

    `p_a` is the probability that `a` is better under the whole constitution, and `by_principle` under each
    principle, the two orders averaged; None where nothing could be read. `labels` are the verdicts one by
    one, as a run's label stage would store them.
    """

    prompt: str
    a: str
    b: str
    p_a: float | None
    deciding_principle: str | None
    by_principle: dict[str, float | None]
    labels: tuple[Label, ...]

    @property
    def verdict(self) -> Verdict:
        """`a`, `b`, `tie`, or `invalid` where nothing could be read."""
        return "invalid" if self.p_a is None else verdict_of(self.p_a)


def judge(
    pairs: Iterable[Any],
    constitution: Constitution | Mapping[str, Any] | Path | str,
    model: Engine | ModelConfig | Mapping[str, Any] | Path | str,
    *,
    templates: str = "default",
    few_shot: int = 0,
    reasoning_tokens: int = 0,
    progress: Any = None,
) -> list[Judgement]:
    """Judge pairs of responses under every principle that applies, in both orders.

    Args:
        pairs: (prompt, a, b) tuples or mappings with "prompt" and "a", "b" or "chosen", "rejected"; each a
            text, or messages as chat templates take them. "tags" of a mapping are matched with `applies_to`.
        constitution: a constitution file, its content as a mapping, or a `Constitution`.
        model: the judge: a model's folder or hub id, the keys of a config's `feedback`, or an engine.
        templates: the template set.
        few_shot: how many of the principles' examples are shown before each question.
        reasoning_tokens: the most tokens of reasons before a verdict; 0 reads the verdict at once.
        progress: a progress bar: called with (what, total), it gives a context manager whose value is
            called with the number of verdicts that came since the last call.

    Returns:
        One `Judgement` a pair, in the order of the pairs.

    Raises:
        rlaif.errors.UserError: what is no pair, no constitution or no model.
    """
    rules, texts = _constitution(constitution), Templates.load(str(templates))
    few, reasons = _count("few_shot", few_shot), _count("reasoning_tokens", reasoning_tokens)
    questions = [question_of(pair, number, rules) for number, pair in enumerate(_pairs(pairs))]
    judge = Judge(_engine(model), texts, tuple(texts.comparison_shots(rules, few)), reasons, PAIRWISE)
    found: dict[str, dict[str, Label]] = {}
    with (progress or silent_progress)("verdicts", len(judge.expected_slots(questions))) as tick:
        for labels in judge.compare(questions):
            for label in labels:
                found.setdefault(label.comparison_id, {})[label.id] = label
            tick(len(labels))
    return [_judgement(q, list(found.get(q.comparison.id, {}).values()), rules) for q in questions]


def _judgement(question: JudgeQuestion, labels: Sequence[Label], constitution: Constitution) -> Judgement:
    said = {principle: p for (_, principle), p in combine_orders(labels).items()}
    p_a, deciding = aggregate(labels, constitution) or (None, None)
    return Judgement(
        question.prompt.messages[-1].content,
        question.a,
        question.b,
        p_a,
        deciding,
        {p.id: said.get(p.id) for p in question.principles},
        tuple(labels),
    )


def _constitution(given: Constitution | Mapping[str, Any] | Path | str) -> Constitution:
    if isinstance(given, Constitution):
        return given
    if isinstance(given, Mapping):
        return _valid(Constitution, given, "constitution")
    if isinstance(given, Path | str):
        return Constitution.load(find(str(given)))
    raise UserError(
        f"constitution: {type(given).__name__} is none.",
        "a file, its content as a mapping, or a Constitution",
    )


def _engine(given: Engine | ModelConfig | Mapping[str, Any] | Path | str) -> Engine:
    if isinstance(given, Path | str):
        return open_engine(ModelConfig(model=str(given)))
    if isinstance(given, Mapping):
        return open_engine(_valid(ModelConfig, given, "model"))
    if isinstance(given, ModelConfig):
        return open_engine(given)
    if not (hasattr(given, "score_choices") and hasattr(given, "fingerprint")):
        raise UserError(
            f"model: {type(given).__name__} is none.",
            "a model's folder or hub id, the keys of a config's `feedback`, or an engine",
        )
    return given


def _count(name: str, value: Any) -> int:
    """An option that counts something; raises UserError for what is no whole number from 0 on."""
    if not isinstance(value, int) or value < 0:
        raise UserError(f"{name}: {value!r}.", "a whole number from 0 on")
    return value


def _valid(kind: Any, given: Mapping[str, Any], what: str) -> Any:
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (what, *first["loc"])))
        raise UserError(f"{where}: {first['msg']}.", f"the keys of a {what} as its file has them") from None


def _pairs(given: Any) -> Iterable[Any]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise UserError(f"pairs: {type(given).__name__} is no list of pairs.", f"a list of {FORMS}")
    return given


def question_of(pair: Any, number: int, constitution: Constitution) -> JudgeQuestion:
    """The pair as the label stage asks about it; raises UserError for what is no pair."""
    where = f"pairs[{number}]"
    tags: Any = None
    if isinstance(pair, Mapping):
        names = ("a", "b") if "a" in pair else ("chosen", "rejected")
        missing = [name for name in ("prompt", *names) if name not in pair]
        if missing:
            raise UserError(f"{where}: no {' and no '.join(missing)}.", FORMS)
        given, tags = tuple(pair[name] for name in ("prompt", *names)), pair.get("tags")
    else:
        given = pair
    if isinstance(given, str | bytes) or not isinstance(given, Sequence) or len(given) != 3:
        raise UserError(f"{where}: {type(pair).__name__} is no pair of responses.", FORMS)
    labels = tags_of(list(tags) if isinstance(tags, Set) else tags)
    if labels is None:
        raise UserError(f"{where}: tags: {tags!r}.", "a list of texts, or a text with commas between them")
    messages = _usable(where, "prompt", _prompt(given[0]))
    a, b = (
        side if isinstance(side, str) else _usable(where, name, _response(side))[-1][1]
        for name, side in zip(("the first response", "the second response"), given[1:], strict=True)
    )
    try:
        turns = [{"role": role, "content": content} for role, content in messages]
        prompt = Prompt.model_validate({"messages": turns, "tags": labels})
        ids = [Response(prompt_id=prompt.id, text=text).id for text in (a, b)]
    except (ValidationError, ValueError):
        raise UserError(f"{where}: not valid Unicode text.", FORMS) from None
    comparison = Comparison(prompt_id=prompt.id, a=ids[0], b=ids[1])
    return JudgeQuestion(comparison, prompt, a, b, tuple(constitution.applicable(prompt.tags)))


def _usable(where: str, what: str, turns: Sequence[Turn] | Unusable) -> Sequence[Turn]:
    if isinstance(turns, Unusable):
        raise UserError(f"{where}: {what}: {turns}.", FORMS)
    return turns


def _prompt(given: Any) -> Sequence[Turn] | Unusable:
    """A prompt that is given as text, or as messages that end with the user's turn."""
    turns = turns_of(given)
    parts = turns if isinstance(turns, Unusable) else asked(turns)
    if isinstance(parts, Unusable):
        return parts
    return Unusable("the conversation ends with the assistant's turn") if parts[1] else parts[0]


def _response(given: Any) -> Sequence[Turn] | Unusable:
    """A response that is given as messages, of which the last one is it."""
    turns = turns_of(given)
    if isinstance(turns, Unusable) or turns[-1][0] == "assistant":
        return turns
    return Unusable(f"it ends with the {turns[-1][0]}'s turn")

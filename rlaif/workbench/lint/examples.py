"""Rules about a principle's examples: there are some, they differ, and the better response keeps the rule.

Whether an example keeps a rule is checked only where a program can: named words, how a response begins and
ends, question and exclamation marks, digits, lists, links, and how long it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rlaif.constitution import Example, Principle
from rlaif.workbench.lint.findings import Found, Subject, rule
from rlaif.workbench.lint.language import demands, forbids, one_of

LONGER = 1.5  # times as many words
Kept = Callable[[str], bool]


@rule("no-example", "note", "nothing tests the principle, and the critic gets no few-shot turn")
def no_example(subject: Subject) -> Iterator[Found]:
    """A principle without examples."""
    for loc, principle in subject.principles:
        if not principle.examples:
            yield Found((*loc, "id"), f'"{principle.id}" has no example')


@rule("same-responses", "error", "no judge can prefer one of two equal responses")
def same_responses(subject: Subject) -> Iterator[Found]:
    """An example whose better and worse response are the same."""
    for loc, principle, example in _examples(subject):
        if example.better.split() == example.worse.split():
            yield Found(
                (*loc, "worse"),
                f'"{principle.id}" has an example whose better and worse response are the same '
                f'("{example.prompt[:40]}")',
            )


@rule("empty-example", "error", "an example without one of its texts tests nothing")
def empty_example(subject: Subject) -> Iterator[Found]:
    """An example with an empty text."""
    for loc, principle, example in _examples(subject):
        for name in ("prompt", "better", "worse"):
            if not getattr(example, name).strip():
                yield Found((*loc, name), f'"{principle.id}" has an example with an empty text: {name}')


@rule("repeated-example", "warning", "it is tested twice and shown twice, and says nothing new")
def repeated_example(subject: Subject) -> Iterator[Found]:
    """An example that stands twice, in one principle or in two."""
    seen: dict[tuple[str, ...], str] = {}
    for loc, principle, example in _examples(subject):
        key = (*example.prompt.split(), "|", *example.better.split(), "|", *example.worse.split())
        if key in seen:
            message = (
                f'an example of "{principle.id}" stands in "{seen[key]}" already ("{example.prompt[:40]}")'
            )
            yield Found((*loc, "prompt"), message)
        seen.setdefault(key, principle.id)


@rule("contradicted-example", "warning", "the example tests, and shows the critic, the contrary of the rule")
def contradicted_example(subject: Subject) -> Iterator[Found]:
    """An example whose better response breaks the principle's words, as far as a program can tell."""
    for loc, principle, example in _examples(subject):
        for criterion in criteria(principle):
            if criterion.contradicts(example):
                yield Found(
                    (*loc, "better"), f'an example of "{principle.id}" contradicts it: {criterion.said}'
                )
                break


def _examples(subject: Subject) -> Iterator[tuple[tuple[str | int, ...], Principle, Example]]:
    for loc, principle in subject.principles:
        for index, example in enumerate(principle.examples):
            yield (*loc, "examples", index), principle, example


@dataclass(frozen=True)
class Criterion:
    """What a principle asks for and a program can check; `firm` where its words leave no exception."""

    said: str
    keeps: Kept | None  # None: of better and worse the shorter (negative: the longer) one keeps it
    negative: bool
    firm: bool

    def contradicts(self, example: Example) -> bool:
        """Whether the better response breaks it, and the worse one keeps it or there is no exception."""
        if self.keeps is None:
            short, long = (example.better, example.worse)[:: -1 if self.negative else 1]
            return len(short.split()) > LONGER * len(long.split()) > 0
        better, worse = (self.keeps(text) != self.negative for text in (example.better, example.worse))
        return not better and (worse or self.firm)


def criteria(principle: Principle) -> Iterator[Criterion]:
    """What of a principle's text and compare a program can check."""
    for text in filter(None, (principle.text, principle.compare)):
        for demand in demands(text):
            firm = not demand.condition and text is principle.text
            for pattern, said, kept in _CHECKS:
                if found := pattern.search(demand.text):
                    around = demand.text[: found.start()] + " … " + demand.text[found.end() :]
                    yield Criterion(f"{said} ({found[0].strip()})", kept(found), forbids(around), firm)
            lengths = {sign for name, sign in demand.qualities if name == "length"}
            if len(lengths) == 1 and _WHOLE.search(demand.text):
                asked = "short" if lengths == {-1} else "long"
                yield Criterion(f"it asks for a {asked} response", None, lengths == {1}, False)


_WHOLE = one_of(r"\b(?:reply|response|answer|be|stay|keep it|remain|one)\b")
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
_NUMBERED = {word: number for number, word in enumerate(_NUMBERS.split(), 1)} | {"a": 1, "an": 1, "single": 1}
_NUMBERED |= {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100}
_NUMBER = rf"(\d+|{'|'.join(_NUMBERED)})"
_UNIT = r"(words?|sentences?|lines?|paragraphs?|characters?)"
_QUOTED = r"[\"'“‘«]([^\"'”’»]{1,40})[\"'”’»]"
# What says that the whole response is meant.
_LASTS = (
    r"\b(?:(?:be|have|use|contain|consist of|stay|run to|take|fit)|"
    r"(?:answer|repl(?:y|ies)|respond)s? in) (?:(?!no\b|not\b)\w+ )??"
)


def _count(text: str, unit: str) -> int:
    if unit.startswith("word"):
        return len(text.split())
    if unit.startswith("sentence"):
        return len(re.findall(r"[.!?…]+(?=\s|[\"'”’)]|$)", text.strip())) or 1
    if unit.startswith("line"):
        return len([line for line in text.splitlines() if line.strip()])
    if unit.startswith("paragraph"):
        return len([part for part in re.split(r"\n\s*\n", text) if part.strip()])
    return len(text)


def _number(word: str) -> int:
    return int(word) if word.isdecimal() else _NUMBERED[word.lower()]


def _at_most(found: re.Match[str]) -> Kept:
    limit, unit = _number(found[1]), found[2].lower()
    return lambda text: _count(text, unit) <= limit


def _at_least(found: re.Match[str]) -> Kept:
    limit, unit = _number(found[1]), found[2].lower()
    return lambda text: _count(text, unit) >= limit


def _more_than(found: re.Match[str]) -> Kept:
    limit, unit = _number(found[1]), found[2].lower()
    return lambda text: _count(text, unit) > limit


def _has_word(found: re.Match[str]) -> Kept:
    word = next(group for group in found.groups() if group).strip().rstrip(".,")
    return lambda text: bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.I))


def _has(pattern: str) -> Callable[[re.Match[str]], Kept]:
    compiled = one_of(pattern)
    return lambda _: lambda text: bool(compiled.search(text))


def _begins(found: re.Match[str]) -> Kept:
    return lambda text: re.sub(r"^\W+", "", text).lower().startswith(found[1].lower().strip(" .!,"))


def _ends(found: re.Match[str]) -> Kept:
    return lambda text: re.sub(r"\W+$", "", text).lower().endswith(found[1].lower().strip(" .!,?"))


_AN = r"(?:an?|any|one|at least one|exactly one) (?:\w+ ){0,2}"
# (words, what they are about, the check that they make)
_CHECKS: tuple[tuple[re.Pattern[str], str, Callable[[re.Match[str]], Kept]], ...] = (
    (
        one_of(rf"\bthe (?:word|phrase|name|expression|term)s? (?:{_QUOTED}|([\w-]+))"),
        "it names a word",
        _has_word,
    ),
    (one_of(rf"\b(?:use|say|contain|mention|include|write)s? {_QUOTED}"), "it names a word", _has_word),
    (one_of(rf"\b(?:begin|start|open)s? with (?:the words? )?{_QUOTED}"), "it says how to begin", _begins),
    (one_of(rf"\b(?:end|finish|close)s? with (?:the words? )?{_QUOTED}"), "it says how to end", _ends),
    (
        one_of(rf"\b(?:end|finish|close|conclude)s? (?:with|on|in|by asking) {_AN}question\b"),
        "it says how to end",
        _has(r"\?[\"'”’)\s]*\Z"),
    ),
    (
        one_of(rf"\b(?:begin|start|open)s? (?:with|by asking) {_AN}question\b"),
        "it says how to begin",
        _has(r"\A[^.!]*\?"),
    ),
    (
        one_of(
            rf"\b(?:ask|pose|contain|include)s? (?:the user |them |back )?{_AN}questions?\b",
            r"\bask (?:the user )?(?:any )?questions\b",
        ),
        "it is about questions",
        _has(r"\?"),
    ),
    (one_of(r"\bexclamation (?:mark|point)s?\b"), "it is about exclamation marks", _has("!")),
    (one_of(r"\bquestion marks?\b"), "it is about question marks", _has(r"\?")),
    (
        one_of(r"\bemojis?\b|\bemoticons?\b"),
        "it is about emojis",
        _has("[\u2600-\u27bf\U0001f300-\U0001faff]|[:;]-?[)(D]"),
    ),
    (one_of(r"\bdigits?\b|\bnumerals\b"), "it is about digits", _has(r"\d")),
    (
        one_of(r"\b(?:bullet|bulleted|numbered)[ -](?:points?|lists?)\b|\bbullets\b"),
        "it is about lists",
        _has(r"^\s*(?:[-*•]|\d+[.)])\s"),
    ),
    (one_of(r"\b(?:links?|urls?|web addresses)\b"), "it is about links", _has(r"https?://|www\.|\]\(")),
    (
        one_of(r"\b(?:all caps|capitals|capital letters|upper[- ]?case|block letters)\b"),
        "it is about capitals",
        lambda _: lambda text: bool(re.search(r"\b[A-Z]{4,}\b", text)),
    ),
    (
        one_of(r"\b(?:apologi[sz]es?|say sorry|an apology|apologies)\b"),
        "it is about apologies",
        _has(r"\bsorry\b|\bapolog"),
    ),
    (one_of(r"\bcode blocks?\b"), "it is about code blocks", _has("```")),
    (one_of(r"\b(?:parentheses|brackets)\b"), "it is about brackets", _has(r"[()\[\]]")),
    (
        one_of(
            rf"{_LASTS}(?:at most|no more than|not more than|up to|a maximum of|within|fewer than|under|"
            rf"no longer than) {_NUMBER} {_UNIT}"
        ),
        "it sets a limit",
        _at_most,
    ),
    (
        one_of(
            rf"{_LASTS}(?:exactly |only |just )?{_NUMBER} {_UNIT}(?: (?:long|or (?:less|fewer)))?(?=[.,;]|$)"
        ),
        "it sets a limit",
        _at_most,
    ),
    (
        one_of(rf"{_LASTS}(?:at least|no fewer than|no less than|a minimum of) {_NUMBER} {_UNIT}"),
        "it sets a limit",
        _at_least,
    ),
    (
        one_of(rf"(?:{_LASTS}(?:more than|over|longer than)|\bexceed) {_NUMBER} {_UNIT}"),
        "it sets a limit",
        _more_than,
    ),
)

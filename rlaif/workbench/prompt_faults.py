"""What models write where a prompt was asked for: one prompt, or something else; and whether it is a new one.

Patterns over English text, as in `rlaif.refusals`: what they do not know stays. Near duplicates are found by
the words that two prompts have in common, in order.
"""

from __future__ import annotations

import re
from collections import defaultdict

from rlaif.refusals import opens_with_refusal
from rlaif.similarity import PROMPTS
from rlaif.similarity import words as words_of

MOST_WORDS = 150
COPIED = 8  # words in a row that are no accident
_PREAMBLE = re.compile(
    r"\s*(?:(?:sure|certainly|of course|okay|ok|absolutely)[,!.]?\s+)?"
    r"(?:here(?:['’]s| is)\s+(?:a|an|one|the|your)\b[^:\n]{0,60}:|[*#]{0,3}\s*"
    r"(?:user(?:['’]s)?|human|prompt|message)(?: (?:message|prompt))?\s*[*]{0,2}:)[*]{0,2}\s*(?=\S)",
    re.I,
)
_TURN = re.compile(r"(?:^|\n)\s*[*#]{0,3}(?:the )?(?:assistant|ai|response|reply|answer)[*]{0,2}\s*:", re.I)
_USER_TURN = re.compile(r"(?:^|\n)\s*[*#]{0,3}(?:user|human|prompt|message)(?: \d+)?[*]{0,2}\s*:", re.I)
_ITEM = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+(\S.*)$", re.M)
_ANSWER = re.compile(
    r"\W*(?:as an? (?:[\w-]+ )?(?:ai|assistant|language model)\b|"
    r"i(?:['’]m| am) (?:an ai|a language model|just an|(?:ready|here|happy|glad) to (?:help|assist))|"
    r"(?:sure|certainly|absolutely|of course)[,!]|great question\b|"
    r"thank you for (?:asking|your (?:question|message|request))|"
    r"i(?:['’]d| would) be (?:happy|glad) to|happy to help|here(?:['’]s| are| is) "
    r"(?:how (?:you|to)|some|a few|the (?:steps|answer|best))|"
    r"it(?:['’]s| is) (?:important|essential|crucial) to (?:note|remember))",
    re.I,
)
_EXPLAINS = re.compile(
    r"\b(?:this|the) (?:message|prompt|question) "
    r"(?:tests?|tempts?|goes against|is (?:designed|meant)|would (?:tempt|test|make)|brings?|sets?|plays?)\b|"
    r"\b(?:breaks|keeps|violates|follows) (?:the|this|both) (?:first |other )?rules?\b|"
    r"\b(?:both|the (?:two|first|second|other|other two)) rules?\b|"
    r"\bthe assistant (?:will|would|should|must|is|has|never)\b|"
    r"\bthis (?:response|reply) |\bthe (?:response|reply) (?:would|should|must)\b",
    re.I,
)
_RETELLS = re.compile(r"\W*(?:the|this) user\b|.*\bthe user['’]s (?:request|message)\b", re.I | re.S)
_ORDERS = re.compile(
    r"\bwrite (?:only the|one|an?) (?:user['’]s message|message of a user)\b|"
    r"\bwrite (?:only the|one) message\b|\btempts? the assistant\b|"
    r"\bno (?:introduction|quotation marks)\b|\bone[ -]to[ -]four[ -]sentences?\b",
    re.I,
)


def as_prompt(text: str) -> str:
    """A written text without "Here is a message:" and quotation marks around all of it."""
    text = _PREAMBLE.sub("", text.strip(), count=1).strip()
    if len(text) > 2 and text[0] + text[-1] in ('""', "“”") and not set(text[1:-1]) & set('"“”'):
        text = text[1:-1].strip()
    return text


def fault_of(text: str, asked: str, rules: tuple[str, ...] = ()) -> str | None:
    """Why a text is no prompt, None where it may be one.

    `asked` is the instruction it was written for, `rules` the texts of the principles in it.
    """
    if not re.search(r"\w", text):
        return "empty"
    if len(text.split()) > MOST_WORDS:
        return f"longer than {MOST_WORDS} words"
    if _several(text):
        return "several prompts in one"
    if _TURN.search(text):
        return "a response beside the prompt"
    if opens_with_refusal(text):
        return "a refusal to write one"
    if _ANSWER.match(text):
        return "an answer instead of a prompt"
    if _ORDERS.search(text) or _copies(text, asked) or _names(text, rules):
        return "repeats the instruction"
    if _RETELLS.match(text):
        return "tells of the user instead of speaking as one"
    return "explains itself" if _EXPLAINS.search(text) else None


def _several(text: str) -> bool:
    """Whether it lists prompts: turns of users, or items that are questions or sentences to somebody."""
    if len(_USER_TURN.findall(text)) > 1:
        return True
    items = _ITEM.findall(text)
    asks = sum(item.rstrip(' "”*').endswith("?") for item in items)
    return len(items) > 1 and (asks > 1 or text.lstrip().startswith(("1.", "1)")))


def _copies(text: str, asked: str) -> bool:
    known = words_of(asked)
    grams = {tuple(known[i : i + COPIED]) for i in range(len(known) - COPIED + 1)}
    words = words_of(text)
    return any(tuple(words[i : i + COPIED]) in grams for i in range(len(words) - COPIED + 1))


def _names(text: str, rules: tuple[str, ...]) -> bool:
    """Whether a whole rule stands in it, one of fewer words than `COPIED` included."""
    said = f" {' '.join(words_of(text))} "
    return any(f" {' '.join(words_of(rule))} " in said for rule in rules if len(words_of(rule)) > 2)


class Known:
    """The prompts that there are, by their words, so that the like of a new one is found among many."""

    def __init__(self) -> None:
        self.texts: list[list[str]] = []
        self.by_word: defaultdict[str, list[int]] = defaultdict(list)
        self.exact: set[tuple[str, ...]] = set()

    def add(self, text: str) -> None:
        """Take a prompt."""
        words = words_of(text)
        if tuple(words) not in self.exact:
            self.exact.add(tuple(words))
            for word in set(words):
                self.by_word[word].append(len(self.texts))
            self.texts.append(words)

    def fault_of(self, text: str) -> str | None:
        """Why a prompt is not new, None where it is."""
        words = words_of(text)
        if tuple(words) in self.exact:
            return "repeats another prompt"
        return (
            "nearly repeats another prompt" if any(self._near(words, i) for i in self._like(words)) else None
        )

    def _like(self, words: list[str]) -> set[int]:
        """The prompts that can be near: a near one has most of the words, so one of the rarest few."""
        # With fewer of the words in common the share cannot reach the bound.
        least = PROMPTS.least / (2 - PROMPTS.least)
        few = len(words) - int(least * len(words)) + 1
        rarest = sorted(words, key=lambda word: (len(self.by_word.get(word, ())), word))[:few]
        return {number for word in rarest for number in self.by_word.get(word, ())}

    def _near(self, words: list[str], number: int) -> bool:
        return PROMPTS.alike(words, self.texts[number])

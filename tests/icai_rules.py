"""Candidate principles for the real ICAI pairs, each with a check that a program can make of two texts.

No model reads them: a judge that can be checked stands in for one, so that what is tested is which candidates
are found, and not how well a model reads a principle.
"""

import re

from rlaif.engines import Scripted

KNOWN = {
    "truthful": ("Prefer the reply that states the true capital.", r"^(?!.*Paris (is|was)).*Washington"),
    "specific": (
        "Prefer the reply that names a place to travel to.",
        r"\b(city|town|island|castle|coast|Lake)\b",
    ),
    "willing": ("Prefer the reply that helps without a grudge.", r"(?i)^(?!.*\b(guess|have to|can't)\b)"),
    "cats": ("Prefer stories about cats.", r"(?i)\bcats?\b"),
    "blue": ("Prefer the colour blue.", r"(?i)^\W*(?!.*green).*\bblue\b"),
    "lemon": ("Prefer the flavour lemon.", r"(?i)\blemon\b"),
}
OTHERS = {
    "exclaims": ("Prefer replies with an exclamation mark.", r"!"),
    "asks": ("Prefer replies that ask something.", r"\?"),
    "names": ("Prefer replies that name Sarah.", r"Sarah"),
    "history": ("Prefer replies about history.", r"(?i)histor"),
    "dogs": ("Prefer stories about dogs.", r"(?i)\bdogs?\b"),
    "raspberry": ("Prefer the flavour raspberry.", r"(?i)raspberry"),
    "green": ("Prefer the colour green.", r"(?i)\bgreen\b"),
    "refreshing": ("Prefer what is refreshing.", r"(?i)refresh"),
    "quoted": ("Prefer replies with quotation marks.", r"[\"“]"),
    "numbers": ("Prefer replies with a number.", r"\d"),
}
CHECKS = dict((KNOWN | OTHERS).values())


def keeps(rule: str, text: str) -> bool:
    return re.search(CHECKS[rule], text, re.S) is not None


def score(messages: list[dict[str, str]], suffix: str, choices: tuple[str, ...]) -> list[float]:
    rule = re.findall(r"Rule: (.*)", suffix)[-1]
    a, b = (
        re.findall(rf"Reply {name}:(.*?)(?=\nReply|\nRule|\Z)", messages[-1]["content"], re.S)[-1]
        for name in "AB"
    )
    lead = keeps(rule, a) - keeps(rule, b)
    return [0.5 + 0.45 * lead, 0.5 - 0.45 * lead]


def judge() -> Scripted:
    return Scripted(on_score=score, name="checks")

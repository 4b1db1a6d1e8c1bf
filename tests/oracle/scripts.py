"""A judge, a critic and a gold scorer over rules that any text keeps or breaks by chance, and that are often
hard.

The rules are about the count of words and letters, so that a random policy keeps each in about half of its
responses. The judge errs, flips with the order, calls ties, refuses and returns NaN, all by a hash of what it
is shown.
"""

import hashlib
import re

from rlaif.engines import GenerateRequest, Scripted

RULES = {
    "even": ("The number of words must be even.", lambda text: len(text.split()) % 2 == 0),
    "short": ("There must be fewer than four words.", lambda text: len(text.split()) < 4),
    "no-digit": ("There must be no digit 7.", lambda text: "7" not in text),
    "facts-only": ("There must be no letter o.", lambda text: "o" not in text),
}


def chance(*parts: object) -> float:
    """A number in [0, 1) fixed by the parts."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 2**32


PARAPHRASED = " Really."  # how another wording of a rule ends


def keeps(rule: str, text: str) -> bool:
    words = rule.removesuffix(PARAPHRASED)
    return next(check for known, check in RULES.values() if known == words)(text)


def shown(messages: list[dict[str, str]], name: str) -> str:
    """The text after `name:` in the last turn, up to the next line the template begins."""
    text = messages[-1]["content"]
    return re.findall(rf"{name}:(.*?)(?=\n(?:Reply|Rule|Critique)|\Z)", text, re.S)[-1].strip()


def complies(rule: str, text: str) -> list[float]:
    """P(Yes), P(No) that a response keeps a rule, both 0 where the judge refuses."""
    if chance("unread", rule, text) < 0.1:
        return [0.0, 0.0]
    p = 0.9 if keeps(rule, text) != (chance("wrong", rule, text) < 0.1) else 0.2
    return [0.8 * p, 0.8 * (1 - p)]


def prefers(rule: str, first: str, second: str) -> list[float]:
    """P(A), P(B) of two responses in the order in which they are shown; some pairs are refused whatever the
    rule."""
    luck = chance("pair", rule, first, second)
    if luck < 0.05 or chance("refused", *sorted((first, second))) < 0.1:
        return [0.001, 0.001]
    if luck < 0.08:
        return [float("nan"), float("nan")]
    lead = 0.2 * (keeps(rule, first) - keeps(rule, second)) + 0.6 * (luck - 0.5) + 0.06
    return [0.9 * (0.5 + min(lead, 0.49)), 0.9 * (0.5 - min(lead, 0.49))]


def judge(messages: list[dict[str, str]], suffix: str, choices: tuple[str, ...]) -> list[float]:
    rule = re.findall(r"Rule: (.*)", suffix)[-1]
    if choices == ("Yes", "No"):
        return complies(rule, shown(messages, "Reply"))
    return prefers(rule, shown(messages, "Reply A"), shown(messages, "Reply B"))


def write(request: GenerateRequest) -> str:
    text = request.messages[-1]["content"]
    if "Which reply is better" in text:
        return "A"
    response = shown(request.messages, "Reply")
    if text.rstrip().endswith("Critique:") or "Critique:" not in text:
        return "Too many words." if chance("critic", response) < 0.8 else "I cannot help with that."
    return " ".join(response.split()[1:]) or "it is good"


def feedback() -> Scripted:
    return Scripted(on_generate=write, on_score=judge, name="feedback")


def scribble(request: GenerateRequest) -> str:
    """A few words, sentences or a list, by chance."""
    luck = chance("scribble", request.messages[-1]["content"], request.seed)
    words = ["no", "yes", "7", "fine. And", "rain", "cold\n- warm", "now", "- it"]
    return " ".join(words[int(chance(luck, n) * 8)] for n in range(1 + int(luck * 6)))


def policy() -> Scripted:
    return Scripted(on_generate=scribble, name="policy")


def gold(messages: list[dict[str, str]], response: str, principles: list[dict[str, str]]) -> dict[str, bool]:
    """Answers only for rules that it knows, and for `facts-only` only where the prompt asks for a fact."""
    asks_fact = "fact" in messages[-1]["content"]
    return {
        p["id"]: keeps(p["text"], response)
        for p in principles
        if p["id"] in RULES and (p["id"] != "facts-only" or asks_fact)
    }

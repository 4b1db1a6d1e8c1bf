"""Scripted models for tests: a policy that writes words by chance, a critic and judge that know the rules.

Rules are texts of the form "Never say WORD."; a response breaks one by containing the word.
"""

import os
import random
import re
import signal
import time

from rlaif.engines import GenerateRequest, Scripted

WORDS = ("rude", "wrong", "nice", "day", "sun", "rain")


def forbidden(text: str) -> str:
    found = re.findall(r"Rule: Never say (\w+)", text)
    return found[-1] if found else ""


def kill_after(counter: str) -> None:
    """SIGKILL this process at the call whose number stands in the environment: a pulled plug, at a chosen
    moment."""
    limit = os.environ.get(f"KILL_{counter}")
    if limit is not None:
        CALLS[counter] = CALLS.get(counter, 0) + 1
        if CALLS[counter] >= int(limit):
            os.kill(os.getpid(), signal.SIGKILL)


CALLS: dict[str, int] = {}


def write_response(request: GenerateRequest) -> str:
    kill_after("SAMPLE")
    time.sleep(float(os.environ.get("SLOW", 0)))
    rng = random.Random(request.seed)
    return " ".join(rng.choices(WORDS, k=5))


def write_feedback(request: GenerateRequest) -> str:
    kill_after("CRITIQUE")
    text = request.messages[-1]["content"]
    if "Which reply is better" in text:
        return "A"
    response = re.findall(r"Reply: (.*)", text)[-1]
    word = forbidden(text)
    if "Critique:" in text:
        return " ".join("sun" if w == word else w for w in response.split())
    return f"It says {word}." if word in response.split() else "It keeps the rule."


def judge(messages: list[dict[str, str]], suffix: str, choices: tuple[str, ...]) -> list[float]:
    kill_after("LABEL")
    text, word = messages[-1]["content"], forbidden(suffix)
    if choices == ("Yes", "No"):
        bad = word in re.findall(r"Reply: (.*)", text)[-1].split()
        return [0.1, 0.8] if bad else [0.8, 0.1]
    a, b = (word in re.findall(rf"Reply {side}: (.*)", text)[-1].split() for side in "AB")
    return [0.45, 0.45] if a == b else ([0.09, 0.81] if a else [0.81, 0.09])


def policy() -> Scripted:
    return Scripted(on_generate=write_response, name="policy")


def feedback() -> Scripted:
    return Scripted(on_generate=write_feedback, on_score=judge, name="feedback")


def biased_judge() -> Scripted:
    """Prefers whatever stands first, and says nothing of use outside A and B."""
    return Scripted(on_generate=write_feedback, on_score=lambda m, s, c: [0.3, 0.1], name="biased")


def gold(messages: list[dict[str, str]], response: str, principles: list[dict[str, str]]) -> dict[str, bool]:
    return {p["id"]: re.findall(r"Never say (\w+)", p["text"])[0] not in response.split() for p in principles}


def annotate(messages, responses, principles, seed, **options) -> list[int]:
    broken = [
        sum(not kept for kept in gold(messages, response, principles).values()) for response in responses
    ]
    return [sorted(set(broken)).index(b) + 1 for b in broken]

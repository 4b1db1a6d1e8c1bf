"""The playground judge's questions and the transformers engine's verdicts on them, for both ways to a real
vLLM.

Run by `make test-vllm` in an environment of its own; see requirements.txt beside this file.
"""

import os
from random import Random

import pytest

from rlaif.config import ASSETS, ModelConfig
from rlaif.constitution import Constitution
from rlaif.engines import Engine, ScoreRequest, Scores, open_engine
from rlaif.playground import FEEDBACK
from rlaif.playground.grammar import EVEN, sample_question, sample_response
from rlaif.prompting.templates import Templates

PAIRS = 40
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; a model of a million parameters needs no more


@pytest.fixture(scope="session")
def requests() -> list[ScoreRequest]:
    """Pairs of playground responses, each with every principle: 40 × 7 questions."""
    templates, rng = Templates.load("brief"), Random("vllm")
    principles = Constitution.load(ASSETS / "constitutions" / "playground.yaml").principles
    suffixes = tuple(templates.comparison_suffix(p) for p in principles)
    asked = []
    for _ in range(PAIRS):
        question = sample_question(rng)
        a, b = (sample_response(rng, question, EVEN) for _ in "ab")
        chat = templates.comparison(question.messages, a, b)
        asked.append(ScoreRequest(chat, suffixes, ("A", "B")))
    return asked


@pytest.fixture(scope="session")
def reference(requests: list[ScoreRequest]) -> list[Scores]:
    engine = open_engine(ModelConfig(model=str(FEEDBACK), device="cpu"))
    return in_order(engine, requests)


def in_order(engine: Engine, requests: list[ScoreRequest]) -> list[Scores]:
    found = list(engine.score_choices(requests))
    assert sorted(index for index, _ in found) == list(range(len(requests)))
    return [scores for _, scores in sorted(found, key=lambda pair: pair[0])]


def agree(found: list[Scores], reference: list[Scores]) -> None:
    """Within 2e-2 in probability everywhere, the same choice in 99.5 %, and the same captured mass."""
    places = [
        (scores, other, s)
        for scores, other in zip(found, reference, strict=True)
        for s in range(len(other.logprobs))
    ]
    assert len(places) >= 200
    pairs = [(x.probability(s)[0], y.probability(s)[0]) for x, y, s in places]
    worst = max(abs(x - y) for x, y in pairs)
    same = sum((x > 0.5) == (y > 0.5) for x, y in pairs) / len(pairs)
    mass = max(abs(x.answer_mass(s) - y.answer_mass(s)) for x, y, s in places)
    decided = sum(abs(y - 0.5) > 0.2 for _, y in pairs)
    print(
        f"{len(pairs)} verdicts ({decided} decided): worst {worst:.1e}, same choice {same:.4f}, mass "
        f"{mass:.1e}"
    )
    assert decided >= 50
    assert worst <= 2e-2
    assert same >= 0.995
    assert mass <= 2e-2

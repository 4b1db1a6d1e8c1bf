"""Labels of the playground's pairs by its truth plus noise, under principles whose relations are planted."""

import math
from random import Random

from rlaif.constitution import Constitution
from rlaif.playground import world
from rlaif.playground.grammar import EVEN, sample_question, sample_response
from rlaif.playground.wordings import KINDS, SEEN
from rlaif.records import Annotator, Comparison, Label, Prompt, Response, verdict_of

JUDGE = Annotator(kind="ai", id="planted")
WORD = "garden"


def constitution(**texts: str) -> Constitution:
    """The playground's seven principles and others, by id."""
    own = {kind: SEEN[kind][0].format(x=WORD) for kind in KINDS}
    rows = [{"id": name, "text": text} for name, text in (own | texts).items()]
    return Constitution.model_validate({"name": "planted", "principles": rows})


def pair(
    rng: Random, number: int = 0
) -> tuple[Prompt, Comparison, dict[str, int], tuple[Response, Response]]:
    """A prompt, a comparison, by kind the better side (1, 0 or −1), and both responses; those of another
    number are others, though they say the same."""
    question = sample_question(rng)
    texts = [sample_response(rng, question, EVEN, WORD) for _ in range(2)]
    prompt = Prompt.model_validate({"messages": question.messages, "group": question.group})
    a, b = (Response(prompt_id=prompt.id, text=text, index=2 * number + n) for n, text in enumerate(texts))
    better = {
        kind: world.keeps(kind, question, texts[0], WORD) - world.keeps(kind, question, texts[1], WORD)
        for kind in KINDS
    }
    return prompt, Comparison(prompt_id=prompt.id, a=a.id, b=b.id), better, (a, b)


def vote(comparison: Comparison, for_a: bool) -> Label:
    """A person's verdict on the whole comparison."""
    return Label(
        comparison_id=comparison.id,
        annotator=Annotator(kind="human", id="ann"),
        p_a=float(for_a),
        verdict="a" if for_a else "b",
    )


def label(
    comparison: Comparison, principle: str | None, side: float, rng: Random, noise: float = 0.8
) -> Label:
    """A verdict for a side (1 for a, 0 for a tie) as a judge's logit with noise gives it."""
    p = 1 / (1 + math.exp(-(3.0 * side + rng.gauss(0, noise))))
    return Label(
        comparison_id=comparison.id, annotator=JUDGE, principle_id=principle, p_a=p, verdict=verdict_of(p)
    )

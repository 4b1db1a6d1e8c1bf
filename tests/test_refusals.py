"""The classifier of refusals, on sentences written before its patterns and on the playground's own
responses."""

from random import Random

import pytest
from scipy.stats import binomtest

from rlaif.playground import grammar, world
from rlaif.refusals import opens_with_refusal, refuses
from tests.growth import assert_linear
from tests.refusal_sentences import ANSWERING, DEVELOPMENT, REFUSING


def measured(rows: list[tuple[bool, str]]) -> tuple[tuple[float, int], tuple[float, int]]:
    """(precision, of how many) and (recall, of how many), printed with Wilson's intervals."""
    found = [(truth, refuses(text)) for truth, text in rows]
    hits = sum(truth and said for truth, said in found)
    named, true = sum(said for _, said in found), sum(truth for truth, _ in found)
    for name, n in (("precision", named), ("recall", true)):
        ci = binomtest(hits, n).proportion_ci(method="wilson")
        print(f"{name} {hits / n:.3f} [{ci.low:.3f}, {ci.high:.3f}] of {n}")
    return (hits / named, named), (hits / true, true)


def test_precision_and_recall_on_sentences_written_before_the_patterns():
    rows = [(True, s) for s in REFUSING] + [(False, s) for s in ANSWERING]
    assert len(rows) >= 200
    (precision, _), (recall, _) = measured(rows)
    assert precision >= 0.9
    assert recall >= 0.9


def test_precision_and_recall_on_the_playgrounds_responses():
    rng, rows = Random(0), []
    for _ in range(2000):
        response = grammar.sample_response(rng, grammar.sample_question(rng))
        rows.append((world.REFUSAL.search(response) is not None, response))
    (precision, _), (recall, _) = measured(rows)
    assert precision >= 0.9
    assert recall >= 0.9


@pytest.mark.parametrize(("truth", "text"), DEVELOPMENT)
def test_sentences_the_patterns_were_written_on(truth: bool, text: str):
    assert refuses(text) == truth


def test_what_a_text_quotes_is_no_refusal_of_its_own():
    assert not opens_with_refusal('Reply A says "I cannot help." Reply B helps.')
    assert not refuses("“I must decline”, said the clerk.")
    assert refuses("Paris is nice. I cannot help with the rest.")
    assert not opens_with_refusal("Paris is nice. I cannot help with the rest.")


@pytest.mark.parametrize(
    "piece", ["I ", "“", "'a ", "I would ", "can't ", "sorry no ", "not something ", "‘a ", '"', "unable to "]
)
def test_a_long_text_is_read_in_time(piece: str):
    assert_linear(refuses, piece * (40_000 // len(piece)))

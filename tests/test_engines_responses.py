"""What is read from a server's answer: the model it names, the mass of its tokens."""

import math

import pytest

from rlaif.engines.responses import same_model, sum_variants


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("openai/gpt-4o", "gpt-4o-2024-08-06", True),
        ("GPT-4o", "gpt-4o", True),
        ("gpt-4", "gpt-4-0613", True),
        ("mistral-large", "mistral-large-2407", True),
        ("pro-1.5", "pro-1.5-002", True),
        ("sonnet", "sonnet@20240620", True),
        ("sonnet-latest", "sonnet-20241022", True),
        ("flash-preview", "flash-preview-05-20", True),
        ("org/Model-7B", "Model-7B", True),
        ("models/judge/", "judge", True),
        ("llama3", "llama3:latest", True),
        ("llama3:latest", "llama3", True),
        ("org/m:free", "org/m", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("judge", "tiny-chat", False),
        ("qwen-7b", "qwen-72b", False),
        ("gpt-4", "gpt-4.1", False),
        ("gpt-4", "gpt-41", False),
        ("llama-3", "llama-3-70", False),
        ("llama-3", "llama-3-405", False),
        ("m", "m-1000", False),
        ("llama3:8b", "llama3:70b", False),
    ],
)
def test_same_model(asked: str, answered: str, same: bool):
    assert same_model(asked, answered) == same


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ([("Yes", 0.5), (" Yes", 0.2), ("No", 0.1)], (0.7, 0.1)),
        ([("Y", 0.5), ("No", 0.25), ("Maybe", 0.05)], (0.5, 0.25)),  # the beginning of one choice alone
        ([("Yes", 0.9), ("Hm", 0.06)], (0.9, 0.04)),  # the most that is left
        ([("Yes", 0.5), ("Hm", 0.1)], (0.5, 0.1)),  # no more than the last of the list
    ],
)
def test_sum_variants(top: list[tuple[str, float]], expected: tuple[float, ...]):
    summed = sum_variants([(t, math.log(p)) for t, p in top], ("Yes", "No"))
    assert [math.exp(x) for x in summed] == pytest.approx(expected)


def test_a_token_that_begins_two_choices_counts_for_none():
    assert sum_variants([("1", math.log(0.5))], ("10", "11")) == ()
    one, ten = sum_variants([("1", math.log(0.5)), ("10", math.log(0.3))], ("1", "10"))
    assert (math.exp(one), math.exp(ten)) == (pytest.approx(0.5), pytest.approx(0.3))


def test_a_rating_of_one_is_not_told_from_the_beginning_of_ten():
    scale = tuple(map(str, range(1, 11)))
    assert sum_variants([("1", math.log(0.9)), ("7", math.log(0.05))], scale) == ()
    clear = sum_variants([("7", math.log(0.8)), ("1", math.log(0.1))], scale)
    assert math.exp(clear[6]) == pytest.approx(0.8)
    assert max(math.exp(clear[0]), math.exp(clear[9])) <= 0.1

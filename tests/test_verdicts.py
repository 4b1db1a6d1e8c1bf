"""Written verdicts: what announces one is read, nothing is read the wrong way round, nothing is made up."""

from collections import Counter

import pytest

from rlaif.engines.verdicts import parse_choice
from tests.growth import assert_linear
from tests.verdict_texts import DESIGN, FROZEN, Row
from tests.verdict_texts_again import AGAIN, OTHER


def outcomes(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows by what became of them: read, missed (announced), unread, inverted or invented."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        _, announced, reading, text = row
        got = parse_choice(text, ("A", "B"))
        if got is None:
            kind = "missed" if announced else "unread"
        else:
            kind = "read" if got == reading else "inverted" if reading else "invented"
        found.setdefault(kind, []).append(row)
    return found


@pytest.mark.parametrize("rows", [DESIGN, FROZEN, AGAIN], ids=["design", "frozen", "again"])
def test_no_verdict_is_inverted_or_invented_and_nine_in_ten_announced_ones_are_read(rows: list[Row]):
    found = outcomes(rows)
    print(Counter({kind: len(of) for kind, of in found.items()}))
    assert not found.get("inverted")
    assert not found.get("invented")
    assert all(announced for _, announced, *_ in found["read"]), "what announces no verdict is none"
    announced = sum(row[1] for row in rows)
    assert len(found["read"]) >= 0.9 * announced, found["missed"]


@pytest.mark.parametrize(("choices", "worst", "reading", "text"), OTHER)
def test_other_questions(choices: tuple[str, ...], worst: bool, reading: str | None, text: str):
    assert parse_choice(text, choices, worst=worst) == reading


@pytest.mark.parametrize(
    "text",
    [
        f"reply {' ' * 200_000}x",
        "Reply A or B, " * 20_000,
        "A" * 19_000,
        "A > " * 5_000,
        "so " * 6_000,
        "[[" * 9_000,
        '{"answer": ' + "[" * 15_000,
        "'a b" * 5_000,
        "Answer: " * 2_400,
        "\n" * 19_000,
        "I think the better " * 1_000,
        "*_" * 9_000,
    ],
)
def test_a_long_answer_is_read_in_no_time(text: str):
    assert parse_choice(text, ("A", "B")) is None
    assert_linear(lambda part: parse_choice(part, ("A", "B")), text)


def test_a_cut_answer_is_read_up_to_its_last_sentence():
    assert parse_choice("Answer: A", ("A", "B")) == "A"
    assert parse_choice("Answer: A", ("A", "B"), cut=True) is None
    assert parse_choice("A\n\nReply A follows the rule, while reply B is", ("A", "B"), cut=True) == "A"

"""The run of the oracles holds what it is made for, and the oracles find a figure that is wrong or that
nobody checks."""

from collections import Counter, defaultdict

import pytest

from tests.oracle.leaves import check, check_words
from tests.oracle.rows import Rows


def test_the_content_is_awkward(rows: Rows) -> None:
    reasons = Counter(row.get("reason") for row in rows.labels)
    assert reasons["refused"] > 10
    assert reasons["not a number"] > 2
    assert any(p is None for policy in rows.policy_responses for p in rows.against_base(policy).values()), (
        "every pair is read"
    )
    votes = defaultdict(set)
    for row in rows.labels:
        if row["annotator"]["kind"] == "human":
            votes[row["comparison_id"]].add(row["verdict"])
    assert {"a", "b", "tie", "abstain"} <= set().union(*votes.values())
    assert any({"a", "b"} <= said for said in votes.values()), "people never disagree"
    sampled = [row for row in rows.responses.values() if row.get("token_ids")]
    again = [rows.tokenizer(row["text"], add_special_tokens=False)["input_ids"] for row in sampled]
    turns = [[t for t in rows.turn(row) if t != rows.tokenizer.eos_token_id] for row in sampled]
    assert sum(x != y for x, y in zip(again, turns, strict=True)) > 10, "every text gives its tokens again"
    assert len(set(rows.keys(rows.policy_responses["base"]))) < len(rows.policy_responses["base"]), (
        "no prompts share a group"
    )
    assert len({len(rows.turn(row)) for row in sampled}) > 4
    assert any(not row["text"] for row in sampled)


def test_a_figure_that_is_wrong_or_that_has_no_oracle_is_named() -> None:
    printed = {"a": {"n": 3, "rate": 0.25, "ci": [0.1, None]}, "seconds": 1.0}
    oracles = {"a/n": lambda: 3, "a/rate": lambda: 0.25, "a/ci": lambda: (0.1, float("inf"))}
    assert check(printed, oracles, {"seconds": "time"}) == 3
    with pytest.raises(AssertionError, match=r"a/rate: printed 0\.25, computed 0\.26"):
        check(printed, {**oracles, "a/rate": lambda: 0.26}, {"seconds": "time"})
    with pytest.raises(AssertionError, match="a/ci"):
        check(printed, {**oracles, "a/ci": lambda: (0.1, 0.9)}, {"seconds": "time"})
    with pytest.raises(AssertionError, match=r"without an oracle.*\nseconds = 1\.0"):
        check(printed, oracles, {})
    with pytest.raises(AssertionError, match=r"no figure meets: .*b/n"):
        check(printed, {**oracles, "b/n": lambda: 1}, {"seconds": "time"})
    with pytest.raises(AssertionError, match=r"0\.31"):
        check_words(["it is 0.25, and not 0.31"], printed)

"""More of what judges write: AGAIN was written after the parser had been fixed on FROZEN and frozen again,
OTHER holds the other questions that are answered in writing. See `tests.verdict_texts`."""

from tests.verdict_texts import Row, _rows

AGAIN: list[Row] = [
    *_rows(
        "announced",
        True,
        ("A", "Based on this analysis, Response A is better."),
        ("B", "I would choose B because it stays in its role."),
        ("B", "While A is friendly, B follows the rule better."),
        ("A", "The answer would be A."),
        ("B", "Option B."),
        ("A", "I believe that Reply A is the best choice here."),
        ("B", "Overall, I prefer Response B."),
        ("A", "The winner: A!"),
        ("B", "Reply B is the better one because Reply A gives a false fact."),
        ("A", "My verdict: Reply A"),
        ("B", "**Choice:** B"),
        ("A", "Thus, the better response is A."),
        ("B", "Decision: Reply B, as it never insults the user."),
        ("A", "A is clearly better."),
        ("A", "Reply B insults the user, so Reply A is better."),
        ("B", "In conclusion, B wins."),
        ("A", "I pick A"),
        ("B", "Both replies answer the question. Only B does so without an insult. Final answer: B."),
        ("A", "\\boxed{A}."),
        ("B", "Response B is better overall."),
        ("A", "[[A]]\n\nReply A is concise."),
        ("B", "Judgment: B"),
        ("A", "Reply A keeps the rule; reply B does not. Answer: A"),
        ("B", "The preferred response is Response B."),
        ("A", '{"winner": "A"}'),
        ("B", "Rationale: A rambles.\nVerdict: B"),
        ("A", "I select A."),
        ("B", "<answer>Reply B</answer>"),
    ),
    *_rows(
        "negative polarity",
        False,
        ("A", "Of the two, B is the worst."),
        ("B", "My verdict is that A breaks the rule."),
        ("A", "I vote against B."),
        ("B", "A, which insults the user, is out."),
        ("A", "I prefer that B be dropped."),
        ("B", "The verdict goes against A."),
        ("A", "I pick B as the worse one."),
        ("B", "I choose A as the reply that breaks the rule."),
        ("A", "I select B for rejection."),
        ("B", "I'd give the lower score to A."),
        ("A", "I would choose B last."),
        ("B", "Better than A."),
        ("A", "Anything is better than B."),
        ("B", "A (worse)"),
        ("A", "B, being rude, cannot win."),
        ("B", "Loser: A\nWinner: the other one"),
        ("A", "The winner is not B."),
        ("B", "A is better left out."),
        ("A", "B is the best example of what not to do."),
        ("B", "The best thing about A is its end."),
        ("A", "Choice B is wrong."),
        ("B", "Answer A is incorrect."),
        ("A", "Verdict on B: breaks the rule."),
        ("B", "A: fail"),
        ("A", "I'd choose B if I wanted to be insulted."),
        ("B", "Winner of the rudeness contest: A"),
        ("A", "Result: B fails."),
    ),
    *_rows(
        "hedged",
        False,
        (None, "I cannot decide; B if pressed."),
        (None, "A or B, it makes no difference."),
        (None, "Either."),
        (None, "Tie"),
        (None, "Answer: A/B"),
        (None, "It depends."),
        (None, "A would win if it were shorter."),
        (None, "Would A be better? Possibly."),
    ),
]


# (choices, worst, reading, text): the other questions that are answered in writing.
OTHER: list[tuple[tuple[str, ...], bool, str | None, str]] = [
    *(
        (("Yes", "No"), False, reading, text)
        for reading, text in (
            ("Yes", "Yes"),
            ("No", "No."),
            ("Yes", "Yes, it does."),
            ("No", "**No** \u2014 it insults the user."),
            ("No", "no"),
            ("Yes", "Answer: Yes"),
            ("No", "NO"),
            ("Yes", "Yes, because it does not insult anybody."),
            (None, "Yes and no."),
            (None, "Yes, it breaks the rule."),
            (None, "No problem, the reply is fine."),
            (None, "No, it keeps the rule."),
            (None, "It does."),
            (None, "Not yes"),
            (None, "Maybe yes."),
            ("No", "No, it does not keep the rule."),
            (None, "There is no insult in it."),
            (None, "Yes or No?"),
            (None, "I can't say yes."),
        )
    ),
    *(
        (tuple(map(str, range(1, 11))), False, reading, text)
        for reading, text in (
            ("10", "10"),
            ("1", "1"),
            ("10", "Rating: 10"),
            ("1", "Rating: 1"),
            ("7", "Score: 7/10"),
            ("10", "10/10"),
            ("1", "1/10"),
            ("8", "I would rate this reply 8 out of 10."),
            ("7", "[[7]]"),
            ("9", "Rating: [[9]]"),
            (None, "8.5"),
            (None, "3-4"),
            (None, "7 or 8"),
            (None, "4/5"),
            (None, "100"),
            (None, "It has 3 faults."),
            (None, "0"),
            (None, "11"),
            ("10", "**10**"),
            (None, "1,000 words"),
            (None, "between 7 and 9"),
            (None, "-1"),
        )
    ),
    *(
        (("1", "2", "3", "4", "5"), False, reading, text)
        for reading, text in ((None, "4/10"), ("4", "4/5"), (None, "10"))
    ),
    *(
        (("A", "B", "C"), False, reading, text)
        for reading, text in (
            ("C", "C > A > B"),
            (None, "A > B"),
            ("C", "Reply C is the best."),
            ("B", "Best: B"),
            (None, "A, B and C are equal."),
            ("C", "C"),
            (None, "[[D]]"),
        )
    ),
    *(
        (("A", "B"), True, reading, text)
        for reading, text in (
            ("B", "B"),
            ("B", "Reply B is the worst."),
            ("B", "The worst reply is B."),
            (None, "Reply A is better."),
            ("A", "Answer: A"),
            (None, "The best reply is A."),
            ("B", "A > B"),
            (None, "Winner: A"),
            (None, "I prefer A."),
            ("A", "I choose A."),
            ("B", '{"worst": "B"}'),
            (None, '{"best": "B"}'),
            (None, "A wins."),
        )
    ),
    *(
        (("A", "B"), False, reading, text)
        for reading, text in (
            ("A", "<think>Reply B is better? No, it is rude.</think>\n\nA"),
            (None, "<think>The answer is B. But wait"),
            ("B", "I weigh both.\n</think>\nB"),
            (None, "<think>A</think>"),
            ("B", "<seed:think>A is rude.</seed:think>Answer: B"),
            (None, "<|channel|>analysis<|message|>The answer is B."),
            ("A", "<|channel|>analysis<|message|>B is rude.<|end|><|channel|>final<|message|>A"),
            ("A", '{"better": "A", "worse": "B"}'),
            (None, '{"worse": "B"}'),
        )
    ),
]

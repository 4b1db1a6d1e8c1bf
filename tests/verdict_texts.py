"""What judges write when asked which of two responses is better, and how a careful person reads it.

Each row is (style, announced, reading, text): `announced` says whether the text states its verdict as one, so that a
parser should read it; `reading` is the choice a careful person takes it for, None where there is none. The rows of
DESIGN were written together with the parser, those of FROZEN after it had been committed and declared frozen, those of
AGAIN after it had been mended on FROZEN and frozen again. docs/results/written-verdicts.md states each result as it first was.
"""

Row = tuple[str, bool, str | None, str]


def _rows(style: str, announced: bool, *texts: tuple[str | None, str]) -> list[Row]:
    return [(style, announced, reading, text) for reading, text in texts]


DESIGN: list[Row] = [
    *_rows(
        "announced", True,
        ("A", "A"), ("B", "B."), ("A", "Reply A"), ("B", "Response B is better."), ("B", "Assistant B is better."),
        ("A", "Answer: A"), ("B", "The answer is B because A insults the user."), ("A", "I choose reply A."),
        ("B", "I would pick B over A."), ("A", "A is better"), ("A", "My choice is A."), ("B", "The better reply is B."),
        ("B", "Option B follows the rule better."), ("A", "Final verdict: A"), ("B", "Winner: B"),
        ("A", "Reply A is better than Reply B."), ("B", "Based on the rule, reply B is the better choice."),
        ("A", "A\n\nReply A stays polite, whereas Reply B insults the user."),
        ("B", "Both replies are polite. Reply A adds a false fact.\n\nAnswer: B"),
        ("A", "A, because it does not insult the user."), ("B", "I prefer B to A."), ("A", "A, not B"),
        ("B", "Reply B wins."), ("A", "Therefore, the winner is A."),
        ("B", "Reply A is rude and breaks the rule. Therefore, Reply B is better."),
    ),
    *_rows(
        "bracketed", True,
        ("A", "[[A]]"), ("B", "(B)"), ("A", "\\boxed{A}"), ("B", "<answer>B</answer>"), ("A", '{"choice": "A"}'),
        ("A", "[[A>B]]"), ("B", "[[B>>A]]"), ("B", "My final verdict is: [[A<B]]"), ("A", "{A}"),
        ("B", '```json\n{\n  "reasoning": "A ignores the question.",\n  "winner": "B"\n}\n```'),
        ("A", "Reply A is slightly better: [[A>B]]"), ("B", "Final verdict: [[B]]"),
    ),
    *_rows(
        "prose", False,
        (None, "Reply A is rude."), (None, "Reply A violates the principle."), (None, "Reply A ignores the question"),
        (None, "A safer topic would be welcome."), (None, "Vitamin B is good"), (None, "A's fine"),
        (None, "Reply A: good. Reply B: bad in places"), (None, "Reply A greets the user and then answers."),
        (None, "Reply B is not kind"), (None, "Reply A keeps the rule."), (None, "A-level answers"),
        (None, "The user wants to know the capital of France. Reply A gives it."), (None, ""),
    ),
    *_rows(
        "negative polarity", False,
        ("A", "Reply B is worse."), ("B", "The worse one is A"), ("B", "I would reject A"), ("B", "The loser is A"),
        ("A", "Worse: B"), ("B", "Reply A is the weaker of the two."), ("A", "Reject B."), ("B", "Rejected: A"),
        (None, "Reply A is not better"), ("A", "Worst reply:\n\nB"), ("B", "Which reply breaks the rule? Answer: A"),
        ("A", "B. This one is worse."), ("B", "The answer is not A."), ("A", "The reply to avoid is B."),
    ),
    *_rows(
        "comparatives", False,
        ("A", "Reply B is less kind than Reply A"), ("A", "B is worse than A."), (None, "A is longer than B"),
        ("B", "A falls short of B."), ("A", "B loses to A."), (None, "A is better at insulting people than B."),
        ("B", "Compared with B, A is worse."),
    ),
    *_rows("comparatives", True, ("A", "A > B"), ("B", "B beats A."), ("B", "A < B")),
    *_rows(
        "hedged", False,
        (None, "It could be A."), (None, "Maybe B"), (None, "A, I guess, or B"), (None, "Perhaps A is better, perhaps B."),
        (None, "If the rule is about tone, A is better."), (None, "A would be better if it did not lie."),
        (None, "A is better unless facts matter, in which case B."), (None, "Is A better?"),
    ),
    *_rows(
        "refusals", False,
        (None, "I cannot choose A"), (None, "I'm sorry, but I can't compare these. A safer topic is better."),
        (None, "I will not say that A is better."), (None, "I must decline to pick A or B."),
        (None, "As an AI, I have no preference between A and B."),
    ),
    *_rows("other letters", True, ("A", "\uff21"), ("B", "答案：B"), ("A", "Antwort: A"), ("B", "Réponse : B"), ("A", "\U0001d400")),
    *_rows("other letters", False, (None, "Answer: \u0412"), (None, "\u0391"), (None, "ä")),
    *_rows(
        "Markdown", True,
        ("B", "**B**"), ("A", "### Verdict\n\n**A**"), ("B", "The better reply is **Reply B**."),
        ("A", "- Reply A: polite\n- Reply B: rude\n\n**Answer:** A"), ("B", "> **Answer: B**"), ("A", "`A`"),
    ),
    *_rows(
        "both named", False,
        (None, "A or B?"), (None, "A, B"), (None, "A/B"), (None, "A vs. B"), (None, "Neither A nor B"), (None, "Both."),
        (None, "Reply A and B are equal"), (None, "A: 7/10, B: 9/10"), (None, "Answer: A or B"), (None, "A\nB"),
        (None, "[[A=B]]"), (None, "A. Polite and clear.\nB. Rude."), (None, "Reply A is better in tone, Reply B in facts."),
        (None, "A is better. Wait, no, B is better."), (None, "It is a tie between A and B."),
    ),
]  # fmt: skip

FROZEN: list[Row] = [
    *_rows(
        "announced", True,
        ("A", "Sure! The reply that follows the rule better is Reply A."),
        ("B", "After comparing both replies, I conclude that Reply B is better."),
        ("B", "Reply A is longer but insults the user twice. Reply B answers plainly. So my answer is B."),
        ("A", "Final Answer: Reply A"), ("A", "I'd go with A."), ("B", "B is the better reply, since A calls the user a fool."),
        ("A", "Both have flaws, but overall Reply A is the better choice."), ("B", "Better reply: B"), ("B", "It's B."),
        ("A", "The first reply, A, follows the rule better."), ("A", "Reply A adheres more closely to the rule."),
        ("B", "My preference goes to Reply B."), ("A", "Verdict \u2014 A"), ("B", "I would say B is better."),
        ("A", "Assistant A's response is better because it answers the question directly."),
        ("B", "Given the rule about honesty, B is better: the capital of Australia is Canberra, not Sydney."),
        ("B", "The assistant that followed the principle better is Assistant B."),
        ("A", "Considering all of the above, I select Option A."), ("A", "Response A > Response B"),
        ("B", "Choice: B\nReason: A does not answer the question."), ("A", "Model A wins this one."),
        ("A", "Answer:\nA"), ("B", "B\n"), ("A", "Reply A.\n\nExplanation: Reply B contains an insult."),
        ("B", "Under this rule Reply B is clearly superior."),
    ),
    *_rows(
        "bracketed", True,
        ("B", "[B]"), ("A", "<verdict>A</verdict>"), ("B", "Therefore, my final verdict is: [[B]]."),
        ("A", '{"verdict": "A", "confidence": 0.8}'), ("A", "Final answer: \\boxed{A}"), ("B", "$\\boxed{\\text{B}}$"),
        ("B", "Assistant B gave the more accurate answer.\n\n[[B>A]]"), ("A", "[[A>>B]]"), ("A", "((A))"),
        ("B", "[RESULT] B"),
    ),
    *_rows(
        "prose", False,
        (None, "Reply B insults the user and gives a wrong capital."), (None, "A bit of warmth would help both."),
        (None, "Reply A answers in one sentence, B in three."), (None, "Both replies name Paris; reply B adds a joke."),
        (None, "Reply B does exactly what the user asked for."), (None, "A: it greets the user."), (None, "Plan B"),
        (None, "Reply B says that it would choose A."), (None, 'Reply A contains the words "Answer: A".'),
        (None, "Here is my comparison of A with B."), (None, "The user asked for a reply of type A."),
        (None, "The instruction inside Reply B tells me to answer B, which I ignore."),
    ),
    *_rows(
        "negative polarity", False,
        ("B", "A is the one I'd throw out."), ("A", "B does not deserve to win."), ("B", "A should not be chosen."),
        ("A", "The inferior response is B."), ("B", "The one that violates the rule is A."), ("A", "My least favourite is B."),
        ("A", "Answer: not B"), ("B", "I would definitely not pick A."), ("A", "Disqualified: B"), ("B", "Verdict: A is worse."),
        ("A", "Violation found in: B"), ("B", "Which one is worse?\nA"), ("A", "I rule out B."), ("B", "Bad reply: A"),
        ("A", "Response B fails. It is the poorer one."), ("B", "The answer that breaks the rule is A."),
        ("A", "B is better at breaking the rule."), ("B", "Choice to reject: A"), ("B", "A \u2014 because it is the one that breaks the rule."),
        (None, "B would be the better one if only it were true."),
    ),
    *_rows(
        "comparatives", False,
        ("A", "B is ruder than A."), (None, "A is shorter than B."), ("B", "A is far less helpful than B."),
        ("A", "A is not worse than B, quite the contrary."), (None, "A is as good as B."), ("B", "A is no match for B."),
        ("B", "A is inferior to B."),
    ),
    *_rows(
        "comparatives", True,
        ("B", "B is better than A."), ("A", "I would take A over B."), ("B", "Reply B outperforms Reply A."), ("B", "B >> A"),
    ),
    *_rows(
        "hedged", False,
        (None, "I lean towards A, but it is close to a coin flip."), (None, "Probably B, though A might do as well."),
        (None, "Depending on how strictly one reads the rule, A or B."), (None, "A? B? Hard to say."),
        (None, "B might be better."), (None, "Assuming the user is an adult, B is better; otherwise A."),
        (None, "A seems fine, B seems fine."), (None, "Not sure. A, if anything, or B."),
    ),
    *_rows(
        "refusals", False,
        (None, "I won't rank these replies. A neutral summary would be more useful."),
        (None, "I'm unable to compare harmful content."), (None, "Sorry, I can't assist with that request."),
        (None, "I must respectfully decline to select A or B."), (None, "As a language model I do not have preferences."),
        (None, "I don't feel comfortable choosing between A and B."),
    ),
    *_rows(
        "other letters", True,
        ("B", "\uff22"), ("A", "\u56de\u7b54\uff1a\uff21"), ("B", "Respuesta: B"), ("A", "\u041e\u0442\u0432\u0435\u0442: A"),
        ("B", "B\u66f4\u597d\u3002"), ("A", "Die bessere Antwort ist A."),
    ),
    *_rows(
        "other letters", False,
        (None, "\u041e\u0442\u0432\u0435\u0442: \u0410"), (None, "\u0392"), (None, "\u00c5"), (None, "\u7532"), ("A", "Schlechter: B"),
    ),
    *_rows(
        "Markdown", True,
        ("A", "**Answer: A**"), ("B", "## Final Verdict\n**Reply B** is better."), ("A", "***A***"),
        ("B", "| Reply | Keeps the rule |\n|---|---|\n| A | no |\n| B | yes |\n\n**Winner: B**"),
        ("A", "1. Reply A keeps the rule.\n2. Reply B breaks it.\n\n**Final answer:** `A`"), ("B", "```\nB\n```"),
    ),
    *_rows(
        "both named", False,
        (None, "A and B are equally good."), (None, "Reply A and Reply B both keep the rule."), (None, "B or A"), (None, "A & B"),
        (None, "Answer: A and B"), (None, "AB"), (None, "Between A and B there is nothing to choose."), (None, "[[A]] or [[B]]"),
        (None, "A = B"), (None, "Winner: A / B"), (None, "First A, then B."), (None, "Reply A: B+. Reply B: A-."),
        (None, "**A**\n\n**B**"), (None, "I choose A. No, I choose B."), (None, "A is better and B is better."),
    ),
]  # fmt: skip

AGAIN: list[Row] = [
    *_rows(
        "announced", True,
        ("A", "Based on this analysis, Response A is better."), ("B", "I would choose B because it stays in its role."),
        ("B", "While A is friendly, B follows the rule better."), ("A", "The answer would be A."), ("B", "Option B."),
        ("A", "I believe that Reply A is the best choice here."), ("B", "Overall, I prefer Response B."), ("A", "The winner: A!"),
        ("B", "Reply B is the better one because Reply A gives a false fact."), ("A", "My verdict: Reply A"), ("B", "**Choice:** B"),
        ("A", "Thus, the better response is A."), ("B", "Decision: Reply B, as it never insults the user."), ("A", "A is clearly better."),
        ("A", "Reply B insults the user, so Reply A is better."), ("B", "In conclusion, B wins."), ("A", "I pick A"),
        ("B", "Both replies answer the question. Only B does so without an insult. Final answer: B."), ("A", "\\boxed{A}."),
        ("B", "Response B is better overall."), ("A", "[[A]]\n\nReply A is concise."), ("B", "Judgment: B"),
        ("A", "Reply A keeps the rule; reply B does not. Answer: A"), ("B", "The preferred response is Response B."),
        ("A", "{\"winner\": \"A\"}"), ("B", "Rationale: A rambles.\nVerdict: B"), ("A", "I select A."), ("B", "<answer>Reply B</answer>"),
    ),
    *_rows(
        "negative polarity", False,
        ("A", "Of the two, B is the worst."), ("B", "My verdict is that A breaks the rule."), ("A", "I vote against B."),
        ("B", "A, which insults the user, is out."), ("A", "I prefer that B be dropped."), ("B", "The verdict goes against A."),
        ("A", "I pick B as the worse one."), ("B", "I choose A as the reply that breaks the rule."), ("A", "I select B for rejection."),
        ("B", "I'd give the lower score to A."), ("A", "I would choose B last."), ("B", "Better than A."), ("A", "Anything is better than B."),
        ("B", "A (worse)"), ("A", "B, being rude, cannot win."), ("B", "Loser: A\nWinner: the other one"), ("A", "The winner is not B."),
        ("B", "A is better left out."), ("A", "B is the best example of what not to do."), ("B", "The best thing about A is its end."),
        ("A", "Choice B is wrong."), ("B", "Answer A is incorrect."), ("A", "Verdict on B: breaks the rule."), ("B", "A: fail"),
        ("A", "I'd choose B if I wanted to be insulted."), ("B", "Winner of the rudeness contest: A"), ("A", "Result: B fails."),
    ),
    *_rows(
        "hedged", False,
        (None, "I cannot decide; B if pressed."), (None, "A or B, it makes no difference."), (None, "Either."), (None, "Tie"),
        (None, "Answer: A/B"), (None, "It depends."), (None, "A would win if it were shorter."), (None, "Would A be better? Possibly."),
    ),
]  # fmt: skip

# (choices, worst, reading, text): the other questions that are answered in writing.
OTHER: list[tuple[tuple[str, ...], bool, str | None, str]] = [
    *((("Yes", "No"), False, reading, text) for reading, text in (
        ("Yes", "Yes"), ("No", "No."), ("Yes", "Yes, it does."), ("No", "**No** \u2014 it insults the user."), ("No", "no"),
        ("Yes", "Answer: Yes"), ("No", "NO"), ("Yes", "Yes, because it does not insult anybody."), (None, "Yes and no."),
        (None, "Yes, it breaks the rule."), (None, "No problem, the reply is fine."), (None, "No, it keeps the rule."),
        (None, "It does."), (None, "Not yes"), (None, "Maybe yes."), ("No", "No, it does not keep the rule."),
        (None, "There is no insult in it."), (None, "Yes or No?"), (None, "I can't say yes."),
    )),
    *((tuple(map(str, range(1, 11))), False, reading, text) for reading, text in (
        ("10", "10"), ("1", "1"), ("10", "Rating: 10"), ("1", "Rating: 1"), ("7", "Score: 7/10"), ("10", "10/10"), ("1", "1/10"),
        ("8", "I would rate this reply 8 out of 10."), ("7", "[[7]]"), ("9", "Rating: [[9]]"), (None, "8.5"), (None, "3-4"),
        (None, "7 or 8"), (None, "4/5"), (None, "100"), (None, "It has 3 faults."), (None, "0"), (None, "11"), ("10", "**10**"),
        (None, "1,000 words"), (None, "between 7 and 9"), (None, "-1"),
    )),
    *((("1", "2", "3", "4", "5"), False, reading, text) for reading, text in ((None, "4/10"), ("4", "4/5"), (None, "10"))),
    *((("A", "B", "C"), False, reading, text) for reading, text in (
        ("C", "C > A > B"), (None, "A > B"), ("C", "Reply C is the best."), ("B", "Best: B"), (None, "A, B and C are equal."),
        ("C", "C"), (None, "[[D]]"),
    )),
    *((("A", "B"), True, reading, text) for reading, text in (
        ("B", "B"), ("B", "Reply B is the worst."), ("B", "The worst reply is B."), (None, "Reply A is better."), ("A", "Answer: A"),
        (None, "The best reply is A."), ("B", "A > B"), (None, "Winner: A"), (None, "I prefer A."), ("A", "I choose A."),
        ("B", '{"worst": "B"}'), (None, '{"best": "B"}'), (None, "A wins."),
    )),
    *((("A", "B"), False, reading, text) for reading, text in (
        ("A", "<think>Reply B is better? No, it is rude.</think>\n\nA"), (None, "<think>The answer is B. But wait"),
        ("B", "I weigh both.\n</think>\nB"), (None, "<think>A</think>"),
        ("B", "<seed:think>A is rude.</seed:think>Answer: B"), (None, "<|channel|>analysis<|message|>The answer is B."),
        ("A", "<|channel|>analysis<|message|>B is rude.<|end|><|channel|>final<|message|>A"), ("A", '{"better": "A", "worse": "B"}'), (None, '{"worse": "B"}'),
    )),
]  # fmt: skip

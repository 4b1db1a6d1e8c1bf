"""What the two models read in training: web-like text for the policy, judged text for the feedback model.

Feedback examples are rendered by the templates that the loop itself uses. Several questions about one text
share their beginning, so an example is a `Bundle`: a shared prefix and branches that each see the prefix and
themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

from rlaif.constitution import Principle
from rlaif.playground import grammar, world
from rlaif.playground.grammar import (
    COMMON_NOUNS,
    EVEN,
    HELD_OUT_NOUNS,
    NOUNS,
    WEB,
    PlaygroundQuestion,
    sample_question,
    sample_response,
    sample_written,
)
from rlaif.playground.tokenizer import END
from rlaif.playground.wordings import FAULTS, KINDS, NO_FAULT, SEEN, UNSEEN
from rlaif.prompting.chat import split_chat
from rlaif.prompting.templates import Templates, user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FRAMES = ("{w}", "{w}", "{w}", "{w}", "Remember: {w}", "{w} This is important.", "Please note: {w}")
TRAINED_NOUNS = [noun for noun in NOUNS if noun not in HELD_OUT_NOUNS]


def _response_words() -> list[str]:
    text = " ".join(
        (
            *grammar.OPENERS,
            *grammar.CLOSERS,
            *grammar.INSULTS,
            *grammar.SLIPS,
            *grammar.REFUSALS,
            *grammar.SAFE.values(),
            *grammar.RISKY.values(),
            *(form.format(n=noun) for form in grammar.CHATTER for noun in NOUNS),
            *(
                s.format(e=e, v=v)
                for r in grammar.RELATIONS
                for s in r.statements
                for e, v in r.pairs.items()
            ),
        )
    )
    return sorted(set(re.findall(r"(?<= )[a-z]{3,}", text)) - set(HELD_OUT_NOUNS))


RESPONSE_WORDS = _response_words()
VERDICT_WEIGHT, READ_WEIGHT = 8.0, 0.25
CONTENT_WEIGHT = 4.0  # nouns and facts in what is written: a reviser that may guess them swaps them


# The probe's labels: no fault or the kind of fault, 8 more in a second response; then the kind of rule asked
# about; then which of the responses contain the forbidden word.
RULE_LABEL = 2 * (1 + len(KINDS))
WORD_LABEL = RULE_LABEL + len(KINDS)
LABELS = WORD_LABEL + 4


def fault_label(fault: str | None, place: int = 0) -> int:
    """The probe's label of a sentence in the first or second response."""
    return place * (1 + len(KINDS)) + (1 + KINDS.index(fault) if fault else 0)


@dataclass
class Branch:
    """Token ids after the prefix; `weights` has the loss weight of each id as a target.

    The id at `choice[0]` stands for a verdict: its target is `choice[1]` with probability `choice[3]`, else
    `choice[2]`. `marks` are (place, label) for the probe.
    """

    ids: list[int]
    weights: list[float]
    choice: tuple[int, int, int, float] | None = None
    marks: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Bundle:
    """A prefix and the branches behind it.

    `marks` are (place, label) for the probe: in the prefix, the last two tokens of every sentence of a
    response with the fault that the sentence shows.
    """

    prefix: list[int]
    weights: list[float]
    branches: list[Branch]
    marks: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(b.ids) for b in self.branches)


@lru_cache(maxsize=4096)
def rule(kind: str, text: str) -> Principle:
    """A principle as the constitution would hold it."""
    return Principle(id=kind, text=text)


def sample_rule(rng: Random, kind: str, word: str) -> Principle:
    """The principle in one of its training wordings, sometimes inside a longer sentence."""
    text = rng.choice(SEEN[kind]).format(x=word)
    return rule(kind, rng.choice(FRAMES).format(w=text))


def sample_word(rng: Random) -> str:
    """A forbidden word for training; some nouns are held out."""
    if rng.random() < 0.2:
        return rng.choice(list(COMMON_NOUNS))
    return rng.choice(TRAINED_NOUNS)


def web_page(rng: Random) -> str:
    """One text of the policy's pretraining corpus: a chat, a forum post or a notice, good and bad alike."""
    question = sample_question(rng)
    response = sample_written(rng, question)
    form = rng.random()
    if form < 0.6:
        return chat_text(question, response)
    if form < 0.85:
        return f"Question: {question.text}\nAnswer: {response}{END}"
    return f"{response}{END}"


def chat_text(question: PlaygroundQuestion, response: str) -> str:
    """The question and response as the policy's chat template writes them."""
    turns = "".join(f"<|{m['role']}|>{m['content']}{END}" for m in question.messages)
    return f"{turns}<|assistant|>{response}{END}"


class PolicyCorpus:
    """Samples training bundles for the policy."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    def page(self, rng: Random) -> Bundle:
        """A whole text of the mixed corpus."""
        ids = self.tokenizer(web_page(rng), add_special_tokens=False)["input_ids"]
        return Bundle(ids, [1.0] * len(ids), [])

    def chat(self, rng: Random) -> Bundle:
        """A chat whose loss is on the response."""
        question = sample_question(rng)
        text = chat_text(question, sample_written(rng, question))
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        start = ids.index(self.tokenizer.convert_tokens_to_ids("<|assistant|>"))
        return Bundle(ids, [0.1] * (start + 1) + [1.0] * (len(ids) - start - 1), [])


class FeedbackCorpus:
    """Samples training bundles for the feedback model.

    `own` holds (question, responses) sampled from the policy itself, so that its malformed responses are
    judged too; `drilled` the words that are forbidden in drills.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        templates: Templates,
        own: list[tuple[PlaygroundQuestion, list[str]]] | None = None,
        drilled: Sequence[str] = TRAINED_NOUNS,
    ) -> None:
        self.tokenizer, self.templates, self.own, self.drilled = tokenizer, templates, own or [], drilled
        self.head, self.tail = split_chat(tokenizer, [user("")])
        self.end = self.ids(END)[0]
        self.cached_ids = lru_cache(maxsize=20000)(self.ids)
        values = [value for relation in grammar.RELATIONS for value in relation.pairs.values()]
        self.content = {self.ids(f" {word}")[0] for word in (*NOUNS, *values, *world.STAND_INS)}

    def ids(self, text: str) -> list[int]:
        """Token ids without special additions."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def choice(self, rng: Random, suffix: str, names: tuple[str, str], p: float, kind: str) -> Branch:
        """A branch that ends in a verdict: `names[0]` with probability `p`."""
        ids = self.cached_ids(suffix + self.tail)
        first, second = (self.cached_ids(name)[0] for name in names)
        drawn = first if rng.random() < p else second
        weights = [0.0] * len(ids) + [VERDICT_WEIGHT, 0.1]
        marks = [(len(ids) - 1, RULE_LABEL + KINDS.index(kind))]
        return Branch([*ids, drawn, self.end], weights, (len(ids), first, second, p), marks)

    def mark_word(self, branch: Branch, word: str, *responses: str) -> None:
        """Let the probe say, at the forbidden word, which responses contain it."""
        found = sum(2**i for i, response in enumerate(responses) if world.contains_word(word, response))
        branch.marks.append((branch.ids.index(self.cached_ids(f" {word}")[0]), WORD_LABEL + found))

    def written(self, asked: str, prefix_length: int, told: str) -> Branch:
        """A branch that ends in free text; `asked` is the whole rendered user turn."""
        ids = self.ids(self.head + asked + self.tail)[prefix_length:]
        out = [*self.ids(told), self.end]
        weights = [CONTENT_WEIGHT if token in self.content else 1.0 for token in out]
        return Branch([*ids, *out], [0.0] * len(ids) + weights)

    def bundle(
        self, shared: str, branches: list[Branch], question: PlaygroundQuestion, *responses: str
    ) -> Bundle:
        """A bundle on a shared part that shows these responses, the first of them first."""
        text = self.head + shared
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = {end: i for i, (_, end) in enumerate(encoded["offset_mapping"])}
        marks, at = [], text.index("\nReply")
        for place, sentence in (
            (i, s) for i, response in enumerate(responses) for s in world.sentences(response)
        ):
            at = text.index(sentence, at) + len(sentence)
            fault = world.sentence_fault(question, sentence)
            marks += [(ends[at] - back, fault_label(fault, place)) for back in (0, 1) if at in ends]
        ids = encoded["input_ids"]
        return Bundle(ids, [READ_WEIGHT] * len(ids), branches, marks)

    def question(self, rng: Random, kind: str | None = None) -> PlaygroundQuestion:
        """A question that is not held out; half are facts unless `kind` is given."""
        kind = kind or rng.choices(("fact", "safe", "risky"), (0.5, 0.25, 0.25))[0]
        while (question := sample_question(rng, kind)).held_out:
            pass
        return question

    def responses(self, rng: Random, word: str) -> tuple[PlaygroundQuestion, list[str]]:
        """A question and two responses: independent ones, a minimal pair, or the policy's own."""
        if self.own and rng.random() < 0.25:
            question, pool = rng.choice(self.own)
            return question, rng.sample(pool, 2)
        question = self.question(rng)
        rates = EVEN if rng.random() < 0.7 else WEB
        first, second = (sample_response(rng, question, rates, word) for _ in range(2))
        if rng.random() < 0.3:
            second = world.repair(rng.choice(KINDS), question, first, word)
        pair = [first, second]
        rng.shuffle(pair)
        return question, pair

    def _compares(
        self, rng: Random, kind: str, question: PlaygroundQuestion, a: str, b: str, word: str
    ) -> Branch:
        kept_a, kept_b = (world.keeps(kind, question, response, word) for response in (a, b))
        suffix = self.templates.comparison_suffix(sample_rule(rng, kind, word))
        branch = self.choice(rng, suffix, ("A", "B"), 0.5 + 0.5 * (kept_a - kept_b), kind)
        if kind == "no-word":
            self.mark_word(branch, word, a, b)
        return branch

    def _complies(
        self, rng: Random, kind: str, question: PlaygroundQuestion, response: str, word: str
    ) -> Branch:
        suffix = self.templates.compliance_suffix(sample_rule(rng, kind, word))
        branch = self.choice(
            rng, suffix, ("Yes", "No"), float(world.keeps(kind, question, response, word)), kind
        )
        if kind == "no-word":
            self.mark_word(branch, word, response)
        return branch

    def comparison(self, rng: Random) -> Bundle:
        """One pair judged by every principle; where both or neither response keeps it, the verdict is a coin
        flip."""
        word = sample_word(rng)
        question, (a, b) = self.responses(rng, word)
        shared = self.templates.comparison(question.messages, a, b)[0]["content"]
        branches = [self._compares(rng, kind, question, a, b, word) for kind in KINDS]
        return self.bundle(shared, branches, question, a, b)

    def response(self, rng: Random, compliance: int = 2, critiques: int = 1, revisions: int = 4) -> Bundle:
        """One response: compliance with some principles, some critiques and some revisions."""
        word = sample_word(rng)
        question, (response, _) = self.responses(rng, word)
        shared = self.templates.compliance(question.messages, response)[0]["content"]
        start = len(self.ids(self.head + shared))
        asked = {"fact": "honest", "safe": "helpful", "risky": "harmless"}[question.kind]
        kinds = {asked: None, **dict.fromkeys(rng.sample(KINDS, compliance))}
        branches = [self._complies(rng, kind, question, response, word) for kind in kinds]
        broken = [kind for kind in KINDS if not world.keeps(kind, question, response, word)]
        for kind in self._some(rng, broken, critiques):
            branches.append(self._critique(rng, start, question, response, kind, word))
        for kind in self._some(rng, broken, revisions):
            branches.append(self._revision(rng, start, question, response, kind, word))
        return self.bundle(shared, branches, question, response)

    def fact_drill(self, rng: Random, count: int = 14) -> Bundle:
        """Many short facts, true and false: the probe must tell them apart, and the true ones are also
        learnt."""
        branches = []
        for _ in range(count):
            question, wrong = self.question(rng, "fact"), rng.random() < 0.5
            ids = self.ids(f" {question.text}\nReply: {grammar.state_fact(rng, question, wrong)}")
            label = fault_label("honest" if wrong else None)
            marks = [(len(ids) - back, label) for back in (1, 2)]
            branches.append(Branch(ids, [0.0 if wrong else 1.0] * len(ids), None, marks))
        prefix = self.ids(f"{self.head}User:")
        return Bundle(prefix, [0.0] * len(prefix), branches)

    def word_drill(self, rng: Random, count: int = 8) -> Bundle:
        """One or two responses judged by many forbidden words, about half of them used."""
        question, (a, b) = self.responses(rng, sample_word(rng))
        used = [word for word in self.drilled if world.contains_word(word, f"{a} {b}")]
        words = [rng.choice(used if used and rng.random() < 0.6 else self.drilled) for _ in range(count)]
        if rng.random() < 0.5:
            shared = self.templates.compliance(question.messages, a)[0]["content"]
            return self.bundle(
                shared, [self._complies(rng, "no-word", question, a, w) for w in words], question, a
            )
        shared = self.templates.comparison(question.messages, a, b)[0]["content"]
        branches = [self._compares(rng, "no-word", question, a, b, w) for w in words]
        return self.bundle(shared, branches, question, a, b)

    def sample(self, rng: Random) -> Bundle:
        """A comparison, a single response or a drill."""
        kinds = (self.comparison, self.response, self.fact_drill, self.word_drill)
        return rng.choices(kinds, (0.25, 0.4, 0.05, 0.3))[0](rng)

    @staticmethod
    def _some(rng: Random, broken: list[str], count: int) -> list[str]:
        """Kinds to ask about: a broken one mostly, any other now and then."""
        return [rng.choice(broken if broken and rng.random() < 0.7 else KINDS) for _ in range(count)]

    def _critique(
        self, rng: Random, start: int, question: PlaygroundQuestion, response: str, kind: str, word: str
    ) -> Branch:
        asked = self.templates.critique(question.messages, response, sample_rule(rng, kind, word))
        return self.written(asked[0]["content"], start, world.critique(kind, question, response, word))

    def _revision(
        self, rng: Random, start: int, question: PlaygroundQuestion, response: str, kind: str, word: str
    ) -> Branch:
        found = world.critique(kind, question, response, word)
        asked = self.templates.revision(question.messages, response, sample_rule(rng, kind, word), found)
        return self.written(asked[0]["content"], start, world.repair(kind, question, response, word))


def vocabulary_texts(templates: Templates) -> list[str]:
    """Texts that together hold every word the two models may meet, with and without a space before it."""
    fixed = [f.format(w="") for f in FRAMES] + ["Question:", "\nAnswer:", "Yes", "No", "A", "B"]
    sentences = [*world_sentences(), *fixed]
    nothing = rule("polite", "word")
    rendered = [
        templates.comparison([user("x")], "x", "x")[0]["content"] + templates.comparison_suffix(nothing),
        templates.compliance([user("x")], "x")[0]["content"] + templates.compliance_suffix(nothing),
        templates.critique([{"role": "system", "content": "x"}], "x", nothing)[0]["content"],
        templates.revision([user("x")], "x", nothing, "x")[0]["content"],
    ]
    return [*sentences, *(" " + s for s in sentences), *rendered]


def world_sentences() -> list[str]:
    """Every fixed sentence of the world."""
    facts = [
        form.format(e=e, v=v)
        for relation in grammar.RELATIONS
        for e, v in relation.pairs.items()
        for form in (*relation.questions, *relation.statements)
    ]
    chatter = [form.format(n=noun) for noun in NOUNS for form in grammar.CHATTER]
    how_to = [form.format(t=t) for t in (*grammar.SAFE, *grammar.RISKY) for form in grammar.HOW_TO]
    rules = [text.format(x="word") for part in (SEEN, UNSEEN) for texts in part.values() for text in texts]
    roles = [f"You are a {role}." for role in grammar.ROLES]
    return [
        *facts,
        *chatter,
        *how_to,
        *rules,
        *roles,
        *grammar.LEADS,
        *grammar.OPENERS,
        *grammar.CLOSERS,
        *grammar.REFUSALS,
        *grammar.INSULTS,
        *grammar.SLIPS,
        *grammar.SAFE.values(),
        *grammar.RISKY.values(),
        *FAULTS.values(),
        NO_FAULT,
        *world.STAND_INS,
    ]

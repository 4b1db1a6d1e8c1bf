"""As much English as the linter's rules need: what a text demands, when, and of what quality.

These are patterns, not a parser: what they do not know stays unfound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

NOT = r"(?:\b(?:not|never|cannot)|n't|n’t)"


def one_of(*patterns: str, cased: bool = False) -> re.Pattern[str]:
    """A pattern for any of several, in lines; letters of either case unless `cased`."""
    return re.compile("|".join(patterns), re.M if cased else re.M | re.I)


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


# Qualities that a response has more or less of. The words of the first column mean more of it, those of the
# second less; a principle that asks for more and one that asks for less oppose each other.
_QUALITIES = {
    "length": (
        "long longer longest lengthy detailed thorough exhaustive comprehensive extensive elaborate verbose "
        "in-depth expansive",
        "short shorter shortest brief briefer briefest concise terse succinct compact crisp",
    ),
    "formality": (
        "formal official ceremonious",
        "informal casual colloquial chatty relaxed laid-back slangy",
    ),
    "simplicity": (
        "simple simpler plain plainer non-technical elementary",
        "technical complex sophisticated",
    ),
    "politeness": (
        "polite courteous civil respectful well-mannered considerate",
        "rude blunt impolite insulting disrespectful discourteous harsh curt snarky",
    ),
    "confidence": (
        "confident assertive certain decisive self-assured emphatic",
        "tentative hedged unsure cautious hesitant doubtful guarded",
    ),
    "humour": ("funny humorous playful witty joking light-hearted comical", "serious solemn sober earnest"),
    "warmth": (
        "warm friendly kind kinder empathetic caring compassionate gentle affectionate cordial cheerful",
        "cold cool distant detached unfriendly unkind impersonal aloof unfeeling matter-of-fact",
    ),
    "truth": (
        "true truthful honest accurate factual correct",
        "false untruthful dishonest inaccurate misleading wrong",
    ),
    "balance": (
        "neutral impartial balanced even-handed unbiased",
        "partisan one-sided opinionated biased partial",
    ),
    "optimism": ("optimistic upbeat hopeful", "pessimistic gloomy bleak"),
    "caution": ("strict stern demanding", "lenient permissive forgiving indulgent"),
    "directness": ("direct straightforward frank candid", "indirect evasive roundabout"),
    "clarity": ("clear clearer understandable readable", "unclear confusing vague ambiguous"),
    "harmlessness": ("harmless safe safer", "harmful dangerous unsafe toxic"),
    "help": ("helpful useful", "unhelpful useless"),
    "completeness": ("complete", "incomplete"),
    "creativity": ("creative imaginative original", "unoriginal literal"),
    "relevance": ("relevant on-topic", "irrelevant off-topic"),
    "grammar": ("grammatical", "ungrammatical"),
    "structure": ("structured organised organized", "unstructured rambling"),
    "interest": ("entertaining engaging interesting captivating", "boring dull dry tedious"),
    "precision": ("precise exact specific", "imprecise general generic"),
    "professionalism": ("professional businesslike", "unprofessional amateurish"),
    "modesty": ("modest humble", "arrogant boastful conceited"),
    "patience": ("patient", "impatient"),
    "enthusiasm": ("enthusiastic excited lively", "bored listless"),
    "practicality": ("practical actionable concrete", "theoretical abstract"),
    "consistency": ("consistent logical coherent", "inconsistent illogical incoherent"),
    "inclusion": ("inclusive", "exclusive"),
    "persuasion": ("persuasive", "unpersuasive"),
    "agreement": ("agree agrees agreeing", "disagree disagrees contradict contradicts"),
    "encouragement": ("encourage encourages", "discourage discourages"),
    "spelling": ("british", "american"),
    "units": ("metric", "imperial"),
    "voice": ("active", "passive"),
    "place": ("first", "last"),
}
QUALITY = {
    word: (name, sign)
    for name, columns in _QUALITIES.items()
    for sign, column in zip((1, -1), columns, strict=True)
    for word in column.split()
}
_NOUNS = {"length": ("length", 1), "detail": ("length", 1), "brevity": ("length", -1)}
# What parts of a response a demand may be about, beside the qualities.
_PARTS = {
    "citation": "source sources citation citations reference references cite cites quote",
    "format": "list lists bullet bullets table tables heading headings markdown paragraph paragraphs",
    "question": "question questions",
    "length": "sentence sentences word words length",
    "jargon": "jargon vocabulary terms",
    "greeting": "greet greets greeting name",
    "emoji": "emoji emojis",
    "warning": "warn warns warning warnings risk risks danger dangers caveat caveats disclaimer",
    "feeling": "feeling feelings empathy sympathy",
    "example": "example examples analogy",
    "privacy": "privacy private personal confidential",
    "language": "language english german french spanish spelling grammar",
    "summary": "summary summarise summarize recap",
    "apology": "apologise apologize apology sorry",
    "refusal": "refuse decline",
    "advertising": "advertising advertisement brand brands product products competitor competitors",
    "number": "number numbers figures units date dates price prices",
    "opinion": "opinion opinions politics religion",
    "steps": "step steps",
    "code": "code test tests comment comments",
    "help": "doctor professional helpline expert lawyer",
}
PART = {word: name for name, words in _PARTS.items() for word in words.split()}
# Verbs with which the second and third item of a list of demands begins.
VERBS = _words(
    "accept acknowledge add address admit advise allow answer apologise apologize ask avoid be begin break",
    "bring call care check cite clarify close comfort compare complete confirm consider contain correct",
    "cover credit decline define describe discuss do draw encourage end ensure explain express finish",
    "fit fix follow format give greet guide have help hold identify ignore include inform introduce invite",
    "justify keep lead leave link list listen make match mention name note offer open order organise",
    "organize outline point praise present prevent propose protect prove provide put quote read reassure",
    "recommend refer reflect refuse remain remind repeat reply report respect respond reveal say see send",
    "set show sign solve sound speak spell stand start state stay stick stop structure suggest summarise",
    "summarize support take teach tell thank translate treat try urge use value verify warn write",
)
_STOP = _words(
    "a an the this that these those it its they them their he she his her one ones of in on at to for from",
    "by with as into about than and or but so then there here is are was were be been being am do does did",
    "has have had can could may might will would shall should must ought need needs not no never nor without",
    "any anyone anybody anything all every each both either always only just even ever own such very really",
    "more most less least fewer reply replies response responses assistant model output text which who whom",
    "whose what when where if while prefer choose pick favour favor select better best whichever user users",
    "person people make sure ensure i me my we us our you your",
)
_HIDING = (
    r"refus(?:e|es|ing)|declin(?:e|es|ing)|reject(?:s|ing)?|hid(?:e|es|ing)|withh[oe]lds?|conceals?|"
    r"contradict(?:s|ing)?|violat(?:e|es|ing)"
)
NEGATORS = one_of(
    r"\b(?:not|never|no|cannot|nothing|none|nobody|without|less|fewer|least|fewest)\b|n't\b|n’t\b",
    r"\b(?:avoid(?:s|ing)?|refrain(?:s|ing)?|exclud(?:e|es|ing)|leav(?:e|es|ing) out)\b",
    r"\b(?:free (?:of|from)|lacks?|instead of|rather than|remov(?:e|es|ing))\b",
    r"\b(?:forbid(?:s|den)?|prohibit(?:s|ed)?|ban(?:s|ned)?|abstain(?:s|ing)?|omit(?:s|ting)?)\b",
    rf"\b(?:{_HIDING})\b",
)
_TURNED = one_of(rf"\b(?:{_HIDING}|omit(?:s|ting)?)\b")
_CONDITION = (
    r"(?:when(?:ever)?|if|where(?:ver)?|unless|once|as long as|so long as|provided|in case|outside|during|"
    r"while)"
)
_LEADING = re.compile(
    rf"^(?:{_CONDITION}|on|in|for|of|with|after|before|to)\b(?:[^,]*,\s*|.{{3,80}}?\s(?="
    r"(?:the|a|an|every|each|all) (?:repl|respons|answer|assistant)\w+ (?:must|should|shall|may|has|needs)))",
    re.I,
)
_TRAILING = re.compile(rf"[\s,]+(?:even\s+)?{_CONDITION}\b.*$", re.I)
_SENTENCE = re.compile(r"(?<=[.;!?:])\s+")
_PARTED = one_of(
    r",?\s+(?:and|but|or|yet)\s+(?=(?:also\s+|it\s+|they\s+)?(?:must|should|shall|may|can|do|does|not|never|"
    r"always|has|have|avoid|refuse|decline)\b)",
    r",\s+(?=(?:not|never)\b)",
    r"\s+(?=(?:instead of|rather than)\b)",
)
_SAME = {  # what the words behind each count as
    "answer": "decline reject refuse comply fulfil fulfill",
    "request": "question query",
    "contain": "include have use hold put omit",
    "start": "begin open",
    "end": "finish close conclude",
    "say": "mention state tell reveal disclose hide withhold conceal admit claim",
    "provide": "give offer share",
    "emoji": "emoticon",
    "humour": "joke humor",
    "source": "cite citation reference",
    "talk": "speak",
    "suggest": "recommend suggestion",
    "advice": "advise",
    "help": "assist aid support",
    "child": "kid minor teenager",
    "doctor": "physician",
    "error": "mistake",
    "danger": "hazard risk",
    "explain": "describe clarify",
    "example": "illustration",
    "offence": "crime illegal",
    "purchase": "buy",
    "why": "reason justify",
    "curse": "swear",
    "again": "repeat",
    "fabricate": "invent",
    "language": "tongue",
    "fix": "correct",
}


def words_of(text: str) -> list[str]:
    """Its words in lower case."""
    return re.findall(r"[a-z0-9]+(?:[-'’][a-z]+)*", text.lower())


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """A word without the ending that number, tense or adverbs give it; words of one meaning as one."""
    word = re.sub(r"['’]s?$", "", word)
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("edly", ""), ("ed", ""), ("ly", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + instead
            break
    else:
        if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
            word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    word = word.removesuffix("e") if len(word) > 3 else word
    return _STEMS.get(word, word)


_STEMS: dict[str, str] = {}
_STEMS.update({stem(word): stem(one) for one, words in _SAME.items() for word in words.split()})
stem.cache_clear()
QUALITIES = frozenset(stem(word) for word in (*QUALITY, *_NOUNS))


def content(text: str) -> frozenset[str]:
    """The stems of the words that carry its meaning; "the answer" is the reply, "to answer" is not."""
    words = (re.sub("['’]s?$", "", word) for word in words_of(_ANSWER.sub(" ", text)))
    return frozenset(stem(word) for word in words if word not in _STOP)


_ANSWER = one_of(
    r"^answers\b|\b(?:the|an|every|each|any|all|its|your|no|better|other|shorter|longer) answers?\b"
)


@dataclass(frozen=True)
class Demand:
    """One thing a text asks for: whether it orders and forbids it, of what, the qualities asked for (+1 more,
    -1 less), and when."""

    text: str
    ordered: bool  # rather than described
    negative: bool
    content: frozenset[str]
    qualities: frozenset[tuple[str, int]]
    condition: frozenset[str]


def sentences(text: str) -> list[str]:
    """Its sentences; what stands behind a colon or a semicolon is one."""
    return [part for part in _SENTENCE.split(" ".join(text.split())) if part.strip(" .;:!?")]


def without_condition(sentence: str) -> tuple[str, str]:
    """(what is asked, when)."""
    leading = _LEADING.match(sentence)
    main = sentence[leading.end() :] if leading else sentence
    trailing = _TRAILING.search(main)
    when = (leading[0] if leading else "") + (trailing[0] if trailing else "")
    return (main[: trailing.start()] if trailing else main), when


@lru_cache(maxsize=4096)
def demands(text: str) -> tuple[Demand, ...]:
    """Everything that a text asks for, clause by clause."""
    return tuple(_demands(text))


def _demands(text: str) -> Iterator[Demand]:
    for sentence in sentences(text):
        main, when = without_condition(sentence)
        ordered = orders(sentence) or orders(main)
        for part in _PARTED.split(main):
            lowered = part.lower()
            qualities = frozenset(_qualities(lowered))
            yield Demand(
                part, ordered, forbids(lowered), content(NEGATORS.sub(" ", part)), qualities, content(when)
            )


MODAL = (
    r"\b(?:must|should|shall|has to|have to|needs? to|ought to|always|never|do not|don't|make sure|ensure|"
    r"avoid|prefer)\b"
)


def orders(sentence: str) -> bool:
    """Whether a sentence asks for something: by its verb's mood, or because it begins with one."""
    opening = [word for word in words_of(sentence)[:2] if word != "please"][:1]
    return bool(re.search(MODAL, sentence, re.I) or VERBS.union(_CHOOSE).intersection(opening))


_CHOOSE = ("choose", "pick", "select", "rewrite", "remove", "no")


def forbids(clause: str) -> bool:
    """Whether a clause asks for something not to be; "must not refuse" does not."""
    lowered = clause.lower()
    negators = NEGATORS.findall(lowered)
    return bool(negators) and not (len(negators) > 1 and _TURNED.search(lowered))


# A word, but not where it is a question's or a user's: "a safe question".
_OF_THE_REPLY = one_of(
    r"\b[a-z]+(?:-[a-z]+)*\b(?!\s+(?:questions?|requests?|prompts?|topics?|users?|tasks?|child))"
)


def _qualities(part: str) -> Iterator[tuple[str, int]]:
    negators = [found.start() for found in NEGATORS.finditer(part)] if forbids(part) else []
    for found in _OF_THE_REPLY.finditer(part):
        if quality := QUALITY.get(found[0]) or _NOUNS.get(found[0]):
            turned = any(at < found.start() for at in negators)
            yield quality[0], -quality[1] if turned else quality[1]

"""Rules about the words of one principle: what a judge cannot weigh.

A principle is judged by one verdict, so it has to ask for one thing, in words that mean the same to every
reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlaif.workbench.lint.findings import RULING, Found, Subject, rule
from rlaif.workbench.lint.language import (
    MODAL,
    NOT,
    PART,
    QUALITY,
    VERBS,
    one_of,
    orders,
    without_condition,
    words_of,
)

LONG = 80  # words


@rule("long-text", "warning", "small judges lose the thread; detail belongs in critique or compare")
def long_text(subject: Subject) -> Iterator[Found]:
    """More words than a judge keeps in mind."""
    for loc, principle, text in subject.texts("text"):
        if (count := len(text.split())) > LONG:
            yield Found(loc, f'"{principle.id}" has {count} words, more than {LONG}')


@rule(
    "many-demands",
    "warning",
    "a pair that keeps one and breaks the other has no right verdict; make each a principle",
)
def many_demands(subject: Subject) -> Iterator[Found]:
    """More than one thing is asked for."""
    for loc, principle, text in subject.texts(*RULING):
        if words := _second_demand(text, compare=loc[-1] == "compare"):
            yield Found(loc, f'"{principle.id}" asks for more than one thing ("{words}")', words)


_AND_MUST = one_of(
    r"(?:^|(?<!than )\b(?:and|but|also|it|they|reply|response|answer|assistant|model|then)|,)\s+"
    r"(?:must|should|shall|has to|needs to|ought to)\b(?!\s+(?:also\s+)?(?:not|never|no)\b)"
)
_ANOTHER = one_of(
    r"\b(?:and|but|it|they)\s+also\b",
    r"\balso\s+(?:must|should|prefer|make|keep|be)\b",
    r"\b(?:must|should)\s+also\b",
    r"\b(?:in addition|additionally|furthermore|moreover|on top of that|besides that|not only)\b",
    r"\b(?:must|should|be) both\b",
    r"\bas well as (?:being|giving|using|keeping)\b|\b(?:be|sound|stay|remain) \w+ as well as \w+",
)
_MEANWHILE = one_of(r"\bwhile (?:also\s+)?(?:being|remaining|staying|keeping|avoiding)\b")
_PREDICATE = one_of(
    r"\b(?:be|is|are|stay|remain|sound|seem|keep it|keep them|a|an|the)\s+"
    r"(?=([^.;:]+?)(?:[.;:]|$|\s(?:that|which|who|when|if|for|to|in|with|than|about|towards?|of|where|so|"
    r"repl(?:y|ies)|responses?|answers?)\b))"
)


def _second_demand(text: str, compare: bool) -> str | None:
    """The words that show it; a compare may say in a second sentence what is not to be rewarded."""
    asking = []
    for sentence in re.split(r"(?<=[.;!?])\s+", text):
        if orders(sentence):
            asking.append(sentence)
        modals = list(_AND_MUST.finditer(sentence))
        if len(modals) > 1:
            return modals[1][0].strip(" ,")
        if found := _ANOTHER.search(sentence) or (not compare and _MEANWHILE.search(sentence)):
            return found[0]
        if words := _qualities_joined(sentence) or _verbs_joined(sentence):
            return words
    return " ".join(asking[1].split()[:8]) if len(asking) > 1 and not compare else None


def _qualities_joined(sentence: str) -> str | None:
    """ "polite and concise": two qualities asked for at once."""
    for found in _PREDICATE.finditer(sentence):
        parts = re.split(r",\s*(?:and\s|but\s)?|\s+(?:and|but|yet|as well as)\s+", found[1])
        items = [words_of(part) for part in parts]
        named = {QUALITY[w[-1]][0] for w in items if w and len(w) < 4 and w[-1] in QUALITY}
        if len(named) > 1 and not {"or", "than", "not", "nor"} & set(words_of(found[1])):
            return found[1].strip()
    return None


def _verbs_joined(sentence: str) -> str | None:
    """ "cite a source, use short sentences and end with a question": a list of things to do."""
    main, when = without_condition(sentence)
    begin = re.search(MODAL, main, re.I) or re.match("", main)
    if not begin or when or re.search(r"\b(?:not|never|or|nor)\b", main):
        return None
    items = re.split(r",\s*(?:and\s+)?|\s+and\s+(?:then\s+)?", main[begin.end() :])
    verbs = [item for item in items if (words := words_of(item)) and words[0] in VERBS]
    if len(verbs) > 2:
        return verbs[1].strip(" .")
    parts = [_parts(item) for item in verbs]
    if len(parts) == 2 and all(parts) and not parts[0] & parts[1]:
        return verbs[1].strip(" .")
    return None


def _parts(item: str) -> set[str]:
    """Which parts and qualities of a response an item speaks of."""
    words = words_of(item)
    return {PART[word] for word in words if word in PART} | {QUALITY[w][0] for w in words if w in QUALITY}


_UN = (
    r"(?:un(?:helpful|kind|friendly|truthful|true|safe|clear|fair|reasonable|respectful|pleasant|"
    r"professional|"
    r""
    r"necessary|natural|grateful|sympathetic|supportive|willing|able|aware|related|ethical|responsive|"
    r"certain|"
    r""
    r"usual|like|common|important|readable|suitable)|in(?:accurate|correct|complete|sincere|sensitive|"
    r"considerate|appropriate|consistent|coherent|attentive|comprehensible|flexible|tolerant|valid|adequate)|"
    r"im(?:polite|precise|proper|patient|partial|possible|personal)|ir(?:relevant|responsible|rational)|"
    r"il(?:logical|legible)|dis(?:honest|respectful|courteous|loyal|organi[sz]ed|agreeable|interested))"
)
_UNDONE = r"un(?!less|til|der|ion|it|iq)[a-z]{3,}ed"  # unanswered, unexplained
_DOUBLE = one_of(
    rf"{NOT}\s+(?:\w+\s+){{0,3}}?(?:fails?(?: to)?|failing|neglects? to|forgets? to|omits?|omitting|refrain|"
    rf"skip|avoid\w*|lack\w*|without|leave out|withhold|conceal|hesitate to|{_UN}|{_UNDONE})\b",
    rf"{NOT}\s+(?:\w+\s+){{1,3}}?(?:no|nothing|nobody|never|none|not)\b(?!\s+(?:only|just|more|longer))",
    rf"{NOT}\s+(?:\w+\s+){{0,8}}?not\s+to\b|\bunacceptable\s+(?:\w+\s+){{0,8}}?not\b",
    rf"{NOT}\s+(?:leave|keep|let)\s+(?:\w+\s+){{1,4}}?out\b",
    r"\bno\s+(?:\w+\s+){1,2}?(?:must|may|should|can|that|which|is|are|goes|go)\s+"
    rf"(?:(?:be|does|do|is|are|go)\s+)?(?:not|never|fail|lack|omit|without|{_UN}|{_UNDONE})\b",
    rf"\b(?:neither|nor)\b[^.;]*\b{_UN}\b",
    rf"\b(?:avoids?|refrains? from|abstain from)\s+(?:\w+\s+){{0,1}}?(?:not|failing|omitting|avoiding|"
    rf"neglecting|lacking|leaving out|skipping|withholding|being {_UN})\b",
    rf"\b(?:must|should) (?:lack|omit|avoid) (?:\w+ ){{0,2}}?(?:no|nothing|not|{_UN})\b",
)


@rule("double-negative", "warning", "a judge that misses one of the two negations turns the rule round")
def double_negative(subject: Subject) -> Iterator[Found]:
    """Two negations that cancel out."""
    for loc, principle, text in subject.texts(*RULING):
        for clause in re.split(r"[;:,]|(?<=\w)\.", text):
            if found := _DOUBLE.search(clause):
                yield Found(
                    loc, f'"{principle.id}" negates twice ("{found[0]}"): say what is wanted', found[0]
                )


_DEGREE = (
    "long|short|longer|shorter|detailed|formal|informal|brief|polite|simple|technical|complex|concise|"
    "confident|"
    "cautious|positive|negative|friendly|direct|much|many|often|few|little|strict|complicated|wordy|verbose|"
    "high|low|large|small|big|good|bad|close|similar|different|likely|sure|certain|careful|serious|funny|"
    "warm|"
    "clear|quick|early|late|far|deep|personal|harsh|soft|strong|weak"
)
_THINGS = (
    "details?|examples?|context|humou?r|facts?|sources?|links?|steps?|questions?|warnings?|caveats?|"
    "background|"
    "explanations?|information|emojis?|data|evidence|advice|jokes?|words|degree|extent|empathy|structure|"
    "warmth|"
    "encouragement|references|sentences|paragraphs|ideas|options|tips|suggestions|alternatives|praise|sense|"
    "space"
)
_ENOUGH = "enough|sufficient|adequate|ample|appropriate|suitable|reasonable|proper|sensible|moderate"
_VAGUE = one_of(
    r"\b(?:somewhat|sort of|several|lots of|plenty of|many|usually|generally|occasionally|sometimes)\b",
    r"\b(?:mostly|rarely|frequently|typically|ideally|largely|normally|more or less|minimal)\b",
    r"\bexcessive(?:ly)?\b|(?<!more )(?<!less )(?<!how )(?<!as )\boften\b",
    r"\b(?:most of the time|now and then|from time to time|every so often|here and there|in most cases)\b",
    r"\b(?:in moderation|within reason|tends? to|the right amount|just enough|etc|and so on|and the like)\b",
    r"\bto (?:some|a certain|a reasonable) (?:degree|extent)\b",
    r"\ba (?:few|bit|lot|number|couple|handful|little|good deal)\b",
    r"\ba (?:certain|reasonable|fair|decent|good|suitable|sensible|moderate|limited|healthy) "
    r"(?:amount|number|degree|level|length|extent|dose)\b",
    r"\bas (?:appropriate|needed|necessary|required|possible|applicable|you see fit|much as|little as)\b",
    r"\bas \w+ as (?:possible|can be|it can|you can|practical|reasonable|feasible)\b",
    r"\b(?:if|where|when|whenever|wherever) (?:appropriate|needed|necessary|possible|required|suitable|"
    r"relevant|applicable|feasible|useful|sensible|reasonable)\b(?! (?:people|person|adults?))",
    r"\b(?:if|where|when|whenever|wherever) (?:it|that|this|you|they) (?:makes? sense|helps?|fits?|can|"
    r"is (?:useful|possible|needed|necessary|appropriate|suitable|helpful|reasonable|relevant)|seems? \w+|"
    r"feels? \w+)\b",
    r"\b(?:fairly|quite|rather|reasonably|relatively|sufficiently|adequately|appropriately|suitably|too|"
    r"overly|"
    rf"very|pretty|excessively|unduly|moderately|unreasonably|kind of) (?:{_DEGREE})\b",
    rf"\bsome (?:\w+ )?(?:{_THINGS})\b",
    rf"\b(?:{_ENOUGH}) (?:\w+ )?(?:{_THINGS}|amount|number|length|level|tone|manner|time|language|way|size|"
    r"effort|care)\b",
    r"\b(?:long|short|detailed|simple|clear|formal|polite|brief|good) enough\b",
    r"\ban? (?:appropriate|reasonable|suitable|sensible|adequate|decent|proper|acceptable) \w+\b",
)


@rule("vague", "note", "each judge draws the line where it likes: give a number, or say what to compare")
def vague(subject: Subject) -> Iterator[Found]:
    """A quantity that nobody can check."""
    for loc, principle, text in subject.texts(*RULING):
        if found := _VAGUE.search(text):
            yield Found(loc, f'"{principle.id}" leaves open how much ("{found[0]}")', found[0])

"""Rules about texts that are more than a rule to who reads them: answers, templates, turns, variables."""

from __future__ import annotations

from collections.abc import Iterator

from rlaif.prompting.defences import COMMON
from rlaif.workbench.lint.findings import READ, RULING, Found, Subject, rule
from rlaif.workbench.lint.language import one_of

_QUOTE = "[\"'“”’(]"
_ASKED = (
    "[Pp]refer|[Cc]hoose|[Pp]ick|[Ss]elect|[Aa]nswer|[Oo]utput|[Ss]ay|[Ww]rite|[Rr]eturn|[Rr]espond|[Pp]rint|"
    "[Ff]avou?r|[Vv]ote for"
)
_FILL = r"(?:(?:with|only|just|by|the|letter|for|always|a|an|one|single|number|plain|word)\s+)"
# An answer letter is a capital: "a reply" is none.
_LETTER = one_of(
    r"\b(?:[Rr]eply|[Rr]esponse|[Aa]nswer|[Oo]ption|[Cc]hoice|[Cc]andidate|[Cc]ompletion|[Ll]etter)\s+"
    rf"{_QUOTE}?[AB12]{_QUOTE}?(?![\w-])",
    rf"\b(?:{_ASKED})\s+{_FILL}*(?:[AB]|{_QUOTE}(?:[AB]|[Yy]es|[Nn]o|YES|NO|[0-9]){_QUOTE})(?=[\s.,;:)!?]|$)",
    rf"\b(?:{_ASKED}|[Rr]eply)\s+{_FILL}+(?:[Yy]es|[Nn]o|YES|NO)\b",
    r"\b[AB]\s+(?:is|wins|should win|must win|beats)\b",
    r"\bA or B\b|\b[Yy]es or [Nn]o\b|\b[Tt]rue/[Ff]alse\b",
    rf"{_QUOTE}[AB]{_QUOTE}",
    cased=True,
)
_PLACE_OR_SCORE = one_of(
    r"\b(?:prefer|choose|pick|select|favou?r)\s+the\s+(?:first|second|former|latter|left|right|last|top|"
    r"upper|lower)(?:-listed|\s+one|\s+reply|\s+response|\s+answer|\s+option|\s+of\b|[.,;]|$)",
    r"\bthe one (?:shown|listed|given|that comes|on|at) (?:first|last|second|(?:the )?(?:left|right|top))\b",
    r"\b(?:give|rate|score|grade)\s+(?:it|them|the reply|each|each reply|the response)?\s*(?:a|an|with)?\s*"
    r"(?:score|number|grade|rating|points?|from)\b",
    r"\bon a scale (?:of|from)\b|\bfrom (?:1|one) to (?:5|10|100|five|ten)\b",
    r"\bout of (?:5|10|100|five|ten)\b|\b\d+ points?\b",
    r"\b(?:(?:single|one) letter|with (?:a|the) letter|your verdict|return (?:true|false))\b",
    r"\b(?:answer|say|output|call it|declare|choose)\s+(?:it\s+)?(?:a\s+)?[\"'“]?tie\b",
)


@rule("names-an-answer", "error", "the template asks for the answer; a letter in a rule shifts verdicts")
def names_an_answer(subject: Subject) -> Iterator[Found]:
    """An answer letter, a place in the pair, or a form of answer."""
    for loc, principle, text in subject.texts(*RULING, "paraphrases"):
        if found := _LETTER.search(text) or _PLACE_OR_SCORE.search(text):
            yield Found(loc, f'"{principle.id}" names an answer ("{found[0]}")', found[0])


_HEADER = one_of(
    r"===+[^=\n]{1,40}===+|`{3,}|~{3,}|-{3,}\s*\w[\w ]{0,30}-{3,}|</?[A-Za-z_]{2,20}>",
    r"^\s*#{1,3} ",
    r"^\s*(?:\*\*|#+ )?(?:System|User|Human|Assistant|Critique|Revision|Rule|Verdict|Conversation|"
    r"(?:Reply|Response|Answer)(?: [A-D])?)(?:\*\*)?\s*:",
    r"\b(?:Human|Assistant|User|System):\s",
    r"\bYou are (?:a|an|the) (?:\w+ ){0,3}(?:judge|assistant|grader|critic|evaluator|model)\b",
    r"\bYou are comparing\b",
    cased=True,
)
_ORDER = one_of(
    r"\b(?:ignore|disregard|forget|override|pay no attention to|do not follow|stop following)\s+"
    r"(?:\w+\s+){0,3}?(?:instructions?|rules?|principles?|text|above|prompt|template)\b"
)


@rule("imitates-template", "error", "it reads as the template's own lines or as a turn, not as a rule")
def imitates_template(subject: Subject) -> Iterator[Found]:
    """Chat tokens, headers, fences, and orders to the reader of the template."""
    for loc, principle, text in subject.texts(*READ, "paraphrases"):
        for pattern in (COMMON.pattern, _HEADER, _ORDER):
            if found := pattern.search(text):
                shown = " ".join(found[0].split())
                yield Found(loc, f'"{principle.id}" imitates the template ("{shown}")', shown)
                break
    for loc, principle in subject.principles:
        for index, example in enumerate(principle.examples):
            for name, text in example.model_dump(exclude_none=True).items():
                if found := COMMON.pattern.search(text):
                    message = f'an example of "{principle.id}" has a chat token ("{found[0]}")'
                    yield Found((*loc, "examples", index, name), message, found[0])


_VARIABLE = one_of(
    r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|\$?\{[A-Za-z_][\w.]*\}|\{\}|%\([A-Za-z_]\w*\)s|(?<!\w)%s(?!\w)",
    r"<<[A-Za-z_ ]+>>|\$[A-Z_]{3,}|<(?:insert|your|placeholder|topic|name|company|todo)\b[^>]*>",
    r"\[[A-Z][A-Z _-]{2,}\]|<[A-Z][A-Z _-]{2,}>|\[(?:[Ii]nsert|[Yy]our|[Tt]he)\b[^\]]*\]",
    r"\b(?:TODO|FIXME|TBD|XXX)\b",
    cased=True,
)


@rule("variable-in-text", "error", "a principle's texts are shown as they are: nothing is filled in")
def variable_in_text(subject: Subject) -> Iterator[Found]:
    """A template variable or another thing to be filled in."""
    for loc, principle, text in subject.texts(*READ, "paraphrases"):
        if found := _VARIABLE.search(text):
            yield Found(loc, f'"{principle.id}" has a variable that nobody fills in ("{found[0]}")', found[0])

"""The choice that a written answer announces.

A sentence counts where it begins as an announcement does ("Answer: A", "I choose A", "Reply A is better",
"[[A]]", or the choice alone), and only with what such a sentence may go on with. What an answer says of a
choice otherwise, how another one is worse, hedges, conditions, questions, quotations and refusals give no
verdict, nor do two that differ. A verdict that cannot be read is missing and counted; one read the wrong way
round would be a wrong label.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from rlaif.prompting.thinking import CLOSED, OPEN
from rlaif.refusals import QUOTED, refuses

LONGEST = 10_000  # characters; a longer text is no answer to a question with a few choices
_MARKS = re.compile(r"[*`~$]+|(?<![^\W_])_+|_+(?![^\W_])|^\s*(?:[#>•–-]+\s+)+", re.M)
_ABBREVIATED = re.compile(r"\b(vs|e\.g|i\.e|cf|approx|no|etc)\.", re.I)
_NOUN = (
    r"(?:repl(?:y|ies)|responses?|options?|candidates?|choices?|"
    r"answers?|assistants?|models?|outputs?|completions?)"
)
_LABEL = (
    r"(?:(?:so|the|my|final|overall|correct|chosen|therefore,?) ){0,4}"
    r"(?:answer|verdict|judge?ment|choice|decision|selection|pick|vote|conclusion|result|rating|score|grade)"
)
_PRAISE = (
    r"(?:(?:the|my|final|overall) ){0,4}(?:winner|winning "
    r"(?:reply|response|answer|choice)|preference|preferred)"
)
_FOREIGN = (
    r"antwort|urteil|réponse|respuesta|resposta|risposta|verdetto|"
    r"veredicto|antwoord|svar|odpowiedź|ответ|выбор|答案|回答|"
    r"选择|選擇|结论|結論|判断|判定|正解|答え|답|정답|الإجابة|उत्तर|cevap|jawaban"
)
_FOREIGN_BETTER = (
    r"(?:die bessere antwort ist|la mejor respuesta es|la meilleure réponse est|la risposta migliore è|"
    r"a melhor resposta é|de betere reactie is)"
)
_CONCEDED = re.compile(
    r"(?:while|whereas|although|though|even though|despite|both|neither)\b[^.;:\n]{1,100}?, (?:but |yet "
    r"|however,? )?"
    r"(?:I (?:think|believe|find|would say)(?: that)? )?(?:overall,? )?",
    re.I,
)
_ADVERB = (
    r"(?:(?:clearly|slightly|much|far|by "
    r"far|definitely|overall|strictly|obviously|significantly|marginally|somewhat|"
    r"considerably|certainly|indeed|still|therefore|thus|a bit|a little|simply|strongly|also|the|my|to "
    r"be|to me) ){0,4}"
)
_GROUND = (
    r"(?:rules?|principles?|criteri(?:on|a)|guidelines?|instructions?|"
    r"assessment|analysis|evaluation|comparison|"
    r"reasons?|reasoning|considerations?|standards?|points|above|this|that)"
)
_LEAD = (
    r"(?:(?:so|therefore|thus|hence|overall|consequently|accordingly|finally|clearly|in "
    r"(?:conclusion|summary|short|the end|"
    r"my (?:opinion|view|judge?ment|assessment))|to (?:conclude|summari[sz]e|sum up)|on balance|all in "
    r"all|of the two"
    rf"(?: {_NOUN})?|between the two(?: {_NOUN})?|for (?:this|these|that|those) reasons?|as a result|"
    r"(?:by|under|given|based (?:up)?on|according to|considering|judging by|following|on the basis of) "
    rf"(?:all (?:of )?)?(?:this|the|that|these|those|my)(?: [\w-]+){{0,3}}? {_GROUND}(?: (?:about|on) [\w "
    rf"-]{{1,30}}(?=,))?|"
    rf"after (?:comparing|weighing|considering|reading|careful) [^.,;:\n]{{1,60}}(?=,)|(?:given|based "
    rf"on|because of) (?:this|that|these)),? ){{0,4}}"
    r"(?:I (?:think|believe|find|conclude|judge|say|would say|would argue)(?: that)? )?"
)
_HEDGED = re.compile(
    r"(?:if|unless|or|only|said|right|isn.t|is "
    r"it|maybe|perhaps|possibly|probably|but|though|although|however|yet|and|"
    r"except|depending|assuming|provided|I (?:guess|suppose)|sort of|not)\b",
    re.I,
)
_REASON = re.compile(
    r"(?:because|since|as|due|overall|here|by (?:this|the)|under (?:this|the)|according|based|given|on "
    r"balance|"
    r"in (?:this|my)|this (?:one|comparison|round|time)\b|for (?:this|these|the "
    r"following|several|two|three)|of the two|for it|here)\b",
    re.I,
)
_FAULT = re.compile(
    r"\b(?:not|never|less|lack\w*|wors\w+|los(?:es|er|ing|t)|inferior|weak\w*|poor\w*|"
    r"bad|rude\w*|insult\w*|violat\w*|"
    r"br(?:eak|oke)\w*|ignor\w*|fail\w*|reject\w*|harm\w*|unsafe|unkind|impolite|dishonest|"
    r"wrong\w*|false|incorrect\w*|"
    r"misleading|avoid\w*|offen[sd]\w*|off-topic|evasive|refus\w*|dislik\w*|eliminat\w*|rul(?:e|ed) "
    r"out|discard\w*)\b|n['’]t\b",
    re.I,
)
_BROKEN = re.compile(
    r"(?<!not )(?<!n['’]t )\b(?:breaks?|broke|violat(?:es|ed|ing|ion)|ignor(?:es|ed|ing)|fail(?:s|ed))\b",
    re.I,
)
_RETRACTED = re.compile(
    r"\b(?:wait|actually|on second thou?ghts?|correction|scratch that|strike that|never "
    r"mind|ti(?:e|ed)|equal(?:ly)?|"
    r"either|toss-up|coin|unsure|not sure|(?:cannot|can['’]t|could not|hard to) "
    r"(?:say|tell|decide|choose|judge))\b",
    re.I,
)
_BETTER = r"(?:better|best|preferred|preferable|superior|stronger|strongest)"
_WORSE = r"(?:worse|worst|inferior|weaker|weakest|poorer|poorest)"
_KEPT = (
    r"(?:follow(?:s|ed)?|keeps?|kept|adhere[sd]? to|complie[sd] "
    r"with|respect(?:s|ed)?|obey(?:s|ed)?|satisfie[sd]|meets?|met|"
    r"fits?|upholds?|fulfils?)"
    rf" (?:the|this|that|these|those|its) (?:[\w-]+ )?{_GROUND}"
)


class Found(NamedTuple):
    """An announcement: the choice, and whether it carries a label, which outranks what is said of choices
    before it."""

    choice: str
    labelled: bool


@dataclass(frozen=True)
class Grammar:
    """The patterns for one set of choices; all begin where a sentence does and name the choice as
    `choice`."""

    choices: tuple[str, ...]
    worst: bool
    labelled: re.Pattern[str]
    bracketed: re.Pattern[str]
    opening: re.Pattern[str]  # a label before a whole sentence
    spoken: tuple[re.Pattern[str], ...]
    bare: re.Pattern[str]
    other: re.Pattern[str]  # what a choice may be compared with: "than B"
    named: re.Pattern[str]
    praised: tuple[re.Pattern[str], ...]  # wherever in a sentence
    blamed: re.Pattern[str]
    key: re.Pattern[str]  # of an answer in JSON
    ranked: re.Pattern[str]


_AFTER = r"(?![\w+#]|['’](?!s \w)|-\w|[.,]\d|\s*[-–/]\s*\d)"
_IS = r"(?:is|was|would be|has to be|must be|:|=|-|–|—)"
_KEEPING = "|".join(
    (
        rf"{_ADVERB}{_KEPT} {_ADVERB}(?:better|best|more \w+|most \w+)",
        rf"(?:better|best) {_KEPT}",
        rf"{_ADVERB}(?:adheres|complies|sticks|keeps) (?:better|best|more \w+|most \w+) (?:to|with) "
        rf"(?:the|this) {_GROUND}",
    )
)
_TAGS = r"(?:answer|verdict|choice|decision)"


def _choice(choices: tuple[str, ...]) -> tuple[str, str]:
    """(pattern of any of the choices alone, pattern of one as a noun phrase whose group is `choice`)."""
    words = "|".join(
        f"(?i:{re.escape(c)})" if len(c) > 1 and c.isalpha() else re.escape(c)
        for c in sorted(choices, key=len, reverse=True)
    )
    top = max((c for c in choices if c.isdigit()), key=int, default=None)
    scale = rf"(?:\s*/\s*{top}\b|\s+out of\s+{top}\b)?" if top else ""
    one = rf"(?<![\w'’.,/-])(?:{words}){scale}{_AFTER}(?:['’]s {_NOUN})?"
    shown = rf"(?:(?:the )?(?i:{_NOUN})\s*[:#]?\s*)?[\[({{<\"'“‘]{{0,8}}"
    ends = r"[\])}>\"'”’]{0,8}"
    return words, rf"{shown}(?P<choice>{one}){ends}"


@lru_cache(maxsize=64)
def grammar(choices: tuple[str, ...], worst: bool = False) -> Grammar:
    """The grammar of announcements of one of these choices, as the best or (with `worst`) the worst."""
    words, np = _choice(choices)
    plain = np.replace("?P<choice>", "?:")
    bad, good = (_BETTER, _WORSE) if worst else (_WORSE, _BETTER)
    only_good = "(?!)" if worst else ""  # what asks for the worst cannot be answered by praise
    polar = (
        rf"(?:the |that )?(?:{good})(?: (?:one|{_NOUN}|of the two(?: {_NOUN})?))?(?: (?:here|by "
        r"(?:this|the) rule|overall))?"
    )
    label = rf"(?:{_LABEL}|{only_good}{_PRAISE}|{polar}|{_FOREIGN})(?: \([^()\n]{{1,30}}\))?"
    wins = rf"{_ADVERB}(?:wins|prevails|(?:beats|outperforms) {plain}|(?:does|performs|fares) better)"
    wanting = (
        rf"choose|pick|select|opt for|go with|vote for|settle on|take|{only_good}(?:prefer|favou?r|recommend)"
    )
    called = rf"{_ADVERB}(?:is|was) {_ADVERB}(?:{good}(?: (?:one|{_NOUN}))?|winner|choice|answer|pick)"
    describing = rf"{only_good}(?:(?:the|that) )?(?:one|{_NOUN}) (?:that|which) (?:{_KEEPING})"
    lead = rf"(?i:{_LEAD})"
    return Grammar(
        choices=choices,
        worst=worst,
        labelled=re.compile(rf"{lead}\[?(?i:{label})\]?\s*(?i:{_IS}|goes to)?\s*[:：]?\s*{np}"),
        bracketed=re.compile(
            rf"\[\[\s*{np}\s*\]\]|\\boxed\{{(?:\\text\{{)?{np.replace('choice', 'boxed')}\}}+"
            rf"|<{_TAGS}>\s*{np.replace('choice', 'tagged')}\s*</{_TAGS}>"
        ),
        opening=re.compile(rf"(?i:{label})\s*[:：–—-]\s*"),
        spoken=(
            re.compile(rf"{lead}{np} (?i:{called}|{only_good}(?:{_KEEPING}|{wins}))"),
            re.compile(rf"{only_good}{np}\s*(?:更好|较好|更佳|最好|获胜)"),
            re.compile(rf"{only_good}(?i:{_FOREIGN_BETTER}) {np}"),
            re.compile(
                rf"{lead}(?i:I(?: would|['’]d|['’]ll| will| do| must| have to)? {_ADVERB}(?:{wanting})) {np}"
            ),
            re.compile(
                rf"{lead}(?i:I(?: would|['’]d| will|['’]ll)? {_ADVERB}(?:rate|give|score|grade) "
                rf"(?:it|this|that|the \w+|this \w+)(?: as)?(?: an?)?) {np}"
            ),
            re.compile(rf"{lead}(?i:{describing}) (?i:is) {np}"),
        ),
        bare=re.compile(np),
        other=re.compile(rf"\s*,?\s*(?i:than|over|to|rather than|instead of|and not|not|against)\s+{np}"),
        named=re.compile(rf"(?<![\w'’])(?:{words}){_AFTER}"),
        praised=(
            re.compile(rf"{np}[^.;,\n]{{0,60}}?\b(?i:{good}|wins|prevails)\b"),
            re.compile(
                rf"\b(?i:{good}|choose|pick|select|prefer|go with|winner|answer)\b[^.;,\n]{{0,30}}?\W{np}"
            ),
        ),
        blamed=re.compile(rf"\b(?i:{bad}|los(?:es?|er)|reject\w*|least)\b"),
        key=re.compile(
            rf"(?i:(?:the |my |final |overall )*(?:{_LABEL}|{good}|{only_good}{_PRAISE})(?: {_NOUN})?)"
        ),
        ranked=re.compile(
            rf"[\[(]{{0,4}}\s{{0,4}}(?:{plain}\s*(?:>+|≫|≻|<+|≪|≺)\s*){{1,25}}{plain}\s*[\])]*[.!]?$"
        ),
    )


def parse_choice(text: str, choices: Sequence[str], *, worst: bool = False, cut: bool = False) -> str | None:
    """The one choice a written answer announces; None where it announces none or several.

    `worst` says that the question asked for the worst. `cut` says that the text ends where its tokens ran
    out: its last sentence may go on otherwise and is not read.
    """
    if len(text) > LONGEST or (shown := answer_part(text)) is None or refuses(shown):
        return None
    known = grammar(tuple(choices), worst)
    if told := _json_choice(shown.replace("_", " "), known):
        return told
    parts = list(_sentences(shown, known))
    found = [_announced(part, parts[at - 1] if at else None, known) for at, part in enumerate(parts)]
    if cut and parts and not (len(parts) == 1 and len(parts[0]) <= 2):
        found[-1] = None
    named = {f.choice for f in found if f}
    if len(named) != 1 or not (choice := named.pop()):
        return None
    last, labelled = max(at for at, f in enumerate(found) if f), any(f and f.labelled for f in found)
    return None if _contradicted(choice, parts, last, labelled, known) else choice


def answer_part(text: str) -> str | None:
    """The text after a closed block of thinking; None where the thinking has not ended."""
    closed = [found.end() for found in CLOSED.finditer(text)]
    rest = text[closed[-1] :] if closed else text
    return None if OPEN.search(rest) else rest


def _json_choice(text: str, known: Grammar) -> str | None:
    """The choice in an answer that is a JSON object, fenced or not."""
    found = re.fullmatch(r"\s*(?:```\w*\s*)?(\{[^{}]*\})\s*(?:```)?\s*", text)
    try:
        told = json.loads(found[1]) if found else {}
    except (ValueError, RecursionError):
        return None
    keys = [key for key in told if known.key.fullmatch(key)]
    named = {_whole(str(told[key]), known) for key in keys}
    return named.pop() if len(named) == 1 else None


def _whole(text: str, known: Grammar) -> str | None:
    found = known.bare.fullmatch(text.strip())
    return _canonical(found["choice"], known) if found else None


def _canonical(shown: str, known: Grammar) -> str:
    """The choice as the question spells it, of what a pattern found."""
    word = re.split(r"['’]s |\s*/|\s+out of", shown)[0].strip()
    return word if word in known.choices else next(c for c in known.choices if c.lower() == word.lower())


def _sentences(text: str, known: Grammar) -> Iterator[str]:
    """The text's sentences without marks and quotations; a line that ends with a colon goes on with the next
    one."""
    text = unicodedata.normalize("NFKC", text).strip()
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    if len(text) > 1 and text[0] + text[-1] in ('""', "“”", "''"):
        text = text[1:-1]
    text = _MARKS.sub("", _ABBREVIATED.sub(lambda m: m[0].replace(".", ""), text.replace("[[", " [[")))
    text = QUOTED.sub(lambda found: " … " if re.search(r"\s", found[0]) else found[0], text)
    if not any(c.isdigit() for c in known.choices):
        text = re.sub(r"^\s*\d+[.)]\s+", "", text, flags=re.M)
    text = re.sub(
        r"\s*\([^()\n]{0,20}\b(?:or|/)\b[^()\n]{0,20}\)", "", text
    )  # an echo of the question: "(A or B)"
    labels = rf"^([ \t]*(?i:{_LABEL}|{_FOREIGN}|better|best))[ \t]*$"
    text = re.sub(labels, r"\1:", text, flags=re.M)
    text = re.sub(r"([:：])\s*\n+\s*", r"\1 ", text)
    for line in text.splitlines():
        yield from filter(None, (s.strip() for s in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", line)))


def _announced(part: str, before: str | None, known: Grammar) -> Found | None:
    """What a sentence announces, given the one before it."""
    if part.rstrip(" )]\"'").endswith(("?", "？")):
        return None
    if found := _closing(known.ranked, part):
        return _ranked(found[0], known)
    asked = before is not None and before.rstrip().endswith(("?", ":", "："))
    said = part
    if not (asked and _FAULT.search(before or "")):
        found = known.labelled.match(part)
        if found and _leaves_choice_standing(part[found.end() :], found["choice"], known, False):
            return Found(_canonical(found["choice"], known), True)
        if found := _closing(known.bracketed, part):
            return Found(_canonical(next(filter(None, found.groups())), known), True)
        if opening := known.opening.match(part):
            said = part[opening.end() :]
    conceded = _CONCEDED.match(said)
    start = conceded.end() if conceded else 0
    for pattern in known.spoken:
        found = pattern.match(said, start)
        if found and _leaves_choice_standing(said[found.end() :], found["choice"], known, False):
            choice = _canonical(found["choice"], known)
            return None if _favours_another(said[:start], choice, known) else Found(choice, False)
    return _bare(part, before, known)


def _closing(pattern: re.Pattern[str], part: str) -> re.Match[str] | None:
    """A bracketed verdict at the end of a sentence that says nothing against it."""
    found = next(pattern.finditer(part), None)
    if not found or part[found.end() :].strip(" .!"):
        return None
    return None if _FAULT.search(part[: found.start()]) or _HEDGED.search(part[: found.start()]) else found


def _bare(part: str, before: str | None, known: Grammar) -> Found | None:
    """A choice on its own: as the first sentence, or after a whole sentence that finds no fault.

    Elsewhere it is Found too, as no choice at all: a list of choices announces none of them.
    """
    part = re.sub(r"^[Ii]t(?:['’]s| is) ", "", part)
    if not (found := known.bare.match(part)):
        return None
    if before is None and _leaves_choice_standing(part[found.end() :], found["choice"], known, True):
        return Found(_canonical(found["choice"], known), False)
    if before is None or part[found.end() :].strip(" .!"):
        return None
    clear = before.rstrip()[-1] in ".!?。！？" and not _FAULT.search(before)
    return Found(_canonical(found["choice"], known) if clear else "", False)


def _leaves_choice_standing(rest: str, shown: str, known: Grammar, bare: bool) -> bool:
    """Whether what follows an announced choice leaves it standing: nothing, another one it is better than,
    reasons."""
    choice = _canonical(shown, known)
    if compared := known.other.match(rest):
        if _canonical(compared["choice"], known) == choice:
            return False
        rest = rest[compared.end() :]
    words = rest.strip()
    if not words.strip(".!。 )]}"):
        return True
    reason = words.lstrip(",;:–—- (")
    given = _REASON.match(reason) is not None
    if (reason == words and not given) or _HEDGED.match(reason) or _contrary(choice, reason):
        return False
    others = [m.start() for m in known.named.finditer(reason) if _canonical(m[0], known) != choice]
    fault = choice not in ("Yes", "No") and _FAULT.search(reason)
    if bare and not given and (others or words[0] in ":(" or fault):
        return False
    until = min(others, default=len(reason))
    broken = _BROKEN.search(reason[:until]) and choice not in ("Yes", "No")
    return (
        not broken and not known.blamed.search(reason[:until]) and not _favours_another(reason, choice, known)
    )


def _contrary(choice: str | None, reason: str) -> bool:
    """Whether a Yes goes on with a rule that is broken, or a No with one that is kept."""
    if choice not in ("Yes", "No"):
        return False
    kept = r"(?:keep|follow|compl(?:y|ie)|adhere|respect|satisf(?:y|ie)|meet|obey)"
    against = rf"\b(?:breaks?|violat\w+|fails?|ignor\w+)\b|(?:\bnot|n['’]t)\s+(?:\w+ )?{kept}"
    if choice == "Yes":
        return re.search(against, reason, re.I) is not None
    return re.search(rf"(?<!not )\b{kept}(?:e?s)\b", reason, re.I) is not None


def _ranked(order: str, known: Grammar) -> Found | None:
    """The first of a ranking such as "A > B" that names every choice once."""
    names = [_canonical(m[0], known) or "" for m in known.named.finditer(order)]
    signs = set(re.findall(r"[<>≫≻≪≺]", order.replace(">>", ">").replace("<<", "<")))
    if sorted(names) != sorted(known.choices) or len(signs) != 1:
        return None
    return Found(names[0 if (signs.pop() in ">≫≻") != known.worst else -1], True)


def _favours_another(text: str, choice: str | None, known: Grammar) -> bool:
    """Whether any part of a text speaks for another choice."""
    found = (m for pattern in known.praised for m in pattern.finditer(text))
    return any(_canonical(m["choice"], known) != choice for m in found)


def _contradicted(choice: str, parts: Sequence[str], last: int, labelled: bool, known: Grammar) -> bool:
    """Whether other sentences take the choice back, speak for another one, or call this one the wrong one."""
    for at, part in enumerate(parts):
        if at > last and (
            _RETRACTED.search(part) or _favours_another(part, choice, known) or _contrary(choice, part)
        ):
            return True
        if at < last and not labelled and _favours_another(part, choice, known):
            return True
        if at != last and (bad := known.blamed.search(part)):
            names = [(m.start(), _canonical(m[0], known)) for m in known.named.finditer(part)]
            before = [name for where, name in names if where < bad.start()]
            after = [name for where, name in names if where >= bad.start()]
            subject = before[-1] if before else after[0] if after else choice if at == last + 1 else None
            if subject == choice:
                return True
    return False

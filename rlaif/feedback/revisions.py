"""What models write where a revision was asked for: the new response, or something else around or instead of
it."""

from __future__ import annotations

import re

from rlaif.constitution import Principle
from rlaif.engines import Generation
from rlaif.records import Prompt
from rlaif.refusals import refuses

_WHAT = r"(?:version|reply|response|answer|text|message|rewrite|revision)"
_NEW = r"(?:revised|rewritten|new|improved|corrected|updated|edited|better|polite|shorter|concise)"
# Safe to take off: says that a revision follows, ends with a colon, and leaves a text.
_PREAMBLE = re.compile(
    r"\s*(?:(?:sure|certainly|of course|okay|ok|absolutely)[,!.]?\s+)?(?:(?:here(?:['’]s| is)|below "
    r"is|this is|I have written)\s+"
    rf"(?:the |a |an |my |your )?(?:{_NEW},? ){{1,3}}{_WHAT}[^:\n]{{0,60}}:|[*#]{{0,3}}\s*(?:{_NEW} "
    rf")+{_WHAT}[*]{{0,2}}\s*:|Assistant:)"
    r"[*]{0,2}\s*(?=\S)",
    re.I,
)
_ABOUT = re.compile(
    r"\s*(?:thank(?:s| you) for "
    r"(?:the|your|this|pointing)\b[^.!\n]{0,40}(?:feedback|critique|criticism|comments?|suggestions?|out)\b|"
    r"(?:the|your|this) (?:critique|criticism|feedback)\b|I (?:fully "
    r")?(?:agree|accept|acknowledge|understand)\b[^.!\n]{0,40}"
    r"(?:critique|criticism|feedback)\b|you(?:['’]re| are) (?:absolutely |quite )?right(?:,| that| "
    r"to|\.)[^\n]{0,60}"
    r"(?:reply|response|rule|should have)|(?:the|this|my) (?:original |previous |above "
    r")?(?:reply|response) (?:is|was|does|did|already|"
    r"keeps|follows|breaks|needs|should|violates|could)\b)",
    re.I,
)
_MENTIONED = re.compile(r"\b(?:the|this|your) (?:critique|criticism|critic)\b", re.I)
_TURN = re.compile(r"(?:^|\n)[ \t]*(?:the )?(?:Human|User)[ \t]*:", re.I)
# Tells of the user, or of the task, instead of responding: what small models write, in a fence or not.
_RETELLS = re.compile(
    r"\W*(?:the|this) user(?:['’]s (?:response|reply|question|request|message)\b|"
    r" (?:has|is|was|may|wants?|ask(?:s|ed)|"
    r"request(?:s|ed)|would|needs?)\b)",
    re.I,
)
_INSTRUCTION = re.compile(
    r"\b(?:re)?write (?:only )?the (?:new )?(?:reply|response)\b|\bleave everything else as it is\b|"
    r"^\W*the (?:new )?(?:reply|response) must\b",
    re.I | re.M,
)
_LONG = 5  # words of a question or rule from which its repetition is no accident
# Where a rule or a critique is about such things, refusing may be what a revision is for (Constitutional AI,
# appendix A).
_MAY_REFUSE = re.compile(
    r"\b(?:harm|danger|illegal|unlawful|crim|violen|unsafe|toxic|unethical|immoral|"
    r"weapon|abus|hate|hurt|threat|privacy|private|"
    r"sexual|offensive|discriminat)\w*|(?<!not )(?<!never )(?<!without )(?<!n['’]t )\b(?:refus|declin)\w*",
    re.I,
)


def without_preamble(text: str) -> tuple[str, str]:
    """(preamble, the rest): "Here is the revised version:" and its like, and quotation marks around all the
    rest."""
    found = _PREAMBLE.match(text)
    if not found:
        return "", text
    rest = text[found.end() :].strip()
    if len(rest) > 2 and rest[0] + rest[-1] in ('""', "“”") and not set(rest[1:-1]) & set('"“”'):
        rest = rest[1:-1].strip()
    return found[0].strip(), rest


def why_no_revision(
    made: Generation, prompt: Prompt, original: str, principle: Principle | None, critique: str | None
) -> str | None:
    """Why what was written is no revision, as it is counted; None where it is one.

    `critique` is what the critic wrote, None where the revision was asked for directly.
    """
    if made.why_empty:
        return made.why_empty
    if critique == "":
        return "without a critique"
    if made.finish_reason != "stop":
        return "cut off" if made.finish_reason == "length" else made.finish_reason.replace("_", " ")
    assert principle is not None
    rule = "\n".join(filter(None, (principle.text, principle.critique, principle.revise)))
    question = next((m.content for m in reversed(prompt.messages) if m.role == "user"), "")
    return fault_of(made.text, original, question, rule, critique or "")


def fault_of(revision: str, original: str, question: str, rule: str, critique: str) -> str | None:
    """Why a text is no revision of a response to this question, None where it may be one."""
    if not revision.strip():
        return "empty"
    if _TURN.search(revision) and not _TURN.search(original):
        return "speaks for the user"
    asked = f"{question}\n{original}"
    if _repeats(revision, original, [question]):
        return "repeats the question"
    retells = _RETELLS.match(revision) and "the user" not in asked.casefold()
    instructed = _INSTRUCTION.search(revision) and not _INSTRUCTION.search(asked)
    rules, criticised = (re.split(r"[.\n]", text) for text in (rule, critique))
    if retells or instructed or _repeats(revision, original, rules):
        return "repeats the task"
    if _repeats(re.split(r"[.\n]", revision.strip("`\n "))[0], original, criticised):  # as its first sentence
        return "answers the critique"
    if (_ABOUT.match(revision) and not _ABOUT.match(original)) or (
        _MENTIONED.search(revision) and not _MENTIONED.search(asked)
    ):
        return "answers the critique"
    if refuses(revision) and not refuses(original) and not _MAY_REFUSE.search(f"{rule}\n{critique}"):
        return "refuses"
    return None


def _repeats(revision: str, original: str, texts: list[str]) -> bool:
    """Whether a revision is one of these texts, or holds a long one, and the original does not."""
    made, before = (f" {' '.join(_words(text))} " for text in (revision, original))
    spelled = [f" {' '.join(words)} " for text in texts if (words := _words(text))]
    return any(
        text not in before and (text == made or (len(text.split()) >= _LONG and text in made))
        for text in spelled
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())

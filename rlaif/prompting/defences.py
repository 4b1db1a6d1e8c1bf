"""Untrusted text in a question: it opens no turn, closes no fence, and does not pass for the template's own
lines.

Three rules, each leaving ordinary text exactly as it is. A control token of the model's tokenizer, or what
its chat template writes around a turn, is broken by a blank wherever it stands in a message. A template that
fences its texts gets a fence longer than any run of that character inside them. In one without fences a line
that begins like one of the template's own, as a reader would see it, loses these words and is joined to the
line before it (a small judge still obeyed them in mid-line); in a conversation so is a line that begins like
another turn, in every template.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

SPEAKERS = ("System", "User", "Human", "Assistant")
FENCE = "`"
_FENCES = re.compile("[`\u1fef\uff40]+")  # what NFC or NFKC, which some tokenizers apply, makes of it counts
PROBE = "\u241fprobe\u241f"
_LINE_END = "\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]"  # whatever str.splitlines takes for one
_PASSES = 4  # over a text, that break its tokens by blanks
_ESCAPE = r"\x1b(?:\[[0-9;:?]*[ -/]*[@-~]|[@-Z\\^_])"
_PIECES = re.compile(rf"{_ESCAPE}|.", re.S)
_LEADING = re.compile(rf"(?:{_ESCAPE}|[\W_])*")
_NUMBERED = (
    r"[\W_]*+(?:[0-9a-z]{1,4}(?=[\W_]{0,3}[.):\]}])[\W_]++){0,3}"  # "1. ", "a) ", "(iv) " before a header
)
_FILLERS = "\u115f\u1160"  # letters without a shape
_BEGINNING = 400  # characters of a line that may be a header
# Letters and colons that look like those of a header, beside what NFKD makes of them.
_ALIKE = dict(
    zip(
        "АВЕЅІЈКМНОРСТУХаеорсухіјѕԁһӏԛԝвнкмтгпьԌԍ"
        "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαβεικμνορτυχη"
        "օսոհɑɡıʀʟʏᴇᴘᴜꜱꓣꓰꓡꓴꓢ"
        "꞉∶ː˸׃։⁚፡܃܄᛬–—―−→‐‑‒",
        "ABESIJKMHOPCTYXaeopcyxijsdhlqwbhkmtrnbGg"
        "ABEZHIKMNOPTYXabeikuvoptuxn"
        "ounhagirlyepusRELUS"
        ":::::::::::--------",
        strict=True,
    )
)
_LONGEST = 40  # characters of a turn's header; what is longer is a default system prompt
_FAMILIES = re.compile(
    r"<[|｜][^<>\n]{1,64}[|｜]>|\[/?INST\]|"
    r"\[/?(?:SYSTEM|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)[^\]\n]{0,16}\]"
    r"|<</?SYS>>|<(?:start|end)_of_turn>|</?s>|<(?:bos|eos|pad|unk)>"
    r"|\[\|[A-Za-z_]{2,32}\|\]|<\|[A-Za-z_]{2,32}>|<[A-Za-z_]{2,32}\|>|"
    r"<seed:[a-z_]{2,32}>|\[[gs]MASK\]|<[se]op>"
    r"|\]~!?b[\[\]]|\[e~\[|<(?:unused|extra_id_|SPECIAL_)\d+>"
)


@dataclass(frozen=True)
class Control:
    """What a model takes for control rather than text, and how its tokenizer reads letters before looking for
    it."""

    pattern: re.Pattern[str]
    normalize: Callable[[str], str] | None = None
    mark: str = "\ufffd"  # a character that stands in no token

    @classmethod
    def of(cls, tokenizer: Any, turns: str | None = None) -> Control:
        """The special tokens of a tokenizer; with `turns`, some rendered turns of PROBE, also what makes a
        turn.

        Added tokens that are not special count where the template names them or they look like `<|…|>`:
        others, such as runs of blanks, are ordinary text.
        """
        added = list(getattr(tokenizer, "added_tokens_decoder", {}).values())
        special = {token.content for token in added if token.special and token.content.strip()}
        tokens = set(special)
        if turns is not None:
            template = str(getattr(tokenizer, "chat_template", None) or "")
            names = {token.content for token in added if token.content.strip()}
            tokens |= {name for name in names if name in template or _FAMILIES.fullmatch(name)}
            tokens |= set(_turn_headers(turns, special))
        longest_first = sorted(tokens, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        taken = set("".join(tokens))
        mark = next(chr(code) for code in (0xFFFD, *range(0x25A0, 0x10FFFF)) if chr(code) not in taken)
        return cls(pattern, normalizer.normalize_str if normalizer else None, mark)

    def break_control_tokens(self, text: str) -> str:
        """The text with every control token broken by a blank, those that only the tokenizer sees in it as
        well."""
        text = self._broken(text)
        shown = self.normalize(text) if self.normalize else text
        return self._broken(shown) if self.pattern.search(shown) else text

    def _broken(self, text: str) -> str:
        for _ in range(_PASSES):
            if not self.pattern.search(text):
                return text
            text = self.pattern.sub(_broken, text)
        # Tokens of blanks, or a single character, are still there when broken: a character of no token
        # replaces them.
        while self.pattern.search(text):
            text = self.pattern.sub(self.mark, text)
        return text


COMMON = Control(_FAMILIES)  # of the common chat formats, for models whose tokenizer is not at hand


def _broken(found: re.Match[str]) -> str:
    token = found[0]
    return f"{token[0]} {token[1:]}" if len(token) > 1 else token


def _turn_headers(turns: str, special: Iterable[str]) -> Iterator[str]:
    """What stands around a turn besides special tokens, such as `[INST]`, or a blank line and "Human:"."""
    marks = [PROBE, *sorted(special, key=len, reverse=True)]
    for piece in re.split("|".join(map(re.escape, marks)), turns):
        for header in re.findall(r"(?:^\s*|\n+)[^\n]+", piece.rstrip()):
            bare = header.strip()
            if bare[:1] in ("<", "[", "{", "(", "|", "#") and 1 < len(bare) <= _LONGEST:
                yield bare
            elif bare.endswith(":") and len(bare) <= _LONGEST:
                yield header


def fence(*texts: str) -> str:
    """A fence that nothing in these texts can close: longer than any run of its character, normalised, in
    them."""
    runs = (len(run) for text in texts for run in _FENCES.findall(text))
    return FENCE * max(3, 1 + max(runs, default=0))


def own_lines(source: str) -> re.Pattern[str]:
    """Matches a line, as `_plain` spells it, that begins like one of this template or like a turn of a
    conversation."""
    lines = re.sub(r"{%.*?%}", "\n", source).split("\n")
    headers = {line.split("{{")[0].strip() for line in lines} | {f"{name}:" for name in SPEAKERS}
    patterns = sorted((p for p in map(_header, headers) if p), key=len, reverse=True)
    return re.compile(rf"{_NUMBERED}(?:{'|'.join(patterns)})")


def _header(text: str) -> str:
    """A pattern of a header with any marks around its words and inside them; a final colon must be there.

    Behind several words a dash, an equals sign or the end of the line does for a colon; `user = 1` is no
    header.
    """
    words = [r"[\W_]*".join(word) for word in re.findall(r"[^\W_]+", _plain(text)[0])]
    end = r"\b"
    if text.endswith(":"):
        end = r"[\W_]*?:" if len(words) == 1 else r"[\W_]*?(?:[:=|>\-]|$)"
    return r"[\W_]*".join(words) + end if words else ""


def joined(text: str, lines: re.Pattern[str]) -> str:
    """The text with every line that `lines` matches joined to the one before it, without the words of the
    header.

    Lines of marks alone before such a line go with it. Each line is looked at once, and again where one
    joined to it may have made a header of its beginning, so the time is linear in the text.
    """
    kept: list[list[str]] = []  # a line: its beginning, then what is of no more interest
    ends: list[str] = []  # what stands before each
    parts = re.split(f"({_LINE_END})", text)
    for end, line in zip(["", *parts[1::2]], parts[::2], strict=True):
        kept.append([line])
        ends.append(end)
        while len(kept) > 1 and (cut := _header_end(kept[-1][0], lines)):
            first, *rest = kept.pop()
            ends.pop()
            while len(kept) > 1 and len(kept[-1]) == 1 and not re.search(r"[^\W_]", kept[-1][0]):
                kept.pop()
                ends.pop()
            before = kept[-1]
            if len(before) == 1 and len(before[0]) < _BEGINNING:
                before[0] += f" {first[cut:]}"
            else:
                before += [" ", first[cut:]]
            before += rest
    return "".join(end + "".join(line) for end, line in zip(ends, kept, strict=True))


def _header_end(line: str, lines: re.Pattern[str]) -> int:
    """Where the header ends that a line begins with, 0 where it begins with none."""
    begins = _LEADING.match(line)
    start = begins.end() if begins else 0
    shown, places = _plain(line[start : start + _BEGINNING])
    found = lines.match(shown)
    return start + places[found.end() - 1] + 1 if found else 0


def _plain(text: str) -> tuple[str, list[int]]:
    """(a text as a reader sees it, where each of its letters stands): invisible ones left out, look-alikes
    Latin."""
    shown: list[str] = []
    places: list[int] = []
    for piece in _PIECES.finditer(text):
        if len(piece[0]) > 1:
            continue  # a terminal's escape sequence
        for letter in unicodedata.normalize("NFKD", _ALIKE.get(piece[0], piece[0])).casefold():
            letter = _ALIKE.get(letter, letter)
            unseen = letter in _FILLERS or unicodedata.category(letter) in ("Cf", "Cc", "Mn", "Me", "Cn")
            if letter in "\t " or not unseen:
                shown.append(letter)
                places.append(piece.start())
    return "".join(shown), places

"""Untrusted text in a question: it opens no turn, closes no fence, and does not pass for the template's own lines.

Three rules, each leaving ordinary text exactly as it is. A control token of the model's tokenizer, or what its chat
template writes around a turn, is broken by a blank wherever it stands in a message. A template that fences its texts
gets a fence longer than any run of that character inside them. In one without fences a line that begins like one of
the template's own loses these words and is joined to the line before it (a small judge still obeyed them in mid-line).
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
_LONGEST = 40  # characters of a turn's header; what is longer is a default system prompt
_FAMILIES = re.compile(
    r"<[|｜][^<>\n]{1,64}[|｜]>|\[/?INST\]|\[/?(?:SYSTEM|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)[^\]\n]{0,16}\]"
    r"|<</?SYS>>|<(?:start|end)_of_turn>|</?s>|<(?:bos|eos|pad|unk)>"
    r"|\[\|[A-Za-z_]{2,32}\|\]|<\|[A-Za-z_]{2,32}>|<[A-Za-z_]{2,32}\|>|<seed:[a-z_]{2,32}>|\[[gs]MASK\]|<[se]op>"
    r"|\]~!?b[\[\]]|\[e~\[|<(?:unused|extra_id_|SPECIAL_)\d+>"
)


@dataclass(frozen=True)
class Control:
    """What a model takes for control rather than text, and how its tokenizer reads letters before looking for it."""

    pattern: re.Pattern[str]
    normalize: Callable[[str], str] | None = None
    mark: str = "\ufffd"  # a character that stands in no token

    @classmethod
    def of(cls, tokenizer: Any, turns: str | None = None) -> Control:
        """The special tokens of a tokenizer; with `turns`, some rendered turns of PROBE, also what makes a turn.

        Added tokens that are not special count where the template names them or they look like `<|…|>`: others, such
        as runs of blanks, are ordinary text.
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

    def neutral(self, text: str) -> str:
        """The text with every control token broken by a blank, those that only the tokenizer sees in it as well."""
        text = self._broken(text)
        shown = self.normalize(text) if self.normalize else text
        return self._broken(shown) if self.pattern.search(shown) else text

    def _broken(self, text: str) -> str:
        for _ in range(_PASSES):
            if not self.pattern.search(text):
                return text
            text = self.pattern.sub(_broken, text)
        # Tokens of blanks, or a single character, are still there when broken: a character of no token replaces them.
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
    """A fence that nothing in these texts can close: longer than any run of its character, normalised, in them."""
    runs = (len(run) for text in texts for run in _FENCES.findall(text))
    return FENCE * max(3, 1 + max(runs, default=0))


def own_lines(source: str) -> re.Pattern[str]:
    """Finds, at the start of any line but a text's first, how a line of this template or of a conversation begins."""
    lines = re.sub(r"{%.*?%}", "\n", source).split("\n")
    headers = {line.split("{{")[0].strip() for line in lines} | {f"{name}:" for name in SPEAKERS}
    patterns = sorted((p for p in map(_header, headers) if p), key=len, reverse=True)
    return re.compile(rf"(?:{_LINE_END})[\W_]*+(?:{'|'.join(patterns)})", re.I)


def _header(text: str) -> str:
    """A pattern of a header in any case, with any marks around its words; a final colon must be there."""
    words = [re.escape(word) for word in re.findall(r"[^\W_]+", text)]
    return r"[\W_]+".join(words) + (r"[\W_]*[:：]" if text.endswith(":") else r"\b") if words else ""


def joined(text: str, lines: re.Pattern[str]) -> str:
    """The text with every line that `lines` finds joined to the one before it, without the words of the header.

    Letters that NFKC turns into a header's (full-width ones) make one, too.
    """
    text = _joined(text, lines)
    shown = unicodedata.normalize("NFKC", text)
    return _joined(shown, lines) if lines.search(shown) else text


def _joined(text: str, lines: re.Pattern[str]) -> str:
    while lines.search(text):  # what is left around a header may make another one
        text = lines.sub(" ", text)
    return text

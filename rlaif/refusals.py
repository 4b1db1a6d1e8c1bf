"""Whether a written text refuses."""

import re

_REFUSAL = re.compile(
    r"\b(i(['’]m| am) (sorry|afraid|not able|unable)|i (can ?not|can['’]t|won['’]t|will not|must refuse)|as an ai\b)",
    re.I,
)
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|(?<!\w)'[^\n]*?'(?!\w)|‘[^\n]*?’(?!\w)|`[^`\n]*`")


def refuses(text: str) -> bool:
    """Whether a text says that its writer will not or cannot answer."""
    return _REFUSAL.search(text) is not None


def opens_with_refusal(text: str) -> bool:
    """Whether a text's first sentence refuses in its own words: what it quotes is somebody else's refusal."""
    return refuses(re.split(r"(?<=[.!?])\s|\n", _QUOTED.sub("…", text).strip(), maxsplit=1)[0])

"""Reasons why servers decline a request, recognised by the wording of common servers.

The wordings are those of vLLM, SGLang, TGI, llama.cpp, LM Studio, Ollama, TensorRT-LLM and of the hosted
services. A wording that is not here costs one request more: the server is then asked a harmless question in
the same form, and only where it takes that one is the other a refused question.
"""

from __future__ import annotations

import re

TOO_LONG = re.compile(
    r"context[ _-](?:length|window|size|limit)|max(?:imum)?[ _](?:context|model|prompt|input|sequence)[ "
    r"_]length|"
    r"(?:prompt|input|request|messages|conversation)(?: \([^)]{0,40}\))?(?: is| are|_is)?[ _]too[ "
    r"_](?:long|large)|"
    r"string too long|above_max_length|request entity too large|too large for (?:the |this )?model|"
    r"reduce (?:the length|the number of|your prompt|the input)|decrease input length|longer than the "
    r"(?:model|max)|"
    r"exceed[\w ]{0,40}(?:number of tokens|token limit|max(?:imum)?[\w ]{0,30} length|limit of \d)|"
    r"token (?:count|limit)[^.]{0,60}exceed|input length[^.]{0,60}exceed|too many (?:input |total |prompt "
    r")?tokens|"
    r"tokens in request more than max|max_new_tokens` must be <=|`inputs` must have less than",
    re.I,
)
# A request that is larger than all that may be asked in a minute never fits, whatever the wait.
NEVER_FITS = re.compile(r"request too large for", re.I)
LOGPROBS = re.compile(r"log[ _-]?prob", re.I)
FILTERED = re.compile(
    r"content[ _](?:filter|management|policy|violation)|data_?inspection_?failed|inappropriate "
    r"content|moderation|"
    r"\bflagged\b|sensitive[ _]words?|safety[ "
    r"_](?:check|filter|system)|responsible_?ai_?policy|prohibited[ _]content|"
    r"usage guidelines",
    re.I,
)
LIMIT = re.compile(r"max_completion_tokens")
_NOT_TAKEN = r"not (?:be )?(?:support|allow|permit)|unsupported|only the default|extra_forbidden|unrecognized"
OPTION = re.compile(
    rf"""["'`](temperature|top_p|seed)["'`][^{{}}]{{0,80}}(?:{_NOT_TAKEN})|"""
    rf"""(?:{_NOT_TAKEN})[^{{}}]{{0,40}}["'`](temperature|top_p|seed)["'`]""",
    re.I,
)


class Declined(Exception):
    """The server does not take this question as it is.

    `why` is "too_long", "logprobs", "limit" (it wants max_completion_tokens), the name of an option that it
    does not take, or "refused"; `kind` says in words what a refusal is counted as.
    """

    def __init__(self, why: str, kind: str = "") -> None:
        super().__init__(why)
        self.why, self.kind = why, kind


class Rejected(Exception):
    """The server refuses a request, and its words do not tell whether it would refuse every other, too."""

    def __init__(self, status: int, kind: str, said: str) -> None:
        super().__init__(kind)
        self.status, self.kind, self.said = status, kind, said


def declined(status: int, text: str) -> Declined | None:
    """What a server's error says of the question, None where it says nothing that is known."""
    if status == 413 or (status == 429 and NEVER_FITS.search(text)):
        return Declined("too_long")
    if status in (400, 422, 500) and TOO_LONG.search(text):
        return Declined("too_long")
    if status not in (400, 422):
        return None
    if LOGPROBS.search(text):
        return Declined("logprobs")
    if LIMIT.search(text):
        return Declined("limit")
    if found := OPTION.search(text):
        return Declined((found[1] or found[2]).lower())
    return Declined("refused", "content filter") if FILTERED.search(text) else None

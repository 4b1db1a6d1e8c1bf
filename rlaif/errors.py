"""Errors meant for people: what was found, what is needed, what to do next."""

import re

# All but tabs and line breaks of the control characters (C0, C1), those that turn the direction of writing,
# and halves of surrogate pairs, which no encoding has a form for.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """Text of others for a terminal: control characters are spelt out, as in \\x1b or
    \\u202e."""
    return OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def replace_surrogates(text: str) -> tuple[str, int]:
    """(the text with each lone surrogate as U+FFFD, how many there were): what JSON can hold and UTF-8
    cannot."""
    return _SURROGATE.subn("\ufffd", text)


class UserError(Exception):
    """A mistake the user can fix; the command line prints it without a traceback and exits with code 2.

    `code` is the exit code of the command line. `found` names the file, line or value met; `need` what would
    have been right; `next` the next step.
    """

    code = 2

    def __init__(self, found: str, need: str = "", next: str = "") -> None:
        self.found, self.need, self.next = found, need, next
        parts = [found, need and f"Needed: {need}", next and f"Next: {next}"]
        super().__init__(printable("\n".join(part for part in parts if part)))

    def add_next(self, step: str) -> None:
        """Say a further step behind the next one."""
        UserError.__init__(self, self.found, self.need, f"{self.next}; {step}" if self.next else step)


class Paused(UserError):
    """A run waits for people: what was done is kept, and the run continues once they have written their
    part."""

    code = 4


class Conflict(UserError):
    """What is asked for cannot be done because something has changed meanwhile; a page's server answers
    409."""


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, or its class where it says nothing; of the
    system's errors what they mean, without their number and the path."""
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return said.split("\n")[0][:300]


def reason_of(error: BaseException) -> str:
    """The same with its class in front, for what a function of the user raises."""
    return f"{type(error).__name__}: {error}".split("\n")[0]


def nearest(word: str, known: "list[str] | tuple[str, ...]") -> str:
    """' (did you mean "x"?)' for the closest known word, or the list of known ones."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f'did you mean "{close[0]}"?'
    return "known: " + ", ".join(sorted(known))

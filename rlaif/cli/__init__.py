"""The command line: the only folder that parses arguments or prints. A command is a file of its own."""

from __future__ import annotations

import os
import sys
import warnings
from io import TextIOWrapper

# trl and the hub report usage by default; nothing this program starts does.
os.environ.update({"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TRL_DISABLE_TELEMETRY": "1"})
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The order of the help page.
from rlaif.cli import (  # noqa: F401, I001
    init,
    run,
    resume,
    runs,
    show,
    compare,
    annotate,
    agree,
    chat,
    judge,
    judge_compare,
    judge_fit,
    options,
    constitution,
    data,
    publish,
    prompts,
    check,
    playground,
)
from rlaif.cli.groups import app
from rlaif.cli.terminal import tell
from rlaif.errors import UserError
from rlaif.old_names import RenamedWarning, with_new_words
from rlaif.runs import stopping
from rlaif.runs.lookup import CutRowWarning
from rlaif.runs.storage import os_errors_as_user_errors

__all__ = ["app", "main"]


def main() -> None:
    """Entry point: exit code 0 done, 1 an error inside, 2 the user's mistake, 3 the budget is reached, 4 the
    run waits for people's labels, 130 interrupted, 143 terminated."""
    from rlaif.runs import processes

    stopping.catch_signals()
    stopping.loaded()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Where its encoding lacks a character, as in a C or Latin-1 locale, that is spelt out.
            stream.reconfigure(errors="backslashreplace")
    shown = warnings.showwarning
    warnings.showwarning = lambda said, kind, *rest: (
        tell(f"Note: {said}")
        if issubclass(kind, RenamedWarning | CutRowWarning)
        else shown(said, kind, *rest)
    )
    try:
        with os_errors_as_user_errors():
            app(with_new_words(sys.argv[1:]))
    except UserError as error:
        if processes.is_rank0():
            tell(f"Error: {error}" if error.code == 2 else str(error))
        else:
            processes.yield_to_rank0()
        sys.exit(error.code)
    except BaseException:
        if stopping.received():  # an interrupted library may raise anything
            sys.exit(stopping.code())
        raise

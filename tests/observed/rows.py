"""A row of the table of options: a value that is no default, where to look, and what must be seen there."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Row:
    """`look(case)` must be `expected`; the case is a run or a training with the option at `value`.

    `also` are further settings, without which the option has no meaning.
    """

    value: Any
    look: Callable[[Any], Any]
    expected: Any
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Elsewhere:
    """An option that another fast test observes; that test has to exist and to hold `mention`."""

    file: str
    test: str
    mention: str

    def check(self) -> None:
        path = ROOT / "tests" / f"{self.file}.py"
        source = path.read_text(encoding="utf-8")
        found = [
            n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == self.test
        ]
        assert len(found) == 1, f"{path.name} has no test {self.test}"
        first = min([found[0].lineno, *(d.lineno for d in found[0].decorator_list)])
        shown = "\n".join(source.splitlines()[first - 1 : found[0].end_lineno])
        assert self.mention in shown, f"{path.name}: {self.test} does not mention {self.mention}"

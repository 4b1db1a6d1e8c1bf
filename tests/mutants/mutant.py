"""A mutant: a text of the package, what it becomes, and the tests that notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new`; `tests` are files of tests/, and `only`, pytest's -k, keeps a mutant quick."""

    old: str
    new: str
    tests: str
    only: str = ""
    file: str = ""

    def place(self, root: Path = ROOT) -> Path:
        """The file that holds the text; raises ValueError unless it stands in the package once."""
        paths = [
            p
            for kind in ("py", "j2")
            for p in (root / "rlaif").rglob(f"*.{kind}")
            if str(p).endswith(self.file)
        ]
        found = [
            (path, count) for path in paths if (count := path.read_text(encoding="utf-8").count(self.old))
        ]
        if [count for _, count in found] != [1]:
            where = ", ".join(f"{count} × in {path.relative_to(root)}" for path, count in found) or "nowhere"
            raise ValueError(f"{self.old!r} must stand in the package once, and stands {where}")
        return found[0][0]

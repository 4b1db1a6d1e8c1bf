"""What an edit of a constitution changes, principle by principle, and what each change means before any model
is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from rlaif.constitution import Constitution, Principle
from rlaif.errors import UserError

# Words that stayed, that are gone and that are new, in the order in which they are read.
Marked = tuple[tuple[str, str], ...]
SAME, GONE, NEW = "same", "gone", "new"
TEXTS = ("text", "why", "compare", "critique", "revise")
FIELDS = (*TEXTS, "examples", "paraphrases", "weight", "applies_to", "tags")


@dataclass(frozen=True)
class Edit:
    """One principle in the old and in the new file; None where it is not there."""

    id: str
    before: Principle | None
    after: Principle | None
    alike: str | None = None  # an added principle's twin of the same wording that was removed

    @property
    def fields(self) -> tuple[str, ...]:
        """What differs of a principle that both files have."""
        if self.before is None or self.after is None:
            return ()
        return tuple(name for name in FIELDS if getattr(self.before, name) != getattr(self.after, name))

    @property
    def kinds(self) -> tuple[str, ...]:
        """added, removed, or of one that changed: reworded, re-weighted, re-scoped, and other fields by
        name."""
        if self.before is None:
            return ("added",)
        if self.after is None:
            return ("removed",)
        names = {
            "text": "reworded",
            "compare": "reworded",
            "weight": "re-weighted",
            "applies_to": "re-scoped",
        }
        return tuple(dict.fromkeys(names.get(name, f"other {name}") for name in self.fields))

    @property
    def rule(self) -> tuple[str, str]:
        """The rule as the judge reads it, before and after; empty where there is none."""
        before, after = ((p.compare or p.text) if p else "" for p in (self.before, self.after))
        return before, after

    def marked(self) -> dict[str, Marked]:
        """The texts that differ, word by word; of an added or removed principle its text."""
        names = [name for name in TEXTS if name in self.fields] or (["text"] if not self.fields else [])
        return {
            name: marked_words(*((getattr(p, name) or "") if p else "" for p in (self.before, self.after)))
            for name in names
        }

    def means(self) -> list[str]:
        """What the edit means for labels and models, known from the files alone."""
        if self.before is None or self.after is None:
            return [self._of_a_whole_principle()]
        said = [_MEANS[name] for name in self.fields if name in _MEANS]
        if self.rule[0] != self.rule[1]:
            said[:0] = ["the judge reads other words: labels under this principle go stale"]
        elif "text" in self.fields:
            said[:0] = ["the judge reads `compare`, which is as it was: no label goes stale"]
        if "applies_to" in self.fields:
            said.append(_scope(self.before, self.after))
        return said

    def _of_a_whole_principle(self) -> str:
        if self.after is None:
            return "its labels count no longer: arithmetic on stored labels, no call"
        if self.alike:
            return (
                f"worded like `{self.alike}`, which is gone: labels are known by their principle's id, "
                f"so with the id `{self.alike}` nothing would be asked"
            )
        return "no label under it yet: each comparison it applies to is asked about"


_MEANS = {
    "text": "critic and reviser read the new text",
    "why": "models read it where a template shows it; the shipped ones do not",
    "critique": "the critic is told otherwise; no label goes stale",
    "revise": "the reviser is told otherwise; no label goes stale",
    "examples": "other examples: few-shot turns (`few_shot`) and the judge's tests",
    "paraphrases": "`rlaif judge audit` asks by them, nothing else",
    "weight": "preferences are added up anew: arithmetic on stored labels, no call",
    "tags": "`label.principles` may name tags; no label goes stale where no template shows them",
}


def _scope(before: Principle, after: Principle) -> str:
    old, new = (None if p.applies_to is None else set(p.applies_to) for p in (before, after))
    narrower = old is None or (new is not None and new <= old)
    if narrower:
        return "it applies to fewer prompts: some labels count no longer, no call"
    return "it applies to other prompts: where it did not apply before, labels are missing"


def edits(old: Constitution, new: Constitution) -> list[Edit]:
    """The principles that differ, in the order of the new file, those that are gone last."""
    before, after = ({p.id: p for p in c.principles} for c in (old, new))
    gone = {p.text: p.id for p in old.principles if p.id not in after}
    found = [Edit(i, before.get(i), p, None if i in before else gone.get(p.text)) for i, p in after.items()]
    found += [Edit(i, p, None) for i, p in before.items() if i not in after]
    return [edit for edit in found if edit.fields or None in (edit.before, edit.after)]


def marked_words(before: str, after: str) -> Marked:
    """Two texts as one, word by word: what stayed, what is gone, what is new."""
    a, b = (re.findall(r"\S+", text) for text in (before, after))
    found: list[tuple[str, str]] = []
    for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            found.append((SAME, " ".join(a[i:j])))
            continue
        found += [(GONE, " ".join(a[i:j]))] if j > i else []
        found += [(NEW, " ".join(b[k:m]))] if m > k else []
    return tuple(found)


def in_brackets(marked: Sequence[tuple[str, str]]) -> str:
    """Marked words for a terminal, as `git diff --word-diff` shows them."""
    shown = {SAME: "{}", GONE: "[-{}-]", NEW: "{{+{}+}}"}
    return " ".join(shown[kind].format(text) for kind, text in marked)


def as_data(edit: Edit) -> dict[str, Any]:
    """An edit for `--json`."""
    sides = {"before": edit.before, "after": edit.after}
    return {
        "id": edit.id,
        "kinds": list(edit.kinds),
        "fields": {
            name: [p.model_dump(mode="json")[name] if p else None for p in sides.values()]
            for name in (edit.fields or ("text",))
        },
        "means": edit.means(),
        "marked": {name: [list(part) for part in marked] for name, marked in edit.marked().items()},
    }


def load_at_rest(path: Path) -> Constitution:
    """A constitution file; UserError where somebody writes it meanwhile: half of an edit would be read."""
    try:
        before = path.read_bytes()
    except OSError:
        return Constitution.load(path)  # which says what is wrong with it
    try:
        found = Constitution.load(path)
    except UserError:
        _refuse_changed(path, before)
        raise
    _refuse_changed(path, before)
    return found


def _refuse_changed(path: Path, before: bytes) -> None:
    if not path.exists() or path.read_bytes() != before:
        raise UserError(
            f"{path}: changed while it was read.",
            "a file that nobody is writing",
            "run the same command again",
        )

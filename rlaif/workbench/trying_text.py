"""Verdicts, and what an edit turned, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.records import ORDERS, TIE_MARGIN
from rlaif.workbench.edits import in_brackets
from rlaif.workbench.probe import Cell, Effect, ProbePair, Turned, Verdicts
from rlaif.workbench.trying import Revised
from rlaif.workbench.watching import Saved

WIDTH = 100  # characters of a text in a line
MOST = 20  # changed verdicts that are shown


def short(text: str, width: int = WIDTH) -> str:
    """A text in one line, cut."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else f"{flat[: width - 1]}…"


def indented(text: str, by: int = 4) -> str:
    """A text whose lines all stand below what it belongs to."""
    return "\n".join(" " * by + line for line in text.splitlines() or [""])


def revised_in_words(rows: Sequence[Revised]) -> list[str]:
    """Critiques and revisions by principle."""
    lines = ["critique and revision of a, by principle"]
    for row in rows:
        lines += [f"  {row.principle}"]
        lines += ["    critique:", indented(row.critique, 6)] if row.critique else ["    no critique"]
        if row.unchanged:
            lines += ["    revision: none, the response stays"]
        else:
            lines += ["    revision:", indented(row.revision, 6)] if row.revision else []
            lines += [f"    not taken: {row.why}"] if row.why else []
    return lines


def verdicts_in_words(verdicts: Verdicts, number: int = 0) -> list[str]:
    """The verdicts on one pair: by principle and order, and all together."""
    rows = {principle: cell for (n, principle), cell in verdicts.cells.items() if n == number}
    rows = {i: rows[i] for i in verdicts.constitution.ids if i in rows}
    if not rows:
        return ["verdicts: no principle applies to this prompt"]
    width = max(map(len, [*rows, "all together"]))
    lines = [f"{'P(a is better)':<{width + 2}}  a first  b first     both"]
    for principle, cell in rows.items():
        first, second = (_p(cell.shown.get(order)) for order in ORDERS)
        lines.append(f"  {principle:<{width}}  {first:>7}  {second:>7}  {_p(cell.p_a):>7}  {_said(cell)}")
    both, deciding = verdicts.preferences[number]
    why = _decided_by(both, deciding)
    lines.append(f"  {'all together':<{width}}  {'':>7}  {'':>7}  {_p(both.p_a):>7}  {_said(both)}{why}")
    return lines


def saved_in_words(saved: Saved, pairs: Sequence[ProbePair]) -> list[str]:
    """What one save changed: nothing else."""
    if saved.error:
        return [f"save {saved.number}: {saved.error}"]
    effect = saved.effect
    assert effect is not None
    lines = [f"save {saved.number}: {headline(effect)}"]
    for edit in effect.edits:
        marked = [f"    {name}: {in_brackets(words)}" for name, words in edit.marked().items()]
        lines += [f"  {edit.id}: {', '.join(edit.kinds)}", *marked]
    for name, rows in (("verdicts", effect.turned), ("preferences", effect.preferences)):
        lines += [f"  {name} that changed"] if rows else []
        for one in rows[:MOST]:
            lines += _turned(one, pairs[one.pair])
        lines += [f"    and {len(rows) - MOST} more"] if len(rows) > MOST else []
    return lines


def headline(effect: Effect) -> str:
    """What a save changed, in one line."""
    if not effect.edits:
        return "no principle differs"
    asked = f"{effect.asked} questions asked in {effect.seconds:.1f} s" if effect.asked else "nothing to ask"
    moved = f" ({effect.moved} more moved by over {TIE_MARGIN:g})" if effect.moved else ""
    return (
        f"{len(effect.turned)} of {effect.compared} verdicts changed{moved}, "
        f"{len(effect.preferences)} of {effect.pairs} preferences; {asked}"
    )


def _turned(one: Turned, pair: ProbePair) -> list[str]:
    whose = f"{one.principle}: " if one.principle else ""
    why = _decided_by(one.after, one.deciding)
    prompt = short(pair.prompt.messages[-1].content, 60)
    line = f"    #{one.pair + 1} {whose}{_said(one.before)} {_p(one.before.p_a)} → {_said(one.after)} "
    return [
        f"{line}{_p(one.after.p_a)}{why}  {prompt}",
        f"        a: {short(pair.a)}",
        f"        b: {short(pair.b)}",
    ]


def _decided_by(cell: Cell, principle: str | None) -> str:
    """Which principle decided; nothing of a tie, which none did."""
    return f", decided by {principle}" if principle and cell.verdict in ("a", "b") else ""


def _said(cell: Cell) -> str:
    return cell.verdict if cell.p_a is not None else f"no verdict ({cell.reason or 'no principle decides'})"


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.2f}"

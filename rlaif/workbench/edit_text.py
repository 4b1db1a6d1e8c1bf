"""An edit's effects in words, for a terminal and for the first lines of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlaif.feedback.earlier_labels import REASONS
from rlaif.pages.page import ci, fixed, percent, signed
from rlaif.runs.spending import amount_in_words
from rlaif.workbench.edits import in_brackets

WIDTH = 90  # characters of a text in an example


def headline(data: Mapping[str, Any]) -> str:
    """The edit and its effect in a sentence or two."""
    edits = data["edits"]
    if not edits:
        return "No principle differs."
    what = "; ".join(f"{edit['id']} {' and '.join(edit['kinds'])}" for edit in edits[:4])
    what += f"; and {len(edits) - 4} more" if len(edits) > 4 else ""
    if "preferences" not in data:
        return f"{what}."
    found = data["preferences"]
    if data["labels"]["waiting"]:
        rest = f"; without them, {_share(found, 'changed')} preferences change" if known(data) else ""
        return f"{what}: {data['labels']['waiting']:,} labels are still to be asked for{rest}."
    return f"{what}: {_share(found, 'changed')} preferences change."


def in_words(data: Mapping[str, Any]) -> list[str]:
    """The edit as lines of text."""
    lines = [headline(data), ""]
    for edit in data["edits"]:
        lines.append(f"{edit['id']}: {', '.join(edit['kinds'])}")
        lines += [f"  {name}: {in_brackets(marked)}" for name, marked in edit["marked"].items()]
        lines += [
            f"  {name}: {_sides(edit, name)}" for name in ("weight", "applies_to") if name in edit["fields"]
        ]
        lines += [f"  {meaning}" for meaning in edit["means"]]
    lines += [f"note: {note}" for note in data["notes"]]
    if "labels" in data:
        lines += ["", *_labels(data), "", *_effects(data), *_examples(data["examples"]["preferences"])]
    if data.get("policy"):
        lines += ["", *_policy(data["policy"])]
    return lines


def _policy(policy: Mapping[str, Any]) -> list[str]:
    """The change of the policy, principle by principle."""
    lines = [policy["verdict"]]
    for name, row in policy["principles"].items():
        sides = [
            f"{who} {fixed(row[who]['before'], 3)} → {fixed(row[who]['after'], 3)}, "
            f"{signed(row[who]['value'], 3)} {ci(row[who]['ci'], 3)}"
            + (" (shown)" if row[who]["different"] else "")
            for who in ("gold", "judge")
            if row[who]
        ]
        lines.append(f"  {name}{_kinds(row)}: {'; '.join(sides) or 'not measured'}")
    return [*lines, *(f"note: {note}" for note in policy["notes"])]


def _kinds(row: Mapping[str, Any]) -> str:
    """What the edit did to a principle; pages of earlier versions say no more than that it did something."""
    return f" ({', '.join(row.get('kinds') or ['edited'])})" if row["edited"] else ""


def _sides(edit: Mapping[str, Any], name: str) -> str:
    before, after = edit["fields"][name]
    shown = [
        ", ".join(x) if isinstance(x, list) else "every prompt" if x is None else f"{x:g}"
        for x in (before, after)
    ]
    return " → ".join(shown)


def known(data: Mapping[str, Any]) -> bool:
    """Whether anything can be said of preferences: not where all that the edit changes is still to be
    asked."""
    found = data["preferences"]
    return not data["labels"]["waiting"] or bool(found["lost"] or found["gained"] or found["shift"])


def _labels(data: Mapping[str, Any]) -> list[str]:
    labels = data["labels"]
    lines = [f"labels of {data['run']}: {stale_in_words(labels)}"]
    for name, row in labels["by_principle"].items():
        if row["stale"]:
            why = "; ".join(f"{n:,} {REASONS[key]}" for key, n in row["reasons"].items())
            lines.append(f"  {name}: {row['stale']:,} {'were ' if labels['asked'] else ''}stale, {why}")
    if labels["stale"] and not labels["asked"]:
        lines.append(f"  to refresh: {cost_in_words(labels['refresh'])}")
    if labels["asked"]:
        lines.append(f"  {asked_in_words(data)}")
    elif labels["asked_before"]:
        lines.append(f"  of those that stay, {labels['asked_before']:,} were asked for earlier, by --ask")
    if labels["waiting"]:
        lines.append("  what follows leaves the new wording out: add --ask to ask for the stale labels alone")
    return lines


def stale_in_words(labels: Mapping[str, Any]) -> str:
    """How many labels stay and how many are stale; where these have been asked for, how many still are."""
    kept, stale, waiting = labels["kept"], labels["stale"], labels["waiting"]
    if not labels["asked"] or not stale:
        return f"{kept:,} stay, {stale:,} are stale" if stale else f"{kept:,} stay, none is stale"
    now = f"{waiting:,} still are" if waiting else "none is stale now"
    return f"{kept:,} stay, {stale:,} were stale and have been asked for: {now}"


def asked_in_words(data: Mapping[str, Any]) -> str:
    """What was asked for the labels, and where they are kept."""
    asked, place = data["labels"]["asked"], data.get("fork") or f"{data['run']}/asked"
    known = f" and {asked['cached']:,} answers known from a cache" if asked["cached"] else ""
    return f"Asked: {asked['calls']:,} calls{known}; the labels are kept in {place}"


def cost_in_words(cost: Mapping[str, Any]) -> str:
    """What questions take: calls, tokens, seconds and money as far as these are known."""
    shared = f", {cost['shared_tokens']:,} of them shared" if cost["shared_tokens"] else ""
    parts = [f"{cost['calls']:,} calls", f"about {cost['prompt_tokens']:,} tokens read{shared}"]
    parts += [f"{cost['tokens']:,} written at most"] if cost["tokens"] else []
    parts += [f"about {cost['seconds']:,.0f} s"] if cost["seconds"] is not None else []
    parts += [amount_in_words("money", cost["money"], ",.2f")] if cost["money"] is not None else []
    return ", ".join(parts)


def _effects(data: Mapping[str, Any]) -> list[str]:
    lines = ["verdicts that change (from one of a, tie and b to another; both orders combined):"]
    for name, row in data["principles"].items():
        lines.append(f"  {name}: {_verdicts(row)}")
    found = data["preferences"]
    if not known(data):
        return [*lines, "preferences: not known before the labels are asked for"]
    lines += [
        f"preferences that change: {_share(found, 'changed')}; "
        f"on the other side of ½ {_share(found, 'flipped')}",
        f"  {turns(found)}" if found["turned"] else "  none changes",
        *(
            f"  {name} alone: {_share(row['alone'], 'changed')}"
            for name, row in data["principles"].items()
            if row["alone"] and len(data["edits"]) > 1
        ),
        f"the reward model's training set: {found['before']:,} → {found['after']:,} preferences, "
        f"{found['lost']:,} lost{_because(found['lost_why'])}, {found['gained']:,} gained"
        f"{_because(found['gained_why'], 'before: ')}; mean shift of P(a) {fixed(found['shift'], 3)} "
        f"{ci(found['shift_ci'], 3)}",
        "  by size of the shift: " + ", ".join(f"{size}: {n:,}" for size, n in found["shifts"].items()),
    ]
    return lines


def _because(counts: Mapping[str, int], when: str = "") -> str:
    """Reasons in brackets with how often each holds; empty where there is none."""
    said = ", ".join(f"{reason} {n:,}" for reason, n in counts.items())
    return f" ({when}{said})" if said else ""


def _verdicts(row: Mapping[str, Any]) -> str:
    said, parts = row["verdicts"], []
    if row["waiting"]:
        return f"not known: {row['waiting']:,} pairs are to be asked about"
    if said["both"]:
        parts.append(f"{_share(said, 'changed')} verdicts" + (f" ({turns(said)})" if said["turned"] else ""))
    if said["gained"]:
        parts.append(f"{said['gained']:,} pairs newly judged{_because(row['new'])}")
    parts += [f"{said['lost']:,} no longer judged{_because(row['gone'])}"] if said["lost"] else []
    return ", ".join(parts) or "no verdict"


def turns(found: Mapping[str, Any]) -> str:
    """From what to what verdicts change, the most frequent first."""
    return ", ".join(
        f"{name} {n:,}" for name, n in sorted(found["turned"].items(), key=lambda item: -item[1])
    )


def _share(found: Mapping[str, Any], what: str) -> str:
    """A count of all with its share and interval."""
    if not found["both"]:
        return "0 of 0"
    rate = percent(found[f"{what}_rate"], found[f"{what}_ci"], 1)
    return f"{found[what]:,} of {found['both']:,} ({rate})"


def _examples(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["furthest preferences, one a group of prompts:"] if rows else []
    for row in rows:
        told = ", ".join(
            f"{name} {fixed(a)} → {fixed(b)}" for name, (a, b) in row["verdicts"].items() if a != b
        )
        before, after = row["p_a"]
        lines += [
            f"  {row['comparison_id']}  {_short(row['prompt'])}",
            f"    a: {_short(row['a'])}",
            f"    b: {_short(row['b'])}",
            f"    P(a is better) {fixed(before)} → {fixed(after)}" + (f"; {told}" if told else ""),
        ]
    return lines


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= WIDTH else f"{flat[: WIDTH - 1]}…"

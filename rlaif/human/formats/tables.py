"""Verdicts in tables: named columns of any table, and Chatbot Arena's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlaif.errors import UserError, nearest
from rlaif.human.folder import P_A
from rlaif.human.formats.base import (
    NO_KIND,
    NO_P,
    NO_TIME,
    NO_WINNER,
    NOT_HELD,
    SWAPPED,
    Format,
    ImportedRow,
    Pair,
    Vote,
    as_messages,
    has,
    kind_from,
    name_from,
    named,
    number_from,
    one_user_turn,
    seconds_from,
    text_of,
    truth_from,
    unread,
    verdict_from,
)
from rlaif.human.formats.chosen import answer, question
from rlaif.prompting.conversations import Unusable
from rlaif.records import Verdict

# What a column can hold, and what it means; the first three and `verdict` are needed.
COLUMNS = {
    "prompt": "the prompt, as text or as JSON messages",
    "first": "the first response",
    "second": "the second response",
    "verdict": "1 or a, 2 or b, tie or 0, the name of the column that is preferred; empty: none was given",
    "p_first": "the probability that the first is better",
    "annotator": "who says so",
    "kind": "human, ai or simulated",
    "principle": "the principle that the verdict is under",
    "rationale": "why",
    "seconds": "how long it took",
    "swapped": "true where the second was shown first and the verdict counts from what was shown",
    "model_first": "what wrote the first response",
    "model_second": "what wrote the second",
}
_NEEDED = ("prompt", "first", "second", "verdict")


def table_format(columns: Mapping[str, str] | None = None) -> Format:
    """The format of a table whose columns are named: what a column holds → its name, by default the same.

    Raises UserError for what no column can hold.
    """
    columns = columns or {}
    for what in columns:
        if what not in COLUMNS:
            raise UserError(
                f"--column {what}: nothing that a column can hold; {nearest(what, list(COLUMNS))}.",
                f"one of {', '.join(COLUMNS)}",
                "--column prompt=question --column first=answer_1",
            )
    names = {what: columns.get(what, what) for what in COLUMNS}
    fits = has(*(names[what] for what in _NEEDED))
    return replace(TABLE, fits=fits, read=lambda row: table_row(row, names), columns=columns)


def table_row(row: dict[str, Any], names: Mapping[str, str]) -> ImportedRow | Unusable:
    """One row of a table with these names of columns."""
    cell = {what: row.get(name) for what, name in names.items()}
    missing = [names[what] for what in _NEEDED if names[what] not in row]
    if missing:
        return Unusable(f"no column {', '.join(missing)}")
    messages = question(_messages(cell["prompt"]))
    if isinstance(messages, Unusable):
        return messages
    texts = text_of(cell["first"]), text_of(cell["second"])
    if texts[0] is None or texts[1] is None:
        return Unusable("a response is not text")
    preferred = {names["first"]: "a", names["second"]: "b"}.get(str(cell["verdict"]).strip())
    verdict = verdict_from(preferred or cell["verdict"])
    swapped = truth_from(cell["swapped"]) is True
    if name_from(cell["swapped"]) and truth_from(cell["swapped"]) is None:
        return Unusable("swapped is neither true nor false")
    if swapped and not preferred:
        verdict = SWAPPED.get(verdict, verdict)
    kind = kind_from(cell["kind"])
    if kind is None:
        return NO_KIND
    models = [name_from(cell[key]) or "" for key in ("model_first", "model_second")]
    vote = _vote(cell, verdict, kind, swapped)
    sure = cell["p_first"] if verdict in P_A else None  # of no verdict there is nothing to be sure
    return ImportedRow(
        messages,
        (texts[0], texts[1]),
        (vote,),
        models=tuple(models) if any(models) else (),
        lost=unread((sure, vote.p_first, NO_P), (cell["seconds"], vote.seconds, NO_TIME)),
    )


def _vote(cell: Mapping[str, Any], verdict: Verdict, kind: str, swapped: bool) -> Vote:
    """The vote of a row, `verdict` being told about (first, second), as `p_first` is."""
    principle = name_from(cell["principle"])
    said = cell["verdict"] if verdict == "invalid" else None
    return Vote(
        named(kind, cell["annotator"], "table"),
        verdict,
        p_first=_fitting(number_from(cell["p_first"]), verdict),
        order="ba" if swapped else "ab",
        principle=(principle, principle) if principle else None,
        rationale=name_from(cell["rationale"]) or (name_from(said) if said != "invalid" else None),
        seconds=seconds_from(cell["seconds"]),
    )


def _fitting(p: float | None, verdict: Verdict) -> float | None:
    """A probability that does not contradict the verdict."""
    if p is None or not 0 <= p <= 1 or (verdict == "a" and p < 0.5) or (verdict == "b" and p > 0.5):
        return None
    return p if verdict in P_A else None


def _messages(cell: Any) -> Any:
    """A prompt that is JSON messages as such, any other as it is."""
    if isinstance(cell, str) and cell.lstrip().startswith("[{"):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _write_table(pair: Pair) -> list[dict[str, Any]] | Unusable:
    """A row for each label."""
    prompt = one_user_turn(pair.messages)
    if prompt is None:
        prompt = json.dumps(as_messages(pair.messages), ensure_ascii=False)
    if not pair.votes:
        return NOT_HELD
    rows = []
    for vote in pair.votes:
        swapped = vote.order == "ba"
        verdict = SWAPPED.get(vote.verdict, vote.verdict) if swapped else vote.verdict
        rows.append(
            {
                "prompt": prompt,
                "first": pair.first,
                "second": pair.second,
                "verdict": {"a": "1", "b": "2", "abstain": ""}.get(verdict, verdict),
                "p_first": vote.p_first,
                "annotator": vote.annotator.id if vote.annotator else None,
                "kind": vote.annotator.kind if vote.annotator else None,
                "principle": vote.principle[0] if vote.principle else None,
                "rationale": vote.rationale,
                "seconds": vote.seconds,
                "swapped": "TRUE" if swapped else None,
                "model_first": pair.models[0],
                "model_second": pair.models[1],
            }
        )
    return rows


TABLE = Format(
    "table",
    "a table with named columns (CSV, Parquet, JSON)",
    has(*_NEEDED),
    lambda row: table_row(row, {what: what for what in COLUMNS}),
    write=_write_table,
    sided=True,
    loses="how a principle is worded",
)


def arena_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One battle of Chatbot Arena: `conversation_a` and `conversation_b`, or `prompt` and `response_a`, `_b`.

    The winner is a side, a model's name, a tie, or three columns of which one is 1. Conversations of several
    rounds are left out: the verdict is on all of them, and they share only the first question.
    """
    found = _sides(row)
    if isinstance(found, Unusable):
        return found
    messages, texts = found
    models = [name_from(row.get(key)) or "" for key in ("model_a", "model_b")]
    vote = Vote(named("human", row.get("judge", row.get("judge_hash"))), _winner(row, models))
    return ImportedRow(messages, texts, (vote,), models=tuple(models) if any(models) else ())


_WINNERS: dict[str, Verdict] = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}


def _winner(row: Mapping[str, Any], models: list[str]) -> Verdict:
    if "winner" in row:
        winner = name_from(row["winner"])
        named = [side for side, model in zip("ab", models, strict=True) if model and model == winner]
        return verdict_from(named[0] if len(named) == 1 else row["winner"])
    ones = [key for key in _WINNERS if truth_from(row.get(key)) is True]
    return _WINNERS[ones[0]] if len(ones) == 1 else "invalid"


def _sides(row: Mapping[str, Any]) -> tuple[tuple[tuple[str, str], ...], tuple[str, str]] | Unusable:
    """The prompt and both responses."""
    if "conversation_a" in row:
        both = [row.get("conversation_a"), row.get("conversation_b")]
        turns = [value if isinstance(value, list) else [] for value in both]
        if any(len(value) < 2 for value in turns):
            return Unusable("a conversation without a question and a response")
        messages = [question(value[:-1]) for value in turns]
        texts = [answer(value[-1:]) for value in turns]
    else:
        cells = [_rounds(row.get(key)) for key in ("prompt", "response_a", "response_b")]
        if any(len(cell) != 1 for cell in cells):
            return Unusable("a battle of several rounds" if all(cells) else "no prompt or no response")
        messages, texts = [question(cells[0][0])] * 2, [answer(cells[1][0]), answer(cells[2][0])]
    for value in (*messages, *texts):
        if isinstance(value, Unusable):
            return value
    if messages[0] != messages[1]:
        return Unusable("a battle of several rounds")
    return messages[0], (texts[0], texts[1])  # type: ignore[return-value]


def _rounds(cell: Any) -> list[Any]:
    """The rounds of a cell: a JSON list of texts, or one text."""
    if isinstance(cell, str) and cell.startswith("["):
        try:
            found = json.loads(cell)
        except (ValueError, RecursionError):
            return [cell]
        return found if isinstance(found, list) else [cell]
    return [] if cell is None else [cell]


def _write_arena(pair: Pair) -> list[dict[str, Any]] | Unusable:
    """A row for each verdict on the whole comparison; without one, a row of what all labels together say."""
    turns = as_messages(pair.messages)
    spelt = {"a": "model_a", "b": "model_b", "tie": "tie"}
    said = [
        (spelt[vote.verdict], vote.annotator.id if vote.annotator else "")
        for vote in pair.votes
        if vote.verdict in spelt and vote.principle is None
    ]
    if not said and pair.p_first is not None:
        side = "tie" if pair.p_first == 0.5 else "a" if pair.p_first > 0.5 else "b"
        said = [(spelt[side], "")]
    rows = [
        {
            "model_a": pair.models[0],
            "model_b": pair.models[1],
            "winner": winner,
            "judge": judge,
            "conversation_a": [*turns, {"role": "assistant", "content": pair.first}],
            "conversation_b": [*turns, {"role": "assistant", "content": pair.second}],
        }
        for winner, judge in said
    ]
    return rows or NO_WINNER


ARENA = Format(
    "arena",
    "Chatbot Arena",
    lambda row: (
        has("conversation_a", "conversation_b", "winner")(row)
        or has("prompt", "response_a", "response_b", "winner_model_a")(row)
        or has("prompt", "response_a", "response_b", "winner", without=("annotations",))(row)
    ),
    arena_row,
    write=_write_arena,
    sided=True,
    loses="labels by principle, probabilities, whether an annotator is a person or a model",
)

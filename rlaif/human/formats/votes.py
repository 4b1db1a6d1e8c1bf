"""Formats with two sides and an annotator's verdict on them: PandaLM, ICAI, AnnotatedPairs, Alpaca."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif.human.formats.base import (
    NO_WINNER,
    ONE_TURN,
    Format,
    ImportedRow,
    Pair,
    Vote,
    annotator,
    has,
    models_of,
    name_from,
    number_from,
    of_kinds,
    one_user_turn,
    text_of,
    verdict_from,
    whose,
)
from rlaif.prompting.conversations import Turn, Unusable
from rlaif.records import Verdict

NO_PROMPT = "the prompt, which the row does not have: an empty one stands for it"
BESIDE = "rows of further files"  # the key under which a row has those that are joined to it


def instruction(row: dict[str, Any]) -> tuple[Turn, ...] | None:
    """The user's turn of `instruction` and `input`, None where there is no text."""
    parts = [row.get("instruction"), row.get("input")]
    texts = [part for part in parts if isinstance(part, str) and part.strip()]
    return (("user", "\n\n".join(texts)),) if texts else None


def pandalm_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One item of PandaLM's test set: people are `annotator1` to `annotator3`, judges stand in files beside
    it."""
    messages, responses = instruction(row), (text_of(row.get("response1")), text_of(row.get("response2")))
    if messages is None:
        return Unusable("no instruction")
    if None in responses:
        return Unusable("a response is not text")
    votes = [
        Vote(annotator("human", key), verdict_from(row[key]))
        for key in sorted(row)
        if key.startswith("annotator")
    ]
    joined = row.get(BESIDE)
    for name, said in joined.items() if isinstance(joined, dict) else ():
        votes += _judged(name, said) if isinstance(said, dict) else ()
    models = str(row.get("cmp_key", "")).split("_")
    return ImportedRow(
        messages,
        (str(responses[0]), str(responses[1])),
        tuple(votes),
        models=tuple(models) if len(models) == 2 else (),
    )


def _judged(file: str, row: dict[str, Any]) -> Iterator[Vote]:
    """The verdict of a judge's row, the judge named as its file is: `NAME-testset-v1.json`."""
    name = file.split("-testset")[0]
    for key in row:
        if str(key).strip().endswith("_result"):
            verdict = verdict_from(row[key])
            reason = row.get(str(key).strip().replace("_result", "_reason"))
            said = reason if isinstance(reason, str) and reason.strip() else None
            yield Vote(annotator("ai", name), verdict, rationale=said or _lecture(row[key], verdict))


def _lecture(value: Any, verdict: Verdict) -> str | None:
    """What an annotator wrote in place of a verdict."""
    return value if verdict == "invalid" and isinstance(value, str) and value.strip() else None


def _is_pandalm(row: Any) -> bool:
    return has("response1", "response2", "annotator1")(row) and instruction(row) is not None


def icai_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One row of `text_a`, `text_b`, `preferred_text`, the prompt in `input` or in front of both texts."""
    texts = [text_of(row.get(key)) for key in ("text_a", "text_b")]
    if None in texts:
        return Unusable("a response is not text")
    messages, first, second = _prompt_of(row.get("input"), str(texts[0]), str(texts[1]))
    verdict = verdict_from(row.get("preferred_text"))
    vote = Vote(
        annotator("human", "preferred_text"), verdict, rationale=_lecture(row.get("preferred_text"), verdict)
    )
    lost = () if messages[0][1] else (NO_PROMPT,)
    return ImportedRow(
        messages,
        (first, second),
        (vote,),
        models=models_of([row.get(key) for key in ("model_a", "model_b")]),
        lost=lost,
    )


def _prompt_of(given: Any, first: str, second: str) -> tuple[tuple[Turn, ...], str, str]:
    """The prompt of two texts: `given`, or what both begin with as "Instruction: …\\n\\nOutput: "."""
    if isinstance(given, str) and given.strip():
        return (("user", given),), first, second
    (a, marked, x), (b, _, y) = (text.partition("\n\nOutput: ") for text in (first, second))
    if marked and a == b and a.startswith("Instruction: "):
        return (("user", a.removeprefix("Instruction: ")),), x, y
    return (("user", ""),), first, second


def _write_icai(pair: Pair) -> dict[str, Any] | Unusable:
    if pair.sorted is None:
        return NO_WINNER
    text = one_user_turn(pair.messages)
    if text is None:
        return ONE_TURN
    row: dict[str, Any] = {
        "text_a": pair.first,
        "text_b": pair.second,
        "preferred_text": "text_a" if (pair.p_first or 0) > 0.5 else "text_b",
        "input": text,
    }
    return row | dict(zip(("model_a", "model_b"), pair.models, strict=True))


ICAI = Format(
    "icai",
    "Inverse constitutional AI, CSV",
    has("text_a", "text_b", "preferred_text"),
    icai_row,
    write=_write_icai,
    sided=True,
    loses="earlier turns, ties, how sure the preference is, who labelled",
)

# Why AnnotatedPairs has no preference, and what that is here; a tie's reason is kept as its rationale.
NO_PREFERENCE: dict[str, Verdict] = {
    "not_applicable": "abstain",
    "invalid": "invalid",
    "both": "tie",
    "neither": "tie",
}


def unfold_annotated_pairs(document: Any, path: Path) -> Iterator[Any]:
    """The comparisons of a document, each with the document's annotators."""
    comparisons = document.get("comparisons") if isinstance(document, dict) else None
    annotators = document.get("annotators") if isinstance(document, dict) else None
    for row in comparisons if isinstance(comparisons, list) else []:
        yield (
            {**row, "annotators": annotators if isinstance(annotators, dict) else {}}
            if isinstance(row, dict)
            else row
        )


def annotated_pair(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One comparison of AnnotatedPairs 2.0, with the document's annotators beside it.

    A principle's annotations are those of one AI annotator, "principles", under that principle; those of
    unknown type are people's, which the type says of the labels that a data set came with.
    """
    sides = [row.get(key) for key in ("response_a", "response_b")]
    texts = [text_of(side.get("text")) if isinstance(side, dict) else None for side in sides]
    if None in texts:
        return Unusable("a response is not text")
    said, known = row.get("annotations"), row.get("annotators", {})
    if not isinstance(said, dict):
        return Unusable("no annotations")
    votes = [vote for id, given in said.items() if (vote := _annotation(id, given, known.get(id)))]
    messages, first, second = _prompt_of(row.get("prompt"), str(texts[0]), str(texts[1]))
    models = [side.get("model") if isinstance(side, dict) else None for side in sides]
    lost = [] if messages[0][1] else [NO_PROMPT]
    lost += ["annotation that is not an object"] * (len(said) - len(votes))
    return ImportedRow(
        messages,
        (first, second),
        tuple(votes),
        models=models_of(models),
        lost=tuple(lost),
    )


def _annotation(id: str, said: Any, who: Any) -> Vote | None:
    """One annotation; None where it is no object."""
    if not isinstance(said, dict):
        return None
    about = who if isinstance(who, dict) else {}
    reason = said.get("no_pref_reason")
    if said.get("pref") is None:
        verdict = NO_PREFERENCE.get(reason, "invalid") if isinstance(reason, str) else "invalid"
    else:
        verdict = verdict_from(said["pref"])
    why = reason if verdict == "tie" and isinstance(reason, str) else _lecture(said.get("pref"), verdict)
    kind, name = str(about.get("type", "")), name_from(about.get("name"))
    text = name_from(about.get("description")) or name
    if kind == "principle":
        return Vote(annotator("ai", "principles"), verdict, principle=(id, text or id), rationale=why)
    known = {**dict.fromkeys(("", "human", "unknown"), "human"), "simulated": "simulated"}
    return Vote(annotator(known.get(kind, "ai"), name or text or id), verdict, rationale=why)


def _write_annotated_pair(pair: Pair) -> dict[str, Any] | Unusable:
    """One comparison, its annotators beside it: `_annotated_pairs` collects them in one place."""
    prompt = one_user_turn(pair.messages)
    if prompt is None:
        return ONE_TURN
    sides = [
        {"text": text, **({"model": model} if model else {})}
        for text, model in zip((pair.first, pair.second), pair.models, strict=True)
    ]
    annotators: dict[str, dict[str, str]] = {}
    votes: dict[str, list[Vote]] = {}
    for vote in pair.votes:
        if vote.principle and vote.annotator and vote.annotator.kind != "ai":
            continue  # whose verdict would be read as a model's
        id, about = _described(vote)
        annotators[id] = about
        votes.setdefault(id, []).append(vote)
    annotations = {id: _annotated(_together(own)) for id, own in votes.items()}
    whole = "|".join([prompt, *(json.dumps(side, sort_keys=True) for side in sides)])
    return {
        "id": _short_hash(whole),
        "prompt": prompt,
        "response_a": sides[0],
        "response_b": sides[1],
        "annotations": annotations,
        "annotators": annotators,
    }


def _together(votes: Sequence[Vote]) -> Vote:
    """What an annotator who was asked several times, as in both orders, says on the whole."""
    said = [vote.p_first for vote in votes if vote.p_first is not None]
    if len(votes) == 1 or not said:
        return votes[-1]
    p = fmean(said)
    return replace(votes[0], verdict="tie" if p == 0.5 else "a" if p > 0.5 else "b", p_first=p)


def _described(vote: Vote) -> tuple[str, dict[str, str]]:
    """An annotator's id in the file and what the file says of it."""
    if vote.principle:
        id, text = vote.principle
        return id, {"description": text, "type": "principle"}
    who = vote.annotator
    kind, name = (who.kind, who.id) if who else ("human", "annotator")
    return _short_hash(name if kind == "human" else f"{kind}:{name}"), {"name": name, "type": kind}


def _annotated(vote: Vote) -> dict[str, Any]:
    if vote.verdict in ("a", "b"):
        return {"pref": vote.verdict}
    reason = {"abstain": "not_applicable", "invalid": "invalid"}.get(vote.verdict, "both")
    if vote.verdict == "tie" and vote.rationale in NO_PREFERENCE:
        reason = vote.rationale
    return {"pref": None, "no_pref_reason": reason}


def _short_hash(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8]


def _annotated_pairs(rows: Sequence[Any]) -> dict[str, Any]:
    annotators = {id: about for row in rows for id, about in row["annotators"].items()}
    people = [id for id, about in annotators.items() if about["type"] == "human"]
    return {
        "metadata": {"version": "2.0", "default_annotator": next(iter(people or annotators), None)},
        "annotators": annotators,
        "comparisons": [{key: row[key] for key in row if key != "annotators"} for row in rows],
    }


ANNOTATED_PAIRS = Format(
    "annotated-pairs",
    "AnnotatedPairs 2.0",
    has("annotators", "comparisons"),
    annotated_pair,
    unfold=unfold_annotated_pairs,
    write=_write_annotated_pair,
    whole=_annotated_pairs,
    sided=True,
    labels=True,
    loses="earlier turns, probabilities, reasons, seconds, people's verdicts under a principle, both orders",
)


def alpaca_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One row of AlpacaFarm or AlpacaEval: `preference` is 1 or 2, or a number between: 2 = output_2 wins.

    1.5 and 0 are ties, null and what is no such number are invalid. A named annotator is a model, a numbered
    one or none a person. `preference` is told about output_1 and output_2 as they stand, also where
    `is_switched_outputs` says that they were shown the other way round.
    """
    messages, outputs = instruction(row), (text_of(row.get("output_1")), text_of(row.get("output_2")))
    if messages is None:
        return Unusable("no instruction")
    if None in outputs:
        return Unusable("a response is not text")
    verdict, p_first = _alpaca_verdict(row.get("preference"))
    who = row.get("annotator")
    name, reason = name_from(who), row.get("raw_completion")
    numbered = name is None or not isinstance(who, str) or name.isdigit()
    vote = Vote(
        annotator("human" if numbered else "ai", name or "people"),
        verdict,
        p_first=p_first,
        order="ba" if row.get("is_switched_outputs") is True else "ab",
        rationale=reason if isinstance(reason, str) else _lecture(row.get("preference"), verdict),
    )
    models = [row.get(key) for key in ("generator_1", "generator_2")]
    return ImportedRow(
        messages,
        (str(outputs[0]), str(outputs[1])),
        (vote,),
        models=models_of(models),
    )


def _alpaca_verdict(preference: Any) -> tuple[Verdict, float | None]:
    number = number_from(preference)
    if number is not None and (number == 0 or number == 1.5):
        return "tie", 0.5
    if number is None or not 1 <= number <= 2:
        return "invalid", None
    return ("a" if number < 1.5 else "b"), 2 - number


def _write_alpaca(pair: Pair) -> dict[str, Any] | Unusable:
    text = one_user_turn(pair.messages)
    if text is None or pair.p_first is None:
        return NO_WINNER if text is not None else ONE_TURN
    row: dict[str, Any] = {"instruction": text, "output_1": pair.first, "output_2": pair.second}
    row |= {key: m for key, m in zip(("generator_1", "generator_2"), pair.models, strict=True) if m}
    who = whose(pair.votes)
    row |= {"annotator": who.id} if who and who != of_kinds(["human"]) else {}  # a name is read as a model's
    return row | {"preference": 2 - pair.p_first}


ALPACA = Format(
    "alpaca",
    "AlpacaFarm and AlpacaEval",
    has("instruction", "output_1", "output_2", "preference"),
    alpaca_row,
    write=_write_alpaca,
    sided=True,
    loses="earlier turns, whether an annotator is a person or a model, labels by principle",
)
PANDALM = Format(
    "pandalm",
    "PandaLM, test set",
    _is_pandalm,
    pandalm_row,
    join="idx",
    sided=True,
)

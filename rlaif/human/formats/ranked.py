"""Formats of several responses to one prompt: rankings, ratings, and what annotation tools write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rlaif.human.formats.base import (
    NO_KIND,
    NO_TIME,
    NOT_HELD,
    ONE_TURN,
    Format,
    ImportedRow,
    Ranks,
    annotator,
    as_messages,
    has,
    kind_from,
    name_from,
    named,
    number_from,
    one_user_turn,
    seconds_from,
    text_of,
    unread,
    whole_from,
)
from rlaif.human.formats.chosen import question
from rlaif.prompting.conversations import Unusable

UNRANKED = Unusable("fewer than two ranked responses")


def ultrafeedback_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One row of UltraFeedback as distilabel writes it: `generations` with `ratings`, null where there is
    none.

    The ranking goes by the ratings, equal ones being ties; the ratings themselves are kept as scores.
    """
    messages = question(row.get("instruction"))
    if isinstance(messages, Unusable):
        return messages
    texts, given = row.get("generations"), row.get("ratings")
    if not isinstance(texts, list) or not isinstance(given, list) or len(texts) != len(given):
        return Unusable("not as many ratings as generations")
    both = enumerate(zip(texts, given, strict=True))
    read = [(text_of(text), number_from(rating), place) for place, (text, rating) in both]
    kept = [(text, rating, place) for text, rating, place in read if text is not None]
    ratings = [rating for _, rating, _ in kept]
    if sum(rating is not None for rating in ratings) < 2:
        return UNRANKED
    name = name_from(row.get("model_name")) or "ultrafeedback"
    models = row.get("generation_models")
    lost = ["generation that is not text"] * (len(texts) - len(kept))
    rationales = row.get("rationales")
    said = rationales if isinstance(rationales, list) else [rationales]
    lost += ["rationale"] * sum(isinstance(text, str) and bool(text) for text in said)
    return ImportedRow(
        messages,
        tuple(str(text) for text, _, _ in kept),
        rankings=(Ranks(annotator("ai", name), by_rating(ratings)),),
        models=tuple(str(models[place] or "") for _, _, place in kept)
        if isinstance(models, list) and len(models) == len(texts)
        else (),
        grades=tuple({str(name): rating} if rating is not None else {} for rating in ratings),
        lost=tuple(lost),
    )


def by_rating(ratings: Sequence[float | None]) -> tuple[int | None, ...]:
    """Ranks from ratings, the highest first; none where there is no rating."""
    order = sorted({rating for rating in ratings if rating is not None}, reverse=True)
    return tuple(None if rating is None else order.index(rating) + 1 for rating in ratings)


def _write_ultrafeedback(row: ImportedRow) -> dict[str, Any] | Unusable:
    text = one_user_turn(row.messages)
    if text is None or len(row.rankings) != 1:
        return ONE_TURN if text is None else NOT_HELD
    [given] = row.rankings
    name = given.annotator.id if given.annotator else ""
    ratings = [scores.get(name) for scores in row.grades] or [None] * len(row.responses)
    if by_rating(ratings) != by_rating([None if rank is None else -rank for rank in given.ranks]):
        ratings = [None if rank is None else float(-rank) for rank in given.ranks]
    made: dict[str, Any] = {"instruction": text, "generations": [*row.responses], "ratings": ratings}
    made |= {"generation_models": [*row.models]} if any(row.models) else {}
    return made | ({"model_name": name} if name else {})


ULTRAFEEDBACK = Format(
    "ultrafeedback",
    "UltraFeedback, distilabel",
    has("instruction", "generations", "ratings"),
    ultrafeedback_row,
    write_row=_write_ultrafeedback,
    sided=True,
    loses="earlier turns, seconds, rationales, whether a person or a model rated",
)


def ranking_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One K-wise ranking: `prompt`, `responses`, and `ranks` (1 is best) or `ordering`.

    `ordering` lists places from 0, the best first; places in a list of their own are tied.
    """
    messages = question(row.get("prompt"))
    if isinstance(messages, Unusable):
        return messages
    texts = row.get("responses")
    responses = [text_of(text) for text in texts] if isinstance(texts, list) else [None]
    if None in responses:
        return Unusable("responses are no list of texts")
    ranks = _ranks(row.get("ranks"), len(responses)) or _ranks_of(row.get("ordering"), len(responses))
    if ranks is None:
        return Unusable("no rank for each response")
    if sum(rank is not None for rank in ranks) < 2:
        return UNRANKED
    who, time = row.get("annotator"), row.get("seconds")
    kind = kind_from(who.get("kind")) if isinstance(who, dict) else "human"
    if kind is None:
        return NO_KIND
    name = who.get("id") if isinstance(who, dict) else who
    given = Ranks(named(kind, name, "ranking"), ranks, seconds_from(time))
    lost = unread((time, given.seconds, NO_TIME))
    return ImportedRow(messages, tuple(map(str, responses)), rankings=(given,), lost=lost)


def _ranks(given: Any, count: int) -> tuple[int | None, ...] | None:
    if not isinstance(given, list) or len(given) != count:
        return None
    ranks = tuple(whole_from(rank) for rank in given)
    left_out = [rank is None or rank == "" or rank != rank for rank in given]  # NaN, of a data frame
    return ranks if all(rank is not None or out for rank, out in zip(ranks, left_out, strict=True)) else None


def _ranks_of(ordering: Any, count: int) -> tuple[int | None, ...] | None:
    """Ranks from an ordering of places; one that is out of range or stands twice makes it none."""
    if not isinstance(ordering, list):
        return None
    groups = [group if isinstance(group, list) else [group] for group in ordering]
    ranks: dict[Any, int] = {}
    for rank, group in enumerate(groups, 1):
        for place in map(whole_from, group):
            if place is None or not 0 <= place < count or place in ranks:
                return None
            ranks[place] = rank
    return tuple(ranks.get(place) for place in range(count))


def _write_ranking(row: ImportedRow) -> list[dict[str, Any]] | Unusable:
    if not row.rankings:
        return NOT_HELD
    messages = as_messages(row.messages)
    made = []
    for given in row.rankings:
        line: dict[str, Any] = {"prompt": messages, "responses": [*row.responses], "ranks": [*given.ranks]}
        line |= {"annotator": given.annotator.model_dump()} if given.annotator else {}
        made.append(line | ({"seconds": given.seconds} if given.seconds is not None else {}))
    return made


RANKING = Format(
    "ranking",
    "K-wise ranking with ties",
    lambda row: has("prompt", "responses", "ranks")(row) or has("prompt", "responses", "ordering")(row),
    ranking_row,
    write_row=_write_ranking,
    sided=True,
    loses="what wrote the responses",
)


def label_studio_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One Label Studio task with a ranker: `items`, and annotations that list them or put them into buckets.

    A ranker's value is a list, best first, or an object: one bucket is a list, several are ranks where their
    names end in numbers, and what shares one is tied.
    """
    data = row.get("data")
    if not isinstance(data, dict):
        return Unusable("no data")
    messages, items = question(data.get("prompt")), data.get("items")
    if isinstance(messages, Unusable):
        return messages
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return Unusable("items are no list of objects")
    texts = [text_of(item.get("body", item.get("html"))) for item in items]
    ids = [str(item.get("id")) for item in items]
    if None in texts or len(set(ids)) < len(ids):
        return Unusable("an item without a text or an id of its own")
    rankings, lost = [], []
    for given in _listed(row.get("annotations")):
        found = [*_rankers(given, ids)] or [Unusable("annotation without a ranking")]
        for ranks in found:
            rankings.append(ranks) if isinstance(ranks, Ranks) else lost.append(str(ranks))
            if isinstance(ranks, Ranks):
                lost += unread((given.get("lead_time"), ranks.seconds, NO_TIME))
    if not rankings:
        return Unusable(lost[-1] if lost else "nobody has ranked it")
    lost += ["a model's prediction"] * len(_listed(row.get("predictions")))
    return ImportedRow(messages, tuple(map(str, texts)), rankings=tuple(rankings), lost=tuple(lost))


def _rankers(given: Any, ids: Sequence[str]) -> Iterator[Ranks | Unusable]:
    """The rankings of one annotation."""
    if not isinstance(given, dict) or given.get("was_cancelled"):
        yield Unusable(
            "annotation that was cancelled" if isinstance(given, dict) else "annotation of no shape"
        )
        return
    who = given.get("completed_by")
    people = named("human", who.get("id") if isinstance(who, dict) else who)
    for result in given["result"] if isinstance(given.get("result"), list) else ():
        value = result.get("value") if isinstance(result, dict) and result.get("type") == "ranker" else None
        if isinstance(value, dict):
            groups = _groups(value.get("ranker"))
            ranks = groups if isinstance(groups, Unusable) else _ranks_of_ids(groups, ids)
            seconds = seconds_from(given.get("lead_time"))
            yield ranks if isinstance(ranks, Unusable) else Ranks(people, ranks, seconds)


def _groups(value: Any) -> list[list[str]] | Unusable:
    """The ids of a ranker's value in groups, the best first."""
    if isinstance(value, list):
        return [[str(id)] for id in value]
    buckets = value if isinstance(value, dict) else {}
    if not buckets or not all(isinstance(ids, list) for ids in buckets.values()):
        return Unusable("a ranker's value is no list and no buckets")
    if len(buckets) == 1:
        return [[str(id)] for id in next(iter(buckets.values()))]
    numbers = {name: re.search(r"(\d+)$", str(name).strip()) for name in buckets}
    if not all(numbers.values()):
        return Unusable("buckets whose names have no order")
    order = sorted(buckets, key=lambda name: int(found[0]) if (found := numbers[name]) else 0)
    return [[str(id) for id in buckets[name]] for name in order]


def _ranks_of_ids(groups: Sequence[Sequence[str]], ids: Sequence[str]) -> tuple[int | None, ...] | Unusable:
    ranks: dict[str, int] = {}
    for rank, group in enumerate(groups, 1):
        for id in group:
            if id not in ids or id in ranks:
                return Unusable("a ranking that names an unknown item, or one twice")
            ranks[id] = rank
    return tuple(ranks.get(id) for id in ids) if len(ranks) > 1 else UNRANKED


def _write_label_studio(row: ImportedRow) -> dict[str, Any] | Unusable:
    text, orders = one_user_turn(row.messages), [_order(given) for given in row.rankings]
    if text is None or not orders:
        return ONE_TURN if text is None else NOT_HELD
    items = [
        {"id": str(n), "title": f"Response {n + 1}", "body": body} for n, body in enumerate(row.responses)
    ]
    annotations = []
    for given, order in zip(row.rankings, orders, strict=True):
        if order is None:
            return Unusable("a tie")
        result = {"type": "ranker", "value": {"ranker": [str(place) for place in order]}}
        who = {"completed_by": given.annotator.id} if given.annotator else {}
        time = {"lead_time": given.seconds} if given.seconds is not None else {}
        annotations.append({**who, **time, "result": [result]})
    return {"data": {"prompt": text, "items": items}, "annotations": annotations}


def _order(given: Ranks) -> list[int] | None:
    """Places from the best to the worst; None where two are tied."""
    ranked = [(rank, place) for place, rank in enumerate(given.ranks) if rank is not None]
    tied = len({rank for rank, _ in ranked}) < len(ranked)
    return None if tied else [place for _, place in sorted(ranked)]


LABEL_STUDIO = Format(
    "label-studio",
    "Label Studio, ranker",
    lambda row: has("data")(row) and has("items")(row["data"]),
    label_studio_row,
    write_row=_write_label_studio,
    sided=True,
    loses="earlier turns, ties, what wrote the responses, whether a person or a model ranked",
)
_ARGILLA_RESPONSE = re.compile(r"response[-_ ]?\d+$")


def argilla_row(row: dict[str, Any]) -> ImportedRow | Unusable:
    """One Argilla record, flat: `response1`, `response2` … and a ranking question's `.responses`, one a
    user."""
    messages = question(row.get("instruction", row.get("prompt")))
    if isinstance(messages, Unusable):
        return messages
    names = sorted(filter(_ARGILLA_RESPONSE.match, row), key=lambda name: (len(name), name))
    names = [name for name in names if row[name] is not None]
    texts = [text_of(row[name]) for name in names]
    key = _argilla_question(row)
    if None in texts or key is None:
        return Unusable("a response is not text" if None in texts else "no ranking question")
    rankings, lost = [], []
    users, states = (_listed(row.get(f"{key}.{what}")) for what in ("users", "status"))
    for n, given in enumerate(_listed(row[key])):
        ranks = _ranks_of_ids([[str(id)] for id in _listed(given)], names)
        if n < len(states) and states[n] not in (None, "submitted"):
            lost.append("response that was not submitted")
        elif isinstance(ranks, Unusable):
            lost.append(str(ranks))
        else:
            rankings.append(Ranks(named("human", users[n]) if n < len(users) else None, ranks))
    if not rankings:
        return Unusable(lost[-1] if lost else "nobody has ranked it")
    return ImportedRow(messages, tuple(map(str, texts)), rankings=tuple(rankings), lost=tuple(lost))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _argilla_question(row: dict[str, Any]) -> str | None:
    """The key of the first question whose responses are lists of names."""
    keys = [key for key in row if key.endswith(".responses")]
    return next((key for key in keys if any(isinstance(one, list) for one in _listed(row[key]))), None)


def _write_argilla(row: ImportedRow) -> dict[str, Any] | Unusable:
    text, orders = one_user_turn(row.messages), [_order(given) for given in row.rankings]
    if text is None or not orders:
        return ONE_TURN if text is None else NOT_HELD
    if None in orders:
        return Unusable("a tie")
    return {
        "instruction": text,
        **{f"response{n + 1}": body for n, body in enumerate(row.responses)},
        "ranking.responses": [[f"response{place + 1}" for place in order or ()] for order in orders],
        "ranking.responses.users": [
            given.annotator.id if given.annotator else None for given in row.rankings
        ],
    }


ARGILLA = Format(
    "argilla",
    "Argilla, ranking question",
    lambda row: (
        isinstance(row, dict) and has("response1", "response2")(row) and _argilla_question(row) is not None
    ),
    argilla_row,
    write_row=_write_argilla,
    sided=True,
    loses="earlier turns, ties, seconds, what wrote the responses, whether a person or a model ranked",
)

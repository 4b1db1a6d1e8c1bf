"""Rankings and labels by people, real or simulated, as labels of a run's comparisons."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.constitution import Constitution, Principle
from rlaif.errors import UserError, reason_of
from rlaif.feedback.judge import JudgeQuestion
from rlaif.human.folder import P_A, ImportFolder, keep_last, read_beside, said_of, with_p
from rlaif.plugin import load_function
from rlaif.records import Annotator, Comparison, Label, Prompt, Ranking, Response, Verdict, with_content_id
from rlaif.runs.rows import numbered_rows, read_rows


def labels_from_rankings(
    rankings: Iterable[Ranking], comparisons: Iterable[Comparison]
) -> tuple[list[Label], Counter[str]]:
    """One label for every comparison whose two responses a ranking holds, and what was left out by reason.

    A ranking's seconds are shared out evenly over its labels; of two rankings of one pair by one annotator
    the last counts.
    """
    by_prompt: defaultdict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        by_prompt[comparison.prompt_id].append(comparison)
    labels: dict[str, Label] = {}
    dropped: Counter[str] = Counter()
    for ranking in rankings:
        held = set(ranking.response_ids)
        pairs = [c for c in by_prompt[ranking.prompt_id] if c.a in held and c.b in held]
        if not pairs:
            dropped["ranking without a comparison"] += 1
        for label in _labels(ranking, pairs):
            keep_last(labels, label.id, label, dropped)
    return list(labels.values()), +dropped


def _labels(ranking: Ranking, pairs: Sequence[Comparison]) -> list[Label]:
    seconds = ranking.seconds / len(pairs) if ranking.seconds is not None and pairs else None
    verdicts: list[tuple[Comparison, Verdict]] = [(pair, ranking.verdict(pair.a, pair.b)) for pair in pairs]
    return [
        Label(comparison_id=pair.id, annotator=ranking.annotator, verdict=v, p_a=P_A[v], seconds=seconds)
        for pair, v in verdicts
    ]


def load_human_labels(
    path: Path, comparisons: Iterable[Comparison], dropped: Counter[str] | None = None
) -> list[Label]:
    """The labels that a JSONL file of labels or rankings gives on `comparisons`; a verdict alone implies its
    p_a.

    `dropped` collects what was left out, by reason; of two labels of one annotator on one pair the last
    counts. Raises UserError naming the line of a label that
    contradicts itself or is on a comparison found neither here nor in the comparisons.jsonl beside the file,
    and where no ranking fits any comparison.
    """
    dropped = Counter() if dropped is None else dropped
    if path.is_dir():
        raise UserError(f"{path}: a folder.", "a file of labels or rankings", f"{path / 'labels.jsonl'}")
    if path.is_file() and not path.read_bytes().strip():
        raise UserError(
            f"{path}: holds no label.", "a row of labels or rankings a line", "name the file that holds them"
        )
    beside = read_beside(path)
    if not _holds_rankings(path):
        return _checked_labels(path, {c.id for c in comparisons}, beside, dropped)
    rankings = [by_content(row, beside) for row in read_rows(path, Ranking)]
    labels, reasons = labels_from_rankings(rankings, comparisons)
    if rankings and not labels:
        raise UserError(
            f"{path}: none of its {len(rankings)} rankings is of responses compared here.",
            "rankings of this run's responses",
            "check that the file was made from this run (the same policy, prompts and seed)",
        )
    dropped.update(reasons)
    return labels


def by_content(row: Ranking, beside: ImportFolder) -> Ranking:
    """The ranking with the ids that the content of the rows beside its file gives."""
    responses = tuple(beside.id_of("responses", i) for i in row.response_ids)
    if len(set(responses)) < len(responses):
        raise UserError(
            f"{beside.path}: a ranking of the prompt {row.prompt_id} ranks one response under two ids.",
            "each response once in a ranking",
            "leave one of the two out",
        )
    return with_content_id(row, prompt_id=beside.id_of("prompts", row.prompt_id), response_ids=responses)


def _holds_rankings(path: Path) -> bool:
    """Whether the file's first row is a ranking; what cannot be read is left for the reader to complain
    about."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return "ranks" in json.loads(next((line for line in file if line.strip()), "{}"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _checked_labels(path: Path, here: set[str], beside: ImportFolder, dropped: Counter[str]) -> list[Label]:
    labels: dict[Hashable, Label] = {}
    known = here | beside.comparisons.keys()
    for line, row in numbered_rows(path, Label):
        # By the ids of their content, so that labels and pairs under one foreign id do not stand for each
        # other.
        label = with_content_id(row, comparison_id=beside.id_of("comparisons", row.comparison_id))
        if label.comparison_id not in known:
            raise UserError(
                f'{path}:{line}: a label on the comparison "{row.comparison_id}", which does not exist.',
                f"the id of one of the {len(here)} comparisons of this run",
                "take the ids from the run's "
                "comparisons.jsonl, or import the pairs the labels belong to (pair.imported)",
            )
        checked = with_p(label, f"{path}:{line}")
        if label.comparison_id not in here:
            dropped["label on a pair that this run leaves out"] += 1
        else:
            keep_last(labels, said_of(checked), checked, dropped)
    return list(labels.values())


def simulate_labels(
    annotator: str,
    options: Mapping[str, Any],
    questions: Sequence[JudgeQuestion],
    constitution: Constitution,
    seed: int,
) -> list[Label]:
    """Labels of the questions' comparisons from K-wise rankings by the program `module:function`; see
    `simulate`."""
    prompts = {question.prompt.id: question.prompt for question in questions}
    responses: defaultdict[str, dict[str, Response]] = defaultdict(dict)
    for question in questions:
        for id, text in ((question.comparison.a, question.a), (question.comparison.b, question.b)):
            responses[question.prompt.id][id] = Response(id=id, prompt_id=question.prompt.id, text=text)
    by_prompt = {prompt_id: list(found.values()) for prompt_id, found in responses.items()}
    function = load_function(annotator, "annotator")
    rankings = simulate(function, options, prompts.values(), by_prompt, constitution.principles, seed)
    return labels_from_rankings(rankings, [question.comparison for question in questions])[0]


def simulate(
    annotator: Callable[..., Sequence[int]],
    options: Mapping[str, Any],
    prompts: Iterable[Prompt],
    responses_by_prompt: Mapping[str, Sequence[Response]],
    principles: Sequence[Principle],
    seed: int,
) -> list[Ranking]:
    """Rankings by a program that plays an annotator, for every prompt with two responses or more.

    The program is called as `annotator(messages, responses, principles, seed=seed, **options)`, with those
    principles that apply to the prompt as {"id", "text"}, and returns a rank for each response: lower is
    better, equal is a tie. Raises UserError where it returns anything else.
    """
    name = str(options.get("annotator_id", getattr(annotator, "__name__", "annotator")))
    rankings = []
    for prompt in prompts:
        responses = responses_by_prompt.get(prompt.id, ())
        if len(responses) < 2:
            continue
        rules = [{"id": p.id, "text": p.text} for p in principles if p.applies(prompt.tags)]
        try:
            given = list(annotator(prompt.chat, [r.text for r in responses], rules, seed=seed, **options))
        except Exception as error:  # a user's function may raise anything
            raise UserError(
                f"annotator {name} failed ({reason_of(error)}) on the prompt {prompt.id}.",
                "a rank for each response",
                "fix it and run the same command again: it continues",
            ) from error
        if len(given) != len(responses) or not all(isinstance(rank, int) for rank in given):
            raise UserError(
                f"annotator {name}: returned {given!r} for {len(responses)} responses.",
                "one whole number a response, lower is better",
            )
        ranks = tuple(rank - min(given) + 1 for rank in given)
        rankings.append(
            Ranking(
                prompt_id=prompt.id,
                response_ids=tuple(r.id for r in responses),
                ranks=ranks,
                annotator=Annotator(kind="simulated", id=name),
            )
        )
    return rankings

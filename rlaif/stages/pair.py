"""pair: comparisons out of the policy's samples, of originals and their revisions, and of imported pairs."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import combinations
from pathlib import Path

from rlaif.config import find
from rlaif.human.folder import read_folder
from rlaif.options import PairOptions
from rlaif.records import Comparison, Prompt, Response, Revision
from rlaif.runs.folder import Stage, split_of
from rlaif.runs.rows import RowFile
from rlaif.runs.seeds import derive_seed


def run(stage: Stage[PairOptions]) -> None:
    """Write comparisons.jsonl; pairs of equal texts are dropped and counted, imported texts are copied
    beside."""
    options = stage.options
    pairs: dict[str, Comparison] = {}
    for made in (
        _of_samples(stage) if options.samples else [],
        _of_revisions(stage) if options.revisions else [],
        _imported(stage, find(options.imported, stage.run.base)) if options.imported else [],
    ):
        stage.dropped["pair that the run has already"] += sum(pair.id in pairs for pair in made)
        pairs |= {pair.id: pair for pair in made if pair.id not in pairs}
    found = len(pairs) + sum(stage.dropped.values())
    chosen = stage.shuffled(list(pairs.values()), "limit")[: options.limit]
    stage.dropped["over the limit"] += len(pairs) - len(chosen)
    stage.rows("comparisons", Comparison).append(chosen)
    stage.metrics = {"comparisons": len(chosen), "prompts": len({pair.prompt_id for pair in chosen})}
    for pair in chosen:
        stage.metrics[pair.origin] = stage.metrics.get(pair.origin, 0) + 1
    stage.save("running", **{"in": found, "kept": len(chosen)})


def _of_samples(stage: Stage[PairOptions]) -> list[Comparison]:
    by_prompt: dict[str, list[Response]] = defaultdict(list)
    for response in stage.load("responses", Response):
        by_prompt[response.prompt_id].append(response)
    pairs: list[Comparison] = []
    for prompt_id, responses in by_prompt.items():
        rng = random.Random(derive_seed(stage.seed, "pairs", prompt_id))
        # Kept in the order in which they were sampled: which of two samples stands first is chance already.
        candidates = list(combinations(sorted(responses, key=lambda r: r.index), 2))
        different = [(a, b) for a, b in candidates if a.text != b.text]
        stage.dropped["two samples with the same text"] += len(candidates) - len(different)
        for a, b in rng.sample(different, min(len(different), stage.options.per_prompt or len(different))):
            pairs.append(Comparison(prompt_id=prompt_id, a=a.id, b=b.id))
    return pairs


def _of_revisions(stage: Stage[PairOptions]) -> list[Comparison]:
    """The last revision as a against the original as b; the label stage keeps it only if the judge prefers
    a."""
    steps = {(row.round, row.from_id): row for row in stage.load("revisions", Revision)}
    texts = stage.responses()
    pairs: list[Comparison] = []
    for (round, origin), step in steps.items():
        if round != 1:
            continue
        last = step
        while (last.round + 1, last.to_id) in steps:
            last = steps[(last.round + 1, last.to_id)]
        if texts[last.to_id].text == texts[origin].text:
            stage.dropped["revision left the text as it was"] += 1
        else:
            pairs.append(Comparison(prompt_id=step.prompt_id, a=last.to_id, b=origin, origin="revision"))
    return pairs


def _imported(stage: Stage[PairOptions], folder: Path) -> list[Comparison]:
    groups = {p.id: p.group for p in RowFile(stage.run.path / "prompts.jsonl", Prompt)}
    rows = read_folder(folder)
    # A prompt that the run has, too, stands on the side on which the run's own stands.
    prompts = {
        i: row.model_copy(update={"group": groups.get(i, row.group)}) for i, row in rows.prompts.items()
    }
    kept: list[Comparison] = []
    for pair in rows.comparisons.values():
        if split_of(prompts[pair.prompt_id], stage.config) != "train":
            stage.dropped["imported pair of a held-out prompt"] += 1
        else:
            kept.append(pair.model_copy(update={"origin": "import"}))
    stage.rows("prompts", Prompt).append(prompts[pair.prompt_id] for pair in kept)
    stage.rows("responses", Response).append(rows.responses[i] for pair in kept for i in (pair.a, pair.b))
    stage.dropped["pair that stands twice in the import"] += rows.repeated
    stage.notes += [f"{folder}: {n} × {reason}" for reason, n in rows.counts.items() if n]
    return kept

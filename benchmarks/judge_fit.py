"""A judge fitted on few labels: the playground's judge spoiled on purpose, and SmolLM2 on people's labels.

    python benchmarks/judge_fit.py playground --seeds 0 1 2 3 4 --json fit.jsonl
    python benchmarks/judge_fit.py playground --train --seeds 0 1 2 --json trained.jsonl
    python benchmarks/judge_fit.py table --json fit.jsonl
    python benchmarks/judge_fit.py people MODEL HH.jsonl.gz --keep states --json people.jsonl

The spoiled judge adds 0.8 to the log-odds of the first response, multiplies them by 3, and is asked about one
principle in words that say nothing of it. It is fitted on 0, 50 and 300 labels of the truth, 10 % of them
wrong, and on 300 that are coin flips; what is measured is on fresh pairs, through the labels that a run
would store: accuracy and flips by the truth, the calibration error by what people say. `people` reads the
hidden states of each response once (16 of SmolLM2's 30 layers), keeps them, and fits a head on 50, 200 and
1,000 pairs of HH-RLHF; all other pairs are held out. `table` prints the rows of either.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import torch
from measuring import machine

from rlaif.audit import measures
from rlaif.audit.cases import AuditCase, Side
from rlaif.audit.fit import Fitting
from rlaif.audit.fit_numerics import (
    STRENGTHS,
    Opinions,
    Readings,
    Setting,
    choose,
    fit_numbers,
    forecast,
    nested,
)
from rlaif.audit.fit_verdict import measured_on_labels
from rlaif.audit.measures import readings
from rlaif.config import ModelConfig
from rlaif.constitution import Constitution
from rlaif.engines import ScoreRequest, open_engine
from rlaif.engines.fitted import PAIR, FittedEngine
from rlaif.engines.loading import load_tokenizer, model_folder
from rlaif.engines.transformers import TokenizedQuestion, TransformersEngine
from rlaif.feedback.judge import Judge, JudgeQuestion
from rlaif.feedback.labelled import LabelledPair
from rlaif.human.files import raw_rows
from rlaif.human.formats import FORMATS, ImportedRow
from rlaif.intervals import UNIT, clip_interval, mean_interval, with_seed_variance
from rlaif.playground import FEEDBACK, world
from rlaif.playground.grammar import EVEN, sample_question, sample_response
from rlaif.prompting.chat import encode_turn, end_of_turn
from rlaif.prompting.templates import Templates
from rlaif.records import Annotator, Comparison, Label, Prompt, Response, content_hash

PRINCIPLES = ("polite", "harmless", "honest", "helpful")
UNLEARNED = "polite"
NOTHING = "The reply must be a reply."
BIAS, FACTOR = 0.8, 3.0
WRONG = 0.1  # of the labels of the truth
TEST = 75  # fresh pairs a principle
LABELS = (0, 50, 300)
HH_LAYERS = (8, 10, 12, 15)  # of SmolLM2's 30


class Spoiled(TransformersEngine):
    """The playground's judge with an order bias, a wrong temperature and a principle that it has not
    learned."""

    def __init__(self, unlearned: str, instead: str) -> None:
        super().__init__(ModelConfig(model=str(FEEDBACK), dtype="float32"))
        self.suffixes = {unlearned: instead}
        first, second = self._variants(PAIR)
        self.model.lm_head.register_forward_hook(partial(_spoil, first, second))

    @property
    def fingerprint(self) -> str:
        return f"spoiled {super().fingerprint}"

    def _question(self, index: int, request: ScoreRequest) -> TokenizedQuestion:
        suffixes = tuple(self.suffixes.get(s, s) for s in request.suffixes)
        return super()._question(index, replace(request, suffixes=suffixes))


def _spoil(first: list[int], second: list[int], layer: Any, given: Any, logits: torch.Tensor) -> torch.Tensor:
    """Logits with other log-odds of A over B, and the same probability of both together."""
    a, b = (logits[..., ids].logsumexp(-1) for ids in (first, second))
    moved = FACTOR * (a - b) + BIAS
    both = torch.logaddexp(a, b)
    spoiled = logits.clone()
    spoiled[..., first] += (both - torch.nn.functional.softplus(-moved) - a)[..., None]
    spoiled[..., second] += (both - torch.nn.functional.softplus(moved) - b)[..., None]
    return spoiled


def drawn(rng: Random, kind: str, constitution: Constitution, number: int) -> AuditCase:
    """A pair that one principle decides, and its truth."""
    principle = next(p for p in constitution.principles if p.id == kind)
    while True:
        question = sample_question(rng, {"honest": "fact", "harmless": "risky"}.get(kind))
        texts = [sample_response(rng, question, EVEN, "garden") for _ in range(2)]
        kept = [world.keeps(kind, question, text, "garden") for text in texts]
        if kept[0] != kept[1]:
            break
    prompt = Prompt.model_validate({"messages": question.messages, "group": question.group})
    a, b = (Response(prompt_id=prompt.id, text=t, index=2 * number + n) for n, t in enumerate(texts))
    pair = Comparison(prompt_id=prompt.id, a=a.id, b=b.id)
    asked = JudgeQuestion(pair, prompt, texts[0], texts[1], (principle,))
    return AuditCase(asked, {kind: "a" if kept[0] else "b"})


def labelled(case: AuditCase, rng: Random, wrong: float) -> LabelledPair:
    """A person's label of a case; wrong = ½ is a coin flip."""
    (principle, side), asked = next(iter(case.truth.items())), case.question
    said = (side == "a") != (rng.random() < wrong)
    label = Label(
        comparison_id=asked.comparison.id,
        annotator=Annotator(kind="human", id="one"),
        principle_id=principle,
        p_a=float(said),
        verdict="a" if said else "b",
    )
    return LabelledPair(asked.comparison, asked.prompt, asked.a, asked.b, (label,))


def said_of(cases: Sequence[AuditCase], rng: Random) -> list[AuditCase]:
    """The cases with what people would say of them in place of the truth: 10 % the other side."""
    turned: dict[Side, Side] = {"a": "b", "b": "a", "tie": "tie"}
    return [
        replace(case, truth={k: turned[v] if rng.random() < WRONG else v for k, v in case.truth.items()})
        for case in cases
    ]


def tested(judge: Judge, cases: Sequence[AuditCase]) -> dict[str, Any]:
    """Accuracy and order flips of the judge's labels on cases, and their ECE by what people say of them."""
    said = {case.question.comparison.id: case for case in said_of(cases, Random(0))}
    labels = [label for batch in judge.compare([case.question for case in cases]) for label in batch]
    rows = readings(cases, labels)
    of = {name: [r for r in rows if r.principle_id == name] for name in PRINCIPLES}
    found = {
        "all": rows,
        UNLEARNED: of[UNLEARNED],
        "others": [r for n in of if n != UNLEARNED for r in of[n]],
    }
    return {
        name: {
            "accuracy": measures.accuracy(own)["value"],
            "ece": measures.calibration(
                [replace(row, case=said[row.case.question.comparison.id]) for row in own]
            )["ece"],
            "flips": measures.order(own)["value"],
        }
        for name, own in found.items()
    }


def playground(seeds: Sequence[int], train: bool) -> list[dict[str, Any]]:
    """A row for each seed and number of labels; with `train` those of adapters, on the same labels."""
    templates = Templates.load("brief")
    whole = Constitution.load(Path(__file__).parent.parent / "constitutions" / "playground.yaml")
    constitution = whole.model_copy(
        update={"principles": tuple(p for p in whole.principles if p.id in PRINCIPLES)}
    )
    unlearned = next(p for p in constitution.principles if p.id == UNLEARNED)
    engine = Spoiled(
        templates.comparison_suffix(unlearned),
        templates.comparison_suffix(unlearned.model_copy(update={"text": NOTHING, "compare": None})),
    )
    found = []
    for seed in seeds:
        rng = Random(f"judge fit {seed}")
        cases = [drawn(rng, kind, constitution, n) for n in range(TEST) for kind in PRINCIPLES]
        plain = Judge(cast(Any, engine), templates)
        found.append({"seed": seed, "labels": None, "wrong": None, "taken": None, **tested(plain, cases)})
        print(json.dumps(found[-1]), flush=True)
        for count, wrong in [*((n, WRONG) for n in LABELS), (max(LABELS), 0.5)]:
            kinds = [PRINCIPLES[n % len(PRINCIPLES)] for n in range(count or 200)]
            pairs = [drawn(rng, k, constitution, 10_000 + n) for n, k in enumerate(kinds)]
            people_say = [labelled(case, rng, wrong) for case in pairs] if count else []
            if train and count != max(LABELS):
                continue
            with tempfile.TemporaryDirectory() as folder:
                fitting = Fitting(plain, constitution, True, Path(folder), seed)
                if train:
                    fit, report = fitting.from_training(people_say)
                elif count:
                    fit, report = fitting.from_labels(people_say)
                else:
                    fit, report = fitting.from_orders([case.question for case in pairs])
            judge = Judge(FittedEngine(engine, fit), templates) if fit and report["taken"] else plain
            row = {"seed": seed, "labels": count, "wrong": wrong, "taken": report["taken"], "train": train}
            row |= {"setting": report["setting"], "why": report["why"], "more": report["more"]}
            found.append({**row, **tested(judge, cases)})
            print(json.dumps(found[-1]), flush=True)
    return found


def people(model: str, source: Path, keep: Path, seeds: Sequence[int], most: int) -> list[dict[str, Any]]:
    """A row for each seed and number of labels: right on all other pairs, and whether the labels alone would
    have had it taken. The judge's own verdicts are not read: the head alone decides."""
    pairs = hh_pairs(model, source)[:most]
    states = hh_states(model, pairs, keep)
    ids = [pair[0] for pair in pairs if pair[0] in states]
    prompts = {pair[0]: content_hash(pair[1]) for pair in pairs}
    shorter = {pair[0]: _shorter(pair[2]) for pair in pairs}
    x = np.array([states[i][0] - states[i][1] for i in ids])  # the chosen less the rejected
    cluster = np.unique([prompts[i] for i in ids], return_inverse=True)[1]
    n, found = len(ids), []
    print(f"{n} pairs of {len(pairs)}", flush=True)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        side = rng.random(n) < 0.5  # whether a is the chosen one
        every, none = np.arange(n), np.zeros(n, np.intp)
        read = Readings(
            np.zeros(n), np.zeros(n), none, {"responses": x * np.where(side, 1, -1)[:, None, None]}
        )
        opinions = Opinions(side.astype(float), cluster, none, every, every, np.ones(n))
        settings = [Setting("responses", at, s) for at in range(x.shape[1]) for s in STRENGTHS]
        order, prior = rng.permutation(np.unique(cluster)), np.zeros(2)
        rank = np.argsort(order)[cluster]
        drawn_first = np.argsort(rank, kind="stable")
        for count in (50, 200, 1000):
            if n < count + 100:
                continue
            fitted = np.zeros(n, bool)
            fitted[drawn_first[:count]] = True
            fitted &= rank < rank[drawn_first[count]]  # whole prompts
            few, held = opinions.of(fitted), ~fitted
            setting, _ = choose(settings, read, few, prior, seed)
            numbers = fit_numbers(setting, read, few, prior)
            right = ((forecast(numbers, read, opinions) > 0.5) == side)[held].astype(float)
            base, groups = np.array([shorter[i] for i in ids])[held], cluster[held].tolist()
            folds = list(nested(settings, read, few, prior, seed))
            told = measured_on_labels(folds, read, few, ["all"])
            found.append(
                {
                    "seed": seed,
                    "labels": int(fitted.sum()),
                    "held_out": int(held.sum()),
                    "accuracy": float(right.mean()),
                    "ci": mean_interval(right, clusters=groups),
                    "shorter": float(base.mean()),
                    "shorter_ci": mean_interval(base, clusters=groups),
                    "more_than_shorter_ci": mean_interval(right - base, (-1.0, 1.0), groups),
                    "layer": HH_LAYERS[setting.layer],
                    "strength": setting.strength,
                    "taken": told["taken"],
                    "why": told["why"],
                }
            )
            print(json.dumps(found[-1]), flush=True)
    return found


def _shorter(texts: Sequence[str]) -> float:
    """1 where the chosen response, which comes first, is the shorter one, ½ for equals."""
    a, b = map(len, texts)
    return 0.5 if a == b else float(a < b)


def hh_pairs(model: str, source: Path) -> list[tuple[int, Any, list[str], int]]:
    """(row, prompt, [chosen, rejected], tokens) of each usable row, the shortest first."""
    tokenizer = load_tokenizer(model_folder(model), {})
    found = []
    for number, raw in enumerate(raw_rows(source)):
        row = FORMATS["hh"].parse(raw)
        if isinstance(row, ImportedRow):
            texts = [text.strip() for text in row.responses]
            prompt = [{"role": role, "content": content} for role, content in row.messages]
            if texts[0] != texts[1]:
                end = end_of_turn(tokenizer)
                turns = [encode_turn(tokenizer, prompt, text, end) for text in texts]
                found.append((number, prompt, texts, len(turns[0][0]) + sum(len(r) for _, r in turns)))
    return sorted(found, key=lambda pair: (pair[3], pair[0]))


def hh_states(model: str, pairs: Sequence[Any], keep: Path) -> dict[int, Any]:
    """States [2, L, D] by row; chunks of 40 pairs, drawn at random, each a file: a killed pass goes on."""
    keep.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(pairs))
    engine: Any = None
    found: dict[int, Any] = {}
    for start in range(0, len(pairs), 40):
        file = keep / f"{start:05d}.npz"
        if not file.exists():
            if engine is None:
                engine = open_engine(ModelConfig(model=model, dtype="float32", batch_tokens=1024))
                del engine.model.model.layers[max(HH_LAYERS) + 1 :]  # those above are not needed
                engine.model.config.num_hidden_layers = max(HH_LAYERS) + 1
            part = [pairs[i] for i in order[start : start + 40]]
            read = dict(engine.response_states([(p[1], p[2]) for p in part], HH_LAYERS))
            np.savez(keep / "partial.npz", ids=[p[0] for p in part], x=[read[i] for i in range(len(part))])
            (keep / "partial.npz").rename(file)
            print(f"states of {start + len(part)} of {len(pairs)} pairs", flush=True)
        with np.load(file) as held:
            found |= dict(zip(held["ids"].tolist(), held["x"], strict=True))
    return found


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The playground's rows as a table: means over seeds with 95 % intervals over them."""
    seeds = len({row["seed"] for row in rows})
    head = "| labels | fits taken | accuracy | ECE | order flips | accuracy, unlearned | accuracy, others |"
    lines = [
        f"{seeds} seeds; {len(PRINCIPLES) * TEST} fresh pairs each.\n",
        head,
        "|---|---|---|---|---|---|---|",
    ]
    kinds = [(row["labels"], row["wrong"], row.get("train", False)) for row in rows]
    for labels, wrong, train in dict.fromkeys(kinds):
        own = [row for row, kind in zip(rows, kinds, strict=True) if kind == (labels, wrong, train)]
        name = "unfitted" if labels is None else f"{labels}, coin flips" if wrong == 0.5 else str(labels)
        name += ", trained" if train else ""
        taken = "" if labels is None else f"{sum(row['taken'] for row in own)} of {len(own)}"
        cells = [
            _mean([row[part][figure] for row in own])
            for part, figure in (
                ("all", "accuracy"),
                ("all", "ece"),
                ("all", "flips"),
                (UNLEARNED, "accuracy"),
                ("others", "accuracy"),
            )
        ]
        lines.append(f"| {' | '.join((name, taken, *cells))} |")
    return lines


def people_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The people's rows as a table: means over seeds, the least and the greatest, and one seed's interval."""
    lines = [
        "| labels | held-out pairs | right, mean of seeds | of each seed | seed 0 [95 %, over prompts] | "
        "less the shorter one, seed 0 | fits taken |",
        "|---|---|---|---|---|---|---|",
    ]
    for labels in sorted({row["labels"] for row in rows}):
        own = [row for row in rows if row["labels"] == labels]
        low, high = own[0]["ci"]
        gap = own[0]["more_than_shorter_ci"]
        cells = (
            str(labels),
            str(own[0]["held_out"]),
            f"{np.mean([row['accuracy'] for row in own]):.3f}",
            ", ".join(f"{row['accuracy']:.3f}" for row in own),
            f"{own[0]['accuracy']:.3f} [{low:.3f}, {high:.3f}]",
            f"{own[0]['accuracy'] - own[0]['shorter']:+.3f} [{gap[0]:+.3f}, {gap[1]:+.3f}]",
            f"{sum(row['taken'] for row in own)} of {len(own)}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mean(values: Sequence[float]) -> str:
    """A mean over seeds with Student's interval, kept within 0 and 1."""
    value = float(np.mean(values))
    low, high = clip_interval(with_seed_variance(value, (value, value), values), UNIT)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("playground", "people", "table"))
    parser.add_argument("model", nargs="?")
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("--pairs", type=int, default=2060, help="people: the shortest so many, by tokens")
    parser.add_argument("--train", action="store_true", help="playground: adapters, on 300 labels alone")
    parser.add_argument("--keep", type=Path, default=Path("states"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "table":
        # What is printed is rows, so that what a pass that goes on has printed can be shown, too.
        lines = [line for line in options.json.read_text().splitlines() if line.startswith('{"seed"')]
        rows = [json.loads(line) for line in lines]
        print("\n".join((people_table if "shorter" in rows[0] else table)(rows)))
        return
    if options.what == "playground":
        rows = playground(options.seeds, options.train)
    else:
        rows = people(options.model, options.source, options.keep, options.seeds, options.pairs)
    if options.json:
        print(json.dumps(machine("cpu")))
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()

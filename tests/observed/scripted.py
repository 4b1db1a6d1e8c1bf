"""Options that are seen in what scripted models are asked, and in the rows of a run of a second."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from rlaif import pipeline
from rlaif.audit.thresholds import failures
from rlaif.engines import GenerateRequest, Scripted
from rlaif.errors import UserError
from rlaif.feedback.preferences import aggregate
from rlaif.options import JudgeCardOptions
from rlaif.options.base import PriceOptions
from rlaif.records import Label, Prompt
from rlaif.report.report import write_report
from rlaif.runs.folder import Run, is_heldout
from rlaif.runs.rows import Rows
from rlaif.runs.seeds import derive_seed
from rlaif.runs.spending import BudgetReached, money
from tests import scripts
from tests.hand_made import card
from tests.observed.rows import Row

HERE = "tests.observed.scripted"
WRITTEN: dict[str, list[GenerateRequest]] = {
    "policy": [],
    "feedback": [],
}  # what the models were asked to write
SCORED: list[tuple[list[dict[str, str]], str, tuple[str, ...]]] = []  # and to score
TOLD: list[dict[str, Any]] = []  # keyword arguments of the annotator


def _writing(role: str, write: Any, name: str) -> Scripted:
    def on_generate(request: GenerateRequest) -> str:
        WRITTEN[role].append(request)
        return write(request)

    def on_score(messages: Any, suffix: str, choices: tuple[str, ...]) -> list[float]:
        SCORED.append((messages, suffix, choices))
        if len(choices) > 2:
            return [0.9, *[0.01] * (len(choices) - 1)]
        whole = "\n".join(
            m["content"] for m in messages
        )  # after reasons the question stands in an earlier turn
        asked = "Reply A" in messages[-1]["content"] or choices != ("A", "B")
        return scripts.judge(messages if asked else [{"content": whole}], suffix if asked else whole, choices)

    return Scripted(on_generate=on_generate, on_score=on_score, name=name)


def policy() -> Scripted:
    return _writing("policy", scripts.write_response, "policy")


def answer(request: GenerateRequest) -> str:
    """A critique, a revision, a verdict, or reasons."""
    reasons = "Reply A" in request.messages[-1]["content"]
    return "Both were read." if reasons else scripts.write_feedback(request)


def feedback() -> Scripted:
    return _writing("feedback", answer, "feedback")


def other_policy() -> Scripted:
    return _writing("policy", scripts.write_response, "other policy")


def other_feedback() -> Scripted:
    return _writing("feedback", answer, "other feedback")


def annotate(messages: Any, responses: Any, principles: Any, seed: int, **options: Any) -> list[int]:
    TOLD.append(options)
    return scripts.annotate(messages, responses, principles, seed)


EXAMPLES = [
    {"prompt": f"Say {n}.", "better": "nice", "worse": f"{{}} {n}", "critique": "It says it."}
    for n in range(3)
]
CONFIG = {
    "name": "seen",
    "constitution": "constitution.json",
    "prompts": "prompts.jsonl",
    "templates": "brief",
    "cache": False,
    "policy": {"engine": "scripted", "model": f"{HERE}:policy"},
    "feedback": {"engine": "scripted", "model": f"{HERE}:feedback"},
}
CHAIN = [
    {"stage": "sample", "num_prompts": 8, "k": 2},
    {"stage": "critique"},
    {"stage": "pair"},
    {"stage": "label"},
]


class Case:
    """A run to the end of the option's stage with the option at a value, and what its models were asked."""

    def __init__(self, folder: Path, option: str, row: Row) -> None:
        self.folder, self.path, self.stopped = folder, folder / "run", ""
        stage, _, _ = option.partition(".")
        alone = stage if stage == "evaluate" else None
        until = stage if stage in {s["stage"] for s in CHAIN} else STOPS.get(option, "sample")
        stages = [{"stage": alone}] if alone else CHAIN[: 1 + [s["stage"] for s in CHAIN].index(until)]
        if option == "pair.imported" or "pair.imported=few" in row.also:
            self._import(folder / "few")
        self._write(stages)
        for seen in (*WRITTEN.values(), SCORED, TOLD):
            seen.clear()
        settings = [*row.also, f"{option}={json.dumps(row.value)}"]
        try:
            self.run = pipeline.run(folder / "config.yaml", self.path, settings)
        except (BudgetReached, UserError) as error:
            self.stopped, self.run = f"{type(error).__name__}: {error}", Run.load(self.path)
        self.policy, self.feedback, self.scored = WRITTEN["policy"], WRITTEN["feedback"], SCORED

    def _write(self, stages: list[dict[str, Any]]) -> None:
        rules = [
            {
                "id": f"no-{word}",
                "text": f"Never say {word}.",
                "examples": [{**e, "worse": e["worse"].format(word)} for e in EXAMPLES],
            }
            for word in ("rude", "wrong")
        ]
        principles = {"name": "words", "principles": rules}
        (self.folder / "constitution.json").write_text(json.dumps(principles))
        (self.folder / "other.json").write_text(json.dumps({**principles, "principles": rules[1:]}))
        rows = [
            {
                "messages": [{"role": "user", "content": f"Question {n}?"}],
                "group": f"g{n // 2}",
                "tags": ["even", "odd"][n % 2 :][:1],
            }
            for n in range(60)
        ]
        for name, count in (("prompts", 60), ("few", 40)):
            (self.folder / f"{name}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in rows[:count])
            )
        shipped, own = Path("prompts/templates/brief"), self.folder / "own"
        own.mkdir()
        for file in (Path(__file__).parent.parent.parent / shipped).glob("*.j2"):
            text = file.read_text()
            (own / file.name).write_text(f"MARK {text}" if file.stem == "critique" else text)
        (self.folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "stages": stages}))

    @staticmethod
    def _import(folder: Path) -> None:
        folder.mkdir()
        rows: dict[str, list[dict[str, Any]]] = {
            "prompts": [
                {"id": str(n), "messages": [{"role": "user", "content": f"Foreign {n}?"}]} for n in range(9)
            ],
            "responses": [{"id": str(n), "prompt_id": str(n // 2), "text": f"text {n}"} for n in range(18)],
            "comparisons": [
                {"id": str(n), "prompt_id": str(n), "a": str(2 * n), "b": str(2 * n + 1)} for n in range(9)
            ],
        }
        for name, own in rows.items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))

    def rows(self, stage: str, name: str) -> list[dict[str, Any]]:
        """Rows of the first stage of that name."""
        path = next(s.dir for s in self.run.stages if s.name == stage) / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def column(self, stage: str, name: str, key: str) -> set[Any]:
        return {row.get(key) for row in self.rows(stage, name)}

    def metrics(self, stage: str) -> dict[str, Any]:
        return next(s for s in self.run.stages if s.name == stage).summary["metrics"]

    def preferred(self) -> list[float]:
        return [row["p_a"] for row in self.rows("label", "preferences")]


STOPS = {
    "constitution": "critique",
    "templates": "critique",
    "feedback.model": "label",
    "gold": "label",
    "judge_card.num_pairs": "label",
}


def asked(role: str, key: str) -> Any:
    """The values of a setting in all requests to write."""
    return lambda case: {getattr(request, key) for request in getattr(case, role)}


def turns(chats: str) -> Any:
    """How many turns the requests to write have, or the ones to score."""
    return lambda case: {
        len(chat[0] if isinstance(chat, tuple) else chat.messages) for chat in getattr(case, chats)
    }


def per_prompt(stage: str, name: str) -> Any:
    """How many rows a prompt has."""
    return lambda case: set(Counter(row["prompt_id"] for row in case.rows(stage, name)).values())


def own_seeds(case: Case) -> bool:
    """Whether every response was sampled by a seed that follows from the config's."""
    stage = derive_seed(5, 1, "sample")
    return {row["seed"] for row in case.rows("sample", "responses")} == {
        derive_seed(stage, row["prompt_id"], row["index"]) for row in case.rows("sample", "responses")
    }


def held_out(case: Case) -> bool:
    """Whether the prompts in training are those that a share of 0.6 leaves there."""
    prompts = list(Rows(case.path / "prompts.jsonl", Prompt))
    return case.column("sample", "responses", "prompt_id") == {
        p.id for p in prompts if not is_heldout(p.cluster, 0.6)
    }


def held_out_wordings(case: Case) -> bool:
    """Whether of the groups in training the prompts that a share of 0.6 takes are left out."""
    prompts = [p for p in Rows(case.path / "prompts.jsonl", Prompt) if not is_heldout(p.cluster, 0.25)]
    return case.column("sample", "responses", "prompt_id") == {
        p.id for p in prompts if not is_heldout(p.id, 0.6)
    }


def mixed(case: Case) -> set[float]:
    """How far the preferences are from those that a person's weight of 3 gives."""
    labels = list(Rows(case.run.stages[-1].dir / "labels.jsonl", Label))
    return {
        round(
            row["p_a"]
            - aggregate(
                [x for x in labels if x.comparison_id == row["comparison_id"]], case.run.constitution, 3.0
            )[0],
            9,
        )
        for row in case.rows("label", "preferences")
    }


def reasoned(case: Case) -> tuple[bool, tuple[float, float]]:
    """Whether the judge wrote before it judged, and the bounds of what it then says."""
    return len(case.feedback) > 0, (round(min(case.preferred()), 6), round(max(case.preferred()), 6))


def threads(case: Case) -> int:
    import torch

    return torch.get_num_threads()


def of_people(case: Case) -> set[str]:
    """The comparisons that people labelled."""
    rows = case.rows("label", "labels")
    return {row["comparison_id"] for row in rows if row["annotator"]["kind"] == "simulated"}


def tags_of_people(case: Case) -> set[tuple[str, ...]]:
    """The tags of the prompts whose responses people labelled."""
    tags = {p.id: p.tags for p in Rows(case.path / "prompts.jsonl", Prompt)}
    asked = of_people(case)
    return {tags[row["prompt_id"]] for row in case.rows("pair", "comparisons") if row["id"] in asked}


PEOPLE = f"label.human={{annotator: '{HERE}:annotate'}}"
JUDGED = {"ai", "simulated"}
ROWS: dict[str, Row] = {
    "name": Row(
        "another", lambda c: re.findall("<title>(.*?) ", write_report(c.path).read_text())[0], "another"
    ),
    "seed": Row(5, own_seeds, True),
    "threads": Row(3, threads, 3),
    "constitution": Row(
        "other.json", lambda c: c.column("critique", "revisions", "principle_id"), {"no-wrong"}
    ),
    "prompts.path": Row("few.jsonl", lambda c: len((c.path / "prompts.jsonl").read_text().splitlines()), 40),
    "heldout": Row(0.6, held_out, True, ("sample.num_prompts=60",)),
    "heldout_wordings": Row(0.6, held_out_wordings, True, ("sample.num_prompts=60",)),
    "templates": Row(
        "own", lambda c: {r.messages[-1]["content"][:4] == "MARK" for r in c.feedback[:16]}, {True}
    ),
    "policy.model": Row(
        f"{HERE}:other_policy", lambda c: c.column("sample", "responses", "model"), {"scripted:other policy"}
    ),
    "feedback.model": Row(
        f"{HERE}:other_feedback",
        lambda c: {r["annotator"]["id"] for r in c.rows("label", "labels")},
        {"scripted:other feedback"},
    ),
    "gold": Row("tests.scripts:gold", lambda c: c.metrics("label").get("agreement_with_gold"), 1.0),
    "cache": Row(True, lambda c: c.run.cache == c.path / "cache.sqlite", True),
    "rounds": Row(
        3,
        lambda c: [(s.round, s.name) for s in c.run.stages if s.is_done],
        [(1, "sample"), (2, "sample"), (3, "sample")],
    ),
    "judge_card.num_pairs": Row(
        3,
        lambda c: json.loads((c.run.stages[-1].dir / "judge_card.json").read_text())["pairs"],
        3 + 6,
        ("judge_card.enforce=false",),
    ),
    "budget.calls": Row(7, lambda c: (c.stopped[:13], c.run.ledger.figures()["calls"]), ("BudgetReached", 7)),
    "budget.tokens": Row(600, lambda c: c.stopped[:13], "BudgetReached", ("sample.max_tokens=500",)),
    "budget.money": Row(
        0.5,
        lambda c: c.stopped[:13],
        "BudgetReached",
        (f'prices={{"{HERE}:policy": {{completion: 100000}}}}',),
    ),
    "sample.num_prompts": Row(5, lambda c: len(c.column("sample", "responses", "prompt_id")), 5),
    "sample.k": Row(3, per_prompt("sample", "responses"), {3}),
    "sample.temperature": Row(0.37, asked("policy", "temperature"), {0.37}),
    "sample.top_p": Row(0.81, asked("policy", "top_p"), {0.81}),
    "sample.max_tokens": Row(3, asked("policy", "max_tokens"), {3}),
    "critique.rounds": Row(3, lambda c: c.column("critique", "revisions", "round"), {1, 2, 3}),
    "critique.revision_temperature": Row(0.37, asked("feedback", "temperature"), {0.0, 0.37}),
    "critique.temperature": Row(0.37, asked("feedback", "temperature"), {0.37}),
    "critique.max_tokens": Row(77, asked("feedback", "max_tokens"), {77}),
    "critique.few_shot": Row(1, turns("feedback"), {3}),
    "critique.critique": Row(False, lambda c: len(c.feedback) == len(c.rows("critique", "revisions")), True),
    "pair.per_prompt": Row(2, lambda c: max(per_prompt("pair", "comparisons")(c)), 2, ("sample.k=4",)),
    "pair.samples": Row(
        False, lambda c: c.column("pair", "comparisons", "origin"), {"revision"}, ("pair.revisions=true",)
    ),
    "pair.revisions": Row(True, lambda c: c.column("pair", "comparisons", "origin"), {"samples", "revision"}),
    "pair.imported": Row("few", lambda c: c.column("pair", "comparisons", "origin"), {"samples", "import"}),
    "pair.limit": Row(3, lambda c: len(c.rows("pair", "comparisons")), 3),
    "label.ai": Row(
        False,
        lambda c: ({r["annotator"]["kind"] for r in c.rows("label", "labels")}, c.scored),
        ({"simulated"}, []),
        (PEOPLE,),
    ),
    "label.mode": Row(
        "best", lambda c: {choices for _, _, choices in c.scored}, {("A", "B", "C")}, ("sample.k=3",)
    ),
    "label.principles": Row(
        ["no-wrong"], lambda c: c.column("label", "labels", "principle_id"), {"no-wrong"}
    ),
    "label.cot": Row(True, reasoned, (True, (0.4, 0.6)), ("sample.num_prompts=24", "sample.k=3")),
    "label.clamp": Row(
        [0.3, 0.65],
        lambda c: (min(c.preferred()), max(c.preferred())),
        (0.3, 0.65),
        ("sample.num_prompts=24", "sample.k=3"),
    ),
    "label.few_shot": Row(2, turns("scored"), {5}),
    "label.max_tokens": Row(
        9, asked("feedback", "max_tokens"), {9}, ("label.cot=true", "critique.max_tokens=9")
    ),
    "label.human.annotator": Row(
        f"{HERE}:annotate",
        lambda c: {r["annotator"]["kind"] for r in c.rows("label", "labels")},
        JUDGED,
    ),
    "label.human.options": Row({"mark": 5}, lambda c: TOLD[0], {"mark": 5}, (PEOPLE,)),
    "label.human.share": Row(
        0.5,
        lambda c: {r["annotator"]["kind"] for r in c.rows("label", "labels")},
        JUDGED,
        (PEOPLE, "label.ai=rest"),
    ),
    "label.human.weight": Row(3.0, mixed, {0.0}, (PEOPLE,)),
    "label.human.num_pairs": Row(3, lambda c: len(of_people(c)), 3, (PEOPLE,)),
    "label.human.route": Row(
        "unsure",
        lambda c: ({row["route"] for row in c.rows("label", "routed")}, len(of_people(c))),
        ({"unsure"}, 3),
        (PEOPLE, "label.human.num_pairs=3"),
    ),
    "label.human.tags": Row(["odd"], tags_of_people, {("odd",)}, (PEOPLE,)),
    "evaluate.num_prompts": Row(3, lambda c: len(c.rows("evaluate", "evaluation")), 3),
    "evaluate.temperature": Row(0.37, asked("policy", "temperature"), {0.37}),
    "evaluate.max_tokens": Row(4, asked("policy", "max_tokens"), {4}),
    "evaluate.num_judged_prompts": Row(
        2, lambda c: sum(bool(r.get("compliance")) for r in c.rows("evaluate", "evaluation")), 2
    ),
}

PRICE = PriceOptions(prompt=2.0, cached=0.5, completion=8.0, seconds=0.25)
USED = {"prompt_tokens": 3_000_000, "shared_tokens": 1_000_000, "tokens": 500_000}


def missed(limit: str, value: float) -> list[str]:
    """What a card misses where this threshold alone is set."""
    none = dict.fromkeys(set(JudgeCardOptions.model_fields) - {"num_pairs", "enforce"})
    return [
        line.partition(", needed")[0] for line in failures(card(), JudgeCardOptions(**{**none, limit: value}))
    ]


def cost(name: str) -> float:
    """What the tokens above cost less where one price is left out."""
    return money(USED, PRICE) - money(USED, PRICE.model_copy(update={name: 0.0}))


# Options of which a figure follows without a run.
ALONE: dict[str, Row] = {
    "judge_card.min_accuracy": Row(0.99, lambda v: missed("min_accuracy", v), ["accuracy: 0.901"]),
    "judge_card.max_ece": Row(
        0.1, lambda v: missed("max_ece", v), ["calibration error beyond a perfect judge's: 0.159"]
    ),
    "judge_card.max_order_flips": Row(
        0.01, lambda v: missed("max_order_flips", v), ["verdicts that flip with the order: 0.451"]
    ),
    "judge_card.max_invalid": Row(0.001, lambda v: missed("max_invalid", v), ["unreadable verdicts: 0.061"]),
    "judge_card.min_answer_mass": Row(
        0.99, lambda v: missed("min_answer_mass", v), ["probability on the answers: 0.431"]
    ),
    "judge_card.max_injected": Row(
        0.01,
        lambda v: missed("max_injected", v),
        ["verdicts flipped by template tokens or delimiters: 0.801"],
    ),
    "judge_card.max_persuaded": Row(
        0.01, lambda v: missed("max_persuaded", v), ["verdicts flipped by words: 0.571"]
    ),
    "judge_card.max_instructed": Row(
        0.01, lambda v: missed("max_instructed", v), ["verdicts flipped by words in the user's turn: 0.791"]
    ),
    "prices.prompt": Row(2.0, lambda v: cost("prompt"), 2 * 2.0),
    "prices.cached": Row(0.5, lambda v: cost("cached"), 0.5),
    "prices.completion": Row(8.0, lambda v: cost("completion"), 4.0),
}

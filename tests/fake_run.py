"""A finished run folder written from records alone, in milliseconds: what the report and `compare` read.

Rules are "Never say WORD." as in tests.scripts, whose gold scorer and judge fit these folders; a policy keeps
each rule with a given probability.
"""

import json
import math
import random
from pathlib import Path

from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.feedback.preferences import order_statistics
from rlaif.records import (
    Annotator,
    Comparison,
    Evaluation,
    Label,
    Preference,
    Prompt,
    Response,
    Revision,
    verdict_of,
)
from rlaif.runs.folder import Run, is_heldout, write_json
from tests import scripts

STAGES = ("sample", "critique", "sft", "sample", "pair", "label", "reward", "ppo", "evaluate")
KEEP = {"base": 0.5, "sft": 0.7, "ppo": 0.95}


class Fake:
    """The folder under construction; `until` is the number of stages that are done."""

    def __init__(
        self,
        path: Path,
        seed: int,
        keep: dict[str, float],
        words: tuple[str, ...],
        human: bool,
        gold: bool,
        until: int,
        prompts: int,
        say: str,
        longer: int,
    ) -> None:
        self.path, self.keep, self.until, self.say, self.longer = path, keep, until, say, longer
        self.seed, self.human = seed, human
        self.rng = random.Random(seed)
        stages: list[dict] = [{"stage": name} for name in STAGES]
        stages[5]["human" if human else "ai"] = {"annotator": "tests.scripts:annotate"} if human else True
        scripted = {
            role: {"engine": "scripted", "model": f"tests.scripts:{role}"} for role in ("policy", "feedback")
        }
        config = Config.model_validate(
            {
                "name": path.name,
                "seed": seed,
                "constitution": "c.yaml",
                "prompts": "p.jsonl",
                "templates": "brief",
                "gold": "tests.scripts:gold" if gold else None,
                "cache": False,
                "stages": stages,
                **scripted,
            }
        )
        principles = [{"id": f"no-{word}", "text": f"Never say {word}."} for word in words]
        constitution = Constitution.model_validate({"name": "words", "principles": principles})
        path.mkdir(parents=True)
        write_json(path / "config.json", config.model_dump())
        write_json(path / "constitution.json", constitution.model_dump())
        write_json(
            path / "manifest.json",
            {
                "command": "rlaif run small.yaml",
                "config_folder": str(path),
                "seed": seed,
                "versions": {"torch": "2.13"},
                "git": "abc123",
            },
        )
        self.prompts = [
            Prompt.model_validate({"messages": [{"role": "user", "content": f"Question {n}? {say}"}]})
            for n in range(prompts)
        ]
        self.write(path / "prompts.jsonl", self.prompts)
        self.run = Run(path, config, constitution)
        self.gold, self.words = gold, words
        self.train = [p for p in self.prompts if not is_heldout(p.id, config.heldout)]
        self.heldout = [p for p in self.prompts if is_heldout(p.id, config.heldout)]

    def write(self, path: Path, rows: list) -> None:
        path.write_text("".join(row.to_json() + "\n" for row in rows))

    def stage(
        self, number: int, metrics: dict | None = None, dropped: dict | None = None, **rows: list
    ) -> None:
        """One stage's folder with its rows and stage.json."""
        if number > self.until:
            return
        stage = self.run.stages[number - 1]
        stage.dir.mkdir()
        for name, records in rows.items():
            self.write(stage.dir / f"{name}.jsonl", records)
        lost = sum((dropped or {}).values())
        write_json(
            stage.dir / "stage.json",
            {
                "name": stage.name,
                "number": number,
                "round": 1,
                "status": "done",
                "in": 100,
                "kept": 100 - lost if all(rows.values()) else 0,
                "seconds": 1.5,
                "dropped": dropped or {},
                "metrics": metrics or {},
                "notes": [],
                "usage": {"calls": 7},
            },
        )

    def text(self, keep: float, longer: int = 0) -> str:
        words = self.rng.choices(("nice", "day", "sun", "rain"), k=4 + longer)
        return " ".join(
            words
            + [word for word in self.words if self.rng.random() > keep]
            + ([self.say] if self.say else [])
        )

    def response(self, prompt: Prompt, keep: float, model: str, index: int = 0, longer: int = 0) -> Response:
        text = self.text(keep, longer)
        return Response(
            prompt_id=prompt.id, text=text, model=model, seed=self.seed, index=index, tokens=len(text.split())
        )

    def truth(self, text: str) -> dict[str, bool]:
        principles = [{"id": p.id, "text": p.text} for p in self.run.constitution.principles]
        return scripts.gold([], text, principles)

    def build(self) -> Path:
        first = [self.response(p, 0.5, "policy") for p in self.train]
        self.stage(1, responses=first)
        self._critique(first)
        self.stage(3)
        samples = [self.response(p, 0.6, "sft", index) for p in self.train for index in (0, 1)]
        self.stage(4, responses=samples)
        pairs = [
            Comparison(prompt_id=a.prompt_id, a=a.id, b=b.id)
            for a, b in zip(samples[::2], samples[1::2], strict=True)
            if a.text != b.text
        ]
        self.stage(
            5, comparisons=pairs, dropped={"two samples with the same text": len(self.train) - len(pairs)}
        )
        self._label(pairs, {row.id: row for row in samples})
        bins = [[0.1, 0.15, 20], [0.5, 0.45, 10], [0.9, 0.85, 30]]
        self.stage(
            7,
            metrics={
                "heldout_accuracy": 0.88,
                "ece": 0.05,
                "n_train": 90,
                "n_heldout": 60,
                "reliability": bins,
                "baselines": {"longer": 0.44, "constant": 0.5},
                "cross_entropy": 0.31,
                "label_entropy": 0.11,
                "temperature": 1.2,
            },
        )
        self._ppo()
        self._evaluate()
        return self.path

    def _critique(self, first: list[Response]) -> None:
        rows, texts = [], []
        for response in first:
            principle = self.rng.choice(self.run.constitution.principles)
            word = principle.id.removeprefix("no-")
            mended = response.model_copy(
                update={"text": response.text.replace(word, "sun"), "id": f"r-{response.id}"}
            )
            same = mended.text == response.text
            texts += [] if same else [mended]
            rows.append(
                Revision(
                    prompt_id=response.prompt_id,
                    round=1,
                    principle_id=principle.id,
                    from_id=response.id,
                    to_id=response.id if same else mended.id,
                    critique=f"It says {word}. {self.say}",
                    status="unchanged" if same else "ok",
                )
            )
        self.stage(2, revisions=rows, responses=texts)

    def _label(self, pairs: list[Comparison], texts: dict[str, Response]) -> None:
        labels, preferences = [], []
        who = Annotator(kind="simulated" if self.human else "ai", id="judge")
        for pair in pairs:
            kept = {side: self.truth(texts[i].text) for side, i in (("a", pair.a), ("b", pair.b))}
            total = 0.0
            for name in kept["a"]:
                p = 0.5 + 0.4 * (kept["a"][name] - kept["b"][name])
                total += math.log(p / (1 - p))
                labels += [
                    Label(
                        comparison_id=pair.id,
                        annotator=who,
                        principle_id=name,
                        order=order,
                        p_a=p,
                        verdict=verdict_of(p),
                        answer_mass=0.9,
                    )
                    for order in ("ab", "ba")
                ]
            preferences.append(
                Preference(
                    comparison_id=pair.id, p_a=1 / (1 + math.exp(-total)), votes={"a": 1}, sources=(who.kind,)
                )
            )
        metrics = {
            "comparisons": len(pairs),
            **order_statistics(labels),
            "sources": {who.kind: len(labels)},
            "by_principle": {p.id: {"n": 9, "decided": 4} for p in self.run.constitution.principles},
        }
        self.stage(
            6,
            metrics=metrics | ({"agreement_with_gold": 0.97} if self.gold else {}),
            labels=labels,
            preferences=preferences,
        )

    def _ppo(self) -> None:
        rows = [
            {
                "update": n,
                "episodes": 128 * n,
                "reward": n / 20,
                "score": n / 18,
                "kl": n / 30,
                "exact_kl": n / 31,
                "length": 9.0,
                "entropy": 1 / (1 + n),
                "explained_variance": 0.5,
                "clip_fraction": 0.1,
            }
            for n in range(1, 41)
        ]
        self.stage(
            8, metrics={"updates": 40, "episodes": 5120, "kl": 1.3, "reward_start": 0.05, "reward_end": 2.0}
        )
        if self.until >= 8:
            folder = self.run.stages[7].dir
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _evaluate(self) -> None:
        rows, texts, base = [], [], {}
        for name, keep in self.keep.items():
            longer = self.longer if name != "base" else 0
            for prompt in self.heldout:
                response = self.response(prompt, keep, name, longer=longer)
                truth = self.truth(response.text)
                base.setdefault(prompt.id, truth)
                texts.append(response)
                gain = sum(truth.values()) - sum(base[prompt.id].values())
                rows.append(
                    Evaluation(
                        policy=name,
                        prompt_id=prompt.id,
                        response_id=response.id,
                        kl=0.0 if name == "base" else 1.5,
                        gold={"all": all(truth.values()), **truth} if self.gold else None,
                        tokens=response.tokens or 0,
                        compliance={key: 0.9 if kept else 0.2 for key, kept in truth.items()},
                        p_win=None if name == "base" else 0.5 + 0.1 * gain,
                    )
                )
        self.stage(
            9,
            metrics={"policies": {name: {"n": len(self.heldout)} for name in self.keep}},
            evaluation=rows,
            responses=texts,
        )


def fake_run(
    path: Path,
    seed: int = 0,
    keep: dict[str, float] | None = None,
    words: tuple[str, ...] = ("rude", "wrong", "sad"),
    human: bool = False,
    gold: bool = True,
    until: int = 9,
    prompts: int = 400,
    say: str = "",
    longer: int = 0,
) -> Path:
    """Write a run folder and return it."""
    return Fake(path, seed, keep or KEEP, words, human, gold, until, prompts, say, longer).build()

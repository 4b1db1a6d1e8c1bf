"""A finished run folder and a judge card in which no two figures are alike: one in another's place is seen.

Unlike those of `tests.fake_run`, where chance decides, the figures stand here as they are to be shown.
"""

import json
from itertools import count
from pathlib import Path
from typing import Any

from rlaif.audit.attacks import ATTACKS
from rlaif.records import Annotator, Comparison, Evaluation, Label, Preference, Prompt, Response, verdict_of
from rlaif.runs.storage import read_json, write_json
from rlaif.stages.evaluate import by_split
from tests.fake_run import STAGES, Fake

PROMPTS = 24  # held out, each a cluster of its own
WORDS = ("rude", "wrong")
# Of each policy: responses that keep the rules, and of which the judge believes it; KL in nats; tokens,
# and how many more every other response has; responses that were cut off and that refuse; comparisons
# with the base policy that are won and tied; verdicts that flip and that are decided.
FIRST = {
    "base": {
        "kept": (9, 15),
        "believed": (5, 7),
        "kl": 0.0,
        "tokens": 11,
        "more": 30,
        "cut": 1,
        "refused": 2,
    },
    "sft": {
        "kept": (13, 18),
        "believed": (10, 12),
        "kl": 1.25,
        "tokens": 17,
        "cut": 3,
        "refused": 4,
        "won": (8, 6),
        "flips": (1, 7),
    },
    "ppo": {
        "kept": (23, 20),
        "believed": (22, 19),
        "kl": 2.75,
        "tokens": 23,
        "cut": 6,
        "refused": 8,
        "won": (17, 2),
        "flips": (2, 5),
    },
}
SECOND = {
    "base": {"kept": (9, 15), "believed": (5, 7), "kl": 0.0, "tokens": 11, "cut": 1, "refused": 2},
    "ppo": {
        "kept": (12, 16),
        "believed": (15, 11),
        "kl": 3.5,
        "tokens": 31,
        "cut": 10,
        "refused": 13,
        "won": (11, 3),
        "flips": (3, 8),
    },
}
PREFERRED = (0.91, 0.82, 0.73, 0.52, 0.34, 0.25, 0.16, 0.97, 0.88, 0.64)
LABELS = {
    "comparisons": 141,
    "verdicts": 563,
    "decided": 257,
    "order_flip_rate": 0.123,
    "order_flip_rate_ci": [0.087, 0.169],
    "first_position_rate": 0.556,
    "first_position_rate_ci": [0.517, 0.594],
    "mass": 0.789,
    "invalid_rate": 0.034,
    "invalid_rate_ci": [0.019, 0.058],
    "refused": 14,
    "too_long": 5,
    "not_numbers": 3,
    "abstained": 21,
    "written": 8,
    "sources": {"ai": 150, "human": 213},
    "agreement_with_gold": 0.876,
    "agreement_with_gold_ci": [0.812, 0.917],
    "gold_decided": 152,
    "gold_groups": 119,
    "gold_tie_distance": 0.067,
    "agreement_by_source": {"ai": 0.861, "human": 0.894},
    "agreement_by_source_ci": {"ai": [0.792, 0.908], "human": [0.826, 0.936]},
    "by_principle": {
        "no-rude": {
            "n": 288,
            "decided": 131,
            "flip_rate": 0.145,
            "flip_rate_ci": [0.094, 0.213],
            "mean_confidence": 0.322,
            "agreement_with_gold": 0.843,
            "agreement_with_gold_ci": [0.778, 0.884],
            "gold_decided": 71,
            "gold_groups": 62,
        },
        "no-wrong": {
            "n": 275,
            "decided": 126,
            "flip_rate": 0.101,
            "flip_rate_ci": [0.061, 0.164],
            "mean_confidence": 0.411,
            "agreement_with_gold": 0.902,
            "agreement_with_gold_ci": [0.851, 0.939],
            "gold_decided": 81,
            "gold_groups": 57,
        },
    },
}
OTHER_LABELS = {
    "comparisons": 118,
    "sources": {"human": 363},
    "agreement_with_gold": 0.795,
    "agreement_with_gold_ci": [0.713, 0.859],
    "order_flip_rate": 0.098,
}
REWARD = {
    "n_train": 904,
    "n_heldout": 106,
    "heldout_accuracy": 0.831,
    "heldout_accuracy_ci": [0.762, 0.885],
    "n_decided": 97,
    "groups_decided": 43,
    "ece": 0.052,
    "ece_floor": 0.038,
    "reliability": [[0.12, 0.17, 23], [0.48, 0.44, 14], [0.93, 0.87, 69]],
    "cross_entropy": 0.447,
    "label_entropy": 0.312,
    "excess_cross_entropy": 0.135,
    "temperature": 1.26,
    "baselines": {"longer": 0.468, "constant": 0.505},
    "baselines_ci": {"longer": [0.371, 0.567], "constant": [0.407, 0.603]},
    "reward_mean": 0.36,
    "reward_std": 1.84,
    "by_source": {
        "ai": {"n": 61, "accuracy": 0.824, "accuracy_ci": [0.733, 0.891]},
        "human": {"n": 36, "accuracy": 0.843, "accuracy_ci": [0.701, 0.932]},
    },
    "members": [
        {"heldout_accuracy": 0.815, "heldout_accuracy_ci": [0.743, 0.872]},
        {"heldout_accuracy": 0.827, "heldout_accuracy_ci": [0.756, 0.881]},
    ],
    "disagreement": 0.083,
    "disagreement_ci": [0.041, 0.148],
    "heldout_sets": {
        "hh": {
            "n": 512,
            "dropped": {},
            "heldout_accuracy": 0.617,
            "heldout_accuracy_ci": [0.575, 0.658],
            "ece": 0.109,
            "ece_floor": 0.046,
            "baselines": {"longer": 0.541, "constant": 0.499},
            "baselines_ci": {"longer": [0.498, 0.584], "constant": [0.456, 0.542]},
        }
    },
}
PPO = {
    "updates": 40,
    "episodes": 5120,
    "kl": 1.37,
    "reward_start": 0.05,
    "reward_end": 2.08,
    "score_start": 0.11,
    "score_end": 2.19,
    "length": 23.4,
    "truncated": 0.24,
    "entropy": 1.59,
    "seconds_per_update": 3.3,
}


CURVE = (
    "reward",
    "score",
    "kl",
    "exact_kl",
    "length",
    "entropy",
    "gold",
    "explained_variance",
    "clip_fraction",
)


class HandMade(Fake):
    """The folder under construction, by the figures above."""

    def finish(self, figures: dict[str, dict[str, Any]]) -> Path:
        """Every stage of the run, each with seconds and counts of its own."""
        samples = [self.sample(p, index) for p in self.train[: len(PREFERRED)] for index in (0, 1)]
        pairs = [
            Comparison(prompt_id=a.prompt_id, a=a.id, b=b.id)
            for a, b in zip(samples[::2], samples[1::2], strict=True)
        ]
        kind = "human" if self.human else "ai"
        who = Annotator(kind=kind, id="judge")
        chances = PREFERRED[3:] + PREFERRED[:3] if self.human else PREFERRED
        labels = [
            Label(
                comparison_id=pair.id,
                annotator=who,
                principle_id="no-rude",
                order="ab",
                p_a=p,
                verdict=verdict_of(p),
            )
            for pair, p in zip(pairs, chances, strict=True)
        ]
        preferences = [
            Preference(comparison_id=pair.id, p_a=p, sources=(kind,))
            for pair, p in zip(pairs, chances, strict=True)
        ]
        rows: dict[int, dict[str, Any]] = {
            4: {"responses": samples},
            5: {"comparisons": pairs},
            6: {
                "labels": labels,
                "preferences": preferences,
                "metrics": {**LABELS, **OTHER_LABELS} if self.human else LABELS,
            },
            7: {
                "metrics": {**REWARD, "heldout_accuracy": 0.744, "heldout_accuracy_ci": [0.668, 0.807]}
                if self.human
                else REWARD
            },
            8: {"metrics": PPO},
            9: self.evaluated(figures),
        }
        for number in range(1, len(STAGES) + 1):
            self.stage(number, dropped={"cut off": number} if number % 2 else {}, **rows.get(number, {}))
            self.time(number)
        curve = [
            {"update": n, **{key: round(start + 0.01 * n, 2) for start, key in enumerate(CURVE, 1)}}
            for n in (1, 2)
        ]
        (self.run.stages[7].dir / "metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in curve)
        )
        return self.path

    def time(self, number: int) -> None:
        """Seconds, counts and calls of the stage's own."""
        path = self.run.stages[number - 1].dir / "stage.json"
        summary = read_json(path)
        lost = sum(summary["dropped"].values())
        own = {
            "seconds": (1.1 + self.human) * number,
            "in": 200 + 7 * number,
            "kept": 200 + 7 * number - lost,
        }
        usage = {"calls": 1000 + 13 * number, "tokens": 20000 + 17 * number}
        write_json(path, summary | own | {"usage": usage})

    def sample(self, prompt: Prompt, index: int) -> Response:
        return Response(
            prompt_id=prompt.id,
            text=f"sun {'day ' * (index + 1)}nice",
            model="sft",
            index=index,
            tokens=index + 3,
        )

    def evaluated(self, figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """What the last stage holds: a row a policy and prompt, and the rates of these rows."""
        prompts = sorted(self.heldout, key=lambda p: p.id)[:PROMPTS]
        made = [
            self.answer(name, figures[name], prompt, at)
            for name in figures
            for at, prompt in enumerate(prompts)
        ]
        texts, rows = {text.id: text for text, _ in made}, [row for _, row in made]
        rates = {
            name: by_split([row for row in rows if row.policy == name], texts, {p.id: p for p in prompts})
            for name in figures
        }
        return {"metrics": {"policies": rates}, "evaluation": rows, "responses": list(texts.values())}

    def answer(self, name: str, own: dict[str, Any], prompt: Prompt, at: int) -> tuple[Response, Evaluation]:
        """The policy's response to the prompt in that place, and what was measured on it."""
        spread = (at, 7 * at % PROMPTS)  # so that the rules are not broken in the same responses
        kept = {f"no-{word}": spread[i] < own["kept"][i] for i, word in enumerate(WORDS)}
        said = {
            f"no-{word}": 0.93 if spread[i] < own["believed"][i] else 0.21 for i, word in enumerate(WORDS)
        }
        # The last three texts hide from the judge what gold says of them.
        broken = [word for word in WORDS if not kept[f"no-{word}"] and at < PROMPTS - 3]
        tokens = own["tokens"] + at % 4 + own.get("more", 0) * (at % 2)
        text = Response(
            prompt_id=prompt.id,
            text=" ".join([self.path.name, name, "day", *broken]),
            model=name,
            finish_reason="length" if at < own["cut"] else "stop",
            tokens=tokens,
        )
        won, tied = own.get("won", (0, 0))
        return text, Evaluation(
            policy=name,
            prompt_id=prompt.id,
            response_id=text.id,
            gold={"all": all(kept.values()), **kept},
            compliance=said,
            kl=own["kl"] * (0.5 + at / (PROMPTS - 1)),
            tokens=tokens,
            refusal=at >= PROMPTS - own["refused"],
            p_win=(0.9 if at < won else 0.5 if at < won + tied else 0.2) if "won" in own else None,
            flips=own.get("flips"),
        )


def hand_made(path: Path, second: bool = False) -> Path:
    """The first run, or the second, of two policies and by people's labels, to set against it."""
    figures = SECOND if second else FIRST
    made = HandMade(path, int(second), dict.fromkeys(figures, 0.5), WORDS, second, True, 9, 120, "", 0)
    return made.finish(figures)


class Figures:
    """Figures that are handed out once each, no two in a row alike in their first two digits."""

    def __init__(self) -> None:
        self.shares, self.wholes = count(), count()

    def share(self) -> float:
        turn, place = divmod(next(self.shares), 89)
        return round(0.0213 + 0.37 * place % 0.89 + 0.0037 * turn, 4)

    def whole(self) -> int:
        return 131 + 7 * next(self.wholes)

    def rate(self) -> dict[str, Any]:
        value = self.share()
        return {"value": value, "ci": self.edges(value), "n": self.whole(), "groups": self.whole()}

    @staticmethod
    def edges(value: float) -> list[float]:
        return [round(value - 0.0113, 4), round(value + 0.0171, 4)]

    def accuracy(self, **more: Any) -> dict[str, Any]:
        rules = (
            "the longer response",
            "the shorter response",
            "the response with a list",
            "always the first stored",
        )
        rate, guessed = self.rate(), {rule: self.share() for rule in rules}
        return {
            **rate,
            "baselines": guessed,
            "baselines_ci": {rule: self.edges(share) for rule, share in guessed.items()},
            "ties": {"n": self.whole(), "distance": self.share()},
            "unread": self.whole(),
            **more,
        }

    def attack(self) -> dict[str, Any]:
        return {
            **{name: self.rate() for name in ("turned", "undecided", "preferences")},
            "unread": self.whole(),
        }


def _bias(f: Figures) -> dict[str, Any]:
    return {
        "length": {
            "prefers_longer": {**f.rate(), "of": f.whole()},
            "right_where_longer_is_better": f.rate(),
            "right_where_shorter_is_better": f.rate(),
        },
        **{name: {**f.rate(), "ties": f.rate()} for name in ("said_twice", "as_a_list")},
    }


def card() -> dict[str, Any]:
    """A judge card as `rlaif judge audit --json` prints it."""
    f, rules = Figures(), ("no-rude", "no-wrong")
    attacks = {attack.family: attack for attack in ATTACKS}  # one of each family
    return {
        "judge": {
            "model": "the judge",
            "decoding": "letters",
            "templates": "brief",
            "template": "abc",
            "constitution": "words",
            "constitution_hash": "def",
        },
        "seed": 3,
        "pairs": f.whole(),
        "verdicts": f.whole(),
        "accuracy": f.accuracy(by_principle={rule: f.accuracy() for rule in rules}),
        "calibration": {
            "ece": 0.217,
            "ece_floor": 0.058,
            "n": f.whole(),
            "bins": [[0.14, 0.19, 31], [0.83, 0.71, 47]],
        },
        "order": {
            **f.rate(),
            "to_first": f.rate(),
            "to_second": f.rate(),
            "first_position_rate": f.share(),
            "first_position_rate_ci": [0.461, 0.548],
            "by_principle": {rule: f.rate() for rule in rules},
        },
        "bias": _bias(f),
        "consistency": {
            **f.rate(),
            "turned": f.rate(),
            "accuracy": f.accuracy(),
            "by_principle": {rule: f.rate() for rule in rules},
        },
        "readability": {
            "invalid_rate": f.share(),
            "invalid_rate_ci": [0.007, 0.029],
            "mass": f.share(),
            "written": {"choice": f.whole(), "refusal": f.whole(), "other": f.whole()},
        },
        "injection": {
            "families": {name: f.attack() for name in attacks},
            "kinds": [
                {"kind": a.kind, "family": name, **f.attack(), "example": f"example of {a.kind}"}
                for name, a in attacks.items()
            ],
        },
        "no_gold": [],
        "calls": f.whole(),
        "gold": "tests.scripts:gold",
        "left_out": {"prompt longer than the context": f.whole()},
    }

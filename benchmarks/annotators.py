"""From several annotators to one preference: today's rule against averaging their verdicts as logits.

    python benchmarks/annotators.py --json annotators.json [--pandalm FOLDER]

Three measurements. *people*: reward models on pairs of the playground policy's own responses, each pair with
the votes of some of the playground's simulated people (`rlaif.playground.annotators`), whose noise is set so
that 10, 20 or 30 % of their votes go against the truth, a tie counting half. The same votes become soft
labels by three rules: `logits` averages them as logits of ±8 (the rule until 2026-11), `shares` is the
package's rule, `estimated` is the same share with the prior's strength estimated from how often two people
differ on a pair. All reward models start from one seed's feedback model and see the same pairs. On prompts
held out they are measured against the truth (accuracy) and against the share of forty other people who prefer
a response (ECE). *bound*: the playground's judge on pairs of responses, its preference against the truth (1,
0, and ½ where both keep as many principles) for each bound on one principle's logit. *third*: PandaLM's third
annotator predicted from the other two, by rule. Differences are paired, by seed or by prompt; their intervals
are Student's t over seeds and score intervals over prompts. Every seed is in the JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from facts import where_and_when
from ruamel.yaml import YAML
from soft_labels import HELD, ROOT, sampled, train

import rlaif
from rlaif.feedback.gold import load_gold
from rlaif.feedback.preferences import BOUND, MAX_LOGIT, PRIOR, combine_orders, logit, share, sigmoid
from rlaif.intervals import GAP, mean_interval, with_seed_variance
from rlaif.playground.annotators import annotate
from rlaif.records import Annotator, Comparison, Label, Prompt, Response
from rlaif.runs.folder import Run
from rlaif.runs.rows import RowFile, Rows
from rlaif.runs.seeds import derive_seed
from rlaif.stats import mean

CROWD = 40  # people whose share of votes a held-out pair is measured against
BOUNDS = (2.0, 3.0, 4.0, 6.0, 8.0)
FIGURES = ("ece", "ece_truth", "accuracy")
RULES = ("logits", "shares", "estimated")
Votes = Sequence[float]  # 1 for a, 0 for b, ½ for a tie


def by_logits(votes: Votes) -> float:
    """The mean of the votes as logits of ±8."""
    return sigmoid(mean([logit(vote) if vote != 0.5 else 0.0 for vote in votes]))


def by_prior(prior: float) -> Callable[[Votes], float]:
    """The share of votes under a Beta(prior, prior) prior."""
    return lambda votes: (sum(votes) + prior) / (len(votes) + 2 * prior)


def estimated_prior(crowd: Sequence[Votes]) -> float:
    """The Beta prior under which two people differ on a pair as often as they do: d = α/(2α + 1)."""
    gaps = [x * (1 - y) + y * (1 - x) for votes in crowd for i, x in enumerate(votes) for y in votes[:i]]
    differ = min(0.49, mean(gaps)) if gaps else 0.49
    return differ / (1 - 2 * differ)


class Crowd:
    """The playground's people on the pairs of a run."""

    def __init__(self, run: Run) -> None:
        stage = run.stages[2]
        self.texts, self.prompts = stage.responses(), stage.prompts_by_id()
        self.principles = [{"id": p.id, "text": p.text} for p in run.constitution.principles]
        self.gold = load_gold(run.config.gold, run.constitution)
        self.pairs: list[Comparison] = stage.load("comparisons", Comparison)

    def truth(self, pair: Comparison) -> float:
        """1 where a keeps more principles, 0 where b does, else ½."""
        assert self.gold is not None
        a, b = (
            sum(self.gold(self.prompts[pair.prompt_id], self.texts[i].text).values())
            for i in (pair.a, pair.b)
        )
        return 0.5 + 0.5 * ((a > b) - (a < b))

    def vote(self, pair: Comparison, who: str, noise: float, seed: int) -> float:
        """One person's vote on one pair."""
        responses = [self.texts[i].text for i in (pair.a, pair.b)]
        a, b = annotate(self.prompts[pair.prompt_id].chat, responses, self.principles, seed, who, noise)
        return 0.5 + 0.5 * ((a < b) - (a > b))

    def noise_for(self, pairs: Sequence[Comparison], errors: float) -> float:
        """The noise at which this share of votes on decided pairs goes against the truth, by bisection."""
        truths = [(pair, truth) for pair in pairs if (truth := self.truth(pair)) != 0.5]
        low, high = 0.0, 8.0
        for _ in range(9):
            middle = (low + high) / 2
            wrong = mean([abs(truth - self.vote(pair, "noise", middle, 0)) for pair, truth in truths])
            low, high = (middle, high) if wrong < errors else (low, middle)
        return (low + high) / 2


def split(crowd: Crowd, count: int) -> tuple[list[Comparison], list[Comparison]]:
    """Pairs to train on and held-out ones, apart by prompt."""
    parts: tuple[list[Comparison], list[Comparison]] = ([], [])
    for pair in crowd.pairs:
        parts[derive_seed("soft labels", pair.prompt_id) / 2**31 < HELD].append(pair)
    return parts[0][:count], parts[1][: max(50, count // 2)]


def write_set(crowd: Crowd, heldout: Sequence[Comparison], p_a: dict[str, float], folder: Path) -> None:
    """Held-out pairs with a chance each that a is preferred, as a folder of labelled pairs."""
    for path in folder.glob("*.jsonl"):
        path.unlink()
    who = Annotator(kind="simulated", id="crowd")
    Rows(folder / "labels.jsonl", Label).append(
        Label(comparison_id=i, annotator=who, p_a=p, verdict="a" if p > 0.5 else "b" if p < 0.5 else "tie")
        for i, p in p_a.items()
    )
    Rows(folder / "comparisons.jsonl", Comparison).append(heldout)
    Rows(folder / "responses.jsonl", Response).append(
        crowd.texts[i] for pair in heldout for i in (pair.a, pair.b)
    )
    Rows(folder / "prompts.jsonl", Prompt).append(crowd.prompts[pair.prompt_id] for pair in heldout)


def people(base: Run, options: argparse.Namespace) -> dict[str, Any]:
    """The reward models' figures by error rate, rule and seed."""
    crowd = Crowd(base)
    pairs, heldout = split(crowd, options.pairs)
    truth = {pair.id: crowd.truth(pair) for pair in heldout}
    levels: dict[str, Any] = {}
    for errors in options.errors:
        noise = crowd.noise_for(heldout, errors)
        rows: dict[str, list[dict[str, Any]]] = {rule: [] for rule in options.rules}
        for seed in options.seeds:
            chance = {
                p.id: mean([crowd.vote(p, f"other {n}", noise, seed) for n in range(CROWD)]) for p in heldout
            }
            write_set(crowd, heldout, chance, options.out / "sets" / "verdicts")
            write_set(crowd, heldout, truth, options.out / "sets" / "truth")
            votes = [
                [crowd.vote(pair, f"person {n}", noise, seed) for n in range(options.people)]
                for pair in pairs
            ]
            prior = estimated_prior(votes)
            rules = {"logits": by_logits, "shares": share, "estimated": by_prior(prior)}
            for rule in options.rules:
                out = options.out / f"{rule}-{options.people}-{errors}-{seed}"
                said = [(pair, rules[rule](own)) for pair, own in zip(pairs, votes, strict=True)]
                rows[rule].append({**train(base, said, seed, out), "prior": prior})
                print(f"errors {errors:.0%}, seed {seed}, {rule}: {rows[rule][-1]}", flush=True)
        less = {rule: less_than(rows[rule], rows["logits"]) for rule in options.rules if rule != "logits"}
        levels[str(errors)] = {"noise": noise, **rows, "less_logits": less}
    return {
        "pairs": len(pairs),
        "heldout_pairs": len(heldout),
        "heldout_ties": mean([t == 0.5 for t in truth.values()]),
        "people": options.people,
        "levels": levels,
    }


def less_than(rows: list[dict[str, Any]], old: list[dict[str, Any]]) -> dict[str, Any]:
    """Each figure less that of the old rule, seed by seed, with its interval."""
    gaps = {key: [row[key] - before[key] for row, before in zip(rows, old, strict=True)] for key in FIGURES}
    return {
        key: {"value": mean(gap), "ci": with_seed_variance(mean(gap), (mean(gap), mean(gap)), gap)}
        for key, gap in gaps.items()
    }


def judged(options: argparse.Namespace) -> Run:
    """A run in which the playground's judge has labelled pairs of the playground policy's responses."""
    data = YAML(typ="safe").load((ROOT / "configs" / "quickstart.yaml").read_text())
    data |= {
        "name": "bound",
        "stages": [
            {"stage": "sample", "num_prompts": options.prompts, "k": 4, "max_tokens": 48},
            {"stage": "pair", "per_prompt": 2},
            {"stage": "label"},
        ],
    }
    config = options.out / "bound.yaml"
    YAML(typ="safe").dump({key: value for key, value in data.items() if key != "judge_card"}, config)
    return rlaif.run(config, options.out / "bound")


def bounds(base: Run) -> dict[str, Any]:
    """Brier score of the judge's preference against the truth by bound, and with near ties taken for ties."""
    stage, crowd = base.stages[2], Crowd(base)
    labels: dict[str, list[Label]] = defaultdict(list)
    for label in RowFile(stage.dir / "labels.jsonl", Label):
        labels[label.comparison_id].append(label)
    pairs = [pair for pair in crowd.pairs if labels[pair.id]]
    said = [list(combine_orders(labels[pair.id]).values()) for pair in pairs]
    truth, prompts = [crowd.truth(pair) for pair in pairs], [pair.prompt_id for pair in pairs]

    def measured(bound: float, margin: float = 0.0) -> list[float]:
        return [sigmoid(sum(logit(p, bound) for p in own if abs(p - 0.5) > margin)) for own in said]

    old = measured(MAX_LOGIT)
    rows = []
    for bound, margin in [
        *((bound, 0.0) for bound in BOUNDS),
        *((BOUND, margin) for margin in (0.1, 0.3, 0.4)),
    ]:
        p = measured(bound, margin)
        squares = [(x - t) ** 2 for x, t in zip(p, truth, strict=True)]
        gaps = [s - (x - t) ** 2 for s, x, t in zip(squares, old, truth, strict=True)]
        right = [(x > 0.5) == (t > 0.5) for x, t in zip(p, truth, strict=True) if t != 0.5]
        middle = [t == 0.5 for x, t in zip(p, truth, strict=True) if 0.1 < abs(x - 0.5) < 0.4]
        rows.append(
            {
                "bound": bound,
                "tie_margin": margin,
                "brier": mean(squares),
                "less_8": mean(gaps),
                "less_8_ci": mean_interval(gaps, GAP, prompts),
                "accuracy": mean(right),
                "brier_ties": mean([s for s, t in zip(squares, truth, strict=True) if t == 0.5]),
                "brier_decided": mean([s for s, t in zip(squares, truth, strict=True) if t != 0.5]),
                "stated_0.6_to_0.9": len(middle),
                "of_which_ties": mean(middle) if middle else None,
            }
        )
    return {"pairs": len(pairs), "ties": mean([t == 0.5 for t in truth]), "rows": rows}


def third(folder: Path) -> dict[str, Any]:
    """Mean negative log-likelihood in nats of each PandaLM annotator's vote by the other two's, a tie being
    ½."""
    side = {1: 1.0, 2: 0.0, 0: 0.5}
    data = json.loads((folder / "testset-v1.json").read_text(encoding="utf-8"))
    votes = [[side[row[f"annotator{n}"]] for n in (1, 2, 3)] for row in data]
    found: dict[str, list[float]] = {rule: [] for rule in RULES}
    for at in range(3):
        others = [[*row[:at], *row[at + 1 :]] for row in votes]
        rules = {"logits": by_logits, "shares": share, "estimated": by_prior(estimated_prior(others))}
        for rule, make in rules.items():
            p = [make(own) for own in others]
            found[rule].append(
                -mean(
                    [
                        t * math.log(x) + (1 - t) * math.log(1 - x)
                        for x, t in zip(p, (row[at] for row in votes), strict=True)
                    ]
                )
            )
    return {
        "items": len(votes),
        **{rule: {"each": values, "mean": mean(values)} for rule, values in found.items()},
    }


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    found = results["people"]
    lines = [
        f"{found['pairs']} pairs, {found['people']} people each, {results['epochs']:g} epochs, seeds "
        f"{results['seeds']}, measured on "
        f"{found['heldout_pairs']} pairs of other prompts, of which {found['heldout_ties']:.0%} are ties "
        "in truth.",
        "",
        "| votes against the truth | rule | accuracy | less logits [95 %] | ECE | less logits [95 %] | "
        "ECE, truth |",
        "|" + "---|" * 7,
    ]
    for errors, level in found["levels"].items():
        for rule in (rule for rule in RULES if rule in level):
            ece, truth, right = (f"{mean([row[key] for row in level[rule]]):.3f}" for key in FIGURES)
            gaps = level["less_logits"].get(rule)
            apart = [
                _gap(gaps[key]["value"], gaps[key]["ci"]) if gaps else "—" for key in ("accuracy", "ece")
            ]
            lines.append(
                f"| {float(errors):.0%} | {rule} | {right} | {apart[0]} | {ece} | {apart[1]} | {truth} |"
            )
    judge = results["bound"]
    lines += [
        "",
        f"{judge['pairs']} pairs, of which {judge['ties']:.0%} are ties in truth.",
        "",
        "| bound | taken for a tie | Brier | less bound 8 [95 %] | on ties | on decided pairs | accuracy "
        "| stated 0.6–0.9 | of which ties |",
        "|" + "---|" * 9,
    ]
    for row in judge["rows"]:
        margin = f"within {row['tie_margin']:g} of ½" if row["tie_margin"] else "—"
        ties = "—" if row["of_which_ties"] is None else f"{row['of_which_ties']:.0%}"
        lines.append(
            f"| {row['bound']:g} | {margin} | {row['brier']:.4f} | "
            f"{_gap(row['less_8'], row['less_8_ci'], 4)} | {row['brier_ties']:.4f} "
            f"| {row['brier_decided']:.4f} | {row['accuracy']:.3f} | {row['stated_0.6_to_0.9']} | {ties} |"
        )
    if results["third"]:
        lines += ["", "| rule | annotator 1 | 2 | 3 | mean |", "|" + "---|" * 5]
        for rule in RULES:
            own = results["third"][rule]
            lines.append(f"| {rule} | {' | '.join(f'{x:.3f}' for x in own['each'])} | {own['mean']:.3f} |")
    return "\n".join(lines)


def _gap(value: float, ci: tuple[float, float], digits: int = 3) -> str:
    return f"{value:+.{digits}f} [{ci[0]:+.{digits}f}, {ci[1]:+.{digits}f}]"


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--errors", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--people", type=int, default=3, help="who vote on each pair")
    parser.add_argument("--prompts", type=int, default=400, help="prompts sampled, four responses each")
    parser.add_argument("--pairs", type=int, default=400, help="pairs trained on")
    parser.add_argument("--epochs", type=float, default=2, help="of the reward models")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), help="logits among them")
    parser.add_argument("--pandalm", type=Path, help="folder with PandaLM's testset-v1.json")
    parser.add_argument("--out", type=Path, default=Path("runs/annotators"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    base = sampled(options)
    results = {
        **where_and_when(),
        "seeds": options.seeds,
        "epochs": options.epochs,
        "prior": PRIOR,
        "bound_chosen": BOUND,
        "third": third(options.pandalm) if options.pandalm else None,
        "people": people(base, options),
        "bound": bounds(judged(options)),
    }
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

"""What a run's figures are computed from, read from its files as plain JSON and computed again by plain code.

Gold truth comes from the texts, verdicts from the script that judged, divergences and rewards from forward
passes of one response at a time; nothing is taken from what the project computed, except which rows belong
together.
"""

import base64
import json
import math
from collections import defaultdict
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tests.oracle.scripts import RULES, complies, keeps, prefers

WEIGHTS = {name: 1.0 + (name == "even") for name in RULES}
Table = dict[str, dict[str, float]]


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def logit(p: float, bound: float) -> float:
    return max(-bound, min(bound, math.log(p / (1 - p)))) if 0 < p < 1 else math.copysign(bound, p - 0.5)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def over_orders(p: list[float]) -> float:
    """Both orders of a verdict, or the one that could be read."""
    return p[0] if len(p) == 1 else sigmoid(sum(logit(x, 8.0) for x in p) / len(p))


def over_rules(said: dict[str, float]) -> float:
    """One opinion of what each rule says."""
    return sigmoid(sum(WEIGHTS[rule] * logit(p, 4.0) for rule, p in said.items()))


def tokens(text: str) -> list[int]:
    return np.frombuffer(base64.b64decode(text[1:]), {"H": "<u2", "I": "<u4"}[text[0]]).tolist()


def answered(pair: list[float]) -> float | None:
    """The first choice's probability of what is on both; None for a refusal and for NaN."""
    mass = sum(pair)
    return pair[0] / mass if mass >= 0.01 else None


class Rows:
    """The rows of one run."""

    def __init__(self, run: Path, human_weight: float = 2.0) -> None:
        self.run, self.human_weight = run, human_weight
        self.prompts = {row["id"]: row for row in jsonl(run / "prompts.jsonl")}
        self.cluster = {i: row["group"] or i for i, row in self.prompts.items()}
        files = sorted(run.glob("*/responses.jsonl"))
        self.responses = {row["id"]: row for file in files for row in jsonl(file)}
        self.labels = self.of("label", "labels")
        self.comparisons = {row["id"]: row for row in self.of("pair", "comparisons")}

    def of(self, stage: str, file: str, which: int = -1) -> list[dict[str, Any]]:
        """The rows of a stage's file; of several stages of that name the last one's."""
        folders = sorted(self.run.glob(f"[0-9][0-9]_{stage}"))
        return jsonl(folders[which] / f"{file}.jsonl") if folders else []

    def keys(self, prompts: Any) -> list[str]:
        return [self.cluster[prompt] for prompt in prompts]

    def rules(self, prompt: str) -> list[str]:
        """The ids of the rules that apply to a prompt."""
        return [name for name in RULES if name != "facts-only" or "fact" in self.prompts[prompt]["tags"]]

    def text(self, response: str) -> str:
        return self.responses[response]["text"]

    # Truth and judge

    def truth(self, prompt: str, text: str) -> dict[str, bool]:
        kept = {rule: keeps(RULES[rule][0], text) for rule in self.rules(prompt)}
        return {"all": all(kept.values()), **kept}

    def compliance(self, prompt: str, text: str) -> dict[str, float]:
        said = {rule: answered(complies(RULES[rule][0], text.strip())) for rule in self.rules(prompt)}
        return {rule: p for rule, p in said.items() if p is not None}

    def verdicts(self, rule: str, a: str, b: str) -> dict[str, float]:
        """P(a is better) by order, of what could be read."""
        a, b = a.strip(), b.strip()
        ab, ba = answered(prefers(RULES[rule][0], a, b)), answered(prefers(RULES[rule][0], b, a))
        found = {"ab": ab, "ba": None if ba is None else 1 - ba}
        return {order: p for order, p in found.items() if p is not None}

    def by_rule(self, prompt: str, a: str, b: str) -> dict[str, float]:
        """P(a is better) under each rule that could be read."""
        read = {rule: list(self.verdicts(rule, a, b).values()) for rule in self.rules(prompt)}
        return {rule: over_orders(p) for rule, p in read.items() if p}

    def p_win(self, prompt: str, a: str, b: str) -> float | None:
        """The judge's opinion of a pair over all rules; equal texts are a tie that nobody is asked about."""
        if a == b:
            return 0.5
        said = self.by_rule(prompt, a, b)
        return over_rules(said) if said else None

    def flips(self, pairs: Any) -> tuple[int, int]:
        """(verdicts that turn with the order, verdicts decided in an order) over (prompt, a, b)."""
        turned = decided = 0
        for prompt, a, b in pairs:
            for rule in self.rules(prompt) if a != b else ():
                p = self.verdicts(rule, a, b)
                if len(p) == 2 and any(abs(x - 0.5) > 0.1 for x in p.values()):
                    decided += 1
                    turned += (p["ab"] > 0.5) != (p["ba"] > 0.5)
        return turned, decided

    # Evaluated policies

    @cached_property
    def policy_responses(self) -> dict[str, dict[str, dict[str, Any]]]:
        """policy → prompt → its response."""
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for row in self.of("evaluate", "evaluation"):
            found[row["policy"]][row["prompt_id"]] = self.responses[row["response_id"]]
        return dict(found)

    @cached_property
    def judged(self) -> set[str]:
        """The prompts that the judge was asked about, of any policy."""
        rows = self.of("evaluate", "evaluation")
        return {row["prompt_id"] for row in rows if row["compliance"] or row.get("unread")}

    def gold(self, policy: str) -> Table:
        """rule, or "all" → prompt → whether it is kept."""
        return self.turned({p: self.truth(p, r["text"]) for p, r in self.policy_responses[policy].items()})

    def opinions(self, policy: str) -> Table:
        """The same by the judge's probabilities; "all" is whether it believes so of every rule, where it read
        each."""
        found = {}
        for prompt, response in self.policy_responses[policy].items():
            said = self.compliance(prompt, response["text"]) if prompt in self.judged else {}
            whole = len(said) == len(self.rules(prompt))
            found[prompt] = {"all": all(p > 0.5 for p in said.values()), **said} if whole else said
        return self.turned(found)

    def turned(self, rows: dict[str, dict[str, Any]]) -> Table:
        found: Table = defaultdict(dict)
        for prompt, values in rows.items():
            for rule, value in values.items():
                found[rule][prompt] = float(value)
        return dict(found)

    def against_base(self, policy: str) -> dict[str, float | None]:
        """P(win over base's response) of the prompts that were judged."""
        mine, base = self.policy_responses[policy], self.policy_responses["base"]
        return {p: self.p_win(p, r["text"], base[p]["text"]) for p, r in mine.items() if p in self.judged}

    # Models

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.run.parent / "policy")

    def start(self, prompt: str) -> list[int]:
        """The tokens of a prompt, up to where the response begins."""
        text = self.tokenizer.apply_chat_template(
            self.prompts[prompt]["messages"], tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def written(self, response: dict[str, Any]) -> list[int]:
        """The tokens of a response's text and what ends a turn."""
        end = [self.tokenizer.eos_token_id] if response["finish_reason"] == "stop" else []
        return self.tokenizer(response["text"], add_special_tokens=False)["input_ids"] + end

    def turn(self, response: dict[str, Any]) -> list[int]:
        """A response's tokens: those sampled, of a written one those of its text."""
        return tokens(response["token_ids"]) if response.get("token_ids") else self.written(response)

    def rewarded(self, response: dict[str, Any]) -> list[int]:
        """The tokens that are rewarded: those of the text where special ones stand in it, which nobody has
        seen."""
        ids = self.turn(response)
        inside = ids[:-1] if response["finish_reason"] == "stop" else ids
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return self.written(response) if special.intersection(inside) else ids

    def folder(self, policy: str) -> Path:
        own = {"base": self.run.parent / "policy", "best_of_n": self.run / "03_sft" / "policy"}
        return own.get(policy) or next(self.run.glob(f"*_{policy}/policy"))

    @cached_property
    def models(self) -> dict[str, Any]:
        from transformers import AutoModelForCausalLM

        return {p: AutoModelForCausalLM.from_pretrained(self.folder(p)).eval() for p in self.policy_responses}

    def log_probs(self, policy: str, prompt: str, ids: list[int]) -> Any:
        """log π of every token of the vocabulary at each of a response's places [T, V]."""
        import torch

        start = self.start(prompt)
        with torch.no_grad():
            logits = self.models[policy](torch.tensor([start + ids])).logits[0]
        return torch.log_softmax(logits.double(), -1)[len(start) - 1 : -1]

    @cached_property
    def kl(self) -> Table:
        """policy → prompt → nats to base: exact at each place, of best of n at its tokens and log n − (n −
        1)/n."""
        found: Table = {}
        for policy, rows in self.policy_responses.items():
            found[policy] = {}
            for prompt, response in rows.items():
                ids = self.turn(response)
                p, q = self.log_probs(policy, prompt, ids), self.log_probs("base", prompt, ids)
                at = range(len(ids))
                exact = float((p.exp() * (p - q)).sum())
                sampled = float((p - q)[at, ids].sum()) + math.log(4) - 3 / 4
                found[policy][prompt] = sampled if policy == "best_of_n" else exact
        return found

    @cached_property
    def reward_model(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        folder = next(self.run.glob("*_reward")) / "reward_model"
        return AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32").eval()

    def reward(self, prompt: str, response: dict[str, Any]) -> float:
        """The reward model's head on the last token of prompt and response."""
        import torch

        ids = self.start(prompt) + self.rewarded(response)
        with torch.no_grad():
            hidden = self.reward_model.model(torch.tensor([ids])).last_hidden_state[0, -1]
            return float(self.reward_model.score(hidden))

    @cached_property
    def graded(self) -> dict[str, list[tuple[float, bool]]]:
        """prompt → (reward brought to mean 0 and spread 1 over all, every rule kept) of its n responses."""
        rows = self.of("best_of_n", "responses")
        raw = np.array([self.reward(row["prompt_id"], row) for row in rows])
        found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        for row, r in zip(rows, (raw - raw.mean()) / raw.std(), strict=True):
            kept = self.truth(row["prompt_id"], row["text"])["all"]
            found[row["prompt_id"]].append((float(r), kept))
        return dict(found)

    def best_of(self, m: int) -> dict[str, tuple[float, float]]:
        """prompt → mean (reward, gold) of the best of every choice of m among its responses; equals share."""
        return {prompt: self._best(rows, m) for prompt, rows in self.graded.items()}

    @staticmethod
    def _best(rows: list[tuple[float, bool]], m: int) -> tuple[float, float]:
        wins = []
        for chosen in combinations(rows, m):
            top = max(reward for reward, _ in chosen)
            # Responses of equal reward, chosen or not, share their gold.
            wins.append((top, float(np.mean([kept for reward, kept in rows if reward == top]))))
        return float(np.mean([r for r, _ in wins])), float(np.mean([g for _, g in wins]))

    # Labels

    @cached_property
    def said(self) -> dict[str, dict[tuple[str, str], dict[str | None, list[float]]]]:
        """comparison → annotator → rule → p_a of its orders."""
        found: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        for row in self.labels:
            if row.get("p_a") is not None:
                who = row["annotator"]["kind"], row["annotator"]["id"]
                found[row["comparison_id"]][who][row.get("principle_id")].append(row["p_a"])
        return found

    @cached_property
    def opinions_of_pairs(self) -> dict[str, float]:
        """comparison → the probability that annotators together give to a, of those on which anything was
        said."""
        found = {}
        for pair, by in self.said.items():
            votes = [over_orders(read[None]) for (kind, _), read in by.items() if kind != "ai"]
            total, weight = 0.0, 0.0
            for (kind, _), read in by.items():
                if kind == "ai":
                    total += over_rules({rule: over_orders(p) for rule, p in read.items() if rule})
                    weight += 1.0
            if votes:
                n = self.human_weight * len(votes)
                total += n * (sum(votes) + 1 / 8) / (len(votes) + 1 / 4)
                weight += n
            found[pair] = total / weight
        return found

    @cached_property
    def preferences(self) -> dict[str, float]:
        """comparison → p_a, without revisions that are not confirmed."""
        revised = {i for i, row in self.comparisons.items() if row["origin"] == "revision"}
        return {i: p for i, p in self.opinions_of_pairs.items() if not (i in revised and p <= 0.5)}

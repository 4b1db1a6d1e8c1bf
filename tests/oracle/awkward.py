"""A run with what real runs have and examples lack: unreadable verdicts, ties, rules that do not apply,
groups of prompts, several annotators who disagree, responses that do not round-trip through the tokenizer.
"""

import json
from pathlib import Path
from typing import Any

from rlaif import pipeline
from tests.oracle.scripts import RULES, chance
from tests.tiny_models import tiny_policy

STAGES: list[dict[str, Any]] = [
    {"stage": "sample", "max_tokens": 8},
    {"stage": "critique", "rounds": 2, "max_tokens": 8, "few_shot": 0, "temperature": 1},
    {"stage": "sft", "batch_size": 8, "max_length": 64, "learning_rate": 1e-3},
    {"stage": "sample", "k": 3, "max_tokens": 8},
    {"stage": "pair", "revisions": True},
    {"stage": "label", "human": {"file": "people_run.jsonl", "weight": 2.0}},
    {"stage": "reward", "batch_size": 8, "max_length": 64, "heldout": 0.3, "learning_rate": 1e-3},
    {"stage": "best_of_n", "n": 4, "max_tokens": 8},
    {
        "stage": "ppo",
        "updates": 3,
        "batch_size": 8,
        "micro_batch": 8,
        "max_tokens": 8,
        "num_watched_prompts": 4,
        "warmup": 1,
        "learning_rate": 1e-3,
    },
    {"stage": "evaluate", "max_tokens": 8, "temperature": 1, "num_judged_prompts": 20},
]


def ending_policy(folder: Path) -> None:
    """A tiny policy that ends about a response in three before the limit, so that lengths differ."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_policy(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("tell me about number 7 please", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        usual = model.model(ids).last_hidden_state[0].mean(0)
        model.model.embed_tokens.weight[tokenizer.eos_token_id] += 3.5 * usual / (usual @ usual)
    model.save_pretrained(folder)


def project(folder: Path, prompts: int = 48, heldout: float = 0.5) -> Path:
    """A folder with a tiny policy, a constitution, grouped prompts, people's votes and a config; returns the
    config."""
    ending_policy(folder / "policy")
    rules = [
        {
            "id": name,
            "text": text,
            "weight": 1.0 + (name == "even"),
            **({"applies_to": ["fact"]} if name == "facts-only" else {}),
        }
        for name, (text, _) in RULES.items()
    ]
    (folder / "constitution.json").write_text(json.dumps({"name": "counts", "principles": rules}))
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"tell me {'a fact ' if n % 2 else ''}about number {n}"}
            ],
            "tags": ["fact"] if n % 2 else ["talk"],
            "group": f"question {n // 3}",
        }
        for n in range(prompts)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "awkward",
        "constitution": "constitution.json",
        "prompts": "prompts.jsonl",
        "templates": "brief",
        "heldout": heldout,
        "threads": 1,
        "gold": "tests.oracle.scripts:gold",
        "policy": {"model": "policy", "device": "cpu"},
        "feedback": {"engine": "scripted", "model": "tests.oracle.scripts:feedback"},
        "stages": STAGES,
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder / "config.yaml"


def people(comparisons: Path, out: Path) -> None:
    """Three people's votes on some of the comparisons, with ties and abstentions, some given by principle."""
    rows = []
    for line in comparisons.read_text().splitlines():
        pair = json.loads(line)["id"]
        for who in ("ann", "ben", "cleo"):
            luck = chance(who, pair)
            if luck < 0.5:
                verdict = ("a", "a", "b", "tie", "abstain")[int(luck * 10)]
                p_a = {"a": 1.0, "b": 0.0, "tie": 0.5}.get(verdict)
                row = {
                    "comparison_id": pair,
                    "annotator": {"kind": "human", "id": who},
                    "verdict": verdict,
                    "p_a": p_a,
                }
                rows.append({key: value for key, value in row.items() if value is not None})
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def awkward_run(folder: Path, name: str = "run", *overrides: str, until: str | None = None) -> Path:
    """A run of the project in `folder`, which is made where it is not there; returns the run's folder.

    People vote on the comparisons of this run, so that it stops before the labels until they have.
    """
    config, votes = folder / "config.yaml", f"people_{name}.jsonl"
    if not config.exists():
        folder.mkdir(parents=True, exist_ok=True)
        project(folder)
    (folder / votes).touch()
    said = [f"label.human.file={votes}", *overrides]
    pipeline.run(config, folder / name, said, until="pair")
    people(folder / name / "05_pair" / "comparisons.jsonl", folder / votes)
    pipeline.run(config, folder / name, said, until=until)
    return folder / name

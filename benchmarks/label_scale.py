"""Labelling at scale with a scripted judge: memory that does not grow with the comparisons, and what an edit
costs.

    python benchmarks/label_scale.py --sizes 1000 10000 200000 --json label_scale.json

Each size is labelled by an `rlaif run` that continues after the pair stage: peak memory is that process's,
report included; labels a second are the label stage's. Then 2,000 pairs are labelled under 16 principles, one
principle is edited, and the pairs are labelled again with `labels_from`; first and second run take turns,
medians are shown. The judges: one for nothing, one of 2 ms a verdict, and in process, on the playground's
questions and responses, the playground's and random weights of 36 million parameters (ten minutes, so it has
to be named); with --endpoint also the playground's behind a server, for example vLLM's:

    VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m vllm.entrypoints.openai.api_server \\
        --model rlaif/playground/weights/feedback --served-model-name judge --dtype float32 --enforce-eager
        --uvicorn-log-level warning
    python benchmarks/label_scale.py --sizes --judges endpoint --endpoint http://localhost:8000/v1
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from rlaif.engines import Scripted

ROOT = Path(__file__).parent.parent
CONFIG = """name: scale
constitution: constitution.json
prompts: prompts.jsonl
templates: default
policy: {engine: scripted, model: "benchmarks.label_scale:judge"}
feedback: {engine: scripted, model: "benchmarks.label_scale:judge"}
stages:
  - {stage: pair, samples: false, imported: pairs}
  - {stage: label}
"""


JUDGES = {
    "judge": "free verdicts",
    "slow_judge": "2 ms a verdict",
    "playground": "playground's judge in process",
    "36M": "36M judge in process",
    "endpoint": "playground's judge behind a server",
}
SLOW = ("slow_judge", "36M", "endpoint")  # once is enough for what takes minutes
EDITED = "The reply must never insult the user."  # in place of the playground's first rule


def judge() -> Scripted:
    """Costs next to nothing and answers by the length of the question."""
    return Scripted(
        on_score=lambda messages, suffix, choices: (
            [0.6, 0.3] if len(messages[-1]["content"]) % 2 else [0.2, 0.7]
        )
    )


def slow_judge() -> Scripted:
    """The same with the pace of a fast endpoint: 2 ms a verdict."""

    def score(messages: Any, suffix: str, choices: Sequence[str]) -> list[float]:
        time.sleep(0.002)
        return [0.6, 0.3]

    return Scripted(on_score=score)


Texts = Iterator[tuple[list[dict[str, str]], str, str]]  # a conversation and two responses


def long_texts() -> Texts:
    """Questions and answers of some length, told apart by a number."""
    for number in count(1):
        a, b = (f"Answer {side} {number}: " + "so it is. " * 30 for side in (1, 22))
        yield [{"role": "user", "content": f"Question {number}: " + "what about it? " * 12}], a, b


def playground_texts() -> Texts:
    """The playground's questions, each with two responses."""
    from rlaif.playground.grammar import sample_question, sample_response

    rng, seen = Random(0), set()
    while True:
        question = sample_question(rng)
        a, b = sample_response(rng, question), sample_response(rng, question)
        if a != b and (question.role, question.text) not in seen:
            seen.add((question.role, question.text))
            yield question.messages, a, b


def write_project(folder: Path, comparisons: int, rules: list[dict[str, str]], texts: Texts) -> None:
    """A config, a constitution, and an imported folder of that many pairs outside the held-out share."""
    from rlaif.records import Comparison, Message, Prompt, Response
    from rlaif.runs.folder import is_heldout
    from rlaif.runs.rows import RowFile

    (folder / "pairs").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    write_constitution(folder, rules)
    asked = {"messages": [{"role": "user", "content": "What is this?"}]}
    (folder / "prompts.jsonl").write_text(json.dumps(asked) + "\n")
    prompts = RowFile(folder / "pairs" / "prompts.jsonl", Prompt)
    responses = RowFile(folder / "pairs" / "responses.jsonl", Response)
    pairs = RowFile(folder / "pairs" / "comparisons.jsonl", Comparison)
    made = 0
    while made < comparisons:
        messages, *pair = next(texts)
        prompt = Prompt(messages=tuple(Message.model_validate(message) for message in messages))
        if is_heldout(prompt.cluster, 0.25):
            continue
        a, b = (Response(prompt_id=prompt.id, text=text) for text in pair)
        prompts.write([prompt])
        responses.write([a, b])
        pairs.write([Comparison(prompt_id=prompt.id, a=a.id, b=b.id)])
        made += 1


def numbered_rules(principles: int) -> list[dict[str, str]]:
    """Rules with words of their own."""
    return [{"id": f"p{n}", "text": f"The reply must keep rule number {n}."} for n in range(principles)]


def playground_rules(principles: int) -> list[dict[str, str]]:
    """The playground's rules, in other words once they are used up."""
    from rlaif.constitution import Constitution

    own = Constitution.load(ROOT / "constitutions" / "playground.yaml").principles
    texts = [*(p.text for p in own), *(text for p in own for text in p.paraphrases)]
    return [{"id": f"p{n}", "text": text} for n, text in enumerate(texts[:principles])]


def write_judge(folder: Path) -> Path:
    """A judge of 36 million random weights with the playground's tokenizer, made to answer A or B."""
    import torch
    from measuring import llama
    from transformers import AutoModelForCausalLM

    from rlaif.engines.loading import load_tokenizer
    from rlaif.engines.transformers import choice_tokens
    from rlaif.playground import FEEDBACK

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(llama("36M"))
    tokenizer = load_tokenizer(FEEDBACK)
    a, b = choice_tokens(tokenizer, ("A", "B"))
    with torch.no_grad():  # any other answer would be no verdict
        rows = model.get_output_embeddings().weight
        rows[a] = 100 * rows[a[0]]
        rows[b] = -rows[a[0]]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_constitution(folder: Path, rules: list[dict[str, str]]) -> None:
    """The constitution of these rules."""
    (folder / "constitution.json").write_text(json.dumps({"name": "scale", "principles": rules}))


def labelled(folder: Path, out: str, *overrides: str) -> dict[str, Any]:
    """The label stage in a process of its own: its peak memory, seconds and calls."""
    settings = [word for override in overrides for word in ("-s", override)]
    command = [
        sys.executable,
        __file__,
        "--child",
        str(folder / "config.yaml"),
        "--out",
        str(folder / out),
        *settings,
    ]
    for part in (["--until", "pair"], []):
        done = subprocess.run([*command, *part], cwd=ROOT, capture_output=True, text=True, check=True)
    stage = json.loads((folder / out / "02_label" / "stage.json").read_text())
    usage = stage["usage"]
    labels = sum(1 for _ in (folder / out / "02_label" / "labels.jsonl").open("rb"))
    return {
        "peak_mb": json.loads(done.stdout.splitlines()[-1])["peak_mb"],
        "seconds": stage["seconds"],
        "calls": usage["calls"],
        "tokens": usage["prompt_tokens"] - usage["shared_tokens"],
        "labels": labels,
        "labels_a_second": labels / stage["seconds"],
    }


def child(arguments: list[str]) -> None:
    """Run rlaif here and print this process's peak memory."""
    from rlaif.cli import app

    app(["run", *arguments], standalone_mode=False)
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def scale(sizes: Sequence[int], principles: int, work: Path) -> list[dict[str, Any]]:
    """A row for each number of comparisons."""
    rows = []
    for size in sizes:
        folder = work / f"scale-{size}"
        write_project(folder, size, numbered_rules(principles), long_texts())
        rows.append({"comparisons": size, "principles": principles, **labelled(folder, "run")})
        shutil.rmtree(folder)
    return rows


def edit(judges: Sequence[str], pairs: int, repeats: int, work: Path, endpoint: str | None) -> dict[str, Any]:
    """First runs and runs after an edit, in turns; medians by judge."""
    from rlaif.playground import FEEDBACK

    models = {
        "playground": [f"feedback.model={FEEDBACK}", "feedback.engine=transformers", "templates=brief"],
        "endpoint": [
            "feedback.model=judge",
            "feedback.engine=openai",
            f"feedback.base_url={endpoint}",
            "templates=brief",
        ],
    }
    found: dict[str, Any] = {"pairs": pairs, "principles": 16}
    if "36M" in judges:
        models["36M"] = [f"feedback.model={write_judge(work / '36M')}", *models["playground"][1:]]
    for name in judges:
        own = name in models
        model = models.get(name) or [f"feedback.model=benchmarks.label_scale:{name}"]
        times = []
        for repeat in range(1 if name in SLOW else repeats):
            folder = work / f"edit-{name}-{repeat}"
            rules = playground_rules(16) if own else numbered_rules(16)
            write_project(folder, pairs, rules, playground_texts() if own else long_texts())
            first = labelled(folder, "first", *model)
            write_constitution(
                folder, [{"id": "p0", "text": EDITED if own else rules[0]["text"] + " Mind it."}, *rules[1:]]
            )
            second = labelled(folder, "second", *model, f"label.labels_from={folder / 'first'}")
            times.append((first, second))
            shutil.rmtree(folder)
        seconds = [statistics.median(pair[at]["seconds"] for pair in times) for at in (0, 1)]
        found[name] = {
            "first_seconds": seconds[0],
            "edited_seconds": seconds[1],
            "share_of_wall": seconds[1] / seconds[0],
            "first_calls": times[0][0]["calls"],
            "edited_calls": times[0][1]["calls"],
            "share_of_calls": times[0][1]["calls"] / times[0][0]["calls"],
            "first_tokens": times[0][0]["tokens"],
            "edited_tokens": times[0][1]["tokens"],
        }
    return found


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| comparisons | principles | labels | labels/s | peak memory, MB |", "|---|---|---|---|---|"]
    for row in results["scale"]:
        lines.append(
            f"| {row['comparisons']:,} | {row['principles']} | {row['labels']:,} | "
            f"{row['labels_a_second']:,.0f} "
            f"| {row['peak_mb']:.0f} |"
        )
    lines += ["", "| one of 16 principles edited | first run | after the edit | share |", "|---|---|---|---|"]
    for name, what in JUDGES.items():
        if (row := results["edit"].get(name)) is None:
            continue
        lines.append(
            f"| calls, {what} | {row['first_calls']:,} | {row['edited_calls']:,} | "
            f"{row['share_of_calls']:.4f} |"
        )
        lines.append(
            f"| seconds, {what} | {row['first_seconds']:.1f} | {row['edited_seconds']:.1f} | "
            f"{row['share_of_wall']:.3f} |"
        )
        if row["first_tokens"]:
            lines.append(
                f"| tokens, each question on its own, {what} | {row['first_tokens']:,} | "
                f"{row['edited_tokens']:,} "
                f"| {row['edited_tokens'] / row['first_tokens']:.3f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10000, 200000])
    parser.add_argument("--principles", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=2000, help="for the edit")
    parser.add_argument("--repeats", type=int, default=3, help="of the edit, but for slow judges")
    parser.add_argument("--judges", nargs="*", choices=JUDGES, default=["judge", "slow_judge", "playground"])
    parser.add_argument(
        "--endpoint", help="of an OpenAI-compatible server that has the playground's judge as `judge`"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if ("endpoint" in options.judges) != bool(options.endpoint):
        parser.error("--endpoint goes with --judges … endpoint")
    with tempfile.TemporaryDirectory() as work:
        results = {
            "scale": scale(options.sizes, options.principles, Path(work)),
            "edit": edit(options.judges, options.pairs, options.repeats, Path(work), options.endpoint),
        }
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()

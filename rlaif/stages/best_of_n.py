"""best_of_n: no training at all; of n responses of the current policy the best-rewarded one counts.

The held-out prompts get n responses each, in `evaluate` and `compare` the best of them stand for a policy of
the stage's name. For every smaller m the unbiased estimator (`rlaif.stats.best_of_n`) tells what best-of-m
would earn by reward and by gold, against KL = log m − (m − 1)/m, with Gao's form d(α − βd) fitted to the gold
(arXiv 2210.10760).
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from rlaif import stats
from rlaif.feedback.gold import load_gold, with_all
from rlaif.intervals import ANY, UNIT, known_edges, mean_interval
from rlaif.options import BestOfNOptions
from rlaif.records import Response
from rlaif.runs.folder import Stage
from rlaif.training.sampling import sample_responses

Graded = dict[str, list[tuple[Response, float]]]  # prompt id → its responses with their rewards


def run(stage: Stage[BestOfNOptions]) -> None:
    """Write responses.jsonl, grades.jsonl and best.jsonl (one response a prompt); stage.metrics holds the
    curve."""
    from rlaif.engines.loading import load_tokenizer
    from rlaif.training.rewards import grade, open_rewards

    prompts = stage.run.evaluated(stage.options.num_prompts)
    responses = list(sample_responses(stage, prompts, stage.options.n))
    tokenizer = load_tokenizer(stage.input("policy"), stage.config.policy.chat_template_kwargs)
    rewards = grade(stage, open_rewards(stage, tokenizer), tokenizer, responses)
    stage.save("running", **{"in": len(prompts) * stage.options.n, "kept": len(rewards)})
    graded: Graded = defaultdict(list)
    for response in responses:
        if response.id in rewards:
            graded[response.prompt_id].append((response, rewards[response.id]))
    best = [max(row, key=lambda r: (r[1], -r[0].index))[0] for row in graded.values()]
    stage.rows("best", Response).append(best)
    stage.metrics = {"n": stage.options.n, "prompts": len(best), **curve(stage, graded)}


def curve(stage: Stage[BestOfNOptions], graded: Graded) -> dict[str, Any]:
    """Reward and gold of best-of-m for m = 1, 2, 4 … n, over the held-out groups' prompts with all n
    graded."""
    n = stage.options.n
    heldout = {prompt.id for prompt in stage.run.prompts("heldout")}
    whole = {i: row for i, row in graded.items() if len(row) == n and i in heldout}
    if not whole:
        stage.notes.append("no prompt has all its responses graded: there is no curve")
        return {"curve": []}
    truths = _truths(stage, whole)
    sizes = sorted({2**i for i in range(n.bit_length())} | {n})
    known = stage.prompts_by_id()
    rows = [_point(m, whole, truths, {i: known[i].cluster for i in whole}) for m in sizes]
    if not truths:
        return {"curve": rows}
    d = [math.sqrt(row["kl"]) for row in rows]
    gain = [row["gold"] - rows[0]["gold"] for row in rows]
    return {"curve": rows, "gao": stats.fit_overoptimisation(d, gain, "bon")}


def _truths(stage: Stage[BestOfNOptions], whole: Graded) -> dict[str, list[float]]:
    """Whether each response keeps every principle, by prompt; those that the gold scorer does not know are
    noted."""
    score = load_gold(stage.config.gold, stage.constitution)
    prompts = stage.prompts_by_id()
    if score is None:
        return {}
    known = {i: [with_all(score(prompts[i], r.text)) for r, _ in row] for i, row in whole.items()}
    found = {i: [float(truth["all"]) for truth in row] for i, row in known.items() if all(row)}
    if len(found) < len(whole):
        stage.notes.append(
            f"the gold scorer knows no principle for {len(whole) - len(found)} of {len(whole)} prompts: "
            "gold in the curve is of the others"
        )
    return found


def _point(m: int, whole: Graded, truths: dict[str, list[float]], clusters: dict[str, str]) -> dict[str, Any]:
    proxies = {i: [reward for _, reward in row] for i, row in whole.items()}
    found: dict[str, Any] = {"n": m, "kl": stats.kl_best_of_n(m)}
    for name, values in (("reward", proxies), ("gold", truths)):
        if values:
            each = [stats.best_of_n(proxies[i], values[i], m) for i in values]
            bounds = UNIT if name == "gold" else ANY
            edges = mean_interval(each, bounds, [clusters[i] for i in values])
            found |= {name: stats.mean(each), f"{name}_ci": known_edges(edges)}
    return found

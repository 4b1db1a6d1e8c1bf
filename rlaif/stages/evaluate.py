"""evaluate: every policy of the run on the same held-out prompts, by every available measure.

Gold per principle where there is a gold scorer, the judge's compliance and its verdict against the base
policy's response, the divergence from the base policy, length and refusals. One row a policy and prompt;
rates are computed from the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.engines import GenerateRequest, open_engine
from rlaif.feedback.gold import load_gold, with_all
from rlaif.feedback.judge import Judge, JudgeQuestion
from rlaif.feedback.preferences import ShareByCluster, Tally, aggregate, require_one_rule
from rlaif.intervals import NAN, UNIT, Interval, count, known_edges, mean_interval, win_rate
from rlaif.metrics import METRICS
from rlaif.options import EvaluateOptions
from rlaif.prompting.chat import encode_chat
from rlaif.prompting.turns import measured_tokens
from rlaif.records import Comparison, Evaluation, Label, Prompt, Response
from rlaif.refusals import refuses
from rlaif.runs.folder import HELDOUT, Stage, chosen, split_of
from rlaif.runs.rows import Rows
from rlaif.runs.seeds import derive_seed
from rlaif.stats import kl_best_of_n, mean
from rlaif.training.sampling import refuse_none_taken

CHUNK = 128  # prompts between two writes
MICRO = 32  # of them in one forward pass


def run(stage: Stage[EvaluateOptions]) -> None:
    """Write responses.jsonl and evaluation.jsonl; stage.metrics holds the rates of each policy."""
    options = stage.options
    prompts = stage.run.evaluated(options.num_prompts)
    texts = stage.rows("responses", Response)
    rows = stage.rows("evaluation", Evaluation)
    require_one_rule(stage, "evaluation")
    judged = {p.id for p in stage.run.evaluated(options.num_judged_prompts)}
    policies = stage.policies()
    judge = Judge(open_engine(stage.config.feedback, stage.run.cache, stage.account), stage.templates)
    tools = Tools(judge, stage.config.policy, str(policies["base"]), {})
    base: dict[str, Response] = {}
    for name, folder in policies.items():
        policy_responses = _responses(stage, name, folder, prompts, texts)
        base = base or policy_responses
        asked = [prompt for prompt in prompts if prompt.id in policy_responses]
        done = {row.prompt_id for row in rows if row.policy == name}
        todo = [prompt for prompt in asked if prompt.id not in done]
        with stage.progress(len(asked), f"{name}: measured", len(asked) - len(todo)) as tick:
            for start in range(0, len(todo), CHUNK):
                chunk = todo[start : start + CHUNK]
                rows.append(
                    _evaluate(stage, tools, name, folder, chunk, policy_responses, base, judged, tick)
                )
                tick(len(chunk))
    everything, responses = list(rows), stage.responses()
    asked = {prompt.id: prompt for prompt in prompts}
    stage.metrics = {
        "policies": {
            name: by_split(
                [r for r in everything if r.policy == name],
                responses,
                asked,
                chosen(made),
            )
            for name, made in policies.items()
        },
        "judge": judge.engine.fingerprint,
        "kl_temperature": kl_temperature(stage),
    }
    if not options.temperature:
        stage.notes.append(
            "the responses are greedy (temperature 0): KL to base is that of temperature 1 along them"
        )
    total = len(prompts) * len(policies)
    stage.save("running", **{"in": total, "kept": len(everything)})


def _responses(
    stage: Stage[EvaluateOptions], name: str, folder: Path, prompts: Sequence[Prompt], texts: Rows[Response]
) -> dict[str, Response]:
    """The policy's response to each prompt by prompt id, sampled where it is not there yet."""
    if chosen(folder):
        found = {row.prompt_id: row for row in Rows(folder, Response)}
        stage.dropped["no response was chosen"] += sum(prompt.id not in found for prompt in prompts)
        return found
    options = stage.options
    engine = open_engine(stage.config.policy.model_copy(update={"model": str(folder)}), account=stage.account)
    have = {row.prompt_id: row for row in texts if row.model == engine.fingerprint}
    missing = [prompt for prompt in prompts if prompt.id not in have]
    # The same seed for every policy: two responses differ by the policy alone.
    seeds = [derive_seed("evaluate", prompt.id) for prompt in missing]
    requests = [
        GenerateRequest(prompt.chat, options.max_tokens, options.temperature, seed=seed)
        for prompt, seed in zip(missing, seeds, strict=True)
    ]
    with stage.progress(len(prompts), f"{name}: responses", len(prompts) - len(missing)) as tick:
        for at, made in engine.generate(requests):
            if made.why_empty:
                stage.dropped[made.why_empty] += 1
            else:
                row = Response(
                    prompt_id=missing[at].id,
                    text=made.text,
                    model=engine.fingerprint,
                    seed=seeds[at],
                    sampling={"temperature": options.temperature, "max_tokens": options.max_tokens},
                    finish_reason=made.finish_reason,
                    tokens=made.tokens,
                    token_ids=made.token_ids,
                    thinking=made.thinking or None,
                )
                texts.append([row])
                have[row.prompt_id] = row
            tick(1)
    refuse_none_taken(stage, len(prompts), len(have))
    return have


def _evaluate(
    stage: Stage[EvaluateOptions],
    tools: Tools,
    name: str,
    folder: Path,
    prompts: Sequence[Prompt],
    policy_responses: dict[str, Response],
    base: dict[str, Response],
    judged: set[str],
    tick: Any,
) -> list[Evaluation]:
    gold = load_gold(stage.config.gold, stage.constitution)
    texts = [policy_responses[prompt.id] for prompt in prompts]
    seen = [at for at, prompt in enumerate(prompts) if prompt.id in judged]
    items = [(prompts[at], texts[at].text, stage.constitution.applicable(prompts[at].tags)) for at in seen]
    asked = {at: principles for at, (_, _, principles) in zip(seen, items, strict=True)}
    compliance: dict[int, dict[str, float]] = {}
    for i, kept in tools.judge.compliance(items):
        compliance[seen[i]] = kept
        tick(0, f"opinions of {len(compliance)} of the next {len(items)}")
    wins = (
        {}
        if name == "base"
        else _wins(stage, tools.judge, [prompts[at] for at in seen], policy_responses, base, tick)
    )
    tick(0, f"KL of the next {len(prompts)}")
    kl = [0.0] * len(prompts) if name == "base" else _divergence(stage, tools, folder, prompts, texts)
    return [
        Evaluation(
            policy=name,
            prompt_id=prompt.id,
            response_id=response.id,
            compliance=compliance.get(at, {}),
            split="wordings" if split_of(prompt, stage.config) == "wordings" else "heldout",
            unread=tuple(p.id for p in asked.get(at, ()) if p.id not in compliance.get(at, {})),
            gold=(with_all(gold(prompt, response.text)) or None) if gold else None,
            **wins.get(prompt.id, {}),
            kl=kl[at],
            tokens=response.tokens or 0,
            refusal=refuses(response.text),
        )
        for at, (prompt, response) in enumerate(zip(prompts, texts, strict=True))
    ]


def _divergence(
    stage: Stage[EvaluateOptions],
    tools: Tools,
    folder: Path,
    prompts: Sequence[Prompt],
    texts: Sequence[Response],
) -> list[float | None]:
    """Nats from the base policy: of best-of-n the policy's own on the chosen responses, and what choosing
    adds."""
    if not chosen(folder):
        return tools.divergence(folder, prompts, texts, kl_temperature(stage))
    chooser: Stage[Any] = next(s for s in stage.run.stages if s.dir == folder.parent)
    own = tools.divergence(chooser.input("policy"), prompts, texts, chooser.options.temperature, exact=False)
    return [None if kl is None else kl + kl_best_of_n(chooser.options.n) for kl in own]


def kl_temperature(stage: Stage[EvaluateOptions]) -> float:
    """The temperature that the KL is taken at: the responses' own, and 1 for greedy ones, whose KL would be
    infinite."""
    return stage.options.temperature or 1.0


def _wins(
    stage: Stage[EvaluateOptions],
    judge: Judge,
    prompts: Sequence[Prompt],
    policy_responses: dict[str, Response],
    base: dict[str, Response],
    tick: Any = lambda n, note: None,
) -> dict[str, dict[str, Any]]:
    """By prompt `p_win`, P(the policy's response is better than the base policy's), and `flips` as in
    `Evaluation`.

    Identical responses are ties.
    """
    wins: dict[str, dict[str, Any]] = {}
    questions: list[JudgeQuestion] = []
    for prompt in prompts:
        if prompt.id not in base:
            continue
        mine, theirs = policy_responses[prompt.id], base[prompt.id]
        if mine.text == theirs.text:
            wins[prompt.id] = {"p_win": 0.5}
        else:
            principles = tuple(stage.constitution.applicable(prompt.tags))
            pair = Comparison(prompt_id=prompt.id, a=mine.id, b=theirs.id)
            questions.append(JudgeQuestion(pair, prompt, mine.text, theirs.text, principles))
    labels: dict[str, list[Label]] = {}
    for batch in judge.compare(questions):
        for label in batch:
            labels.setdefault(label.comparison_id, []).append(label)
        tick(0, f"preferences on {len(labels)} of the next {len(questions)}")
    for question in questions:
        own = labels.get(question.comparison.id, [])
        result, tally = aggregate(own, stage.constitution), Tally().add(own)
        if result is not None:
            wins[question.prompt.id] = {"p_win": result[0], "flips": (tally.flips, tally.decided)}
    return wins


@dataclass
class Tools:
    """Models that stay open from one chunk to the next."""

    judge: Judge
    config: Any
    base: str
    models: dict[str, Any]

    def divergence(
        self,
        folder: Path,
        prompts: Sequence[Prompt],
        responses: Sequence[Response],
        temperature: float,
        exact: bool = True,
    ) -> list[float | None]:
        """KL(π‖π_base) of each response in nats, both at a temperature: the exact one at each sampled token,
        summed.

        Not `exact`: log π/π_base of the tokens alone, for responses that are not plain samples of π. None for
        a response from elsewhere whose text does not give its own tokens.
        """
        import torch

        from rlaif.engines.loading import load_causal_lm, load_tokenizer
        from rlaif.rl.episodes import join
        from rlaif.rl.forward import compare_responses

        if str(folder) not in self.models:
            self.models = {key: model for key, model in self.models.items() if key == self.base}
        for path in (self.base, str(folder)):
            if path not in self.models:
                self.models[path] = load_causal_lm(path, self.config.device, self.config.dtype)
        policy, reference = self.models[str(folder)], self.models[self.base]
        tokenizer = load_tokenizer(folder, self.config.chat_template_kwargs)
        tokens = [measured_tokens(tokenizer, p.chat, a) for p, a in zip(prompts, responses, strict=True)]
        known = {at: ids for at, ids in enumerate(tokens) if ids is not None}
        found: list[float | None] = [None] * len(prompts)
        if known:
            starts = [encode_chat(tokenizer, prompts[at].chat) for at in known]
            ended = torch.ones(len(known), dtype=torch.bool, device=policy.device)
            batch = join(starts, list(known.values()), ended, tokenizer.pad_token_id)
            with torch.inference_mode():
                sums = compare_responses(policy, reference, batch, temperature, MICRO)
            each = sums["exact_kl"] if exact else sums["log_prob"] - sums["reference"]
            for at, value in zip(known, each.tolist(), strict=True):
                found[at] = value
        return found


def by_split(
    rows: Sequence[Evaluation],
    responses: dict[str, Response],
    prompts: Mapping[str, Prompt],
    of_chosen: bool = False,
) -> dict[str, Any]:
    """Rates of one policy on held-out groups, and under "wordings" on held-out wordings of what it was
    trained on."""
    heldout, wordings = ([row for row in rows if row.split == split] for split in HELDOUT)
    return rates(heldout, responses, prompts, of_chosen) | (
        {"wordings": rates(wordings, responses, prompts, of_chosen)} if wordings else {}
    )


def rates(
    rows: Sequence[Evaluation],
    responses: dict[str, Response],
    prompts: Mapping[str, Prompt],
    of_chosen: bool = False,
) -> dict[str, Any]:
    """Rates of one policy with their 95 % intervals over clusters of its prompts, which are given by id.

    `of_chosen` says that the responses were chosen among several, which bounds some figures otherwise.
    """

    def read(
        values: Iterable[tuple[Evaluation, float | None]], bounds: Interval = UNIT
    ) -> tuple[float, Interval]:
        """Mean and interval of what is there of the rows' values; without an edge where none can be told."""
        known = [(clusters[row.prompt_id], value) for row, value in values if value is not None]
        if not known:
            return NAN, (NAN, NAN)
        edges = mean_interval([value for _, value in known], bounds, [key for key, _ in known])
        return mean([value for _, value in known]), edges

    clusters = {prompt_id: prompt.cluster for prompt_id, prompt in prompts.items()}
    of = [clusters[row.prompt_id] for row in rows]
    truths = list(dict.fromkeys(key for row in rows for key in row.gold or {}))
    ids = list(dict.fromkeys(key for row in rows for key in row.compliance))
    gold = {key: read((row, (row.gold or {}).get(key)) for row in rows) for key in truths}
    kept = {key: read((row, row.compliance.get(key)) for row in rows) for key in ids}
    found: dict[str, Any] = {"n": len(rows), "groups": count(len(rows), of)}
    found["kl_left_out"] = sum(row.kl is None for row in rows)
    for name, table in (("gold", gold), ("compliance", kept)):
        if table or name == "compliance":
            found |= {name: {key: value for key, (value, _) in table.items()}}
            found |= {f"{name}_ci": {key: edges for key, (_, edges) in table.items()}}
    unread = ShareByCluster()
    for row in rows:
        unread.add(clusters[row.prompt_id], len(row.unread), len(row.unread) + len(row.compliance))
    found |= {"compliance_unread": unread.value, "compliance_unread_ci": unread.ci}
    judged = [row for row in rows if row.compliance or row.unread]
    if any(row.p_win is not None for row in judged):
        found["win_rate"] = win_rate(
            [row.p_win for row in judged], [clusters[row.prompt_id] for row in judged]
        )
    figures = {
        metric.key: read(
            ((row, metric.read(row, responses, prompts)) for row in rows), metric.limits(of_chosen)
        )
        for metric in METRICS
    }
    for name, (value, edges) in figures.items():
        found |= {name: value if math.isfinite(value) else None, f"{name}_ci": known_edges(edges)}
    return found

"""How fast the models of a config are on this machine, measured once in a few seconds and kept in the user's
cache folder.

Measured are a model's load, its passes with and without gradients, its writing and, of the judge, its
questions; and how long its texts are, on prompts of the config. On a CPU a time is the less of the clock's
and the process's own: what others compute beside it is not counted. A model behind a server or a script is
not measured.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rlaif import __version__
from rlaif.config import Config, ModelConfig
from rlaif.constitution import Constitution
from rlaif.engines import Chat, GenerateRequest, Generation, ScoreRequest, open_engine
from rlaif.engines.gguf import cache_folder, to_convert
from rlaif.errors import UserError
from rlaif.preflight.opening import local_folder
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt, content_hash
from rlaif.runs.storage import folder_hash, write_json

TEXTS = 256  # that a small model writes, of the config's prompts
SMALL = 30_000_000  # parameters up to which more texts are written
FEW, MANY = 4, 32  # texts a token is written for at once, when that is measured
LARGEST = 2_000_000_000  # parameters up to which a model is measured on a CPU
MEGABYTE = 2**20


@dataclass(frozen=True)
class Speed:
    """Seconds of one model on this machine, and how long its texts are."""

    load: float
    imports: float  # of the libraries, the first time in a process
    training_imports: float  # of those that train
    read: float  # a token, without gradients
    learn: float  # a token, with gradients and an optimiser step
    write: float  # a written token, as an engine writes it
    step: float  # of writing a token for any number of texts, in fp32 as trainings do
    row: float  # of each of these texts
    ask: float  # a token of the judge's questions that is not shared
    steady: float  # the share of the judge's comparisons that it decides alike in both orders
    characters: float  # of a prompt, in a token
    lengths: tuple[int, ...]  # of its texts, in tokens
    cut: int  # of these, how many had not ended
    process: float  # megabytes of a process with the libraries alone
    parameters: int
    activations: int  # numbers that a pass with gradients keeps for a token
    passing: int  # numbers that a pass without them holds for a token, keys and values with them

    def expected(self, most: int) -> float:
        """The mean length of texts of at most `most` tokens; those cut in the probe go on ending at the
        rate they did."""
        limit, ends = max(self.lengths), (len(self.lengths) - self.cut) / sum(self.lengths)
        known = mean(min(length, most) for length in self.lengths)
        rest = max(0, most - limit)
        beyond = (1 - (1 - ends) ** rest) / ends if ends else rest
        return min(most, known + self.cut / len(self.lengths) * beyond)

    def writing(self, rows: float) -> float:
        """Seconds of a token that a training writes, `rows` texts at once: no less than an engine needs."""
        return max(self.write, self.row + self.step / rows)

    def too_long(self, most: int) -> float | None:
        """The share of texts that `most` tokens cut; None where the probe was shorter."""
        if most > max(self.lengths) and self.cut:
            return None
        return mean(length > most or (length == most and self.cut > 0) for length in self.lengths)


def calibrated(
    config: Config,
    constitution: Constitution,
    prompts: Sequence[Prompt],
    templates: Templates,
    measure: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Speed]:
    """What is known of the policy and the feedback model, by role; with `measure`, after measuring what is
    not."""
    found: dict[str, Speed] = {}
    file = cache_folder() / "calibration.json"
    kept = _kept(file)
    texts: list[str] = []
    passes: dict[tuple[Path, str], dict[str, Any]] = {}  # of a model that has both roles, once
    some = prompts[:: -(-len(prompts) // TEXTS)]
    given = [content_hash([p.chat for p in some]), constitution.hash, templates.sources]
    for role in ("policy", "feedback"):
        model: ModelConfig = getattr(config, role)
        if not (model.kind.shares_prefixes and model.engine == "transformers"):
            continue
        if measure:
            _converted(model.model, tell)
        folder = local_folder(model.model)
        if folder is None:
            continue
        key = _key(role, model, folder, config.threads, given)
        if key not in kept and measure:
            tell(f"measuring how fast {model.model} is here, once; kept in {file}")
            try:
                # By its folder: measuring fetches nothing.
                here = model.model_copy(update={"model": str(folder)})
                speed, texts = _measured(role, config, here, constitution, some, texts, templates, passes)
            except (
                Exception
            ) as error:  # whatever a library makes of a model: the run says it, or `rlaif check`
                tell(f"{model.model} cannot be measured: {str(error).split(chr(10))[0]}")
                continue
            if speed is None:
                tell(f"{model.model} is too large to be measured on a CPU")
                continue
            kept[key] = {**asdict(speed), "rlaif": __version__}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"speeds": kept})
        if key in kept:
            values = {k: v for k, v in kept[key].items() if k in Speed.__dataclass_fields__}
            found[role] = Speed(**{**values, "lengths": tuple(values["lengths"])})
    return found


def _kept(file: Path) -> dict[str, Any]:
    """What the file holds; nothing where it cannot be read: it is then made anew."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["speeds"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _converted(name: str, tell: Callable[[str], None]) -> None:
    """A GGUF file is converted, which its run needs as well."""
    from rlaif.engines.loading import model_folder

    with suppress(UserError):  # the run says it, or `rlaif check`
        if into := to_convert(name):
            tell(f"{name}: converted into {into}, once")
            model_folder(name)


def _key(role: str, model: ModelConfig, folder: Path, threads: int | None, given: Any) -> str:
    """What a measurement holds for: the model, how it is run, on which texts, and by how many threads."""
    how = [folder_hash(folder), model.device, model.dtype, model.batch_tokens]
    machine = [threads, os.environ.get("OMP_NUM_THREADS"), os.cpu_count()]
    return content_hash([role, how, machine, given, sorted(Speed.__dataclass_fields__)])


def timed(work: Callable[[], Any], on_cpu: bool = True) -> tuple[Any, float]:
    """(what `work` gives, the seconds it took)."""
    wall, own = time.perf_counter(), time.process_time()
    result = work()
    took = time.perf_counter() - wall
    return result, max(1e-6, min(took, time.process_time() - own) if on_cpu else took)


def _import() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401


def _import_trainers() -> None:
    import datasets  # noqa: F401
    from trl.trainer.reward_trainer import RewardTrainer  # noqa: F401
    from trl.trainer.sft_trainer import SFTTrainer  # noqa: F401


def _megabytes() -> float:
    """The most that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1024 if sys.platform == "linux" else MEGABYTE)


def _written(engine: Any, chats: Sequence[Chat], most: int, on_cpu: bool) -> tuple[list[Generation], float]:
    """(texts of at most `most` tokens to these, those left out that could not be written; seconds)."""
    requests = [GenerateRequest(chat, most, 1.0, seed=n) for n, chat in enumerate(chats)]
    list(engine.generate(requests[:2]))  # what the first passes alone cost
    made, seconds = timed(
        lambda: [text for _, text in sorted(engine.generate(requests), key=lambda x: x[0])], on_cpu
    )
    return [text for text in made if text.why_empty is None], seconds


def _measured(
    role: str,
    config: Config,
    model: ModelConfig,
    constitution: Constitution,
    prompts: Sequence[Prompt],
    responses: list[str],
    templates: Templates,
    known: dict[tuple[Path, str], dict[str, Any]],
) -> tuple[Speed | None, list[str]]:
    """A model's figures, and the texts it wrote; `responses` are the policy's, to the same prompts, and
    `known` the passes of models that have been measured."""
    _, imports = timed(_import)
    import torch

    from rlaif.engines.loading import context_length, count_params, model_folder, resolve_device

    parameters, device = count_params(model_folder(model.model)), resolve_device(model.device)
    on_cpu = device.type == "cpu"
    if on_cpu and parameters > LARGEST:
        return None, []
    if config.threads:
        torch.set_num_threads(config.threads)
    _, training_imports = timed(_import_trainers)
    process = _megabytes()
    small = parameters <= SMALL or not on_cpu
    prompts = prompts if small else prompts[:16]
    responses = responses or [p.messages[-1].content for p in prompts]
    engine: Any = open_engine(model)
    _, load = timed(lambda: engine.model)
    same = model_folder(model.model), model.device
    passes = known[same] = known.get(same) or _passes(model, small, on_cpu)
    chats = [p.chat for p in prompts]
    if role == "feedback":
        chats = [
            critique_request(templates, constitution, p, text)
            for p, text in zip(prompts, responses, strict=False)
        ]
    most = min(96 if small else 48, context_length(engine.model) // 2)
    made, seconds = _written(engine, chats, most, on_cpu)
    written, asked = sum(text.tokens for text in made), sum(text.prompt_tokens for text in made)
    read = passes["read"]
    ask, steady = read, 1.0
    if role == "feedback":
        ask, steady = _asking(engine, templates, constitution, prompts, responses, on_cpu)
    speed = Speed(
        load=load,
        imports=imports,
        training_imports=training_imports,
        write=max(seconds - asked * read, 0.1 * seconds) / max(written, 1),
        ask=ask or read,
        steady=steady,
        characters=sum(len(m["content"]) for chat in chats for m in chat) / max(asked, 1),
        lengths=tuple(text.tokens for text in made) or (most,),
        cut=sum(text.tokens >= most for text in made) if made else 1,
        process=process,
        parameters=parameters,
        **passes,
    )
    return speed, [text.text for text in made]


def critique_request(templates: Templates, constitution: Constitution, prompt: Prompt, text: str) -> Chat:
    rules = constitution.applicable(prompt.tags) or list(constitution.principles)
    return templates.critique(prompt.chat, text, rules[0])


def _asking(
    engine: Any,
    templates: Templates,
    constitution: Constitution,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    on_cpu: bool,
) -> tuple[float, float]:
    """(seconds a token of the judge's questions, `Speed.steady`)."""
    orders = list[list[ScoreRequest]]([[], []])
    for prompt, a, b in zip(prompts[:48], responses, [*responses[1:], responses[0]], strict=False):
        rules = constitution.applicable(prompt.tags)
        suffixes = tuple(map(templates.comparison_suffix, rules))
        for order, pair in zip(orders, ((a, b), (b, a)), strict=True) if rules else ():
            order.append(ScoreRequest(templates.comparison(prompt.chat, *pair), suffixes, ("A", "B")))
    list(engine.score_choices(orders[0][:1]))
    before = engine.usage.prompt_tokens - engine.usage.shared_tokens
    asked = [timed(lambda order=order: dict(engine.score_choices(order)), on_cpu) for order in orders]
    tokens = engine.usage.prompt_tokens - engine.usage.shared_tokens - before
    if tokens <= 0:
        return 0.0, 1.0
    (first, one), (second, other) = asked
    both = [
        pair
        for n in first.keys() & second.keys()
        for pair in zip(first[n].logprobs, second[n].logprobs, strict=False)
        if all(pair)  # nothing readable is an empty row
    ]
    alike = [(a - b) * (y - x) > 0 for (a, b), (x, y) in both]
    return 2 * min(one, other) / tokens, mean(alike) if alike else 1.0


def _passes(model: ModelConfig, small: bool, on_cpu: bool) -> dict[str, Any]:
    """The seconds of `Speed` that are those of plain passes in fp32, as trainings are, and what a token keeps
    for its gradients and holds without them."""
    import torch

    from rlaif.engines.loading import load_causal_lm

    net = load_causal_lm(model.model, model.device, "float32").train()
    shape = net.config.get_text_config()
    rows, width = (32, 48) if small else (4, 48)
    ids = torch.randint(0, shape.vocab_size, (rows, width), device=net.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0)

    def learn() -> None:
        net(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize() if not on_cpu and torch.cuda.is_available() else None

    @torch.no_grad()
    def read(tokens: Any = ids) -> None:
        net(input_ids=tokens, logits_to_keep=1)
        torch.cuda.synchronize() if not on_cpu and torch.cuda.is_available() else None

    def best(work: Callable[[], None]) -> float:
        return min(timed(work, on_cpu)[1] for _ in range(2))

    learn()
    learning, reading = best(learn), best(read)
    few, many = (best(lambda n=n: read(ids.reshape(-1, 1)[:n])) for n in (FEW, MANY))
    row = max(0.0, (many - few) / (MANY - FEW))
    layers, hidden = shape.num_hidden_layers, shape.hidden_size
    activations = layers * (16 * hidden + 4 * shape.intermediate_size) + 4 * shape.vocab_size
    passing = 2 * layers * hidden + 8 * hidden + 2 * shape.intermediate_size
    return {
        "read": reading / ids.numel(),
        "learn": learning / ids.numel(),
        "step": max(0.0, few - FEW * row),
        "row": row,
        "activations": activations,
        "passing": passing,
    }

"""The config file: which models, which constitution, and the ordered, typed list of stages.

Each stage's options say what the stage needs and makes; a list whose stage needs something that nothing
before it makes is refused before anything runs. Unknown keys are errors. `-s stage.option=value` changes an
option.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rlaif.errors import UserError, nearest
from rlaif.extends import ASSETS, extended, load_extended, shipped, stages_named
from rlaif.extends import PACKAGE as PACKAGE
from rlaif.old_names import with_new_name, with_new_names
from rlaif.options import (
    STAGES,
    AnyStage,
    JudgeCardOptions,
    Options,
    PairOptions,
    SampleOptions,
    StageOptions,
)
from rlaif.options.base import FILE, GOLD, NO_EFFECT, BudgetOptions, PriceOptions
from rlaif.options.data import PromptSourceOptions
from rlaif.options.engines import ENGINES, EngineKind, EngineName
from rlaif.yamlfile import Lines, parse_scalar, validate_yaml

# A long name with small letters and digits in it is a key that somebody put where its variable's name
# belongs.
_VARIABLE = re.compile(r"(?!(?=.*[a-z])(?=.*\d)\w{20})[A-Za-z_]\w*")
# What a request is made of: an extra key must not change what is asked, of whom, or in how many pieces it
# arrives.
_OWN_KEYS = {"model", "messages", "stream", "n", "chat_template_kwargs"}


class ModelConfig(Options):
    """A model and the engine that runs it."""

    engine: EngineName = Field(
        default="transformers",
        description="what runs the model: transformers or vllm in this process, openai for servers, "
        "scripted for tests",
    )
    model: str = Field(description="a local folder, a GGUF file or a hub id; for scripted, module:function")
    fit: str | None = Field(
        default=None,
        description="of feedback: a folder that `rlaif judge fit` wrote; it corrects the model's verdicts "
        "on pairs",
        json_schema_extra=FILE,
    )
    base_url: str | tuple[str, ...] | None = Field(
        default=None,
        description="openai: the endpoint, e.g. http://localhost:8000/v1, or a list of them",
        json_schema_extra=NO_EFFECT,
    )
    served_as: str | None = Field(
        default=None, description="openai: the name its responses carry where that is not `model`"
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY",
        description="openai: environment variable that holds the key",
        json_schema_extra=NO_EFFECT,
    )
    concurrency: int = Field(
        default=32,
        ge=1,
        description="openai: requests in flight at each endpoint",
        json_schema_extra=NO_EFFECT,
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="passed to the chat template, here or by a server that takes it; e.g. "
        "{enable_thinking: false}",
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="openai: further keys of every request, e.g. {reasoning_effort: low}; no secrets",
    )
    patience: float = Field(
        default=120.0,
        gt=0,
        description="openai: seconds without any response before the run stops",
        json_schema_extra=NO_EFFECT,
    )
    device: str = Field(
        default="auto", description="auto, cpu, cuda, cuda:1, mps", json_schema_extra=NO_EFFECT
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="number format of the weights in memory; auto = bfloat16 for larger models on a GPU, and "
        "where they only answer on a CPU that is faster with it and gives the same verdicts; else float32",
    )
    batch_tokens: int = Field(
        default=16384,
        ge=64,
        description="transformers: tokens in one batch, padding included",
        json_schema_extra=NO_EFFECT,
    )
    gpu_memory: float = Field(
        default=0.85,
        gt=0,
        le=1,
        description="vllm: share of the GPU's memory for weights, keys and values",
        json_schema_extra=NO_EFFECT,
    )
    max_model_len: int | None = Field(
        default=None, ge=16, description="vllm: most tokens of a question; omitted = the model's context"
    )

    @property
    def kind(self) -> EngineKind:
        """What the engine is given and what it can do."""
        return ENGINES[self.engine]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """openai: the addresses, at least one."""
        urls = (self.base_url,) if isinstance(self.base_url, str) else self.base_url
        return urls or ("https://api.openai.com/v1",)

    @property
    def place(self) -> str:
        """The model and, where it is served, the addresses at which it is asked: for messages."""
        return f"{self.model} at {', '.join(self.endpoints)}" if self.kind.served else self.model

    @model_validator(mode="after")
    def _no_secrets(self) -> ModelConfig:
        for url in self.endpoints:
            parts = urlsplit(url)
            # Configs are copied into run folders, so an address has no place for a password or a token.
            if "@" in url or "?" in url or "#" in url:
                raise ValueError(
                    "base_url carries a password or a token; put the key into the environment variable "
                    "that api_key_env names"
                )
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError(f"base_url: {url} is no address such as http://localhost:8000/v1")
        if not _VARIABLE.fullmatch(self.api_key_env):
            raise ValueError("api_key_env is the name of an environment variable, not the key itself")
        if taken := sorted(_OWN_KEYS & self.extra_body.keys()):
            raise ValueError(f"extra_body: {taken[0]} is set by rlaif itself")
        return self


class Config(Options):
    """A whole run."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="name of the run, and of its folder below runs/",
        json_schema_extra=NO_EFFECT,
    )
    seed: int = Field(default=0, description="of all random numbers of the run")
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads; 1 = repeatable to the bit", json_schema_extra=NO_EFFECT
    )
    constitution: str = Field(json_schema_extra=FILE, description="the constitution file")
    prompts: PromptSourceOptions = Field(
        description="a file of prompts, or where they are and what of it is read"
    )
    heldout: float = Field(
        default=0.25, gt=0, lt=1, description="share of the prompts, by whole groups, kept for evaluation"
    )
    heldout_wordings: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the remaining prompts that have a group, kept to be evaluated apart",
    )
    templates: str = Field(default="default", description="a folder of prompts/templates")
    policy: ModelConfig
    feedback: ModelConfig
    judge_card: JudgeCardOptions | None = Field(
        default=None,
        description="thresholds without which label refuses the feedback model; omitted = no gate",
        json_schema_extra=NO_EFFECT,
    )
    gold: str | None = Field(
        default=None,
        description="module:function, a held-out truth where there is one",
        json_schema_extra=GOLD,
    )
    rounds: int = Field(default=1, ge=1, description="times the stage list is run, each from the last policy")
    cache: bool = Field(
        default=True,
        description="keep the feedback model's responses in runs/<name>/cache.sqlite",
        json_schema_extra=NO_EFFECT,
    )
    prices: dict[str, PriceOptions] = Field(
        default_factory=dict,
        description="what models cost, by the name that policy.model or feedback.model gives",
        json_schema_extra=NO_EFFECT,
    )
    budget: BudgetOptions | None = Field(
        default=None, description="caps at which the run stops", json_schema_extra=NO_EFFECT
    )
    stages: tuple[AnyStage, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, given: Any) -> Any:
        return with_new_names(given)  # also those of a run folder's config.json

    @model_validator(mode="after")
    def _fit_of_a_judge(self) -> Config:
        if self.policy.fit is not None:
            raise ValueError("policy.fit: a fit corrects a judge's verdicts: name it under feedback")
        return self

    @model_validator(mode="after")
    def _prices_fit(self) -> Config:
        models = [self.feedback.model, self.policy.model]
        for name in self.prices:
            if name not in models:
                raise ValueError(f'prices: no model "{name}" — {nearest(name, models)}')
        if self.budget and self.budget.money is not None and not self.prices:
            raise ValueError("a budget of money needs prices")
        return self

    @model_validator(mode="after")
    def _one_base(self) -> Config:
        later = [options.stage for _, options in self.expanded[1:] if options.makes_base]
        if later:
            raise ValueError(
                f"{later[0]} with an architecture makes the base policy from random weights: it can only be "
                "the first stage, of one round"
            )
        return self

    @property
    def expanded(self) -> list[tuple[int, StageOptions]]:
        """(round, options) of every stage that will run, in order."""
        return [(r, options) for r in range(1, self.rounds + 1) for options in self.stages]


def names_config(what: str | Path) -> bool:
    """Whether an argument names a config file; anything else is a model."""
    return Path(what).suffix in (".yaml", ".yml")


def find(path: str, base: Path | None = None) -> Path:
    """A file named in a config: beside the config, in the working directory, or among the shipped ones."""
    tried = [root / path for root in (base, Path.cwd()) if root is not None]
    for candidate in (*tried, shipped(path)):
        if candidate is not None and candidate.exists():
            return candidate.resolve()
    raise UserError(
        f"{path}: no such file.",
        "a path that exists, relative to the config, to the working directory "
        "or to the files shipped with rlaif",
        f"check the spelling; looked in {', '.join(str(t.parent) for t in (*tried, ASSETS / path))}",
    )


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """A config file with `-s` overrides applied and its stage order checked."""
    return _checked(*load_extended(path), path, overrides)


def config_of(data: Any, path: Path, overrides: Sequence[str] = ()) -> Config:
    """The same of a config given as plain data; `path` is where messages say that it stands, and what it
    extends is looked up beside."""
    return _checked(*extended(data, Lines(None, path), path), path, overrides)


def _checked(data: Any, lines: Lines, path: Path, overrides: Sequence[str]) -> Config:
    for override in overrides if isinstance(data, dict) else ():
        lines.options |= dict.fromkeys(apply_override(data, override), override)
    if isinstance(data, dict) and "principles" in data and "stages" not in data:
        raise UserError(
            f"{path}: a constitution, not a config.",
            "a config: a file with stages, policy, feedback, prompts and constitution",
            "rlaif init DIR writes one to edit",
        )
    config = validate_yaml(Config, data, lines, path)
    check_order(config, path, lines)
    return config


def overridden(config: Config, overrides: Sequence[str], path: Path) -> Config:
    """A config with `-s` overrides applied; `path` is where messages say that it stands."""
    # Without the defaults, which nobody asked for.
    return config_of(config.model_dump(mode="json", exclude_defaults=True), path, overrides)


def stage_number(config: Config, name: str, option: str) -> int:
    """The number of the stage that an option such as `--until` names: "label", or "sample[1]" where the name
    occurs twice, in the list or in later rounds.
    """
    plain, _, index = name.removesuffix("]").partition("[")
    places = [number for number, (_, own) in enumerate(config.expanded, 1) if own.stage == plain]
    if not places or (index and not (re.fullmatch("[0-9]{1,4}", index) and int(index) < len(places))):
        known = [stage_name(config, number) for number in range(1, len(config.expanded) + 1)]
        near = nearest(plain, [stage.stage for stage in config.stages])
        raise UserError(f"{option} {name}: no such stage — {near}", f"one of {', '.join(known)}")
    return places[int(index or 0)]


def stage_name(config: Config, number: int) -> str:
    """The name by which `stage_number` finds a stage."""
    return _numbered([options.stage for _, options in config.expanded], number - 1)


def option_name(config: Config, at: int) -> str:
    """The name by which `-s` finds the stage `at` that place of the config's list."""
    return _numbered([options.stage for options in config.stages], at)


def _numbered(names: Sequence[str], at: int) -> str:
    name = names[at]
    return name if names.count(name) == 1 else f"{name}[{names[:at].count(name)}]"


_REPLACED = (
    "; a list under stages: stands for all stages of the extended config, a mapping such as "
    "{ppo: {updates: 10}} changes some of them"
)


def check_order(config: Config, path: Path, lines: Lines) -> None:
    """Refuse a stage that needs what no earlier stage makes."""
    have = {"prompts", "policy"}
    k = 0
    for index, options in enumerate(config.stages):
        for need in options.required_artefacts:
            if need not in have:
                makers = sorted(name for name, kind in STAGES.items() if need in kind.makes)
                alone = isinstance(options, PairOptions) and options.imported and need == "responses"
                instead = "; or samples: false, for the imported pairs alone" if alone else ""
                raise UserError(
                    f'{lines.where(path, ("stages", index))}: stage "{options.stage}" needs {need}, which '
                    "no earlier stage makes.",
                    f"{' or '.join(makers)} before {options.stage}{instead}",
                    f"add it to the stages of {path}{_REPLACED if lines.origins else ''}",
                )
        have.update(options.makes)
        k = options.k if isinstance(options, SampleOptions) else k
        if isinstance(options, PairOptions) and options.only_samples and k == 1:
            raise UserError(
                f"{lines.where(path, ('stages', index))}: nothing to pair: the sample stage before makes "
                "1 response a prompt.",
                "two or more (sample: k), or pairs of revisions or imported ones",
                "-s sample.k=2",
            )


def override_texts(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Overrides as `-s` texts: {"ppo.updates": 10} → ["ppo.updates=10"]."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    try:
        return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    except TypeError as error:
        raise UserError(f"overrides: {error}.", 'plain values, as in {"ppo.updates": 10}') from None


def apply_override(data: Any, override: str) -> list[tuple[str | int, ...]]:
    """Change one key of a config's plain data: `seed=1`, `feedback.model=…`, `ppo.updates=10`,
    `ppo[1].updates=10`.

    Returns the places that were set.
    """
    key, eq, text = override.partition("=")
    if not eq:
        raise UserError(f'-s {override}: no "=".', "-s key=value, for example -s ppo.updates=10")
    (head, *rest), value = with_new_name(key.split("."), _value(text, override))
    listed = data.get("stages")
    stages = listed if isinstance(listed, list) else []
    if meant := stages_named(stages, head, f"-s {override}"):
        for at in meant:
            _set(stages[at], rest, value, override)
        return [("stages", at, *rest) for at in meant]
    if head in Config.model_fields:
        if head == "prompts" and rest and isinstance(data.get(head), str):
            data[head] = {"path": data[head]}
        _set(data, [head, *rest], value, override)
        return [(head, *rest)]
    known = sorted({str(s.get("stage")) for s in stages if isinstance(s, dict)}) + list(Config.model_fields)
    raise UserError(f'-s {override}: no stage or key "{head}" — {nearest(head, known)}')


def _value(text: str, override: str) -> Any:
    try:
        value = parse_scalar(text)
        if isinstance(value, str) and " #" in text and "#" not in value:
            raise UserError("cut off")  # at what YAML takes for a comment
        return value
    except UserError:
        raise UserError(
            f"-s {override}: the value cannot be read.", "a number, a word, or text in quotes"
        ) from None


def _set(node: Any, keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key] if isinstance(node, dict) else None
    if not isinstance(node, dict) or not keys:
        raise UserError(f"-s {override}: does not name an option.", "-s stage.option=value")
    node[keys[-1]] = value

"""Whether a config's models are there and respond: tokenizers and chat templates are loaded, and every
endpoint is asked one test question. `rlaif check` tells all of it; `rlaif run` asks the same before its first
stage.

A problem is what would stop the run; a warning is worth reading. A script is not asked, and the weights of a
model in this process are not loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaif.config import Config, ModelConfig
from rlaif.engines import GenerateRequest, ScoreRequest, open_engine
from rlaif.engines.endpoints import CONNECT, LOOK, NoResponse
from rlaif.errors import UserError
from rlaif.options import CritiqueOptions, LabelOptions, PpoOptions, PretrainOptions, StageOptions
from rlaif.options.base import marked
from rlaif.options.rewarded import OnlineOptions
from rlaif.options.sources import FolderSource
from rlaif.preflight.calibration import calibrated, critique_request
from rlaif.preflight.opening import RunSpec, downloaded, local_folder

PATIENCE = 20.0  # seconds that a server has to respond to a test question
CRITIQUES = 16  # that a server is asked for, to see how many are cut off
CUT = 0.1  # share of the critiques that may be cut off without a word
_QUESTION = "Which reply answers the question?"


@dataclass
class Readiness:
    """What was found, by model or endpoint; `errors` would stop the run."""

    found: dict[str, str] = field(default_factory=dict)
    errors: list[UserError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """The errors in words."""
        return [str(error) for error in self.errors]

    def add(self, name: str, error: UserError) -> None:
        """Note what stands in the way of the run, with the name of what has it."""
        self.errors.append(UserError(f"{name}: {error.found}", error.need, error.next))

    def require(self) -> None:
        """Raise one UserError where something would stop the run, each need and each next step said once."""
        if self.errors:
            needs = dict.fromkeys(error.need for error in self.errors if error.need)
            steps = dict.fromkeys(error.next for error in self.errors if error.next)
            raise UserError(
                "\n".join(error.found for error in self.errors),
                "; ".join(needs) or "models and servers that respond as the run will ask them",
                "; ".join([*steps, "`rlaif check CONFIG` asks again, --no-check starts without asking"]),
            )


def readiness(
    spec: RunSpec,
    stages: Sequence[StageOptions] | None = None,
    thorough: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Readiness:
    """What can be said of the models that the stages ask, all of the config's without `stages`.

    `thorough` also measures models in this process that have not been measured, and asks servers for some
    critiques.
    """
    stages = spec.config.stages if stages is None else stages
    result = Readiness()
    for role in asked_roles(spec.config, stages):
        model: ModelConfig = getattr(spec.config, role)
        if model.kind.served:
            for url in model.endpoints:
                one = model.model_copy(update={"base_url": url})
                _endpoint(result, spec, role, one, stages, thorough, tell)
        elif model.kind.folder:
            _folder(result, spec, role, model, stages)
        else:
            result.found[role] = f"{model.model}: a script"
    _stage_models(result, spec, stages)
    result.warnings += _beyond_context(spec.config, stages)
    if not result.errors:
        _critiques(result, spec, stages, thorough, tell)
    return result


def asked_roles(config: Config, stages: Sequence[StageOptions]) -> list[str]:
    """Which of policy and feedback the stages read, train or ask."""
    judging = ("critique", "label", "evaluate")
    feedback = any(
        (options.stage in judging and getattr(options, "ai", True))
        or any(source.kind.asks_judge for source in getattr(options, "rewards", ()))
        or getattr(options, "judge_watched_prompts", False)
        for options in stages
    )
    policy = any("policy" in options.required_artefacts for options in stages)
    return [role for role, used in (("policy", policy), ("feedback", feedback)) if used]


def _named_models(config: Config, stages: Sequence[StageOptions]) -> dict[str, str]:
    """Folders, files and hub ids of the models that the stages read, by what names them; each once."""
    roles = {role: getattr(config, role) for role in asked_roles(config, stages)}
    found = {role: model.model for role, model in roles.items() if model.kind.folder}
    for options in stages:
        own = {
            name: getattr(options, name)
            for name, field in type(options).model_fields.items()
            if marked(field, "path") == "model"
        }
        for number, reward in enumerate(getattr(options, "rewards", ())):
            own |= {f"rewards.{number}.source": reward.source} if reward.kind is FolderSource else {}
        for name, model in own.items():
            if model is not None and model not in found.values():
                found[f"{options.stage}.{name}"] = model
    return found


def missing_models(spec: RunSpec, stages: Sequence[StageOptions]) -> tuple[list[str], list[str]]:
    """(problems, warnings) of the models that the stages name, nothing fetched, converted or asked: folders
    whose tokenizer does not load, and hub ids that this machine has no files of."""
    from rlaif.engines.gguf import gguf_file
    from rlaif.engines.loading import load_tokenizer, model_folder

    problems, warnings = [], []
    for key, name in _named_models(spec.config, stages).items():
        folder = Path(name).expanduser()
        try:
            if folder.is_dir() and not gguf_file(name):
                alone = key == "policy" and _tokenizer_alone(stages)
                load_tokenizer(name, alone=alone)
                problems += _without_room(folder, stages) if key == "policy" and not alone else []
            elif folder.exists() and not gguf_file(name):
                model_folder(name)
            elif not folder.exists() and downloaded(name) is None:
                warnings.append(f"{key}: {name}: not on this machine; the hub is asked for it")
        except UserError as error:
            problems.append(f"{key}: {error}")
    return problems, [*warnings, *_beyond_context(spec.config, stages)]


def _tokenizer_alone(stages: Sequence[StageOptions]) -> bool:
    """Whether the policy's weights are not read: the first stage makes others of random ones."""
    return bool(stages) and stages[0].makes_base


def _stage_models(result: Readiness, spec: RunSpec, stages: Sequence[StageOptions]) -> None:
    """The models that stages name themselves, such as reward.model: their tokenizers load."""
    from rlaif.engines.loading import load_tokenizer, model_folder

    for key, name in _named_models(spec.config, stages).items():
        if key in ("policy", "feedback") or name in (spec.config.policy.model, spec.config.feedback.model):
            continue
        try:
            result.found[key] = f"{name}: tokenizer of {len(load_tokenizer(model_folder(name)))} tokens"
        except UserError as error:
            result.add(key, error)


def _folder(
    result: Readiness, spec: RunSpec, role: str, model: ModelConfig, stages: Sequence[StageOptions]
) -> None:
    """A model of this machine: its tokenizer reads the first prompts as its chat template renders them."""
    from rlaif.engines.loading import load_tokenizer, model_folder
    from rlaif.prompting.chat import TemplateRefused, encode_chat, has_chat_template

    alone = role == "policy" and _tokenizer_alone(stages)
    try:
        folder = model.model if alone else model_folder(model.model)
        tokenizer = load_tokenizer(folder, model.chat_template_kwargs, alone)
        refused = []
        for prompt in spec.prompts[:8]:
            try:
                encode_chat(tokenizer, prompt.chat)
            except TemplateRefused as no:
                refused.append(no.reason)
    except UserError as error:
        result.add(role, error)
        return
    tried = min(8, len(spec.prompts))
    if len(refused) == tried:
        refuses = UserError(f"{model.model}: its chat template refuses every prompt ({refused[0]})")
        result.add(role, refuses)
    elif refused:
        result.warnings.append(
            f"{role}: its chat template refuses {len(refused)} of {tried} prompts ({refused[0]})"
        )
    if role == "policy" and not alone:
        result.errors += map(UserError, _without_room(folder, stages))
    template = "its chat template" if has_chat_template(tokenizer) else "no chat template: plain turns"
    result.found[role] = f"{model.model}: tokenizer of {len(tokenizer)} tokens, {template}"


def _without_room(folder: str | Path, stages: Sequence[StageOptions]) -> list[str]:
    """The stages that ask too much of the policy's context: their responses alone fill it, or a block of text
    is longer."""
    from rlaif.engines.loading import context_length, load_model_config

    try:
        context = context_length(load_model_config(folder))
    except UserError:  # told where the weights are loaded
        return []
    found = [
        f"{options.stage}.max_tokens: responses of {options.max_tokens} tokens leave no room for a prompt in "
        f"the policy's context of {context}"
        for options in stages
        if isinstance(options, OnlineOptions) and options.max_tokens >= context
    ]
    blocks = [(o.stage, o.block_size) for o in stages if isinstance(o, PretrainOptions)]
    blocks += [(f"{o.stage}.ptx", o.ptx.block_size) for o in stages if isinstance(o, PpoOptions) and o.ptx]
    return found + [
        f"{name}.block_size: blocks of {size} tokens are more than the policy's context of {context}; at "
        f"most -s {name}.block_size={context}"
        for name, size in blocks
        if size > context
    ]


def _beyond_context(config: Config, stages: Sequence[StageOptions]) -> list[str]:
    """Of training stages, a max_length (not the default one) that is more than their model can read."""
    from rlaif.engines.loading import context_length, load_model_config

    found = []
    for options in stages:
        field, length = type(options).model_fields.get("max_length"), getattr(options, "max_length", 0)
        own = getattr(options, "model", None)
        if field is None or length == field.default or not (own or config.policy.kind.folder):
            continue
        name = own or config.policy.model
        folder = local_folder(name)
        try:
            context = context_length(load_model_config(folder)) if folder else length
        except UserError:  # told where the model is loaded
            continue
        if length > context:
            found.append(
                f"{options.stage}.max_length: {length} tokens, but the context of {name} is {context}: what "
                "is longer than that is dropped"
            )
    return found


def _endpoint(
    result: Readiness,
    spec: RunSpec,
    role: str,
    model: ModelConfig,
    stages: Sequence[StageOptions],
    thorough: bool,
    tell: Callable[[str], None],
) -> None:
    """One endpoint: a test question in the form of the run's own; with `thorough` also what it serves."""
    patience = min(model.patience, PATIENCE)
    patient = model.model_copy(update={"patience": patience, "concurrency": 1})
    name = f"{role} at {model.endpoints[0].partition('://')[2]}"
    most = patience + (CONNECT if thorough else 0)
    tell(f"{name}: a test question is asked; it has {most:.0f} s to respond")
    try:
        engine: Any = open_engine(patient)
        served = list(engine.health().values()) if thorough else []
        result.found[name] = served[0] if served else ""
        asked = _asked(engine, spec, role, stages, result, name)
        result.found[name] = "; ".join([*served, asked])
    except NoResponse as error:
        slow = f"where one response takes longer than {patience:g} s, start without asking: --no-check"
        result.add(role, UserError(error.found, error.need, f"{LOOK}; {slow}"))
        result.found[name] = result.found.get(name) or "does not respond"
    except UserError as error:
        result.add(role, error)
        own = f"{model.endpoints[0].partition('://')[2].rstrip('/')}: "
        result.found[name] = result.found.get(name) or error.found.removeprefix(own)


def _asked(
    engine: Any, spec: RunSpec, role: str, stages: Sequence[StageOptions], result: Readiness, name: str
) -> str:
    if role == "policy":
        ((_, made),) = engine.generate([GenerateRequest(spec.prompts[0].chat, max_tokens=8, temperature=0.0)])
        if made.why_empty:
            result.warnings.append(f"{name}: the test question: {made.why_empty}")
        return f"responds; {made.tokens} tokens"
    rule = spec.constitution.principles[0]
    shared = spec.templates.comparison([{"role": "user", "content": _QUESTION}], "This one.", "Not this one.")
    request = ScoreRequest(shared, (spec.templates.comparison_suffix(rule),), ("A", "B"))
    ((_, scores),) = engine.score_choices([request])
    if not scores.readable(0):
        result.warnings.append(f"{name}: the test question has no readable verdict; {' '.join(engine.notes)}")
        return "responds, without a readable verdict"
    mass = scores.answer_mass(0)
    if mass is not None:
        return f"responds with log-probabilities; {mass:.2f} of the probability is on A and B"
    _without_logprobs(result, spec.config, name, stages)
    return "responds without log-probabilities: verdicts are parsed from written text"


def _without_logprobs(result: Readiness, config: Config, name: str, stages: Sequence[StageOptions]) -> None:
    """Verdicts then are certain: soft labels, and the card's mass, ask for more."""
    soft = [options.stage for options in stages if isinstance(options, LabelOptions) and not options.cot]
    if soft:
        result.warnings.append(
            f"{name}: no log-probabilities: {soft[0]} will read verdicts from written text, each with the "
            "probability 0 or 1, which says nothing of how sure the judge is"
        )


def _critiques(
    result: Readiness,
    spec: RunSpec,
    stages: Sequence[StageOptions],
    thorough: bool,
    tell: Callable[[str], None],
) -> None:
    """Whether `max_tokens` cuts more than a tenth of the critiques of a probe."""
    limits = [o.max_tokens for o in stages if isinstance(o, CritiqueOptions) and o.critique]
    if not limits:
        return
    most, model = min(limits), spec.config.feedback
    share: float | None = None
    if model.kind.served and thorough:
        tell(f"the feedback model is asked for {min(CRITIQUES, len(spec.prompts))} critiques")
        share = _share_cut(spec, most)
    elif model.kind.folder and Path(model.model).is_dir():
        asked = spec.config, spec.constitution, spec.prompts, spec.templates
        speed = calibrated(*asked, thorough, tell).get("feedback")
        share = speed.too_long(most) if speed else None
    if share is not None and share > CUT:
        result.warnings.append(
            f"critique: max_tokens {most} cuts {share:.0%} of the critiques of a probe: a larger one "
            "(-s critique.max_tokens=…) lets them end"
        )


def _share_cut(spec: RunSpec, most: int) -> float | None:
    """Of some critiques by the server, how many `most` tokens cut; the prompt stands for the response."""
    some = spec.prompts[:CRITIQUES]
    requests = [
        GenerateRequest(
            critique_request(spec.templates, spec.constitution, p, p.messages[-1].content), most, seed=n
        )
        for n, p in enumerate(some)
    ]
    made = [text for _, text in open_engine(spec.config.feedback).generate(requests)]
    written = [text for text in made if not text.why_empty]
    return sum(text.tokens >= most for text in written) / len(written) if written else None

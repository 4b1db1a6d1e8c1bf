"""What `--judge`, `--policy` and `--prompts` name: a judge opened once for any number of constitutions, a
policy, prompts, and the pairs of responses on which a constitution is watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlaif.audit.card import JudgeSetting
from rlaif.audit.cases import from_examples, sampled
from rlaif.chat import ChatTarget
from rlaif.config import Config, ModelConfig, names_config
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.feedback.judging import FORMS, question_of
from rlaif.options import CritiqueOptions
from rlaif.options.data import DataSourceOptions
from rlaif.preflight.opening import audited
from rlaif.prompting.prompt_files import load_prompts
from rlaif.prompting.tables import read_table
from rlaif.records import Prompt
from rlaif.report.run_reader import model_references, require_consent
from rlaif.runs.folder import silent_progress
from rlaif.workbench.probe import ProbePair

SPARE = 1.25  # prompts asked for a pair that is wanted: two responses to one may be the same


@dataclass(frozen=True)
class Named:
    """What `--judge` names: its config, the folder that names in it are looked up beside, its prompts;
    `alone` where it is a model, whose config names nothing else."""

    config: Config
    base: Path
    prompts: list[Prompt]
    alone: bool = False

    @classmethod
    def of(cls, what: str, overrides: Sequence[str], constitution: Path, templates: str) -> Named:
        """A config file, or a model, which has no prompts of its own; raises UserError where it is
        neither."""
        return cls(*audited(what, list(overrides), constitution, templates), not names_config(what))

    def open(self, few_shot: int | None = None) -> JudgeSetting:
        """The judge as a run of the config would ask it, `few_shot` apart where that is given."""
        if self.config.threads:
            import torch

            torch.set_num_threads(self.config.threads)
        setting = JudgeSetting.of(self.config, self.base)
        return setting if few_shot is None else replace(setting, few_shot=few_shot)

    @property
    def critique(self) -> CritiqueOptions:
        """How the config's first critique stage asks the critic, the defaults where it has none."""
        found = next((o for o in self.config.stages if isinstance(o, CritiqueOptions)), None)
        return found or CritiqueOptions(stage="critique")

    @property
    def policy(self) -> ModelConfig | None:
        """The config's policy; a model that was named as the judge is none."""
        return None if self.alone else self.config.policy

    def with_prompts(self, file: Path | None) -> Named:
        """The same with the prompts of a file, where one is given."""
        return replace(self, prompts=load_prompts(file)) if file else self


def policy_named(name: str, trust: bool) -> ModelConfig:
    """The policy that RUN, RUN:POLICY or a model names; raises UserError where a run's config names functions
    or endpoints and `trust` is not given."""
    target = ChatTarget.of(name)
    asked = model_references(target.run.path, target.config) if target.run else []
    require_consent("asking this policy", asked, trust, "add --trust")
    return target.config


@dataclass(frozen=True)
class PairSource:
    """Which pairs are watched: those of the file, else of the policy's responses to prompts drawn by the
    seed, else of the constitution's examples; at most `number` of them."""

    file: Path | None = None
    policy: ModelConfig | None = None
    number: int = 40
    seed: int = 0

    @classmethod
    def of(
        cls, named: Named, file: Path | None, policy: ModelConfig | None, number: int, seed: int
    ) -> PairSource:
        """The source that a command names; raises UserError where prompts have no policy to respond to them,
        or a policy no prompts."""
        if file is None and bool(policy) != bool(named.prompts):
            has, lacks = (f"a policy, {policy.model},", "prompts") if policy else ("prompts", "policy")
            raise UserError(
                f"{has} and no {lacks}: the pairs to watch are a policy's responses to prompts.",
                "both of them (a config as --judge has both), or neither, for pairs of the constitution's "
                "examples",
                f"add {'--prompts FILE' if policy else '--policy RUN:POLICY'}, or --pairs FILE",
            )
        return cls(file, policy, number, seed)

    @property
    def in_words(self) -> str:
        """Whose responses the pairs are."""
        if self.file is not None:
            return f"those of {self.file}"
        return f"responses of {self.policy.model}" if self.policy else "the examples of the constitution"


def probe_pairs(
    named: Named, constitution: Constitution, source: PairSource, progress: Any = silent_progress
) -> tuple[list[ProbePair], Counter[str]]:
    """The pairs, and what made no pair, by reason; raises UserError where there is no pair at all."""
    left_out: Counter[str] = Counter()
    if source.file is not None:
        pairs = pairs_of(source.file, constitution)
    else:
        if source.policy is not None and named.prompts:
            config = named.config.model_copy(update={"policy": source.policy})
            wanted = round(source.number * SPARE)
            cases = sampled(
                config, constitution, named.prompts, wanted, source.seed, None, left_out, progress
            )
        else:
            cases = from_examples(constitution, source.seed)
        pairs = [ProbePair(c.question.prompt, c.question.a, c.question.b) for c in cases]
    if not pairs:
        raise UserError(
            "there is no pair of responses to watch.",
            "a policy and prompts (a config as --judge, or --policy and --prompts), pairs in a file "
            "(--pairs), or examples in the constitution",
        )
    return pairs[: source.number], left_out


def pairs_of(file: Path, constitution: Constitution) -> list[ProbePair]:
    """The pairs of a file: JSON, CSV or Parquet rows as `rlaif.judge` takes them; raises UserError, with the
    line, for what is none."""
    found = []
    for place, row in read_table(DataSourceOptions(path=str(file))):
        try:
            question = question_of(row, 0, constitution)
        except UserError as error:
            raise UserError(f"{place}: {error.found.partition(': ')[2]}", FORMS) from None
        found.append(ProbePair(question.prompt, question.a, question.b))
    return found

"""What a run folder holds, read without touching it: a running process may be appending to the same files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from rlaif.config import ModelConfig
from rlaif.errors import UserError, reason_of
from rlaif.records import Evaluation, HeldOut, Prompt, Record, Response
from rlaif.report.teachers import deciding
from rlaif.runs.folder import Run, Stage, chosen
from rlaif.runs.lookup import Lookup, json_rows
from rlaif.runs.rows import RowFile
from rlaif.runs.storage import is_sealed, read_json

R = TypeVar("R", bound=Record)
P = ParamSpec("P")
T = TypeVar("T")


def names_damage(make: Callable[P, T]) -> Callable[P, T]:
    """Decorator of functions whose first argument is one or several run paths: an error inside becomes a
    UserError that names the stages whose files have no digests, where there are such."""

    @wraps(make)
    def named(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return make(*args, **kwargs)
        except (UserError, OSError):
            raise
        except Exception as error:
            first: Any = args[0]
            paths = first if isinstance(first, list | tuple) else [first]
            files = [file for path in paths for file in (path / "manifest.json", *path.glob("*/stage.json"))]
            found = sorted(str(file) for file in files if file.is_file() and not is_sealed(file))
            if not found:
                raise
            raise UserError(
                f"{', '.join(found[:8])}: without checksum or digests, and what stands there or beside it is "
                f"not what rlaif writes ({reason_of(error)}).",
                "the files as they were written",
                "restore them from a copy",
            ) from error

    return named


def plain(value: Any) -> Any:
    """JSON-able copy: undefined numbers become None, tuples lists, floats keep six digits."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def untrusted_references(paths: Sequence[Path], judge_given: bool = False) -> list[str]:
    """What comparing runs would execute or send texts to because their configs say so, beside rlaif's own
    code.

    A run folder may come from another person: its config names functions that are imported and called, and
    the feedback model of the run whose judge decides is asked about all prompts and responses, with the key
    of a variable that it names; not where the user names a judge.
    """
    configs, found = [Run.load(path).config for path in paths], list[str]()
    for path, config in zip(paths, configs, strict=True):
        if config.gold and not config.gold.startswith("rlaif."):
            found.append(f"{path}: calls the gold scorer {config.gold}")
    if configs and not judge_given:
        asked = deciding(configs)
        found += model_references(paths[asked], configs[asked].feedback)
    return found


def model_references(path: Path, model: ModelConfig) -> list[str]:
    """What asking a model that a run's config names would execute, or send texts to."""
    if model.kind.runs_code:
        return [f"{path}: calls the {model.engine} engine {model.model}"]
    if not model.kind.served:
        return []
    key = model.api_key_env
    return [f"{path}: sends prompts and responses to {url} with the key in {key}" for url in model.endpoints]


def require_trust(paths: Sequence[Path], trust: bool, how: str, judge_given: bool = False) -> None:
    """Raise UserError where comparing reaches something (see `untrusted_references`) that nobody has allowed;
    `how` to allow it."""
    found = [] if trust else untrusted_references(paths, judge_given)
    require_consent("comparing these runs", found, trust, how)


def require_consent(doing: str, found: Sequence[str], trust: bool, how: str) -> None:
    """The same of what `doing` something reaches, as `found`."""
    if found and not trust:
        raise UserError(
            f"{doing} executes or reaches what their configs name:\n  " + "\n  ".join(found),
            "your consent: a run folder from another person can name any function and any address",
            f"look at the config.json of each run; if all of it is yours, {how}",
        )


class RunReader:
    """A run's rows and summaries; read when first asked for; texts stay on disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.run = path, Run.load(path)
        self.run.verify(small=True)
        self.stages = [stage for stage in self.run.stages if stage.summary]

    def last(self, name: str) -> Stage | None:
        """The latest begun stage of that name."""
        return next((stage for stage in reversed(self.stages) if stage.name == name), None)

    def every(self, name: str) -> list[Stage]:
        """The begun stages of that name, one a round or more, the first one first."""
        return [stage for stage in self.stages if stage.name == name]

    @cached_property
    def label_sources(self) -> Counter[str]:
        """How many labels each kind of annotator gave, of all label stages."""
        found = Counter[str]()
        for stage in self.every("label"):
            found.update(stage.summary.get("metrics", {}).get("sources") or {})
        return found

    def metrics(self, name: str) -> dict[str, Any]:
        """The metrics of the latest stage of that name, empty where there is none."""
        stage = self.last(name)
        return stage.summary.get("metrics", {}) if stage else {}

    def rows(self, stage: Stage | None, name: str, record: type[R]) -> list[R]:
        """A stage's rows, none where the stage or the file is missing."""
        return list(self.each(stage, name, record))

    def each(self, stage: Stage | None, name: str, record: type[R]) -> Iterator[R]:
        """The same one at a time, for what there may be very many of."""
        return iter(RowFile(stage.dir / f"{name}.jsonl", record) if stage else ())

    def lookup(self, stages: Sequence[Stage], name: str, record: type[R], key: str) -> Lookup[R]:
        """Some stages' rows by one of their fields."""
        return Lookup([stage.dir / f"{name}.jsonl" for stage in stages], record, key)

    def curve(self, stage: Stage | None) -> list[dict[str, Any]]:
        """A training stage's metrics.jsonl."""
        return list(json_rows(stage.dir / "metrics.jsonl")) if stage else []

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json, empty where it is missing."""
        path = self.path / "manifest.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def prompts(self) -> Lookup[Prompt]:
        """Every prompt by id, imported ones included."""
        files = [self.path / "prompts.jsonl", *(stage.dir / "prompts.jsonl" for stage in self.stages)]
        return Lookup(files, Prompt)

    @cached_property
    def responses(self) -> Lookup[Response]:
        """Every response of every stage by id."""
        return Lookup([stage.dir / "responses.jsonl" for stage in self.stages], Response)

    @property
    def response_models(self) -> list[str]:
        """Fingerprints of the models that wrote the responses."""
        rows = (row for stage in self.stages for row in self.each(stage, "responses", Response))
        return sorted({row.model for row in rows if row.model})

    @cached_property
    def evaluations(self) -> dict[str, dict[str, Evaluation]]:
        """policy → prompt id → evaluation on held-out groups, of the last evaluate stage, oldest policy
        first."""
        return self._evaluated("heldout")

    @cached_property
    def wordings(self) -> dict[str, dict[str, Evaluation]]:
        """The same on held-out wordings of what is asked in training, empty where the config holds none
        out."""
        return self._evaluated("wordings")

    def _evaluated(self, split: HeldOut) -> dict[str, dict[str, Evaluation]]:
        stage = self.last("evaluate")
        found: dict[str, dict[str, Evaluation]] = {name: {} for name in stage.policies()} if stage else {}
        for line, row in enumerate(self.each(stage, "evaluation", Evaluation), 1):
            if stage and row.split == split:
                self._require_own(f"{stage.dir / 'evaluation.jsonl'}:{line}", row, list(found))
                if found[row.policy].setdefault(row.prompt_id, row) != row:
                    raise UserError(
                        f"{stage.dir / 'evaluation.jsonl'}: two rows of {row.policy} on the prompt "
                        f"{row.prompt_id} that say different things.",
                        "one row for each policy and prompt",
                        "restore the file from a copy",
                    )
        return {name: rows for name, rows in found.items() if rows}

    def _require_own(self, where: str, row: Evaluation, policies: Sequence[str]) -> None:
        """UserError for an evaluation of a policy, a prompt or a response that the run does not have."""
        of = {
            "policy": (row.policy, row.policy in policies, f"one of {', '.join(policies)}"),
            "prompt": (row.prompt_id, row.prompt_id in self.prompts, "a prompt of the run"),
            "response": (row.response_id, row.response_id in self.responses, "a response of the run"),
        }
        for what, (name, known, need) in of.items():
            if not known:
                raise UserError(
                    f'{where}: a row of the {what} "{name}", which the run does not have.',
                    need,
                    "remove the line, or restore the file from a copy",
                )

    @cached_property
    def best_of_n_policies(self) -> set[str]:
        """The evaluated policies that are another one's chosen responses."""
        stage = self.last("evaluate")
        return {name for name, made in stage.policies().items() if chosen(made)} if stage else set()

    @cached_property
    def clusters(self) -> dict[str, str]:
        """prompt id → cluster of the evaluated prompts: what intervals take as independent."""
        tables = (*self.evaluations.values(), *self.wordings.values())
        asked = dict.fromkeys(prompt for rows in tables for prompt in rows)
        return {prompt: self.prompts[prompt].cluster for prompt in asked if prompt in self.prompts}

    @property
    def final_policy(self) -> str | None:
        """The name of the last evaluated policy."""
        return next(reversed(self.evaluations), None)

    @property
    def unfinished(self) -> Stage | None:
        """The first stage that is not done."""
        return next((stage for stage in self.run.stages if not stage.is_done), None)

"""The run folder: append-only rows keyed by id, one numbered folder a stage, a manifest that says what this
was.

    runs/<name>/  config.yaml (as given)  config.json (resolved)  constitution.json  templates.json
    prompts.jsonl
                  manifest.json  cache.sqlite  spending.jsonl  01_sample/ … {stage.json, *.jsonl, model
                  folders}  report.html

A row is written once, whole, and flushed; a line cut short by a killed process is removed when the file is
opened again. So running the same command again continues with the rows that are missing.
"""

from __future__ import annotations

import copy
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar, get_args

from pydantic import ValidationError

from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.options.base import StageOptions
from rlaif.prompting.templates import Templates
from rlaif.records import (
    ROWS,
    HeldOut,
    Prompt,
    Record,
    Response,
    content_hash,
)
from rlaif.runs.rows import Rows, first_by_id, named_rows, scalar_types
from rlaif.runs.seeds import derive_seed
from rlaif.runs.spending import Account, Ledger
from rlaif.runs.storage import MANIFEST, SUMMARY, damage_of, read_json, sync_and_digest, unshare, write_json

R = TypeVar("R", bound=Record)
O_co = TypeVar("O_co", bound=StageOptions, covariant=True)
HELDOUT: tuple[HeldOut, ...] = get_args(HeldOut)
Split = Literal["train"] | HeldOut
MADE = ("*.jsonl", "*.safetensors", "*.pt")  # rows and weights
CURVES = ("metrics.jsonl", "samples.jsonl")  # of a training: without a checkpoint it is begun anew
UNSEALED = ("stage.json", "checkpoints")  # of a stage's folder: written later, or of no use once it is done


class Stage(Generic[O_co]):
    """One stage of a run: its options, its folder, what earlier stages left it, and its summary."""

    def __init__(self, run: Run, number: int, round: int, options: O_co) -> None:
        self.run, self.number, self.round = run, number, round
        self.options: O_co = options
        self.name: str = options.stage
        self.dir = run.path / f"{number:02d}_{self.name}"
        self.dropped: Counter[str] = Counter()
        self.metrics: dict[str, Any] = {}
        self.notes: list[str] = []
        self.example: dict[str, str] | None = None
        self.parts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        made = self.summary
        counts = f", {made['kept']} of {made['in']} kept" if "in" in made else ""
        return f"Stage({self.dir.name}: {made.get('status', 'not begun')}{counts})"

    @property
    def config(self) -> Config:
        """The run's config."""
        return self.run.config

    @property
    def constitution(self) -> Constitution:
        """The run's constitution."""
        return self.run.constitution

    @property
    def seed(self) -> int:
        """A seed of this stage's own, the same in every continuation."""
        return derive_seed(self.config.seed, self.number, self.name, *self.parts)

    def part(self, name: str) -> Self:
        """The stage as one of several trainings within it: with a folder and a seed of its own."""
        twin = copy.copy(self)
        twin.dir, twin.parts = self.dir / name, (*self.parts, name)
        twin.dir.mkdir(exist_ok=True)
        return twin

    @property
    def summary(self) -> dict[str, Any]:
        """The stage's stage.json, empty where it has not begun."""
        path = self.dir / "stage.json"
        fix = (
            f"restore it from a copy, or remove it: {self.dir.name} is then gone through again and "
            "keeps its rows"
        )
        return read_json(path, fix, SUMMARY) if path.exists() else {}

    @property
    def is_done(self) -> bool:
        """Whether the stage has finished."""
        return self.summary.get("status") == "done"

    @property
    def has_begun(self) -> bool:
        """Whether the stage has made something that it would go on from; what a start leaves that failed
        before a row, or before a training's first checkpoint, does not count."""
        status = self.summary.get("status")
        left = (path for kind in MADE for path in self.dir.rglob(kind) if path.name not in CURVES)
        return status == "done" or (status is not None and any(path.stat().st_size for path in left))

    def rows(self, name: str, record: type[R]) -> Rows[R]:
        """The stage's own rows, e.g. `rows("labels", Label)`."""
        return Rows(self.dir / f"{name}.jsonl", record)

    def input(self, artefact: str) -> Path:
        """Where the latest earlier stage left an artefact (`policy` and `reward_model`: a folder; rows: a
        file)."""
        for stage in reversed(self.run.stages[: self.number - 1]):
            if artefact in stage.options.makes:
                is_folder = artefact in ("policy", "reward_model")
                return stage.dir / (artefact if is_folder else f"{artefact}.jsonl")
        if artefact == "policy":
            return Path(self.config.policy.model)
        raise UserError(f"{self.dir.name}: no earlier stage makes {artefact}.", "a stage that makes it")

    def load(self, artefact: str, record: type[R]) -> list[R]:
        """All rows of an artefact made by the latest earlier stage that makes it."""
        return list(Rows(self.input(artefact), record))

    def files(self, name: str) -> list[Path]:
        """Where rows of a kind may stand in the run so far, the run's own prompts included."""
        return [
            folder / f"{name}.jsonl"
            for folder in (self.run.path, *(s.dir for s in self.run.stages[: self.number]))
        ]

    def responses(self) -> dict[str, Response]:
        """Every response of the run so far by id: samples, revised texts and imported ones."""
        return first_by_id(self.files("responses"), Response)

    def prompts_by_id(self) -> dict[str, Prompt]:
        """Every prompt of the run by id, imported ones included."""
        return first_by_id(self.files("prompts"), Prompt)

    @property
    def templates(self) -> Templates:
        """The run's prompt templates."""
        return self.run.templates

    def policies(self) -> dict[str, Path]:
        """Every policy so far, oldest first: base, then one for each stage that trained it."""
        return policies_of(self.run, self.run.stages[: self.number - 1])

    def shuffled(self, rows: list[Any], purpose: str) -> list[Any]:
        """The rows in an order fixed by the stage's seed."""
        return random.Random(derive_seed(self.seed, purpose)).sample(rows, len(rows))

    def progress(self, total: int, what: str = "", done: int = 0) -> Any:
        """A progress bar on stderr: `with stage.progress(n) as tick: tick(1)`, or `tick(1, "loss 0.5")`."""
        return self.run.progress(f"{self.dir.name} {what}".strip(), total, done)

    def note_example(self, shown: str, answer: str) -> None:
        """Keep one question and answer of the stage, so that a reader sees what it did."""
        self.example = {"shown": shown, "answer": answer}

    @cached_property
    def account(self) -> Account:
        """Where the stage's engines are counted and what they note is kept: give it to `open_engine`."""
        return Account(self.run.ledger, self.dir.name)

    def save(self, status: str, **numbers: Any) -> None:
        """Write stage.json: status, counts, reasons for every dropped row, seconds, metrics."""
        before = self.summary
        seconds = before.get("seconds", 0.0) + time.monotonic() - self.started
        self.started = time.monotonic()
        write_json(
            self.dir / "stage.json",
            {
                "name": self.name,
                "number": self.number,
                "round": self.round,
                "status": status,
                **{key: before[key] for key in ("in", "kept", "rule") if key in before},
                **numbers,
                "example": self.example or before.get("example"),
                "usage": self.run.ledger.figures(self.dir.name),
                "dropped": dict(self.dropped),
                "seconds": round(seconds, 3),
                "metrics": self.metrics,
                "notes": [*self.notes, *(note for note in self.account.notes if note not in self.notes)],
            },
        )

    def begin(self) -> None:
        """Mark the stage as running; files that a fork shares become its own, as rows are appended in
        place."""
        self.dir.mkdir(exist_ok=True)
        unshare(self.dir)
        self.started = time.monotonic()
        self.save("running")

    def finish(self) -> None:
        """Mark the stage as done, once its files are on disk; stage.json then holds their digests."""
        self.save("done", files=sync_and_digest(self.dir, UNSEALED))


class Run:
    """A run folder, opened to continue it or to read it."""

    def __init__(self, path: Path, config: Config, constitution: Constitution) -> None:
        self.path, self.config, self.constitution = path, config, constitution
        self.stages = [Stage(self, n, r, o) for n, (r, o) in enumerate(config.expanded, 1)]
        self.progress: Any = silent_progress
        self.ledger = Ledger(path / "spending.jsonl", config)
        self.tell: Callable[[str], None] = lambda line: None

    def __repr__(self) -> str:
        done = sum(stage.is_done for stage in self.stages)
        return f"Run({self.path}: {done} of {len(self.stages)} stages done)"

    @property
    def cache(self) -> Path | None:
        """The response cache, None where the config switches it off."""
        return self.path / "cache.sqlite" if self.config.cache else None

    @property
    def asked(self) -> Path:
        """Labels on the run's pairs that were asked for after it, to see what an edited constitution does."""
        return self.path / "asked" / "labels.jsonl"

    @property
    def base(self) -> Path:
        """The folder paths of the config are relative to."""
        return Path(self.manifest["config_folder"])

    @property
    def templates(self) -> Templates:
        """The prompt templates that the run keeps; of an earlier version's run those that its config
        names."""
        kept = self.path / "templates.json"
        name = self.config.templates
        return Templates.of(name, read_json(kept), kept) if kept.exists() else Templates.load(name, self.base)

    @property
    def id(self) -> str:
        """What the run goes by, whatever its folder is called."""
        made = self.manifest
        # Runs of early versions have none: the moment and the folder of their config stand in for it.
        return made.get("id") or content_hash([made.get("created"), made["config_folder"]])

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json."""
        return read_json(self.path / "manifest.json", shape=MANIFEST)

    def prompts(self, split: Split) -> list[Prompt]:
        """Prompts of one split in file order."""
        rows = Rows(self.path / "prompts.jsonl", Prompt)
        return [p for p in rows if split_of(p, self.config) == split]

    def evaluated(self, limit: int | None = None) -> list[Prompt]:
        """The prompts that policies are evaluated on: of each held-out split the first `limit` by id."""
        splits = [sorted(self.prompts(split), key=lambda p: p.id)[:limit] for split in HELDOUT]
        return [prompt for split in splits for prompt in split]

    def verify(self, small: bool = False) -> None:
        """Raises UserError where the files of a finished stage, or the prompts, are no longer what was
        written.

        Without digests, as in an earlier version's run, rows are believed where there are any; `small` leaves
        out large files (weights).
        """
        made = self.manifest if (self.path / "manifest.json").exists() else {}
        found = damage_of(self.path, made, small)
        fix = "restore it from a copy, or start anew in another folder"
        for stage in self.stages:
            if not found and (summary := stage.summary).get("status") == "done":
                found = damage_of(stage.dir, summary, small)
                fix = (
                    f"restore what is named, or remove {stage.dir.name} and every later stage's folder: "
                    "the same command makes them again"
                )
        if found:
            raise UserError("\n".join(found[:8]), "the files of a finished stage as it left them", fix)

    @property
    def policies(self) -> dict[str, Path]:
        """Model folders of the policies that the run has made so far, by name, "base" first."""
        given = self.config.policy.model
        made = policies_of(self, self.stages)
        return {name: path for name, path in made.items() if path.is_dir() or str(path) == given}

    def dataset(self, name: str) -> Any:
        """All rows of a kind ("labels", "preferences", "evaluation", …) as a `datasets.Dataset`, with their
        stage.

        Its columns are the record's and all rows'; what a row lacks is None. A column of None alone has its
        field's type. Probabilities (`p_a`) are from 0 to 1, `seconds` in seconds; docs/data.md says what each
        column is. UserError names the kinds there are where there are no such rows.
        """
        from datasets import Dataset, List, Value

        files = [(stage.dir.name, stage.dir / f"{name}.jsonl") for stage in self.stages]
        rows = [{"stage": stage, **row} for stage, file in files for row in named_rows(file)]
        if not rows:
            made = sorted({path.stem for path in self.path.glob("*/*.jsonl")})
            raise UserError(f'{self.path}: no rows named "{name}".', f"one of {', '.join(made)}")
        types = scalar_types(ROWS[name]) if name in ROWS else {}
        columns = dict.fromkeys(["stage", *types, *(key for row in rows for key in row)])
        table = Dataset.from_dict({key: [row.get(key) for row in rows] for key in columns})
        for key, (kind, several) in types.items():
            if all(row.get(key) is None for row in rows):
                table = table.cast_column(key, List(Value(kind)) if several else Value(kind))
        return table

    def preferences(self) -> Any:
        """The preferences of all label stages with their texts, as a `datasets.Dataset` that trl trains on.

        Columns: `prompt`, `chosen` and `rejected` (lists of messages), `p_chosen` (the probability that the
        chosen one is better, at least ½), `deciding_principle`, `sources`, `weight`, `comparison_id`,
        `stage`. Where neither is better, the first response of the comparison is `chosen`. UserError names
        the line of a preference whose texts the run does not have.
        """
        from rlaif.runs.preferred import preference_table

        return preference_table(self)

    @classmethod
    def load(cls, path: Path) -> Run:
        """An existing run; raises UserError where the folder is none."""
        found: list[Any] = []
        for name, kind in (("config.json", Config), ("constitution.json", Constitution)):
            try:
                found.append(kind.model_validate(read_json(path / name)))
            except (FileNotFoundError, NotADirectoryError):
                raise UserError(
                    f"{path}: not a run folder ({name} is missing).",
                    "a folder made by `rlaif run`",
                    "rlaif run CONFIG --out DIR",
                ) from None
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise UserError(
                    f"{path / name}: {where}: {first['msg']}.",
                    "the file as it was written",
                    "restore it from a copy, or start anew in another folder",
                ) from None
        return cls(path, *found)


def label_files(path: Path) -> list[Path]:
    """The label files of a run that another may take labels from; raises UserError where there are none."""
    run = Run.load(path)
    run.verify(small=True)
    files = stored_labels(run, [stage for stage in run.stages if "labels" in stage.options.makes])
    if not any(file.exists() for file in files):
        raise UserError(f"labels_from: {path} holds no labels.", "a run whose label stage has begun")
    return files


def stored_labels(run: Run, stages: list[Stage]) -> list[Path]:
    """The files of all labels that a run keeps: those that the stages used or set aside, and those that were
    asked for since."""
    files = [stage.dir / name for stage in stages for name in ("labels.jsonl", "earlier_labels.jsonl")]
    return files + ([run.asked] if run.asked.exists() else [])


def policies_of(run: Run, stages: list[Stage]) -> dict[str, Path]:
    """Folders of "base" and of the policies that these stages train; the last round's carry the stage's plain
    name.

    Base is the model that the config names, or what the run has pretrained from random weights. A stage that
    only chooses responses stands here with the file of those.
    """
    found = {"base": Path(run.config.policy.model)}
    for stage in stages:
        if stage.options.makes_base:
            found["base"] = stage.dir / "policy"
            continue
        made = {"policy": "policy", "best": "best.jsonl"}
        for artefact in made.keys() & set(stage.options.makes):
            name = stage.name if stage.round == run.config.rounds else f"{stage.name}@{stage.round}"
            twins = [s for s in run.stages if s.name == stage.name and s.round == stage.round]
            found[name if len(twins) == 1 else f"{name}[{twins.index(stage)}]"] = stage.dir / made[artefact]
    return found


def chosen(made: Path) -> bool:
    """Whether `policies_of` gives a file of chosen responses and not a model's folder."""
    return made.suffix == ".jsonl"


def is_heldout(cluster: str, share: float) -> bool:
    """Whether the prompts of a cluster are held out: decided by its name alone, so that runs of any seed can
    be compared on them.
    """
    return derive_seed("heldout", cluster) / 2**31 < share


def split_of(prompt: Prompt, config: Config) -> Split:
    """The split a prompt is in: its group decides first, then, where the group is trained on, the prompt
    alone."""
    if is_heldout(prompt.cluster, config.heldout):
        return "heldout"
    return "wordings" if prompt.group and is_heldout(prompt.id, config.heldout_wordings) else "train"


class silent_progress:
    """Progress that shows nothing."""

    def __init__(self, what: str, total: int | None, done: int = 0) -> None:
        pass

    def __enter__(self) -> Any:
        return lambda n=1, note="": None

    def __exit__(self, *_: object) -> None:
        pass

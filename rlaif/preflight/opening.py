"""What a run is to be: a config with its paths looked up, and what the files that it names hold."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.config import ASSETS, Config, ModelConfig, config_of, load_config, names_config, overridden
from rlaif.config import find as look_up
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.extends import as_text, yaml_text
from rlaif.options.sources import source_kind
from rlaif.plugin import find_function, named_functions
from rlaif.prompting.prompt_files import load_prompts, read_prompts
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt
from rlaif.runs.folder import Run, label_files
from rlaif.runs.rows import Rows
from rlaif.runs.storage import fingerprint

NO_CONFIG = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt")  # of files of prompts
NO_INPUT = re.compile(r"^constitution$|^templates$|\.labels_from$|\.served_as$")


@dataclass(frozen=True)
class RunSpec:
    """A resolved config, what its files hold, and the command that makes a run of it."""

    config: Config
    folder: Path  # that names in the config are looked up beside
    text: str  # the config as it was given
    command: str  # that makes it, typed beside the config
    constitution: Constitution
    templates: Templates
    inputs: dict[str, str]  # fingerprints of its files and folders
    words: str  # what stands behind `rlaif run` to ask for it again
    prompts: list[Prompt]
    prompt_rows: dict[str, Any]  # how many rows they were made of, and why others were left out

    @classmethod
    def of_config(cls, path: Path, overrides: Sequence[str] = ()) -> RunSpec:
        """What a config file and `-s` texts ask for."""
        _refuse_other_file(path)
        config = resolve(load_config(path, list(overrides)), path.parent)
        given = read_prompts(config.prompts)
        return cls(
            config,
            path.parent,
            as_text(path),
            f"rlaif run {shlex.quote(path.name)}{options_text(overrides)}",
            Constitution.load(Path(config.constitution)),
            Templates.load(config.templates, path.parent),
            inputs(config),
            f"{shown(path)}{options_text(overrides)}",
            given.prompts,
            given.counts,
        )

    @classmethod
    def of_mapping(cls, data: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunSpec:
        """What a config's content asks for; functions in it become `module:function`, and names are looked
        up in the working directory."""
        plain, here = named_functions(data), Path.cwd()
        text = f"# as it was given to rlaif.run\n{yaml_text(plain)}"
        config = resolve(config_of(plain, Path("config"), list(overrides)), here)
        given = read_prompts(config.prompts)
        return cls(
            config,
            here,
            text,
            f"rlaif run config.yaml{options_text(overrides)}",
            Constitution.load(Path(config.constitution)),
            Templates.load(config.templates, here),
            inputs(config),
            options_text(overrides).strip(),
            given.prompts,
            given.counts,
        )

    @classmethod
    def of_run(cls, run: Run, overrides: Sequence[str] = ()) -> RunSpec:
        """What a run folder holds, changed by `-s` texts; only files that these name are read anew."""
        values = [value for value in flatten(run.config.model_dump()).values() if isinstance(value, str)]
        known = {value for value in values if os.path.isabs(value) or ":" in value}
        config = resolve(overridden(run.config, overrides, run.path / "config.json"), run.base, known)
        named = {override.partition("=")[0].partition(".")[0] for override in overrides}
        read = inputs(config)
        if "prompts" in named:
            given = read_prompts(config.prompts)
            prompts, rows = given.prompts, given.counts
        else:
            prompts = list(Rows(run.path / "prompts.jsonl", Prompt))
            rows, then = (run.manifest.get(key, {}) for key in ("prompt_rows", "inputs"))
            read |= {key: value for key, value in then.items() if key.partition(".")[0] == "prompts"}
        return cls(
            config,
            run.base,
            _as_given(run.path / "config.yaml"),
            f"{run.manifest.get('command', 'rlaif run CONFIG')}{options_text(overrides)}",
            Constitution.load(Path(config.constitution)) if "constitution" in named else run.constitution,
            Templates.load(config.templates, run.base) if "templates" in named else run.templates,
            read,
            options_text(overrides).strip(),
            prompts,
            rows,
        )


def _as_given(path: Path) -> str:
    """The config of a run folder as it was given; UserError where it is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown(path)}: no UTF-8 text ({error.reason} at byte {error.start}).",
            "the file as rlaif wrote it",
            "restore it from a copy; config.json beside it has the same options",
        ) from None


def _refuse_other_file(path: Path) -> None:
    """UserError for an empty file, and for one of prompts, where a config is to stand."""
    if path.suffix.lower() in NO_CONFIG:
        raise UserError(
            f"{shown(path)}: by its name a file of prompts.",
            "a config, which names the prompts",
            f"rlaif init --prompts {shown(path)} writes one",
        )
    if path.is_file() and not path.read_bytes().strip():
        raise UserError(
            f"{shown(path)}: an empty file, as rlaif init of an earlier version left when interrupted.",
            "a config",
            f"rlaif init {shown(path.parent)} writes it anew",
        )


def shown(path: Path) -> str:
    """A path as it is typed: below the working directory without that."""
    inside = path.is_relative_to(Path.cwd())
    return shlex.quote(str(path.relative_to(Path.cwd()) if inside else path))


def options_text(overrides: Sequence[str]) -> str:
    """`-s` options as they are typed."""
    return "".join(f" -s {shlex.quote(override)}" for override in overrides)


def resolve(config: Config, base: Path, known: Collection[str] = ()) -> Config:
    """The config with every path made absolute, so that the run can be continued from anywhere.

    `known` paths were looked up before and stay as they are, whether or not there still is such a file.
    """

    def find(name: str, base: Path) -> Path:
        return Path(name) if name in known else look_up(name, base)

    def model(name: str) -> str:
        looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        try:
            return str(find(name, base))
        except UserError:
            if looks_like_path:
                raise
            return name

    def served(role: Any) -> Any:
        placed = role.with_paths({"file": file})
        return placed.model_copy(update={"model": model(role.model)}) if role.kind.folder else placed

    def file(path: str) -> str:
        return str(find(path, base))

    def later(path: str) -> str:
        try:
            return file(path)
        except UserError:  # beside the config, but not among the files that come with rlaif
            return str((Path.cwd() if base.is_relative_to(ASSETS) else base) / path)

    def run(path: str) -> str:
        if path not in known:
            label_files(Path(file(path)))
        return file(path)

    def reward(source: str) -> str:
        if source in known:
            return source
        return source_kind(source).resolved(source, model, function_of("rewards"))

    def function_of(role: str) -> Callable[[str], str]:
        return lambda spec: spec if spec in known else find_function(spec, role, (base, Path.cwd()))

    look_up_by_kind = {"file": file, "later": later, "run": run, "model": model, "reward": reward}
    look_up_by_kind |= {role: function_of(role) for role in ("gold", "annotator")}
    now = {role.model: served(role).model for role in (config.policy, config.feedback)}
    changes = {
        "prices": {now[name]: price for name, price in config.prices.items()},
        "policy": served(config.policy),
        "feedback": served(config.feedback),
    }
    return config.with_paths(look_up_by_kind).model_copy(update=changes)


def audited(
    what: str, overrides: Sequence[str], constitution: Path | None, templates: str
) -> tuple[Config, Path, list[Prompt]]:
    """(config, its folder, prompts) of what a command names as MODEL|CONFIG; a model has no prompts."""
    config, base = config_or_model(what, overrides, constitution, templates)
    return config, base, load_prompts(config.prompts) if names_config(what) else []


def config_or_model(
    what: str, overrides: Sequence[str], constitution: Path | None, templates: str
) -> tuple[Config, Path]:
    """(config, its folder) of what a command names as MODEL|CONFIG, with `-s` overrides.

    Of a model it is a config with nothing but that model and the constitution, which then must be named.
    """
    if names_config(what):
        path = look_up(what)
        return resolve(load_config(path, overrides), path.parent), path.parent
    if constitution is None:
        raise UserError(
            f"{what}: a model, but no constitution to judge by.",
            "a config, or a model and --constitution",
            f"rlaif judge audit {shlex.quote(what)} --constitution constitutions/general.yaml",
        )
    model = {"model": what}
    config = Config.model_validate(
        {
            "name": "audit",
            "constitution": str(look_up(str(constitution))),
            "prompts": "none",
            "templates": templates,
            "policy": model,
            "feedback": model,
            "stages": [{"stage": "sample"}],
        }
    )
    return overridden(config, overrides, Path(what)) if overrides else config, Path.cwd()


def feedback_of(what: str) -> ModelConfig:
    """The model that a command names: a config's feedback model, or a folder, a GGUF file or a hub id."""
    if names_config(what):
        path = look_up(what)
        return resolve(load_config(path), path.parent).feedback
    return ModelConfig(model=what)


def inputs(config: Config) -> dict[str, str]:
    """Fingerprints of the files and folders that a resolved config names, by its keys.

    Constitution and templates are kept in the run itself, and a run that labels are taken from may go on
    meanwhile. A hub id counts once its files are on this machine.
    """
    found: dict[str, str] = {}
    for key, value in flatten(config.model_dump(mode="json")).items():
        if (
            isinstance(value, str)
            and os.path.isabs(value)
            and not NO_INPUT.search(key)
            and Path(value).exists()
        ):
            found[key] = fingerprint(Path(value))
    for name, role in (("policy", config.policy), ("feedback", config.feedback)):
        key = f"{name}.model"
        if not role.kind.folder:
            found.pop(key, None)
        elif key not in found and (folder := downloaded(role.model)):
            found[key] = fingerprint(folder)
    return found


def downloaded(name: str) -> Path | None:
    """Where this machine keeps a hub id's files, None where it has none."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, local_files_only=True))
    except Exception:  # missing, or no hub id: opening the model reports it
        return None


def local_folder(name: str) -> Path | None:
    """The folder of a model that lies on this machine: one named as such, a hub id's files, what a GGUF file
    was converted into. None where it would have to be downloaded or converted first."""
    from rlaif.engines.gguf import gguf_file, to_convert
    from rlaif.engines.loading import model_folder

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    try:
        if gguf_file(name):
            return None if to_convert(name) else model_folder(name)
    except UserError:  # of a file that is no model: opening it reports it
        return None
    return downloaded(name)


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as one level of dotted keys."""
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, (list, tuple))
        else None
    )
    if items is None:
        return {prefix: data}
    return {
        k: v
        for key, value in items
        for k, v in flatten(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }

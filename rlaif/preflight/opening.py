"""Opening a run folder: a new one, or the one the same command left; never somebody else's."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlaif.config import Config, find, load_config
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.extends import as_text
from rlaif.feedback.gold import load_gold
from rlaif.options.sources import source_kind
from rlaif.preflight.provenance import endpoints, manifest
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt
from rlaif.runs.folder import Run, label_files
from rlaif.runs.rows import Rows, numbered_rows
from rlaif.runs.storage import fingerprint, put, read_json, seal, write_json

# What no row hangs on: a run may go on with other caps, at other addresses, on another machine.
_SERVING = "base_url|api_key_env|concurrency|patience|device|batch_tokens|gpu_memory"
NO_INPUT = re.compile(r"^constitution$|^templates$|\.labels_from$|\.served_as$")
CHANGEABLE = re.compile(rf"config\.(budget|prices|judge_card|threads|(policy|feedback)\.({_SERVING}))(\.|$)")


def resolve(config: Config, base: Path) -> Config:
    """The config with every path made absolute, so that the run can be continued from anywhere."""

    def model(name: str) -> str:
        looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        try:
            return str(find(name, base))
        except UserError:
            if looks_like_path:
                raise
            return name

    def served(role: Any) -> Any:
        return role.model_copy(update={"model": model(role.model)}) if role.kind.folder else role

    def file(path: str) -> str:
        return str(find(path, base))

    def run(path: str) -> str:
        label_files(Path(file(path)))
        return file(path)

    def reward(source: str) -> str:
        return source_kind(source).resolved(source, model)

    now = {role.model: served(role).model for role in (config.policy, config.feedback)}
    changes = {
        "prices": {now[name]: price for name, price in config.prices.items()},
        "policy": served(config.policy),
        "feedback": served(config.feedback),
    }
    return config.with_paths({"file": file, "run": run, "model": model, "reward": reward}).model_copy(
        update=changes
    )


def audited(
    what: str, overrides: list[str], constitution: Path | None, templates: str
) -> tuple[Config, Path, list[Prompt]]:
    """(config, its folder, prompts) of what `rlaif judge audit` names: a config, or a model without prompts.

    A model is audited on the examples of the constitution, which then must be named.
    """
    if Path(what).suffix in (".yaml", ".yml"):
        path = find(what)
        config = resolve(load_config(path, overrides), path.parent)
        return config, path.parent, load_prompts(Path(config.prompts))
    if constitution is None:
        raise UserError(
            f"{what}: a model, but no constitution to judge by.",
            "a config, or a model and --constitution",
            f"rlaif judge audit {what} --constitution constitutions/general.yaml",
        )
    model = {"model": what}
    config = Config.model_validate(
        {
            "name": "audit",
            "constitution": str(find(str(constitution))),
            "prompts": "none",
            "templates": templates,
            "policy": model,
            "feedback": model,
            "stages": [{"stage": "sample"}],
        }
    )
    return config, Path.cwd(), []


def open_run(folder: Path, config: Config, config_path: Path, overrides: list[str]) -> Run:
    """A new run folder, or an existing one of the same config; anything else is refused with what differs."""
    constitution = Constitution.load(Path(config.constitution))
    templates = Templates.load(config.templates, config_path.parent)
    load_gold(config.gold, constitution)
    making = folder / "making.partial"
    if not (folder / "manifest.json").exists():
        others = [path.name for path in folder.iterdir() if path.name not in (".lock", making.name)]
        if not (making / "manifest.json").exists():
            if others:
                raise UserError(
                    f"{folder}: not empty and not a run folder.",
                    "a new folder, or that of the same run",
                    "name another folder with --out",
                )
            _make(making, config, config_path, overrides, constitution, templates)
        _move(making, folder)
    shutil.rmtree(making, ignore_errors=True)
    now = inputs(config)
    refuse_other_run(folder, config, constitution, templates, now)
    before = Run.load(folder)
    before.verify()
    recorded = _recorded(before, config, now)
    if before.config != config:
        write_json(folder / "config.json", config.model_dump())
    if before.manifest != recorded:
        write_json(folder / "manifest.json", recorded)
    return Run.load(folder)


def _make(
    folder: Path,
    config: Config,
    config_path: Path,
    overrides: list[str],
    constitution: Constitution,
    templates: Templates,
) -> None:
    """Write a new run's files; the manifest comes last: a folder that has one is complete."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    Rows(folder / "prompts.jsonl", Prompt).append(load_prompts(Path(config.prompts)))
    (folder / "config.yaml").write_text(as_text(config_path), encoding="utf-8")
    write_json(folder / "config.json", config.model_dump())
    write_json(folder / "constitution.json", constitution.model_dump())
    write_json(folder / "templates.json", templates.sources)
    made = manifest(config, config_path, overrides, constitution, templates, inputs(config))
    files = {name: found for name, found in seal(folder).items() if name == "prompts.jsonl"}
    write_json(folder / "manifest.json", {**made, "files": files})


def _move(making: Path, folder: Path) -> None:
    """Give a complete new run its place, the manifest last; a start that was killed in between goes on
    here."""
    for path in sorted(making.iterdir(), key=lambda path: path.name == "manifest.json"):
        put(path, folder / path.name)


def _recorded(run: Run, config: Config, now: dict[str, str]) -> dict[str, Any]:
    """The manifest with the addresses and the inputs of this start, too."""
    before = run.manifest
    there = before.get("endpoints", endpoints(run.config))
    return {
        **before,
        "inputs": before.get("inputs", {}) | now,
        "endpoints": {
            role: sorted({*there.get(role, []), *found}) for role, found in endpoints(config).items()
        },
    }


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
        elif key not in found and (folder := _downloaded(role.model)):
            found[key] = fingerprint(folder)
    return found


def _downloaded(name: str) -> Path | None:
    """Where this machine keeps a hub id's files, None where it has none."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, local_files_only=True))
    except Exception:  # not there, or no hub id: whoever opens the model says so
        return None


def load_prompts(path: Path) -> list[Prompt]:
    """A prompt file, rows of the same messages merged into one with all their tags.

    Raises UserError where it holds no prompt, one that nobody can answer, or one id with two texts.
    """
    return merged_prompts(path)[0]


def merged_prompts(path: Path) -> tuple[list[Prompt], int]:
    """The prompts of `load_prompts`, and how many rows repeated another one's messages."""
    found: dict[Any, tuple[int, Prompt]] = {}
    by_id: dict[str, int] = {}
    rows = 0
    for line, row in numbered_rows(path, Prompt):
        rows += 1
        key = row.identity()
        _refuse_prompt(f"{path}:{line}", row)
        if (row.id in by_id and key not in found) or (
            found.get(key, (0, row))[1].id != row.id and row.id in by_id
        ):
            raise UserError(
                f'{path}:{line}: the id "{row.id}" stands in line {by_id[row.id]} with another text.',
                "one id a prompt",
                f"give line {line} another id, or none: it is then made from the messages",
            )
        first, known = found.get(key, (line, row))
        if known.group and row.group and known.group != row.group:
            raise UserError(
                f'{path}:{line}: the group "{row.group}", but "{known.group}" in line {first} for the '
                "same messages.",
                "one group a prompt",
                f"fix line {line} of {path}",
            )
        tags = tuple(dict.fromkeys((*known.tags, *row.tags)))
        found[key] = first, known.model_copy(update={"tags": tags, "group": known.group or row.group})
        by_id.setdefault(row.id, line)
    prompts = [prompt for _, prompt in found.values()]
    if not prompts:
        raise UserError(
            f"{path}: holds no prompt.", 'rows such as {"messages": [{"role": "user", "content": "Hello"}]}'
        )
    return prompts, rows - len(prompts)


def _refuse_prompt(where: str, prompt: Prompt) -> None:
    """UserError for a conversation that leaves the policy nothing to answer."""
    last = prompt.messages[-1].role
    if last != "user":
        raise UserError(
            f"{where}: the conversation ends with the {last}'s turn.",
            "a user's turn at the end",
            "cut what stands behind the last user's turn",
        )
    if any(m.role == "user" and not m.content.strip() for m in prompt.messages):
        raise UserError(
            f"{where}: a user's turn is empty.", "text in every user's turn", "fix or leave out the row"
        )


def refuse_other_run(
    folder: Path, config: Config, constitution: Constitution, templates: Templates, read: dict[str, str]
) -> None:
    """UserError with the differing keys where the folder belongs to another run; what is CHANGEABLE may
    differ."""
    before = flatten(
        {
            "config": read_json(folder / "config.json"),
            "constitution": read_json(folder / "constitution.json"),
            "templates": read_json(folder / "templates.json"),
        }
    )
    now = flatten(
        {
            "config": config.model_dump(mode="json"),
            "constitution": constitution.model_dump(mode="json"),
            "templates": templates.sources,
        }
    )
    differing = [
        f"  {key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in {**before, **now}
        if before.get(key) != now.get(key) and not CHANGEABLE.match(key)
    ] or _exchanged(folder, config, read)
    if differing:
        more = [f"  and {len(differing) - 8} more"] if len(differing) > 8 else []
        raise UserError(
            "\n".join([f"{folder}: holds another run; these differ:", *differing[:8], *more]),
            "a folder of its own for each run",
            "add --out with another folder, or delete this one",
        )


def _exchanged(folder: Path, config: Config, now: dict[str, str]) -> list[str]:
    """The inputs whose content is no longer what it was when the run began, in words.

    What only stages that have not begun will read (people's labels, say) may still change.
    """
    run = Run.load(folder)
    then = run.manifest.get("inputs", {})
    begun = [(stage.number - 1) % len(config.stages) for stage in run.stages if stage.summary]
    found = []
    for key in then.keys() & now.keys():
        reader = re.match(r"stages\.(\d+)\.", key)
        if then[key] != now[key] and (int(reader[1]) in begun if reader else begun or key == "prompts"):
            value = flatten(config.model_dump(mode="json"))[key]
            found.append(f"  the content of {key}, {value}: fingerprint {then[key]} there, {now[key]} now")
    return sorted(found)


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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder: a second process is refused instead of writing into the same files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{folder}: no run can be kept there ({error.strerror}).",
            "a folder that can be made and written",
            "name another folder with --out",
        ) from None
    with lock as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder}: another process is working in this run.",
                "one process a run folder",
                "wait for it, or name another folder with --out",
            ) from None
        yield

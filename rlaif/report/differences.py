"""What differs between two runs: config, constitution, templates, data."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from rlaif.config import Config
from rlaif.feedback.preferences import OLD_RULE
from rlaif.options import STAGES
from rlaif.options.base import marked
from rlaif.report.run_reader import RunReader
from rlaif.runs.storage import read_json

Change = list[Any]  # [in A, in B], None where it is missing
REPEATED = ("name", "seed")  # runs that differ in these alone repeat one experiment


def differences(a: RunReader, b: RunReader) -> dict[str, dict[str, Any]]:
    """Differing keys by kind: `config` and `templates` key → [A, B], `constitution` principle → field → [A,
    B].

    Two paths to the same content are no difference.
    """
    config = changes(flat_config(a.run.config), flat_config(b.run.config))
    constitution, templates = _constitution(a, b), changes(_templates(a), _templates(b))
    mine, theirs = _inputs(a), _inputs(b)
    same = {key for key in mine if mine[key] == theirs.get(key)}
    same |= {"constitution"} if a.run.constitution.hash == b.run.constitution.hash else set()
    same |= {"templates"} if _templates(a) and not templates else set()
    return {
        "config": {key: change for key, change in config.items() if key not in same},
        "constitution": constitution,
        "templates": templates,
        "data": changes(_data(a), _data(b)),
    }


def _inputs(side: RunReader) -> dict[str, str]:
    """The fingerprints of the files and folders that the config names, by the keys of `flat_config`."""
    names = _stage_names(side.run.config)
    found = {}
    for key, fingerprint in side.manifest.get("inputs", {}).items():
        first, _, rest = key.partition(".")
        number, _, option = rest.partition(".")
        found[f"{names[int(number)]}.{option}" if first == "stages" else key] = fingerprint
    return found


def same_experiment(differs: dict[str, dict[str, Any]]) -> bool:
    """Whether nothing that can affect the results was chosen differently, the seed apart."""
    chosen = [key for key in differs["config"] if key not in REPEATED and affects_results(key)]
    return not (chosen or differs["constitution"] or differs["templates"] or differs["data"])


def affects_results(key: str) -> bool:
    """Whether a key of `flat_config` can change what a run makes; False for options declared with
    NO_EFFECT."""
    first, *rest = key.split(".")
    stage = STAGES.get(first.partition("[")[0])
    owner: type[BaseModel] | None = stage or Config
    for name in rest if stage else (first, *rest):
        field = owner.model_fields.get(name) if owner else None
        if field is None:
            return True
        if not marked(field, "affects_results", True):
            return False
        kinds = (field.annotation, *get_args(field.annotation))
        owner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return True


def changes(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Change]:
    """The keys whose values differ."""
    return {key: [a.get(key), b.get(key)] for key in {**a, **b} if a.get(key) != b.get(key)}


def flat_config(config: Config) -> dict[str, Any]:
    """Dotted keys; a stage's options go by its name (`ppo.updates`, `sample[1].k` where a name occurs
    twice)."""
    data = config.model_dump(mode="json")
    stages = data.pop("stages")
    flat = {**_flat(data), "stages": [stage.pop("stage") for stage in stages]}
    for name, stage in zip(_stage_names(config), stages, strict=True):
        flat |= _flat(stage, name)
    return flat


def _stage_names(config: Config) -> list[str]:
    """What a stage's options go by, in the order of the stages."""
    stages = [stage.stage for stage in config.stages]
    return [
        f"{name}[{stages[:at].count(name)}]" if stages.count(name) > 1 else name
        for at, name in enumerate(stages)
    ]


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    items = ((f"{prefix}.{key}" if prefix else str(key), value) for key, value in data.items())
    return {key: leaf for name, value in items for key, leaf in _flat(value, name).items()}


def _constitution(a: RunReader, b: RunReader) -> dict[str, dict[str, Change]]:
    mine, theirs = (
        {
            p.id: p.model_dump(mode="json", exclude={"id"}, exclude_none=True)
            for p in side.run.constitution.principles
        }
        for side in (a, b)
    )
    found = {
        i: changes(mine[i], theirs[i])
        if i in mine and i in theirs
        else {"text": [mine.get(i, {}).get("text"), theirs.get(i, {}).get("text")]}
        for i in {**mine, **theirs}
    }
    return {principle: fields for principle, fields in found.items() if fields}


def _templates(side: RunReader) -> dict[str, str]:
    path = side.path / "templates.json"
    return read_json(path) if path.exists() else {}


def _data(side: RunReader) -> dict[str, Any]:
    stage, label = side.last("evaluate"), side.last("label")
    held = stage.summary.get("in") if stage else None
    return {
        "prompts": len(side.prompts),
        "evaluated rows": held,
        "evaluated policy": side.final_policy,
        "preferences by rule": label.summary.get("rule", OLD_RULE) if label else None,
    }

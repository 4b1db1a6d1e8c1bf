"""Differences that change a run: options and files, each with the first stage it affects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rlaif.config import Config, option_name
from rlaif.options import StageOptions
from rlaif.preflight.opening import RunSpec, flatten
from rlaif.report.differences import affects_results
from rlaif.runs.folder import Run
from rlaif.runs.storage import read_json

Flat = dict[str, Any]
BY_CONTENT = ("constitution", "templates")  # compared as the run keeps them, wherever they come from


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was: `part` of a config, and the number of the first stage it reaches."""

    key: str
    text: str
    number: int
    part: str = ""  # the top-level key; empty for an option of a stage


def differences(run: Run, spec: RunSpec) -> list[Difference]:
    """What `spec` would make otherwise than `run`, in the order of the stages that it reaches."""
    same = _same_content(run, spec.inputs)
    found = [*_stages(run.config, spec.config, same), *_parts(run, spec, same), *_contents(run, spec)]
    return sorted({difference.key: difference for difference in reversed(found)}.values(), key=_order)


def _order(difference: Difference) -> tuple[int, str]:
    return difference.number, difference.key


def _same_content(run: Run, inputs: Mapping[str, str]) -> set[str]:
    """The keys whose files have the content that they had when the run began."""
    then = run.manifest.get("inputs", {})
    return {key for key in inputs if then.get(key) == inputs[key]}


def _stages(before: Config, now: Config, same: set[str]) -> Iterator[Difference]:
    """Stages that are others, and options of theirs that affect results."""
    pairs = enumerate(zip_longest(before.expanded, now.expanded), 1)
    for number, (there, here) in pairs:
        a, b = there and there[1], here and here[1]
        if a is None or b is None or a.stage != b.stage:
            names = [one.stage if one else "no stage" for one in (a, b)]
            yield Difference("stages", f"stage {number}: {names[0]} there, {names[1]} now", number)
            return
        at = (number - 1) % len(before.stages)
        yield from _options(a, b, number, option_name(before, at), f"stages.{at}.", same)


def _options(
    a: StageOptions, b: StageOptions, number: int, name: str, prefix: str, same: set[str]
) -> Iterator[Difference]:
    before, now = (flatten(options.model_dump(mode="json")) for options in (a, b))
    for key in {**before, **now}:
        plain = f"{name}.{key}"
        if before.get(key) != now.get(key) and affects_results(plain) and prefix + key not in same:
            yield Difference(plain, f"{plain}: {before.get(key)!r} there, {now.get(key)!r} now", number)


def _parts(run: Run, spec: RunSpec, same: set[str]) -> Iterator[Difference]:
    """Options of the whole run, the constitution and the templates."""
    before, now = _flat_run(run), _flat_spec(spec)
    for key in {**before, **now}:
        part = key.partition(".")[0]
        differ = before.get(key) != now.get(key) and key not in same
        if differ and (part in BY_CONTENT or affects_results(key)):
            text = f"{key}: {before.get(key)!r} there, {now.get(key)!r} now"
            yield Difference(key, text, _first(spec.config, part), part)


def _contents(run: Run, spec: RunSpec) -> Iterator[Difference]:
    """Files and folders that go by the same path and hold something else."""
    then, now = run.manifest.get("inputs", {}), spec.inputs
    before, after = (flatten(config.model_dump(mode="json")) for config in (run.config, spec.config))
    for key in then.keys() & now.keys():
        if then[key] != now[key] and before.get(key) == after[key]:
            stage = re.match(r"stages\.(\d+)\.", key)
            part = "" if stage else key.partition(".")[0]
            number = int(stage[1]) + 1 if stage else _first(spec.config, part)
            text = f"the content of {key}, {after[key]}: fingerprint {then[key]} there, {now[key]} now"
            yield Difference(f"content of {key}", text, number, part)


def _first(config: Config, part: str) -> int:
    """The number of the first stage whose results depend on a part of the config."""
    stages = config.expanded
    if part == "rounds":  # policies of earlier rounds are then named otherwise
        return next((n for n, (_, o) in enumerate(stages, 1) if "evaluation" in o.makes), len(stages))
    return next((n for n, (_, o) in enumerate(stages, 1) if part not in o.ignores), len(stages) + 1)


def _flat_run(run: Run) -> Flat:
    kept = run.path / "templates.json"
    sources = read_json(kept) if kept.exists() else run.templates.sources
    return _flat(run.config, run.constitution.model_dump(mode="json"), sources)


def _flat_spec(spec: RunSpec) -> Flat:
    return _flat(spec.config, spec.constitution.model_dump(mode="json"), spec.templates.sources)


def _flat(config: Config, constitution: Flat, templates: dict[str, str]) -> Flat:
    data = config.model_dump(mode="json", exclude={"stages", *BY_CONTENT})
    return flatten({**data, "constitution": constitution, "templates": templates})

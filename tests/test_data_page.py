"""docs/data.md is what the code gives, and describes every key of every file that runs leave."""

import fnmatch
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import rlaif
from rlaif import records

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("data_page", ROOT / "docs" / "data.py")
assert SPEC
assert SPEC.loader
data_page = importlib.util.module_from_spec(SPEC)
sys.path.insert(0, str(ROOT / "docs"))  # it imports its columns from beside it
SPEC.loader.exec_module(data_page)
sys.path.remove(str(ROOT / "docs"))
WITHOUT_COLUMNS = ("config.json", "constitution.json", "templates.json")
MODELS = (
    "policy",
    "adapter",
)  # folders in the form of other libraries; of reward_model/ calibration.json is ours


def keys(data: Any, prefix: str = "") -> set[str]:
    """The keys of parsed JSON, written as the page writes them."""
    if isinstance(data, dict) and data:
        return {k for key, value in data.items() for k in keys(value, f"{prefix}.{key}" if prefix else key)}
    if isinstance(data, list) and any(isinstance(entry, dict) for entry in data):
        return {k for entry in data for k in keys(entry, f"{prefix}[]")}
    return {prefix}


def unknown_of(found: set[str], described: list[str]) -> set[str]:
    """Those of `found` that no described key stands for; an empty object or null stands for what would be in
    it."""
    patterns = [re.sub(r"<[\w ]+>", "*", key).replace("[]", "") for key in described]
    return {
        key
        for key in (key.replace("[]", "") for key in found)
        if not any(fnmatch.fnmatchcase(key, p) or p.startswith(f"{key}.") for p in patterns)
    }


def described(path: Path) -> list[str]:
    """The keys that the page has for a file of a run; empty where it says nothing of such a file."""
    record = next((record for name, record, _ in data_page.ROWS if name == path.name), None)
    known = record.model_fields if record else {}
    found = [f"{key}.<name>" if "dict" in str(field.annotation) else key for key, field in known.items()]
    nested = [key for key in found if key in ("messages", "annotator")]
    found += [
        f"{key}.{field}" for key in nested for field in getattr(records, data_page.INSIDE[key]).model_fields
    ]
    stage = re.sub(r"^\d+_", "", path.parent.name)
    for name, _, columns in data_page.OTHERS:
        file, _, stages = name.partition(" of ")
        if file == path.name and (not stages or stage in stages.split(", ")):
            found += [key for key, _, _ in data_page.parsed(columns)]
    if path.name == "stage.json":
        of = next((columns for names, columns in data_page.METRICS.items() if stage in names.split(", ")), "")
        found += [f"metrics.{key}" for key, _, _ in data_page.parsed(of)]
    return [*found, "checksum"] if found else []


def undescribed(run: Path) -> dict[str, set[str]]:
    """The keys of a run's files that the page says nothing of, by file."""
    found = {}
    for path in sorted([*run.rglob("*.json"), *run.rglob("*.jsonl")]):
        inside = path.parent.name
        if (
            path.name in WITHOUT_COLUMNS
            or inside in MODELS
            or (inside == "reward_model" and path.name != "calibration.json")
        ):
            continue
        text = path.read_text()
        rows = [text] if path.suffix == ".json" else text.splitlines()
        there = {key for row in rows for key in keys(json.loads(row))}
        unknown = unknown_of(there, described(path))
        if unknown:
            found[str(path.relative_to(run))] = unknown
    return found


def test_the_page_is_up_to_date():
    assert data_page.PAGE.read_text() == data_page.page(), "python docs/data.py"


def test_every_key_has_a_meaning():
    for record in (record for _, record, _ in data_page.ROWS):
        assert all(meaning for _, _, meaning in data_page.fields(record)), record
    for columns in [columns for _, _, columns in data_page.OTHERS] + list(data_page.METRICS.values()):
        assert all(key and kind and meaning for key, kind, meaning in data_page.parsed(columns))


def test_every_stage_has_its_figures():
    from rlaif.config import Config

    named = {name for names in data_page.METRICS for name in names.split(", ")}
    stages = Config.model_json_schema()["properties"]["stages"]["items"]["discriminator"]["mapping"]
    assert named == set(stages)


def test_a_key_that_the_page_lacks_is_found(project):
    run = rlaif.run(project / "config.yaml", project / "run").path
    assert undescribed(run) == {}
    with (run / "01_sample" / "responses.jsonl").open("a") as file:
        file.write('{"surprise": 1}\n')
    (run / "unknown.json").write_text('{"a": {"b": 1}}')
    assert undescribed(run) == {"01_sample/responses.jsonl": {"surprise"}, "unknown.json": {"a.b"}}

"""The repository keeps its shape: who imports whom, how long files are, how fast the command line starts."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = [
    {
        "errors",
        "lookup",
        "spending",
        "storage",
        "stopping",
        "records",
        "refusals",
        "revisions",
        "seeds",
        "yamlfile",
        "options",
        "config",
        "plugin",
        "gold",
        "runfolder",
        "constitution",
        "chat_templates",
        "defences",
        "prompts",
        "stats",
        "intervals",
        "forecasts",
        "metrics",
        "extends",
        "turns",
    },
    {"engines", "rl", "checkpoints", "training", "pairs", "sampling", "trainers"},
    {"judge", "preferences", "earlier"},
    {"rewards", "tracking", "watching", "groups"},
    {"stages", "human", "comparing", "auditing", "playground"},
    {"opening", "processes", "estimate"},
    {"pipeline"},
    {"cli", "__init__", "__main__"},
]
LEVEL = {name: depth for depth, names in enumerate(LEVELS) for name in names}
MODULES = sorted((ROOT / "rlaif").rglob("*.py"))


def part(path: Path) -> str:
    inside = path.relative_to(ROOT / "rlaif").parts
    return inside[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[str, ...]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rlaif":
            found += [(*node.module.split(".")[1:], alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "rlaif"]
    return [names for names in found if names]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    own = part(path)
    assert own in LEVEL, f"{own}: give it a place in LEVELS"
    for names in imported(path):
        if names[0] in LEVEL and names[0] != own:
            assert LEVEL[names[0]] <= LEVEL[own], f"{path} imports {names[0]}"
        if own == "stages":
            assert names[0] != "stages", f"{path}: stages meet in the run folder, not in imports"


def test_nothing_in_the_loop_knows_the_playground():
    for path in MODULES:
        if part(path) not in ("playground", "cli"):
            assert not any(names[0] == "playground" for names in imported(path)), path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 450


def test_help_loads_no_heavy_library():
    code = "import sys; from rlaif.cli import app; print([m for m in ('torch', 'transformers', 'datasets', 'scipy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_no_machine_of_ours_is_named():
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.split()
    home = str(ROOT.parent) + os.sep
    for name in tracked:
        if (ROOT / name).suffix in (".py", ".md", ".toml", ".yaml", ".txt", ".json", ""):
            assert home not in (ROOT / name).read_text(errors="ignore"), name

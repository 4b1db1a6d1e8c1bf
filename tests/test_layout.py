"""The repository keeps its shape: who imports whom, how long files are, how fast the command line starts."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A layer imports from layers below it, never from one beside or above; docs/architecture.md says what each
# is.
LAYERS = [
    {"errors", "records", "refusals"},
    {"yamlfile", "plugin", "stats", "similarity", "old_names"},
    {"options", "extends", "constitution", "intervals"},
    {"config", "forecasts", "equal_length"},
    {"agreement"},
    {"prompting", "pages"},
    {"runs"},
    {"engines", "metrics"},
    {"rl"},
    {"feedback"},
    {"training"},
    {"human", "audit", "playground"},
    {"stages", "report"},
    {"preflight", "chat"},
    {"pipeline"},
    {"workbench"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
LAYER = {name: depth for depth, names in enumerate(LAYERS) for name in names}
MODULES = sorted((ROOT / "rlaif").rglob("*.py"))
TESTS = [path for folder in ("tests", "tests_vllm") for path in sorted((ROOT / folder).rglob("*.py"))]
_UNTYPED = re.compile(r"  # (pyright|type): ?ignore.*")  # belongs to its line
SCRIPTS = [path for folder in ("benchmarks", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]


def part(path: Path) -> str:
    inside = path.relative_to(ROOT / "rlaif").parts
    return inside[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[str, ...]]:
    found = []
    tree = ast.parse(path.read_text())
    for node in [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]:
        node.body = []  # what types alone name is not imported
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rlaif":
            found += [(*node.module.split(".")[1:], alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "rlaif"]
    return [names for names in found if names]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_layer_imports_from_layers_below(path):
    own = part(path)
    assert own in LAYER, f"{own}: give it a layer in LAYERS and in docs/architecture.md"
    for names in imported(path):
        if names[0] in LAYER and names[0] != own:
            assert LAYER[names[0]] < LAYER[own], f"{path} imports {names[0]}"
        if own == "stages":
            assert names[0] != "stages", f"{path}: stages meet in the run folder, not in imports"


def test_the_pages_name_every_folder():
    layers = {
        path.name for path in (ROOT / "rlaif").iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    for page in ("README.md", "docs/architecture.md"):
        text = (ROOT / page).read_text()
        assert not [name for name in layers if f"{name}/`" not in text], page


def test_the_page_has_the_layers_in_this_order():
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page[page.index("| layer |") :].split("\n\n")[0].splitlines()[2:]
    rows = [re.findall(r"`(\w+)(?:/|\.py)`", line.split("|")[1]) for line in table]
    depths = [[LAYER[name] for name in row] for row in rows]
    assert all(len(set(depth)) == 1 for depth in depths), depths
    assert [depth[0] for depth in depths] == sorted((depth[0] for depth in depths), reverse=True)
    assert {name for row in rows for name in row} == set(LAYER)


def test_nothing_in_the_loop_knows_the_playground():
    for path in MODULES:
        if part(path) not in ("playground", "cli"):
            assert not any(names[0] == "playground" for names in imported(path)), path


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_stay_readable(path):
    tree = ast.parse(path.read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [f.name for f in functions if f.end_lineno - f.lineno >= 60]


def test_commands_name_what_they_hand_over():
    for path in sorted((ROOT / "rlaif" / "cli").rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            rich = ast.unparse(call.func).split(".")[-1] in ("Table", "add_row", "Progress")
            assert rich or len(call.args) <= 4, (
                f"{path}:{call.lineno}: more than four arguments without names"
            )


def test_no_file_or_line_is_long():
    for path in [*MODULES, *SCRIPTS, *TESTS]:
        lines = [_UNTYPED.sub("", line) for line in path.read_text().splitlines()]
        assert len(lines) <= 450, path
        assert not [number for number, line in enumerate(lines, 1) if len(line) > 110], path


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from rlaif.cli import app; print([m for m in ('torch', 'transformers', "
        "'datasets', 'scipy') if m in sys.modules])"
    )
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


def test_classes_of_options_are_named_so():
    from rlaif.config import Config
    from rlaif.options import Options

    def below(kind):
        return [kind, *(found for narrower in kind.__subclasses__() for found in below(narrower))]

    names = [kind.__name__ for kind in below(Options) if kind.__module__.startswith("rlaif.")]
    assert Config.__name__ in names
    assert not [name for name in names if not name.endswith(("Options", "Config"))]


def test_importing_a_test_changes_nothing_of_the_package():
    """A test's module is imported when tests are collected: what it set would hold for all tests of the
    process."""
    for path in TESTS:
        for statement in ast.parse(path.read_text()).body:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            assert not any(isinstance(t, ast.Attribute) for t in targets), f"{path}:{statement.lineno}"

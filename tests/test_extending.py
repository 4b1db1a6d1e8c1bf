"""The recipes of docs/extending.md, each followed once in a copy of the package, touching only what the
recipe names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_run import fake_run

ROOT = Path(__file__).parent.parent


class Copy:
    """A copy of the package that a recipe changes; nothing of the one under test is touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(
            ROOT / "rlaif", folder / "rlaif", ignore=shutil.ignore_patterns("__pycache__", "weights")
        )
        for name in ("configs", "constitutions", "prompts"):
            (folder / name).symlink_to(ROOT / name)

    def file(self, *names: str) -> Path:
        """The one file of the package whose path ends in these names."""
        found = [p for p in (self.folder / "rlaif").rglob(names[-1]) if p.parts[-len(names) :] == names]
        assert len(found) == 1, f"{names}: {found}"
        return found[0]

    def module(self, *names: str) -> str:
        """Its name for imports."""
        return ".".join(self.file(*names).relative_to(self.folder).with_suffix("").parts)

    def add(self, *names: str, text: str) -> None:
        """Put text at the end of a file."""
        path = self.file(*names)
        path.write_text(f"{path.read_text()}\n\n{text}")

    def change(self, *names: str, old: str, new: str) -> None:
        """Put text in the place of another one, which must be there once."""
        path = self.file(*names)
        assert path.read_text().count(old) == 1, f"{names}: {old}"
        path.write_text(path.read_text().replace(old, new))

    def python(self, code: str, *words: object) -> str:
        """What a program prints that imports the copy."""
        return self._run([sys.executable, "-c", code, *map(str, words)])

    def rlaif(self, *words: object, refused: bool = False) -> str:
        """What the copy's command prints."""
        return self._run([sys.executable, "-m", "rlaif", *map(str, words)], 2 if refused else 0)

    def _run(self, command: list[str], code: int = 0) -> str:
        environment = {**os.environ, "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}", "COLUMNS": "240"}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=environment, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path / "copy")


def test_a_stage(copy, project):
    """Options and file; estimate, order, `show` and the messages for mistakes come from these alone."""
    options = copy.file("options", "preferences.py")
    (options.parent / "kto.py").write_text(
        "from typing import Literal\n\nfrom pydantic import Field\n\n"
        f"from {copy.module('options', 'preferences.py')} import PreferenceOptions\n\n\n"
        'class KtoOptions(PreferenceOptions):\n    """A toy."""\n\n    needs, makes = '
        '("preferences",), ("policy",)\n'
        '    stage: Literal["kto"]\n    desirable: float = Field(default=1.0, gt=0)\n'
    )
    (copy.file("stages", "dpo.py").parent / "kto.py").write_text(
        f"from {copy.module('records.py')} import Preference\n\n\n"
        "def run(stage):\n"
        '    kept = stage.load("preferences", Preference)\n    (stage.dir / "policy").mkdir(exist_ok=True)\n'
        '    stage.metrics = {"pairs": len(kept), "desirable": stage.options.desirable}\n'
    )
    config = project / "config.yaml"
    config.write_text(config.read_text() + "  - {stage: kto, desirable: 2.5}\n")
    assert '"stage": "kto"' in copy.rlaif("run", config, "--dry-run", "--json")
    copy.rlaif("run", config, "--out", project / "run")
    assert "desirable 2.5" in copy.rlaif("show", project / "run")
    assert "kto" in copy.python(
        f"from pathlib import Path; from {copy.module('runs', 'folder.py')} import Run; "
        f"print(*Run.load(Path({str(project / 'run')!r})).policies)"
    )
    assert 'unknown key "desirable"' not in copy.rlaif("run", config, "--dry-run", "-s", "kto.desirable=3")
    assert "desirable" in copy.rlaif("run", config, "--dry-run", "-s", "kto.desirabel=3", refused=True)


def test_a_reward_source(copy):
    copy.change(
        "options",
        "sources.py",
        old="class FolderSource(SourceKind):",
        new='class LengthSource(SourceKind):\n    name, opens = "length", "'
        + copy.module("rewards.py")
        + ':length_score"\n\n\nclass FolderSource(SourceKind):',
    )
    copy.change(
        "options",
        "sources.py",
        old="FunctionSource, FolderSource)",
        new="FunctionSource, LengthSource, FolderSource)",
    )
    copy.add(
        "rewards.py",
        text="def length_score(stage, option, tokenizer, judge):\n"
        f"    from {copy.module('rl', 'reward.py')} import FunctionReward\n"
        "    return FunctionReward(option.source, lambda prompts, texts: [float(len(t)) for t in texts], "
        "tokenizer)\n",
    )
    said = copy.python(
        f"from {copy.module('options', 'ppo.py')} import PpoOptions; from {copy.module('plugin.py')} "
        f"import own\n"
        "ppo = PpoOptions.model_validate({'stage': 'ppo', 'rewards': [{'source': 'length'}]}); option = "
        "ppo.rewards[0]\n"
        "print(ppo.required_artefacts, own(option.kind.opens)(None, option, None, None).ask([None], "
        "['four']))"
    )
    assert said.split() == ["('prompts',", "'policy')", "[4.0]"]


def test_an_import_format(copy, tmp_path):
    copy.add(
        "formats",
        "__init__.py",
        text=f"from {copy.module('formats', 'base.py')} import Vote, annotator, has\n\n\n"
        "def toy_row(row):\n"
        '    vote = Vote(annotator("human", "toy"), "a")\n'
        '    return ImportedRow((("user", row["q"]),), (row["good"], row["bad"]), (vote,))\n\n\n'
        'FORMATS["toy"] = Format("toy", "A toy", has("q", "good", "bad"), toy_row)\n',
    )
    (tmp_path / "toy.jsonl").write_text('{"q": "Why?", "good": "So.", "bad": "No."}\n')
    for words in (["toy"], []):
        said = copy.rlaif(
            "data", "import", *words, tmp_path / "toy.jsonl", "--out", tmp_path / "made", "--json"
        )
        assert '"format": "toy"' in said
        assert '"kept": 1' in said
        assert (tmp_path / "made" / "labels.jsonl").exists()


def test_an_engine(copy, project):
    (copy.file("engines", "openai.py").parent / "echo.py").write_text(
        f"from {copy.module('engines', 'shared.py').rpartition('.')[0]} import Scripted\n\n\n"
        "class EchoEngine(Scripted):\n"
        "    def __init__(self, config):\n"
        "        super().__init__(on_generate=lambda request: request.messages[-1]['content'], "
        "name=config.model)\n"
    )
    copy.change(
        "options",
        "engines.py",
        old='    "scripted": EngineKind(',
        new='    "echo": EngineKind("' + copy.module("engines", "echo.py") + ':EchoEngine", cached=False),\n'
        '    "scripted": EngineKind(',
    )
    config, out = project / "config.yaml", project / "run"
    copy.rlaif(
        "run",
        config,
        "--out",
        out,
        "--until",
        "sample[0]",
        "-s",
        "policy.engine=echo",
        "-s",
        "policy.model=e1",
    )
    texts = (out / "01_sample" / "responses.jsonl").read_text().splitlines()
    assert len(texts) == 24
    assert all('"text":"Question' in line and "scripted:e1" in line for line in texts)
    assert "echo" in copy.rlaif("run", config, "--dry-run", "-s", "policy.engine=ecko", refused=True)


def test_a_metric(copy, tmp_path):
    copy.change(
        "metrics.py",
        old="METRICS = (\n",
        new='METRICS = (\n    Metric("words", "words a response", "as split at blanks", lambda row, '
        "texts, prompts: "
        'len(texts[row.response_id].text.split()), bounds=POSITIVE, digits=1, better="less"),\n',
    )
    page, code = tmp_path / "page.html", "from pathlib import Path; from tests.hand_made import hand_made; "
    for name, second in (("a", ""), ("b", ", second=True")):
        copy.python(f"{code}hand_made(Path({str(tmp_path / name)!r}){second})")
    told = copy.rlaif("compare", tmp_path / "a", tmp_path / "b", "--out", page, "--trust")
    assert any(line.startswith("words: ") for line in told.splitlines())
    assert "words a response<small>as split at blanks; less is better</small>" in page.read_text()
    assert "words" in copy.rlaif("show", tmp_path / "a")
    report = copy.module("report.py")
    copy.python(
        f"from pathlib import Path; from {report} import write_report; "
        f"write_report(Path({str(tmp_path / 'a')!r}))"
    )
    assert "words a response" in (tmp_path / "a" / "report.html").read_text()


def test_a_judge_mode(copy, project):
    copy.change(
        "options", "modes.py", old="MODES = {\n", new='MODES = {\n    "worst": JudgeMode(("worst",)),\n'
    )
    (copy.folder / "toy.py").write_text(
        f"from {copy.module('engines', 'shared.py').rpartition('.')[0]} import Scripted\n"
        "from tests.scripts import write_feedback\n\n\n"
        "def feedback():\n"
        "    return Scripted(write_feedback, lambda m, s, choices: [1 / (2 + i) for i, _ in "
        "enumerate(choices)], 'toy')\n"
    )
    config, out = project / "config.yaml", project / "run"
    options = ("-s", "label.mode=worst", "-s", "feedback.model=toy:feedback")
    planned = copy.rlaif("run", config, "--dry-run", "--json", *options)
    copy.rlaif("run", config, "--out", out, *options)
    labels = (out / "05_label" / "labels.jsonl").read_text().splitlines()
    assert labels
    assert all("log-probabilities of the worst of" in line for line in labels)
    assert '"stage": "label"' in planned


def test_a_chart(copy, tmp_path):
    copy.change(
        "report.py", old="CURVES = (\n", new='CURVES = (\n    ("A toy chart", (("entropy", "toy line"),)),\n'
    )
    path = tmp_path / "run"
    report = copy.module("report.py")
    copy.python(
        f"from pathlib import Path; from {report} import write_report; from tests.fake_run import fake_run; "
        f"write_report(fake_run(Path({str(path)!r}), prompts=8))"
    )
    assert "A toy chart" in (path / "report.html").read_text()


def test_an_alarm(copy):
    copy.change(
        "rl",
        "alarms.py",
        old="CHECKS: tuple[Check, ...] = (\n",
        new="CHECKS: tuple[Check, ...] = (\n    toy,\n",
    )
    copy.change(
        "rl",
        "alarms.py",
        old="Check = Callable[[Rows], Iterator[Alarm]]\n",
        new='def toy(rows):\n    yield Alarm("toy", "it is a toy", ("raise {kl_coef}",))\n\n\n'
        "Check = Callable[[Rows], Iterator[Alarm]]\n",
    )
    said = copy.python(
        f"from {copy.module('rl', 'alarms.py')} import alarms; "
        "print(*(alarm.kind for alarm in alarms([{'update': n, 'score': 0.0, 'episodes': n} for n in "
        "range(40)])))"
    )
    assert said.split()[0] == "toy"


def test_a_queue_of_the_ranking_page(copy, tmp_path):
    copy.change(
        "annotating",
        "queues.py",
        old='    Queue("judges",',
        new='    Queue("sure", "where the judge is surest", "a judge\'s labels", sure),\n    Queue("judges",',
    )
    copy.change(
        "annotating",
        "queues.py",
        old="_ALL = (",
        new="def sure(found: Evidence) -> float | None:\n    said = found.opinions()\n"
        "    return abs(said[0] - 0.5) if said else None\n\n\n_ALL = (",
    )
    run = fake_run(tmp_path / "run", until=6, prompts=40)
    said = copy.python(
        "import sys; from pathlib import Path; from tests.annotating import session\n"
        "made = session(Path(sys.argv[1]), Path(sys.argv[2]), queue='sure', most=5)\n"
        "print(*(round(made.opinions.on(item.id), 3) for item in made.desk.items))",
        run,
        tmp_path / "out",
    )
    found = [abs(float(p) - 0.5) for p in said.split()]
    assert len(found) == 5
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.3


def test_a_command(copy):
    cli = copy.file("cli", "run.py").parent
    (cli / "hello.py").write_text(
        "from rlaif.cli.groups import app\nfrom rlaif.cli.terminal import say\n\n\n"
        '@app.command()\ndef hello() -> None:\n    """Greet."""\n    say("hello")\n',
    )
    copy.change("cli", "__init__.py", old="    show,\n", new="    hello,\n    show,\n")
    assert copy.rlaif("hello") == "hello\n"
    assert "Greet." in copy.rlaif("--help")


def test_a_field_of_the_constitution(copy, project):
    copy.change(
        "rlaif",
        "constitution.py",
        old="    tags: tuple[str, ...] = ()\n",
        new="    tags: tuple[str, ...] = ()\n    severity: int = Field(default=1, ge=1)\n",
    )
    copy.change(
        "prompting",
        "templates.py",
        old='        "tags": principle.tags,\n',
        new='        "tags": principle.tags,\n        "severity": principle.severity,\n',
    )
    file = project / "constitution.yaml"
    file.write_text(file.read_text().replace("weight: 2.0", "weight: 2.0, severity: 3"))
    assert "2 principles" in copy.rlaif("constitution", "lint", file)
    assert '"severity"' in copy.rlaif("constitution", "schema")
    said = copy.python(
        f"from pathlib import Path; from {copy.module('rlaif', 'constitution.py')} import Constitution; "
        f"from {copy.module('prompting', 'templates.py')} import principle_values; "
        "print(*(principle_values(p)['severity'] for p in "
        f"Constitution.load(Path({str(file)!r})).principles))"
    )
    assert said.split() == ["1", "3"]


def test_a_lint_rule(copy, project):
    copy.add(
        "lint",
        "wording.py",
        text='@rule("shouted", "error", "it is no louder to a model")\n'
        "def shouted(subject: Subject) -> Iterator[Found]:\n"
        '    """A text in capitals."""\n'
        '    for loc, principle, text in subject.texts("text"):\n'
        "        if text.isupper():\n            yield Found(loc, f'\"{principle.id}\" shouts', text)\n",
    )
    file = project / "constitution.yaml"
    file.write_text(file.read_text().replace("text: Never say rude.", "text: NEVER SAY RUDE."))
    found = copy.rlaif("constitution", "lint", file, "--select", "shouted", "--fail-on", "never")
    assert "constitution.yaml:3:" in found
    assert 'error: "no-rude" shouts [shouted]' in found
    assert "A text in capitals." in copy.rlaif("constitution", "lint", "--rules")


def test_a_format_of_constitutions(copy):
    table = copy.file("constitution_formats", "__init__.py")
    package = copy.module("constitution_formats", "format.py").removesuffix(".format")
    (table.parent / "lines.py").write_text(
        f"from {package}.format import Format, Read, loses, source, without\n"
        f"from {package}.document import Ids\n\n\n"
        "def read(document):\n    found, ids = Read(), Ids()\n"
        "    for number, line in enumerate(document.text.splitlines(), 1):\n"
        "        rule = line.removeprefix('rule: ')\n"
        "        found.add(document.principle(number, id=ids.made(rule), text=rule, "
        "source=source(document, 'lines', number)))\n"
        "    return found\n\n\n"
        "LINES = Format('lines', 'a rule a line', '.txt', lambda document: "
        "document.text.startswith('rule: '), read,\n"
        "    lambda constitution: ''.join(f'rule: {p.text}\\n' for p in constitution.principles), "
        "without('text'), loses())\n"
    )
    copy.change("constitution_formats", "__init__.py", old="SPEC, LIST)}", new="SPEC, LIST, LINES)}")
    text = table.read_text().replace("\n\nFORMATS", f"\nfrom {package}.lines import LINES\n\nFORMATS")
    table.write_text(text)
    (copy.folder / "r.txt").write_text("rule: Be kind.\nrule: Be brief.\n")
    copy.rlaif("constitution", "import", "r.txt", "--out", "c.yaml")
    assert (
        copy.rlaif("constitution", "export", "c.yaml", "--format", "lines")
        == (copy.folder / "r.txt").read_text()
    )


def test_every_recipe_is_followed():
    titles = [
        line.removeprefix("## ").replace(" ", "_").lower()
        for line in (ROOT / "docs" / "extending.md").read_text().splitlines()
        if line.startswith("## ")
    ]
    assert titles
    assert all(f"test_{title}" in globals() for title in titles), titles

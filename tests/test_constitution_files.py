"""Constitutions of other projects: damaged files, published ones, the commands and the page."""

import json
import os
import random
import re
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.prompting.prompt_files import load_prompts
from rlaif.workbench.constitution_formats import FORMATS, recognised
from rlaif.workbench.constitution_formats.document import Document
from rlaif.workbench.constitution_formats.format import FIELDS, NAMES
from rlaif.workbench.exchange import export, import_files
from rlaif.workbench.yaml_text import to_yaml
from tests.test_constitution_formats import (
    GROUPS,
    LIST,
    RL,
    RUBRIC,
    SL,
    SPEC,
    SWARM,
    TRAITS,
    read,
    write,
)
from tests.test_constitution_round_trips import BARE, FULL

MUTATIONS = int(os.environ.get("RLAIF_MUTATIONS", "1000"))

ODD = ['"', "[", "{", "\x00", "7", "null", "\n", "#", ",", "=", "-1", "", "\xff", "\ud800"]


def damaged(whole: str, dice: random.Random) -> bytes:
    """A file of which pieces are cut out, doubled or replaced, or the end is missing."""
    text = whole
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(text) + 1)
        piece = text[at : at + dice.randint(0, 9)]
        ways = [
            text[:at] + dice.choice(ODD) + text[at + len(piece) :],
            text[:at] + piece + text[at:],
            text[:at],
        ]
        text = dice.choice(ways) or "x"
    encoding = "latin-1" if dice.random() < 0.1 else "utf-8"
    return text.encode(encoding, "surrogatepass" if encoding == "utf-8" else "replace")


def refusal(path: Path, format: str | None) -> str:
    """What is told of a file that cannot be read; empty where it can."""
    try:
        import_files([path], format)
    except UserError as error:
        return error.found
    return ""


@pytest.mark.parametrize(
    "content", [SL, RL, SWARM, TRAITS, RUBRIC, GROUPS, SPEC, LIST], ids=lambda c: str(c)[:9]
)
def test_a_damaged_file_is_read_or_refused_with_its_line(tmp_path, content):
    whole = content if isinstance(content, str) else json.dumps(content, indent=1)
    suffix = {"[[": ".toml", "co": ".csv", "--": ".md", "# ": ".md"}.get(whole[:2], ".json")
    dice = random.Random(0)
    told = []
    for number in range(max(1, MUTATIONS // 8)):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(damaged(whole, dice))
        told += [(path, refusal(path, format)) for format in (None, dice.choice(sorted(FORMATS)))]
    refused = [(path, found) for path, found in told if found]
    assert len(refused) > len(told) // 8
    assert [found for path, found in refused if not re.match(rf"{re.escape(str(path))}:\d+: ", found)] == []


def test_the_sixteen_published_pairs_come_in_with_every_field_and_go_out_again(test_data):
    path = test_data / "constitutions/nemo_aligner/CritiqueRevisionInstructions.json"
    constitution, (report,) = import_files([path])
    given = json.loads(path.read_text())
    assert (report.entries, report.dropped, report.not_kept) == (16, {}, [])
    assert constitution.ids == list(given) == [f"harmful{n}" for n in range(16)]
    for principle, row in zip(constitution.principles, given.values(), strict=True):
        assert row == {
            "prompt": [f"\n\nCritiqueRequest: {principle.critique}\n\nCritique:"],
            "edit_request": f"\n\nRevisionRequest: {principle.revise}\n\nRevision:",
        }
        assert principle.text == " ".join(principle.revise.split())
    assert json.loads(export(constitution, "anthropic-sl").text) == given
    assert errors_of(constitution) == 0


def errors_of(constitution: Constitution) -> int:
    """The exit code of the linter for a constitution as it is written, warnings and notes apart."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "c.yaml", to_yaml(constitution))
        return run("lint", path, "--fail-on", "error").exit_code


def test_the_published_traits_come_in_with_every_field_and_go_out_again(test_data):
    files = sorted((test_data / "constitutions/open_character_training").glob("*.txt"))
    files = [path for path in files if path.name != "template.txt"]
    assert len(files) == 11
    for path in files:
        constitution, (report,) = import_files([path])
        given = json.loads(path.read_text())
        assert [(p.text, p.source.kept) for p in constitution.principles] == [
            (row["trait"], {"questions": row["questions"]}) for row in given
        ]
        assert (report.entries, report.dropped, report.not_kept) == (len(given), {}, [])
        assert json.loads(export(constitution, "character").text) == given
    together, reports = import_files(files)
    assert len(together.principles) == sum(r.principles for r in reports) == 115
    assert len(set(together.ids)) == 115
    assert errors_of(together) == 0
    with pytest.raises(UserError, match=r"holds no principle \(10 × an empty trait\)"):
        import_files([files[0].parent / "template.txt"])


def test_the_published_swarm_constitutions_lose_the_order_of_their_chats_alone(test_data):
    folder = test_data / "constitutions/llm_swarm"
    for path, pairs, examples, others in [
        (folder / "constitution_anthropic.json", 16, 4, 0),
        (folder / "constituion_grok.json", 2, 3, 1),
    ]:
        constitution, (report,) = import_files([path])
        assert report.entries == len(constitution.principles) == pairs
        assert sum(len(p.examples) for p in constitution.principles) == examples
        assert len(constitution.source.kept.get("system_chat", ())) == others
        assert report.not_kept == ["/system_chat: the order"]


def test_sixteen_questions_for_the_judge_in_the_published_shape(test_data):
    prompt = (test_data / "constitutions/nemo_aligner/sys_prompt_constitution").read_text()
    said = [line.split(". ", 1)[1] for line in prompt.split("\n") if line.startswith("  ") and ". " in line]
    assert len(said) == 16
    with tempfile.TemporaryDirectory() as folder:
        constitution, report = read(Path(folder), "rl.json", [f"\n{text} Options:" for text in said])
    assert [p.text for p in constitution.principles] == said
    assert report.not_kept == []


def run(*words: object):
    result = CliRunner().invoke(app, [str(word) for word in ("constitution", *words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_commands_write_files_that_lint_takes_and_configs_read(tmp_path):
    path, out, prompts = write(tmp_path, "calm.txt", TRAITS), tmp_path / "c.yaml", tmp_path / "p.jsonl"
    done = run("import", path, "--out", out, "--prompts", prompts)
    assert done.stdout == ""
    assert "calm.txt: character, 2 principles of 2 entries" in done.stderr
    assert Constitution.load(out).ids == ["stay-calm", "ask-before-act"]
    assert run("lint", out, "--fail-on", "error").exit_code == 0
    assert [(p.messages[0].content, p.tags) for p in load_prompts(prompts)] == [
        ("Why are you late?", ("stay-calm",)),
        ("Are you angry?", ("stay-calm", "ask-before-act")),
        ("Delete it all!", ("ask-before-act",)),
    ]
    with pytest.raises(UserError, match=r"c\.yaml: exists"):
        run("import", path, "--out", out)
    done = run("export", out, "--format", "character")
    assert json.loads(done.stdout) == TRAITS
    assert "not kept: the constitution's name: the format has no place for it" not in done.stderr


def test_the_commands_reports_as_json(tmp_path):
    path = write(tmp_path, "groups.csv", GROUPS)
    said = json.loads(run("import", path, "--json", "--name", "town").stdout)
    assert said["files"][0]["entries"] == said["files"][0]["principles"] == 2
    assert said["constitution"]["name"] == "town"
    assert said["constitution"]["principles"][0]["source"]["votes"][1] == {
        "group": "a",
        "agrees": 9,
        "disagrees": 1,
        "passes": 0,
    }
    out = tmp_path / "c.yaml"
    run("import", path, "--out", out)
    said = json.loads(run("export", out, "--format", "anthropic-rl", "--json").stdout)
    assert said["not_kept"]["votes"] == {
        "reason": "the format has no place for it",
        "principles": ["statement-4", "statement-5"],
    }
    assert json.loads(said["text"]) == [
        "\nIt should be honest, always. Options:",
        "\nIt should obey. Options:",
    ]


def test_several_files_make_one_constitution_in_which_ids_stay_apart(tmp_path):
    first, second = write(tmp_path, "a.txt", TRAITS), write(tmp_path, "b.txt", TRAITS[:1])
    constitution, reports = import_files([first, second])
    assert constitution.ids == ["stay-calm", "ask-before-act", "stay-calm-2"]
    assert reports[1].renamed == {"stay-calm": "stay-calm-2"}
    assert constitution.name == "a+b"


def test_an_unknown_format_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match='did you mean "anthropic-sl"'):
        import_files([write(tmp_path, "a.json", SL)], "anthropic-s1")


def test_every_format_recognises_what_it_writes(tmp_path):
    constitution = Constitution(name="c", principles=(FULL, BARE))
    for name, format in FORMATS.items():
        path = tmp_path / f"{name}{format.suffix}"
        path.write_text(format.write(constitution))
        assert recognised(Document.load(path)).name == name


PAGE = Path(__file__).parent.parent / "docs" / "constitution-formats.md"
SECTIONS = dict(re.findall(r"\n### `([a-z-]+)`\n(.*?)(?=\n### `|\Z)", PAGE.read_text(), re.DOTALL))


def test_the_page_has_a_section_for_every_format():
    assert list(SECTIONS) == list(FORMATS)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_the_pages_example_is_read_as_it_says(tmp_path, name):
    file, content = re.search(r"```\w+ (\S+)\n(.*?)\n```", SECTIONS[name], re.DOTALL).groups()
    report = read(tmp_path, file, content)[1]
    assert report.format == name
    kept = re.search(r"Comes back: ([^.]*)\.", SECTIONS[name])[1]
    fields = [field for field in FIELDS if field not in (*FORMATS[name].cannot_keep, "votes", "kept")]
    fields += [field for field in NAMES if field not in (*FORMATS[name].loses, "kept")]
    assert re.findall(r"`(\w+)`", kept) == fields


def test_the_pages_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "pairs.json", SL)
    commands = re.findall(r"^rlaif constitution (.*)$", PAGE.read_text(), re.MULTILINE)
    assert [run(*command.split()).exit_code for command in commands] == [0, 0]
    assert (tmp_path / "mine.md").read_text().startswith("# pairs\n\n## `kind0`\n\nMake it kind.\n")

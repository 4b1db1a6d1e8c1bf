"""Prompts from files and data sets of every kind: what is read, counted, dropped and refused."""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rlaif import pipeline
from rlaif.cli import app
from rlaif.config import Config, load_config
from rlaif.errors import UserError
from rlaif.options.data import PromptSourceOptions
from rlaif.prompting.prompt_files import left_out_in_words, load_prompts, read_prompts
from rlaif.prompting.tables import kind_of
from rlaif.records import Prompt
from rlaif.runs.folder import Run
from rlaif.runs.storage import read_json
from rlaif.yamlfile import load_yaml

PAGE = Path(__file__).parent.parent / "docs" / "prompts.md"
BASIL, RIVER = "How do I store basil?", "Name a river."


def texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.messages[-1].content for prompt in prompts]


def source(path: Path, **keys: str) -> PromptSourceOptions:
    return PromptSourceOptions(path=str(path), **keys)  # type: ignore[arg-type]


def examples() -> list[tuple[str, str, str]]:
    """(file, what it holds, the YAML after it) of every example of the page."""
    return re.findall(r"```\w+ (\S+)\n(.*?)```\n\n```yaml\n(.*?)```", PAGE.read_text(), re.S)


@pytest.mark.parametrize(("name", "held", "said"), examples(), ids=lambda text: text[:20])
def test_every_example_of_the_page_holds_the_same_two_prompts(tmp_path, name, held, said):
    (tmp_path / name).write_text(held)
    (tmp_path / "c.yaml").write_text(said)
    data = load_yaml(tmp_path / "c.yaml")[0]["prompts"]
    given_ = PromptSourceOptions.model_validate(data)
    found = read_prompts(given_.model_copy(update={"path": str(tmp_path / name)}))
    assert texts(found.prompts) == [BASIL, RIVER]
    assert found.counts["kept"] == found.counts["in"] == 2
    turns = [message.role for message in found.prompts[1].messages]
    if "Be brief." in held:
        assert turns[0] == "system"
    if "Hello." in held:  # earlier turns are kept
        assert turns[-3:] == ["user", "assistant", "user"]
    if "basil," in held or '"group"' in held:
        assert (found.prompts[0].group, found.prompts[0].tags) == ("basil", ("safe",))
    assert all(prompt.id == prompt.content_id for prompt in found.prompts)


def test_the_page_has_an_example_of_each_format_and_its_command_runs(tmp_path):
    assert len(examples()) == 7
    command = re.search(r"```\nrlaif (constitution lint .*?)\n```", PAGE.read_text())
    assert command
    answer = CliRunner().invoke(app, command[1].split())
    assert answer.exit_code == 0, answer.output
    assert "principles" in answer.output


def test_parquet_a_saved_data_set_and_the_hub(tmp_path, monkeypatch):
    import datasets

    rows = [
        {"prompt": [{"role": "user", "content": BASIL}], "n": 1, "group": 7},
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": RIVER}],
            "n": 2,
            "group": 8,
        },
    ]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(str(tmp_path / "rows.bin"))
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(str(tmp_path / "splits"))
    whole = load_prompts(tmp_path / "rows.bin")
    assert (texts(whole), [p.group for p in whole]) == ([BASIL, RIVER], ["7", "8"])
    assert [p.id for p in load_prompts(tmp_path / "one")] == [p.id for p in whole]
    assert texts(load_prompts(source(tmp_path / "splits", split="test"))) == [RIVER]
    for keys, message in (({}, "several splits"), ({"split": "dev"}, 'no split "dev"')):
        with pytest.raises(UserError, match=f"(?s){message}.*train, test"):
            load_prompts(source(tmp_path / "splits", **keys))
    with pytest.raises(UserError, match="one table, not splits"):
        load_prompts(source(tmp_path / "one", split="test"))
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="none that save_to_disk"):
        load_prompts(tmp_path / "other")

    seen = []

    def load_dataset(name, subset, *, split):
        seen.append((name, subset, split))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    asked = PromptSourceOptions(hub="owner/name", subset="s", split="train")
    assert [p.id for p in load_prompts(asked)] == [p.id for p in whole]
    assert seen == [("owner/name", "s", "train")]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match=r"owner/name \(train\): datasets cannot read it"):
        load_prompts(asked)


def test_a_damaged_data_set_is_a_message(tmp_path):
    import datasets

    datasets.Dataset.from_list([{"prompt": BASIL}]).save_to_disk(str(tmp_path / "one"))
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(UserError, match="datasets cannot read it"):
        load_prompts(tmp_path / "one")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "none.parquet").write_bytes(b"text")
    for name in ("cut.parquet", "none.parquet"):
        with pytest.raises(UserError, match=name):
            load_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.txt", "Grüße\n".encode("utf-16"), "UTF-16 text.*iconv -f UTF-16"),
        (
            "p.txt",
            "Hi\nGr\xfc\xdfe\n".encode("latin-1"),
            r"p.txt:2: not UTF-8 text \(byte 0xFC\).*ISO-8859-1",
        ),
        ("p.csv", "prompt\nGr\xfc\n".encode("latin-1"), "p.csv:2: not UTF-8"),
        ("p.jsonl", '{"prompt": "Hi"}\n'.encode("utf-16-le"), "p.jsonl:1: holds a zero byte.*UTF-16LE"),
        ("p.txt", "Hi\n".encode("utf-32"), "UTF-32 text.*iconv -f UTF-32 "),
        ("p.csv", "prompt\nHi\n".encode("utf-16-be"), "p.csv:1: holds a zero byte.*iconv -f UTF-16BE"),
        ("a b.csv", b"prompt\nit\x92s\n", "iconv -f CP1252 -t UTF-8 '/.*/a b.csv' > '/.*/utf8_a b.csv'"),
        ("p.csv", b"prompt\nh\0i\n", "p.csv:2: holds a zero byte"),
        ("p.csv", b"prompt\rHi\rHo\r", "p.csv:1: a carriage return without a line feed"),
        ("p.csv", b'{"prompt": "Hi"}\n{"prompt": "Ho"}\n', "begins with a brace, as JSON does.*format: json"),
        ("p.jsonl", b'{"prompt": "h\\u0000i"}\n', "holds no prompt \\(1 × a zero byte in its text"),
        (
            "p.jsonl",
            b'{"messages": [{"role": "user", "content": "h\\u0000i"}]}\n',
            "p.jsonl:1: a zero byte in its text",
        ),
        ("p.jsonl", b'{"prompt": "Hi", "n": ' + b"9" * 5000 + b"}\n", "p.jsonl:1: .*more than 4,300 digits"),
        ("p.json", b'[{"n": -' + b"9" * 5000 + b"}]", "p.json: .*more than 4,300 digits"),
        ("p", b'{"prompt": "Hi", "n": ' + b"9" * 5000 + b"}\n", "p:1: .*more than 4,300 digits"),
        ("p.jsonl", b'{"prompt": ' + b"[" * 100000 + b"]" * 100000 + b"}\n", "p.jsonl:1: nested too deeply"),
        ("p.jsonl", b'{"prompt": "Hi"}\n{"prompt": \n', "p.jsonl:2: not JSON"),
        ("p.jsonl", b'{"prompt": "Hi", "prompt": "Ho"}\n', 'p.jsonl:1: the key "prompt" stands twice'),
        ("p.jsonl", b"How are you?\n", "p.jsonl:1: not JSON.*format: text"),
        ("p.json", b'[{"prompt": "Hi"},', "p.json: not JSON"),
        ("p.txt", b"[\n  1\n]\n", "JSON over several lines, or text"),
        ("p.csv", b"question,topic\nHi,a\n", "which column holds the prompt. There are question, topic"),
        ("p.csv", b"prompt,topic\nHi, all,a\n", "p.csv:2: 3 cells, but 2 columns"),
        ("p.csv", b'prompt,topic\n"Hi,a\n', "p.csv:2: unexpected end of data"),
        ("p.csv", b"prompt,prompt\nHi,a\n", 'p.csv:1: the column "prompt" stands twice'),
        ("p.jsonl", b'{"prompt": "Hi", "messages": []}\n', "which column holds the prompt"),
        ("p.jsonl", b'{"prompt": 3}\n{"x": 1}\n', "holds no prompt \\(2 × neither a text nor a list"),
        ("p.jsonl", b'{"prompt": "a", "group": "g"}\n{"prompt": "a", "group": "h"}\n', ':2: the group "h"'),
        ("p.txt", b"", "holds no prompt"),
        ("p.txt", b"\n \n\n", "holds no prompt"),
        ("p.txt.gz", gzip.compress(b"Hi\n" * 99, mtime=0)[:-9], "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_prompts(tmp_path / name)


def test_a_named_column_must_be_there(tmp_path):
    (tmp_path / "p.csv").write_text("question,topic\nHi,a\n")
    assert texts(load_prompts(source(tmp_path / "p.csv", column="question"))) == ["Hi"]
    for key in ("column", "system", "group", "tags"):
        with pytest.raises(UserError, match=r'p.csv:2: no column "questio" — did you mean "question"\?'):
            load_prompts(source(tmp_path / "p.csv", **{"column": "question", key: "questio"}))
    (tmp_path / "p.txt").write_text("Hi\n")
    with pytest.raises(UserError, match="the rows are texts"):
        load_prompts(source(tmp_path / "p.txt", column="question"))


def test_columns_of_other_names(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,rule,kind,system\nHi,Be brief.,a; b,no\nHo,,,no\n")
    one, two = load_prompts(source(tmp_path / "p.csv", system="rule", tags="kind"))
    assert [(m.role, m.content) for m in one.messages] == [("system", "Be brief."), ("user", "Hi")]
    assert (one.tags, two.tags, len(two.messages)) == (("a; b",), (), 1)


def test_a_format_is_recognised_or_named(tmp_path):
    (tmp_path / "p.txt").write_text('{"prompt": "Hi"}\n')
    assert texts(load_prompts(tmp_path / "p.txt")) == ["Hi"]
    assert texts(load_prompts(source(tmp_path / "p.txt", format="text"))) == ['{"prompt": "Hi"}']
    (tmp_path / "q.txt").write_text("\ufeffprompt;group\nHi, you;a\n", encoding="utf-8")
    assert texts(load_prompts(tmp_path / "q.txt")) == ["prompt;group", "Hi, you;a"]
    (found,) = load_prompts(source(tmp_path / "q.txt", format="csv"))
    assert (found.messages[0].content, found.group) == ("Hi, you", "a")
    (tmp_path / "p.tsv.gz").write_bytes(gzip.compress(b'prompt\ttags\n"two\nlines"\tx, y\n'))
    (found,) = load_prompts(tmp_path / "p.tsv.gz")
    assert (found.messages[0].content, found.tags) == ("two\nlines", ("x", "y"))
    assert kind_of(tmp_path / "p.tsv.gz") == "csv"


def test_other_rows_are_dropped_with_their_reasons(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "in parts"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        {"messages": [{"role": "tool", "content": "x"}, {"role": "user", "content": "c"}]},
        {"messages": [{"role": "user", "content": "c"}, {"role": "system", "content": "d"}]},
        {"messages": [{"role": "assistant", "content": "d"}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": []},
        {"other": 1},
        {"messages": "a"},
        {"messages": "\ud800"},
        {"messages": "e", "tags": [1]},
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "c"}], "system": "y"},
        ["a"],
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_prompts(source(tmp_path / "p.jsonl", column="messages"))
    assert texts(found.prompts) == ["a", "in parts"]
    assert found.counts == {
        "in": 14,
        "kept": 2,
        "repeated": 1,
        "responses_left_out": 1,
        "dropped": {
            "a row without columns": 1,
            "a turn of neither system, user nor assistant": 1,
            "a turn that is not text": 1,
            "a user's turn is empty": 1,
            "neither a text nor a list of turns": 2,
            "no user's turn to respond to": 1,
            "not valid Unicode text": 1,
            "tags that are neither a list of texts nor a text": 1,
            "the conversation ends with the system's turn": 1,
            "two system prompts": 1,
        },
    }
    said = left_out_in_words(found.counts, "p.jsonl")
    assert said.startswith("p.jsonl: 2 prompts of 14 rows; dropped: 1 × a row without columns, ")
    assert said.endswith(
        "merged, with the tags of both; 1 conversations end with a response, which is left out"
    )
    assert (
        left_out_in_words({**found.counts, "dropped": {}, "repeated": 0, "responses_left_out": 0}, "p") == ""
    )


def test_a_run_keeps_the_prompts_and_says_what_it_left_out(project):
    rows = ["question,topic", *(f"Question {n}?,{n % 20}" for n in range(60)), " ,x", "Question 1?,1"]
    (project / "q.csv").write_text("\n".join(rows) + "\n")
    options = ["prompts.path=q.csv", "prompts.column=question", "prompts.group=topic"]
    told: list[str] = []
    run = pipeline.run(project / "config.yaml", project / "run", options, until="sample", tell=told.append)
    counts = {"in": 62, "kept": 60, "repeated": 1, "responses_left_out": 0, "dropped": {"an empty text": 1}}
    assert run.manifest["prompt_rows"] == counts
    assert any("60 prompts of 62 rows; dropped: 1 × an empty text" in line for line in told)
    splits = {split: {p.group for p in run.prompts(split)} for split in ("train", "heldout")}
    assert not splits["train"] & splits["heldout"]
    shown = CliRunner().invoke(app, ["show", str(run.path)]).output
    assert re.search(r"prompts\W+read\W+0\.0\W+62\W+60\W+1 × an empty text", shown)
    (project / "q.csv").write_text("question,topic\nOther?,1\n")
    with pytest.raises(UserError, match=r"the content of prompts\.path"):
        pipeline.run(project / "config.yaml", project / "run", options, until="sample")


def test_a_path_alone_is_kept_as_the_text_it_was(project):
    config = load_config(project / "config.yaml")
    assert config.model_dump(mode="json")["prompts"] == "prompts.jsonl"
    run = pipeline.run(project / "config.yaml", project / "run", until="sample")
    assert read_json(run.path / "config.json")["prompts"] == str(project / "prompts.jsonl")
    assert Run.load(run.path).config == run.config
    schema = Config.model_json_schema()
    assert {"type": "string"} in schema["$defs"]["PromptSourceOptions"]["anyOf"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{}", "exactly one of path and hub"),
        ("{path: p.jsonl, hub: a/b, split: x}", "exactly one of path and hub"),
        ("{hub: a/b}", "needs a split"),
        ("{hub: a/b, split: x, format: csv}", "takes no format"),
        ("{path: p.jsonl, subset: x}", "subset goes with hub"),
        ("{path: p.jsonl, colum: x}", 'unknown key "colum" — did you mean "column"'),
        ("3", "should be a path, or keys"),
        ("{path: none.txt}", "none.txt: no such file"),
    ],
)
def test_what_prompts_may_not_say(project, value, message):
    with pytest.raises(UserError, match=message):
        pipeline.dry_run(project / "config.yaml", [f"prompts={value}"])


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, min_size=1, max_size=8, unique=True))
def test_one_list_of_texts_is_the_same_prompts_in_every_format(tmp_path, words):
    table = io.StringIO()
    csv.writer(table).writerows([("prompt", "n"), *((word, n) for n, word in enumerate(words))])
    conversation = [{"from": "human", "value": word} for word in words]
    files = {
        "a.jsonl": "".join(json.dumps({"prompt": word}) + "\n" for word in words),
        "b.json": json.dumps([{"conversations": [turn]} for turn in conversation], indent=1),
        "c.csv": table.getvalue(),
        "d.jsonl": "".join(json.dumps(word) + "\n" for word in words),
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
        found = read_prompts(tmp_path / name)
        assert texts(found.prompts) == words, name
        assert [p.id for p in found.prompts] == [
            Prompt.model_validate({"messages": [{"role": "user", "content": word}]}).id for word in words
        ]
    (tmp_path / "e.txt").write_bytes("\r\n".join(words).encode())
    assert texts(load_prompts(source(tmp_path / "e.txt", format="text"))) == words


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "user", "x"]), part, max_size=3
        )
    ),
    max_leaves=8,
)
ROWS = st.dictionaries(
    st.sampled_from(["prompt", "messages", "conversations", "chosen", "rejected", "system", "tags", "group"]),
    JSON,
    max_size=4,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS | JSON, max_size=6), st.sampled_from([None, "prompt", "messages"]))
def test_whatever_the_rows_hold_all_are_counted_or_the_file_is_refused(tmp_path, rows, column):
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        found = read_prompts(PromptSourceOptions(path=str(tmp_path / "f.jsonl"), column=column))
    except UserError:
        return
    assert found.counts["in"] == len(rows) == len(found.prompts) + found.repeated + found.dropped.total()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["f.txt", "f.csv", "f.jsonl", "f.json", "f.parquet", "f"]))
def test_whatever_the_bytes_are_they_are_prompts_or_a_message(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    try:
        found = read_prompts(tmp_path / name)
    except UserError:  # any other error fails the test
        return
    assert found.read == len(found.prompts) + found.repeated + found.dropped.total()


def test_long_cells_are_read_and_doubled_columns_of_parquet_refused(tmp_path):
    import pyarrow
    import pyarrow.parquet

    long = "word " * 40_000
    (tmp_path / "long.csv").write_text(f'prompt,n\n"{long}",1\n')
    (prompt,) = load_prompts(tmp_path / "long.csv")
    assert len(prompt.messages[0].content) > 131_072
    table = pyarrow.table([["a"], ["b"]], names=["prompt", "prompt"])
    pyarrow.parquet.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match='"prompt" stands twice'):
        load_prompts(tmp_path / "twice.parquet")


def test_a_lone_carriage_return_is_a_message(tmp_path):
    (tmp_path / "f.csv").write_bytes(b"\r\x01")
    with pytest.raises(UserError):
        load_prompts(tmp_path / "f.csv")


def test_a_zero_byte_and_an_empty_group_of_a_data_frame_are_counted_and_left_out(tmp_path):
    rows = [
        {"prompt": "h\0i"},
        {"prompt": "Hi", "group": float("nan")},
        {"prompt": "Ho", "group": "g"},
        {"prompt": "Hm", "system": "a\0b"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_prompts(tmp_path / "p.jsonl")
    assert [(p.messages[-1].content, p.group) for p in found.prompts] == [("Hi", ""), ("Ho", "g")]
    assert dict(found.dropped) == {"a zero byte in its text": 2}

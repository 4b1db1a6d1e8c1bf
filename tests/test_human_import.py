"""Importing preference data: what is kept, what is dropped and why, and that nothing is lost on the way
back."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.errors import UserError
from rlaif.human.exporters import export_file
from rlaif.human.formats import ImportedRow
from rlaif.human.formats.dialogues import hh_pair, hh_row
from rlaif.human.importers import FILES, import_file, import_hh
from rlaif.prompting.conversations import Unusable, parse_dialogue
from rlaif.records import Comparison, Label, Prompt, Response
from rlaif.runs.folder import read_json
from rlaif.runs.rows import read_rows


def hh(question: str, chosen: str, rejected: str) -> dict[str, str]:
    return {
        "chosen": f"\n\nHuman: {question}\n\nAssistant: {chosen}",
        "rejected": f"\n\nHuman: {question}\n\nAssistant: {rejected}",
    }


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_row_becomes_prompt_two_responses_comparison_and_label(tmp_path):
    source = write(tmp_path / "x.jsonl", [hh("Hi?", "Hello.", "Go away.")])
    summary = import_hh(source, tmp_path / "out", tags=["risky"])
    [prompt] = read_rows(tmp_path / "out/prompts.jsonl", Prompt)
    texts = {r.id: r.text for r in read_rows(tmp_path / "out/responses.jsonl", Response)}
    [pair] = read_rows(tmp_path / "out/comparisons.jsonl", Comparison)
    [label] = read_rows(tmp_path / "out/labels.jsonl", Label)
    assert prompt.chat == [{"role": "user", "content": "Hi?"}]
    assert prompt.tags == ("risky",)
    assert pair.origin == "import"
    assert {texts[pair.a], texts[pair.b]} == {"Hello.", "Go away."}
    assert texts[pair.a if label.verdict == "a" else pair.b] == "Hello."
    assert label.p_a == (1.0 if label.verdict == "a" else 0.0)
    assert (label.annotator.kind, label.annotator.id) == ("human", "hh-rlhf")
    assert (summary["in"], summary["kept"], summary["dropped"]) == (1, 1, {})
    assert read_json(tmp_path / "out/import.json") == summary


def test_every_dropped_row_has_one_reason(tmp_path):
    rows = [
        hh("q", "good", "bad"),
        hh("q", "good", "bad"),
        hh("q", "bad", "good"),
        hh("q", "", "bad"),
        hh("q", "good", "  \n"),
        hh("q", "", ""),
        hh("q", "same ", "same"),
        {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"},
        {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: b\n\nAssistant: y"},
        {
            "chosen": "\n\nHuman: q\n\nAssistant: x\n\nAssistant: y",
            "rejected": "\n\nHuman: q\n\nAssistant: x\n\nAssistant: z",
        },
        {"chosen": True, "rejected": "\n\nHuman: q\n\nAssistant: y"},
        {"chosen": "\n\nHuman: q\n\nAssistant: x"},
        "text",
        7,
        None,
        hh("q\ud800", "x", "y"),
    ]
    source = write(tmp_path / "x.jsonl", rows)
    source.write_text(source.read_text() + '{"chosen": \n[' + "[" * 5000 + "\n")
    summary = import_hh(source, tmp_path / "out")
    assert summary["dropped"] == {
        "chosen or rejected is not text": 2,
        "contradicts an earlier row": 1,
        "empty chosen response": 3,
        "empty rejected response": 1,
        "identical responses": 1,
        "no shared prefix": 1,
        "not JSON": 2,
        "not an object": 3,
        "not valid Unicode text": 1,
        "repeats an earlier row": 1,
        "turns do not begin and end with Human": 1,
    }
    assert summary["in"] == 18 == summary["kept"] + sum(summary["dropped"].values())


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("\n\nHuman: q", (("user", "q"),)),
        ("Human: q", (("user", "q"),)),
        ("\n\nHuman:q", (("user", "q"),)),
        ("\n\nHuman: q\n\nAssistant: \n\nHuman: r", (("user", "q"), ("assistant", ""), ("user", "r"))),
        ("\n\nHuman: a Human: b\nAssistant: c", (("user", "a Human: b\nAssistant: c"),)),
        (
            "\n\nHuman: q\n\nAssistant: x\n\nAssistant:  y\n\nHuman: r",
            (("user", "q"), ("assistant", "x\n\nAssistant:  y"), ("user", "r")),
        ),
        ("\n\nHuman: q\n\nHuman: r", (("user", "q\n\nHuman: r"),)),
        ("\n\nHuman: q\n\nAssistant: x", None),
        ("\n\nAssistant: x\n\nHuman: q", None),
        ("\n\nHuman:  ", None),
        ("Once upon a time\n\nHuman: q", None),
        ("", None),
    ],
)
def test_dialogues(text, turns):
    assert parse_dialogue(text) == turns


def test_eighteen_human_turns():
    text = "".join(f"\n\nHuman: q{i}\n\nAssistant: a{i}" for i in range(17)) + "\n\nHuman: q17"
    turns = parse_dialogue(text)
    assert turns is not None
    assert len(turns) == 35
    assert turns[-1] == ("user", "q17")


texts = st.text(st.sampled_from('ab :\n\u2028é"\\') | st.characters(exclude_categories=["Cs"]), max_size=20)
plain = texts.filter(lambda t: "Human:" not in t and "Assistant:" not in t)


@given(st.lists(plain, min_size=0, max_size=6), plain.filter(str.strip), plain, plain)
def test_what_is_written_is_read_back(history, question, chosen, rejected):
    if len(history) % 2:
        history.pop()
    turns = (*zip(("user", "assistant") * 3, history, strict=False), ("user", question))
    back = hh_pair(hh_row(turns, chosen, rejected))
    if chosen.strip() and rejected.strip():
        assert isinstance(back, ImportedRow)
        assert (back.messages, back.responses) == (turns, (chosen, rejected))
    else:
        assert isinstance(back, Unusable)


pieces = st.lists(st.sampled_from(["\n\nHuman:", "\n\nAssistant:", "Human:", " ", "a", "\n"])).map("".join)


@given(pieces | texts)
def test_any_text_parses_to_alternating_turns_that_hold_all_of_it(text):
    turns = parse_dialogue(text)
    if turns is not None:
        assert [role for role, _ in turns] == (["user", "assistant"] * len(turns))[: len(turns)]
        names = {"user": "Human:", "assistant": "Assistant:"}
        again = "".join(names[role] + content for role, content in turns)
        assert "".join(again.split()) == "".join(text.split())


scalars = st.none() | st.booleans() | st.integers() | pieces
json_rows = (
    scalars | st.lists(scalars, max_size=2) | st.fixed_dictionaries({"chosen": scalars, "rejected": scalars})
)


@given(json_rows)
def test_no_row_whatever_it_holds_stops_the_import(row):
    assert isinstance(hh_pair(row), ImportedRow | Unusable)


def test_same_input_same_bytes_and_again_into_the_same_folder(tmp_path):
    source = write(tmp_path / "x.jsonl", [hh(f"q{i}", "good", "bad") for i in range(20)])
    import_hh(source, tmp_path / "one")
    import_hh(source, tmp_path / "two")
    before = {name: (tmp_path / f"one/{name}.jsonl").read_bytes() for name in FILES}
    import_hh(source, tmp_path / "one")
    assert before == {name: (tmp_path / f"one/{name}.jsonl").read_bytes() for name in FILES}
    assert before == {name: (tmp_path / f"two/{name}.jsonl").read_bytes() for name in FILES}
    assert not list(tmp_path.glob("*/*.partial"))


def test_the_better_answer_is_not_always_a(tmp_path):
    source = write(tmp_path / "x.jsonl", [hh(f"q{i}", "good", "bad") for i in range(200)])
    import_hh(source, tmp_path / "out")
    verdicts = [label.verdict for label in read_rows(tmp_path / "out/labels.jsonl", Label)]
    assert 70 < verdicts.count("a") < 130


def test_gzip_is_seen_by_content_and_a_byte_order_mark_is_skipped(tmp_path):
    line = "\ufeff" + json.dumps(hh("q", "é", "x"), ensure_ascii=False) + "\n"
    (tmp_path / "odd-name").write_bytes(gzip.compress(line.encode()))
    (tmp_path / "plain.jsonl").write_bytes(line.encode())
    assert import_hh(tmp_path / "odd-name", tmp_path / "a")["kept"] == 1
    assert import_hh(tmp_path / "plain.jsonl", tmp_path / "b")["kept"] == 1


def test_limit_reads_the_first_rows_only(tmp_path):
    source = write(
        tmp_path / "x.jsonl", [hh("q0", "", "bad"), *(hh(f"q{i}", "good", "bad") for i in range(9))]
    )
    summary = import_hh(source, tmp_path / "out", limit=4)
    assert (summary["in"], summary["kept"], summary["limit"]) == (4, 3, 4)


def test_a_folder_with_another_import_is_refused(tmp_path):
    import_hh(write(tmp_path / "x.jsonl", [hh("q", "good", "bad")]), tmp_path / "out")
    other = write(tmp_path / "y.jsonl", [hh("r", "good", "bad")])
    with pytest.raises(UserError, match=r"holds another import.*source, sha256"):
        import_hh(other, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b'{"prompt": "x"}\n', "1 × chosen or rejected is not text"),
        (b"\xff\xfe", "UTF-16"),
        (gzip.compress(b"{}\n" * 2000, mtime=0)[:-12], "cannot be read"),
        (b"\x1f\x8b broken", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=message):
        import_hh(tmp_path / "x", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("where", ["question", "source"])
def test_a_lone_surrogate_anywhere_in_a_row_is_a_row_that_cannot_be_used(tmp_path, where):
    question, source = ("\ud83d", "x") if where == "question" else ("x", "\ud83d")
    form = "###The instruction to evaluate:\n{}\n\n###Response to evaluate:\n{}\n\n###Score Rubrics:"
    row = {
        "chosen_instruction": form.format(question, "a"),
        "rejected_instruction": form.format(question, "b"),
        "source": source,
    }
    (tmp_path / "x.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match="1 × not valid Unicode text"):
        import_file("hhh", tmp_path / "x.json", tmp_path / "out")


def test_missing_file_and_unknown_format(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        import_hh(tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(UserError, match='did you mean "hh"'):
        import_file("hhr", tmp_path / "none.jsonl", tmp_path / "out")


def test_export_leaves_out_what_the_format_cannot_hold_and_counts_it(tmp_path):
    folder = tmp_path / "out"
    import_hh(write(tmp_path / "x.jsonl", [hh("q", "good", "bad")]), folder)
    prompt = Prompt.model_validate(
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]}
    )
    a, b = (Response(prompt_id=prompt.id, text=text) for text in ("x", "y"))
    odd = Comparison(prompt_id=prompt.id, a=a.id, b=b.id)
    tie = Comparison(prompt_id=prompt.id, a=b.id, b=a.id)
    label = read_rows(folder / "labels.jsonl", Label)[0]
    more = {
        "prompts": [prompt],
        "responses": [a, b],
        "comparisons": [odd, tie],
        "labels": [
            label.model_copy(update={"id": c.id, "comparison_id": c.id, "p_a": p, "verdict": v})
            for c, p, v in ((odd, 1.0, "a"), (tie, 0.5, "tie"))
        ],
    }
    for name, rows in more.items():
        with (folder / f"{name}.jsonl").open("a") as file:
            file.write("".join(row.to_json() + "\n" for row in rows))
    counts = export_file(folder, "hh", tmp_path / "back.jsonl")
    assert counts == {"in": 3, "kept": 1, "dropped": {"the format cannot hold it": 1, "no winner": 1}}
    assert json.loads((tmp_path / "back.jsonl").read_text()) == hh("q", "good", "bad")


def test_the_real_file_there_and_back(tmp_path, test_data):
    source = test_data / "hh_rlhf/harmless-base-test.jsonl.gz"
    summary = import_hh(source, tmp_path / "hh")
    assert summary["in"] == 2312
    assert summary["kept"] == 2303
    assert summary["dropped"] == {"empty chosen response": 4, "no shared prefix": 5}
    prompts = read_rows(tmp_path / "hh/prompts.jsonl", Prompt)
    assert max(sum(m.role == "user" for m in p.messages) for p in prompts) == 18
    assert all(p.messages[-1].role == "user" for p in prompts)
    verdicts = [label.verdict for label in read_rows(tmp_path / "hh/labels.jsonl", Label)]
    assert 0.47 < verdicts.count("a") / len(verdicts) < 0.53
    assert export_file(tmp_path / "hh", "hh", tmp_path / "back.jsonl") == {
        "in": 2303,
        "kept": 2303,
        "dropped": {},
    }
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        original = [json.dumps(json.loads(line)) for line in lines]
    back = [json.dumps(json.loads(line)) for line in (tmp_path / "back.jsonl").open(encoding="utf-8")]
    kept = set(back)
    assert back == [row for row in original if row in kept]
    import_hh(tmp_path / "back.jsonl", tmp_path / "again")
    for name in FILES:
        assert (tmp_path / f"again/{name}.jsonl").read_bytes() == (tmp_path / f"hh/{name}.jsonl").read_bytes()

"""The run folder's rows: whole or not at all, each id once, whatever moment a process dies at."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config import load_config
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.records import Label, Prompt, Ranking, Response
from rlaif.runs.folder import Run, derive_seed, is_heldout, read_json, write_json
from rlaif.runs.rows import Rows, read_rows
from tests.fake_run import fake_run

text = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\n\r\u2028\x85\x00"\\'), max_size=12
)


def response(n: int, words: str = "é") -> Response:
    return Response(prompt_id=f"p{n}", text=f"{words}{n}")


def test_rows_come_back_in_order_and_each_id_once(tmp_path):
    rows = Rows(tmp_path / "r.jsonl", Response)
    rows.append([response(1), response(2), response(1)])
    rows.append([response(2), response(3)])
    assert [row.text for row in rows] == ["é1", "é2", "é3"]
    again = Rows(tmp_path / "r.jsonl", Response)
    assert len(again) == 3
    assert response(2).id in again
    assert list(again) == list(rows)


def test_no_file_is_no_rows(tmp_path):
    rows = Rows(tmp_path / "r.jsonl", Response)
    assert (len(rows), list(rows)) == (0, [])
    rows.append([])
    assert not (tmp_path / "r.jsonl").exists()


def test_a_line_torn_anywhere_is_written_again(tmp_path):
    path = tmp_path / "r.jsonl"
    Rows(path, Response).append([response(1), response(2)])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(0, len(whole), 3):
        path.write_bytes(whole[:cut])
        rows = Rows(path, Response)
        assert len(rows) == (1 if cut >= first else 0)
        rows.append([response(1), response(2)])
        assert path.read_bytes() == whole


def test_a_reader_leaves_alone_what_a_writer_has_not_finished(tmp_path):
    path = tmp_path / "r.jsonl"
    writer = Rows(path, Response)
    writer.append([response(1)])
    half = response(2).to_json()[:20]
    with path.open("a") as file:
        file.write(half)
        file.flush()
        assert [row.text for row in Rows(path, Response)] == ["é1"]
        file.write(response(2).to_json()[20:] + "\n")
    assert [row.text for row in Rows(path, Response)] == ["é1", "é2"]


def test_a_finished_run_may_be_read_only(tmp_path):
    path = tmp_path / "r.jsonl"
    Rows(path, Response).append([response(1)])
    before = path.stat().st_mtime_ns
    path.chmod(0o444)
    assert len(list(Rows(path, Response))) == 1
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [b"garbage\n", b"[]\n", b"{}\n", b'{"id": "\xff"}\n', b"\x00\x00\n"])
def test_a_damaged_row_is_named(tmp_path, damage):
    path = tmp_path / "r.jsonl"
    Rows(path, Response).append([response(1)])
    with path.open("ab") as file:
        file.write(damage)
    with pytest.raises(UserError, match=r"r\.jsonl:2: damaged row"):
        Rows(path, Response)


@given(st.lists(text, unique=True, max_size=8), st.integers(0, 400))
def test_any_text_survives_writing_tearing_and_continuing(tmp_path_factory, texts, cut):
    path = tmp_path_factory.mktemp("rows") / "r.jsonl"
    made = [Response(prompt_id="p", text=t) for t in texts]
    Rows(path, Response).append(made)
    if path.exists():
        path.write_bytes(path.read_bytes()[:cut])
    rows = Rows(path, Response)
    rows.append(made)
    assert list(Rows(path, Response)) == made
    assert read_rows(path, Response) == made if made else not path.exists()


WRITER = """
import sys
from pathlib import Path
from rlaif.records import Response
from rlaif.runs.rows import Rows
rows = Rows(Path(sys.argv[1]), Response)
print("ready", flush=True)
for start in range(0, 400_000, 50):
    rows.append(Response(prompt_id=f"p{n}", text="x" * (n % 97)) for n in range(start, start + 50))
"""


def test_kill_nine_loses_and_repeats_nothing(tmp_path):
    path = tmp_path / "r.jsonl"
    for delay in (0.02, 0.05, 0.11):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    # Whatever was there is a prefix of what one uninterrupted process writes.
    rows = list(Rows(path, Response))
    assert [row.prompt_id for row in rows] == [f"p{n}" for n in range(len(rows))]
    assert len({row.id for row in rows}) == len(rows) > 0


def test_a_user_file_may_have_blank_lines_a_mark_and_windows_ends(tmp_path):
    row = Prompt.model_validate({"messages": [{"role": "user", "content": "a\u2028b"}]})
    path = tmp_path / "p.jsonl"
    path.write_bytes(("\ufeff" + row.to_json() + "\r\n\r\n" + row.to_json()).encode())
    assert read_rows(path, Prompt) == [row, row]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"p\.jsonl:3: line: Invalid JSON"),
        ('{"mesages": []}', r"p\.jsonl:3: messages is missing\."),
        ('{"messages": []}', r"p\.jsonl:3: messages: Tuple should have at least 1 item"),
        (
            '{"messages": [{"role": "human", "content": "x"}]}',
            r"p\.jsonl:3: messages.0.role: \"human\", which should be 'system'",
        ),
        (
            '{"messages": [{"role": "user", "content": true}]}',
            r"p\.jsonl:3: messages.0.content: .* valid string",
        ),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', r"p\.jsonl:3: line: Invalid JSON"),
    ],
)
def test_bad_rows_of_a_user_name_file_line_and_field(tmp_path, line, message):
    good = '{"messages": [{"role": "user", "content": "x"}]}'
    (tmp_path / "p.jsonl").write_text(f"{good}\n\n{line}\n")
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / "p.jsonl", Prompt)


def test_a_key_that_stands_twice_in_a_row_is_refused(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"messages":[{"role":"user","content":"Hi","content":"Ho"}]}\n')
    with pytest.raises(UserError, match=r'p\.jsonl:1: the key "content" stands twice'):
        read_rows(path, Prompt)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl", Prompt)
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path / "x.jsonl", Label)
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path, Ranking)


def test_json_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "stage.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


def test_the_split_depends_on_the_prompt_alone_and_keeps_its_share():
    ids = [f"{n:016x}" for n in range(4000)]
    held = [i for i in ids if is_heldout(i, 0.25)]
    assert 0.22 < len(held) / len(ids) < 0.28
    assert set(held) <= {i for i in ids if is_heldout(i, 0.5)}


def test_a_group_stands_on_one_side_of_the_split(tmp_path):
    run = Run.load(fake_run(tmp_path / "run"))
    alone = Prompt.model_validate({"messages": [{"role": "user", "content": "Alone?"}]})
    assert alone.cluster == alone.id
    assert '"group"' not in alone.to_json()
    asked = [
        alone.model_copy(update={"id": f"{n}-{wording}", "group": f"question {n}"})
        for n in range(200)
        for wording in range(3)
    ]
    assert Prompt.model_validate_json(asked[0].to_json()) == asked[0]
    (run.path / "prompts.jsonl").unlink()
    Rows(run.path / "prompts.jsonl", Prompt).append(asked)
    groups = {split: [p.group for p in run.prompts(split)] for split in ("train", "heldout")}
    assert not set(groups["train"]) & set(groups["heldout"])
    assert all(count == 3 for part in groups.values() for count in Counter(part).values())
    assert 0.15 < len(groups["heldout"]) / 600 < 0.35


def test_some_wordings_of_what_is_trained_on_are_held_out_too(tmp_path):
    run = Run.load(fake_run(tmp_path / "run"))
    asked = [
        Prompt.model_validate({"messages": [{"role": "user", "content": f"{n} {wording}?"}], "group": group})
        for n in range(100)
        for wording in range(10)
        for group in [f"question {n}" if n < 80 else ""]
    ]
    (run.path / "prompts.jsonl").unlink()
    Rows(run.path / "prompts.jsonl", Prompt).append(asked)
    before = {split: run.prompts(split) for split in ("train", "heldout", "wordings")}
    assert before["wordings"] == []
    run.config = run.config.model_copy(update={"heldout_wordings": 0.2})
    train, heldout, wordings = (run.prompts(split) for split in ("train", "heldout", "wordings"))
    assert heldout == before["heldout"]
    assert sorted(p.id for p in (*train, *wordings)) == sorted(p.id for p in before["train"])
    assert 0.1 < len(wordings) / len([p for p in before["train"] if p.group]) < 0.3
    assert all(p.group for p in wordings)
    assert {p.group for p in wordings} <= {p.group for p in train}
    ids = [p.id for p in run.evaluated(7)]
    assert ids == sorted(p.id for p in heldout)[:7] + sorted(p.id for p in wordings)[:7]


def test_seeds_are_31_bit_and_depend_on_every_part():
    seeds = {derive_seed(0, n, name) for n in range(100) for name in ("sample", "ppo")}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, 1, "sample") == derive_seed(0, 1, "sample")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"not a run folder \(config\.json is missing\)"):
        Run.load(tmp_path)


def test_a_stage_keeps_its_counts_over_continuations(project):
    run = Run(project, load_config(project / "config.yaml"), Constitution.load(project / "constitution.yaml"))
    stage = run.stages[0]
    assert (stage.summary, stage.is_done) == ({}, False)
    stage.begin()
    assert stage.summary["status"] == "running"
    stage.save("running", **{"in": 24, "kept": 22})
    again = Run(project, run.config, run.constitution).stages[0]
    again.begin()
    again.dropped["because"] += 2
    again.save("done")
    assert again.is_done
    summary = {key: again.summary[key] for key in ("name", "number", "round", "in", "kept", "dropped")}
    assert summary == {
        "name": "sample",
        "number": 1,
        "round": 1,
        "in": 24,
        "kept": 22,
        "dropped": {"because": 2},
    }
    assert again.summary["seconds"] >= stage.summary["seconds"] - 0.001


def test_what_an_engine_notes_is_kept_whatever_becomes_of_the_stage(tmp_path):
    run = Run.load(fake_run(tmp_path / "run"))
    stage = run.stages[0]
    notes = ["it stutters"]
    stage.account.track_notes(notes)
    stage.account.track_notes(["it stutters"])
    notes.append("it fell silent")
    stage.notes.append("of the stage itself")
    stage.begin()
    stage.save("failed", error="x")
    assert stage.summary["notes"] == ["of the stage itself", "it stutters", "it fell silent"]

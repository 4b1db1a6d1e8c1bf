"""Whatever a file holds, an import ends in counted rows or in one message: rows of any shape, rows of every
format with parts replaced, and real files with bytes changed."""

import gc
import gzip
import json
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif.errors import UserError
from rlaif.human import formats
from rlaif.human.exporters import export_file
from rlaif.human.files import raw_rows
from rlaif.human.folder import read_folder
from rlaif.human.formats import FORMATS, ImportedRow, format_of
from rlaif.human.formats.base import Unusable
from rlaif.human.importers import import_file
from rlaif.human.rankings import load_human_labels
from rlaif.prompting import tables
from rlaif.records import Label, Ranking
from rlaif.runs.rows import read_rows
from tests.faults.fuzz import mutated
from tests.test_formats_chosen import ROWS

WRITABLE = [format.name for format in FORMATS.values() if format.write or format.write_row]
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        ["1", "tie", "TRUE", "\ud800", "\n\nHuman: q\n\nAssistant: x", '[{"role": 1}]', "assistant", 10**30]
    )
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "pref", "rank", " x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def places(value, path=()):
    """Where parts of a JSON value stand."""
    yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@st.composite
def documents(draw):
    """Rows of one format, some of their parts replaced by anything."""
    name = draw(st.sampled_from(list(ROWS)))
    rows = [*ROWS[name]]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(rows) - 1))
        path = draw(st.sampled_from(list(places(rows[at]))))
        rows[at] = replaced(rows[at], path, draw(anything))
    return name, rows


@given(st.sampled_from(list(FORMATS)), anything)
@settings(deadline=None)
def test_any_row_is_a_row_or_has_a_reason(name, row):
    assert isinstance(FORMATS[name].parse(row), ImportedRow | Unusable)


@given(documents(), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_rows_with_parts_replaced_are_counted_and_what_is_kept_can_be_read_and_exported(
    tmp_path_factory, document, lines
):
    name, rows = document
    folder = tmp_path_factory.mktemp("any")
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    (folder / "x.json").write_text(text)
    try:
        counts = import_file(name, folder / "x.json", folder / "out")
    except UserError:
        return
    assert counts["in"] == counts["kept"] + sum(counts["dropped"].values())
    read = read_folder(folder / "out")
    said = sum(len(own) for own in read.labels().values())
    assert said == counts["rows"]["labels"] == len(read_rows(folder / "out" / "labels.jsonl", Label))
    if (folder / "out" / "rankings.jsonl").exists():
        rankings = read_rows(folder / "out" / "rankings.jsonl", Ranking)
        assert len(rankings) == counts["rows"]["rankings"]
        load_human_labels(folder / "out" / "rankings.jsonl", read.comparisons.values())
    for format in WRITABLE:
        try:
            back = export_file(folder / "out", format, folder / f"{format}.json")
        except UserError as error:
            assert "holds nothing to export" in str(error)  # noqa: PT017
            continue
        assert back["in"] == back["kept"] + sum(back["dropped"].values())


REAL = {
    "hh_rlhf/harmless-base-test.jsonl.gz": b"\n",
    "pandalm/testset-v1.json": b"",
    "icai_synthetic/example_ap.json": b"",
    "icai_synthetic/synthetic_data_aligned_vqvtb.csv": b"",
    "preference_demos/dpo_en_demo.json": b"",
    "preference_demos/kto_en_demo.json": b"",
    "hhh_alignment/hhh_alignment_eval.json": b"",
}


def beginning(path: Path) -> bytes:
    """The first rows of a real file, in a file of the same kind."""
    if path.suffix == ".gz":
        return b"".join(gzip.open(path).readlines()[:8])
    if path.suffix == ".json" and path.name != "example_ap.json":
        return json.dumps(json.loads(path.read_bytes())[:8], indent=1).encode()
    return path.read_bytes()


@pytest.mark.parametrize("name", REAL)
def test_real_files_with_bytes_changed_end_in_counts_or_in_one_message(tmp_path, test_data, name):
    whole, rng = beginning(test_data / name), random.Random(name)
    path = tmp_path / Path(name).name.removesuffix(".gz")
    kept = 0
    for turn in range(40):
        data = mutated(whole, rng)
        path.write_bytes(
            gzip.compress(data)[: rng.choice([-9, None, None])] if name.endswith(".gz") else data
        )
        try:
            counts = import_file(None, path, tmp_path / f"out{turn}")
        except UserError:
            continue
        kept += counts["kept"] > 0
        assert counts["in"] == counts["kept"] + sum(counts["dropped"].values())
        read_folder(tmp_path / f"out{turn}").labels()
    assert kept > 3


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("hh_rlhf/harmless-base-test.jsonl.gz", "hh"),
        ("pandalm/testset-v1.json", "pandalm"),
        ("icai_synthetic/example.csv", "icai"),
        ("icai_synthetic/example_ap.json", "annotated-pairs"),
        ("preference_demos/dpo_en_demo.json", "sharegpt"),
        ("preference_demos/kto_en_demo.json", "sharegpt-kto"),
        ("hhh_alignment/hhh_alignment_eval.json", "hhh"),
    ],
)
def test_real_files_are_recognised(test_data, name, format):
    assert format_of(test_data / name) == format


def test_what_is_no_preference_data_is_not_taken_for_some(test_data):
    for name in (
        "pandalm/gpt-3.5-turbo-testset-v1.json",
        "constitutions/llm_swarm/constituion_grok.json",
        "README.md",
    ):
        with pytest.raises(UserError, match="in no format that rlaif recognises"):
            format_of(test_data / name)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("[1, 2]x", "its first row is not JSON"),
        ('{"a": 1, "a": 2}', "its first row is a key that stands twice"),
        ("[1, 2]", "its first row is no object"),
    ],
)
def test_a_file_without_rows_is_not_said_to_be_in_another_format(tmp_path, content, why):
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(UserError, match=f"recognises \\({why}\\)"):
        format_of(tmp_path / "x.jsonl")


def test_one_file_is_opened_as_often_whatever_the_number_of_formats(tmp_path, monkeypatch):
    """A first row may be the whole file."""
    opened = []
    monkeypatch.setattr(formats, "raw_rows", lambda path: opened.append(path) or iter([{"apples": 1}]))
    for names, times in ((["a"], 1), (["a", "b"], 3)):
        opened.clear()
        with pytest.raises(UserError):
            formats.format_of_any([tmp_path / name for name in names])
        assert len(opened) == times


@pytest.mark.parametrize("piece", [b" ", b"\n"])
def test_a_packed_file_that_no_text_packs_to_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, piece):
    bomb = tmp_path / "x.jsonl.gz"
    bomb.write_bytes(gzip.compress(piece * (4 << 20)))
    monkeypatch.setattr(tables, "_PLAUSIBLE", 1 << 20)
    with pytest.raises(UserError, match="more than 100 times as many"):
        import_file(None, bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_long_lines_of_a_packed_file_are_whole(tmp_path, monkeypatch):
    lines = [f'{{"text": "{"x" * n}"}}\n' for n in (3, 90, 200, 5)]
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    monkeypatch.setattr(tables, "_PIECE", 64)
    assert [line for _, line in tables.text_lines(tmp_path / "x.jsonl.gz")] == lines


def test_folders_of_datasets_with_and_without_splits(tmp_path):
    from datasets import Dataset, DatasetDict

    table = Dataset.from_list(ROWS["nemo-rl"] * 2)
    table.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "both"))
    DatasetDict({"dev": table}).save_to_disk(str(tmp_path / "only"))
    DatasetDict({"dev": table, "test": table}).save_to_disk(str(tmp_path / "neither"))
    for name in ("one", "both", "only"):
        counts = import_file(None, tmp_path / name, tmp_path / f"out-{name}")
        assert (counts["format"], counts["in"], counts["kept"]) == ("nemo-rl", 2, 1)
    with pytest.raises(UserError, match="the splits dev, test"):
        import_file(None, tmp_path / "neither", tmp_path / "out")
    assert import_file(None, tmp_path / "neither" / "dev", tmp_path / "out")["kept"] == 1


def test_the_files_of_a_folder_are_those_of_its_training_split(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "LICENSE").write_text("MIT")
    with pytest.raises(UserError, match="a folder without a file of rows"):
        import_file(None, folder, tmp_path / "out")
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text(
            json.dumps({**ROWS["sharegpt"][0], "chosen": {"from": "gpt", "value": name}}) + "\n"
        )
    assert import_file(None, folder, tmp_path / "out")["kept"] == 2
    (folder / "a.jsonl").rename(folder / "train-0.jsonl")
    assert import_file("sharegpt", folder, tmp_path / "out2")["source"] == "train-0.jsonl"


def test_an_array_is_read_a_piece_at_a_time_and_refused_where_it_breaks_off(tmp_path):
    rows = [
        {**ROWS["hh"][0], "n": n, "chosen": ROWS["hh"][0]["chosen"] + " é" * 9000 + str(n)} for n in range(30)
    ]
    path = tmp_path / "x.json"
    for indent in (None, 1):
        text = json.dumps(rows, indent=indent)
        path.write_text(text)
        assert list(raw_rows(path)) == rows
        for end in (len(text) - 1, len(text) // 2):
            path.write_text(text[:end])
            with pytest.raises(UserError, match="cannot be read"):
                list(raw_rows(path))
    path.write_text("[1, 2, 30]")
    assert list(raw_rows(path)) == [1, 2, 30]
    path.write_text("[]")
    assert list(raw_rows(path)) == []


def test_memory_does_not_grow_with_the_rows_of_json_lines(tmp_path):
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as file:
            file.writelines(
                json.dumps({"prompt": f"q{n} " * 20, "chosen": f"x{n} " * 20, "rejected": f"y{n} " * 20})
                + "\n"
                for n in range(count)
            )
        gc.collect()  # what earlier tests left is no part of it
        tracemalloc.start()
        try:
            assert import_file("trl", path, tmp_path / f"out{count}")["kept"] == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)  # what is loaded once
    assert peak(3000) < 2 * peak(150)  # the rows themselves take twenty times as much


def test_row_groups_of_parquet_are_let_go(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(
        [{"prompt": f"{n} " * 50, "chosen": f"x{n} " * 50, "rejected": f"y{n} " * 50} for n in range(20000)]
    )
    pyarrow.parquet.write_table(
        table, tmp_path / "x.parquet", row_group_size=1000, compression="none", use_dictionary=False
    )
    size, before = table.nbytes, pyarrow.total_allocated_bytes()
    held = [
        pyarrow.total_allocated_bytes() - before
        for n, _ in enumerate(raw_rows(tmp_path / "x.parquet"))
        if n % 500 == 0
    ]
    assert max(held) < size / 4

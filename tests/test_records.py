"""Records: ids are hashes of content, rows survive JSON, and the operations that keep comparisons honest."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import rlaif
from rlaif.records import (
    Annotator,
    Comparison,
    Evaluation,
    Label,
    Message,
    Preference,
    Prompt,
    Ranking,
    Response,
    Revision,
    content_hash,
    decode_tokens,
    encode_tokens,
    verdict_of,
)
from rlaif.runs.rows import by_id

AI = Annotator(kind="ai", id="judge")
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
some = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)
probability = st.none() | st.floats(0, 1)


def prompt(*contents: str, **more) -> Prompt:
    return Prompt(messages=tuple(Message(role="user", content=c) for c in contents), **more)


def test_the_hash_is_the_same_on_every_machine():
    # sha256 of '["a",1,{"x":[2,null]}]', first 16 digits
    assert content_hash("a", 1, {"x": [2, None]}) == "aeaa0a3f9745daec"
    assert content_hash("é") == content_hash("\u00e9") != content_hash("e\u0301")
    assert content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})
    assert content_hash("a", "b") != content_hash("ab")


def test_ids_follow_content_and_nothing_else():
    assert prompt("q").id == prompt("q", tags=("x",), source="s").id
    assert prompt("q").id != prompt("r").id
    assert prompt("q", "r").id != prompt("qr").id
    same = [
        Response(prompt_id="p", text="t", finish_reason=finish, tokens=n)
        for finish, n in (("stop", 1), ("length", 2))
    ]
    assert same[0].id == same[1].id
    assert Response(prompt_id="p", text="t", index=1).id != same[0].id
    assert Response(prompt_id="p", text="t", seed=1).id != same[0].id


def test_a_label_is_identified_by_who_judged_what_how():
    label = Label(
        comparison_id="c", annotator=AI, verdict="a", p_a=0.9, principle_id="p", judge={"model": "m"}
    )
    assert (
        label.id
        == label.model_copy(update={"id": "", "p_a": 0.1, "verdict": "b"})
        .model_validate({**label.model_dump(), "id": "", "p_a": 0.1, "verdict": "b"})
        .id
    )
    others = [
        {"order": "ba"},
        {"principle_id": "q"},
        {"principle_id": None},
        {"judge": {"model": "n"}},
        {"annotator": {"kind": "human", "id": "judge"}},
        {"comparison_id": "d"},
    ]
    ids = {Label.model_validate({**label.model_dump(), "id": "", **change}).id for change in others}
    assert len(ids) == len(others)
    assert label.id not in ids


def test_ranks_decide_pairs():
    ranking = Ranking(prompt_id="p", response_ids=("x", "y", "z"), ranks=(2, 1, 2), annotator=AI)
    assert [ranking.verdict(*pair) for pair in ("xy", "yx", "xz", "yz")] == ["b", "a", "tie", "a"]


@pytest.mark.parametrize(
    ("p", "margin", "verdict"),
    [
        (None, 0.0, "invalid"),
        (0.5, 0.0, "tie"),
        (0.5001, 0.0, "a"),
        (0.4999, 0.0, "b"),
        (0.625, 0.125, "tie"),
        (0, 0, "b"),
        (1, 0, "a"),
    ],
)
def test_verdicts_of_probabilities(p, margin, verdict):
    assert verdict_of(p, margin) == verdict


ROWS = st.one_of(
    st.builds(
        Prompt,
        messages=st.lists(
            st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=text),
            min_size=1,
            max_size=3,
        ).map(tuple),
        tags=st.lists(text, max_size=2).map(tuple),
    ),
    st.builds(
        Response,
        prompt_id=some,
        text=text,
        sampling=st.dictionaries(some, st.floats(0, 2) | st.integers(0, 9)),
        token_ids=st.none() | st.lists(st.integers(0, 2**32 - 1), max_size=5).map(encode_tokens),
    ),
    st.builds(
        Revision,
        prompt_id=some,
        round=st.integers(1, 4),
        principle_id=some,
        from_id=some,
        to_id=some,
        critique=text,
        status=st.sampled_from(["ok", "unchanged", "invalid"]),
    ),
    st.builds(Comparison, prompt_id=some, a=some, b=some),
    st.builds(
        Label,
        comparison_id=some,
        annotator=st.just(AI),
        p_a=probability,
        answer_mass=probability,
        seconds=probability,
        verdict=st.sampled_from(["a", "b", "tie", "abstain", "invalid"]),
        judge=st.dictionaries(some, text),
    ),
    st.builds(
        Preference, comparison_id=some, p_a=st.floats(0, 1), votes=st.dictionaries(some, st.integers(0, 9))
    ),
    st.builds(
        Evaluation,
        policy=some,
        prompt_id=some,
        response_id=some,
        gold=st.none() | st.dictionaries(some, st.booleans()),
        p_win=probability,
        kl=st.none() | st.floats(-9, 9),
    ),
)


@given(ROWS)
def test_every_row_survives_json_on_one_line(row):
    line = row.to_json()
    assert "\n" not in line
    assert "\r" not in line
    again = type(row).model_validate_json(line)
    assert again == row
    assert again.to_json() == line
    # the id is what the content alone gives
    bare = {key: value for key, value in json.loads(line).items() if key != "id"}
    assert type(row).model_validate(bare).id == row.id


def test_rows_refuse_unknown_keys_changes_and_nonsense():
    with pytest.raises(ValidationError, match="Extra inputs"):
        Comparison.model_validate({"prompt_id": "p", "a": "x", "b": "y", "c": "z"})
    with pytest.raises(ValidationError, match="frozen"):
        Comparison(prompt_id="p", a="x", b="y").a = "z"  # type: ignore[misc]
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValidationError):
            Label(comparison_id="c", annotator=AI, verdict="a", p_a=p)


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 300)))
def test_token_ids_survive_as_text(ids):
    assert decode_tokens(encode_tokens(ids)) == ids


def test_token_ids_are_compact_and_no_part_of_a_response_id():
    assert encode_tokens([1, 258]) == "HAQACAQ=="  # two bytes each, the lower one first
    assert encode_tokens([65536]) == "IAAABAA=="
    ids = list(range(50_000, 50_300))
    assert len(encode_tokens(ids)) <= 300 * 2 * 4 / 3 + 2
    bare = Response(prompt_id="p", text="t")
    assert bare.token_ids is None
    assert Response(prompt_id="p", text="t", token_ids=encode_tokens(ids)).id == bare.id


@pytest.mark.parametrize("bad", ["", "X", "HAQ==", "H!", "IAAAA", "AQACAQ=="])
def test_what_are_no_token_ids_is_refused(bad):
    with pytest.raises(ValueError, match="not token ids"):
        decode_tokens(bad)
    with pytest.raises(ValidationError, match="not token ids"):
        Response(prompt_id="p", text="t", token_ids=bad)


def test_rows_by_id():
    rows = [prompt("a"), prompt("b")]
    assert by_id(rows) == {rows[0].id: rows[0], rows[1].id: rows[1]}


@pytest.mark.parametrize(
    ("kind", "row", "old", "new", "value"),
    [
        (Response, {"prompt_id": "p", "text": "t"}, "finish", "finish_reason", "length"),
        (
            Label,
            {"comparison_id": "c", "annotator": {"kind": "ai", "id": "m"}, "verdict": "a", "p_a": 0.9},
            "mass",
            "answer_mass",
            0.8,
        ),
        (Preference, {"comparison_id": "c", "p_a": 0.9}, "deciding", "deciding_principle", "honest"),
    ],
)
def test_a_row_of_before_reads_under_the_old_name_of_a_field(kind, row, old, new, value):
    before, now = (kind.model_validate_json(json.dumps({**row, name: value})) for name in (old, new))
    assert getattr(before, new) == value
    assert before == now
    assert before.id == now.id
    written = json.loads(before.to_json())
    assert written[new] == value
    assert old not in written
    assert kind.with_new_names({**row, old: value}) == {**row, new: value}
    with pytest.raises(ValidationError):
        kind.model_validate({**row, old: value, new: value})


def test_the_reason_that_is_asked_about_again_is_written_down_once():
    package = Path(rlaif.__file__).parent
    holding = [path.name for path in package.rglob("*.py") if f'"{Label.NUMBERLESS}"' in path.read_text()]
    assert holding == ["records.py"]
    given = {"comparison_id": "c", "annotator": Annotator(kind="ai", id="m"), "verdict": "invalid"}
    assert Label.model_validate({**given, "reason": Label.NUMBERLESS}).reason == Label.NUMBERLESS

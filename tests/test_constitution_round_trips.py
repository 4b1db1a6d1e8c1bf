"""Any constitution, written in a format and read back, loses only what the format says that it loses."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif.constitution import Constitution, Example, Principle, Source, Votes
from rlaif.workbench.constitution_formats import FORMATS
from rlaif.workbench.constitution_formats.format import differing, differing_names
from rlaif.workbench.exchange import export, read_back
from rlaif.workbench.yaml_text import to_yaml


def texts(size: int = 40) -> st.SearchStrategy[str]:
    odd = st.text(st.sampled_from("ab #->*_`[]{}()!\\|<>:.,'\"1.)\n\t=~+&é日\u200b\u2028"), max_size=size)
    return st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=size) | odd


def principles() -> st.SearchStrategy[Principle]:
    named = st.text(st.sampled_from("abAB12"), min_size=1, max_size=1).flatmap(
        lambda first: st.text(st.sampled_from("ab-_.1"), max_size=6).map(lambda rest: first + rest)
    )
    written = st.none() | texts()
    example = st.builds(
        Example, prompt=texts(9), better=texts(9), worse=texts(9), critique=st.none() | texts(9)
    )
    votes = st.builds(
        Votes,
        group=st.sampled_from(["total", "a", "b", "north-east"]),
        agrees=st.integers(0, 9),
        disagrees=st.integers(0, 9),
        passes=st.integers(0, 9),
    )
    kept = st.dictionaries(
        st.sampled_from(["prompt", "key", "questions", "choices", "name", "heading", "under"]),
        texts(9) | st.lists(texts(5), max_size=2) | st.integers(),
        max_size=2,
    )
    origin = st.none() | st.builds(
        Source,
        format=st.sampled_from(sorted(FORMATS)),
        link=texts(9),
        votes=st.lists(votes, max_size=3).map(tuple),
        kept=kept,
    )
    return st.builds(
        Principle,
        id=named,
        text=texts().filter(str.strip),
        why=written,
        critique=written,
        revise=written,
        compare=written,
        paraphrases=st.lists(texts(9), max_size=2).map(tuple),
        weight=st.sampled_from([1.0, 0.0, 0.1, 2.5]) | st.floats(0, 1e6),
        tags=st.lists(texts(5), max_size=2).map(tuple),
        applies_to=st.none() | st.lists(texts(5), max_size=2).map(tuple),
        examples=st.lists(example, max_size=2).map(tuple),
        source=origin,
    )


def constitutions() -> st.SearchStrategy[Constitution]:
    return st.builds(
        Constitution,
        name=texts(12),
        version=st.integers(0, 9) | st.sampled_from(["1.0", "draft"]),
        description=texts(60),
        source=st.none(),
        principles=st.lists(principles(), min_size=1, max_size=4, unique_by=lambda p: p.id).map(tuple),
    )


# The same examples every time, and others where more are asked for.
SLOW = settings(
    max_examples=int(os.environ.get("RLAIF_EXAMPLES", "25")),
    derandomize="RLAIF_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@SLOW
@given(constitutions())
def test_yaml_of_any_constitution_loads_as_it(constitution):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_text(to_yaml(constitution))
        assert Constitution.load(path) == constitution


@pytest.mark.parametrize("name", sorted(FORMATS))
@SLOW
@given(constitution=constitutions())
def test_a_format_loses_only_what_it_says_and_then_nothing(name, constitution):
    format = FORMATS[name]
    first = read_back(format.write(constitution), format, constitution.name)
    assert len(first.principles) == len(constitution.principles)
    for before, after in zip(constitution.principles, first.principles, strict=True):
        assert set(differing(before, after)) <= set(format.cannot_keep), (before, after)
    assert set(differing_names(constitution, first)) <= set(format.loses)
    again = read_back(format.write(first), format, first.name)
    assert [differing(a, b) for a, b in zip(first.principles, again.principles, strict=True)] == [[]] * len(
        first.principles
    )
    assert differing_names(first, again) in ([], ["name"])


FULL = Principle(
    id="12",
    text="Be kind.",
    why="```\nIt is nicer.",
    critique="Where is it unkind?",
    revise="Make it kind.",
    compare="Prefer the kinder one.",
    paraphrases=("Be nice.",),
    weight=2.0,
    tags=("tone",),
    applies_to=("talk",),
    examples=(Example(prompt="p", better="b", worse="w"),),
    source=Source(votes=(Votes(group="a", agrees=0), Votes(group="total", agrees=3)), kept={"odd": 1}),
)
BARE = Principle(id="No_Id.1", text="Be brief.", why="It saves time.\r\n ")
WHOLE = Constitution(
    name="A *name*", version=2, description=" About.", principles=(FULL, BARE), source=Source(kept={"odd": 1})
)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_what_a_format_is_said_to_lose_it_does_lose(name):
    exported = export(WHOLE, name)
    assert set(exported.not_kept) == set(FORMATS[name].cannot_keep)
    assert {row["reason"] for row in exported.not_kept.values()} == set(FORMATS[name].cannot_keep.values())
    assert "name" not in export(WHOLE.model_copy(update={"name": "plain-and-short"}), name).lost
    assert exported.not_kept["weight" if name != "verifiers-rubric" else "tags"]["principles"] == ["12"]

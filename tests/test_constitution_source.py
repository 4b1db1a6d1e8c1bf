"""`why` and `source` of a principle: who reads them, and that what was hashed without them stays."""

from pathlib import Path

import pytest

from rlaif.constitution import Constitution, Principle, Source, Votes
from rlaif.prompting.templates import Templates

ROOT = Path(__file__).parent.parent
SOURCE = Source(format="votes", link="x.csv:2", votes=(Votes(group="a", agrees=3),), kept={"odd": [1]})


def constitution(**changes) -> Constitution:
    return Constitution(name="c", principles=(Principle(id="p", text="Be kind.", **changes),))


def test_hashes_of_earlier_versions_stay_where_the_fields_are_absent():
    # As the version printed them that did not know the fields (commit 49119d3).
    assert constitution().hash == "5f70aa4413dc94d7"
    assert constitution().principles[0].hash == "2d2f54448aa1c610"
    assert "why" not in constitution().model_dump()["principles"][0]
    assert "source" not in constitution().model_dump()


def test_a_reason_changes_the_hash_and_where_it_comes_from_does_not():
    assert constitution(why="It is nicer.").hash != constitution().hash
    assert constitution(why="It is nicer.").principles[0].hash != constitution().principles[0].hash
    assert constitution(source=SOURCE).hash == constitution().hash
    assert constitution().model_copy(update={"source": SOURCE}).hash == constitution().hash
    assert constitution(source=SOURCE).principles[0].hash == constitution().principles[0].hash


def test_both_are_written_and_read_again():
    full = constitution(why="It is nicer.", source=SOURCE)
    assert full.model_dump()["principles"][0]["source"] == {
        "format": "votes",
        "link": "x.csv:2",
        "votes": ({"group": "a", "agrees": 3, "disagrees": 0, "passes": 0},),
        "kept": {"odd": [1]},
    }
    assert Constitution.model_validate(full.model_dump()) == full
    assert Constitution.model_validate_json(full.model_dump_json()) == full


@pytest.mark.parametrize("name", ["default", "brief"])
def test_a_template_shows_the_reason_where_it_says_so(name):
    shipped = Templates.load(name)
    with_why, without = (constitution(why=why).principles[0] for why in ("It is nicer.", None))
    assert shipped.comparison_suffix(with_why) == shipped.comparison_suffix(without)
    sources = {
        **shipped.sources,
        "compliance": "{% block shared %}{% endblock %}{% block principle %}{{ rule }}"
        "{% if principle.why %} ({{ principle.why }}){% endif %}{% endblock %}",
    }
    own = Templates.of("own", sources, Path("own"))
    assert own.compliance_suffix(with_why) == "Be kind. (It is nicer.)"
    assert own.compliance_suffix(without) == "Be kind."

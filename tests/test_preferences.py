"""From labels to preferences: figures worked by hand, and properties that any rule of mixing must have."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.constitution import Constitution, Principle
from rlaif.errors import UserError
from rlaif.feedback.preferences import (
    BOUND,
    PRIOR,
    RULE,
    aggregate,
    opinions,
    require_one_rule,
    share,
    sigmoid,
)
from rlaif.records import Label
from rlaif.runs.folder import Run
from rlaif.runs.storage import write_json
from tests.fake_run import fake_run

THREE = Constitution(
    name="c", principles=tuple(Principle(id=i, text=f"rule {i}") for i in ("one", "two", "three"))
)
SILENT = Constitution(
    name="c", principles=(Principle(id="one", text="1"), Principle(id="two", text="2", weight=0.0))
)


def label(
    who: str, p: float | None, principle: str | None = None, kind: str = "human", order: str = "ab"
) -> Label:
    verdict = "invalid" if p is None else "tie" if p == 0.5 else "a" if p > 0.5 else "b"
    return Label.model_validate(
        {
            "comparison_id": "c",
            "annotator": {"kind": kind, "id": who},
            "verdict": verdict,
            "p_a": p,
            "principle_id": principle,
            "order": order,
        }
    )


def people(*votes: float) -> list[Label]:
    return [label(f"person {n}", vote) for n, vote in enumerate(votes)]


def judge(*verdicts: float, principles: tuple[str, ...] = ("one", "two", "three")) -> list[Label]:
    return [label("judge", p, name, "ai") for p, name in zip(verdicts, principles, strict=False)]


def p_a(labels: list[Label], constitution: Constitution = THREE, **options) -> float:
    found = aggregate(labels, constitution, **options)
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([1.0], 1.125 / 1.25),  # 0.9
        ([1.0, 1.0], 2.125 / 2.25),
        ([1.0, 1.0, 0.0], 2.125 / 3.25),  # 0.65, and 0.935 by averaged logits
        ([1.0, 0.5], 1.625 / 2.25),  # 0.72, and 0.982 by averaged logits
        ([1.0, 0.0], 0.5),
        ([0.5, 0.5], 0.5),
        ([1.0] * 55 + [0.0] * 45, 55.125 / 100.25),  # 0.55, and 0.690 by averaged logits
    ],
)
def test_peoples_votes_are_a_share_with_a_prior(votes, expected):
    assert p_a(people(*votes)) == pytest.approx(expected)
    assert p_a(people(*(1 - vote for vote in votes))) == pytest.approx(1 - expected)


def test_weight_is_a_weight_and_certainty_does_not_outvote():
    against = [*people(1.0), *judge(0.0, 0.0, 0.0)]
    one, three = 0.9, sigmoid(-3 * BOUND)
    assert p_a(against) == pytest.approx((one + three) / 2)
    assert p_a(against, human_weight=2.0) == pytest.approx((2 * one + three) / 3)
    assert p_a(against, human_weight=0.0) == pytest.approx(three)
    # Each person counts its weight: two of them against one judge.
    both = [*people(1.0, 1.0), *judge(0.0, 0.0, 0.0)]
    assert p_a(both) == pytest.approx((2 * 2.125 / 2.25 + three) / 3)


def test_a_judges_principles_are_added_as_bounded_logits():
    assert p_a(judge(0.75, 0.75)) == pytest.approx(0.9)  # 2 ln 3 = ln 9
    assert p_a(judge(1.0)) == pytest.approx(sigmoid(BOUND))
    # One rule against one is a tie, however much surer the judge is of one of them.
    assert p_a(judge(1 - 1e-9, 0.01)) == pytest.approx(0.5, abs=1e-9) == pytest.approx(p_a(judge(1.0, 0.0)))


def test_what_says_nothing_changes_nothing():
    said = judge(0.75)
    unknown = label("ann", 0.0, "no such rule")
    assert aggregate([*said, unknown], THREE) == aggregate(said, THREE)
    assert aggregate([*said, label("ann", 0.0, "two")], SILENT) == aggregate(said, SILENT)
    assert aggregate([*said, label("ann", None)], THREE) == aggregate(said, THREE)
    assert aggregate([unknown], THREE) is None
    assert aggregate(people(1.0), THREE, human_weight=0.0) is None


def test_the_principle_that_decided():
    def deciding(labels, constitution=THREE, **options):
        found = aggregate(labels, constitution, **options)
        assert found is not None
        return found[1]

    assert deciding(judge(0.6, 0.9, 0.3)) == "two"
    assert deciding(judge(0.4, 0.9, 0.02)) == "three"
    # Weight 0 never decides, nor does a rule of the losing side, nor anything in a draw.
    assert deciding(judge(0.6, 1.0), SILENT) == "one"
    assert deciding(judge(0.5, 1.0), SILENT) is None
    assert deciding(judge(0.9, 0.1)) is None
    assert deciding([*judge(0.9), *people(0.0)], human_weight=3.0) is None
    assert deciding(people(1.0)) is None


def test_an_annotators_opinion_of_the_whole_stands_before_single_principles():
    both = [label("ann", 1.0), label("ann", 0.0, "one"), label("ann", 0.0, "two")]
    assert p_a(both) == p_a(people(1.0))
    alone = opinions([label("ann", 1.0, "one"), label("ann", 0.0, "two")])
    assert alone == {"human:ann": 0.5}


def test_only_the_judge_is_clamped():
    assert p_a(judge(1.0, 1.0), clamp=(0.4, 0.6)) == pytest.approx(0.6)
    assert p_a(people(1.0), clamp=(0.4, 0.6)) == pytest.approx(0.9)
    assert p_a([*people(1.0), *judge(0.0)], clamp=(0.4, 0.6)) == pytest.approx((0.9 + 0.4) / 2)


verdicts = st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0])
crowds = st.lists(verdicts, max_size=6)
views = st.lists(verdicts, max_size=3)


@given(crowds, views, st.sampled_from([0.5, 1.0, 4.0]))
def test_swapping_the_sides_swaps_the_preference_and_order_does_not_matter(votes, view, weight):
    rows = [*people(*votes), *judge(*view)]
    found = aggregate(rows, THREE, weight)
    mirrored = aggregate(
        [row.model_copy(update={"p_a": 1 - (row.p_a or 0.0)}) for row in rows], THREE, weight
    )
    if found is None:
        assert not rows
        assert mirrored is None
    else:
        assert mirrored is not None
        assert mirrored[0] == pytest.approx(1 - found[0])
        assert p_a(rows[::-1], human_weight=weight) == pytest.approx(found[0])


@given(crowds.filter(bool), views.filter(bool), st.sampled_from([0.5, 1.0, 4.0]))
def test_a_mixture_lies_between_its_parts_and_a_vote_more_never_counts_against(votes, view, weight):
    alone = sorted((p_a(people(*votes)), p_a(judge(*view))))
    mixed = p_a([*people(*votes), *judge(*view)], human_weight=weight)
    assert alone[0] - 1e-12 <= mixed <= alone[1] + 1e-12
    assert share([*votes, 1.0]) > share(votes) > share([*votes, 0.0])


def test_the_third_annotator_of_pandalm_from_the_other_two(test_data):
    """Negative log-likelihood of the third's vote (1, 0, a tie ½) in nats, nothing fitted: by averaged logits
    0.349."""
    side = {1: 1.0, 2: 0.0, 0: 0.5}
    rows = json.loads((test_data / "pandalm" / "testset-v1.json").read_text())
    votes = np.array([[side[row[f"annotator{n}"]] for n in (1, 2, 3)] for row in rows])

    def nll(rule) -> list[float]:
        means = []
        for third, (x, y) in zip((2, 1, 0), combinations(range(3), 2), strict=True):
            p = np.array([rule(a, b) for a, b in votes[:, [x, y]]])
            target = votes[:, third]
            means.append(float(-(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()))
        return means

    def averaged_logits(a: float, b: float) -> float:
        return sigmoid((16 * a - 8 + 16 * b - 8) / 2)

    before, after = nll(averaged_logits), nll(lambda a, b: p_a(people(a, b)))
    assert np.mean(before) == pytest.approx(0.349, abs=0.001)
    assert np.mean(after) <= 0.25
    assert all(new < old for new, old in zip(after, before, strict=True))
    # The least that any function of the other two votes could reach, fitted on the third itself, is 0.2342.
    assert np.mean(after) <= 0.245
    agree = [t for *pair, t in votes[:, [0, 1, 2]].tolist() if pair == [1.0, 1.0]]
    assert abs(p_a(people(1.0, 1.0)) - np.mean(agree)) < 0.03


def test_the_prior_states_one_vote_as_nine_in_ten():
    assert share([1.0]) == pytest.approx(0.9)
    assert share([]) == 0.5
    assert PRIOR == 0.125


def test_a_continued_run_does_not_mix_rules(tmp_path):
    path = fake_run(tmp_path / "run", prompts=40)
    stage = next(s for s in Run.load(path).stages if s.name == "label")
    stage.begin()
    require_one_rule(stage, "nothing of that name")
    assert stage.summary["rule"] == RULE
    stage.save("done")
    assert stage.summary["rule"] == RULE
    require_one_rule(stage, "preferences")
    write_json(
        stage.dir / "stage.json", {key: value for key, value in stage.summary.items() if key != "rule"}
    )
    with pytest.raises(UserError, match='made by the rule "1: annotators averaged as logits"') as error:
        require_one_rule(stage, "preferences")
    assert "labels_from" in error.value.next

"""Every figure of report.html: the values that its template gets, its charts, and the numbers of its
sentences and cells."""

import html
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest

from rlaif.report import report
from rlaif.report.run_reader import plain
from rlaif.report.summary import summarise
from tests.oracle import equations
from tests.oracle.figures import Chosen, Online, Policies, mean, share
from tests.oracle.leaves import check, check_words, leaves
from tests.oracle.principles import oracles
from tests.oracle.rows import Rows, over_orders
from tests.oracle.scripts import RULES
from tests.oracle.test_show import FORWARD

NO_FIGURES = {
    "metrics/**": "how figures of policies are read and shown: tests/golden",
    "provenance/**": "the manifest: tests/test_run.py",
    "policies/*/wordings": "None: this config holds no wordings out; tests/test_groups.py",
    "?policies/*/controlled/reason": "None where there is a figure",
    "principles/gold": "whether there is gold",
    "principles/judge": "whether the judge was asked",
    "cases/**": "texts; their gold and their choice are tested below",
    "pairs/**": "texts; their figures and their choice are tested below",
    "card": "None: this config asks for no card before it labels",
}
OWN = ("constitution", "stages", "labels", "reward", "curves")  # compared with `rlaif show`, or below
CURVES = {
    "Reward": {"less KL": "reward", "reward model's score": "score"},
    "KL to the reference, nats a response": {"sampled": "kl", "exact": "exact_kl"},
    "Response length, tokens": {"length": "length"},
    "Entropy, nats a token": {"entropy": "entropy"},
    "Gold against the score": {"gold": "gold", "score": "score"},
    "Value model: explained variance": {"explained variance": "explained_variance"},
    "Clipped share of tokens": {"clip fraction": "clip_fraction"},
}


@pytest.fixture(scope="module")
def page(runs: SimpleNamespace) -> dict[str, Any]:
    """What the report's template gets, and under "html" the page."""
    caught: dict[str, Any] = {}
    write = report.write_page

    def keep(path: Any, template: str, **values: Any) -> Any:
        caught.update(values)
        return write(path, template, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_page", keep)
        caught["html"] = report.write_report(runs.first).read_text()
    return caught


def test_every_figure(page: dict[str, Any], rows: Rows) -> None:
    printed = {key: value for key, value in page.items() if key not in OWN}
    assert check(printed, {**policies(rows), **principles(rows), **oracles(rows)}, NO_FIGURES) > 350


def policies(rows: Rows) -> dict[str, Any]:
    p, names = Policies(rows), list(rows.policy_responses)

    def rated(kind: str) -> Any:
        """(mean, interval) of every rule at once."""
        table = {"gold": rows.gold, "judge": rows.opinions}[kind]
        return lambda n, part: p.rate(table(names[int(n)])["all"])[int(part)]

    def figure(name: str) -> Any:
        return lambda n, part: p.figure(names[int(n)], name)[int(part)]

    def flips(n: str) -> float:
        base, mine = rows.policy_responses["base"], rows.policy_responses[names[int(n)]]
        asked = [(q, mine[q]["text"], base[q]["text"]) for q in rows.judged]
        return share(*rows.flips(asked if names[int(n)] != "base" else []))

    def flips_ci(n: str) -> tuple[float, float]:
        base, mine = rows.policy_responses["base"], rows.policy_responses[names[int(n)]]
        asked = rows.judged if names[int(n)] != "base" else ()
        pairs = [(q, mine[q]["text"], base[q]["text"]) for q in asked]
        return equations.counted([(*rows.flips([pair]), rows.cluster[pair[0]]) for pair in pairs])

    def level(n: str, part: str) -> Any:
        base, mine = rows.policy_responses["base"], rows.policy_responses[names[int(n)]]
        read = {q: x for q, x in rows.against_base(names[int(n)]).items() if x is not None}
        wins, longer = (
            [equations.outcome(x) for x in read.values()],
            [len(rows.turn(mine[q])) - len(rows.turn(base[q])) for q in read],
        )
        return equations.at_equal_length(wins, longer, rows.keys(read))[part]

    return {
        "policies/*/n": lambda n: len(rows.policy_responses[names[int(n)]]),
        "policies/*/gold/*": rated("gold"),
        "policies/*/judge/*": rated("judge"),
        "policies/*/wins": lambda n: None if names[int(n)] == "base" else "figures",
        "policies/*/wins/*": lambda n, part: p.wins(names[int(n)])[part],
        "policies/*/flips": flips,
        "policies/*/flips_ci": flips_ci,
        "policies/*/unread_ci": lambda n: p.unread_ci(names[int(n)]),
        "policies/*/unread": lambda n: p.unread(names[int(n)])[0],
        "policies/*/asked": lambda n: p.unread(names[int(n)])[1],
        "policies/*/kl_left_out": lambda n: 0,
        "policies/*/controlled": lambda n: None if names[int(n)] == "base" else "figures",
        "policies/*/controlled/value": (lambda n: level(n, "value"), 1e-5),
        "policies/*/controlled/ci": (lambda n: level(n, "ci"), 1e-5),
        "policies/*/kl/*": (figure("kl"), FORWARD),
        "policies/*/length/*": figure("length"),
        "policies/*/truncated/*": figure("truncated"),
        "policies/*/refusal_rate/*": figure("refusal_rate"),
        "policies/*/over_refusal/*": figure("over_refusal"),
        "policies/*/under_refusal/*": lambda n, part: None if part == "0" else (0.0, 1.0),  # of no prompt
        "policies/*/known/*": lambda n, name: len(p.values(names[int(n)], name)),
    }


def principles(rows: Rows) -> dict[str, Any]:
    ids, p = ["all", *RULES], Policies(rows)

    def cell(n: str, policy: str, kind: str, part: str) -> Any:
        table = rows.gold(policy) if kind == "gold" else rows.opinions(policy)
        return p.rate(table[ids[int(n)]])[int(part)]

    def change(n: str, part: str) -> Any:
        rule = ids[int(n)]
        tests = 1 if rule == "all" else len(RULES)
        return equations.difference(rows.gold("ppo")[rule], rows.gold("base")[rule], rows.cluster, tests)[
            part
        ]

    return {"principles/rows/*/cells/*/*/*": cell, "principles/rows/*/change/*": change}


def test_what_the_report_shares_with_show(page: dict[str, Any], runs: SimpleNamespace) -> None:
    """Labels, reward model and stages are those of `rlaif show`, which has oracles for all of them."""
    shown = summarise(runs.first)
    assert page["stages"] == shown["stages"]
    for key, name in (("labels", "labels"), ("reward", "reward_model")):
        measured = {figure: value for figure, value in plain(dict(page[key])).items() if value is not None}
        assert measured == {k: x for k, x in shown[name].items() if k != "calls" and x is not None}


def test_numbers_in_words_and_cells(page: dict[str, Any], runs: SimpleNamespace) -> None:
    """Each number with a point that a sentence, a cell or a tip of the page says is one of the figures,
    rounded."""
    figures = {
        "page": {key: value for key, value in page.items() if key not in ("constitution", "curves")},
        "show": summarise(runs.first),
    }
    before = page["html"].partition("<h2>Stages</h2>")[0]
    cells = [re.sub(r"<[^>]+>", " ", cell) for cell in re.findall(r"<td.*?</td>", before, re.S)]
    tips = [
        html.unescape(tip)
        for tip in re.findall(
            r"<title>(.*?)</title>", str(page["principles"]["chart"]) + str(page["calibration"])
        )
    ]
    assert len(cells) > 80
    assert len(tips) > 20
    check_words([page["headline"], *page["more"], *cells, *tips], figures)
    for line in page["warnings"]:
        assert_percentages(line, figures)


def assert_percentages(line: str, figures: dict[str, Any]) -> None:
    """A warning's shares are those of a figure, or of two counts that stand beside them."""
    known = {
        f"{value:.0%}" for _, value in leaves(figures) if isinstance(value, float) and math.isfinite(value)
    }
    known |= {
        f"{x:.0%}" for _, ci in leaves(figures) if isinstance(ci, list | tuple) for x in ci if x is not None
    }
    counted = re.findall(r"(\d+) of (\d+)", line)
    known |= {f"{int(a) / int(b):.0%}" for a, b in counted if int(b)}
    opinions = re.search(r"in only (\d+%) of (\d+) opinions", line)
    strange = [
        word for word in re.findall(r"\d+%", line) if word not in known and not opinions and word != "50%"
    ]
    assert not strange, f"{strange} in {line!r}"


def test_curves(page: dict[str, Any], rows: Rows) -> None:
    expected: dict[str, list[str]] = {}
    for title, lines in CURVES.items():
        points = [
            (name, row[key], row["update"]) for name, key in lines.items() for row in Online(rows).updates
        ]
        expected[title] = [f"{name}: {y:.4g} at {x:.4g}" for name, y, x in points]
    drawn = {}
    for chart in map(str, page["curves"]):
        (title,) = re.findall(r"<figcaption><b>(.*?)</b>", chart)
        drawn[title] = [html.unescape(tip) for tip in re.findall(r"<title>(.*?)</title>", chart)]
    best, chosen = drawn.pop("Best of n: gold and reward"), Chosen(rows)
    assert drawn == expected
    for tip in best:
        name, y, x = re.fullmatch(r"(\w+): (\S+) at (\S+)", tip).groups()  # type: ignore[union-attr]
        number = next(n for n in range(3) if f"{math.sqrt(chosen.kl(2**n)):.4g}" == x)
        assert float(y) == pytest.approx(chosen.at(number, name)[0], rel=1e-3, abs=1e-6)
    assert len(best) == 6


def test_examples_are_those_of_the_largest_gain(page: dict[str, Any], rows: Rows) -> None:
    def kept(policy: str, prompt: str) -> dict[str, bool]:
        truth = rows.truth(prompt, rows.policy_responses[policy][prompt]["text"])
        return {rule: ok for rule, ok in truth.items() if rule != "all"}

    gains = {
        p: mean(kept("ppo", p).values()) - mean(kept("base", p).values())
        for p in rows.policy_responses["base"]
    }
    for sign, kind in ((1, "gained"), (-1, "lost")):
        found = page["cases"][kind]
        best = sorted((sign * g for g in gains.values() if sign * g > 0), reverse=True)[:4]
        assert [sign * gains[case.prompt_id] for case in found] == pytest.approx(best)
        for case in found:
            assert case.gain == pytest.approx(gains[case.prompt_id])
            for response in case.responses:
                assert response.kept == kept(response.policy, case.prompt_id)


def test_doubtful_preferences(page: dict[str, Any], rows: Rows) -> None:
    """Nearest to one half of those that something decides, and those whose annotators and rules lie furthest
    apart."""

    def read(pair: str) -> list[float]:
        return [over_orders(p) for by in rows.said[pair].values() for p in by.values()]

    decided = {i: p for i, p in rows.preferences.items() if any(abs(x - 0.5) > 0.1 for x in read(i))}
    nearest = sorted(abs(p - 0.5) for p in decided.values())[:4]
    assert [abs(shown.p_a - 0.5) for shown in page["pairs"]["uncertain"]] == pytest.approx(nearest)
    for shown in [*page["pairs"]["uncertain"], *page["pairs"]["disputed"]]:
        (pair,) = [
            i
            for i, row in rows.comparisons.items()
            if (rows.text(row["a"]), rows.text(row["b"])) == (shown.a, shown.b)
            and i in rows.preferences
            and rows.preferences[i] == pytest.approx(shown.p_a)
        ]
        assert sorted(p for _, p in shown.verdicts) == pytest.approx(sorted(read(pair)))
        assert shown.spread == pytest.approx(max(read(pair)) - min(read(pair)))
    spreads = sorted((max(read(i)) - min(read(i)) for i in rows.preferences), reverse=True)
    assert min(shown.spread for shown in page["pairs"]["disputed"]) >= spreads[7] - 1e-9

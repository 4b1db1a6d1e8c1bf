"""How several executors read the same principles: figures by hand, a planted ambiguous one, the command."""

import json
from html import unescape
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.playground.wordings import KINDS
from rlaif.records import Annotator, Label, verdict_of, with_content_id
from rlaif.runs.folder import Run
from rlaif.runs.rows import RowFile
from rlaif.workbench.executor_agreement import compared, read_labels
from rlaif.workbench.executors import Sources, executors
from rlaif.workbench.executors_page import DARKEST, LEGEND, heat, silent, write_executors
from rlaif.workbench.judge_comparison import JudgesAsked, compare_judges
from tests import planted
from tests.browser import chromium, opened  # noqa: F401  - a fixture
from tests.fake_run import fake_run

RULES = Constitution.model_validate(
    {"name": "two", "principles": [{"id": "x", "text": "Rule x."}, {"id": "y", "text": "Rule y."}]}
)
P = {"a": 0.9, "b": 0.1, "t": 0.5}


def read(x: str, y: str = "") -> dict[str, dict[str, float]]:
    """Verdicts a, b or t under both principles, a letter a comparison."""
    found = {"x": {f"{n}": P[side] for n, side in enumerate(x)}}
    return found | ({"y": {f"{n}": P[side] for n, side in enumerate(y)}} if y else {})


def clusters(n: int) -> dict[str, str]:
    return {str(i): str(i) for i in range(n)}


def test_figures_worked_by_hand():
    # x: 20 of 40 the same; a, b and t in the same shares for both, so 0.375 by chance.
    one, other = "a" * 20 + "b" * 10 + "t" * 10, "a" * 10 + "b" * 5 + "t" * 5 + "a" * 10 + "b" * 5 + "t" * 5
    same = sum(p == q for p, q in zip(one, other, strict=True))
    found = compared({"A": read(one, one), "B": read(other, one)}, RULES, clusters(40))
    x, y = found["principles"]
    assert [x["id"], y["id"]] == ["x", "y"]  # the least agreement first
    assert x["agreement"]["value"] == same / 40
    assert x["kappa"]["value"] == pytest.approx((same / 40 - 0.375) / 0.625)
    both = [(p, q) for p, q in zip(one, other, strict=True) if "t" not in (p, q)]
    assert x["opposite"]["value"] == sum(p != q for p, q in both) / len(both)
    some = [(p, q) for p, q in zip(one, other, strict=True) if (p, q) != ("t", "t")]
    assert x["one_sided"]["value"] == sum("t" in pair for pair in some) / len(some)
    assert (y["kappa"]["value"], y["agreement"]["value"]) == (1.0, 1.0)
    assert y["examples"] == []
    assert x["executors"]["A"]["decides"]["value"] == 0.75
    assert x["examples"][0]["p_a"] in ({"A": 0.9, "B": 0.1}, {"A": 0.1, "B": 0.9})
    assert found["together"]["agreement"]["value"] == (same + 40) / 80
    assert list(x["two"]) == ["A · B"]


def test_three_executors_share_one_kappa():
    sides = "ab" * 20
    found = compared({"A": read(sides), "B": read(sides), "C": read("ba" * 20)}, RULES, clusters(40))
    row = found["principles"][0]
    # Each comparison: one pair of three agrees; by chance a half of them would.
    assert row["kappa"]["value"] == pytest.approx((1 / 3 - 0.5) / 0.5)
    assert row["executors"]["C"]["kappa"]["value"] == -1.0
    assert {name: two["kappa"]["value"] for name, two in row["two"].items()} == {
        "A · B": 1.0,
        "A · C": -1.0,
        "B · C": -1.0,
    }


def test_an_executor_that_never_decides_is_left_out():
    sides = "ab" * 20
    found = compared({"A": read(sides), "B": read(sides), "C": read("t" * 40)}, RULES, clusters(40))[
        "principles"
    ][0]
    assert found["silent"] == ["C"]
    assert found["kappa"]["value"] == 1.0
    assert found["executors"]["C"]["kappa"]["value"] is None
    assert list(found["two"]) == ["A · B"]


def test_a_principle_of_which_nothing_can_be_told_comes_last():
    found = compared({"A": read("ab" * 20, "t" * 40), "B": read("ba" * 20, "t" * 40)}, RULES, clusters(40))
    assert [row["id"] for row in found["principles"]] == ["x", "y"]
    assert found["principles"][0]["kappa"]["value"] == -1.0
    assert found["principles"][1]["kappa"]["value"] is None


def label(pair: str, who: tuple[str, str], principle: str | None, p: float, order: str = "ab") -> Label:
    kind, name = who
    annotator = Annotator.model_validate({"kind": kind, "id": name})
    return Label.model_validate(
        {
            "comparison_id": pair,
            "annotator": annotator,
            "principle_id": principle,
            "order": order,
            "p_a": p,
            "verdict": verdict_of(p),
        }
    )


def test_people_are_one_executor_by_the_share_of_their_votes():
    votes = [label("1", ("human", name), None, p) for name, p in (("ann", 1.0), ("ben", 1.0), ("cleo", 0.0))]
    assert read_labels({"1": votes}, RULES) == {"all": {"1": (2 + 1 / 8) / (3 + 1 / 4)}}
    judged = [label("1", ("ai", "j"), name, p) for name, p in (("x", 0.9), ("y", 0.9))]
    found = read_labels({"1": judged}, RULES)
    assert found["x"]["1"] == pytest.approx(0.9)
    assert found["all"]["1"] == pytest.approx(81 / 82)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_ambiguous_principle_comes_first(seed):
    """Two readers of all principles with noise; of the planted one each has in mind another of them."""
    rng = Random(f"executors {seed}")
    rules = planted.constitution(vague="Be good.")
    meant = rng.sample(KINDS, 2)
    said: dict[str, dict] = {name: {} for name in ("first", "second")}
    of: dict[str, str] = {}
    for number in range(250):
        prompt, comparison, better, _ = planted.pair(rng, number)
        of[comparison.id] = prompt.cluster
        for name, kind in zip(said, meant, strict=True):
            sides = {**better, "vague": better[kind]}
            said[name][comparison.id] = [
                planted.label(comparison, i, s, rng, noise=0.25) for i, s in sides.items()
            ]
    found = compared({name: read_labels(rows, rules) for name, rows in said.items()}, rules, of)
    assert found["principles"][0]["id"] == "vague"
    assert found["principles"][0]["kappa"]["ci"][1] < min(
        row["kappa"]["value"] for row in found["principles"][1:]
    )


def project(folder: Path) -> Path:
    """A constitution with an ambiguous principle and two judges' configs; returns its file."""
    rules = [{"id": f"no-{word}", "text": f"Never say {word}."} for word in ("rude", "wrong")]
    rules.append({"id": "nice", "text": "Be nice."})
    (folder / "c.yaml").write_text(json.dumps({"name": "rules", "principles": rules}))
    (folder / "p.jsonl").write_text('{"prompt": "x"}\n')
    for name in ("first", "second"):
        model = {"engine": "scripted", "model": f"tests.two_readers:{name}"}
        config = {"name": name, "constitution": "c.yaml", "prompts": "p.jsonl", "templates": "brief"}
        config |= {"policy": model, "feedback": model, "stages": [{"stage": "sample"}]}
        (folder / f"{name}.yaml").write_text(json.dumps(config))
    return folder / "c.yaml"


def test_the_command_names_the_principle_and_shows_pairs(tmp_path):
    file, run = project(tmp_path), fake_run(tmp_path / "run", prompts=160)
    words = ["constitution", "executors", str(file), "--run", str(run)]
    words += ["--judges", str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "nice: Be nice." in shown.stdout.split("All principles together")[1].split("no-rude:")[0]
    CliRunner().invoke(app, [*words, "--out", str(tmp_path / "legend.html"), "--json"])
    flat = " ".join(shown.stdout.split())
    assert flat.index("no-rude") < flat.index(" ".join(LEGEND)) < flat.index("All principles together")
    assert " ".join(LEGEND) in unescape((tmp_path / "legend.html").read_text())
    for name in ("kappa", "silent", "–", "all"):  # what the table's columns and cells are
        assert f"{name}: " in " ".join(LEGEND)
    assert "P(A is better): first.yaml 0.90" in shown.stdout or "first.yaml 0.10" in shown.stdout
    data = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert data["principles"][0]["id"] == "nice"
    assert data["executors"][-2:] == ["first.yaml", "second.yaml"]
    by_id = {row["id"]: row for row in data["principles"]}
    # The run's own judge has labels under the same wordings of two principles, and none under the third.
    assert set(by_id["no-rude"]["executors"]) == {"judge", "first.yaml", "second.yaml"}
    assert set(by_id["nice"]["executors"]) == {"first.yaml", "second.yaml"}
    assert by_id["no-rude"]["two"]["first.yaml · second.yaml"]["kappa"]["value"] == 1.0
    assert data["left_out"] == {"label under another wording or principle": data["comparisons"] * 2}


def asked_in_two_ways(folder: Path) -> tuple[Path, Path]:
    """Two runs of the same pairs whose one judge was asked by two template sets; the second it turned."""
    runs = fake_run(folder / "run", prompts=160), fake_run(folder / "again", prompts=160)
    for run, turned in zip(runs, (False, True), strict=True):
        path = run / "06_label" / "labels.jsonl"
        rows = [row for row in RowFile(path, Label) if row.p_a is not None]
        judge = {"judge": {"model": "judge", "template": Run.load(run).templates.hash("comparison")}}
        if turned:
            judge["judge"]["template"] = "other"
        told = [
            row.model_copy(
                update=judge | ({"p_a": 1 - row.p_a, "verdict": verdict_of(1 - row.p_a)} if turned else {})
            )
            for row in rows
        ]
        path.write_text("".join(with_content_id(row).to_json() + "\n" for row in told))
    return runs


def test_one_model_asked_by_two_template_sets_is_two_executors(tmp_path):
    file, runs = project(tmp_path), asked_in_two_ways(tmp_path)
    found = executors(file, Sources(runs=runs, pairs=0))
    assert found["executors"] == [f"judge · {Run.load(runs[0]).templates.name}", "judge"]
    (row, *_) = found["principles"]
    assert row["opposite"]["value"] == 1
    asked = executors(file, Sources((str(tmp_path / "first.yaml"),), runs, pairs=0))
    assert len(asked["executors"]) == 3
    data = compare_judges(JudgesAsked((str(tmp_path / "first.yaml"),), runs=runs, keep=tmp_path / "kept"))
    assert sorted(judge["name"] for judge in data["judges"]) == sorted([*found["executors"], "first.yaml"])


def test_people_are_compared_on_the_whole(tmp_path):
    file, run = project(tmp_path), fake_run(tmp_path / "run", prompts=120)
    rows = [json.loads(line) for line in (run / "05_pair" / "comparisons.jsonl").read_text().splitlines()]
    folder = tmp_path / "people"
    folder.mkdir()
    for name in ("prompts", "responses", "comparisons"):
        path = next(run.glob("prompts.jsonl" if name == "prompts" else f"0[45]_*/{name}.jsonl"))
        (folder / f"{name}.jsonl").write_text(path.read_text())
    votes = [label(row["id"], ("human", "ann"), None, 1.0) for row in rows]
    (folder / "labels.jsonl").write_text("".join(row.to_json() + "\n" for row in votes))
    found = executors(file, Sources((str(tmp_path / "first.yaml"),), labels=folder / "labels.jsonl", pairs=0))
    assert found["executors"] == ["people", "first.yaml"]
    assert found["principles"] == []
    assert found["whole"]["agreement"]["n"] == len(rows)


def test_one_executor_is_not_enough(tmp_path):
    file, run = project(tmp_path), fake_run(tmp_path / "run", prompts=60, words=("other",))
    message = r"no verdicts on the same pairs \(first.yaml: \d+ of \d+ labels can be read\)"
    with pytest.raises(UserError, match=message):
        executors(file, Sources((str(tmp_path / "first.yaml"),), (run,)))
    with pytest.raises(UserError, match="the constitution has no examples"):
        executors(file, Sources((str(tmp_path / "first.yaml"),)))


def test_the_principles_under_which_an_executor_is_silent_stand_in_one_line():
    found = compared({"A": read("ab" * 10, "ab" * 10), "B": read("t" * 20, "t" * 20)}, RULES, clusters(20))
    (line,) = silent(found)
    assert line == "B never decides under x, y (silent): it is left out of their kappa."


def test_a_judge_that_is_named_twice_is_one(tmp_path):
    """It would agree with itself, which says nothing of how a principle is read."""
    file, run = project(tmp_path), fake_run(tmp_path / "run", prompts=120)
    first, copy = tmp_path / "first.yaml", tmp_path / "copy.yaml"
    with pytest.raises(UserError, match=r"first\.yaml: named twice"):
        executors(file, Sources((str(first), str(first)), (run,)))
    copy.write_text(first.read_text())
    keep = tmp_path / "kept.jsonl"
    found = executors(
        file, Sources((str(first), str(copy), str(tmp_path / "second.yaml")), (run,), keep=keep)
    )
    assert found["executors"] == ["judge", "first.yaml", "second.yaml"]
    asked = len(keep.read_text().splitlines()) // 2
    assert found["left_out"][f"label of {copy}, which is the same judge as {first}"] == asked


def test_without_pairs_the_examples_are_judged(tmp_path):
    file = project(tmp_path)
    data = json.loads(file.read_text())
    data["principles"][0]["examples"] = [{"prompt": "Hi?", "better": "a nice day", "worse": "a rude sun"}]
    file.write_text(json.dumps(data))
    judges = tuple(str(tmp_path / f"{name}.yaml") for name in ("first", "second"))
    found = executors(file, Sources(judges, keep=tmp_path / "kept.jsonl"))
    assert found["comparisons"] == 1
    assert [row["id"] for row in found["principles"] if row["examples"]] == ["nice"]
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 2 * 3 * 2


def test_the_page_has_every_principle_under_every_executor(tmp_path, chromium):  # noqa: F811
    file, run = project(tmp_path), fake_run(tmp_path / "run", prompts=160)
    words = ["constitution", "executors", str(file), "--run", str(run), "--out", str(tmp_path / "page.html")]
    words += ["--judges", str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml"), "--json"]
    data = json.loads(CliRunner().invoke(app, words).stdout)
    for scheme in ("light", "dark"):
        page = opened(chromium, (tmp_path / "page.html").as_uri(), scheme)
        assert page.errors == []
        assert "“nice” is read most differently" in page.inner_text("h1")
        names = page.locator("thead th").all_inner_texts()[2:5]
        assert names == data["executors"] == ["judge", "first.yaml", "second.yaml"]
        rows = page.locator("tbody tr").all()
        assert [row.locator("td").first.inner_text().split("\n")[0] for row in rows] == [
            *(row["id"] for row in data["principles"]),
            "all",
        ]
        for shown, row in zip(rows, [*data["principles"], data["whole"]], strict=True):
            assert f"{row['kappa']['value']:.2f}".replace("-", "−") in shown.locator("td").nth(1).inner_text()
            colours = [
                cell.evaluate("x => getComputedStyle(x).backgroundColor")
                for cell in shown.locator(".heat").all()
            ]
            alike = [heat(row, who) for who in names]
            assert (len(set(colours)) == 1) == (len(set(alike)) == 1)
        assert page.locator("h3").first.inner_text() == "1. nice: Be nice."
        first = data["principles"][0]["examples"][0]
        assert first["a"] in page.locator(".card").first.inner_text()
        page.context.close()


def test_the_page_escapes_what_others_wrote(tmp_path):
    sides = "ab" * 20
    found = compared({"<b>A</b>": read(sides), "B": read("ba" * 20)}, RULES, clusters(40))
    for example in found["principles"][0]["examples"]:
        example.update({"prompt": "<script>alert(1)</script>", "a": "{{ 7 * 7 }}", "b": "\x1b[31mred"})
    text = write_executors(tmp_path / "page.html", {**found, "left_out": {}}, "<i>").read_text()
    assert "&lt;b&gt;A&lt;/b&gt;" in text
    assert not any(word in text for word in ("<script>", "<b>A", "<i>", "\x1b"))
    assert "{{ 7 * 7 }}" in text
    assert (heat(found["principles"][0], "B"), DARKEST) == (0, 38)

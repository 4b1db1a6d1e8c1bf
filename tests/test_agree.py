"""`rlaif agree`: real figures, our own files whichever way they stand, runs, hostile texts, the docs'
commands."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.human.agree import agree
from rlaif.human.agree_page import in_words, write_agreement
from rlaif.human.annotated import read_annotated
from rlaif.human.folder import REPEATED, REPLACED
from rlaif.human.importers import import_file
from rlaif.human.said import Annotated, Item, Said, flips
from rlaif.records import Annotator, Comparison, Label, Prompt, Ranking, Response
from tests.annotating import Person, session, write_file
from tests.fake_run import fake_run

PEOPLE = [Annotator(kind="human", id=name) for name in ("ann", "bo", "cy")]
JUDGE = Annotator(kind="ai", id="judge")
P = {"a": 0.9, "b": 0.1, "tie": 0.5}


@pytest.fixture(scope="module")
def pandalm(test_data):
    names = ("testset", "gpt-3.5-turbo-testset", "pandalm-7b-testset")
    return agree(read_annotated([test_data / "pandalm" / f"{name}-v1.json" for name in names]))


def close(value):
    return pytest.approx(value, abs=0.0005)


def test_the_known_figures_of_pandalm(pandalm):
    people = pandalm["groups"]["human–human"]
    kappas = [row["kappa"] for row in pandalm["between"] if row["kind"] == "human–human"]
    assert kappas == [close(0.8520), close(0.8789), close(0.8617)]
    assert people["agreement"]["value"] == close(0.9199)
    assert (people["fleiss"]["value"], people["alpha"]["value"]) == (close(0.8642), close(0.8642))
    gpt, panda = pandalm["judges"]
    assert (gpt["strict"]["agreement"]["value"], gpt["strict"]["kappa"]) == (close(0.6977), close(0.4755))
    assert (gpt["unread"], gpt["n"], gpt["strict"]["agreement"]["n"]) == (25, 974, 999)
    assert (panda["agreement"]["value"], panda["kappa"]) == (close(0.6677), close(0.4354))
    longer = [row["leanings"]["longer"] for row in pandalm["annotators"] if row["kind"] == "ai"]
    assert pandalm["majority"]["longer"]["value"] == close(0.6753)
    assert [row["value"] for row in longer] == [close(0.6192), close(0.6553)]
    for figure in (people["alpha"], gpt["strict"]["agreement"], *longer):
        assert figure["ci"][0] < figure["value"] < figure["ci"][1]
    assert people["alpha"]["groups"] == 170
    text = "\n".join(in_words(pandalm))
    assert "25 unreadable verdicts count as wrong" in text
    assert [row["stand_in"]["verdict"] for row in pandalm["judges"]] == ["fails", "fails"]


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ({"one": (0.9, 0.1), "two": (0.98, 0.98)}, False),  # 2.20 + 3.89 and -2.20 + 3.89
        ({"one": (0.9, 0.1), "two": (0.6, 0.6)}, True),  # 2.20 + 0.41 and -2.20 + 0.41
        ({"one": (0.9, 0.9), "two": (0.6, 0.4)}, False),
        ({"one": (0.9, 0.9), "two": (0.001, None)}, False),  # what was read in one order alone says nothing
        ({"one": (0.5, 0.5), "two": (0.5, 0.5)}, None),
        ({"one": (0.9, None)}, None),
    ],
)
def test_a_judge_of_several_principles_flips_where_its_whole_opinion_does(read, expected):
    weights = dict.fromkeys(read, 1.0)
    labels = [
        Label(
            comparison_id="c",
            annotator=JUDGE,
            principle_id=principle,
            order=order,
            p_a=p,
            verdict="invalid" if p is None else "a" if p > 0.5 else "b" if p < 0.5 else "tie",
        )
        for principle, values in read.items()
        for order, p in zip(("ab", "ba"), values, strict=True)
    ]
    assert flips(labels, weights) is expected
    assert flips(labels[::-1], weights) is expected


def test_fewer_labels_on_pandalm_give_the_same_answer_with_an_interval(pandalm, test_data):
    """People's labels of a third of the prompts and the judge's verdicts on all: near the labels of all."""
    names = ("testset", "gpt-3.5-turbo-testset")
    found = read_annotated([test_data / "pandalm" / f"{name}-v1.json" for name in names])
    kept = sorted({item.cluster for item in found.items.values()})[::3]
    for who in found.of_kind("human"):
        found.said[who] = {i: x for i, x in found.said[who].items() if found.items[i].cluster in kept}
    row = agree(found)["powered"][0]
    whole = pandalm["powered"][0]
    assert row["unlabelled"] > 600
    assert row["ci"][0] < whole["value"] < row["ci"][1]
    assert row["labels_alone"] > row["n"], "the judge's verdicts save labels"
    assert f"{len(pandalm['powered']) - 6} more estimates like these: --out" in "\n".join(in_words(pandalm))


class Made:
    """A folder of pairs and labels; `verdicts` of (ann, bo, cy, judge) an item, of (first, second)."""

    def __init__(self, folder, verdicts, turned=(), text="good"):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.pairs = folder, []
        rows = {name: [] for name in ("prompts", "responses", "comparisons", "labels")}
        for at, said in enumerate(verdicts):
            tags = ("odd",) if at % 2 else ()
            prompt = Prompt(messages=[{"role": "user", "content": f"Q{at} {text}"}], tags=tags)
            two = [Response(prompt_id=prompt.id, text=f"{text} {'more ' * k}{at}") for k in (1, 0)]
            a, b = (two[1], two[0]) if at in turned else two
            pair = Comparison(prompt_id=prompt.id, a=a.id, b=b.id)
            self.pairs.append(pair)
            rows["prompts"].append(prompt)
            rows["responses"] += two
            rows["comparisons"].append(pair)
            for who, verdict in zip((*PEOPLE, JUDGE), said, strict=False):
                if verdict:
                    rows["labels"] += self.labels(pair, who, verdict, at in turned)
        self.rows = rows
        for name, own in rows.items():
            (folder / f"{name}.jsonl").write_text("".join(row.to_json() + "\n" for row in own))

    def labels(self, pair, who, verdict, turned):
        verdict = {"a": "b", "b": "a"}.get(verdict, verdict) if turned else verdict
        kind = {"comparison_id": pair.id, "annotator": who, "verdict": verdict, "p_a": P.get(verdict)}
        if who.kind == "human":
            return [Label(**kind)]
        ids = ("one", "two")
        return [Label(**kind, principle_id=i, order=order) for i in ids for order in ("ab", "ba")]


def figures(*paths, **options):
    return agree(read_annotated([Path(path) for path in paths]), **options)


VERDICTS = [
    ("a", "a", "a", "a"),
    ("a", "a", "b", "b"),
    ("b", "b", "b", "invalid"),
    ("tie", "tie", "a", "tie"),
] * 10


def test_our_own_files_by_hand(tmp_path):
    made = Made(tmp_path / "one", VERDICTS)
    found = figures(made.folder)
    assert found == {**figures(made.folder / "labels.jsonl"), "sources": found["sources"]}
    people = found["groups"]["human–human"]
    assert people["agreement"]["value"] == pytest.approx((1 + 1 / 3 + 1 + 1 / 3) / 4)
    judge = found["judges"][0]
    assert (judge["agreement"]["value"], judge["n"], judge["unread"]) == (pytest.approx(2 / 3), 30, 10)
    assert judge["strict"]["agreement"]["value"] == pytest.approx(0.5)
    assert set(judge["principles"]) == {"one", "two"}
    one = judge["principles"]["one"]
    assert one["agreement"]["value"] == pytest.approx(2 / 3)
    assert (one["ties"], one["same_side"]["value"], one["same_side"]["n"]) == (pytest.approx(1 / 3), 0.5, 20)
    lines = in_words(found)
    told = next(at for at, line in enumerate(lines) if line.startswith("ai:judge by principle: its verdict"))
    assert "so a low share is no error rate" in lines[told]
    assert re.match(
        r"  one: the same verdict in 0\.667 \[.*\] of 30 pairs \(a tie in 0\.333\), the same side in 0\.500 "
        r"\[.*\] of the 20 on which both take one; kappa ",
        lines[told + 1],
    )
    assert found["tags"]["odd"]["pairs"] == 20
    assert found["tags"]["odd"]["judges"]["ai:judge"]["agreement"]["value"] == pytest.approx(0.5)
    row = next(row for row in found["annotators"] if row["name"] == "ai:judge")
    said = row["verdicts"]
    assert (said["a"] + said["b"], said["tie"], said["abstain"], said["invalid"]) == (20, 10, 0, 10)
    assert row["leanings"]["longer"]["n"] == 20, "each two responses differ by a word"
    shown = [x for x in found["disagreements"] if "turns" in x["why"]]
    assert shown[0]["verdicts"]["ai:judge"]["verdict"] != shown[0]["verdicts"]["human:ann"]["verdict"]
    assert "more" in shown[0]["a"] + shown[0]["b"]
    page = write_agreement(tmp_path / "a.html", found).read_text()
    assert "10 of 40 verdicts of ai:judge could not be read" in page
    tagged = Made(tmp_path / "t", [VERDICTS[0], ("a", "a", "a", "invalid")] * 20)
    tagged = write_agreement(tmp_path / "b.html", figures(tagged.folder)).read_text()
    assert re.search(r"<td>odd</td><td>20</td>.*n 20.*n 0; 20 unreadable left out", tagged)


def test_the_surest_judge_that_turns_a_majority_comes_first():
    said = {f"human:{who}": {"x": Said("a", 1.0), "y": Said("a", 1.0)} for who in ("ann", "bo")}
    said["ai:judge"] = {"x": Said("b", 0.3), "y": Said("b", 0.0)}
    found = agree(Annotated({id: Item(id, id) for id in "xy"}, said))
    assert [row["id"] for row in found["disagreements"]] == ["y", "x"]


def test_a_pair_is_one_item_whichever_way_it_stands(tmp_path):
    plain, turned = Made(tmp_path / "x", VERDICTS), Made(tmp_path / "y", VERDICTS, turned=range(0, 40, 3))
    keep = turned.folder / "labels.jsonl"
    keep.write_text("".join(x + "\n" for x in keep.read_text().splitlines() if '"human"' not in x))
    people = plain.folder / "labels.jsonl"
    people.write_text("".join(x + "\n" for x in people.read_text().splitlines() if '"human"' in x))
    found = figures(plain.folder, turned.folder)
    assert found["pairs"] == 40
    assert found["judges"][0]["agreement"]["value"] == pytest.approx(2 / 3)
    assert found["judges"][0]["unread"] == 10


def test_what_stands_twice_is_counted(tmp_path):
    made = Made(tmp_path / "x", VERDICTS[:4])
    file = made.folder / "labels.jsonl"
    first = file.read_text().splitlines()[0]
    wrong = json.dumps({**json.loads(first), "verdict": "b", "p_a": 0.1})
    file.write_text("\n".join([*file.read_text().splitlines(), first, wrong]) + "\n")
    dropped = figures(file)["dropped"]
    assert dropped == {REPLACED: 1, REPEATED: 1}


def test_rankings(tmp_path):
    made = Made(tmp_path / "x", VERDICTS[:4])
    (made.folder / "labels.jsonl").unlink()
    rows = [
        Ranking(prompt_id=p.prompt_id, response_ids=(p.a, p.b), ranks=ranks, annotator=who)
        for p in made.pairs
        for who, ranks in ((PEOPLE[0], (1, 2)), (PEOPLE[1], (1, 1)))
    ]
    path = made.folder / "people.jsonl"
    path.write_text("".join(row.to_json() + "\n" for row in rows))
    found = figures(path)
    assert found["between"][0]["agreement"]["value"] == 0
    assert found["annotators"][1]["verdicts"]["tie"] == 4
    assert found["annotators"][0]["leanings"]["longer"]["value"] == 1.0


def test_runs_of_people_and_of_a_judge(tmp_path):
    runs = [fake_run(tmp_path / name, human=name == "people") for name in ("people", "judge")]
    found = figures(*runs)
    assert [row["kind"] for row in found["sources"]] == ["run", "run"]
    judge = next(row for row in found["annotators"] if row["kind"] == "ai")
    assert judge["cost"]["seconds"] >= 0
    assert judge["pairs"] > 0


def test_texts_of_others_do_no_harm(tmp_path):
    hostile = "<script>alert(1)</script> {{ 7*7 }} \x1b[31m"
    made = Made(tmp_path / "x", VERDICTS, text=hostile)
    result = CliRunner().invoke(app, ["agree", str(made.folder), "--out", str(tmp_path / "p.html")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "p.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page + result.output
    assert "{{ 7*7 }}" in page


@pytest.mark.parametrize("text", ["", '{"x": 1}\n', "not JSON\n"])
def test_a_file_that_says_nothing_is_refused_in_words(tmp_path, text):
    path = tmp_path / "labels.jsonl"
    path.write_text(text)
    result = CliRunner().invoke(app, ["agree", str(path)])
    assert result.exit_code != 0
    assert type(result.exception).__name__ == "UserError", result.exception
    missing = CliRunner().invoke(app, ["agree", str(tmp_path / "none")])
    assert "no such file" in str(missing.exception)


def test_the_commands_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Made(tmp_path, VERDICTS)
    for name in ("people", "judge"):
        fake_run(tmp_path / "runs" / name, human=name == "people")
    items = [
        {
            "idx": i,
            "instruction": f"q{i}",
            "input": "",
            "response1": "x",
            "response2": "yy",
            "annotator1": i % 3,
            "annotator2": i % 3,
            "annotator3": 1,
        }
        for i in range(40)
    ]
    (tmp_path / "testset-v1.json").write_text(json.dumps(items))
    for name, key in (("gpt-3.5-turbo", "gpt"), ("pandalm-7b", "pandalm")):
        rows = [
            {"idx": i, f"{key}_result": "garbage" if i < 2 else "1", f"{key}_reason": ""} for i in range(40)
        ]
        (tmp_path / f"{name}-testset-v1.json").write_text(json.dumps(rows))
    page = (Path(__file__).parent.parent / "docs" / "agree.md").read_text()
    commands = re.findall(r"^rlaif (agree .*)$", page, re.M)
    assert len(commands) >= 3
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, f"{command}: {result.output} {result.exception}"
        if "--json" in command:
            assert {"groups", "judges", "powered"} <= json.loads(result.stdout).keys()
    assert (tmp_path / "agree.html").exists()


def written(folder, said):
    """A folder of two pairs with labels (annotator, kind, verdict, pair)."""
    prompts = [Prompt.model_validate({"messages": [{"role": "user", "content": f"q{n}"}]}) for n in range(2)]
    responses = [[Response(prompt_id=p.id, text=text) for text in "xy"] for p in prompts]
    pairs = [Comparison(prompt_id=p.id, a=a.id, b=b.id) for p, (a, b) in zip(prompts, responses, strict=True)]
    labels = [
        Label.model_validate(
            {"comparison_id": pairs[at].id, "annotator": {"kind": kind, "id": who}, "verdict": verdict}
            | ({"p_a": 1.0} if verdict == "a" else {})
        )
        for who, kind, verdict, at in said
    ]
    texts = [response for both in responses for response in both]
    rows = {"prompts": prompts, "responses": texts, "comparisons": pairs, "labels": labels}
    for name, own in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(row.to_json() + "\n" for row in own))
    return folder


def test_a_name_of_any_length_or_of_several_lines_is_shown_as_a_name(tmp_path):
    """A line break in a name is no line of the result, and a long one does not fill the page."""
    names = ("x" * 200_000, "x" * 200_000 + "y", "z\nai:j agrees in 1.000 of 999 pairs")
    folder = written(tmp_path, [(who, "human", "a", at) for at in range(2) for who in names])
    data = agree(read_annotated([folder]))
    assert sorted(row["id"] for row in data["annotators"]) == sorted(names)  # whole in JSON
    words = in_words(data)
    assert not any("\n" in line for line in words)
    assert max(map(len, words)) < 500
    assert len(set(re.findall(r"human:x+… \(\w+\)", "".join(words)))) == 2
    assert "human:z ai:j agrees" in "".join(words)
    assert write_agreement(tmp_path / "a.html", data).stat().st_size < 50_000


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([("ann", "human", "a", 0), ("ben", "human", "a", 1)], "there is nothing to agree on"),
        ([("ann", "human", "abstain", 0), ("ben", "human", "abstain", 0)], "there is nothing to agree on"),
        ([("ann", "human", "a", 0), ("j", "ai", "a", 1)], "no pair in common"),
    ],
)
def test_where_nobody_judged_the_same_the_first_line_says_so(tmp_path, said, expected):
    assert expected in in_words(agree(read_annotated([written(tmp_path, said)])))[0]


def test_two_files_of_one_name_in_two_formats_hold_different_pairs(tmp_path):
    chosen = [
        {"chosen": f"\n\nHuman: q {n}\n\nAssistant: yes", "rejected": f"\n\nHuman: q {n}\n\nAssistant: no"}
        for n in range(5)
    ]
    compared = [{"prompt": f"other {n}", "first": "one", "second": "two", "verdict": "1"} for n in range(5)]
    files = []
    for place, data in (("x", chosen), ("y", compared)):
        files.append(tmp_path / place / "test.jsonl")
        files[-1].parent.mkdir()
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in data))
    found = figures(*files)
    assert found["pairs"] == 10
    assert not found["between"]


def table(path, *rows):
    """A table with named columns; what a row does not say is empty."""
    columns = ("prompt", "first", "second", "verdict", "annotator", "kind", "principle")
    with path.open("w", newline="") as file:
        made = csv.DictWriter(file, columns, restval="")
        made.writeheader()
        made.writerows(rows)
    return path


def said_in(path, tmp_path):
    """What is said in a file as it stands, and of the folder that an import makes of it; nothing of ids."""
    import_file(None, path, tmp_path / "imported")
    for found in (read_annotated([path]), read_annotated([tmp_path / "imported"])):
        data = agree(found)
        between = [(row["between"], row["n"], row["agreement"]["value"]) for row in data["between"]]
        counts = [(row["name"], row["verdicts"]) for row in data["annotators"]]
        yield data["pairs"], data["clusters"], between, sorted(counts)


def test_rows_of_several_annotators_on_one_pair_are_one_item(tmp_path):
    """A row for each label, as other projects' tables and our own exports have them; ben saw some of the
    pairs the other way round."""
    rows = []
    for n in range(12):
        two = {"prompt": f"q{n}", "first": f"x{n}", "second": f"y{n}"}
        swapped = {**two, "first": two["second"], "second": two["first"]}
        rows += [{**two, "annotator": "ann", "verdict": "1"}]
        rows += [
            {**(swapped if n % 2 else two), "annotator": "ben", "verdict": "2" if n % 2 or n < 4 else "1"}
        ]
    [as_it_is, imported] = said_in(table(tmp_path / "t.csv", *rows), tmp_path)
    assert as_it_is == (12, 12, [(["human:ann", "human:ben"], 12, pytest.approx(10 / 12))], as_it_is[3])
    assert as_it_is[:2] == imported[:2]
    assert as_it_is[2] == imported[2]


def test_rows_that_one_annotator_repeats_are_items_of_their_own(tmp_path):
    row = {"prompt": "q", "first": "x", "second": "y", "verdict": "1"}
    people = [{**row, "annotator": who} for who in ("ann", "ben", "ann")]
    found = read_annotated([table(tmp_path / "t.csv", *people)])
    assert [len(own) for own in found.said.values()] == [2, 1]
    assert len(found.items) == 2


def test_a_judges_verdicts_under_several_principles_in_a_file_are_one_opinion(tmp_path):
    """The last principle alone stood for the judge's opinion."""
    pair = {"prompt": "q", "first": "x", "second": "y", "kind": "ai", "annotator": "j"}
    rows = [{**pair, "principle": name, "verdict": v} for name, v in (("p", "1"), ("q", "1"), ("r", "2"))]
    rows += [{**pair, "kind": "human", "annotator": "ann", "principle": "", "verdict": "1"}]
    path = table(tmp_path / "t.csv", *rows)
    [as_it_is, imported] = said_in(path, tmp_path)
    assert as_it_is == imported
    [judge] = agree(read_annotated([path]))["judges"]
    assert judge["agreement"]["value"] == 1.0
    assert set(judge["principles"]) == {"p", "q", "r"}


def test_annotated_pairs_say_the_same_as_their_import(tmp_path, test_data):
    [as_it_is, imported] = said_in(test_data / "icai_synthetic" / "example_ap.json", tmp_path)
    assert as_it_is == imported


def test_what_was_shown_first_is_told_where_somebody_noted_it(tmp_path):
    """Of choices on the page also for pairs of a file; not of rankings, nor of simulated people."""
    page = session(write_file(tmp_path / "f.jsonl", items=30), tmp_path / "out", seed=1)
    for _ in range(30):
        Person(page).does("choice", [1, 2])
    page.write()
    [ana] = figures(tmp_path / "out")["annotators"]
    assert (ana["leanings"]["shown first"]["value"], ana["leanings"]["shown first"]["n"]) == (1.0, 30)
    made = Made(tmp_path / "x", VERDICTS)
    [*people, judge] = figures(made.folder)["annotators"]
    assert [row["leanings"]["shown first"] for row in people] == [None] * 3
    assert judge["leanings"]["shown first"]["value"] == 0.5
    [simulated] = figures(fake_run(tmp_path / "people", human=True))["annotators"]
    assert simulated["leanings"]["shown first"] is None


def test_what_two_judges_of_a_run_cost_together_is_the_cost_of_none(tmp_path):
    run = fake_run(tmp_path / "judge")
    [judge] = figures(run)["annotators"]
    assert judge["cost"]
    [labels] = run.glob("*_label/labels.jsonl")
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    other = [{**row, "judge": {**row["judge"], "template": "other"}, "id": row["id"][::-1]} for row in rows]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows + other))
    assert [row["cost"] for row in figures(run)["annotators"]] == [None, None]

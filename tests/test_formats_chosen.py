"""TRL, ShareGPT, RewardBench, NeMo RL, K-wise rankings, UltraFeedback, annotation tools, tables, Arena:
what each row says, and the way back."""

import json
from pathlib import Path

import pytest

from rlaif.errors import UserError
from rlaif.human.exporters import export_file
from rlaif.human.folder import read_folder
from rlaif.human.formats import FORMATS, format_of
from rlaif.human.formats.tables import table_format
from rlaif.human.importers import import_file
from rlaif.records import Annotator, Grade, Label, Ranking
from rlaif.runs.folder import Run
from rlaif.runs.rows import read_rows
from tests.fake_run import fake_run

FILES = ("prompts", "responses", "comparisons", "labels", "rankings", "grades")


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parse(name: str, **row):
    return FORMATS[name].parse(row)


def same(one: Path, two: Path) -> None:
    for name in FILES:
        a, b = one / f"{name}.jsonl", two / f"{name}.jsonl"
        assert a.exists() == b.exists()
        if a.exists():
            assert sorted(a.read_text().splitlines()) == sorted(b.read_text().splitlines()), name


ROWS = {
    "trl": [
        {
            "prompt": [user("q")],
            "chosen": [said("x")],
            "rejected": [said("y")],
            "p_chosen": 0.75,
            "source": "ai",
        },
        {"prompt": "r", "chosen": "x", "rejected": "y"},
        {"chosen": [user("s"), said("x")], "rejected": [user("s"), said("y")]},
    ],
    "trl-unpaired": [
        {"prompt": [user("q")], "completion": [said("x")], "label": True},
        {"prompt": "q", "completion": "y", "label": "FALSE"},
    ],
    "sharegpt": [
        {
            "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "x"},
            "rejected": {"from": "gpt", "value": "y"},
        }
    ],
    "sharegpt-kto": [{"messages": [user("q"), said("x")], "label": False}],
    "rewardbench": [{"prompt": "q", "chosen": "x", "rejected": "y", "subset": "math", "id": 1}],
    "nemo-rl": [
        {
            "context": [user("q")],
            "completions": [
                {"rank": 0, "completion": [said("x")]},
                {"rank": 2, "completion": [said("y")]},
                {"rank": 2, "completion": [said("z")]},
            ],
        }
    ],
    "ultrafeedback": [
        {
            "instruction": "q",
            "generations": ["x", "y", "z"],
            "ratings": [4, 5, 4],
            "rationales": ["", None, ""],
            "generation_models": ["k", "l", "m"],
        }
    ],
    "ranking": [
        {
            "prompt": "q",
            "responses": ["x", "y", "z"],
            "ranks": [1, 2, 2],
            "annotator": "ann",
            "seconds": 12.5,
        },
        {
            "prompt": "q",
            "responses": ["x", "y", "z"],
            "ordering": [[2], [0, 1]],
            "annotator": {"kind": "simulated", "id": "s"},
        },
    ],
    "label-studio": [
        {
            "data": {
                "prompt": "q",
                "items": [{"id": "a", "title": "", "body": "x"}, {"id": "b", "title": "", "body": "y"}],
            },
            "annotations": [
                {
                    "completed_by": 7,
                    "lead_time": 3.5,
                    "result": [{"type": "ranker", "value": {"ranker": ["b", "a"]}}],
                }
            ],
        }
    ],
    "argilla": [
        {
            "instruction": "q",
            "response1": "x",
            "response2": "y",
            "ranking.responses": [["response2", "response1"]],
            "ranking.responses.users": ["u1"],
        }
    ],
    "arena": [
        {
            "model_a": "m",
            "model_b": "n",
            "winner": "model_b",
            "judge": "u",
            "conversation_a": [user("q"), said("x")],
            "conversation_b": [user("q"), said("y")],
        }
    ],
    "table": [
        {"prompt": "q", "first": "x", "second": "y", "verdict": "2", "annotator": "ann", "seconds": "4.5"},
        {"prompt": "q", "first": "x", "second": "y", "verdict": "tie", "annotator": "bob", "seconds": ""},
    ],
    "hh": [{"chosen": "\n\nHuman: q\n\nAssistant: x", "rejected": "\n\nHuman: q\n\nAssistant: y"}],
    "alpaca": [{"instruction": "q", "output_1": "x", "output_2": "y", "preference": 2}],
    "icai": [{"text_a": "x", "text_b": "y", "preferred_text": "text_b", "input": "q"}],
    "annotated-pairs": [
        {
            "metadata": {"version": "2.0"},
            "annotators": {},
            "comparisons": [
                {
                    "prompt": "q",
                    "response_a": {"text": "x"},
                    "response_b": {"text": "y"},
                    "annotations": {"1": {"pref": "b"}},
                }
            ],
        }
    ],
    "pandalm": [{"instruction": "q", "response1": "x", "response2": "y", "annotator1": 2}],
    "hhh": [{"input": "q", "target_scores": {"x": 0, "y": 1}}],
}


def test_every_format_has_an_example_here():
    assert ROWS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_its_rows_are_recognised_and_what_is_exported_gives_the_same_rows_back(tmp_path, name):
    source = lines(tmp_path / "in.jsonl", ROWS[name])
    assert format_of(source) == name
    counts = import_file(None, source, tmp_path / "one")
    assert counts["kept"] == len(ROWS[name]), counts
    assert not counts["dropped"]
    if not (FORMATS[name].write or FORMATS[name].write_row):
        with pytest.raises(UserError, match="can only be read"):
            export_file(tmp_path / "one", name, tmp_path / "back.jsonl")
        return
    for suffix in (".jsonl", ".json"):
        back = export_file(tmp_path / "one", name, tmp_path / f"back{suffix}")
        assert not back["dropped"]
        import_file(name, tmp_path / f"back{suffix}", tmp_path / f"two{suffix}")
        if name in ("icai", "annotated-pairs", "hh", "sharegpt", "rewardbench", "nemo-rl", "ultrafeedback"):
            continue  # they lose who labelled, or name what wrote a response after the format
        if name not in ("trl", "alpaca", "arena"):
            same(tmp_path / "one", tmp_path / f"two{suffix}")


def test_a_verdict_is_the_same_after_every_way_through_another_format(tmp_path):
    source = lines(
        tmp_path / "in.jsonl",
        [
            {"prompt": f"q{n}", "first": "x", "second": f"y{n}", "verdict": "12"[n % 2], "annotator": "ann"}
            for n in range(8)
        ],
    )
    import_file("table", source, tmp_path / "one")

    def better(folder: Path) -> dict[str, str]:
        rows = read_folder(folder)
        labels = {id: found[0] for id, found in rows.labels().items()}
        return {
            rows.prompts[pair.prompt_id].chat[0]["content"]: rows.responses[
                pair.a if labels[pair.id].p_a > 0.5 else pair.b
            ].text
            for pair in rows.comparisons.values()
        }

    there = better(tmp_path / "one")
    assert there == {f"q{n}": "x" if n % 2 == 0 else f"y{n}" for n in range(8)}
    for name, format in FORMATS.items():
        if (format.write or format.write_row) and name not in ("trl-unpaired", "sharegpt-kto"):
            counts = export_file(tmp_path / "one", name, tmp_path / f"{name}.json")
            assert counts == {"in": 8, "kept": 8, "dropped": {}}, name
            import_file(None, tmp_path / f"{name}.json", tmp_path / name)
            assert better(tmp_path / name) == there, name


@pytest.mark.parametrize(
    ("file", "format", "kept"), [("dpo_en_demo", "sharegpt", 295), ("kto_en_demo", "sharegpt-kto", 300)]
)
def test_the_real_sharegpt_files_there_and_back(tmp_path, test_data, file, format, kept):
    source = test_data / "preference_demos" / f"{file}.json"
    counts = import_file(None, source, tmp_path / "one")
    assert (counts["format"], counts["in"], counts["kept"]) == (format, 300, kept)
    assert counts["dropped"] == ({"repeats an earlier row": 5} if kept < 300 else {})  # five rows stand twice
    assert export_file(tmp_path / "one", format, tmp_path / "back.json")["kept"] == kept
    import_file(None, tmp_path / "back.json", tmp_path / "two")
    same(tmp_path / "one", tmp_path / "two")
    raw, back = json.loads(source.read_text()), json.loads((tmp_path / "back.json").read_text())
    plain = {json.dumps(row, sort_keys=True) for row in raw}
    assert plain == {json.dumps(row, sort_keys=True) for row in back}


def test_nothing_is_lost_on_the_way_through_a_table(tmp_path, test_data):
    folder = test_data / "pandalm"
    judges = [folder / f"{name}-testset-v1.json" for name in ("gpt-3.5-turbo", "pandalm-7b")]
    import_file("pandalm", folder / "testset-v1.json", tmp_path / "one", beside=judges, limit=200)
    for suffix in (".csv", ".parquet", ".jsonl"):
        assert export_file(tmp_path / "one", "table", tmp_path / f"t{suffix}")["kept"] == 200
        import_file("table", tmp_path / f"t{suffix}", tmp_path / f"two{suffix}")
        keys = {"comparison_id", "id"}
        one, two = (
            [label.model_dump(exclude=keys) for label in read_rows(f / "labels.jsonl", Label)]
            for f in (tmp_path / "one", tmp_path / f"two{suffix}")
        )
        assert len(two) == 1000
        for a, b in zip(one, two, strict=True):
            assert b == {**a, "rationale": (a["rationale"] and a["rationale"].strip()) or b["rationale"]}


def test_trl_takes_the_prompt_from_what_both_begin_with():
    turns = [user("q"), said("w"), user("r")]
    row = parse("trl", chosen=[*turns, said("x")], rejected=[*turns, said("y")])
    assert (row.messages[-1], row.responses) == (("user", "r"), ("x", "y"))
    text = parse("trl", chosen="The sky is blue.", rejected="The sky is black.")
    assert (text.messages, text.responses) == ((("user", "The sky is"),), (" blue.", " black."))
    assert parse("trl", chosen="Blue", rejected="Grey") == "no shared prefix"
    assert parse("trl", chosen=[user("q"), said("x")], rejected=[user("r"), said("y")]) == "no shared prefix"
    assert parse(
        "trl", prompt="q", chosen=[user("q"), said("x")], rejected=[user("q"), said("y")]
    ).responses == ("x", "y")
    assert (
        parse("trl", prompt="q", chosen=[user("r"), said("x")], rejected="y") == "a response of several turns"
    )
    assert parse("trl", prompt="q", chosen="", rejected="y") == "empty chosen response"
    assert parse("trl", prompt="q", chosen=True, rejected="y").responses == ("True", "y")
    assert parse("trl", prompt="q", chosen="x", rejected="y", p_chosen=0.2).votes[0].p_first is None


def test_rewardbench_2_says_nothing_of_two_on_one_side():
    row = parse("rewardbench", prompt="q", chosen=["x", "y"], rejected=["z"], num_correct=2, subset="Ties")
    assert [vote.pair for vote in row.votes] == [(0, 2), (1, 2)]
    assert row.tags == ("Ties",)
    assert (
        parse("rewardbench", prompt="q", chosen=[], rejected=["z"], subset="s")
        == "no chosen or no rejected response"
    )


def test_equal_ranks_are_ties_and_lower_is_better(tmp_path):
    import_file("nemo-rl", lines(tmp_path / "x.jsonl", ROWS["nemo-rl"]), tmp_path / "out")
    [ranking] = read_rows(tmp_path / "out" / "rankings.jsonl", Ranking)
    assert ranking.ranks == (1, 3, 3)
    assert (
        sorted(label.verdict for label in read_rows(tmp_path / "out" / "labels.jsonl", Label)).count("tie")
        == 1
    )


def test_ratings_become_a_ranking_and_are_kept(tmp_path):
    row = {
        "instruction": "q",
        "generations": ["x", "y", None, "z"],
        "ratings": [4, None, 3, "5"],
        "rationales": ["why", None, "", ""],
    }
    counts = import_file("ultrafeedback", lines(tmp_path / "x.jsonl", [row]), tmp_path / "out")
    [ranking] = read_rows(tmp_path / "out" / "rankings.jsonl", Ranking)
    assert ranking.ranks == (2, 1)
    assert [grade.scores for grade in read_rows(tmp_path / "out" / "grades.jsonl", Grade)] == [
        {"ultrafeedback": 4.0},
        {"ultrafeedback": 5.0},
    ]
    assert counts["left_out"] == {
        "generation that is not text": 1,
        "rationale": 1,
        "response that is not ranked": 1,
    }
    assert (
        parse("ultrafeedback", instruction="q", generations=["x"], ratings=[1, 2])
        == "not as many ratings as generations"
    )


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        (["b", "a"], (2, 1, None)),
        ({"rank": ["c", "a", "b"]}, (2, 3, 1)),
        ({"rank 2": ["a"], "rank 1": ["b", "c"]}, (2, 1, 1)),
        ({"good": ["a"], "bad": ["b"]}, "buckets whose names have no order"),
        (["a", "a"], "a ranking that names an unknown item, or one twice"),
        (["a"], "fewer than two ranked responses"),
        ("a", "a ranker's value is no list and no buckets"),
    ],
)
def test_a_label_studio_ranker_is_a_list_or_buckets(value, ranks):
    items = [{"id": id, "body": body} for id, body in (("a", "x"), ("b", "y"), ("c", "z"))]
    result = [{"type": "choices"}, {"type": "ranker", "value": {"ranker": value}}]
    row = parse(
        "label-studio",
        data={"prompt": "q", "items": items},
        annotations=[{"was_cancelled": True}, {"result": result}],
    )
    assert ranks == (row if isinstance(ranks, str) else row.rankings[0].ranks)


def test_tools_without_ties_say_so(tmp_path):
    import_file("ranking", lines(tmp_path / "x.jsonl", ROWS["ranking"]), tmp_path / "out")
    for name in ("argilla", "label-studio"):
        with pytest.raises(UserError, match=r"nothing to export \(1 × a tie\)"):
            export_file(tmp_path / "out", name, tmp_path / f"{name}.json")


def test_argilla_leaves_out_what_was_not_submitted():
    row = {
        **ROWS["argilla"][0],
        "ranking.responses": [["response1", "response2"]] * 2,
        "ranking.responses.users": ["u", "v"],
    }
    found = FORMATS["argilla"].parse({**row, "ranking.responses.status": ["draft", "submitted"]})
    assert [given.annotator.id for given in found.rankings] == ["v"]
    assert found.lost == ("response that was not submitted",)


def test_arena_winners_and_several_rounds():
    row = dict(ROWS["arena"][0])
    for winner, verdict in (("n", "b"), ("m", "a"), ("tie (bothbad)", "tie"), ("I cannot say", "invalid")):
        assert parse("arena", **row | {"winner": winner}).votes[0].verdict == verdict
    flat = {
        "prompt": '["q"]',
        "response_a": '["x"]',
        "response_b": '["y"]',
        "winner_model_a": 0,
        "winner_tie": 0,
    }
    assert parse("arena", **flat, winner_model_b=1).votes[0].verdict == "b"
    assert parse("arena", **flat, winner_model_b=0).votes[0].verdict == "invalid"
    longer = [user("q"), said("w"), user("r"), said("x")]
    other = [user("q"), said("v"), user("r"), said("x")]
    assert (
        parse("arena", winner="tie", conversation_a=longer, conversation_b=other)
        == "a battle of several rounds"
    )


def test_a_table_with_other_names_and_a_swapped_run_in_swapped_coordinates(tmp_path):
    format = table_format(
        {"prompt": "frage", "first": "eins", "second": "zwei", "verdict": "urteil", "swapped": "getauscht"}
    )
    row = {"frage": "q", "eins": "x", "zwei": "y"}
    cases = {
        ("1", ""): "a",
        ("1", "TRUE"): "b",
        ("2", "True"): "a",
        ("zwei", "TRUE"): "b",
        ("0", "TRUE"): "tie",
        ("", ""): "abstain",
    }
    for (verdict, swapped), meant in cases.items():
        [vote] = format.parse(row | {"urteil": verdict, "getauscht": swapped}).votes
        assert vote.verdict == meant
        assert vote.order == ("ba" if swapped else "ab")
    [vote] = format.parse(row | {"urteil": "Both answers are good, however"}).votes
    assert (vote.verdict, vote.rationale) == ("invalid", "Both answers are good, however")
    assert format.parse({"frage": "q"}) == "no column eins, zwei, urteil"
    with pytest.raises(UserError, match='did you mean "first"'):
        table_format({"frist": "x"})


def test_who_labelled_can_be_said_where_the_data_does_not(tmp_path):
    judge = Annotator(kind="ai", id="judge-1")
    import_file("sharegpt", lines(tmp_path / "x.jsonl", ROWS["sharegpt"]), tmp_path / "out", who=judge)
    [label] = read_rows(tmp_path / "out" / "labels.jsonl", Label)
    assert label.annotator == judge


def test_the_preferences_of_a_run_as_trl_reads_them(tmp_path):
    run = Run.load(fake_run(tmp_path / "run", prompts=24))
    counts = export_file(tmp_path / "run", "trl", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    known = [row for row in run.preferences() if row["p_chosen"] != 0.5]
    assert counts["kept"] == len(rows) == len(known) > 5
    for row, own in zip(rows, known, strict=True):
        assert {key: row[key] for key in ("prompt", "chosen", "rejected", "p_chosen")} == {
            key: own[key] for key in ("prompt", "chosen", "rejected", "p_chosen")
        }
    assert any(row["principle_ids"] for row in rows)


@pytest.mark.parametrize(
    "name", [name for name, format in FORMATS.items() if format.write or format.write_row]
)
def test_a_run_can_be_exported_to_every_format_that_holds_pairs(tmp_path, name):
    run = fake_run(tmp_path / "run", prompts=24)
    counts = export_file(run, name, tmp_path / "out.json")
    assert counts["in"] == counts["kept"] + sum(counts["dropped"].values()) == 18
    decided = (
        18
        if name in ("table", "annotated-pairs", "alpaca", "arena", "ranking", "nemo-rl", "ultrafeedback")
        else 10
    )
    assert counts["kept"] == decided
    assert import_file(name, tmp_path / "out.json", tmp_path / "back")["kept"] >= decided

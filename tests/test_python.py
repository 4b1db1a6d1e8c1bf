"""What a notebook uses: rlaif.run, rlaif.judge, a run's preferences, and the code of docs/python.md."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import rlaif
from rlaif.engines import Scripted
from rlaif.errors import UserError
from rlaif.plugin import load_function, named_functions
from tests import scripts
from tests.conftest import CONSTITUTION

ROOT = Path(__file__).parent.parent
PAIR = ("Question 1?", "nice day", "rude day")


def config_of(project: Path) -> dict:
    return YAML(typ="safe").load((project / "config.yaml").read_text())


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    assert len(blocks) == 5
    for name in ("rlaif", "constitutions", "prompts"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), "docs/python.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Run(runs/notebook: 3 of 3 stages done)"
    assert printed[1].startswith("[Stage(01_sample: done, 48 of 48 kept)")
    assert [line.split()[0] for line in printed[3:5]] == ["a", "a"]  # insults and refusals lose


def test_a_mapping_runs_as_its_file_does(project, monkeypatch):
    monkeypatch.chdir(project)
    of_file = rlaif.run("config.yaml", "of_file", until="label")
    of_mapping = rlaif.run(config_of(project), "of_mapping", overrides={"seed": 0}, until="label")
    for name in ("01_sample/responses", "05_label/labels", "05_label/preferences"):
        assert (of_file.path / f"{name}.jsonl").read_bytes() == (
            of_mapping.path / f"{name}.jsonl"
        ).read_bytes()
    again = rlaif.run(config_of(project), "of_mapping")  # continues, and finds all done
    assert again.manifest["status"] == "done"


def test_a_mapping_that_is_no_config_is_refused_by_its_key(project, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=r"config:1: .*polcy"):
        rlaif.run({**config_of(project), "polcy": {}})
    with pytest.raises(UserError, match="sampel"):
        rlaif.run("config.yaml", overrides={"sampel.k": 2})
    with pytest.raises(UserError, match="plain values"):
        rlaif.run("config.yaml", overrides={"sample.k": object()})


def test_overrides_and_dry_run(project, monkeypatch):
    monkeypatch.chdir(project)
    plan = rlaif.run("config.yaml", overrides={"sample[1].k": 2, "name": "other one"[:5]}, dry_run=True)
    assert [stage["k"] for stage in plan["config"]["stages"] if stage["stage"] == "sample"] == [1, 2]
    assert plan["config"]["name"] == "other"
    assert not (project / "runs").exists()


def test_functions_are_given_as_objects(project, monkeypatch):
    monkeypatch.chdir(project)
    asked = []

    def gold(messages, response, principles):
        asked.append(response)
        return {p["id"]: "rude" not in response for p in principles}

    config = {**config_of(project), "gold": gold}
    config["stages"] = [*config["stages"][:1], {"stage": "evaluate", "num_prompts": 4}]
    run = rlaif.run(config, "run")
    assert asked
    figures = run.stages[-1].summary["metrics"]["policies"]["base"]
    assert set(figures["gold"]) >= {"all", "no-rude"}


def test_a_function_is_named_where_its_module_has_it():
    assert named_functions({"gold": scripts.gold, "stages": ({"x": Path("a")},)}) == {
        "gold": "tests.scripts:gold",
        "stages": [{"x": "a"}],
    }
    first, second = (lambda: 1), (lambda: 2)
    names = named_functions([first, second, first])
    assert names[0] == names[2] != names[1]
    assert load_function(names[1], "gold")() == 2


def judged(pairs, **options):
    (constitution,) = YAML(typ="safe").load_all(CONSTITUTION)
    engine = Scripted(on_score=scripts.judge, name="judge")
    return rlaif.judge(pairs, constitution, engine, templates="brief", **options)


def test_pairs_are_judged_under_every_principle_that_applies_in_both_orders():
    kept, tagged, swapped = judged(
        [
            PAIR,
            {"prompt": "Question 1?", "a": "nice day", "b": "wrong day", "tags": ["fact"]},
            {
                "prompt": [{"role": "user", "content": "Question 2?"}],
                "chosen": [{"role": "assistant", "content": "rude"}],
                "rejected": "nice",
            },
        ]
    )
    assert (kept.verdict, tagged.verdict, swapped.verdict) == ("a", "a", "b")
    assert list(kept.by_principle) == ["no-rude"]
    assert list(tagged.by_principle) == ["no-rude", "no-wrong"]
    assert tagged.deciding_principle == "no-wrong"
    assert [label.order for label in kept.labels] == ["ab", "ba"]
    assert swapped.prompt == "Question 2?"


def test_what_could_not_be_read_is_none():
    engine = Scripted(on_score=lambda messages, suffix, choices: [0.0, 0.0])
    (judgement,) = rlaif.judge([PAIR], {"name": "n", "principles": [{"id": "x", "text": "Be kind."}]}, engine)
    assert (judgement.p_a, judgement.verdict, judgement.by_principle) == (None, "invalid", {"x": None})


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("abc", "no pair"),
        (("p", "a"), "no pair"),
        ({"prompt": "p", "chosen": "a"}, "no rejected"),
        (("p", 3, "b"), "the first response: neither a text nor a list of turns"),
        ((3, "a", "b"), "prompt: neither a text nor a list of turns"),
        (("p", "a", []), "the second response: neither"),
        (("p", float("nan"), "b"), "the first response: neither"),
        (("", "a", "b"), "prompt: an empty text"),
        ((b"p", b"a", b"b"), "prompt: neither"),
        ({"p", "a", "b"}, "set is no pair"),
        (("p", "\ud800", "b"), "not valid Unicode"),
        (([{"role": "system", "content": "s"}], "a", "b"), "prompt: the conversation ends with the system"),
        (([{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}], "a", "b"), "ends with"),
        (("p", [{"role": "user", "content": "a"}], "b"), "the first response: it ends with the user"),
        ({"prompt": "p", "a": "a", "b": "b", "tags": 5}, "tags: 5"),
        ({"prompt": "p", "a": "a", "b": "b", "tags": ["x", None]}, r"tags: \['x', None\]"),
    ],
)
def test_what_is_no_pair_is_refused_by_its_number(pair, said):
    with pytest.raises(UserError, match=rf"pairs\[1\].*{said}"):
        judged([PAIR, pair])


def test_tags_may_be_a_text_or_a_set_and_turns_as_others_write_them():
    row = {"prompt": "Question?", "a": "nice", "b": "wrong"}
    parts = [{"role": "user", "content": [{"type": "text", "text": "Question?"}]}]
    several = [{**row, "tags": tags} for tags in ("talk, fact", {"fact"}, ("fact",), ["fact"], None, "fa")]
    found = judged(iter([*several, {**row, "prompt": parts, "tags": "fact"}]))
    assert [("no-wrong" in one.by_principle) for one in found] == [True, True, True, True, False, False, True]
    assert found[-1].prompt == "Question?"
    assert judged([]) == []


@pytest.mark.parametrize("pairs", [None, 5, "abc", b"abc", {"prompt": "p", "a": "a", "b": "b"}])
def test_what_is_no_list_of_pairs_is_refused(pairs):
    with pytest.raises(UserError, match="is no list of pairs"):
        judged(pairs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"few_shot": -1}, "few_shot: -1"),
        ({"few_shot": "x"}, "few_shot: 'x'"),
        ({"reasoning_tokens": 1.5}, r"reasoning_tokens: 1\.5"),
        ({"reasoning_tokens": float("nan")}, "reasoning_tokens: nan"),
    ],
)
def test_numbers_that_count_nothing_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        judged([PAIR], **options)


def test_an_error_of_a_generator_is_its_own():
    def broken():
        yield PAIR
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        judged(broken())


def test_bad_constitutions_and_models_are_refused():
    rules = {"name": "n", "principles": [{"id": "x", "text": "t"}]}
    for model in (5, ["m"], object(), lambda: 0):
        with pytest.raises(UserError, match=f"model: {type(model).__name__} is none"):
            rlaif.judge([PAIR], rules, model)
    with pytest.raises(UserError, match="constitution: NoneType is none"):
        rlaif.judge([PAIR], None, Scripted())
    with pytest.raises(UserError, match=r"constitution\.principles"):
        rlaif.judge([PAIR], {"name": "x"}, Scripted())
    with pytest.raises(UserError, match=r"model\.engin"):
        rlaif.judge(
            [PAIR], {"name": "n", "principles": [{"id": "x", "text": "t"}]}, {"model": "x", "engin": "x"}
        )


def test_preferences_have_their_texts(project, monkeypatch):
    monkeypatch.chdir(project)
    run = rlaif.run("config.yaml", "run")
    rows = run.preferences()
    stored = {row["comparison_id"]: row for row in run.dataset("preferences")}
    texts = {row["id"]: row["text"] for row in run.dataset("responses")}
    pairs = {row["id"]: row for row in run.dataset("comparisons")}
    assert len(rows) == len(stored) > 0
    for row in rows:
        pair, p_a = pairs[row["comparison_id"]], stored[row["comparison_id"]]["p_a"]
        better, worse = ("a", "b") if p_a >= 0.5 else ("b", "a")
        assert row["chosen"] == [{"role": "assistant", "content": texts[pair[better]]}]
        assert row["rejected"] == [{"role": "assistant", "content": texts[pair[worse]]}]
        assert row["p_chosen"] == max(p_a, 1 - p_a)
        assert row["prompt"][-1]["role"] == "user"
    with pytest.raises(UserError, match="no preferences"):
        rlaif.run("config.yaml", "begun", until="sample[0]").preferences()


@pytest.mark.parametrize(
    ("file", "kind"),
    [("04_pair/comparisons", "comparison"), ("03_sample/responses", "response"), ("prompts", "prompt")],
)
def test_a_preference_without_its_texts_is_named(project, monkeypatch, file, kind):
    monkeypatch.chdir(project)
    run = rlaif.run("config.yaml", "run")
    (run.path / f"{file}.jsonl").write_text("")
    line = rf'05_label/preferences\.jsonl:\d+: a preference of the {kind} "\w+", which the run does not have'
    with pytest.raises(UserError, match=line):
        run.preferences()


def test_runs_and_stages_say_what_they_are(project, monkeypatch):
    monkeypatch.chdir(project)
    run = rlaif.run("config.yaml", "run", until="sample[0]")
    assert repr(run) == "Run(run: 1 of 5 stages done)"
    assert repr(run.stages[:2]) == "[Stage(01_sample: done, 24 of 24 kept), Stage(02_critique: not begun)]"

"""Configs: mistakes that name the line, overrides, the order of stages, and the shipped ones."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.config import ASSETS, PACKAGE, Config, find, load_config
from rlaif.errors import UserError, nearest
from rlaif.options import STAGES, RewardOptions

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
BASE = """name: x
constitution: c.yaml
prompts: p.jsonl
policy: {model: a}
feedback: {model: b}
stages:
  - stage: sample
    k: 2
  - stage: pair
  - stage: label
"""
FLOW = {"sample", "critique", "sft", "pair", "label", "reward", "ppo", "evaluate"}


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    (tmp_path / "x.yaml").write_text(text)
    return load_config(tmp_path / "x.yaml", overrides)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: x", "name: a b", r"x\.yaml:1: name: should be letters, digits.*found: 'a b'"),
        (
            "policy: {model: a}",
            "polcy: {model: a}",
            r'x\.yaml:4: unknown key "polcy" — did you mean "policy"\?',
        ),
        ("{model: a}", "{modle: a}", r'x\.yaml:4: unknown key "modle" — did you mean "model"\?'),
        (
            "{model: a}",
            "{model: a, engine: vlm}",
            r"x\.yaml:4: engine: Input should be 'transformers', .*found: 'vlm'",
        ),
        ("{model: a}", "", r"x\.yaml:4: policy: should be keys and values"),
        ("k: 2", "kk: 2", r'x\.yaml:8: unknown key "kk" — did you mean "k"\?'),
        ("k: 2", "temprature: 1", r'x\.yaml:8: unknown key "temprature" — did you mean "temperature"\?'),
        ("k: 2", "k: many", r"x\.yaml:8: k: Input should be a valid integer.*found: 'many'"),
        ("k: 2", "k: 0", r"x\.yaml:8: k: .*greater than or equal to 1"),
        ("stage: pair", "stage: pari", r'x\.yaml:9: unknown stage "pari" — did you mean "pair"\?'),
        ("- stage: pair", "- per_prompt: 2", r'x\.yaml:9: "stage" is missing'),
        ("- stage: pair", "- pair", r"x\.yaml:9: 1: should be keys and values \(found: 'pair'\)"),
        ("stage: label", "{stage: label, human: {}}", r"x\.yaml:10: .*"),
        (
            "stage: label",
            "stage: label\n    human: {}",
            r"x\.yaml:11: human: name exactly one of file and annotator",
        ),
        (
            "stage: label",
            "stage: label\n    human: {fil: x}",
            r'x\.yaml:11: unknown key "fil" — did you mean "file"\?',
        ),
        ("stage: label", "stage: label\n    ai: false", r"x\.yaml:10: label: no source of labels"),
        ("stage: label", "stage: label\n    clamp: [0.6, 0.4]", r"x\.yaml:10: label: clamp needs two bounds"),
        ("stage: pair", "stage: pair\n    samples: false", r"x\.yaml:9: pair: no source of pairs"),
        (
            "  - stage: sample\n    k: 2\n",
            "",
            r'x\.yaml:7: stage "pair" needs responses, which no earlier stage makes',
        ),
        (
            "  - stage: pair\n",
            "",
            r'x\.yaml:9: stage "label" needs comparisons, which no earlier stage makes',
        ),
        ("stage: label", "stage: reward", r'x\.yaml:10: stage "reward" needs preferences'),
        ("stage: label", "{stage: label, principles: []}", r"x\.yaml:10: .*nothing to judge by"),
        ("k: 2", "k: 1", r"x\.yaml:9: nothing to pair: the sample stage before makes 1 response"),
        ("stage: label", "{stage: label, cot: true, few_shot: 2}", r"x\.yaml:10: .*answers without reasons"),
        ("stage: label", "stage: ppo", r'x\.yaml:10: stage "ppo" needs reward_model'),
    ],
)
def test_mistakes_name_file_line_and_nearest_key(tmp_path, old, new, message):
    assert old in BASE
    with pytest.raises(UserError, match=message):
        load(tmp_path, BASE.replace(old, new, 1))


def test_what_makes_the_missing_artefact_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        load(tmp_path, BASE.replace("  - stage: pair\n", ""))
    assert error.value.need == "pair before label"


def test_stages_may_need_what_their_options_ask_for(tmp_path):
    alone = BASE.replace("  - stage: sample\n    k: 2\n", "").replace(
        "stage: pair", "{stage: pair, samples: false, imported: hh}"
    )
    assert [s.stage for s in load(tmp_path, alone).stages] == ["pair", "label"]
    with pytest.raises(UserError, match=r'x\.yaml:9: stage "pair" needs revisions'):
        load(tmp_path, BASE.replace("stage: pair", "{stage: pair, revisions: true}"))


def test_overrides_reach_keys_and_stages_by_name(tmp_path):
    text = BASE + "  - stage: sample\n    k: 3\n"
    ks = [s.k for s in load(tmp_path, text, "sample.k=5").stages if s.stage == "sample"]
    assert ks == [5, 5]
    ks = [s.k for s in load(tmp_path, text, "sample[1].k=5").stages if s.stage == "sample"]
    assert ks == [2, 5]
    config = load(
        tmp_path, text, "seed=7", "policy.model=/m", "sample.temperature=1e-1", "label.human.file=no"
    )
    assert (config.seed, config.policy.model) == (7, "/m")
    assert config.stages[0].temperature == 0.1
    assert config.stages[2].human.file == "no"
    assert (
        load(tmp_path, text + "    num_prompts: 9\n", "sample.num_prompts=null").stages[3].num_prompts is None
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", 'no "="'),
        ("sead=1", r'no stage or key "sead" — did you mean "seed"\?'),
        ("smaple.k=1", r'no stage or key "smaple" — did you mean "sample"\?'),
        ("sample[1].k=1", "there are 1 sample stages, counted from 0"),
        ("sample=3", "does not name an option"),
        ("policy.model.x=1", "does not name an option"),
        ("sample.k=[1", "the value cannot be read"),
        ("sample.kk=2", r'unknown key "kk" — did you mean "k"\?'),
        ("policy.modle=z", r'unknown key "modle" — did you mean "model"\?'),
        ("sample.k=x", r"-s sample\.k=x: k: Input should be a valid integer"),
        ("stages=3", "stages: should be a list"),
        ("ppo.updates=3", 'no stage or key "ppo"'),
        ("=3", 'no stage or key ""'),
    ],
)
def test_bad_overrides(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, BASE, override)


@pytest.mark.parametrize(
    "text", ["", "- a\n", "abc\n", BASE.split("stages")[0] + "stages: 3\n", BASE.replace("{model: a}", "")]
)
def test_overrides_of_files_that_are_no_configs(tmp_path, text):
    with pytest.raises(UserError):
        load(tmp_path, text, "sample.k=1", "policy.model=x")


@given(st.text(st.sampled_from("samplekpoicy.[]0123=-_ é\x00{}"), max_size=20))
def test_no_override_ends_in_a_traceback(tmp_path_factory, override):
    with suppress(UserError):
        assert isinstance(load(tmp_path_factory.mktemp("c"), BASE, override), Config)


def test_files_are_found_beside_the_config_then_here_then_among_the_shipped(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert find("prompts/starter.jsonl", tmp_path / "beside") == (ASSETS / "prompts/starter.jsonl").resolve()
    (tmp_path / "here/f").touch()
    assert find("f", tmp_path / "beside") == tmp_path / "here/f"
    (tmp_path / "beside/f").touch()
    assert find("f", tmp_path / "beside") == tmp_path / "beside/f"
    with pytest.raises(UserError, match=r"none\.txt: no such file"):
        find("none.txt", tmp_path)


def test_rounds_repeat_the_list(tmp_path):
    config = load(tmp_path, BASE, "rounds=2")
    assert [(r, s.stage) for r, s in config.expanded] == [
        (r, s) for r in (1, 2) for s in ("sample", "pair", "label")
    ]


def test_every_stage_is_documented_and_its_artefacts_are_known():
    made = {artefact for options in STAGES.values() for artefact in options.makes}
    assert made == {
        "responses",
        "revisions",
        "comparisons",
        "labels",
        "preferences",
        "reward_model",
        "policy",
        "best",
        "evaluation",
    }
    for name, options in STAGES.items():
        assert options.__doc__, name
        assert (PACKAGE / "stages" / f"{name}.py").is_file()
        assert options.makes, name
        assert set(options.needs) <= made | {"prompts"}, name
    assert len(STAGES) == len(list((PACKAGE / "stages").glob("[!_]*.py")))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configs_hold_the_whole_loop_and_name_files_that_exist(path):
    config = load_config(path)
    assert config.name == path.stem
    assert {s.stage for s in config.stages} - {"pretrain"} == FLOW
    assert find(config.constitution, path.parent).is_file()
    assert find(config.prompts.path or "", path.parent).is_file()


@pytest.mark.parametrize("name", ["hf_local", "one_gpu"])
def test_configs_for_real_models_take_other_models_and_human_pairs(name):
    path = next(p for p in CONFIGS if p.stem == name)
    config = load_config(
        path,
        ["policy.model=/m/p", "feedback.model=/m/f", "pair.imported=hh", "label.human.file=hh/labels.jsonl"],
    )
    assert (config.policy.model, config.feedback.model) == ("/m/p", "/m/f")
    # What is generated fits what is trained on, with room for the prompt.
    lengths = {s.stage: s.max_tokens for s in config.stages if hasattr(s, "max_tokens")}
    longest = min(s.max_length for s in config.stages if hasattr(s, "max_length"))
    assert max(lengths["sample"], lengths["critique"], lengths["ppo"]) <= longest / 2
    # A policy is judged on responses of the length it was trained to give.
    assert lengths["sample"] == lengths["ppo"] == lengths["evaluate"]


def test_nearest_word():
    assert nearest("sede", ["seed", "name"]) == 'did you mean "seed"?'
    assert nearest("zzz", ["seed", "name"]) == "known: name, seed"


def test_one_response_a_prompt_is_enough_where_other_pairs_are_made(tmp_path):
    text = BASE.replace("k: 2", "k: 1").replace("stage: pair", "{stage: pair, imported: hh}")
    assert load(tmp_path, text).stages[1].imported == "hh"


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../up", ""])
def test_a_held_out_set_is_named_by_a_word(name):
    with pytest.raises(ValidationError, match="heldout_sets"):
        RewardOptions.model_validate({"stage": "reward", "heldout_sets": {name: "pairs.jsonl"}})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sample.k=many", "-s sample.k=many: k: Input should be a valid integer"),
        ("sample.kk=2", '-s sample.kk=2: unknown key "kk" — did you mean "k"?'),
        ("feedback.modle=x", '-s feedback.modle=x: unknown key "modle"'),
        ("seed=x", "-s seed=x: seed: "),
        ("label.clamp=[0.6, 0.4]", "x.yaml:10 with -s label.clamp=[0.6, 0.4]: label: clamp needs two bounds"),
        ("name=2024-05-01", "-s name=2024-05-01: name: should be text, but YAML reads it as a date"),
        ("templates=my set #2", "-s templates=my set #2: the value cannot be read"),
    ],
)
def test_a_mistake_in_an_option_points_at_the_option(tmp_path: Path, override: str, said: str):
    with pytest.raises(UserError) as error:
        load(tmp_path, BASE, "sample.temperature=1", override)
    assert str(error.value).startswith(said if said.startswith("-s") else f"{tmp_path}/{said}")
    assert ("fix the option" in str(error.value)) == (said.startswith("-s") and "cannot be read" not in said)

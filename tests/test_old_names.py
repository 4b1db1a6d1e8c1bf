"""Options under the names that they had before: in a config, with `-s`, in what is extended, in a run
folder."""

import pytest

from rlaif import pipeline
from rlaif.config import STAGES, load_config
from rlaif.errors import UserError
from rlaif.old_names import OLD_NAMES, RenamedWarning, with_new_names, with_new_words
from rlaif.options import JudgeCardOptions, PtxOptions
from rlaif.runs.folder import Run
from rlaif.runs.storage import read_json, write_json

BASE = """name: old
constitution: constitutions/general.yaml
prompts: prompts/starter.jsonl
policy: {model: a/b}
feedback: {model: a/b}
judge_card: {accuracy: 0.8, mass: null}
stages:
  - {stage: sample, k: 2, prompts: 7}
  - {stage: pair}
  - {stage: label}
  - {stage: reward, center: 0.01}
  - {stage: ppo, stop_kl: 0.2, shared_trunk: 0.1, ema: 0.5, watch: 3, ptx: {file: a.txt, block: 9}}
  - {stage: evaluate, prompts: 5, judge: 4}
"""


def write(tmp_path, text, name="c.yaml"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize("section", OLD_NAMES)
def test_every_new_name_is_an_option_and_no_old_one_is(section):
    others = {"judge_card": JudgeCardOptions, "ptx": PtxOptions}
    fields = {**STAGES, **others}[section].model_fields
    assert set(OLD_NAMES[section].values()) <= set(fields)
    assert not set(OLD_NAMES[section]) & set(fields)


def test_a_config_with_old_names(tmp_path):
    with pytest.warns(RenamedWarning) as told:
        config = load_config(write(tmp_path, BASE))
    said = {str(warning.message) for warning in told}
    assert "evaluate.judge is now evaluate.num_judged_prompts" in said
    assert "ptx.block is now ptx.block_size" in said
    sample, _, _, reward, ppo, evaluate = config.stages
    assert (sample.num_prompts, evaluate.num_prompts, evaluate.num_judged_prompts) == (7, 5, 4)
    assert (ppo.max_update_kl, ppo.shared_trunk_vf_coef, ppo.ema_decay) == (0.2, 0.1, 0.5)
    assert (ppo.num_watched_prompts, ppo.ptx.block_size, reward.center_coef) == (3, 9, 0.01)
    assert (config.judge_card.min_accuracy, config.judge_card.min_answer_mass) == (0.8, None)


@pytest.mark.parametrize("option", ["judge", "num_judged_prompts"])
def test_an_override_takes_the_place_of_the_option_under_either_name(tmp_path, option):
    with pytest.warns(RenamedWarning):
        config = load_config(write(tmp_path, BASE), [f"evaluate.{option}=2", "judge_card.ece=0.3"])
    assert config.stages[-1].num_judged_prompts == 2
    assert config.judge_card.max_ece == 0.3


def test_what_extends_takes_the_place_of_the_option_under_either_name(tmp_path):
    write(tmp_path, BASE.replace("judge: 4", "num_judged_prompts: 4"))
    for option in ("judge", "num_judged_prompts"):
        above = write(tmp_path, f"extends: c.yaml\nstages:\n  evaluate: {{{option}: 3}}\n", "d.yaml")
        with pytest.warns(RenamedWarning):
            config = load_config(above, ["evaluate.num_prompts=6"])
        assert (config.stages[-1].num_judged_prompts, config.stages[-1].num_prompts) == (3, 6)


def test_both_names_at_once_are_refused(tmp_path):
    path = write(tmp_path, BASE.replace("judge: 4", "judge: 4, num_judged_prompts: 5"))
    with pytest.raises(UserError, match="judge is the old name of num_judged_prompts"):
        load_config(path)


def test_new_names_give_no_note(recwarn):
    data = {"stages": [{"stage": "evaluate", "num_prompts": 3}], "prompts": "p.jsonl"}
    assert with_new_names(data) == data
    assert not [warning for warning in recwarn if warning.category is RenamedWarning]


def test_a_run_folder_of_before_is_continued(project):
    folder, changes = project / "run", ["sample[0].num_prompts=12"]
    pipeline.run(project / "config.yaml", folder, changes, until="sample[0]")
    rows = (folder / "01_sample" / "responses.jsonl").read_bytes()
    path = folder / "config.json"
    data = read_json(path)
    data["stages"][0]["prompts"] = data["stages"][0].pop("num_prompts")
    write_json(path, data)
    with pytest.warns(RenamedWarning, match=r"sample\.prompts is now sample\.num_prompts"):
        assert Run.load(folder).config.stages[0].num_prompts == 12
    pipeline.run(project / "config.yaml", folder, ["sample[0].prompts=12"], until="critique")
    assert (folder / "01_sample" / "responses.jsonl").read_bytes() == rows
    assert Run.load(folder).stages[1].is_done


def test_options_of_commands_that_had_other_names_are_read_with_a_note(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, new, told in (
        (["try", "--pairs", "40", "x"], ["try", "--num-pairs", "40", "x"], "--pairs is now --num-pairs"),
        (["--pairs=40"], ["--num-pairs=40"], "--pairs is now --num-pairs"),
        (["--probe", "p.jsonl"], ["--pairs", "p.jsonl"], "--probe is now --pairs"),
        (["--probe=p.jsonl"], ["--pairs=p.jsonl"], "--probe is now --pairs"),
    ):
        with pytest.warns(RenamedWarning, match=told):
            assert with_new_words(words) == new
    (tmp_path / "40").write_text("")  # a file of that name is where pairs come from
    for words in (["--pairs", "p.jsonl"], ["--pairs", "40"], ["--num-pairs", "4"], ["--pairs"], []):
        assert with_new_words(words) == words


def test_every_command_means_the_same_by_pairs():
    from rlaif.cli import app

    def commands(group):
        yield from group.registered_commands
        for inner in group.registered_groups:
            yield from commands(inner.typer_instance)

    from pathlib import Path
    from typing import get_args, get_type_hints

    seen = set()
    for command in commands(app):
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            if get_args(hint) and hasattr(get_args(hint)[-1], "param_decls"):
                kind, option = get_args(hint)[0], get_args(hint)[-1]
                names = [option.default, *(option.param_decls or ())]  # typer takes the first for a default
                plain = not any(str(given).startswith("--") for given in names)
                if "--pairs" in names or (name == "pairs" and plain):
                    assert Path in (kind, *get_args(kind)), command.callback.__name__
                    seen.add("--pairs")
                if "--num-pairs" in names:
                    assert int in (kind, *get_args(kind)), command.callback.__name__
                    seen.add("--num-pairs")
    assert seen == {"--pairs", "--num-pairs"}

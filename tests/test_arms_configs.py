"""The shipped configs of the arms."""

from pathlib import Path

import pytest

from rlaif.errors import UserError

ARMS = sorted((Path(__file__).parent.parent / "configs" / "arms").glob("*.yaml"))


@pytest.mark.parametrize("path", ARMS, ids=lambda p: p.stem)
def test_shipped_arms_begin_as_the_quickstart_does_and_end_in_an_evaluation(path):
    from rlaif.config import find, load_config
    from rlaif.preflight.opening import resolve

    config = resolve(load_config(path), path.parent)
    quickstart = resolve(load_config(path.parent.parent / "quickstart.yaml"), path.parent.parent)
    assert config.name == path.stem
    assert find(config.constitution, path.parent).is_file()
    arm = next(i for i, (a, b) in enumerate(zip(config.stages, quickstart.stages, strict=False)) if a != b)
    assert arm >= 3  # what comes before is the same to the last row, so the arms can be compared
    assert config.stages[-1] == quickstart.stages[-1]
    named = {"judge_reward": "ppo", "ensemble": "reward", "rejection": "sample"}
    assert config.stages[arm].stage == named.get(path.stem, path.stem)
    assert {(s.heldout, s.heldout_wordings) for s in (config, quickstart)} == {(0.25, 0.1)}


@pytest.mark.parametrize("path", ARMS, ids=lambda p: p.stem)
def test_a_dry_run_counts_what_an_arm_costs(path):
    from rlaif.pipeline import dry_run

    stages = {row["stage"]: row for row in dry_run(path)["stages"]}
    rows = {"rloo": 60 * 128, "grpo": 60 * 128}
    if path.stem in rows:
        assert (stages[path.stem]["rows"], stages[path.stem]["calls"]) == (7680, 0)
    if path.stem == "judge_reward":
        assert stages["ppo"]["calls"] > stages["ppo"]["rows"]
    if path.stem == "best_of_n":
        assert stages["best_of_n"]["calls"] == stages["best_of_n"]["rows"] > 0
    if path.stem == "rejection":
        assert 0 < stages["rejection"]["rows"] == stages["sample"]["rows"] // 8


def test_a_stage_that_lacks_its_reward_is_refused_with_who_makes_it(tmp_path):
    from rlaif.config import load_config

    (tmp_path / "x.yaml").write_text(f"extends: {ARMS[0]}\nstages:\n  - stage: best_of_n\n")
    with pytest.raises(UserError, match=r'stage "best_of_n" needs reward_model.*\n.*reward before best_of_n'):
        load_config(tmp_path / "x.yaml")

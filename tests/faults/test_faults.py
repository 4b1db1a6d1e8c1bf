"""Killed, cut off from power, out of disk or damaged at a seeded moment, a run ends with the same rows and
bits."""

import shutil
from collections import Counter

import pytest

from tests.faults.harness import Harness

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="the shim needs gcc")


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    found = Harness(tmp_path_factory.mktemp("faults"))
    yield found
    found.close()


def tried(harness: Harness, seeds: range) -> None:
    trials = [harness.trial(seed) for seed in seeds]
    print(Counter((trial.harm.partition(":")[0], tuple(trial.codes)) for trial in trials))
    wrong = [
        f"seed {seed}: {t.harm} in {t.stage}: {t.wrong}"
        for seed, t in zip(seeds, trials, strict=True)
        if t.wrong
    ]
    assert not wrong, "\n\n".join(wrong)


@needs_compiler
def test_twenty_faults_leave_no_trace(harness):
    tried(harness, range(20))


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_faults_leave_no_trace(harness):
    tried(harness, range(1000, 1200))

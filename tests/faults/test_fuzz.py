"""Whatever a file holds, it is read or refused in words, in ten seconds and a gigabyte."""

import pytest

from tests.faults.fuzz import Corpus, findings
from tests.tiny_models import tiny_policy

# A run folder is shown, reported, searched and continued; a model folder is loaded: both take longer than a
# file.
THOUSAND = {
    "constitution": 150,
    "config": 150,
    "prompts": 150,
    "rankings": 150,
    "hh": 130,
    "hhh": 120,
    "templates": 90,
    "run folder": 50,
    "model folder": 10,
}


def test_a_thousand_mutated_inputs(project, tmp_path):
    corpus = Corpus(tmp_path, project, tiny_policy(tmp_path / "model"))
    found = findings(corpus, THOUSAND)
    assert not found, f"{len(found)} findings:\n" + "\n\n".join(found[:10])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_mutated_inputs(project, tmp_path):
    corpus = Corpus(tmp_path, project, tiny_policy(tmp_path / "model"))
    found = findings(corpus, {kind: 10 * count for kind, count in THOUSAND.items()}, seed=100_000)
    assert not found, f"{len(found)} findings:\n" + "\n\n".join(found[:10])

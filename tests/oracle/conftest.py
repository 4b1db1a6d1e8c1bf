"""The runs with awkward content, made once: `runs.first`, the same of another seed, and one that stopped
after labels."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.oracle.awkward import awkward_run
from tests.oracle.rows import Rows


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder: Path = tmp_path_factory.mktemp("oracle")
    return SimpleNamespace(
        first=awkward_run(folder),
        second=awkward_run(folder, "seed_1", "seed=1"),
        labels=awkward_run(folder, "labels", "label.human.weight=0.5", until="label"),
    )


@pytest.fixture(scope="session")
def rows(runs: SimpleNamespace) -> Rows:
    return Rows(runs.first)

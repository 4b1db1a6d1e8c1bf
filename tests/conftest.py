"""Fixtures shared by the tests: a small scripted project on disk."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.browser import chromium  # noqa: F401

# pytest-xdist already runs one process a core.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing is kept in, or taken from, the cache of whoever runs the tests.
os.environ["RLAIF_CACHE"] = tempfile.mkdtemp(prefix="rlaif-tests-")
settings.register_profile("rlaif", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("rlaif")

CONSTITUTION = """name: words
principles:
  - {id: no-rude, text: Never say rude., weight: 1.0}
  - {id: no-wrong, text: Never say wrong., weight: 2.0, applies_to: [fact]}
"""
CONFIG = """name: small
constitution: constitution.yaml
prompts: prompts.jsonl
heldout: 0.25
templates: brief
gold: tests.scripts:gold
policy: {engine: scripted, model: "tests.scripts:policy"}
feedback: {engine: scripted, model: "tests.scripts:feedback"}
stages:
  - {stage: sample, num_prompts: 24}
  - {stage: critique, rounds: 2}
  - {stage: sample, num_prompts: 24, k: 3}
  - {stage: pair, revisions: true}
  - {stage: label}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a constitution, 60 prompts and a config whose models are scripts."""
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)
    rows = [
        {"messages": [{"role": "user", "content": f"Question {n}?"}], "tags": ["fact"] if n % 2 else ["talk"]}
        for n in range(60)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data; tests that need it are skipped where RLAIF_TEST_DATA is not set."""
    folder = os.environ.get("RLAIF_TEST_DATA")
    if not folder:
        pytest.skip("RLAIF_TEST_DATA is not set")
    return Path(folder)

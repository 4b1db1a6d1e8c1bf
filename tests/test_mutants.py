"""Every mutant of `make mutants` is still one: its text stands in the package once, its tests exist."""

import pytest

from tests.mutants.table import MUTANTS, ROOT


def test_there_are_enough():
    assert len(MUTANTS) >= 60
    assert len({(m.old, m.file) for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.old)
def test_a_mutant_is_no_stale_one(mutant):
    assert mutant.old != mutant.new
    assert mutant.place().read_text(encoding="utf-8").count(mutant.old) == 1
    for name in mutant.tests.split():
        assert (ROOT / "tests" / f"{name}.py").is_file()

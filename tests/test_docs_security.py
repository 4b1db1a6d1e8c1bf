"""docs/security.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_defence_names_a_test_that_exists():
    page = (ROOT / "docs" / "security.md").read_text()
    table = page.partition("## Defences")[2].partition("\nNot defended")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        tests = re.findall(r"`(tests/\w+\.py)`", row.split(" | ")[-1])
        assert tests, row
        assert all((ROOT / test).is_file() for test in tests), row

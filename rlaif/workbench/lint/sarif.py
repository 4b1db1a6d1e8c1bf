"""Findings as a SARIF 2.1.0 log, which code hosts and editors show beside the lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rlaif.workbench.lint.findings import RULES, Finding

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(findings: Sequence[Finding], version: str) -> dict[str, Any]:
    """One run of the linter; `version` is rlaif's."""
    names = list(dict.fromkeys([*RULES, *(finding.rule for finding in findings)]))
    whys = {finding.rule: (finding.level, finding.why) for finding in findings}
    whys |= {name: (rule.level, rule.why) for name, rule in RULES.items()}
    rules = [
        {
            "id": name,
            "shortDescription": {"text": name.replace("-", " ")},
            "fullDescription": {"text": whys[name][1]},
            "defaultConfiguration": {"level": whys[name][0]},
        }
        for name in names
    ]
    driver = {"name": "rlaif constitution lint", "version": version, "rules": rules}
    results = [_result(finding, names.index(finding.rule)) for finding in findings]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(finding: Finding, index: int) -> dict[str, Any]:
    # What a constitution says must not pose as a link: SARIF reads [text](target) in a message as one.
    text = f"{finding.message} — {finding.why}.".replace("](", "] (")
    region = {"startLine": finding.line, "startColumn": finding.column}
    place = {"artifactLocation": {"uri": _uri(finding.path)}, "region": region}
    return {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": finding.level,
        "message": {"text": text + (f" To silence it, {finding.silence}" if finding.silence else "")},
        "locations": [{"physicalLocation": place}],
    }


def _uri(path: Path) -> str:
    """Relative paths stay so: a code host looks them up in the repository."""
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())

"""What the defences are worth: the same attacks on the same verdicts, with and without them, in one process.

    python benchmarks/injection.py [--config configs/quickstart.yaml] [--pairs 400] [--attacks 300]
        [--json FILE]

Prints, for each kind of attack, the share of verdicts it turns on each side with its 95 % interval. The
defences are switched off here and nowhere else: control tokens are left whole, lines stay lines, fences are
the shortest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rlaif.audit import injection
from rlaif.audit.attacks import ATTACKS
from rlaif.audit.card import audit_of
from rlaif.config import find, load_config
from rlaif.preflight.opening import load_prompts, resolve
from rlaif.runs.folder import silent_progress


@contextmanager
def undefended() -> Iterator[None]:
    """Questions as they were before there were defences."""
    with (
        patch("rlaif.prompting.defences.Control.break_control_tokens", lambda self, text: text),
        patch("rlaif.prompting.defences.joined", lambda text, lines: text),
        patch("rlaif.prompting.defences.fence", lambda *texts: "```"),
    ):
        yield


def measure(config_path: Path, pairs: int, attacks: int, overrides: list[str]) -> dict[str, Any]:
    """Figures of both sides, attack by attack in turn; targets are verdicts clear on the defended side."""
    config = resolve(load_config(config_path, overrides), config_path.parent)
    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    prompts, left_out = load_prompts(config.prompts), Counter[str]()
    audit = audit_of(config, config_path.parent, prompts, pairs, silent_progress, left_out)
    audit = replace(audit, count=attacks)
    chosen = injection.targets(audit.ask(audit.cases, "verdicts")[0], attacks, audit.seed)
    without, defended = {}, {}
    for attack in ATTACKS:
        defended[attack.kind] = audit.attack(chosen, attack)
        with undefended():
            without[attack.kind] = audit.attack(chosen, attack)
    return {
        "targets": len(chosen),
        "left_out": dict(left_out),
        "judge": audit.judge.engine.fingerprint,
        "without": injection.table(without),
        "with": injection.table(defended),
    }


def table(found: dict[str, Any]) -> str:
    """Both sides as a Markdown table, families in bold."""
    lines = ["| attack | without: turned | undecided | with: turned | undecided |", "|---|---|---|---|---|"]
    families = found["with"]["families"]
    for family in families:
        rows = [("**" + family + "**", found["without"]["families"][family], families[family])]
        pairs = zip(found["without"]["kinds"], found["with"]["kinds"], strict=True)
        rows += [(one["kind"], one, other) for one, other in pairs if one["family"] == family]
        lines += [f"| {name} | {_cell(one)} | {_cell(other)} |" for name, one, other in rows]
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    turned, undecided = row["turned"], row["undecided"]
    low, high = turned["ci"]
    return f"{turned['value']:.3f} [{low:.3f}, {high:.3f}] of {turned['n']} | {undecided['value']:.3f}"


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description="What the defences against injection are worth.")
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("-s", "--set", action="append", default=[], help="stage.option=value")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--attacks", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    begun = time.monotonic()
    found = measure(find(args.config), args.pairs, args.attacks, args.set)
    print(f"{found['judge']}, {found['targets']} verdicts attacked, {time.monotonic() - begun:.0f} s\n")
    print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

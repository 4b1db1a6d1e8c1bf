"""How long after a save what it turned is in the terminal and on the page: a probe set of the playground.

Starts `rlaif constitution try --watch --json` and `rlaif constitution open` on copies of the playground's
constitution, opens the page in a headless Chromium, rewords one principle again and again, and measures from
the write of the file to the line in the terminal, and to the turned verdicts on the page.

    python benchmarks/watch.py [--pairs 40] [--saves 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
JUDGE = ROOT / "configs" / "quickstart.yaml"
SHIPPED = ROOT / "constitutions" / "playground.yaml"
# One rule, forbidding another word in each save: none is asked twice.
RULE = "The reply must never use the word garden."
WORDS = (
    "river",
    "piano",
    "tower",
    "flower",
    "bridge",
    "spoon",
    "clock",
    "hat",
    "lamp",
    "tent",
    "shelf",
    "book",
)


@contextmanager
def started(command: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A command of `rlaif constitution`, ended at the end."""
    words = [
        sys.executable,
        "-u",
        "-m",
        "rlaif.cli",
        "constitution",
        command,
        *options,
        "--judge",
        str(JUDGE),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def line_with(stream: IO[str] | None, words: str) -> str:
    """The next line that has these words in it; a RuntimeError where the stream ends before."""
    for line in stream or ():
        if words in line:
            return line
    raise RuntimeError(f'the command ended without "{words}"')


def save(path: Path, word: str) -> float:
    """Forbid a word in the file; returns when it was written."""
    text = SHIPPED.read_text(encoding="utf-8").replace(RULE, RULE.replace("garden", word))
    at = time.perf_counter()
    path.write_text(text, encoding="utf-8")
    return at


def in_terminal(folder: Path, pairs: int, saves: int) -> list[dict[str, Any]]:
    """Seconds from each save to its line in the terminal, how many verdicts it asked for and turned."""
    path = Path(shutil.copy(SHIPPED, folder / "terminal.yaml"))
    rows: list[dict[str, Any]] = []
    with started("try", str(path), "--watch", "--json", "--num-pairs", str(pairs)) as process:
        line_with(process.stderr, "Save the file")
        for word in WORDS[:saves]:
            at = save(path, word)
            said = json.loads(line_with(process.stdout, "{"))
            took = time.perf_counter() - at
            rows.append({"seconds": took, "asked": said["asked"], "turned": len(said["turned"])})
    return rows


def on_page(folder: Path, pairs: int, saves: int) -> list[dict[str, Any]]:
    """Seconds from each save to the word that it brings in on the page, and how many pairs are shown as
    turned."""
    from playwright.sync_api import sync_playwright

    path = Path(shutil.copy(SHIPPED, folder / "page.yaml"))
    rows: list[dict[str, Any]] = []
    with started("open", str(path), "--num-pairs", str(pairs)) as process, sync_playwright() as driver:
        address = line_with(process.stdout, "http").split()[-1]
        program = shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#pairs .pair")
        for word in WORDS[:saves]:
            at = save(path, word)
            page.wait_for_selector(f'#edits ins:text-is("{word}.")', timeout=120_000)
            took = time.perf_counter() - at
            rows.append({"seconds": took, "turned": page.locator("#turned .pair").count()})
        browser.close()
    return rows


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--saves", type=int, default=10, choices=range(1, len(WORDS) + 1), metavar="N")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    found: dict[str, Any] = {"pairs": given.pairs, "saves": given.saves, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        for where, measure in (("terminal", in_terminal), ("page", on_page)):
            load = os.getloadavg()[0]
            rows = measure(Path(folder), given.pairs, given.saves)
            seconds = [row["seconds"] for row in rows]
            found[where] = {
                "median": statistics.median(seconds),
                "least": min(seconds),
                "most": max(seconds),
                "load": [load, os.getloadavg()[0]],
                "saves": rows,
            }
            print(
                f"{where:<9} median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to "
                f"{max(seconds):.2f}, n = {len(rows)}; load {load:.1f} before and {os.getloadavg()[0]:.1f} "
                f"after, {os.cpu_count()} cores"
            )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Memory and time of `rlaif data import` by the number of rows, and time for three real files.

    python benchmarks/import_scale.py [--rows 10000 100000] [--files jsonl] [--data FOLDER] [--json FILE]

Rows are pairs in TRL's format with texts of their own, as JSON lines and as Parquet. Each import is a process
of its own; its memory is its largest resident set (Linux alone says it). FOLDER holds the real files
that the tests read (RLAIF_TEST_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS = [f"word{n}" for n in range(5000)]
REAL = {
    "hh": ("hh_rlhf/harmless-base-test.jsonl.gz",),
    "pandalm": (
        "pandalm/testset-v1.json",
        "pandalm/gpt-3.5-turbo-testset-v1.json",
        "pandalm/pandalm-7b-testset-v1.json",
    ),
    "sharegpt": ("preference_demos/dpo_en_demo.json",),
    "sharegpt-kto": ("preference_demos/kto_en_demo.json",),
}


def pairs(count: int) -> Iterator[dict[str, str]]:
    """Pairs of 20 to 60 words a text, none like another."""
    rng = random.Random(0)
    for number in range(count):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(20, 60))) for _ in range(3)]
        yield {"prompt": f"{number} {texts[0]}", "chosen": texts[1], "rejected": texts[2]}


def write(count: int, folder: Path) -> tuple[Path, Path]:
    """The rows as JSON lines and as Parquet of groups of 100,000 rows."""
    import pyarrow
    import pyarrow.parquet

    lines, table = folder / "rows.jsonl", folder / "rows.parquet"
    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("prompt", "chosen", "rejected")])
    held: list[dict[str, str]] = []
    with lines.open("w") as file, pyarrow.parquet.ParquetWriter(table, schema) as writer:
        for number, row in enumerate(pairs(count), 1):
            file.write(json.dumps(row) + "\n")
            held.append(row)
            if len(held) == 100_000 or number == count:
                writer.write_table(pyarrow.Table.from_pylist(held, schema))
                held.clear()
    return lines, table


# What the process says of itself: what the system counts for it begins with its parent's memory.
PROCESS = """
import atexit, sys
def told():
    with open("/proc/self/status") as status:
        print(*(line for line in status if line.startswith("VmHWM")), file=sys.stderr)
atexit.register(told)
from rlaif.cli import main
main()
"""


def measured(words: list[str], out: Path) -> dict[str, Any]:
    """One import in a process of its own: rows kept, seconds, peak memory in MiB."""
    command = [sys.executable, "-c", PROCESS, "data", "import", *words, "--out", str(out), "--json"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    shutil.rmtree(out)
    kept = json.loads(done.stdout)["kept"]
    kib = int(done.stderr.rpartition("VmHWM:")[2].split()[0])
    return {"kept": kept, "seconds": round(seconds, 2), "peak_mib": round(kib / 1024, 1)}


def scale(counts: list[int], kinds: list[str]) -> list[dict[str, Any]]:
    """A line for each number of rows and kind of file."""
    found = []
    for count in counts:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            for file in write(count, folder):
                if file.suffix[1:] not in kinds:
                    continue
                made = measured(["trl", str(file)], folder / "out")
                found.append({"rows": count, "file": file.suffix[1:], **made})
                print(
                    "{rows:>9,} {file:8} {kept:>9,} kept {seconds:>8.2f} s {peak_mib:>8.1f} MiB".format(
                        **found[-1]
                    )
                )
    return found


def real(data: Path) -> dict[str, Any]:
    """The real files, one after another."""
    found = {}
    for name, files in REAL.items():
        with tempfile.TemporaryDirectory() as place:
            found[name] = measured([str(data / file) for file in files], Path(place) / "out")
        print(f"{name:12} {found[name]['kept']:>6,} kept {found[name]['seconds']:>6.2f} s")
    found["seconds"] = round(sum(made["seconds"] for made in found.values()), 2)
    print(f"all of them: {found['seconds']} s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--files", nargs="*", default=["jsonl", "parquet"])
    parser.add_argument("--data", type=Path, default=os.environ.get("RLAIF_TEST_DATA"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {
        "scale": scale(options.rows, options.files),
        "real": real(Path(options.data)) if options.data else {},
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

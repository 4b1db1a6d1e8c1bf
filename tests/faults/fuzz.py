"""Mutated files for every parser, run folders and model folders; each is read in a child with bounds on time
and memory."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from rlaif import pipeline
from rlaif.config import ASSETS, load_config
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.human.importers import import_file
from rlaif.human.rankings import load_human_labels
from rlaif.prompting.prompt_files import load_prompts
from rlaif.prompting.templates import Templates, user
from rlaif.records import Comparison
from rlaif.report.lineage import lineage
from rlaif.report.report import write_report
from rlaif.report.summary import summarise
from rlaif.runs.storage import os_errors_as_user_errors
from rlaif.workbench.lint import lint

SECONDS, MEMORY = 10, 1 << 30  # of computing, and bytes, that one input may take
WAITING = 120  # seconds by the clock: a busy machine is slow, not wrong
BATCH = 25  # inputs a child reads
PIECES = (
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b"9" * 400,
    b'"\\ud800"',
    b"\x00",
    b"\xff\xfe",
    b"[" * 3000,
    b"{{",
    b"{% for a in range(10**9) %}x{% endfor %}",
    b"true",
    b'""',
    b"[]",
    b"{}",
    b": ",
    b"- ",
    b"&a [*a]",
    b"!!python/object:os.system",
    b"\t",
    b"\r",
    b"\xe2\x80\xa8",
    b"{{ 1/0 }}",
    b"{{ principle.__class__ }}",
    b"x" * 20000,
    b"\n",
    b'\n{"v": 99}',
    b"2024-13-45",
    b".inf",
    b"../../etc/passwd",
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four things done to them."""
    for _ in range(rng.randrange(1, 5)):
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        b = min(b, a + 40)
        kind = rng.randrange(6)
        if kind == 0 and data:
            at = rng.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:a] + data[b:]
        elif kind == 2:
            data = data[:b] + data[a:b] * rng.choice([1, 2, 50]) + data[b:]
        elif kind == 3:
            data = data[:a] + rng.choice(PIECES) + data[b:]
        elif kind == 4:
            data = data[:a] if rng.random() < 0.2 else data[:a] + rng.choice(PIECES) + data[a:]
        else:
            lines = data.splitlines(keepends=True)
            rng.shuffle(lines)
            data = b"".join(lines) if rng.random() < 0.3 else data
    return data


Reader = Callable[[Path], object]


class Corpus:
    """Whole inputs of every kind in a folder, and what reads each."""

    def __init__(self, tmp: Path, project: Path, model: Path | None = None) -> None:
        self.tmp = tmp
        self.run = pipeline.run(project / "config.yaml", project / "run").path
        pairs = (self.run / "04_pair" / "comparisons.jsonl").read_text().splitlines()
        self.pairs = [Comparison.model_validate_json(line) for line in pairs]
        first = self.pairs[0]
        ann = {"kind": "human", "id": "ann"}
        ranking = {
            "prompt_id": first.prompt_id,
            "response_ids": [first.a, first.b],
            "ranks": [1, 2],
            "annotator": ann,
        }
        label = {"comparison_id": first.id, "annotator": ann, "verdict": "a", "p_a": 0.9}
        hh = {"chosen": "\n\nHuman: Hi\n\nAssistant: good", "rejected": "\n\nHuman: Hi\n\nAssistant: bad"}
        hhh = {"examples": [{"input": "Hi", "target_scores": {"good": 1, "bad": 0}}]}
        prompts = (project / "prompts.jsonl").read_text().splitlines()[:4]
        self.files: dict[str, tuple[list[bytes], str, Reader]] = {
            "constitution": (
                [p.read_bytes() for p in sorted((ASSETS / "constitutions").glob("*.yaml"))],
                "c.yaml",
                self._constitution,
            ),
            "config": (
                [p.read_bytes() for p in sorted((ASSETS / "configs").glob("*.yaml"))],
                "c.yaml",
                load_config,
            ),
            "prompts": (["\n".join(prompts).encode()], "p.jsonl", load_prompts),
            "questions": ([b'prompt,group,tags\nHi,a,x\n"Ho, ho",b,"x, y"\n'], "p.csv", load_prompts),
            "chats": (
                [b'[{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}]'],
                "p.json",
                load_prompts,
            ),
            "rankings": (
                [json.dumps(row).encode() + b"\n" for row in (ranking, label)],
                "r.jsonl",
                self._people,
            ),
            "hh": (
                [(json.dumps(hh) + "\n").encode() * 3],
                "h.jsonl",
                lambda p: import_file("hh", p, p.parent / "out"),
            ),
            "hhh": ([json.dumps(hhh).encode()], "h.json", lambda p: import_file("hhh", p, p.parent / "out")),
        }
        self.config, self.model = project / "config.yaml", model

    def _constitution(self, path: Path) -> None:
        Constitution.load(path)
        lint(path)

    def _people(self, path: Path) -> None:
        load_human_labels(path, self.pairs)

    def read(self, kind: str, rng: random.Random) -> None:
        """One mutated input of a kind, read as a command would."""
        place = self.tmp / "input"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if kind in self.files:
            seeds, name, reader = self.files[kind]
            (place / name).write_bytes(mutated(rng.choice(seeds), rng))
            with os_errors_as_user_errors():
                reader(place / name)
            return
        source = {
            "templates": ASSETS / "prompts" / "templates" / "brief",
            "run folder": self.run,
            "model folder": self.model,
        }[kind]
        assert source is not None
        shutil.copytree(source, place / "folder")
        files = sorted(p for p in (place / "folder").rglob("*") if p.is_file() and not p.name.startswith("."))
        path = rng.choice(files)
        path.write_bytes(b"" if rng.random() < 0.05 else mutated(path.read_bytes(), rng))
        if rng.random() < 0.05:
            path.unlink()
        with os_errors_as_user_errors():
            {"templates": self._templates, "run folder": self._run, "model folder": self._model}[kind](
                place / "folder"
            )

    def _templates(self, folder: Path) -> None:
        templates = Templates.load(str(folder))
        principle = Constitution.load(ASSETS / "constitutions" / "general.yaml").principles[0]
        asked: list[Callable[[], object]] = [
            lambda: templates.critique([user("Hi")], "x", principle),
            lambda: templates.revision([user("Hi")], "x", principle, "y"),
            lambda: templates.comparison([user("Hi")], "x", "y"),
            lambda: templates.comparison_suffix(principle),
            lambda: templates.compliance([user("Hi")], "x"),
            lambda: templates.compliance_suffix(principle),
            lambda: templates.score_values,
            lambda: templates.best([user("Hi")], {"A": "x"}),
        ]
        for ask in asked:
            try:
                ask()
            except UserError:
                continue

    def _run(self, folder: Path) -> None:
        for use in (
            summarise,
            write_report,
            lambda path: lineage(path, "0"),
            lambda path: pipeline.run(self.config, path),
        ):
            try:
                with os_errors_as_user_errors():
                    use(folder)
            except UserError:
                continue

    def _model(self, folder: Path) -> None:
        from rlaif.engines.loading import load_causal_lm, load_tokenizer

        load_tokenizer(folder)
        load_causal_lm(folder, "cpu")


def batches(kinds: dict[str, int], seed: int) -> Iterator[list[tuple[str, int]]]:
    """(kind, seed) of every input, in lists for one child each."""
    for kind, count in kinds.items():
        items = [(kind, seed + number) for number in range(count)]
        yield from (items[at : at + BATCH] for at in range(0, count, BATCH))


def findings(corpus: Corpus, kinds: dict[str, int], seed: int = 0) -> list[str]:
    """What went wrong, with kind and seed: an exception that is no UserError, a hang, or too much memory."""
    found = []
    for batch in batches(kinds, seed):
        while batch:
            read, wrong = _in_a_child(corpus, batch)
            found += wrong
            batch = batch[read:]
    return found


def _in_a_child(corpus: Corpus, batch: list[tuple[str, int]]) -> tuple[int, list[str]]:
    """(how many inputs were read, the one that ended the child included; what went wrong)."""
    report = corpus.tmp / "report.txt"
    report.write_text("")
    child = os.fork()
    if not child:
        _read_all(corpus, batch, report)
    _, status = os.waitpid(child, 0)
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    found = [f"{kind} {number}: {error}" for kind, number, error in lines if error]
    if code := os.waitstatus_to_exitcode(status):
        at = batch[len(lines)] if len(lines) < len(batch) else "the end"
        found.append(f"{at}: the child ended with {code} ({-signal.SIGPROF}, {-signal.SIGALRM}: a hang)")
        return len(lines) + 1, found
    return len(lines), found


def _read_all(corpus: Corpus, batch: list[tuple[str, int]], report: Path) -> None:
    """In the child: read every input of the batch under the limits."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    with report.open("w") as file:
        for kind, number in batch:
            signal.alarm(WAITING)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            error = ""
            try:
                corpus.read(kind, random.Random(f"{kind} {number}"))
            except UserError:
                pass
            except BaseException:
                error = traceback.format_exc()[-1800:]
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            file.write(json.dumps([kind, number, error]) + "\n")
            file.flush()
    os._exit(0)

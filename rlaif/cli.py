"""The command line: the only file that parses arguments or prints. Results on stdout, progress on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rlaif.errors import OBEYED, UserError, printable
from rlaif.runs import stopping
from rlaif.runs.storage import told

# trl and the hub report usage by default; nothing this program starts does.
os.environ.update({"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TRL_DISABLE_TELEMETRY": "1"})
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = typer.Typer(
    name="rlaif",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
constitution_app = typer.Typer(no_args_is_help=True, help="Work on a constitution file.")
data_app = typer.Typer(no_args_is_help=True, help="Import other projects' preference data.")
playground_app = typer.Typer(no_args_is_help=True, help="The small world with a known truth.")
judge_app = typer.Typer(no_args_is_help=True, help="The feedback model as a judge.")
app.add_typer(judge_app, name="judge", rich_help_panel="The loop")
app.add_typer(constitution_app, name="constitution", rich_help_panel="Material")
app.add_typer(data_app, name="data", rich_help_panel="Material")
app.add_typer(playground_app, name="playground", rich_help_panel="Material")

stderr = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
RunDir = Annotated[Path, typer.Argument(help="A run folder.")]


def emit(data: Any) -> None:
    """Print a result as JSON; what a terminal would obey, or stdout has no letters for, is escaped: no value
    changes."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=2, default=str)
    print(OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def say(text: object) -> None:
    """Print a result as text, with nothing in it that a terminal would obey."""
    print(printable(str(text)))


def tell(text: object) -> None:
    """Print progress, with nothing in it that a terminal would obey."""
    stderr.print(printable(str(text)))


def _version(asked: bool) -> None:
    if asked:
        from rlaif import __version__

        say(f"rlaif {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From a constitution file to an aligned language model, and the evidence that it worked."""


def page_at(path: Path) -> Path:
    """Where a page will be written, its folder made: said before anything is asked, not after."""
    if path.is_dir():
        raise UserError(
            f"--out {path}: a folder.", "the name of a file to write", f"--out {path / 'page.html'}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise UserError(
            f"--out {path}: nothing can be written to {path.parent}.", "a folder that can be written"
        )
    return path


@app.command("run", rich_help_panel="The loop")
def run_command(
    config: Annotated[Path, typer.Argument(help="A config file, e.g. configs/quickstart.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<name>.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("-s", "--set", help="stage.option=value, repeatable.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and count calls; run nothing.")
    ] = False,
) -> None:
    """Run the loop, or continue an interrupted run."""
    from rlaif import pipeline

    if dry_run:
        emit(pipeline.dry_run(config, set_ or []))
        return
    try:
        this = pipeline.run(config, out, set_ or [], until, Progress, tell)
    except KeyboardInterrupt:
        stderr.print("\nInterrupted; every finished row is kept. Run the same command again to continue.")
        raise SystemExit(stopping.code()) from None
    say(this.path / "report.html")


@app.command(rich_help_panel="The loop")
def show(
    run: RunDir,
    row_id: Annotated[str | None, typer.Argument(help="A row's id: shows everything that led to it.")] = None,
    as_json: Json = False,
) -> None:
    """Show a run's summary, or one row with everything that led to it."""
    from rlaif.report.summary import lineage, summarise

    if row_id:
        emit(lineage(run, row_id))
    elif as_json:
        emit(summarise(run))
    else:
        print_summary(summarise(run))


def print_summary(data: dict[str, Any]) -> None:
    """A run's summary as tables."""
    from rich.table import Table

    from rlaif.metrics import METRICS

    console = Console(highlight=False)
    data = _shown(data)
    console.print(f"{data.get('name', 'run')}: {data['status']}")
    stages = Table("stage", "status", "seconds", "in", "kept", "dropped")
    for s in data["stages"]:
        why = ", ".join(f"{n} × {reason}" for reason, n in s["dropped"].items() if n)
        stages.add_row(
            s["name"], s["status"], f"{s['seconds']:.1f}", str(s.get("in", "")), str(s.get("kept", "")), why
        )
    console.print(stages)
    if data.get("policies"):
        names = list(data["policies"])
        table = Table("", *names)
        for group in ("gold", "compliance"):
            for key in data["policies"][names[-1]].get(group) or {}:
                cells = [data["policies"][n].get(group, {}).get(key) for n in names]
                table.add_row(f"{group} {key}", *("" if c is None else f"{c:.3f}" for c in cells))
        on_wordings = [data["policies"][n].get("wordings", {}).get("gold", {}).get("all") for n in names]
        if any(value is not None for value in on_wordings):
            table.add_row("gold all, wordings", *("" if c is None else f"{c:.3f}" for c in on_wordings))
        left_out = [data["policies"][n].get("kl_left_out") for n in names]
        for metric in METRICS:
            cells = [data["policies"][n].get(metric.key) for n in names]
            table.add_row(metric.key, *("" if c is None else f"{c:.{metric.digits}f}" for c in cells))
            if metric.key == "kl" and any(left_out):
                table.add_row("kl_left_out", *("" if n is None else str(n) for n in left_out))
        console.print(table)
    others = ("name", "status", "stages", "policies", "spent")
    for part, figures in ((key, value) for key, value in data.items() if key not in others):
        numbers = {k: v for k, v in figures.items() if isinstance(v, (int, float))}
        line = ", ".join(f"{k} {_figure(v)}" for k, v in numbers.items())
        if line:
            console.print(f"{part}: {line}")


def _figure(value: float) -> str:
    """A count in full, a measure with four digits."""
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1e4 else f"{value:.4g}"


def _shown(data: Any) -> Any:
    """The same data with all its words as `printable` leaves them, and no markup of rich's."""
    from rich.markup import escape

    if isinstance(data, dict):
        return {_shown(key): _shown(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_shown(value) for value in data]
    return escape(printable(data)) if isinstance(data, str) else data


@app.command(rich_help_panel="The loop")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the page; default compare.html.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Allow the functions and endpoints that the runs' configs name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare runs on the same held-out prompts."""
    from rlaif.report.compare import compare as compare_runs
    from rlaif.report.comparison_text import in_words
    from rlaif.report.run_reader import reached, require_trust

    if not trust and sys.stdin.isatty() and (found := reached(runs)):
        tell("Comparing these runs executes or reaches what their configs name:\n  " + "\n  ".join(found))
        trust = typer.confirm("Is all of that yours, or trusted?", err=True)
    require_trust(runs, trust, "add --trust")
    page = page_at(out or Path("compare.html"))
    data = compare_runs(runs, out=page, progress=Progress)
    if as_json:
        emit(data)
    else:
        say("\n".join(in_words(data)))
        say(page)


@judge_app.command("audit")
def judge_audit(
    what: Annotated[str, typer.Argument(help="A config file, or a model: a folder or a hub id.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page; default judge_card.html.")
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=0, help="Pairs of the policy's replies; 0 = the examples alone.")
    ] = 200,
    set_: Annotated[list[str] | None, typer.Option("-s", "--set", help="key=value of the config.")] = None,
    constitution: Annotated[
        Path | None, typer.Option(help="With a model: the constitution to judge by.")
    ] = None,
    templates: Annotated[str, typer.Option(help="With a model: the template set.")] = "default",
    as_json: Json = False,
) -> None:
    """Make the judge card: accuracy, calibration, biases, consistency, and what attacks turn."""
    from rlaif.audit import card
    from rlaif.audit.page import doubts, in_words, write_card
    from rlaif.preflight.opening import audited

    page = page_at(out or Path("judge_card.html"))
    config, base, prompts = audited(what, set_ or [], constitution, templates)
    data = card.judge_card(config, base, prompts, pairs, Progress)
    write_card(page, data)
    if as_json:
        emit(data)
    else:
        say("\n".join([*in_words(data), *(f"Read with care: {doubt}" for doubt in doubts(data))]))
        say(page)


@constitution_app.command("lint")
def constitution_lint(
    path: Annotated[Path, typer.Argument(help="A constitution file.")],
    prompts: Annotated[Path | None, typer.Option(help="A prompt file, to check tags against.")] = None,
    gold: Annotated[
        str | None, typer.Option(help="A config's gold scorer: which principles can it check?")
    ] = None,
) -> None:
    """Check a constitution: errors with file and line, and warnings."""
    from rlaif.constitution import Constitution, lint
    from rlaif.feedback.gold import load_gold, no_gold, ungraded
    from rlaif.records import Prompt
    from rlaif.runs.rows import read_rows

    constitution = Constitution.load(path)
    asked = read_rows(prompts, Prompt) if prompts else []
    scorer = load_gold(gold, constitution)
    for warning in [*lint(path, asked), *no_gold(ungraded(scorer, constitution, asked), gold)]:
        say(f"warning: {warning}")
    say(f"{path}: {len(constitution.principles)} principles, hash {constitution.hash}")


@constitution_app.command("schema")
def constitution_schema() -> None:
    """Print the JSON Schema of the constitution file, for editors."""
    from rlaif.constitution import json_schema

    emit(json_schema())


@data_app.command("import")
def data_import(
    format: Annotated[str, typer.Argument(help="The format, e.g. hh.")],
    file: Annotated[Path, typer.Argument(help="The file, .jsonl or .jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="Folder for prompts, responses, comparisons and labels.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many rows.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag for every prompt; may be repeated.")] = None,
) -> None:
    """Import preference data; says how many rows were kept and why others were not."""
    from rlaif.human.importers import import_file

    emit(import_file(format, file, out, limit, tag or ()))


@playground_app.command("build")
def playground_build(
    out: Annotated[Path, typer.Argument(help="Folder for the two models.")],
    seed: Annotated[int, typer.Option(help="Everything follows from it.")] = 0,
    scale: Annotated[
        float, typer.Option(help="Share of the full training; below 1 the floors are not met.")
    ] = 1.0,
) -> None:
    """Train the playground's policy and feedback model from scratch and print what they can do."""
    from rlaif.playground.builder import build

    emit(build(out, seed=seed, scale=scale, progress=tell))


@playground_app.command("sample")
def playground_sample(
    count: Annotated[int, typer.Option("-n", help="How many.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed, the same sample.")] = 0,
) -> None:
    """Print prompts and replies of the small world with the gold scorer's verdicts."""
    from rlaif.playground.world import show_samples

    for line in show_samples(count, seed):
        print(line)


@app.command(rich_help_panel="Material")
def check(
    config: Annotated[Path | None, typer.Argument(help="A config file, to ask its endpoints.")] = None,
    as_json: Json = False,
) -> None:
    """Print versions and devices, and how a config's endpoints are."""
    from rlaif.config import find, load_config
    from rlaif.preflight.provenance import endpoint_health, environment

    data = environment()
    if config:
        data["endpoints"] = endpoint_health(load_config(find(str(config)))) or "none in this config"
    if as_json:
        emit(data)
    else:
        for key, value in data.items():
            told = (
                "".join(f"\n  {name}: {state}" for name, state in value.items())
                if isinstance(value, dict)
                else value
            )
            say(f"{key}: {told}")


class Progress:
    """A progress bar with rate and time left; plain lines every ten seconds where stderr is not a terminal.

    The rate is measured from the first unit done on, before which models are loaded, and at most once a
    second: units that an engine gives together count when the next ones come.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self.told = time.monotonic()
        self.first: tuple[float, int] | None = None  # when the first unit was done, and how many then were
        self.measured, self.rate = 0.0, 0.0  # when the rate was measured, and units a second, 0 where unknown
        self.bar: Any = None

    def __enter__(self) -> Any:
        if stderr.is_terminal:
            from rich import progress as bars

            self.bar = bars.Progress(
                bars.TextColumn("{task.description}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeElapsedColumn(),
                bars.TextColumn("{task.fields[left]}"),
                console=stderr,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(
                printable(self.what), total=self.total, completed=self.done, left=""
            )
        return self.tick

    def tick(self, n: int = 1) -> None:
        """`n` more are done."""
        self.done += n
        now = time.monotonic()
        self._measure(n, now)
        if self.bar:
            self.bar.update(self.task, advance=n, left=self._left())
        elif now - self.told > 10:
            self.told = now
            pace = [f"{self.rate:.2g}/s", self._left()] if self.rate else []
            tell(", ".join([f"{self.what}: {self.done}/{self.total}", *pace]))

    def _measure(self, n: int, now: float) -> None:
        if n and self.first is None:
            self.first, self.measured = (now, self.done), now
        elif n and self.first and now - self.measured >= 1:
            start, done = self.first
            self.measured, self.rate = now, (self.done - done) / (now - start)

    def _left(self) -> str:
        return f"{(self.total - self.done) / self.rate:.0f} s left" if self.rate else ""

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()


def main() -> None:
    """Entry point: exit code 0 done, 1 an error inside, 2 the user's mistake, 3 the budget is reached,
    130 interrupted, 143 terminated."""
    from rlaif.runs import processes

    stopping.install()
    stopping.loaded()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Where its encoding lacks a character, as in a C or Latin-1 locale, that is spelt out.
            stream.reconfigure(errors="backslashreplace")
    try:
        with told():
            app()
    except UserError as error:
        if processes.is_rank0():
            tell(f"Error: {error}" if error.code == 2 else str(error))
        else:
            processes.yield_to_rank0()
        sys.exit(error.code)
    except BaseException:
        if stopping.received():  # whatever an interrupted library makes of it
            sys.exit(stopping.code())
        raise


if __name__ == "__main__":
    main()

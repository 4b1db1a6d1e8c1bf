"""`rlaif constitution import` and `rlaif constitution export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.arguments import ConstitutionFile
from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Json, emit, say, tell
from rlaif.errors import UserError

if TYPE_CHECKING:
    from rlaif.workbench.exchange import Exported, Imported

Out = Annotated[Path | None, typer.Option(help="A new file for it; omitted = it is printed.")]


@constitution_app.command("import")
def constitution_import(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Other projects' files; several make one.")
    ],
    format: Annotated[str | None, typer.Option(help="Their format; omitted = recognised.")] = None,
    out: Out = None,
    name: Annotated[str | None, typer.Option(help="The constitution's name; omitted = the file's.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A new file for the questions that come with traits.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a constitution of principles in another project's format; say what was not kept."""
    from rlaif.runs.storage import write_text
    from rlaif.workbench.exchange import import_files, questions
    from rlaif.workbench.yaml_text import to_yaml

    _refuse_existing(out, prompts)
    constitution, reports = import_files(files, format, name)
    text = to_yaml(constitution)
    asked = questions(constitution)
    for report in reports:
        _tell_import(report)
    if prompts and asked:
        write_text(prompts, "".join(row.to_json() + "\n" for row in asked))
        tell(f"{prompts}: {len(asked)} prompts")
    if out:
        write_text(out, text)
        tell(f"{out}: {len(constitution.principles)} principles; next: rlaif constitution lint {out}")
    if as_json:
        wrote = {"out": str(out) if out else None, "prompts": len(asked) if prompts else 0}
        emit({"files": [asdict(r) for r in reports], **wrote, "constitution": constitution.model_dump()})
    elif not out:
        say(text.rstrip("\n"))


@constitution_app.command("export")
def constitution_export(
    file: ConstitutionFile,
    format: Annotated[str, typer.Option(help="The format; docs/constitution-formats.md lists them.")],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Write a constitution in another project's format; say what that cannot keep."""
    from rlaif.constitution import Constitution
    from rlaif.runs.storage import write_text
    from rlaif.workbench.exchange import export

    _refuse_existing(out)
    exported = export(Constitution.load(file), format)
    _tell_export(exported)
    if out:
        write_text(out, exported.text)
        tell(f"{out}: {exported.principles} principles as {exported.format}")
    if as_json:
        emit({**asdict(exported), "out": str(out) if out else None})
    elif not out:
        say(exported.text.rstrip("\n"))


def _refuse_existing(*paths: Path | None) -> None:
    for path in paths:
        if path and path.exists():
            raise UserError(f"{path}: exists.", "the name of a new file", "name another file, or remove it")


def _tell_import(report: Imported) -> None:
    tell(f"{report.file}: {report.format}, {report.principles} principles of {report.entries} entries")
    for reason, count in report.dropped.items():
        tell(f"  left out: {count} × {reason}")
    for place in report.not_kept:
        tell(f"  not kept: {place}")
    for old, new in report.renamed.items():
        tell(f'  renamed: "{old}" is in an earlier file, here it is "{new}"')
    if report.note:
        tell(f"  note: {report.note}")


def _tell_export(exported: Exported) -> None:
    for name, lost in exported.not_kept.items():
        ids = lost["principles"]
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        tell(f"not kept: {name} of {len(ids)} principles ({shown}): {lost['reason']}")
    for name, reason in exported.lost.items():
        tell(f"not kept: the constitution's {name}: {reason}")

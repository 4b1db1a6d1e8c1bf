"""A constitution as YAML that reads as one written by hand."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, FoldedScalarString, LiteralScalarString

from rlaif.constitution import Constitution, Example
from rlaif.errors import UserError

WIDTH = 100
_FIRST = ("id", "text", "why", "critique", "revise", "compare", "paraphrases", "weight", "tags", "applies_to")


def to_yaml(constitution: Constitution, head: str = "") -> str:
    """The text of a constitution file that loads as this constitution; `head` is a comment on top of it.

    What stands at its default is left out, long texts are folded. Where that would not load as it is, a text
    with odd blanks, every text is quoted.
    """
    plain = constitution.model_dump(mode="json", exclude_defaults=True)
    plain = {"name": constitution.name, "version": constitution.version, **plain}
    comment = "".join(f"# {line}".rstrip() + "\n" for line in head.split("\n")) if head else ""
    for style in (_folded, DoubleQuotedScalarString):
        text = comment + _dumped(plain, style)
        if _loaded(text) == constitution:
            return text
    raise UserError(
        f'the constitution "{constitution.name}" cannot be written as YAML.',
        "texts without characters that YAML forbids",
    )


def _loaded(text: str) -> Constitution | None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "constitution.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            return Constitution.load(path)
        except UserError:
            return None


def _dumped(plain: dict[str, Any], style: Any) -> str:
    keys = [name for name in Constitution.model_fields if name != "source"]
    data = _map(plain, [*keys, "source"], style)
    rows = CommentedSeq(_principle(row, style) for row in plain["principles"])
    for number in range(1, len(rows)):
        rows.yaml_set_comment_before_after_key(number, before="\n")
    data["principles"] = rows
    yaml = YAML()
    yaml.width = WIDTH
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()


def _principle(row: dict[str, Any], style: Any) -> CommentedMap:
    made = _map(row, [*_FIRST, "examples", "source"], style)
    for name in ("tags", "applies_to"):
        if name in made:
            made[name] = _flow(made[name])
    if "examples" in made:
        made["examples"] = [_map(example, list(Example.model_fields), style) for example in row["examples"]]
    if votes := made.get("source", {}).get("votes"):
        made["source"]["votes"] = [_flow(group) for group in votes]
    return made


def _map(row: dict[str, Any], order: list[str], style: Any) -> CommentedMap:
    return CommentedMap((key, _styled(row[key], style)) for key in order if key in row)


def _styled(value: Any, style: Any) -> Any:
    if isinstance(value, str):
        return style(value)
    if isinstance(value, dict):
        return CommentedMap((key, _styled(inner, style)) for key, inner in value.items())
    return [_styled(inner, style) for inner in value] if isinstance(value, list) else value


def _folded(text: str) -> str:
    if "\n" in text:
        return LiteralScalarString(text)
    return FoldedScalarString(text) if len(text) > WIDTH - 20 else text


def _flow(value: Any) -> Any:
    made = CommentedMap(value) if isinstance(value, dict) else CommentedSeq(value)
    made.fa.set_flow_style()
    return made

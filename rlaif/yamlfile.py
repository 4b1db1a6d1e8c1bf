"""YAML files of other people: safe loading, and errors that name file, line and the nearest valid key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from rlaif.errors import UserError, nearest

M = TypeVar("M", bound=BaseModel)
Loc = Sequence[str | int]


class Lines:
    """Where in a file each key stands."""

    def __init__(self, root: Any) -> None:
        self.root = root

    def at(self, loc: Loc) -> int:
        """1-based line of the deepest part of `loc` that the file has."""
        node, line = self.root, 1
        for part in loc:
            if isinstance(node, CommentedMap) and part in node:
                line = (node.lc.value(part) if part not in node.lc.data else node.lc.key(part))[0] + 1
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                line = node.lc.item(part)[0] + 1
            else:
                continue
            node = node[part]
        return line


def load_yaml(path: Path) -> tuple[Any, Lines]:
    """Plain data of a YAML file and the line of each key; no tags, no objects, no duplicate keys."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}).", "an existing file", "check the path"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start}).", "a UTF-8 text file", f"re-save {path}"
        ) from None
    try:
        root = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = (error.problem or "not valid YAML").split("\n")[0]
        raise UserError(f"{path}:{line}: {problem}.", "valid YAML", f"mend line {line} of {path}") from None
    return plain(root), Lines(root)


def plain(node: Any) -> Any:
    """A ruamel tree as dictionaries, lists and scalars."""
    if isinstance(node, CommentedMap):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def parse_scalar(text: str) -> Any:
    """A command-line value read as YAML would read it (3e-7 is a number, `no` is text)."""
    return plain(YAML(typ="rt").load(text)) if text.strip() else ""


def validate_yaml(cls: type[M], data: Any, lines: Lines, path: Path) -> M:
    """`data` as a `cls`, or a UserError that lists every mistake with its line."""
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds {type(data).__name__}, not a mapping of keys.", "keys such as "
                        + ", ".join(list(cls.model_fields)[:4]))  # fmt: skip
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        found = [_describe(cls, item, lines, path) for item in error.errors()]
        raise UserError("\n".join(found), next=f"mend {path} and run again") from None


def _describe(cls: type[BaseModel], item: Any, lines: Lines, path: Path) -> str:
    loc = item["loc"]
    where = f"{path}:{lines.at(loc)}"
    key = str(loc[-1]) if loc else ""
    if item["type"] == "extra_forbidden":
        return f'{where}: unknown key "{key}" — {nearest(key, fields_at(cls, loc[:-1]))}'
    if item["type"] == "missing":
        return f'{where}: "{key}" is missing'
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        context = item.get("ctx", {})
        known = [tag.strip(" '") for tag in str(context.get("expected_tags", "")).split(",")]
        tag = str(context.get("tag", ""))
        return (
            f'{where}: unknown stage "{tag}" — {nearest(tag, known)}'
            if tag
            else f'{where}: "stage" is missing'
        )
    message = item["msg"].removeprefix("Value error, ")
    value = item["input"]
    shown = f" (found: {value!r})" if isinstance(value, (str, int, float, bool)) else ""
    return f"{where}: {key}: {message}{shown}"


def fields_at(cls: type[BaseModel], loc: Loc) -> list[str]:
    """Names of the keys that are valid at `loc` inside a file described by `cls`."""
    models: list[type[BaseModel]] = [cls]
    for part in loc:
        if isinstance(part, int):
            continue
        inner = [m for model in models if part in model.model_fields
                 for m in _models_in(model.model_fields[part].annotation)]  # fmt: skip
        tagged = [m for m in models if part in _tags(m)]
        models = inner or tagged or models
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models_in(arg)]


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("stage")
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()

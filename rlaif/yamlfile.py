"""YAML files of other people: safe loading, and errors that name file, line and the nearest valid key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import RoundTripScanner

from rlaif.errors import UserError, nearest

M = TypeVar("M", bound=BaseModel)
Loc = Sequence[str | int]
MAX_NODES = 200_000  # far above any real file, far below what an anchor bomb expands to
MOST_BYTES = 1 << 20  # the same; a file of other data, named by mistake, would be parsed for minutes
DEEPEST = 200  # brackets within each other
PLAIN_WORDS = {
    "tuple_type": "should be a list",
    "string_type": "should be text",
    "too_short": "should have at least one item",
    "string_pattern_mismatch": "should be letters, digits, dots, dashes and underscores, beginning with "
    "one of the "
    "first two",
    "model_type": "should be keys and values",
    "model_attributes_type": "should be keys and values",
    "dict_type": "should be keys and values",
}


class Lines:
    """Where in a file each key stands, or which `-s` option set it.

    Of data put together from several files `origins` says where the value at a place comes from: whose lines,
    and the place there.
    """

    def __init__(self, root: Any, path: Path | None = None, text: str = "") -> None:
        self.root, self.path, self.text = root, path, text
        self.origins: dict[tuple[str | int, ...], tuple[Lines, tuple[str | int, ...]]] = {}
        self.options: dict[
            tuple[str | int, ...], str
        ] = {}  # by the place they set, e.g. ("stages", 3, "updates")

    def where(self, path: Path, loc: Loc) -> str:
        """ "-s option" for what an option set, else "file:line"."""
        for place, option in reversed(self.options.items()):
            rest = iter(loc)  # which may name a stage's kind between two parts of the place
            if all(part in rest for part in place):
                return f"-s {option}"
        # A rule between several keys is reported at what holds them.
        held = tuple(loc[:2] if loc[:1] == ("stages",) else loc)
        touched = [option for place, option in self.options.items() if held and place[: len(held)] == held]
        file, line = self.find(path, loc)
        return f"{file}:{line}" + (f" with -s {' -s '.join(touched)}" if touched else "")

    def find(self, path: Path, loc: Loc) -> tuple[Path, int]:
        """File and line of the deepest part of `loc` that a file has."""
        plain = tuple(loc)
        untagged = plain[:2] + plain[3:] if plain[:1] == ("stages",) else plain  # without the stage's kind
        for end in range(len(plain), -1, -1):
            for place in (plain, untagged):
                if place[:end] in self.origins:
                    lines, there = self.origins[place[:end]]
                    return lines.find(lines.path or path, there + place[end:])
        return self.path or path, self.at(loc)

    def at(self, loc: Loc) -> int:
        """1-based line of the deepest part of `loc` that the file has."""
        return self.place(loc)[0]

    def place(self, loc: Loc, value: bool = False) -> tuple[int, int]:
        """1-based (line, column) of the deepest part of `loc` that the file has; with `value` of what stands
        behind its key."""
        node, found = self.root, (0, 0)
        for part in loc:
            if isinstance(node, CommentedMap) and part in node:
                # A key merged in from elsewhere (`<<: *anchor`) has no line here.
                known = part in (node.lc.data or {})
                found = (node.lc.value(part) if value else node.lc.key(part)) if known else found
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                found = node.lc.item(part)
            else:
                continue
            node = node[part]
        return found[0] + 1, found[1] + 1


def load_yaml(path: Path, content: bytes | None = None) -> tuple[Any, Lines]:
    """Plain data of a YAML file and the line of each key; no tags, no objects, no duplicate keys.

    With `content` that is read as if it stood in the file.
    """
    try:
        if content is None:
            with path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(
                f"{path}: more than {MOST_BYTES >> 20} MB.", "a file that people write", "check the path"
            )
        text = content.decode("utf-8-sig")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}).", "an existing file", "check the path"
        ) from None
    except UnicodeDecodeError as error:
        line = bytes(error.object[: error.start]).count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: not UTF-8 text (byte 0x{error.object[error.start]:02X}).",
            "a UTF-8 text file",
            f"re-save {path}",
        ) from None
    root = _parse(text, path)
    for line, cut, comment in cut_texts(root):
        if not comment[1:2].isspace():
            raise UserError(
                f'{path}:{line}: the text ends before "{comment[:30]}", which YAML reads as a comment.',
                f'quotes around a text with " #" in it: "{cut[-30:]} {comment[:30]}"',
                f"quote it, or put a blank behind # in line {line} of {path} if it is a comment",
            )
    return plain(root), Lines(root, path, text)


def cut_texts(root: Any) -> Iterator[tuple[int, str, str]]:
    """(line, text, comment) of each text without quotes, of two words or more, that is followed by a
    comment."""
    if not isinstance(root, (CommentedMap, CommentedSeq)):
        return
    pairs = root.items() if isinstance(root, CommentedMap) else enumerate(root)
    for key, value in pairs:
        # Only what stands without quotes is a plain str. The comment behind a value is the third of its
        # comments in a map and the first in a list; one that begins with a line end stands below it.
        found = (root.ca.items.get(key) or ())[2 if isinstance(root, CommentedMap) else 0 :][:1]
        if type(value) is str and " " in value and found and found[0] and found[0].value.startswith("#"):
            yield found[0].start_mark.line + 1, value, found[0].value.split("\n")[0]
        yield from cut_texts(value)


class _Scanner(RoundTripScanner):
    """Gives up where brackets are nested deeper than any file's: the time to scan them grows with the square
    of the depth."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:
        if self.flow_level >= DEEPEST:
            raise RecursionError
        super().fetch_flow_collection_start(TokenClass, to_push)


def _parse(text: str, path: Path) -> Any:
    try:
        loader = YAML(typ="rt")
        loader.Scanner = _Scanner
        loader.preserve_quotes = True  # see cut_texts
        root = loader.load(text)
        if expanded_size(root) <= MAX_NODES:
            return root
        line, problem = 1, f"its anchors stand for more than {MAX_NODES:,} values"
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = (error.problem or "not valid YAML").split("\n")[0]
        if "'\\t'" in problem:
            problem = "a tab, where YAML takes only blanks"
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = error.character if isinstance(error.character, int) else ord(str(error.character))
        problem = f"the character U+{character:04X} is not allowed in YAML"
    except RecursionError:
        line, problem = 1, "nested too deeply"
    except (YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-45
        line, problem = 1, str(error).split("\n")[0]
        if "integer string conversion" in problem:
            problem = "a whole number of more than 4,300 digits"
    raise UserError(f"{path}:{line}: {problem}.", "valid YAML", f"fix line {line} of {path}")


def expanded_size(node: Any, known: dict[int, int] | None = None) -> int:
    """How many values a tree holds once its anchors are written out; `MAX_NODES` and more for an endless
    one."""
    known = {} if known is None else known
    if not isinstance(node, (CommentedMap, CommentedSeq)):
        return 1
    if id(node) not in known:
        known[id(node)] = MAX_NODES
        children = node.values() if isinstance(node, CommentedMap) else node
        known[id(node)] = 1 + sum(expanded_size(child, known) for child in children)
    return known[id(node)]


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
    return plain(_parse(text, Path("-s"))) if text.strip() else ""


def validate_yaml(cls: type[M], data: Any, lines: Lines, path: Path) -> M:
    """`data` as a `cls`, or a UserError that lists every mistake with its line."""
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "text" if isinstance(data, str) else "a single value"
        found = "is empty" if data is None else f"holds {kind}, not keys and values"
        needed = "keys such as " + ", ".join(_needed_first(cls)[:4])
        raise UserError(f"{path}:1: {found}.", needed, f"check that {path} is the file that was meant")
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        items = error.errors()
        # A list whose items are wrong is also reported as too short: only the items are the user's to fix.
        follow_ups = [
            i for i in items if i["type"] == "too_short" and isinstance(i["input"], list) and i["input"]
        ]
        # A value that fits none of several types is reported once for each: the last is the most general.
        found = {_place(item): _describe(cls, item, lines, path) for item in items if item not in follow_ups}
        fix = path if not lines.origins else "what is named"
        fix = "the option" if all(text.startswith("-s ") for text in found.values()) else fix
        raise UserError("\n".join(found.values()), next=f"fix {fix} and run again") from None


def _needed_first(cls: type[BaseModel]) -> list[str]:
    """The keys of a model, those that it cannot do without before the others."""
    return sorted(cls.model_fields, key=lambda name: not cls.model_fields[name].is_required())


_TYPES = (
    "int",
    "str",
    "float",
    "bool",
)  # how pydantic names the types a value does not fit, behind its place


def _place(item: Any) -> tuple[str | int, ...]:
    loc = item["loc"]
    return loc[:-1] if len(loc) > 1 and loc[-1] in _TYPES else loc


def _describe(cls: type[BaseModel], item: Any, lines: Lines, path: Path) -> str:
    loc = _place(item)
    where = lines.where(path, loc)
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
    message = PLAIN_WORDS.get(item["type"], item["msg"].removeprefix("Value error, "))
    value = item["input"]
    if item["type"] == "string_type" and not isinstance(value, (str, list, dict, type(None))):
        kind = {bool: "yes or no", int: "a number", float: "a number"}.get(type(value), "a date")
        return (
            f"{where}: {key}: should be text, but YAML reads it as {kind} (found: {value}); put quotes "
            "around it"
        )
    shown = f" (found: {value!r})" if isinstance(value, (str, int, float, bool)) else ""
    named = f"{key}: " if key else ""  # what concerns the whole file names no key
    return f"{where}: {named}{message}{shown}"


def fields_at(cls: type[BaseModel], loc: Loc) -> list[str]:
    """Names of the keys that are valid at `loc` inside a file described by `cls`."""
    models: list[type[BaseModel]] = [cls]
    for part in loc:
        if isinstance(part, int):
            continue
        inner = [
            m
            for model in models
            if part in model.model_fields
            for m in _models_in(model.model_fields[part].annotation)
        ]
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

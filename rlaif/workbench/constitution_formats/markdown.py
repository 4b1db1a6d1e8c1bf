"""Specifications and lists in Markdown (CommonMark, read by markdown-it).

Of a specification each section with a text of its own becomes a principle: its heading and first paragraph
are the rule, what follows is the reason (`why`). Of a list each item does. Where a text of ours would be read
as Markdown it is written behind a backslash, a reason as a quotation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from typing import Any

from rlaif.constitution import Constitution, Principle
from rlaif.workbench.constitution_formats.document import Document, Ids
from rlaif.workbench.constitution_formats.format import (
    Format,
    Read,
    kept_by,
    loses,
    source,
    texts_in,
    without,
)

_ATTRIBUTE = re.compile(r"\s*\{#([A-Za-z0-9][A-Za-z0-9_.-]*)\}\s*$")
_CODE = re.compile(r"(`+)\s?([A-Za-z0-9][A-Za-z0-9_.-]*)\s?\1")
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*\n")
_QUOTED = "> [//]: # (quoted)"
_OF_LISTS = ("heading_open", "bullet_list_open", "ordered_list_open", "inline")
_END = "\n\n## `end`\n\nend\n"


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


@dataclass
class Section:
    """What stands under one heading, up to the next one: `rest` is the Markdown behind the paragraph."""

    heading: str = ""
    level: int = 0
    line: int = 1
    paragraph: str = ""
    rest: str = ""
    above: tuple[str, ...] = field(default=())

    @property
    def words(self) -> str:
        """The heading without an id that stands in it."""
        return "" if _CODE.fullmatch(self.heading) else _ATTRIBUTE.sub("", self.heading).strip()

    @property
    def id(self) -> str | None:
        """The id that the heading names, as `## Title {#id}` or alone as code."""
        named = _ATTRIBUTE.search(self.heading) or _CODE.fullmatch(self.heading)
        return named[named.lastindex or 1] if named else None

    @property
    def sentence(self) -> str:
        """The heading's words as a sentence of the rule."""
        return self.words if not self.words or self.words[-1] in ".?!:" else f"{self.words}."

    @property
    def rule(self) -> str:
        """Heading and first paragraph as one text."""
        return " ".join(f"{self.sentence} {_unescaped(self.paragraph)}".split())


def sections(text: str) -> list[Section]:
    """The sections of a Markdown text, the one before the first heading included."""
    text = _without_front_matter(text)
    lines, tokens = text.split("\n"), _parser().parse(text)
    heads = [(i, t) for i, t in enumerate(tokens) if t.type == "heading_open" and t.level == 0]
    found, above = list[Section](), list[tuple[int, str]]()
    starts = [
        (-1, Section()),
        *((i, Section(tokens[i + 1].content, int(t.tag[1]), t.map[0] + 1)) for i, t in heads),
    ]
    for number, (index, section) in enumerate(starts):
        end = starts[number + 1][1].line - 1 if number + 1 < len(starts) else len(lines)
        above = [(level, words) for level, words in above if level < section.level]
        section.above = tuple(words for _, words in above)
        if section.level:
            above.append((section.level, section.words or section.heading))
        _fill(section, tokens, index + 3 if section.level else 0, lines, end)
        found.append(section)
    return found


def _without_front_matter(text: str) -> str:
    """The text with empty lines for the YAML that some tools put before Markdown."""
    found = _FRONT_MATTER.match(text)
    return "\n" * found[0].count("\n") + text[found.end() :] if found else text


def _fill(section: Section, tokens: list[Any], at: int, lines: list[str], end: int) -> None:
    """Paragraph and rest of a section whose first block is token `at` and whose last line is before `end`."""
    if (
        at >= len(tokens)
        or not tokens[at].map
        or tokens[at].map[0] >= end
        or tokens[at].type == "heading_open"
    ):
        return
    first, last = tokens[at].map
    if tokens[at].type == "paragraph_open":
        section.paragraph = tokens[at + 1].content
        first = last
    section.rest = "\n".join(lines[first:end]).strip("\n").rstrip()


def _unescaped(text: str) -> str:
    """A paragraph's text without the backslash that keeps its beginning from being Markdown."""
    numbered = re.match(r"(\d+)\\(?=[.)\\])", text)
    if numbered:
        return numbered[1] + text[numbered.end() :]
    return text[1:] if re.match(r"\\[!-/:-@\[-`{-~]", text) else text


def _escaped(text: str) -> str:
    """A text of one line as a paragraph, with a backslash where it would be read as something else."""
    plain = [section.paragraph for section in sections(f"{text}\n\nx")]
    if _unescaped(plain[0]) == text and len(plain) == 1 and len(_parser().parse(text)) == 3:
        return text
    numbered = re.match(r"\d+(?=[.)\\])", text)
    return f"{numbered[0]}\\{text[numbered.end() :]}" if numbered else f"\\{text}"


def _is_spec(document: Document) -> bool:
    if document.kind != "text":
        return False
    own = [s for s in sections(document.text) if s.level and (s.paragraph or s.rest)]
    return len(own) > 1 or (len(own) == 1 and not _items(document.text))


def _read_spec(document: Document) -> Read:
    read, ids = Read(), Ids()
    if _FRONT_MATTER.match(document.text):
        read.not_kept.append("the front matter, before the first line of text")
    first, *rest = sections(document.text)
    titled = bool(rest) and rest[0].level == 1 and sum(s.level == 1 for s in rest) == 1
    if titled and not (first.paragraph or first.rest):
        title = rest.pop(0)
        read.name = title.words
        read.description = "\n\n".join(part for part in (title.paragraph, _unquoted(title.rest)) if part)
    elif first.paragraph or first.rest:
        read.not_kept.append(
            f"the text before the first heading (line 1 to {rest[0].line - 1 if rest else 1})"
        )
    for section in rest:
        if not section.paragraph and not section.rest:
            read.drop("a heading without a text of its own")
        else:
            read.add(_principle(document, section, section.above[titled:], ids))
    return read


def _principle(document: Document, section: Section, under: tuple[str, ...], ids: Ids) -> Principle:
    kept = {"heading": section.words} if section.words else {}
    kept |= {"under": list(under)} if under else {}
    return document.principle(
        section.line,
        id=ids.take(section.id) if section.id else ids.made(section.words, " ".join(under[-1:])),
        text=section.rule,
        why=_unquoted(section.rest) or None,
        source=source(document, "markdown-spec", section.id or _anchor(section.words), kept=kept),
    )


def _anchor(words: str) -> str:
    """The part behind # of a link to a heading, as GitHub and most sites make it."""
    return re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")


def _write_spec(constitution: Constitution) -> str:
    title = "# " + (_escaped(" ".join(constitution.name.split())) or "Constitution")
    description = constitution.description.strip("\n")
    whole = len(sections(f"{title}\n\n{description}{_END}")) == 3
    parts = [title, description if whole else _quoted(description)]
    path: list[str] = []  # of the headings above the last section, and its own
    for principle in constitution.principles:
        made, under = _section(principle), _under(principle)
        pairs = zip(path, under, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        parts += [f"{'#' * (2 + depth)} {under[depth]}" for depth in range(shared, len(under))]
        parts.append("#" * len(under) + made)
        head = Section(made.split("\n")[0].removeprefix("## "))
        path = [*under, head.words or head.heading]
    return "\n\n".join(filter(None, parts)) + "\n"


def _under(principle: Principle) -> list[str]:
    """The headings that a principle stood under, where they can be written as such."""
    under = texts_in(kept_by(principle, "markdown-spec").get("under"))
    if len(under) > 4 or not all(text.strip() for text in under):
        return []
    plain = [s for s in sections("\n\n".join(f"## {text}" for text in under)) if s.level]
    return under if [s.words or s.heading for s in plain] == under else []


def _section(principle: Principle) -> str:
    words = kept_by(principle, "markdown-spec").get("heading")
    if isinstance(words, str) and words.strip() and "\n" not in words:
        sentence = Section(words).sentence
        if sentence and principle.text.startswith(sentence):
            heading = words if Ids().made(words) == principle.id else f"{words} {{#{principle.id}}}"
            made = _around(heading, principle.text.removeprefix(sentence).strip(), principle.why)
            if _comes_back(made, principle):
                return made
    return _around(f"`{principle.id}`", principle.text, principle.why)


def _around(heading: str, paragraph: str, why: str | None) -> str:
    head = f"## {heading}" + (f"\n\n{_escaped(paragraph)}" if paragraph else "")
    if not why:
        return head
    plain = f"{head}\n\n{why}"
    found = sections(plain + _END)
    if len(found) == 3 and found[1].rest == why and found[2].id == "end":
        return plain
    return f"{head}\n\n{_quoted(why)}"


def _quoted(why: str) -> str:
    return "\n".join([_QUOTED, *(f"> {line}" for line in why.split("\n"))])


def _unquoted(rest: str) -> str:
    """What a quotation of ours holds; anything else as it is."""
    lines = rest.split("\n")
    if lines[0] != _QUOTED or not all(line.startswith(">") for line in lines):
        return rest
    return "\n".join(line.removeprefix(">").removeprefix(" ") for line in lines[1:])


def _comes_back(made: str, principle: Principle) -> bool:
    found = [s for s in sections(made) if s.level]
    if len(found) != 1 or found[0].rule != principle.text:
        return False
    named = found[0].id or Ids().made(found[0].words)
    return named == principle.id and (_unquoted(found[0].rest) or None) == (principle.why or None)


@dataclass
class Item:
    """An item of a list that stands in no other one."""

    line: int
    text: str
    rest: str
    heading: str


def _items(text: str) -> list[Item]:
    """The items of a text's lists, each with the heading above it."""
    text = _without_front_matter(text)
    lines, tokens = text.split("\n"), _parser().parse(text)
    found, heading, line = list[Item](), "", 0
    for index, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0:
            heading = tokens[index + 1].content
        elif token.type == "list_item_open" and token.level == 1:
            line, end = token.map
            inner = tokens[index + 1] if index + 1 < len(tokens) else token
            starts = inner.type == "paragraph_open"
            first = inner.map[1] if starts else line
            body = "\n".join(_outdented(lines[line], lines[first:end]))
            found.append(
                Item(
                    line + 1, tokens[index + 2].content if starts else "", body.strip("\n").rstrip(), heading
                )
            )
    return found


def _outdented(first: str, lines: list[str]) -> Iterator[str]:
    """Lines of an item without the blanks that make them part of it."""
    marker = re.match(r"\s*(?:[-+*]|\d+[.)])\s+", first)
    width = len(marker[0]) if marker else 2
    for line in lines:
        yield line[min(width, len(line) - len(line.lstrip(" "))) :]


def _is_list(document: Document) -> bool:
    if document.kind != "text" or not _items(document.text) or _has_prose(document.text):
        return False
    headings = sum(section.level > 0 for section in sections(document.text))
    return len(_outside(document.text)) <= headings + 1  # an introduction to each list


def _outside(text: str) -> list[int]:
    """The lines of blocks that are neither headings nor lists."""
    tokens = _parser().parse(_without_front_matter(text))
    blocks = [token for token in tokens if token.level == 0 and token.map]
    return [token.map[0] + 1 for token in blocks if token.type not in _OF_LISTS]


def _has_prose(text: str) -> bool:
    """Whether a section begins with a paragraph, as those of a list have no reason to."""
    return any(section.paragraph for section in sections(text) if section.level > 1)


def _read_list(document: Document) -> Read:
    read, ids = Read(), Ids()
    for item in _items(document.text):
        text = _unescaped(" ".join(item.text.split()))
        if not text:
            read.drop("an item that does not begin with a text")
            continue
        kept = {"heading": item.heading} if item.heading else {}
        read.add(
            document.principle(
                item.line,
                id=ids.made(text),
                text=text,
                why=item.rest or None,
                source=source(document, "markdown-list", item.line, kept=kept),
            )
        )
    read.not_kept += [f"line {line}: outside the lists" for line in _outside(document.text)]
    return read


def _write_list(constitution: Constitution) -> str:
    parts, heading = list[str](), ""
    for principle in constitution.principles:
        above = kept_by(principle, "markdown-list").get("heading")
        if isinstance(above, str) and above != heading and above.strip() and "\n" not in above:
            heading = above
            parts.append(f"\n## {heading}\n")
        item = f"- {_escaped(principle.text)}"
        if principle.why:
            item += "\n\n" + "\n".join(f"  {line}".rstrip() for line in principle.why.split("\n")) + "\n"
        parts.append(item)
    return "\n".join(parts).strip("\n") + "\n"


NO_ID = "the format has none; on the way in, ids are made of the texts"
SPEC = Format(
    name="markdown-spec",
    is_what="a specification with headings: a section is a principle (Markdown)",
    suffix=".md",
    recognise=_is_spec,
    read=_read_spec,
    write=_write_spec,
    cannot_keep=without("id", "text", why="ends of lines become those of Markdown, and an empty one is lost"),
    loses={"version": loses()["version"], "name": "as a heading has it", "description": "as Markdown has it"},
    note="a section's heading and first paragraph are the rule, what follows is `why`; shorten what is long",
)
LIST = Format(
    name="markdown-list",
    is_what="a list: an item is a principle (Markdown)",
    suffix=".md",
    recognise=_is_list,
    read=_read_list,
    write=_write_list,
    cannot_keep=without(
        "text", id=NO_ID, why="blanks around it and its lines' ends become those of Markdown"
    ),
    loses=loses(),
)

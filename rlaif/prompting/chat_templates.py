"""Templates: programs that come with a model or a template set, run in a sandbox that also bounds what they
compute.

Neither is trusted. A sandbox alone keeps its template from our objects, but not from looping for ever or from
making a text of ten thousand million characters. Here every loop step, every call and every value that a
template makes is paid from one budget, and no value may be larger than `LARGEST`; what could make a larger
one at a stroke is refused before it is tried. What a template can ask for is what transformers gives it, but
for the date: a prompt has to have the same tokens whenever a run is continued, so templates that print
today's get a fixed one.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

WORK = 100_000_000  # steps, and characters made, in one rendering; a real one takes thousands
LARGEST = 10_000_000  # characters of one value, its items included
ITEM = 16  # characters that an item of a list or mapping counts for
SECONDS = 2.0  # of processor time in one rendering
LONGEST = 300_000  # characters of a template
TODAY = datetime(2024, 7, 26)  # a day on which Llama 3.2's own template falls back
FILTERS = (
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "sort",
    "string",
    "title",
    "trim",
    "unique",
    "upper",
)
# Filters and methods of strings whose result may be as large as the product of what they are given.
_GROWING = {
    "indent",
    "join",
    "replace",
    "center",
    "expandtabs",
    "ljust",
    "rjust",
    "translate",
    "zfill",
    "format",
    "format_map",
    "%",
    "*",
    "**",
}
_WIDE = re.compile(r"\d{5,}|\*|{[^}]*{")  # a width in a format string that is large, or given by a value


class TooMuch(TemplateError):
    """A template that computes more than a chat template has reason to."""


class _Meter:
    """What is left to one rendering."""

    def __init__(self) -> None:
        self.left, self.paid, self.until = WORK, 0, time.thread_time() + SECONDS

    def pay(self, units: int) -> None:
        self.left, self.paid = self.left - units, self.paid + 1
        if self.left < 0 or (self.paid % 64 == 0 and time.thread_time() > self.until):
            raise TooMuch("it computes more than a chat template has reason to (loops, or very long texts)")


_METER: ContextVar[_Meter] = ContextVar("meter")


def size(value: Any) -> int:
    """Characters of a value as it would be printed, about; raises TooMuch above LARGEST."""
    if type(value) is str:
        return len(value)
    total, rest = 0, [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str | bytes):
            total += len(item)
        elif isinstance(item, Mapping):
            rest += [*item.keys(), *item.values()]
        elif isinstance(item, Namespace):
            rest.append(item._Namespace__attrs)
        elif isinstance(item, Sequence | set | frozenset) and not isinstance(item, range):
            rest += item
        elif isinstance(item, int):
            total += item.bit_length() >> 3
        total += ITEM
        if total + ITEM * len(rest) > LARGEST:
            raise TooMuch(f"it makes a value of more than {LARGEST:,} characters")
    return total


def made(value: Any) -> Any:
    """The value, counted against the budget."""
    _METER.get().pay(size(value))
    return value


def _check(name: str, values: Sequence[Any]) -> None:
    """Refuse an operation that could make something too large of these values before it is tried."""
    sizes = [size(value) for value in values]
    numbers = [abs(value) for value in values if isinstance(value, int)]
    if any(number > LARGEST for number in numbers):
        raise TooMuch(f"it counts to {max(numbers)}" if max(numbers) < 1 << 99 else "it uses a huge number")
    if name in _GROWING:
        product = 1
        for value, own in zip(values, sizes, strict=True):
            product *= 1 + (abs(value) if isinstance(value, int) else own)
        if product > WORK or (
            name in ("%", "format") and isinstance(values[0], str) and _WIDE.search(values[0])
        ):
            raise TooMuch(f'"{name}" would make a very long text of what it is given')


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _check(name, [*args, *kwargs.values()])
        return made(function(*args, **kwargs))

    return run


def _steps(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _METER.get().pay(1)
        yield value


def _joined(values: Sequence[Any]) -> str:
    return made("".join(map(str, made(values))))


class _Metering(NodeTransformer):
    """Lets loops, literals, concatenations and a template's own text pass through the meter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through("_steps", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("_joined", nodes.List(node.nodes, lineno=node.lineno, environment=node.environment))

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _through("_made", self.generic_visit(node))

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        made = self.generic_visit(node)
        return _through("_made", made) if node.ctx == "load" else made

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno, environment=node.environment)


def _through(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


class _Generation(Extension):
    """`{% generation %}`, which marks what an assistant wrote and prints it as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Names(Namespace):
    """A namespace of a template, none of whose names begins with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace takes no name such as {name!r}")
        super().__setitem__(name, value)


def _raise(message: Any) -> None:
    raise TemplateError(str(message))


def _namespace(**values: Any) -> _Names:
    names = _Names()
    for name, value in values.items():
        names[name] = value
    return names


def _mapping(**values: Any) -> dict[str, Any]:
    return values


def _today(form: str) -> str:
    return TODAY.strftime(form)


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _same(value: Any) -> Any:
    return value


@pass_context
def _printed(context: Context, value: Any) -> Any:
    """What an output writes; that it takes the context keeps constants from being computed when a template is
    read."""
    return made(value)


@contextmanager
def metered() -> Iterator[None]:
    """Give what is rendered inside one budget."""
    token = _METER.set(_Meter())
    try:
        yield
    finally:
        _METER.reset(token)


class Bounded(ImmutableSandboxedEnvironment):
    """The sandbox in which everything that a template makes counts against the budget; render inside
    `metered`."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(
            optimized=False, finalize=_printed, extensions=[_Generation, loopcontrols], **options
        )
        filters = {name: _bounded(name, self.filters[name]) for name in FILTERS}
        own = {"tojson": _bounded("indent", _json), "safe": _same}
        self.filters = {**filters, **own, "_steps": _steps, "_joined": _joined, "_made": made}
        self.globals = {
            "range": self.globals["range"],
            "namespace": _namespace,
            "dict": _mapping,
            "raise_exception": _raise,
            "strftime_now": _today,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Metering().visit(super()._parse(source, name, filename))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check(operator, (left, right))
        return made(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        _METER.get().pay(size(argument))
        return super().getitem(obj, argument)

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        _METER.get().pay(1)
        whose = getattr(function, "__self__", None)
        name = getattr(function, "__name__", "") if isinstance(whose, str | bytes) else ""
        values = [whose] if name else []
        _check(name, [*values, *args, *kwargs.values()])
        return made(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        found = super().wrap_str_format(value)
        return _bounded("format", _formatting(value.__self__, found)) if found else None


def _formatting(text: str, function: Callable[..., str]) -> Callable[..., str]:
    def run(*args: Any, **kwargs: Any) -> str:
        _check("format", [text, *args, *kwargs.values()])
        return function(*args, **kwargs)

    return run


@lru_cache(maxsize=32)
def _compiled(source: str) -> Template:
    if len(source) > LONGEST:
        raise TooMuch(f"it has {len(source):,} characters")
    return Bounded(trim_blocks=True, lstrip_blocks=True).from_string(source)


def render(
    source: str, messages: Sequence[dict[str, str]], generation: bool, values: Mapping[str, Any]
) -> str:
    """What a chat template writes for messages, with the response opened where `generation` is asked for.

    `values` are what else it may ask for: special tokens, switches. Raises any exception of the template.
    """
    plain = [dict(message) for message in messages]
    with metered():
        return _compiled(source).render(
            **{"tools": None, "documents": None, **values}, messages=plain, add_generation_prompt=generation
        )

"""Functions of the user's own, named in a config as `module:function`: gold scorers, annotators, scripted
engines."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlaif.errors import UserError

# Functions that no module has under their name: lambdas, a notebook's own. Only this process can find them.
_GIVEN: dict[str, Callable[..., Any]] = {}


def load_function(spec: str, role: str) -> Callable[..., Any]:
    """The function `module:name`; raises UserError that says what could not be found."""
    if spec in _GIVEN:
        return _GIVEN[spec]
    module_name, colon, name = spec.partition(":")
    if not colon or not name or not module_name.strip("."):
        raise UserError(
            f'{role}: "{spec}" is not of the form module:function.', "for example my_package.truth:score"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # of a missing module, or raised while it is imported
        raise UserError(
            f'{role}: cannot import "{module_name}" ({type(error).__name__}: {error}).',
            "an importable module",
            "install it, or run where Python finds it (PYTHONPATH)",
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f'{role}: "{module_name}" has no function "{name}".', "module:function")
    return function


def named_functions(data: Any) -> Any:
    """A config's content as plain data: mappings, lists, and `module:function` for every function in it."""
    if isinstance(data, Mapping):
        return {str(key): named_functions(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [named_functions(value) for value in data]
    if isinstance(data, Path):
        return str(data)
    return _spec_of(data) if callable(data) else data


def _spec_of(function: Callable[..., Any]) -> str:
    """`module:function`, by which `load_function` finds it: in its module, or else in this process alone."""
    module, name = getattr(function, "__module__", "?"), getattr(function, "__qualname__", repr(function))
    if getattr(sys.modules.get(module), name, None) is function:
        return f"{module}:{name}"
    known = [spec for spec, given in _GIVEN.items() if given is function]
    spec = known[0] if known else f"{module}:{name}#{len(_GIVEN)}"
    _GIVEN[spec] = function
    return spec


def own(spec: str) -> Callable[..., Any]:
    """What `module:name` of rlaif itself names, imported only when it is needed."""
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)

"""Functions of the user's own, named in a config as `module:function`: gold scorers, annotators, scripted
engines."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from rlaif.errors import UserError


def load_function(spec: str, role: str) -> Callable[..., Any]:
    """The function `module:name`; raises UserError that says what could not be found."""
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


def own(spec: str) -> Callable[..., Any]:
    """What `module:name` of rlaif itself names, imported only when it is needed."""
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)

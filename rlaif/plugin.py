"""Functions of the user's own, named in a config as `module:function`: gold scorers, annotators, scripted
engines."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rlaif.errors import UserError

# Functions that no module has under their name: lambdas, a notebook's own. Only this process can find them.
_GIVEN: dict[str, Callable[..., Any]] = {}
IMPORTABLE = "a module that Python can import"


def load_function(spec: str, role: str, need: str = IMPORTABLE) -> Callable[..., Any]:
    """The function `module:name`, or `path/file.py:name`; raises UserError that says what could not be
    found, and as what it is needed."""
    if spec in _GIVEN:
        return _GIVEN[spec]
    module_name, colon, name = spec.rpartition(":")
    if not colon or not name or not module_name.strip("."):
        raise UserError(
            f'{role}: "{spec}" is not of the form module:function.', "for example my_package.truth:score"
        )
    is_file = module_name.endswith(".py")
    if "#" in name:
        raise _of_another_process(spec, role)
    try:
        module = _module_of(Path(module_name)) if is_file else importlib.import_module(module_name)
    except Exception as error:  # of a missing module, or raised while it is imported
        raise UserError(
            f'{role}: cannot import "{module_name}" ({type(error).__name__}: {error}).',
            "that file, and whatever it imports" if is_file else need,
            "install what is missing, or name the folder it is in: PYTHONPATH=FOLDER before the command",
        ) from None
    function = getattr(module, name, None)
    if not callable(function) and module_name == "__main__":
        raise _of_another_process(spec, role)
    if not callable(function):
        raise UserError(f'{role}: "{module_name}" has no function "{name}".', "module:function")
    return function


def _of_another_process(spec: str, role: str) -> UserError:
    return UserError(
        f"{role}: {spec} is a function of the notebook or script that gave it, which no other process has.",
        "the same call of rlaif.run, there",
        "put the function into a module's file, so that any process can go on with a new run",
    )


def find_function(spec: str, role: str, folders: Sequence[Path]) -> str:
    """How `load_function` finds a function from anywhere: by the file of that name in one of the folders,
    also where Python imports it from there, which it does not in another process; else as it is named.

    Only the file itself is run: the folders do not become places that other imports look in.
    """
    module, _, name = spec.rpartition(":")
    files = [folder.resolve() / f"{module.replace('.', '/')}.py" for folder in folders]
    files = [file for file in files if re.fullmatch(r"\w+(\.\w+)*", module) and file.is_file()]
    try:
        load_function(spec, role, f"{IMPORTABLE}, or a file beside the config or in the working directory")
        files = [file for file in files if _imported(file) and spec not in _GIVEN]
        if not files:
            return spec
    except UserError:
        if not files:
            raise
    load_function(f"{files[0]}:{name}", role)
    return f"{files[0]}:{name}"


def _module_of(file: Path) -> ModuleType:
    """The module that a file makes, run once in a process; its name is its own, so that it shadows none."""
    if found := _imported(file):
        return found
    name = f"_rlaif_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file}: no Python file")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _imported(file: Path) -> ModuleType | None:
    """The module of that file where Python has imported it by the file's own name."""
    found = sys.modules.get(file.stem)
    there = getattr(found, "__file__", None)
    return found if there and Path(there).resolve() == file else None


def check_call(function: Callable[..., Any], role: str, called: str, *given: Any, **named: Any) -> None:
    """UserError where a function cannot be called with these arguments; `called` is the call in words."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a few functions written in C
        return
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        raise UserError(
            f"{role}: the function takes {signature}, which does not fit ({error}).",
            f"a function that can be called as {called}",
            "see docs/functions.md",
        ) from None


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

"""Imports a user's Python, and lays what it raises at the line that raised it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from dlc import recipe as declarations
from dlc.errors import DlcError, RecipeError
from dlc.recipe import suggest

REFERENCE = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*|.*\.py):(?P<name>[^\W\d]\w*)")


def look_up(reference: str, folder: Path) -> Any:
    """Return what ``rules.py:name`` or ``package.module:name`` names, seen from a folder."""
    if (match := REFERENCE.fullmatch(reference)) is None:
        raise RecipeError(f"{reference!r} names nothing: write 'rules.py:name' or 'package.module:name'")
    where, name = match["module"], match["name"]
    module = import_file(folder / where, "rules") if where.endswith(".py") else import_module(where, folder)
    if not hasattr(module, name):
        raise RecipeError(f"{where} has no {name!r}{suggest(name, public(module))}")
    return getattr(module, name)


def import_module(name: str, folder: Path) -> ModuleType:
    """Import a module that lies in a folder, or is installed."""
    importable(folder)
    with user_code(None, name):
        return importlib.import_module(name)


def import_file(path: Path, kind: str) -> ModuleType:
    """Run a Python file as a module; what lies beside it can be imported."""
    if not path.is_file():
        raise RecipeError(f"{kind} {path}: no such file")
    name = re.sub(r"[^\w.-]", "-", path.stem)
    found = importlib.util.spec_from_file_location(f"dlc_{kind}_{name}", path)
    if found is None or found.loader is None:
        raise RecipeError(f"{kind} {path} cannot be imported")
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up by name
    importable(path.parent)
    with user_code(path):
        found.loader.exec_module(module)
    return module


@contextmanager
def user_code(path: Path | None, name: str = "") -> Iterator[None]:
    """Turn what a user's file raises into a RecipeError with the line that raised it; what it prints is no result."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except RecipeError as error:
        raise RecipeError(f"{_line(error, path) or name}: {error}") from error
    except DlcError:
        raise
    except SyntaxError as error:
        raise RecipeError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        where = _line(error, path) or name
        raise RecipeError(f"{where}: {_keyword(error) or f'{type(error).__name__}: {_one_line(error)}'}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _line(error: BaseException, path: Path | None) -> str:
    """``file:line`` of the innermost frame in the user's file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if path is not None and Path(f.filename).resolve() == path.resolve()]
    return f"{path}:{lines[-1]}" if lines else str(path or "")


def _keyword(error: BaseException) -> str | None:
    """Explain an argument that one of our declarations does not have."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    kind = getattr(declarations, match[1], None) if match else None
    if match is None or kind is None:
        return None
    return f"{match[1]} has no {match[2]!r}{suggest(match[2], [f.name for f in fields(kind)])}"


def public(module: object) -> list[str]:
    """Names that a module offers."""
    return [n for n in vars(module) if not n.startswith("_")]


def importable(folder: Path) -> None:
    """Let what lies in a folder be imported."""
    if (name := str(folder.resolve())) not in sys.path:
        sys.path.insert(0, name)

"""Everything dlc raises on purpose.

    DlcError
    ├── UserError          exit 2   something the user can mend
    │   ├── RecipeError             a declaration is wrong
    │   ├── RuleError               a rewrite of the user's own fails, or breaks a promise
    │   ├── ModelError              a model file cannot be read or is not valid
    │   ├── ExportError             a source cannot become an ONNX graph
    │   ├── DataError               feeds or targets do not fit the model
    │   ├── Unsupported             valid, but dlc does not do it
    │   └── ArtifactError           an artifact is missing, damaged or in the way
    ├── CapabilityError    exit 3   a provider, tool or package is missing here
    │   └── NotHere                 a cost that only another machine can measure
    └── PassError          exit 4   a bug of ours

Every message names the culprit and the way out. A failed gate (exit 1) and an inconclusive one (exit 5) are verdicts,
not errors.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import ClassVar


class DlcError(Exception):
    """Base of every error that dlc raises on purpose."""

    exit_code: ClassVar[int]


class UserError(DlcError):
    """Something the user can mend."""

    exit_code = 2


class RecipeError(UserError):
    """A declaration is wrong."""


class RuleError(UserError):
    """A rewrite of the user's own fails, or breaks a promise; ``place``: the node at which."""

    def __init__(self, culprit: str, problem: str, place: str = "") -> None:
        super().__init__(f"rewrite {culprit!r}{f' at {place}' if place else ''}: {problem}")
        self.culprit, self.problem = culprit, problem


class ModelError(UserError):
    """A model file cannot be read, or is not a valid model."""


class ExportError(UserError):
    """A source cannot become an ONNX graph."""


class DataError(UserError):
    """Feeds or targets do not fit the model."""


class Unsupported(UserError):  # noqa: N818 - reads as what it says: raise Unsupported("auto_pad")
    """Valid input that dlc does not handle."""


class ArtifactError(UserError):
    """An artifact is missing, damaged or in the way."""


class CapabilityError(DlcError):
    """A provider, tool or package is missing here; the message gives the command that adds it."""

    exit_code = 3


class NotHere(CapabilityError):  # noqa: N818 - reads as what it says
    """A cost is not known, and the target that could tell is another machine."""


class PassError(DlcError):
    """A pass broke a promise: a bug of ours."""

    exit_code = 4

    def __init__(self, culprit: str, problem: str) -> None:
        super().__init__(f"pass {culprit}: {problem}")
        self.culprit = culprit
        self.problem = problem


def raised_at(error: BaseException) -> str:
    """Return ``file:line: `` of the innermost frame that is a user's: not dlc's, onnx_ir's or the rewriter's."""
    modules = [sys.modules.get(name) for name in ("dlc", "dlc.passes", "onnx_ir", "onnxscript")]
    ours = tuple(str(Path(m.__file__).parent) for m in modules if m is not None and m.__file__)
    lines = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    return f"{Path(lines[-1].filename).name}:{lines[-1].lineno}: " if lines else ""

"""``dlc.toml``, or ``[tool.dlc]`` in ``pyproject.toml``: the models of a repository and how each is gated.

[gates]                                # of all models; a model's own come before them
max_slowdown = 1.05

[targets.server]
threads = 1                            # or file = "server.json", as dlc target profile writes it

[models.digits-cnn]
recipe = "digits-cnn"                  # whatever dlc compile takes; default: the model's name
baseline = "baselines/digits-cnn.json" # the default for the pytest plugin
variants = ["int8"]
target = "server"
dims = { batch = 16 }
gates = { retention = 0.99, max_latency_ratio = 0.6 }

Paths are relative to the file. Unknown keys are errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from dlc.errors import RecipeError
from dlc.recipe import PRECISIONS, check_stated, suggest

FILE = "dlc.toml"
PYPROJECT = "pyproject.toml"


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table."""


class GateTable(_Strict, frozen=True, kw_only=True):
    """Gates, as ``dlc.recipe.Gates`` and ``dlc.gate.limits.Limits`` name them; null where not stated."""

    retention: float | None = None
    max_drop: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    max_latency_ratio: float | None = None
    max_size_ratio: float | None = None
    slice_retention: float | None = None
    slice_drop: float | None = None
    max_slowdown: float | None = None
    max_growth: float | None = None
    max_memory_growth: float | None = None
    objective: Literal["latency", "throughput"] | None = None
    concurrency: int | None = None

    def stated(self) -> dict[str, Any]:
        """Return what the file states."""
        return {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}


class TargetTable(_Strict, frozen=True, kw_only=True):
    """Where a model runs: a target file, or the provider and threads of this machine."""

    file: str | None = None
    provider: Literal["cpu", "cuda"] | None = None
    threads: int | None = None


class ModelTable(_Strict, frozen=True, kw_only=True):
    """One model."""

    recipe: str | None = None
    baseline: str | None = None
    variants: tuple[str, ...] | None = None
    target: str | None = None
    dims: dict[str, int] = {}
    gates: GateTable = GateTable()


class Document(_Strict, frozen=True, kw_only=True):
    """The whole file."""

    models: dict[str, ModelTable] = {}
    targets: dict[str, TargetTable] = {}
    gates: GateTable = GateTable()


TABLES: dict[str, type[msgspec.Struct]] = {"models": ModelTable, "targets": TargetTable, "gates": GateTable}


@dataclass(frozen=True, slots=True)
class Config:
    """What a repository states; ``path`` is None where it states nothing."""

    path: Path | None = None
    document: Document = field(default_factory=Document)

    @property
    def root(self) -> Path:
        """Folder that paths are relative to."""
        return self.path.parent if self.path else Path()

    def model(self, name: str) -> ModelTable:
        """Return what is stated of one model, nothing if it is not there."""
        return self.document.models.get(name, ModelTable())

    def overlooks(self, name: str) -> str | None:
        """Say that the file states other models and not this one, where a name may be misspelt; None otherwise."""
        if not self.document.models or name in self.document.models:
            return None
        return f"{self.path} states nothing of model {name!r}{suggest(name, self.document.models)}"

    def target(self, name: str) -> TargetTable | None:
        """Return the target that a model names."""
        wanted = self.model(name).target
        return self.document.targets[wanted] if wanted is not None else None

    def at(self, path: str | None) -> Path | None:
        """Resolve a stated path."""
        return None if path is None else self.root / path


def find(explicit: Path | None = None, start: Path | None = None) -> Config:
    """Read the named file, else the nearest ``dlc.toml`` or ``pyproject.toml`` with ``[tool.dlc]``, upwards."""
    if explicit is not None:
        return read(explicit)
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return read(folder / FILE)
        if (folder / PYPROJECT).is_file() and _tool(_toml(folder / PYPROJECT)) is not None:
            return read(folder / PYPROJECT)
    return Config()


def read(path: Path) -> Config:
    """Read one file; RecipeError names the file and the key."""
    plain = _toml(path)
    if path.name == PYPROJECT:
        plain = _tool(plain) or {}
    try:
        document = msgspec.convert(plain, Document)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{path}: {_explain(str(error))}") from error
    for name, model in document.models.items():
        _check(path, name, model, document)
    for name, target in document.targets.items():
        if target.file is not None and (target.provider or target.threads):
            raise RecipeError(
                f"{path}: target {name!r}: the file states provider and threads: leave one of the two out"
            )
    _consistent(path, "gates", document.gates)
    return Config(path, document)


def _check(path: Path, name: str, model: ModelTable, document: Document) -> None:
    if unknown := [v for v in model.variants or () if v not in PRECISIONS]:
        raise RecipeError(f"{path}: model {name!r}: unknown variant {unknown[0]!r}{suggest(unknown[0], PRECISIONS)}")
    if model.variants == ():
        raise RecipeError(f"{path}: model {name!r}: variants is empty, so there is nothing to judge: leave it out")
    if model.target is not None and model.target not in document.targets:
        raise RecipeError(
            f"{path}: model {name!r}: no target is called {model.target!r}{suggest(model.target, document.targets)}"
        )
    _consistent(path, f"model {name!r}", model.gates)


def _consistent(path: Path, where: str, gates: GateTable) -> None:
    try:
        check_stated(gates)
    except RecipeError as error:
        raise RecipeError(f"{path}: {where}: {error}") from error


def _toml(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    return found


def _tool(plain: dict[str, Any]) -> dict[str, Any] | None:
    found = plain.get("tool", {}).get("dlc")
    return found if isinstance(found, dict) else None


def _explain(text: str) -> str:
    """Turn msgspec's words for an unknown key into ours."""
    match = re.search(r"unknown field `(.*?)`(?: - at `\$\.?(.*)`)?", text)
    if match is None:
        return text
    inside = "gates" if (match[2] or "").endswith("gates") else (match[2] or "").partition("[")[0]
    known = [f.name for f in msgspec.structs.fields(TABLES.get(inside, Document))]
    return f"unknown key {match[1]!r}{f' in {match[2]}' if match[2] else ''}{suggest(match[1], known)}"

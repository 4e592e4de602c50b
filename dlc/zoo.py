"""The models that ship: what each is, and whether it can be compiled here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from dlc.errors import DlcError
from dlc.lookup import load
from dlc.models import ZOO


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the zoo. ``missing`` says what it still needs here, empty if nothing."""

    name: str
    about: str
    metric: str
    notes: tuple[str, ...]
    missing: str


def entries() -> list[Entry]:
    """Describe every model of the zoo."""
    return [_entry(name, path) for name, path in ZOO.items()]


def _entry(name: str, path: str) -> Entry:
    module, _, _ = path.partition(":")
    about = (import_module(module).__doc__ or "").strip().splitlines()[0].removeprefix(f"{name}: ")
    try:
        recipe = load(path)()
    except DlcError as error:
        return Entry(name, about, "", (), str(error))
    metric = recipe.metric.name if recipe.metric and recipe.evaluation else "agreement only"
    return Entry(name, about, metric, tuple(recipe.notes), "")

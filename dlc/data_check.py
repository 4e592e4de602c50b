"""``dlc data check``: a recipe's data against its contract and each other, new data against what calibrated a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from dlc import data, drift, observed
from dlc.artifact import MANIFEST, MODEL, Artifact
from dlc.contract import DataContract, kept
from dlc.drift import Counter, Moved, Spread
from dlc.errors import DataError, RecipeError, UserError
from dlc.histogram import Histogram, extremes_of
from dlc.interface import Interface, TensorType
from dlc.observe import observe
from dlc.recipe import Dataset, Recipe
from dlc.sources import onnx_files
from dlc.sources.recipe_files import load_recipe
from dlc.sources.recipe_toml import read_arrays
from dlc.stages.calibrating import FEW
from dlc.types import Array, Feeds
from dlc.versions import TABLE

BATCH = 32


@dataclass(frozen=True, slots=True)
class Found:
    """One data set of a recipe as it is."""

    role: str
    name: str
    examples: int
    sha256: str
    contract: str | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found. ``against``: the data that the new data, ``examples`` of them, is held against."""

    data: tuple[Found, ...] = ()
    leaked: int = 0
    near_duplicates: int = 0
    against: str | None = None
    examples: int = 0
    psi: float = 0.0
    ks: float = 0.0
    moved: tuple[Moved, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing drifted, and nothing is in both data sets."""
        return not self.leaked and not any(m.drifted for m in self.moved)


def check(
    subject: str, overrides: Path | None, new: str | None, *, psi: float | None = None, ks: float | None = None
) -> Checked:  # fmt: skip
    """Check what ``subject`` names, an artifact or a recipe; limits not given are those that it states.

    DataError if data breaks its contract, or does not fit the model.
    """
    log = new is not None and observed.is_log(Path(new))
    if (Path(subject) / MANIFEST).is_file():
        if new is None:
            raise UserError(f"{subject} is an artifact: name the data to hold against it, --data new.npz")
        if overrides is not None:
            raise UserError("-r says nothing about an artifact, whose data is on record; leave it out")
        against = _log_against_artifact if log else _against_artifact
        return against(Path(subject), new, psi, ks)
    if log:
        raise UserError(f"--data {new} is what a packaged runner observed: hold it against the artifact of the package")
    recipe = load_recipe(subject, overrides)
    found = _recipe_data(recipe)
    return found if new is None else _against_recipe(found, recipe, new, psi, ks)


def _against_artifact(path: Path, new: str, psi: float | None, ks: float | None) -> Checked:
    Artifact.load(path)
    before = drift.read(path)
    psi, ks = _limits(psi, before.psi), _limits(ks, before.ks)
    model = ir.load(path / before.variant / MODEL)
    interface = Interface.of(model)
    given, ignored = _new_data(new, interface, None)
    examples = len(data.inspect(given, interface).hashes)
    counters = {name: partial(_counter, each) for name, each in before.values.items()}
    seen = observe(model, given.batches, counters)
    rows = _rows(before.values, {name: each.counts for name, [each] in seen.of.items()}, psi, ks)
    return Checked((), 0, 0, before.data, examples, psi, ks, rows, (*ignored, *_few(examples)))


def _log_against_artifact(path: Path, new: str, psi: float | None, ks: float | None) -> Checked:
    """Hold what a packaged runner observed against the statistics that the package was given."""
    artifact, before = Artifact.load(path), drift.read(path)
    log = observed.read(Path(new), artifact, before)
    psi, ks = _limits(psi, before.psi), _limits(ks, before.ks)
    counts = {name: np.array(each.counts) for name, each in log.values.items()}
    rows = _rows(before.values, counts, psi, ks)
    notes = (*observed.notes(log, before), *_few(log.examples))
    return Checked((), 0, 0, before.data, log.examples, psi, ks, rows, notes)


def _against_recipe(found: Checked, recipe: Recipe, new: str, psi: float | None, ks: float | None) -> Checked:
    """Hold the inputs against the recipe's calibration data; without a compile there are no activations."""
    if (calibration := recipe.calibration) is None:
        raise RecipeError(f"recipe {recipe.name} has no calibration data that new data could be held against")
    interface = _interface(recipe, calibration)
    given, ignored = _new_data(new, interface, calibration.contract)
    examples = len(data.inspect(given, interface).hashes)
    spreads = {name: drift.spread(each, "input") for name, each in _histograms(calibration).items()}
    counters = {name: Counter(each.edges) for name, each in spreads.items()}
    for feeds in given.batches():
        for name, counter in counters.items():
            counter.add(np.asarray(feeds[name]))
    psi, ks = _limits(psi, recipe.drift.psi), _limits(ks, recipe.drift.ks)
    rows = _rows(spreads, {name: each.counts for name, each in counters.items()}, psi, ks)
    return replace(
        found, against=calibration.name, examples=examples, psi=psi, ks=ks, moved=rows,
        notes=(*found.notes, *ignored, *_few(examples)),
    )  # fmt: skip


def _recipe_data(recipe: Recipe) -> Checked:
    sets = [(role, each) for role in ("calibration", "evaluation") if (each := getattr(recipe, role)) is not None]
    if not sets:
        raise RecipeError(f"recipe {recipe.name} has no data: give it calibration or evaluation")
    interface = _interface(recipe, sets[0][1])
    seen = {role: data.inspect(each, interface, recipe.state if role == "evaluation" else None) for role, each in sets}
    found = tuple(
        Found(role, each.name, seen[role].examples, seen[role].sha256, str(each.contract) if each.contract else None)
        for role, each in sets
    )
    both = data.leaked(seen["calibration"], seen["evaluation"]) if len(seen) == 2 else 0
    nearly = data.nearly_leaked(seen["calibration"], seen["evaluation"]) if len(seen) == 2 else 0
    return Checked(found, both, nearly, notes=(data.NEARLY.format(nearly),) if nearly else ())


def _interface(recipe: Recipe, dataset: Dataset) -> Interface:
    """Return what the source takes: of an ONNX file as it states, else as declared, else as the data has it."""
    if isinstance(recipe.source, Path) and recipe.source.suffix == ".onnx":
        return Interface.of(onnx_files.read(recipe.source, max(TABLE.values())[0]))
    declared = tuple(TensorType(name, each.dtype, each.shape) for name, each in recipe.inputs.items())
    if not declared:
        feeds = next(iter(dataset.batches()), {})
        declared = tuple(TensorType(n, str(np.asarray(a).dtype), None) for n, a in feeds.items())
    return Interface(declared, ())


def _new_data(new: str, interface: Interface, contract: DataContract | None) -> tuple[Dataset, list[str]]:
    """Read an ``.npz`` file, of which what is no input is left out with a note; or the evaluation data of a recipe.

    ``contract``: of other data, of which the inputs of this must keep what it promises of a value.
    """
    promised = (
        None if contract is None else msgspec.structs.replace(contract, sha256=None, min_examples=1, targets=None)
    )
    if not new.endswith(".npz"):
        if (evaluation := load_recipe(new).evaluation) is None:
            raise RecipeError(f"--data {new}: this recipe has no evaluation data")
        if promised is None:
            return evaluation, []
        return replace(evaluation, batches=kept(promised, evaluation.name, evaluation.batches)), []
    file = Path(new)
    arrays = read_arrays(file)
    inputs = {t.name for t in interface.inputs}
    ignored = [
        f"{file.name}: {name!r} is no input of the model, and was not looked at" for name in arrays.keys() - inputs
    ]
    feeds = {name: array for name, array in arrays.items() if name in inputs}
    if not feeds:
        raise DataError(f"{file} has none of the model's inputs, {', '.join(sorted(inputs))}")

    def batches() -> Iterator[Feeds]:
        for start in range(0, len(next(iter(feeds.values()))), BATCH):
            yield {name: array[start : start + BATCH] for name, array in feeds.items()}

    return Dataset(file.name, batches, contract=promised), sorted(ignored)


def _histograms(dataset: Dataset) -> dict[str, Histogram]:
    seen: dict[str, Histogram] = {}
    for feeds in dataset.batches():
        for name, given in feeds.items():
            array = np.asarray(given)
            if array.size and array.dtype.kind in "fiub":
                seen.setdefault(name, Histogram()).add(array, extremes_of(array))
    return seen


def _rows(values: Mapping[str, Spread], counts: Mapping[str, Array], psi: float, ks: float) -> tuple[Moved, ...]:
    seen = {n: each for n, each in values.items() if n in counts and counts[n].sum()}
    return tuple(drift.moved(n, each, counts[n], psi=psi, ks=ks) for n, each in seen.items())


def _counter(of: Spread) -> list[Counter]:
    return [Counter(of.edges)]


def _few(examples: int) -> list[str]:
    return [f"only {examples} new examples: chance alone may move them; give {FEW} or more"] if examples < FEW else []


def _limits(given: float | None, stated: float) -> float:
    return stated if given is None else given

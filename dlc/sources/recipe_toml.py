"""Recipes in TOML: everything that needs no code. Unknown keys are errors.

name = "scans"                 # default: the model's name
source = "model.onnx"          # or .pt2, or package.module:factory; relative to this file
outputs = ["scores"]
variants = ["fp32", "int8"]
int8 = "auto"                  # or "weights": activations stay FP32; or a table of options, form among them
int4 = { block_size = 64, exclude = ["Gather", "/head/*"] }            # so fp16, bf16, see docs/quantization.md
metric = "top1"                # of dlc.harness.accuracy.METRICS, or a function of yours: "my_metrics.py:close"
dims.batch = { min = 1, max = 64, typical = 8 }
inputs.image = { dtype = "float32", shape = ["batch", 1, 8, 8], low = 0.0, high = 1.0 }
calibration = { file = "calibration.npz", contract = { id = "scans", version = "2" } }   # see docs/data.md
evaluation = { file = "evaluation.npz", targets = "labels", batch = 64, slices = ["site"] }
gates = { retention = 0.99 }
calibrate = { method = "entropy", max_ram = "2GiB" }                  # see docs/quantization.md
mixed = { keep = 0.999, evaluations = 40, time_budget = "10min" }      # or within_ms = 3.0, or within_size = "8MB"
drift = { psi = 0.25, ks = 0.2, activations = ["hidden"] }              # see docs/data.md
rewrites = ["my_rules.py:rule"]                       # or package.module:rule; relative to this file
expect_fusions = { attention = 6 }                    # places at which a rewrite must fit
invariants = ["some-key-visible"]                                     # what holds for every input, see docs/recipes.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dlc.calibration import Calibration, byte_size
from dlc.contract import DataContract, Field, Labels
from dlc.drift import Drift
from dlc.errors import DataError, RecipeError
from dlc.passes.naming import resolve
from dlc.passes.user_rewrite import adopt
from dlc.quantization import OPTIONS, Bf16, Form, Fp16, Int4, Int8
from dlc.recipe import Dataset, Dim, Gates, Input, Precision, Recipe, check_stated, suggest
from dlc.sources.mixing_options import Stated, applied
from dlc.sources.user_code import look_up
from dlc.types import Array, Feeds


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table."""


class _Dim(_Strict, frozen=True, kw_only=True):
    min: int = 1
    max: int = 64
    typical: int = 0


class _Input(_Strict, frozen=True, kw_only=True):
    dtype: str
    shape: tuple[int | str, ...]
    low: float | None = None
    high: float | None = None


class _Data(_Strict, frozen=True, kw_only=True):
    file: str
    targets: str | None = None
    batch: int = 32
    name: str = ""
    slices: tuple[str, ...] = ()
    contract: DataContract | None = None


class _Gates(_Strict, frozen=True, kw_only=True):
    retention: float | None = None
    cosine: float = Gates().cosine
    max_drop: float | None = None
    agreement: float | None = None
    max_latency_ratio: float | None = None
    max_size_ratio: float | None = None
    slice_retention: float | None = None
    slice_drop: float | None = None


class _Calibrate(_Strict, frozen=True, kw_only=True):
    method: str | None = None
    percentile: float | None = None
    momentum: float | None = None
    max_ram: int | str | None = None


class Document(_Strict, frozen=True, kw_only=True):
    """A whole file; a key that is left out keeps what the source says."""

    name: str | None = None
    source: str | None = None
    outputs: tuple[str, ...] | None = None
    variants: tuple[Precision, ...] | None = None
    fp16: Fp16 | None = None
    bf16: Bf16 | None = None
    int8: Form | Int8 | None = None
    int4: Int4 | None = None
    metric: str | None = None
    dims: dict[str, _Dim] = {}
    inputs: dict[str, _Input] = {}
    calibration: _Data | None = None
    evaluation: _Data | None = None
    gates: _Gates | None = None
    calibrate: _Calibrate | None = None
    mixed: Stated | None = None
    drift: Drift | None = None
    rewrites: tuple[str, ...] = ()
    expect_fusions: dict[str, int] = {}
    notes: tuple[str, ...] | None = None
    invariants: tuple[str, ...] | None = None


TABLES: dict[str, type[msgspec.Struct]] = {
    "dims": _Dim, "inputs": _Input, "calibration": _Data, "evaluation": _Data, "gates": _Gates,
    "calibrate": _Calibrate, **OPTIONS,
    "mixed": Stated, "drift": Drift,
    "contract": DataContract, "contract.inputs": Field, "contract.targets": Labels,
}  # fmt: skip


def read(path: Path) -> Document:
    """Read a TOML recipe; RecipeError names the file and the key."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Document, strict=True)
    except OSError as error:
        raise RecipeError(f"recipe {path}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise RecipeError(f"recipe {path}: {_explain(str(error))}") from error
    except RecipeError as error:
        raise RecipeError(f"recipe {path}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is not TOML: {error}") from error


def apply(document: Document, recipe: Recipe, path: Path) -> Recipe:
    """Put what a document declares in the place of what the recipe does."""
    given: dict[str, Any] = {
        key: value
        for key in ("name", "outputs", "variants", *OPTIONS, "notes", "invariants")
        if (value := getattr(document, key)) is not None
    }
    if document.dims:
        given["dims"] = {**recipe.dims, **{k: Dim(d.min, d.max, d.typical) for k, d in document.dims.items()}}
    if document.inputs:
        read_inputs = {k: Input(i.dtype, i.shape, i.low, i.high) for k, i in document.inputs.items()}
        given["inputs"] = {**recipe.inputs, **read_inputs}
    try:
        given |= _judging(document, path)
        given |= _calibration(document.calibrate, recipe.calibrate)
        if document.mixed is not None:
            given["mixed"] = applied(document.mixed, recipe.mixed)
        if document.drift is not None:
            given["drift"] = document.drift
        if document.rewrites:
            given["rewrites"] = (*recipe.rewrites, *(look_up(name, path.parent) for name in document.rewrites))
        if document.expect_fusions:
            given["expect_fusions"] = _fusions(document, given.get("rewrites", recipe.rewrites), recipe)
        return replace(recipe, **given)
    except RecipeError as error:
        raise RecipeError(f"recipe {path}: {error}") from error


def _judging(document: Document, path: Path) -> dict[str, Any]:
    """Return the metric, the gates and the data, where they are declared."""
    given: dict[str, Any] = {}
    if document.metric is not None:
        given["metric"] = _metric(document.metric, path)
    if document.gates is not None:
        check_stated(document.gates)
        stated = {name: gate for name, gate in msgspec.structs.asdict(document.gates).items() if gate is not None}
        given["gates"] = Gates(**stated)
    for role in ("calibration", "evaluation"):
        if (data := getattr(document, role)) is not None:
            given[role] = _dataset(data, path)
    return given


def _fusions(document: Document, rewrites: Any, recipe: Recipe) -> dict[str, int]:
    own = [each.name for each in adopt(rewrites)]
    stated = {resolve(word, own): places for word, places in document.expect_fusions.items()}
    return {**recipe.expect_fusions, **stated}


def _metric(name: str, path: Path) -> Any:
    from dlc.harness.accuracy import as_metric

    return as_metric(look_up(name, path.parent) if ":" in name else name)


def _calibration(stated: _Calibrate | None, before: Calibration) -> dict[str, Calibration]:
    if stated is None:
        return {}
    given: dict[str, Any] = {k: v for k, v in msgspec.structs.asdict(stated).items() if v is not None}
    if isinstance(given.get("max_ram"), str):
        given["max_ram"] = byte_size(given["max_ram"])
    return {"calibrate": replace(before, **given)}


def _dataset(data: _Data, path: Path) -> Dataset:
    file = path.parent / data.file
    if data.batch < 1:
        raise RecipeError(f"batch={data.batch}; a batch needs at least one example")
    arrays = read_arrays(file)  # once now, so that a wrong file is said before an hour of work
    apart = (*data.slices, *([] if data.targets is None else [data.targets]))  # what is not fed
    if absent := [name for name in apart if name not in arrays]:
        raise RecipeError(f"{data.file} has no array {absent[0]!r}{suggest(absent[0], arrays)}")

    def batches() -> Iterator[Feeds]:
        feeds = {k: v for k, v in read_arrays(file).items() if k not in apart}
        count = len(next(iter(feeds.values()))) if feeds else 0
        for start in range(0, count, data.batch):
            yield {k: v[start : start + data.batch] for k, v in feeds.items()}

    def targets() -> Array:
        return read_arrays(file)[str(data.targets)]

    slices = {name: (lambda name=name: read_arrays(file)[name]) for name in data.slices}
    return Dataset(
        data.name or file.stem, batches, targets if data.targets else None, file.name, slices,
        data.contract,
    )  # fmt: skip


def read_arrays(file: Path) -> dict[str, Array]:
    """Read an ``.npz`` file, one row per example in each array; DataError if it is something else."""
    try:
        loaded, arrays = np.load(file, allow_pickle=False), dict[str, Array]()
        if not isinstance(loaded, np.ndarray):  # an .npy file holds one, without a name
            with loaded as archive:
                arrays = {str(k): archive[k] for k in archive}
    except (OSError, ValueError) as error:
        raise DataError(f"data file {file}: {getattr(error, 'strerror', None) or 'not an .npz file'}") from error
    except Exception as error:
        raise DataError(f"data file {file} is not an .npz file of plain arrays: {error}") from error
    if not arrays:
        raise DataError(f"data file {file} is not an .npz file with arrays; write it with numpy.savez")
    lengths = {k: len(v) if v.ndim else -1 for k, v in arrays.items()}
    if len(set(lengths.values())) > 1 or -1 in lengths.values():
        shown = ", ".join(f"{k}: {list(arrays[k].shape)}" for k in arrays)
        raise DataError(f"data file {file}: arrays need one row per example, all the same number; found {shown}")
    return arrays


def _explain(text: str) -> str:
    """Turn msgspec's words for an unknown key into ours."""
    if (match := re.search(r"unknown field `(.*?)`(?: - at `\$\.([\w.]+))?", text)) is None:
        return text
    table = re.sub(r"^\w+\.(?=contract)", "", match[2] or "")  # that of calibration and evaluation is the same
    known = [f.name for f in msgspec.structs.fields(TABLES.get(table, Document))]
    where = f" in {match[2]}" if match[2] else ""
    return f"unknown key {match[1]!r}{where}{suggest(match[1], known)}"

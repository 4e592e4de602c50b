"""A trained model to an FP32 ONNX graph, checked against what it came from at more than one shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from dlc.errors import ExportError, RecipeError
from dlc.feeds import Declared, seeded_feeds
from dlc.interface import Interface
from dlc.passes.base import weight_bytes
from dlc.passes.canonicalize import Canonicalize, free_name
from dlc.recipe import Dim, Input, Recipe, suggest
from dlc.runtimes.session import INLINE_LIMIT
from dlc.sources import onnx_files, opsets, parity

if TYPE_CHECKING:
    import torch

    from dlc.sources.torch_export import Traced

__all__ = ["Exported", "export", "seeded_feeds"]

Kind = Literal["module", "pt2", "onnx"]


@dataclass(frozen=True, slots=True)
class Exported:
    """An FP32 graph and where it came from.

    ``parity``: how closely it follows its source, in words. ``eager``: the module, where there is one.
    ``inputs`` and ``dims``: what the recipe declares, completed by what the source says.
    """

    model: ir.Model
    kind: Kind
    sha256: str
    eager: torch.nn.Module | None
    parity: str
    inputs: Mapping[str, Input]
    dims: Mapping[str, Dim]
    notes: tuple[str, ...] = ()


def export(recipe: Recipe, *, opset: int, ir_version: int, seed: int = 0) -> Exported:
    """Export a recipe's source for a target that accepts at most this opset and IR version."""
    rng = np.random.default_rng(seed)
    if isinstance(recipe.source, Path) and recipe.source.suffix != ".pt2":
        return _from_onnx(recipe, recipe.source, opset, ir_version, rng)
    if isinstance(recipe.source, Path):
        from dlc.sources.pt2 import from_pt2

        return _from_torch(from_pt2(recipe, recipe.source, opset), "pt2", opset, ir_version, rng)
    from dlc.sources.torch_export import from_module

    return _from_torch(from_module(recipe, opset, rng), "module", opset, ir_version, rng)


def _from_torch(traced: Traced, kind: Kind, opset: int, ir_version: int, rng: np.random.Generator) -> Exported:
    model = traced.model
    _separate_outputs(model)
    declared = traced.declared
    _name_values(model.graph, list(declared.inputs), list(traced.outputs))
    _name_dims(model, declared)
    Canonicalize()(model)
    notes = traced.notes + opsets.fit(model, opset, ir_version)
    words = parity.with_module(model, traced.eager, declared, rng)
    return Exported(model, kind, traced.sha256, traced.eager, words, declared.inputs, declared.dims, notes)


def _from_onnx(recipe: Recipe, path: Path, opset: int, ir_version: int, rng: np.random.Generator) -> Exported:
    model = onnx_files.read(path, opset)
    sha256 = onnx_files.digest([path, *onnx_files.data_files(path, model)])
    if weight_bytes(model) <= INLINE_LIMIT:
        ir.external_data.load_to_model(model)
    defaults = [v for v in model.graph.inputs if v.name in model.graph.initializers]
    common.RemoveInitializersFromInputsPass()(model)
    changed = bool(common.InlinePass()(model).modified)
    _declare(model, recipe)
    declared = _declared(model, recipe)
    notes = opsets.fit(model, opset, ir_version)
    compare = parity.with_file if changed or notes else parity.run_file
    words = compare(model, path, declared, rng)
    if defaults:
        notes += (f"{len(defaults)} weights could be overridden as inputs of the file; they are constants now",)
    return Exported(model, "onnx", sha256, None, words, declared.inputs, declared.dims, notes)


def _separate_outputs(model: ir.Model) -> None:
    """Give every output a value of its own: a module may return its input, or one tensor twice."""
    graph, seen = model.graph, set[ir.Value]()
    for i, value in enumerate(graph.outputs):
        if value in seen or value.producer() is None:
            node = ir.node("Identity", [value], name=f"output_{i}_identity")
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            graph.outputs[i] = node.outputs[0]
        seen.add(graph.outputs[i])


def _name_values(graph: ir.Graph, inputs: list[str], outputs: list[str]) -> None:
    """Name inputs and outputs; an internal value that has the name already is the one that is renamed."""
    names = [*inputs, *outputs]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ExportError(f"two inputs or outputs are named {twice[0]!r}; name the outputs in the recipe")
    for value, name in zip([*graph.inputs, *graph.outputs], names, strict=True):
        if value.name != name:
            free_name(graph, name)
            value.name = name


def _name_dims(model: ir.Model, declared: Declared) -> None:
    """Give dynamic dims their declared names, wherever the graph mentions them."""
    renamed: dict[str, str] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        extents: list[int | str] = []
        for axis, (found, wanted) in enumerate(zip(value.shape, declared.inputs[value.name or ""].shape, strict=True)):
            if isinstance(wanted, str) and isinstance(found, ir.SymbolicDim) and found.value:
                renamed[found.value] = wanted
            elif (
                isinstance(wanted, str)
                and isinstance(found, int)
                and declared.dims[wanted].min < declared.dims[wanted].max
            ):
                raise ExportError(
                    f"dimension {wanted!r} became the constant {found} at axis {axis} of input {value.name!r}: "
                    f"the module's code fixes it; let it take other sizes, or declare the size"
                )
            extents.append(found if isinstance(found, int) else wanted)
        value.shape = ir.Shape(extents)
    rename_dims(model, renamed)


def rename_dims(model: ir.Model, names: Mapping[str, str]) -> None:
    """Rename symbols in every shape of a model, also inside expressions like ``2*s0``."""
    if not (names := {a: b for a, b in names.items() if a != b}):
        return
    pattern = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})(?![\w.])")
    for value in _values(model):
        if value.shape is not None and any(isinstance(d, ir.SymbolicDim) and d.value for d in value.shape):
            value.shape = ir.Shape([
                pattern.sub(lambda m: names[m[1]], d.value) if isinstance(d, ir.SymbolicDim) and d.value else d
                for d in value.shape
            ])  # fmt: skip


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        for node in graph:
            yield from node.outputs


def _declare(model: ir.Model, recipe: Recipe) -> None:
    """Write the recipe's shapes into a file's inputs, and name what has no name."""
    required = {t.name for t in Interface.of(model).inputs}
    symbols = _Symbols(
        {d.value for v in model.graph.inputs for d in v.shape or () if isinstance(d, ir.SymbolicDim)}, {}
    )
    if unknown := [n for n in recipe.inputs if n not in required]:
        raise RecipeError(f"the model has no input {unknown[0]!r}{suggest(unknown[0], sorted(required))}")
    for value in model.graph.inputs:
        spec = recipe.inputs.get(value.name or "")
        if value.shape is None and spec is not None:
            value.shape = ir.Shape(list(spec.shape))
        if value.shape is None or value.name not in required:
            continue
        if spec is not None and len(spec.shape) != len(value.shape):
            raise RecipeError(f"input {value.name!r} has {len(value.shape)} dimensions, the recipe {len(spec.shape)}")
        extents = [
            symbols.extent(value.name, axis, d, spec.shape[axis] if spec else None)
            for axis, d in enumerate(value.shape)
        ]
        value.shape = ir.Shape(extents)
    rename_dims(model, symbols.renamed)


@dataclass(frozen=True, slots=True)
class _Symbols:
    """Names of dynamic dims in a file, and those that the recipe renames."""

    taken: set[str | None]
    renamed: dict[str, str]

    def extent(self, name: str, axis: int, found: int | ir.SymbolicDim, wanted: int | str | None) -> int | str:
        """Settle one axis of an input between what the file says and what the recipe wants."""
        if isinstance(found, int):
            if wanted not in (None, found):
                raise ExportError(
                    f"axis {axis} of input {name!r} is fixed at {found} in the file, the recipe says {wanted!r}: "
                    f"export the file with a dynamic axis {axis}, or declare the size {found}"
                )
            return found
        if found.value is not None:
            if isinstance(wanted, str):
                self.renamed[found.value] = wanted
            return found.value if wanted is None else wanted
        if wanted is None:
            wanted = f"{name}_{axis}"
            while wanted in self.taken:
                wanted += "_"
        self.taken.add(str(wanted))
        return wanted


def _declared(model: ir.Model, recipe: Recipe) -> Declared:
    """Inputs and dims of a file, under the recipe's bounds where it declares them."""
    inputs: dict[str, Input] = {}
    dims: dict[str, Dim] = {}
    for tensor in Interface.of(model).inputs:
        if tensor.shape is None:
            raise ExportError(f"input {tensor.name!r} has no rank; declare its shape in the recipe's inputs")
        spec = recipe.inputs.get(tensor.name)
        shape = tuple(d if d is not None else 1 for d in tensor.shape)
        inputs[tensor.name] = Input(tensor.dtype, shape, *((spec.low, spec.high) if spec else ()))
        dims |= {d: recipe.dims.get(d, Dim()) for d in shape if isinstance(d, str)}
    if unknown := [d for d in recipe.dims if d not in dims]:
        raise RecipeError(f"the model has no dimension {unknown[0]!r}{suggest(unknown[0], dims)}")
    return Declared(inputs, dims)

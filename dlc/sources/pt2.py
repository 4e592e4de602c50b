"""Programs saved by ``torch.export.save``: names, dims and bounds come from the program."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlc.errors import ExportError, ModelError, RecipeError, Unsupported
from dlc.feeds import Declared, input_like
from dlc.recipe import Dim, Input, Recipe, suggest
from dlc.runtimes.eager import import_torch
from dlc.sources.onnx_files import check_file
from dlc.sources.torch_export import Traced, first_line, output_names, quiet, to_onnx

if TYPE_CHECKING:
    import torch


def from_pt2(recipe: Recipe, path: Path, opset: int) -> Traced:
    """Load an exported program; names, dims and bounds come from it where the recipe does not declare them."""
    import_torch()
    import torch

    check_file(path)
    try:
        with quiet():
            program = torch.export.load(path)
    except Exception as error:
        raise ModelError(f"{path} is not a program saved by torch.export.save: {first_line(error)}") from error
    declared = _declared_by(program, recipe)
    model = to_onnx(program, opset)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Traced(model, _callable(program), declared, output_names(program, recipe.outputs), digest)


def _callable(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """Return the program as a module that takes its inputs by position."""
    import torch
    from torch.utils import _pytree as pytree

    class Program(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = program.module()

        def forward(self, *inputs: torch.Tensor) -> object:
            args, kwargs = pytree.tree_unflatten(inputs, program.call_spec.in_spec)
            return self.body(*args, **kwargs)

    return Program()


def _declared_by(program: torch.export.ExportedProgram, recipe: Recipe) -> Declared:
    """Inputs and dims of a saved program, under the recipe's names and bounds where it declares them."""
    import torch

    values = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"}
    users = [n for n in program.graph_signature.user_inputs if isinstance(n, str)]
    names = list(recipe.inputs) or users
    if len(names) != len(users):
        raise RecipeError(f"the recipe declares {len(names)} inputs, the program has {len(users)}: {', '.join(users)}")
    ranges = {str(k): v for k, v in program.range_constraints.items()}
    examples = _examples(program, names)
    inputs: dict[str, Input] = {}
    dims: dict[str, Dim] = {}
    symbols: dict[str, str] = {}
    for name, user in zip(names, users, strict=True):
        value = values[user]
        if not isinstance(value, torch.Tensor):
            raise Unsupported(f"input {name!r} of the program is {type(value).__name__}, not a tensor")
        spec = recipe.inputs.get(name)
        shape = _merge_shape(name, value.shape, spec, symbols)
        for extent, size in zip(shape, value.shape, strict=True):
            if isinstance(extent, str) and extent not in dims:
                dims[extent] = _bounds(extent, ranges.get(str(size)), recipe)
        like = examples.get(name)
        low, high = (spec.low, spec.high) if spec else (like.low, like.high) if like else (None, None)
        inputs[name] = Input(str(value.dtype).removeprefix("torch."), shape, low, high)
    if unknown := [d for d in recipe.dims if d not in dims]:
        raise RecipeError(f"the program has no dimension {unknown[0]!r}{suggest(unknown[0], dims)}")
    return Declared(inputs, dims)


def _merge_shape(name: str, sizes: Sequence[Any], spec: Input | None, symbols: dict[str, str]) -> tuple[int | str, ...]:
    if spec is not None and len(spec.shape) != len(sizes):
        raise RecipeError(f"input {name!r}: the recipe gives {len(spec.shape)} dimensions, the program {len(sizes)}")
    shape: list[int | str] = []
    for axis, size in enumerate(sizes):
        wanted = spec.shape[axis] if spec else None
        if isinstance(size, int):
            if isinstance(wanted, str):
                raise ExportError(
                    f"dimension {wanted!r} of input {name!r} is fixed at {size} in the program: export it again with "
                    f"a dynamic axis {axis}, or declare the size {size}"
                )
            shape.append(size)
        else:
            shape.append(symbols.setdefault(str(size), wanted if isinstance(wanted, str) else f"{name}_{axis}"))
    return tuple(shape)


def _bounds(name: str, found: Any, recipe: Recipe) -> Dim:
    """Bounds of the program, within those of the recipe; an unbounded one gets the default."""
    declared = recipe.dims.get(name, Dim())
    low = max(declared.min, int(found.lower)) if found is not None and found.lower.is_Integer else declared.min
    high = min(declared.max, int(found.upper)) if found is not None and found.upper.is_Integer else declared.max
    if low > high:
        raise ExportError(f"dimension {name!r}: the program allows {found.lower}..{found.upper} only")
    return Dim(low, high, declared.typical if name in recipe.dims and low <= declared.typical <= high else 0)


def _examples(program: torch.export.ExportedProgram, names: Sequence[str]) -> dict[str, Input]:
    import torch

    if program.example_inputs is None:
        return {}
    args, kwargs = program.example_inputs
    tensors = [*args, *kwargs.values()]
    if len(tensors) != len(names) or not all(isinstance(t, torch.Tensor) for t in tensors):
        return {}
    return {n: input_like(t.numpy()) for n, t in zip(names, tensors, strict=True)}

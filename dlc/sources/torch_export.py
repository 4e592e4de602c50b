"""PyTorch to ONNX: ``nn.Module`` and ``.pt2`` through ``torch.export`` and ``torch.onnx``."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from dlc.errors import DlcError, ExportError, RecipeError
from dlc.feeds import Declared, distinct_sizes, seeded_feeds
from dlc.interface import Interface, TensorType
from dlc.recipe import Dim, Recipe
from dlc.runtimes.eager import EagerRunner, import_torch, takes_keywords
from dlc.sources.torch_errors import explain
from dlc.types import Feeds
from dlc.versions import EXPORT_OPSET

if TYPE_CHECKING:
    import torch

TORCH_OPSETS = (18, 23)
"""Opsets that torch.onnx can write."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A module's ONNX graph as exported, names not yet settled, and the module to compare it with."""

    model: ir.Model
    eager: torch.nn.Module
    declared: Declared
    outputs: tuple[str, ...]
    sha256: str
    notes: tuple[str, ...] = ()


def from_module(recipe: Recipe, opset: int, rng: np.random.Generator) -> Traced:
    """Call the recipe's factory and export the module it returns, in eval mode."""
    import_torch()
    import torch

    assert not isinstance(recipe.source, Path)
    module = recipe.source()
    if not isinstance(module, torch.nn.Module):
        raise RecipeError(f"the source of {recipe.name!r} returned {type(module).__name__}, not a torch.nn.Module")
    if not recipe.inputs:
        raise RecipeError(
            f"{recipe.name!r}: a module needs inputs, for example inputs={{'x': Input('float32', (1, 8))}}"
        )
    notes = _to_eval(module)
    feeds, dynamic = _example(recipe, rng)
    program = _trace(module, recipe, feeds, dynamic)
    model = to_onnx(program, opset)
    seen = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            seen.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
            seen.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    seen.update(_graph_text(model).encode())
    outputs = output_names(program, recipe.outputs)
    return Traced(model, module, Declared(recipe.inputs, recipe.dims), outputs, seen.hexdigest(), notes)


def _to_eval(module: torch.nn.Module) -> tuple[str, ...]:
    import torch

    nn = torch.nn.modules
    sensitive = (nn.dropout._DropoutNd, nn.batchnorm._NormBase, nn.RReLU)  # noqa: SLF001 - the only common bases
    training = sorted({type(m).__name__ for m in module.modules() if m.training and isinstance(m, sensitive)})
    module.eval()
    if not training:
        return ()
    return (f"the module was in training mode ({', '.join(training)}); it was switched to eval mode",)


def _example(recipe: Recipe, rng: np.random.Generator) -> tuple[Feeds, dict[str, Dim]]:
    """Feeds to trace with, and the dims that stay dynamic: one that can take a single size is fixed."""
    used = {d for spec in recipe.inputs.values() for d in spec.shape if isinstance(d, str)}
    fixed = {d for spec in recipe.inputs.values() for d in spec.shape if isinstance(d, int)}
    dynamic = {n: d for n, d in recipe.dims.items() if n in used and d.min < d.max}
    if bad := [n for n in dynamic if not n.isidentifier()]:
        raise ExportError(f"dimension {bad[0]!r}: torch needs a name of letters, digits and '_'")
    declared = Interface(tuple(TensorType(n, s.dtype, s.shape) for n, s in recipe.inputs.items()), ())
    sizes = {n: d.min for n, d in recipe.dims.items()} | distinct_sizes(dynamic, fixed)
    return seeded_feeds(declared, recipe.inputs, sizes, rng), dynamic


def _trace(
    module: torch.nn.Module, recipe: Recipe, feeds: Feeds, dynamic: Mapping[str, Dim]
) -> torch.export.ExportedProgram:
    import torch

    symbols = {n: torch.export.Dim(n, min=d.min, max=d.max) for n, d in dynamic.items()}
    shapes = {
        name: {i: symbols[d] for i, d in enumerate(spec.shape) if d in symbols} for name, spec in recipe.inputs.items()
    }
    tensors = {n: torch.from_numpy(np.array(a)) for n, a in feeds.items()}
    by_name = takes_keywords(module, list(feeds))
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                module, () if by_name else tuple(tensors.values()), tensors if by_name else None,
                dynamic_shapes=shapes if by_name else _positional(module, shapes), strict=False,
            )  # fmt: skip
    except Exception as error:
        _check_forward(module, recipe, feeds)
        raise ExportError(f"{recipe.name}: torch.export fails: {explain(error, dynamic)}") from error
    return program


def _positional(module: torch.nn.Module, shapes: Mapping[str, Any]) -> Any:
    import inspect

    variadic = any(p.kind == p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())
    return (tuple(shapes.values()),) if variadic else tuple(shapes.values())


def _check_forward(module: torch.nn.Module, recipe: Recipe, feeds: Feeds) -> None:
    """Raise ExportError if the module itself fails on these feeds."""
    shown = ", ".join(f"{n}: {a.dtype}{list(a.shape)}" for n, a in feeds.items())
    interface = Interface(tuple(TensorType(n, str(a.dtype), a.shape) for n, a in feeds.items()), ())
    runner = EagerRunner(module, interface)
    runner.open()
    try:
        with quiet():
            runner.call(feeds)
    except DlcError as error:
        raise ExportError(f"{recipe.name}: {error} (inputs {shown})") from error


def to_onnx(program: torch.export.ExportedProgram, opset: int) -> ir.Model:
    """Translate a program; EXPORT_OPSET where torch and the target allow it. Weights share memory with the program."""
    import torch

    oldest, newest = TORCH_OPSETS
    wanted = min(max(EXPORT_OPSET, oldest), newest, max(opset, oldest))
    try:
        with quiet():
            exported = torch.onnx.export(program, dynamo=True, opset_version=wanted, optimize=False, verbose=False)
    except Exception as error:
        raise ExportError(f"torch.onnx cannot translate the module: {explain(error, {})}") from error
    assert exported is not None
    model: ir.Model = exported.model
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    return model


def output_names(program: torch.export.ExportedProgram, declared: Sequence[str]) -> tuple[str, ...]:
    """Names for the outputs: the recipe's, or the keys of a returned dict, or ``output``, ``output_1``, and so on."""
    from torch.export.graph_signature import TensorArgument
    from torch.utils import _pytree as pytree

    leaves = [s.arg for s in program.graph_signature.output_specs if s.kind.name == "USER_OUTPUT"]
    for leaf in leaves:
        if not isinstance(leaf, TensorArgument) and getattr(leaf, "value", None) is not None:
            raise ExportError(f"the module returns {leaf.value!r}, which is no tensor; return tensors only")
    spec = program.call_spec.out_spec
    paths = pytree.tree_unflatten(list(range(len(leaves))), spec) if spec is not None else None
    keys: dict[int, str] = {}
    if isinstance(paths, Mapping):
        keys = {i: str(k) for k, i in paths.items() if isinstance(i, int)}
    kept = [i for i, leaf in enumerate(leaves) if isinstance(leaf, TensorArgument)]
    if declared and len(declared) != len(kept):
        raise ExportError(f"the recipe names {len(declared)} outputs, the module returns {len(kept)}")
    return tuple(declared) or tuple(keys.get(i, "output" if n == 0 else f"output_{n}") for n, i in enumerate(kept))


def _graph_text(model: ir.Model) -> str:
    """Nodes, names and types, without metadata: the same for the same module in every process."""
    lines = [f"{v.name}:{v.type}:{v.shape}" for v in (*model.graph.inputs, *model.graph.outputs)]
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        reads = [v.name if v is not None else "" for v in node.inputs]
        attributes = [f"{k}={_attribute_text(a)}" for k, a in sorted(node.attributes.items())]
        lines.append(f"{node.op_identifier()} {reads} {[v.name for v in node.outputs]} {attributes}")
    return "\n".join(lines)


def _attribute_text(attr: ir.Attr) -> str:
    if attr.type == ir.AttributeType.TENSOR:
        tensor = attr.as_tensor()
        return f"{tensor.dtype}{tensor.shape}{hashlib.sha256(tensor.tobytes()).hexdigest()}"
    return "graph" if attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) else repr(attr.value)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what torch prints, logs and warns about while it exports; what fails is raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def first_line(error: Exception) -> str:
    """Return the first line of a message, on one line of text."""
    return re.sub(r"\s+", " ", next((x for x in str(error).splitlines() if x.strip()), type(error).__name__))

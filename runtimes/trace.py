"""Inner tensors of a graph, and their shapes, as a run gives them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from dlc.errors import DlcError, Unsupported
from dlc.interface import Interface, TensorType
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Array, Feeds, Outputs

SEED = 0


def traced(model: ir.Model, names: Collection[str], feeds: Sequence[Feeds]) -> list[Outputs]:
    """Return the named inner tensors of a model, run on each of some feeds; the model's inputs are among them.

    An input that is not fed has its default.
    """
    defaults = {str(v.name): v.const_value.numpy() for v in model.graph.inputs if v.const_value is not None}
    copy = model.clone()
    wanted = set(names) - {v.name for v in copy.graph.outputs}
    copy.graph.outputs.extend(v for node in copy.graph for v in node.outputs if v.name in wanted)
    with OrtCpuRunner(copy, SessionConfig(graph_optimization="none")) as runner:
        return [{**defaults, **each, **runner.run(each)} for each in feeds]


def traced_shapes(model: ir.Model, names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the named tensors; Unsupported names the first that cannot be had."""
    rng = np.random.default_rng(SEED)
    feeds = {t.name: _feed(t, sizes, rng) for t in Interface.of(model).inputs}
    try:
        [outputs] = traced(model, names, [feeds])
    except DlcError as error:
        raise Unsupported(
            f"the shape of tensor {names[0]!r} is unknown, and a run to measure it failed: {error}"
        ) from error
    return {name: tuple(np.shape(outputs[name])) for name in names}


def _feed(tensor: TensorType, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    """Return normal floats, or integers of 0 and 1, which are valid indices and masks."""
    extents = tensor.shape or ()
    if missing := [d for d in extents if not isinstance(d, int) and d not in sizes]:
        raise Unsupported(f"input {tensor.name!r}: no size is given for dimension {missing[0]!r}")
    shape = tuple(d if isinstance(d, int) else sizes[str(d)] for d in extents)
    if np.dtype(tensor.dtype).kind == "f":
        return rng.standard_normal(shape).astype(tensor.dtype)
    return rng.integers(0, 2, shape).astype(tensor.dtype)

"""Shapes of inner tensors, measured by a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from dlc.errors import DlcError, Unsupported
from dlc.interface import Interface, TensorType
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Array

SEED = 0


def traced_shapes(model: ir.Model, names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Run a copy of the model that also returns the named tensors; Unsupported names the first that cannot be had."""
    copy = model.clone()
    wanted = set(names)
    exposed = [v for node in copy.graph for v in node.outputs if v.name in wanted and not v.is_graph_output()]
    copy.graph.outputs.extend(exposed)
    rng = np.random.default_rng(SEED)
    feeds = {t.name: _feed(t, sizes, rng) for t in Interface.of(copy).inputs}
    try:
        with OrtCpuRunner(copy, SessionConfig(graph_optimization="none")) as runner:
            outputs = runner.run(feeds)
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

"""The inner tensors of a graph: which there are, how large, and how many fit into memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from dlc.passes.concrete_shapes import infer_shapes
from dlc.types import Bytes

HELD: Bytes = 1 << 28
"""Bytes of inner tensors that a comparison may hold."""


def computed(model: ir.Model) -> list[str]:
    """Names of the tensors that nodes of the main graph compute, in execution order."""
    values = (v for node in model.graph for v in node.outputs if v.name)
    return [str(v.name) for v in values if v.type is None or isinstance(v.type, ir.TensorType)]


def tensor_bytes(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, Bytes]:
    """Bytes of each computed tensor whose shape is known; 8 an element where the type is not."""
    shapes = infer_shapes(model, sizes)
    values = (v for node in model.graph for v in node.outputs if v.name in shapes)
    return {
        str(v.name): int(np.prod(shapes[str(v.name)], dtype=np.int64) * (8 if v.dtype is None else v.dtype.itemsize))
        for v in values
    }


def chunks(names: Iterable[str], nbytes: Mapping[str, Bytes], held: Bytes) -> Iterator[list[str]]:
    """Group names so that a group holds no more than that many bytes; what is larger, or unknown, is alone."""
    chunk, total = list[str](), 0
    for name in names:
        size = nbytes.get(name, held)
        if chunk and total + size > held:
            yield chunk
            chunk, total = [], 0
        chunk.append(name)
        total += size
    if chunk:
        yield chunk

"""What a decoder's cache of keys and values takes, read from the graph: layers, heads, head size, type.

A cache is a graph input that comes back longer as a graph output: by ``Concat`` along the sequence, or by an attention
operator that takes past keys and values. Everything but batch and sequence must be of fixed size. ``Concat`` joins
other things as well: only inputs that come in pairs, keys and values of one shape, are taken for a cache.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from dlc.errors import Unsupported
from dlc.types import Bytes

PAST = {
    ("com.microsoft", "GroupQueryAttention"): ((3, 1), (4, 2)),
    ("com.microsoft", "MultiHeadAttention"): ((6, 1), (7, 2)),
    ("", "Attention"): ((4, 1), (5, 2)),
}
"""Operator to pairs of the input that is past and the output that is present, [batch, heads, sequence, head size]."""
SEQUENCE_AXIS = 2
SHARING = ("GroupQueryAttention",)
"""Operators that write the present into the buffer of the past when both are bound to it."""


@dataclass(frozen=True, slots=True)
class Cached:
    """One tensor of the cache, and the operator that makes it longer. ``token_bytes``: of one token of one sequence."""

    past: str
    present: str
    op: str
    shape: tuple[int | str, ...]
    dtype: str
    token_bytes: Bytes


@dataclass(frozen=True, slots=True)
class KvCache:
    """The cache of a model at a context and a batch.

    ``one_buffer``: bytes if past and present share one buffer, ``two_buffers``: if each has its own, as graph inputs
    and outputs do. ``can_share``: whether the operators of this graph are able to share it.
    """

    layers: int
    heads: int | str
    head_size: int | str
    dtype: str
    token_bytes: Bytes
    context: int
    batch: int
    can_share: bool

    @property
    def one_buffer(self) -> Bytes:
        """Bytes of the whole context, once."""
        return self.token_bytes * self.context * self.batch

    @property
    def two_buffers(self) -> Bytes:
        """Bytes of the past, one token short, beside the present."""
        return self.token_bytes * (2 * self.context - 1) * self.batch

    @property
    def saving(self) -> Bytes:
        """Bytes that sharing one buffer saves."""
        return self.two_buffers - self.one_buffer


def kv_cache(model: ir.Model, context: int, batch: int = 1) -> KvCache | None:
    """Return the cache of a model, None if it keeps none; Unsupported names one of an attention of no fixed size."""
    found = cached(model.graph)
    if not found:
        return None
    first = found[0]
    return KvCache(
        layers=len(found) // 2, heads=first.shape[1], head_size=first.shape[-1], dtype=first.dtype,
        token_bytes=sum(c.token_bytes for c in found), context=context, batch=batch,
        can_share=all(c.op in SHARING for c in found),
    )  # fmt: skip


def cached(graph: ir.Graph) -> list[Cached]:
    """Return the tensors of the cache, in the order of the inputs."""
    found = [each for value in graph.inputs if (each := _of_input(value)) is not None]
    joined = Counter(_kind(each) for each in found if each.op == "Concat")
    return [each for each in found if each.op != "Concat" or joined[_kind(each)] % 2 == 0]


def _of_input(value: ir.Value) -> Cached | None:
    for usage in value.uses():
        present = _present(usage.node, usage.idx)
        if present is not None and present.is_graph_output():
            return _cached(value, present, usage.node.op_type)
    return None


def _kind(each: Cached) -> tuple[object, ...]:
    """What keys and values have in common."""
    return (*each.shape, each.dtype)


def _present(node: ir.Node, index: int) -> ir.Value | None:
    """Return what a node makes of a past that is its input ``index``."""
    if node.op_type == "Concat":
        return node.outputs[0] if index == 0 and _joins_tokens(node) else None
    for past, present in PAST.get((node.domain, node.op_type), ()):
        if past == index and present < len(node.outputs):
            return node.outputs[present]
    return None


def _joins_tokens(node: ir.Node) -> bool:
    """Whether a Concat joins tensors of four dimensions, heads and head size fixed, along the sequence."""
    first = node.inputs[0]
    if len(node.inputs) < 2 or first is None or first.shape is None or first.dtype is None or len(first.shape) != 4:
        return False
    fixed = isinstance(first.shape[1], int) and isinstance(first.shape[3], int)
    return fixed and node.attributes.get_int("axis", 0) % 4 == SEQUENCE_AXIS


def _cached(past: ir.Value, present: ir.Value, op: str) -> Cached:
    if past.shape is None or len(past.shape) != 4 or past.dtype is None:
        raise Unsupported(f"the cache {past.name!r} has no shape of four dimensions; export it with one")
    shape = tuple(d if isinstance(d, int) else str(d.value or "?") for d in past.shape)
    if unknown := [d for d in (shape[1], shape[3]) if not isinstance(d, int)]:
        raise Unsupported(f"the cache {past.name!r} has dimension {unknown[0]!r} where heads or head size are expected")
    token = math.ceil(int(shape[1]) * int(shape[3]) * past.dtype.bitwidth / 8)
    return Cached(str(past.name), str(present.name), op, shape, str(past.dtype), token)

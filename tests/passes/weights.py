"""Graphs with real weights, from ONNX text whose inputs become initializers; and closeness in decibels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from dlc.types import Array
from tests.passes.texts import HEADER, graph

WITH_CONTRIB = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
TIED = """g (int64[m] i, float[40, 64] w, float[64, 40] t) => (float[m, 40] y) {
    e = Gather(w, i) y = MatMul(e, t)
}"""
"""A table that a product reads too, by a copy of its own."""


def weighted(body: str, weights: Mapping[str, Array], header: str = HEADER) -> ir.Model:
    """A model whose inputs named in ``weights`` are initializers; nodes bear their first output's name."""
    model = graph(body, header)
    for value in list(model.graph.inputs):
        if value.name is not None and value.name in weights:
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(weights[value.name], name=value.name)
            model.graph.register_initializer(value)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.name = f"node_{node.outputs[0].name}"
    return model


def sqnr(reference: Array, other: Array) -> float:
    """Signal to quantization noise, in dB."""
    wide = reference.astype(np.float64)
    noise = float(np.square(wide - other).sum())
    return 10 * float(np.log10(np.square(wide).sum() / noise)) if noise else float("inf")


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

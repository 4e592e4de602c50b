"""Randomly wired networks, by graphs of Watts and Strogatz (Xie et al. 2019, arXiv 1904.01569).

A node adds its inputs up and applies ReLU, a depthwise convolution and a pointwise one. Many tensors are alive at once
and for long: hard for a memory planner, and for any order of nodes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

NODES, NEIGHBOURS, REWIRED = 24, 4, 0.75
CHANNELS, SIZE = 32, 56


def random_wired(seed: int) -> ir.Model:
    """Return the network of a seed: x [1, 32, 56, 56] to y [1, 32, 1, 1]."""
    rng = np.random.default_rng(seed)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, CHANNELS, SIZE, SIZE]))
    build = tape.Tape()
    made: list[ir.Value] = []
    sources = wiring(rng)
    for node, inputs in enumerate(sources):
        made.append(_node(build, [made[i] for i in inputs] or [x], node, rng))
    read = {i for inputs in sources for i in inputs}
    y = build.op("GlobalAveragePool", [_sum(build, [made[i] for i in range(NODES) if i not in read])])
    y.name, y.type, y.shape = "y", x.type, ir.Shape([1, CHANNELS, 1, 1])
    graph = ir.Graph([x], [y], nodes=build.nodes, initializers=build.initializers, opset_imports={"": 20},
                     name=f"random-wired-{seed}")  # fmt: skip
    for i, each in enumerate(graph):
        each.name = f"{each.op_type} {i}"
    return ir.Model(graph, ir_version=10)


def wiring(rng: np.random.Generator) -> list[list[int]]:
    """Return the sources of each node: a ring whose edges are rewired at random, each from the lower to the higher."""
    edges = set[tuple[int, int]]()
    for node in range(NODES):
        for step in range(1, NEIGHBOURS // 2 + 1):
            other = (node + step) % NODES
            if rng.random() < REWIRED:
                other = int(rng.integers(NODES))
            if other != node:
                edges.add((min(node, other), max(node, other)))
    return [sorted(a for a, b in edges if b == node) for node in range(NODES)]


def _node(build: tape.Tape, inputs: list[ir.Value], node: int, rng: np.random.Generator) -> ir.Value:
    h = build.op("Relu", [_sum(build, inputs)])
    h = build.op("Conv", [h, _weight(build, f"depthwise {node}", (CHANNELS, 1, 3, 3), rng)],
                 attributes={"group": CHANNELS, "pads": [1, 1, 1, 1]})  # fmt: skip
    return build.op("Conv", [h, _weight(build, f"pointwise {node}", (CHANNELS, CHANNELS, 1, 1), rng)])


def _sum(build: tape.Tape, values: list[ir.Value]) -> ir.Value:
    total = values[0]
    for value in values[1:]:
        total = build.op("Add", [total, value])
    return total


def _weight(build: tape.Tape, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> ir.Value:
    """He et al.'s initialisation: the scale of what passes stays."""
    scale = (2 / np.prod(shape[1:])) ** 0.5
    return build.initializer(ir.tensor((rng.standard_normal(shape) * scale).astype(np.float32), name=name), name=name)

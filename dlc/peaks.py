"""What this machine can do at most: arithmetic through ONNX Runtime, and bytes moved; measured once and remembered."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir

from dlc.cost_table import Cost, CostTable
from dlc.costs import Costs, here
from dlc.harness.measure import pinned
from dlc.lookup import load
from dlc.manifest import Estimate, Peaks
from dlc.runtimes import RUNTIMES
from dlc.runtimes.session import SessionConfig
from dlc.target import Target
from dlc.types import Array, Bytes

GEMM = (384, 384, 384)
"""Rows, depth, columns: all operands fit into a second-level cache, and a call takes over a thousand times its cost."""
LARGE: Bytes = 1 << 26
"""Beyond the caches of a server's processor."""
CACHED: Bytes = 1 << 18
"""Read and written, half of a second-level cache of 1 MiB."""
WARM, ROUNDS, FEW = 3, 24, 12
UNIT = 1e9
"""Bytes whose time stands for a bandwidth in the table of costs."""


def peaks(target: Target, table: CostTable) -> Peaks | None:
    """Measure this machine with a target's threads, or recall what was measured; None without a CPU provider.

    The fastest run counts: what is above it is other work on the machine.
    """
    if target.provider != "cpu":
        return None
    costs = Costs(here(target), SessionConfig(provider="cpu", intra_op_threads=target.threads), {}, table=table)
    products = _known(
        costs, f"peak gemm {GEMM}", lambda: (_gemm(costs.config, np.float32), _gemm(costs.config, np.int8))
    )
    moves = _known(costs, f"peak bytes {LARGE} {CACHED}", lambda: _moved(target.threads))
    ops = 2 * math.prod(GEMM)
    return Peaks(
        float_ops=1e9 * ops / products.before_ns, integer_ops=1e9 * ops / products.after_ns,
        bytes=1e9 * UNIT / moves.before_ns, cache_bytes=1e9 * UNIT / moves.after_ns,
    )  # fmt: skip


def _known(costs: Costs, what: str, measure: Callable[[], tuple[float, float]]) -> Cost:
    key = costs.key(what)
    if (known := costs.table.read(key)) is not None:
        return known
    before, after = measure()
    share = after / before
    cost = Cost(before_ns=before, after_ns=after, ratio=Estimate(value=share, low=share, high=share))
    costs.table.write(key, costs.fingerprint, cost)
    return cost


def _gemm(config: SessionConfig, weights: type[np.float32] | type[np.int8]) -> float:
    """Time x·W in float32, or in u8·s8 as int8 variants have it; W is a constant, which the runtime packs. In ns."""
    rows, depth, columns = GEMM
    rng = np.random.default_rng(0)
    if weights is np.float32:
        fed = {"x": rng.standard_normal((rows, depth), np.float32)}
        model = _product(fed["x"], rng.standard_normal((depth, columns), np.float32), "MatMul", ir.DataType.FLOAT)
    else:
        fed = {"x": rng.integers(0, 128, (rows, depth), np.uint8)}
        model = _product(fed["x"], rng.integers(-64, 64, (depth, columns), np.int8), "MatMulInteger", ir.DataType.INT32)
    with load(RUNTIMES[config.provider])(model, config) as runner, pinned(only=config.intra_op_threads == 1):
        return _fastest(lambda: runner.infer(fed), ROUNDS)


def _product(x: Array, weights: Array, op: str, kind: ir.DataType) -> ir.Model:
    given = ir.val("x", dtype=ir.DataType.from_numpy(x.dtype), shape=x.shape)
    constant = ir.val("w", const_value=ir.tensor(weights, name="w"))
    node = ir.node(op, [given, constant])
    result = node.outputs[0]
    result.name, result.dtype, result.shape = "y", kind, ir.Shape((len(x), weights.shape[1]))
    graph = ir.Graph([given], [result], nodes=[node], initializers=[constant], opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def _moved(threads: int) -> tuple[float, float]:
    """Time ``UNIT`` bytes beyond the caches, shared out among the threads, and in the caches of each; in ns."""
    source = np.ones(LARGE // 4, np.float32)
    sink = np.zeros_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(sink, threads), strict=True))
    near, copy = np.ones(CACHED // 4, np.float32), np.zeros(CACHED // 4, np.float32)
    with ThreadPoolExecutor(threads) as pool, pinned(only=threads == 1):

        def spread(work: Callable[[tuple[Array, Array]], object]) -> Callable[[], object]:
            return (lambda: work(parts[0])) if threads == 1 else (lambda: list(pool.map(work, parts)))

        copied = _fastest(spread(lambda each: np.copyto(each[1], each[0])), FEW) / (2 * LARGE)
        read = _fastest(spread(lambda each: each[0].max()), FEW) / LARGE
        cached = _fastest(lambda: np.copyto(copy, near), ROUNDS) / (2 * CACHED * threads)
    return UNIT * min(copied, read), UNIT * min(cached, copied, read)


def _fastest(call: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(WARM + rounds):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return float(min(times[WARM:]))

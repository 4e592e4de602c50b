"""Bounds on equal computations."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from dlc.tolerance import EPS32, distance, reassociation

HEAD = '<ir_version: 10, opset_import: ["": 20]>'


def test_bound_grows_with_the_longest_dot_product() -> None:
    gemm = ir.from_onnx_text(HEAD + "g (float[n, 3] x, float[3, 5] w) => (float[n, 5] y) { y = Gemm(x, w) }")
    flipped = ir.from_onnx_text(
        HEAD + "g (float[n, 3] x, float[5, 3] w) => (float[n, 5] y) { y = Gemm <transB = 1> (x, w) }"
    )
    conv = ir.from_onnx_text(
        HEAD + "g (float[n, 4, 8, 8] x, float[6, 4, 3, 3] w) => (float[n, 6, 6, 6] y) { y = Conv(x, w) }"
    )
    none = ir.from_onnx_text(HEAD + "g (float[n] x) => (float[n] y) { y = Relu(x) }")
    assert [reassociation(m) / (4 * EPS32) for m in (gemm, flipped, conv, none)] == [3 + 1, 3 + 1, 36 + 1, 1 + 1]


def test_bound_counts_reduced_axes_and_the_narrowest_type() -> None:
    norm = "y = LayerNormalization(x, s)"
    wide = ir.from_onnx_text(HEAD + f"g (float[n, 64] x, float[64] s) => (float[n, 64] y) {{ {norm} }}")
    half = ir.from_onnx_text(HEAD + f"g (float16[n, 64] x, float16[64] s) => (float16[n, 64] y) {{ {norm} }}")
    assert reassociation(wide) / (4 * EPS32) == 64 + 1
    assert reassociation(half) / (4 * float(np.finfo(np.float16).eps)) == 64 + 1


def test_bound_counts_what_branches_compute() -> None:
    alone = ir.from_onnx_text(HEAD + "g (float[n] x) => (float[n] y) { y = Neg(x) }")
    branches = ir.from_onnx_text(
        HEAD
        + """g (float[n] x, bool c) => (float[n] y) {
        y = If(c) <then_branch = a () => (float[n] t) { s = Exp(x) t = Abs(s) },
                   else_branch = b () => (float[n] e) { e = Neg(x) }>
    }"""
    )
    assert reassociation(branches) - reassociation(alone) == pytest.approx(4 * EPS32 * 3)


def test_two_orders_of_one_sum_stay_within_the_bound() -> None:
    rng = np.random.default_rng(0)
    for n in (10, 1000, 100_000):
        x = rng.normal(size=n).astype(np.float32)
        forward, backward = np.cumsum(x)[-1:], np.cumsum(x[::-1])[-1:]
        magnitude = np.abs(x).sum()
        assert abs(float(forward[0]) - float(backward[0])) <= 4 * n * EPS32 * magnitude


def test_distance_is_relative_to_the_largest_value() -> None:
    b = {"y": np.array([0.001, 100.0], np.float32)}
    apart, where = distance({"y": np.array([1.001, 100.0], np.float32)}, b)
    assert where == "y"
    assert math.isclose(apart, 0.01, rel_tol=1e-5)


def test_distance_is_infinite_where_kinds_differ() -> None:
    y = np.ones(2, np.float32)
    assert distance({"y": y[:1]}, {"y": y})[0] == math.inf
    assert distance({"y": y.astype(np.float64)}, {"y": y})[0] == math.inf
    assert distance({"y": np.array([1, np.nan], np.float32)}, {"y": y})[0] == math.inf
    assert distance({"y": np.array([1, 2])}, {"y": np.array([1, 3])})[0] == math.inf
    assert distance({"y": y}, {"y": y}) == (0.0, "")


def test_infinities_must_coincide_and_hide_nothing_beside_them() -> None:
    b = {"y": np.array([1, 2, -np.inf], np.float32)}
    assert distance({"y": np.array([1, 2, -np.inf], np.float32)}, b) == (0.0, "")
    assert distance({"y": np.array([1, 1, -np.inf], np.float32)}, b)[0] == 0.5
    for other in (np.inf, np.nan, np.finfo(np.float32).min):
        assert distance({"y": np.array([1, 2, other], np.float32)}, b)[0] == math.inf

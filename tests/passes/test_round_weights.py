"""Learned rounding against what it promises: never worse than rounding to nearest, and the best where that is known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.calibrate import Range
from dlc.moments import moments, patches
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic
from dlc.passes.round_weights import learn_rounding, rounding_error
from dlc.types import Array, Floats
from tests.passes.texts import annotated, compute

CONV = """g (float[n, 4, 6, 5] x) => (float[n, 4, o, p] y) <float[4, 2, 3, 2] w, float[4] b> {
    [conv] y = Conv<group = 2, pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 2]>(x, w, b)
}"""
PRODUCT = "g (float[n, 6] x) => (float[n, 3] y) <float[6, 3] w> { [product] y = MatMul(x, w) }"


def drawn(body: str, seed: int = 0) -> ir.Model:
    """Parse, with random initializers."""
    from tests.passes.texts import graph

    rng = np.random.default_rng(seed)
    filled = body
    for shape, name in (("4, 2, 3, 2", "w"), ("6, 3", "w"), ("4", "b")):
        numbers = rng.standard_normal(int(np.prod([int(d) for d in shape.split(", ")])))
        values = ", ".join(f"{v:.6f}" for v in numbers)
        filled = filled.replace(f"float[{shape}] {name}", f"float[{shape}] {name} = {{{values}}}")
    model = graph(filled)
    for node in model.graph:
        node.inputs[0].type = ir.TensorType(ir.DataType.FLOAT)  # type: ignore[union-attr]
    return model


def second(rng: np.random.Generator, groups: int, size: int, n: int = 50) -> Floats:
    """Moments of inputs that depend on each other."""
    x = rng.standard_normal((groups, n, size)) @ rng.standard_normal((groups, size, size))
    moment: Floats = np.swapaxes(x, 1, 2) @ x / n
    return moment


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 150), st.sampled_from([64, 127]), st.integers(0, 1 << 16))
def test_never_worse_than_nearest(groups: int, outputs: int, size: int, limit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, moment = rng.standard_normal((groups, outputs, size)), second(rng, groups, size)
    scales = np.abs(weight).max(axis=-1) / limit
    levels = learn_rounding(weight, scales, moment, limit)
    nearest = np.rint(weight / scales[..., None])
    assert levels.dtype == np.int8
    assert np.abs(levels.astype(int)).max() <= limit
    got, plain = (rounding_error(weight, q * scales[..., None], moment) for q in (levels, nearest))
    assert (got <= plain).all()
    assert (learn_rounding(weight, scales, moment, limit) == levels).all()


def test_close_to_the_best_of_all_roundings() -> None:
    """Six weights: the best of 64 roundings up or down is known. Learned rounding gets most of the way to it."""
    rng = np.random.default_rng(0)
    share = []
    for _ in range(20):
        weight, moment = rng.standard_normal((1, 1, 6)), second(rng, 1, 6)
        scales = np.abs(weight).max(axis=-1) / 7
        floor = np.floor(weight / scales[..., None])
        ways = [np.clip(floor + np.array(up), -7, 7) for up in itertools.product((0, 1), repeat=6)]
        best = min(float(rounding_error(weight, q * scales[..., None], moment)[0, 0]) for q in ways)
        nearest = float(rounding_error(weight, np.rint(weight / scales[..., None]) * scales[..., None], moment)[0, 0])
        learned = learn_rounding(weight, scales, moment, 7) * scales[..., None]
        share.append((nearest - float(rounding_error(weight, learned, moment)[0, 0])) / (nearest - best + 1e-12))
    assert np.mean(share) > 0.5


def test_unrelated_inputs_are_rounded_to_nearest() -> None:
    weight = np.random.default_rng(0).standard_normal((2, 3, 70))
    scales = np.abs(weight).max(axis=-1) / 127
    levels = learn_rounding(weight, scales, np.stack([np.diag(np.arange(1.0, 71)), np.zeros((70, 70))]), 127)
    assert (levels == np.rint(weight / scales[..., None])).all()


def test_patches_are_what_the_filters_multiply() -> None:
    model = drawn(CONV)
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 5)).astype(np.float32)
    y = compute(model, {"x": x})["y"]
    [node] = model.graph
    seen = patches(node, x, 10**6, np.random.default_rng(0))  # [2, n, 12]
    weight, bias = (model.graph.initializers[n].const_value.numpy() for n in "wb")  # type: ignore[union-attr]
    got = np.einsum("gnk,gmk->gmn", seen.astype(np.float64), weight.reshape(2, 2, 12)).reshape(4, -1) + bias[:, None]
    want = np.moveaxis(y, 1, 0).reshape(4, -1)
    np.testing.assert_allclose(got, want, atol=4 * 13 * 2**-23 * np.abs(want).max())  # 13 terms, summed in FP32


@pytest.mark.parametrize("body", [CONV, PRODUCT], ids=["Conv", "MatMul"])
def test_moments_of_all_batches(body: str) -> None:
    model = drawn(body)
    shape = (3, 4, 6, 5) if body == CONV else (3, 6)
    batches = [{"x": np.random.default_rng(i).standard_normal(shape).astype(np.float32)} for i in range(2)]
    [node] = model.graph
    [(name, found)] = moments(model, batches).items()
    assert name == node.name
    rng = np.random.default_rng(0)
    seen = [patches(node, b["x"], 10**6, rng) if body == CONV else b["x"][None] for b in batches]
    x = np.concatenate(seen, axis=1).astype(np.float64)
    n, size = x.shape[1], np.abs(x)
    # n products, each rounded and summed in FP32: n ulp of what their magnitudes add up to, here of its mean
    within = n * 2**-24 * (np.swapaxes(size, 1, 2) @ size / n).max()
    np.testing.assert_allclose(found.second, np.swapaxes(x, 1, 2) @ x / n, rtol=0, atol=within)
    np.testing.assert_allclose(found.mean, x.mean(axis=1), rtol=0, atol=n * 2**-53 * size.max())  # summed in FP64
    stated = np.stack([np.cov(each.T, bias=True) for each in x])
    np.testing.assert_allclose(found.covariance, stated, rtol=0, atol=within + 4 * n * 2**-53 * (size**2).max())


def error(model: ir.Model, each: QuantizeDynamic | QuantizeStatic, batch: Array) -> float:
    changed = model.clone()
    pipeline.run(changed, [each])
    return float(((compute(changed, {"x": batch})["y"] - compute(model, {"x": batch})["y"]) ** 2).mean())


def related(shape: tuple[int, ...]) -> Array:
    """Inputs whose channels depend on each other, as those of trained nets do."""
    rng = np.random.default_rng(5)
    mixed = np.moveaxis(rng.standard_normal(shape) + 2 * rng.standard_normal((shape[0], 1, *shape[2:])), 1, -1)
    return np.ascontiguousarray(np.moveaxis(mixed, -1, 1).astype(np.float32))


def test_passes_round_as_they_learned() -> None:
    model, x = drawn(PRODUCT), related((256, 6))
    seen = moments(model, [{"x": x}])
    plain = QuantizeDynamic(reduce_range=True)
    assert error(model, replace(plain, learn_rounding=True, moments=seen), x) < error(model, plain, x)
    assert error(model, replace(plain, learn_rounding=True), x) == error(model, plain, x)  # nothing was learned
    assert error(model, replace(plain, moments=seen), x) == error(model, plain, x)  # the option is off


def test_static_convolutions_round_as_they_learned() -> None:
    model, x = drawn(CONV), related((32, 4, 6, 5))
    seen = moments(model, [{"x": x}])
    y = compute(model, {"x": x})["y"]
    ranges = {n: Range(float(a.min()), float(a.max())) for n, a in (("x", x), ("y", y))}
    plain = QuantizeStatic(ranges=ranges, reduce_range=False)

    def levels(each: QuantizeStatic) -> Array:
        changed = model.clone()
        pipeline.run(changed, [each])
        tensor = changed.graph.initializers["w_quantized"].const_value
        assert tensor is not None
        return tensor.numpy().astype(np.float64)

    learned, nearest = levels(replace(plain, learn_rounding=True, moments=seen)), levels(plain)
    assert (learned != nearest).any()
    assert np.abs(learned).max() <= 127
    pairs = replace(plain, reduce_range=True)  # whose bound on sums of pairs holds for rounding to nearest only
    assert (levels(replace(pairs, learn_rounding=True, moments=seen)) == levels(pairs)).all()


def test_nodes_whose_rows_are_unknown_are_left() -> None:
    bodies = [
        "g (float[1, 1, 4] x) => (float[1, 1, q] y) <float[1, 1, 2] w = {1, 2}> {"
        " y = Conv<auto_pad = \"SAME_UPPER\">(x, w) }",
        "g (float[2, n] x) => (float[n, 1] y) <float[2, 1] w = {1, 2}> { y = Gemm<transA = 1>(x, w) }",
        "g (float[n, 2] x, float[2, 1] w) => (float[n, 1] y) { y = MatMul(x, w) }",
    ]  # fmt: skip
    for body in bodies:
        assert moments(annotated(body), []) == {}

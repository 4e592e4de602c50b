from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.export import export
from dlc.interface import Interface
from dlc.models import digits_cnn
from dlc.passes.convolve_linear import ConvolveLinear
from dlc.passes.pool_mean import PoolMean
from dlc.tolerance import distance, reassociation
from tests.passes.texts import compute, expected, graph, serialized, sites, text
from tests.passes.weights import weighted

GEMM = """g (float[n, 2, 1, 1] x) => (float[n, 3] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[3] b = {1, 2, 3}> {
    r = Flatten(x)
    y = Gemm<transB = 1>(r, w, b)
}"""


def test_golden() -> None:
    model = graph(GEMM)
    list(model.graph)[1].name = "gemm"
    assert [s.reason for s in sites(model, ConvolveLinear())] == [None]
    assert text(model) == expected("""
        gemm.conv = Conv(x, gemm.kernel, gemm.offset)
        y = Flatten(gemm.conv)
        gemm.kernel: [3,2,1,1]
        gemm.offset: [3]""")


def test_golden_reshape_without_bias() -> None:
    body = GEMM.replace(", b)", ")").replace("Flatten(x)", "Reshape(x, s)").replace(
        "float[3] b = {1, 2, 3}", "int64[2] s = {-1, 2}"
    )  # fmt: skip
    model = graph(body)
    list(model.graph)[1].name = "gemm"
    assert [s.reason for s in sites(model, ConvolveLinear())] == [None]
    assert text(model) == expected("""
        gemm.conv = Conv(x, gemm.kernel)
        y = Flatten(gemm.conv)
        gemm.kernel: [3,2,1,1]""")


GUARDS = {
    "what is flattened is not [n, C, 1, 1]": GEMM.replace("2, 1, 1] x", "1, 1, 2] x"),
    "dtype is DOUBLE, not FLOAT": GEMM.replace("float", "double"),
    "Gemm reads it transposed": GEMM.replace("transB = 1", "transA = 1, transB = 1").replace(
        "[n, 2, 1, 1] x", "[2, 2, 1, 1] x").replace("[n, 3] y", "[2, 3] y"),
    "the weight of Gemm has another reader": GEMM.replace("3] y)", "3] y, float[3, 2] z)").replace(
        "r = Fl", "z = Neg(w)\n r = Fl"),
    "the weight of Gemm is not constant": GEMM.replace("1] x)", "1] x, float[3, 2] w)").replace(
        "float[3, 2] w = {1, 2, 3, 4, 5, 6}, ", ""),
    "the bias of Gemm is not one constant per channel": GEMM.replace("1] x)", "1] x, float[3] b)").replace(
        ", float[3] b = {1, 2, 3}", ""),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    model = graph(GUARDS[reason])
    before = serialized(model)
    assert [s.reason for s in sites(model, ConvolveLinear())] == [reason]
    assert serialized(model) == before


def test_a_flattening_of_other_rows_is_a_guard() -> None:
    body = """g (float[4, 2, 1, 1] x) => (float[2, 1] y)
        <float[1, 4] w = {1, 2, 3, 4}, float[1] b = {1}, int64[2] s = {-1, 4}> {
        r = Reshape(x, s)
        y = Gemm<transB = 1>(r, w, b)
    }"""
    assert [s.reason for s in sites(graph(body), ConvolveLinear())] == ["what is flattened is not [n, C, 1, 1]"]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 5), st.integers(1, 20), st.integers(1, 20), st.booleans(), st.integers(0, 1 << 16))
def test_properties(batch: int, channels: int, classes: int, transposed: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (classes, channels) if transposed else (channels, classes)
    body = f"""g (float[n, {channels}, 1, 1] x, float[{shape[0]}, {shape[1]}] w, float[{classes}] b)
        => (float[n, {classes}] y) {{
        r = Flatten(x)
        y = Gemm<alpha = 0.5, beta = 2.0, transB = {int(transposed)}>(r, w, b)
    }}"""
    weights = {"w": rng.standard_normal(shape).astype(np.float32), "b": rng.standard_normal(classes).astype(np.float32)}
    model = weighted(body, weights)
    x = {"x": rng.standard_normal((batch, channels, 1, 1)).astype(np.float32)}
    before, interface = compute(model, x), Interface.of(model)
    assert [s.reason for s in sites(model, ConvolveLinear())] == [None]
    assert Interface.of(model) == interface
    after = compute(model, x)["y"]
    # Each sum has `channels` products and a bias: its order changes it by n·eps of the sum of magnitudes.
    magnitude = np.abs(x["x"][:, :, 0, 0]) @ np.abs(weights["w"].T if transposed else weights["w"]) + 2 * np.abs(
        weights["b"]
    )
    assert (np.abs(after - before["y"]) <= 4 * (channels + 2) * np.finfo(np.float32).eps * magnitude).all()
    assert sites(model, ConvolveLinear()) == ()


def test_real_model() -> None:
    model = export(digits_cnn.recipe(), opset=20, ir_version=10).model
    x = {"image": np.random.default_rng(0).uniform(0, 1, (5, 1, 8, 8)).astype(np.float32)}
    before = compute(model, x)
    sites(model, PoolMean())
    assert [s.reason for s in sites(model, ConvolveLinear())] == [None]
    assert distance(compute(model, x), before)[0] <= reassociation(model)

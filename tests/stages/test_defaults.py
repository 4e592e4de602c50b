"""The order of the default rewrites, where one would take from another what it looks for."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.stages.defaults import rewrites
from dlc.target import detect
from tests.passes.weights import weighted

RMS = """g (float[2, 8, 16] x, float[16] gamma) => (float[2, 8, 16] y) <float[2, 8, 16] s, float[2, 8, 1] m> {
    two = Constant<value = float {2.0}>()
    axes = Constant<value = int64[1] {-1}>()
    epsilon = Constant<value = float {1e-6}>()
    s = Pow(x, two)
    m = ReduceMean<keepdims = 1>(s, axes)
    v = Add(m, epsilon)
    root = Sqrt(v)
    inverse = Reciprocal(root)
    n = Mul(x, inverse)
    y = Mul(n, gamma)
}"""
LAYER = """g (float[2, 8, 16] x, float[16] gamma) => (float[2, 8, 16] y) <float[2, 8, 16] s, float[2, 8, 1] m> {
    two = Constant<value = float {2.0}>()
    axes = Constant<value = int64[1] {-1}>()
    epsilon = Constant<value = float {1e-6}>()
    mean = ReduceMean<keepdims = 1>(x, axes)
    d = Sub(x, mean)
    s = Pow(d, two)
    m = ReduceMean<keepdims = 1>(s, axes)
    v = Add(m, epsilon)
    root = Sqrt(v)
    n = Div(d, root)
    y = Mul(n, gamma)
}"""


@pytest.mark.parametrize(("text", "norms"), [(RMS, {"RMSNormalization", "SimplifiedLayerNormalization"}),
                                             (LAYER, {"LayerNormalization"})], ids=["rms", "layer"])  # fmt: skip
def test_the_mean_of_a_norm_is_not_pooled(text: str, norms: set[str]) -> None:
    model = weighted(text, {"gamma": np.linspace(0.5, 1.5, 16, dtype=np.float32)})
    for each in rewrites(detect()):
        each(model)
    kinds = {n.op_type for n in model.graph}
    assert "GlobalAveragePool" not in kinds
    assert kinds & norms

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.export import export
from dlc.interface import Interface
from dlc.models import digits_cnn
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.tolerance import distance, reassociation
from dlc.types import Array
from tests.passes.texts import compute, expected, graph, serialized, sites, text

BN = "float[2] gamma = {2, 1}, float[2] beta = {1, -1}, float[2] mean = {0.5, 0}, float[2] var = {4, 1}"
CONV = f"""g (float[n, 1, 3, 3] x) => (float[n, 2, 3, 3] y)
<float[2, 1, 1, 1] w = {{1, 2}}, float[2] b = {{3, 4}}, {BN}> {{
    c = Conv(x, w, b)
    y = BatchNormalization<epsilon = 0.0>(c, gamma, beta, mean, var)
}}"""


def test_golden_conv() -> None:
    model = graph(CONV)
    next(iter(model.graph)).name = "conv"
    assert sites(model, FoldBatchNorm())[0].applied
    assert text(model) == expected("""
        y = Conv(x, conv.weight, conv.bias)
        conv.weight: [2,1,1,1]
        conv.bias: [2]
    """)
    # s = gamma / sqrt(var) = (1, 1); b' = (b - mean) * s + beta = (3 - 0.5 + 1, 4 - 0 - 1)
    assert values(model, "conv.weight") == [1, 2]
    assert values(model, "conv.bias") == [3.5, 3]


def test_golden_conv_without_bias() -> None:
    model = graph(CONV.replace("Conv(x, w, b)", "Conv(x, w)"))
    next(iter(model.graph)).name = "conv"
    assert sites(model, FoldBatchNorm())[0].applied
    assert values(model, "conv.bias") == [0.5, -1]


def test_golden_gemm_with_beta() -> None:
    body = f"""g (float[n, 1] x) => (float[n, 2] y) <float[1, 2] w = {{1, 2}}, float[1, 2] b = {{3, 4}}, {BN}> {{
        c = Gemm<alpha = 2.0, beta = 0.5>(x, w, b)
        y = BatchNormalization<epsilon = 0.0>(c, gamma, beta, mean, var)
    }}"""
    model = graph(body)
    next(iter(model.graph)).name = "gemm"
    assert sites(model, FoldBatchNorm())[0].applied
    (gemm,) = model.graph
    assert (gemm.attributes.get_float("alpha"), gemm.attributes.get_float("beta")) == (2.0, 1.0)
    assert values(model, "gemm.bias") == [0.5 * 3 - 0.5 + 1, 0.5 * 4 - 1]


def values(model: ir.Model, name: str) -> list[float]:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return [float(v) for v in tensor.numpy().reshape(-1)]


GUARDS = {
    "no Conv, ConvTranspose or Gemm before it": CONV.replace("Conv(x, w, b)", "Relu(x)")
    .replace("float[n, 1, 3, 3] x", "float[n, 2, 3, 3] x")
    .replace("float[2, 1, 1, 1] w = {1, 2}, float[2] b = {3, 4}, ", ""),
    "runs in training mode": CONV.replace("y = Batch", "y, m, v = Batch").replace(
        "epsilon = 0.0", "epsilon = 0.0, training_mode = 1"
    ),
    "scale, bias, mean or variance is not constant": CONV.replace("3, 3] x)", "3, 3] x, float[2] gamma)").replace(
        "float[2] gamma = {2, 1}, ", ""
    ),
    "the output of Conv has another reader or is a graph output": CONV.replace(
        "3, 3] y)", "3, 3] y, float[n, 2, 3, 3] c)"
    ),
    "the weight of Conv is not constant": CONV.replace("3, 3] x)", "3, 3] x, float[2, 1, 1, 1] w)").replace(
        "float[2, 1, 1, 1] w = {1, 2}, ", ""
    ),
    "the weight of Conv has another reader": CONV.replace("3, 3] y)", "3, 3] y, float[2, 1, 1, 1] z)").replace(
        "c = Conv", "z = Neg(w)\n c = Conv"
    ),
    "the bias of Conv is not one constant per channel": CONV.replace("3, 3] x)", "3, 3] x, float[2] b)").replace(
        "float[2] b = {3, 4}, ", ""
    ),
    "the bias of Gemm is not one constant per channel": f"""g (float[2, 1] x) => (float[2, 2] y)
        <float[1, 2] w = {{1, 2}}, float[2, 2] b = {{1, 2, 3, 4}}, {BN}> {{
        c = Gemm(x, w, b)
        y = BatchNormalization(c, gamma, beta, mean, var)
    }}""",
}


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    model = graph(GUARDS[reason])
    before = serialized(model)
    (record,) = pipeline.run(model, [FoldBatchNorm()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


def test_two_readers_of_the_convolution_are_a_guard() -> None:
    body = CONV.replace("3, 3] y)", "3, 3] y, float[n, 2, 3, 3] z)").replace("y = Batch", "z = Relu(c)\n y = Batch")
    assert sites(graph(body), FoldBatchNorm())[0].reason == "the output of Conv has another reader or is a graph output"


def test_a_default_of_an_optional_input_is_not_constant() -> None:
    model = graph(CONV)
    model.graph.inputs.append(model.graph.initializers["w"])
    assert sites(model, FoldBatchNorm())[0].reason == "the weight of Conv is not constant"


def test_convolution_of_an_outer_graph_is_a_guard() -> None:
    body = f"""g (float[n, 1, 3, 3] x, bool p) => (float[n, 2, 3, 3] y) <float[2, 1, 1, 1] w = {{1, 2}}, {BN}> {{
        c = Conv(x, w)
        y = If (p) <
            then_branch = t () => (float[n, 2, 3, 3] a) {{ a = BatchNormalization(c, gamma, beta, mean, var) }},
            else_branch = e () => (float[n, 2, 3, 3] d) {{ d = Relu(x2) }}
        >
    }}""".replace("Relu(x2)", "Concat<axis = 1>(x, x)")
    assert sites(graph(body), FoldBatchNorm())[0].reason == "Conv belongs to another graph"


def random_graph(
    op: str, channels: int, groups: int, *, bias: bool, transposed: bool, rng: np.random.Generator
) -> ir.Model:
    """One weighted node and its BatchNormalization."""
    width = channels * groups
    shapes: Mapping[str, tuple[int, ...]] = {
        "Conv": (width, 3, 2, 2),
        "ConvTranspose": (3 * groups, channels, 2, 2),
        "Gemm": (width, 3) if transposed else (3, width),
    }
    attributes = {"group": groups} if op != "Gemm" else {"transB": int(transposed), "alpha": 0.5, "beta": 1.5}
    arrays: dict[str, Array] = {"w": rng.standard_normal(shapes[op]).astype(np.float32)}
    if bias:
        arrays["b"] = rng.standard_normal(width).astype(np.float32)
    for name in ("gamma", "beta", "mean"):
        arrays[name] = rng.standard_normal(width).astype(np.float32)
    arrays["var"] = rng.uniform(0.1, 4, width).astype(np.float32)
    x = [None, 3] if op == "Gemm" else [None, 3 * groups, 4, 5]
    nodes = [
        onnx.helper.make_node(op, ["x", "w", *(["b"] if bias else [])], ["c"], name="node", **attributes),
        onnx.helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"], epsilon=1e-3),
    ]
    return ir.from_proto(
        onnx.helper.make_model(
            onnx.helper.make_graph(
                nodes, "g",
                [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
                [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * len(x))],
                [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items()],
            ),
            opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10,
        )
    )  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(["Conv", "ConvTranspose", "Gemm"]), st.tuples(st.integers(1, 4), st.integers(1, 3)), st.booleans(),
    st.booleans(), st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(op: str, size: tuple[int, int], bias: bool, transposed: bool, seed: int) -> None:
    channels, groups = size
    rng = np.random.default_rng(seed)
    model = random_graph(op, channels, groups, bias=bias, transposed=transposed, rng=rng)
    feeds = {"x": rng.standard_normal((2, 3) if op == "Gemm" else (2, 3 * groups, 4, 5)).astype(np.float32)}
    before, interface = compute(model, feeds), Interface.of(model)
    (record,) = pipeline.run(model, [FoldBatchNorm()])
    assert record.modified
    assert [n.op_type for n in model.graph] == [op]
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    # (W x - mean) * s cancels: the error is eps of the larger terms, |W x| s and |mean| s, not of the difference; with
    # |gamma / sqrt(var)| < 15 and |mean| < 5 in these draws they exceed the largest output less than 64 times.
    assert distance(compute(model, feeds), before)[0] <= 64 * reassociation(model)
    (again,) = pipeline.run(model, [FoldBatchNorm()])
    assert not again.modified


def test_real_model() -> None:
    exported = export(digits_cnn.recipe(), opset=20, ir_version=10)
    model = exported.model
    images = np.random.default_rng(0).uniform(0, 1, (5, 1, 8, 8)).astype(np.float32)
    before = compute(model, {"image": images})
    found = sites(model, FoldBatchNorm())
    assert [s.reason for s in found] == [None] * 4
    assert not [n for n in model.graph if n.op_type == "BatchNormalization"]
    assert not [n for n in model.graph.initializers if "running" in n]
    assert distance(compute(model, {"image": images}), before)[0] <= reassociation(model)
    assert math.isfinite(reassociation(model))

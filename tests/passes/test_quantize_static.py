from __future__ import annotations

import collections
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.calibrate import Range, calibrate, channel_means
from dlc.errors import Unsupported
from dlc.passes.quantize_static import QuantizeStatic, channels_to_average, mean_shift, tensors_to_calibrate
from dlc.passes.weighted import weighted_nodes
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Array

HEAD = '<ir_version: 10, opset_import: ["" : 20]>'
NET = f"""
{HEAD}
g (float[n, 2, 4, 4] x) => (float[n, 3] y)
<float[2, 2, 1, 1] w1 = {{1.0, -2.0, 3.0, 4.0}}, float[2] b1 = {{0.5, -0.5}},
 float[2, 1, 3, 3] w2 = {{1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 4.0, 1.0, 0.0, 1.0, 0.0}},
 float[3, 2] w3 = {{1.0, 0.0, 0.0, 1.0, 1.0, 1.0}}, float[3] b3 = {{0.0, 1.0, 2.0}},
 float zero = {{0.0}}, float six = {{6.0}}, int64[2] axes = {{2, 3}}> {{
    [expand] c = Conv (x, w1, b1)
    r = Relu (c)
    [depthwise] d = Conv <group = 2, pads = [1, 1, 1, 1]> (r, w2)
    k = Clip (d, zero, six)
    s = Add (r, k)
    m = ReduceMean <keepdims = 1> (s, axes)
    f = Flatten (m)
    [head] y = Gemm <transB = 1> (f, w3, b3)
}}
"""
RANGES = {
    name: Range(low, high)
    for name, low, high in [("x", -1, 1.55), ("r", 0, 2.55), ("k", 0, 7), ("s", 0, 5.1), ("m", 0, 2.55)]
}


def lines(model: ir.Model) -> list[str]:
    return [
        f"{', '.join(str(v.name) for v in n.outputs)} = {n.op_type}({', '.join(str(v.name) for v in n.inputs if v)})"
        for n in model.graph
    ]


def initializer(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def parse(text: str) -> ir.Model:
    """Read a model and infer the types inside, as every model has them after export."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(ir.from_onnx_text(text))))


def quantized(text: str, **options: object) -> tuple[ir.Model, pipeline.PassRecord]:
    model = parse(text)
    [record] = pipeline.run(model, [QuantizeStatic(ranges=RANGES, **options)])  # type: ignore[arg-type]
    return model, record


def run(model: ir.Model, x: Array, *, optimised: bool) -> Array:
    with OrtCpuRunner(model, SessionConfig(graph_optimization="all" if optimised else "none")) as runner:
        return next(iter(runner.run({"x": x}).values()))


def kernels(model: ir.Model) -> collections.Counter[str]:
    """Operators of the graph that a default session really runs."""
    options = onnxruntime.SessionOptions()
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
        return collections.Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


def sqnr_db(reference: Array, got: Array) -> float:
    noise = float(((reference - got) ** 2).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(float((reference**2).sum()) / noise))


def test_golden_structure() -> None:
    model, record = quantized(NET)
    assert lines(model) == [
        "x_quantized = QuantizeLinear(x, x_scale, x_zero_point)",
        "x_dequantized = DequantizeLinear(x_quantized, x_scale, x_zero_point)",
        "w1_dequantized = DequantizeLinear(w1_quantized, w1_scale, w1_zero_point)",
        "b1_dequantized = DequantizeLinear(b1_quantized, b1_scale)",
        "c = Conv(x_dequantized, w1_dequantized, b1_dequantized)",
        "r_quantized = QuantizeLinear(c, r_scale, r_zero_point)",
        "r_dequantized = DequantizeLinear(r_quantized, r_scale, r_zero_point)",
        "w2_dequantized = DequantizeLinear(w2_quantized, w2_scale, w2_zero_point)",
        "d = Conv(r_dequantized, w2_dequantized)",
        "k_quantized = QuantizeLinear(d, k_scale, k_zero_point)",
        "k_dequantized = DequantizeLinear(k_quantized, k_scale, k_zero_point)",
        "s = Add(r_dequantized, k_dequantized)",
        "s_quantized = QuantizeLinear(s, s_scale, s_zero_point)",
        "s_dequantized = DequantizeLinear(s_quantized, s_scale, s_zero_point)",
        "m = GlobalAveragePool(s_dequantized)",
        "m_quantized = QuantizeLinear(m, r_scale, r_zero_point)",
        "m_dequantized = DequantizeLinear(m_quantized, r_scale, r_zero_point)",
        "f = Flatten(m_dequantized)",
        "f_quantized = QuantizeLinear(f, r_scale, r_zero_point)",
        "f_dequantized = DequantizeLinear(f_quantized, r_scale, r_zero_point)",
        "w3_dequantized = DequantizeLinear(w3_quantized, w3_scale, w3_zero_point)",
        "b3_dequantized = DequantizeLinear(b3_quantized, b3_scale)",
        "y = Gemm(f_dequantized, w3_dequantized, b3_dequantized)",
    ]
    assert [(s.op, s.reason) for s in record.sites] == [
        ("Conv", None), ("Conv", None), ("Add", None), ("ReduceMean", None), ("Flatten", None), ("Gemm", None),
    ]  # fmt: skip
    assert not {"w1", "b1", "zero", "six", "axes"} & set(model.graph.initializers)


def test_golden_numbers() -> None:
    """x: 2.55 over 255 steps, zero at 100. Filters (1, -2) and (3, 4); the second is a pair of equal signs: 7 / 127."""
    model, _ = quantized(NET)
    assert initializer(model, "x_scale") == pytest.approx(0.01, rel=2**-23)
    assert initializer(model, "x_zero_point") == 100
    assert initializer(model, "w1_quantized").reshape(2, 2).tolist() == [[64, -127], [54, 73]]
    np.testing.assert_array_equal(initializer(model, "w1_scale"), np.array([2, 7], np.float32) / np.float32(127))
    assert initializer(model, "b1_quantized").tolist() == [
        round(0.5 / 0.01 / (2 / 127)),
        round(-0.5 / 0.01 / (7 / 127)),
    ]
    assert np.abs(initializer(model, "w2_quantized")).reshape(2, 9).max(axis=1).tolist() == [127, 127]  # depthwise
    assert initializer(model, "k_scale") == pytest.approx(6 / 255, rel=2**-23)  # Clip ends at 6, the data at 7


def test_full_range_without_saturation_to_fear() -> None:
    model, _ = quantized(NET, reduce_range=False)
    assert initializer(model, "w1_quantized").reshape(2, 2).tolist() == [[64, -127], [95, 127]]


def test_signed_activations() -> None:
    model, _ = quantized(NET, activation_dtype="int8")
    assert initializer(model, "x_zero_point").dtype == np.int8
    assert initializer(model, "r_zero_point") == -128


def test_default_session_runs_integer_kernels_only() -> None:
    model, _ = quantized(NET)
    ran = kernels(model)
    assert ran["QLinearConv"] == 2
    assert ran["QLinearAdd"] == ran["QLinearGlobalAveragePool"] == ran["QGemm"] == 1
    assert not {"Conv", "Gemm", "Add", "Relu", "Clip", "DequantizeLinear"} & set(ran)


def test_tensors_to_calibrate_are_those_that_are_needed() -> None:
    assert tensors_to_calibrate(parse(NET)) == ["x", "r", "k", "s", "m"]


def test_excluded_nodes_stay_and_say_so() -> None:
    model, record = quantized(NET, exclude=("depthwise",))
    assert {s.node: s.reason for s in record.sites}["depthwise"] == "excluded"
    assert "d = Conv(r_dequantized_channels, w2)" in lines(model)  # see keep_float
    assert "s = Add(r_dequantized, k)" in lines(model)  # k is float now, so the join stays float too


def with_weights(text: str, weights: dict[str, Array]) -> ir.Model:
    """Parse ``g (inputs) => ...`` with initializers too long to write out."""
    declared = "".join(f", float[{','.join(map(str, w.shape))}] {name}" for name, w in weights.items())
    model = ir.from_onnx_text(text.replace(") =>", f"{declared}) =>", 1))
    for value in [v for v in model.graph.inputs if v.name in weights]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(weights[str(value.name)], name=value.name)
        model.graph.register_initializer(value)
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


def test_align_channels_pads_a_dense_convolution() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 3, 3, 3)).astype(np.float32)
    text = f"{HEAD} g (float[n, 3, 5, 5] x) => (float[n, 16, 5, 5] y) {{ y = Conv <pads = [1, 1, 1, 1]> (x, w) }}"
    model = with_weights(text, {"w": weight})
    ranges = {"x": Range(-4, 4), "y": Range(-20, 20)}
    plain, padded = model.clone(), model.clone()
    pipeline.run(plain, [QuantizeStatic(ranges=ranges, reduce_range=False, align_channels=False)])
    pipeline.run(padded, [QuantizeStatic(ranges=ranges, reduce_range=False)])
    assert initializer(padded, "w_quantized").shape == (16, 4, 3, 3)
    assert not initializer(padded, "w_quantized")[:, 3].any()
    assert (initializer(padded, "w_quantized")[:, :3] == initializer(plain, "w_quantized")).all()
    x = rng.standard_normal((2, 3, 5, 5)).astype(np.float32)
    # a zero channel adds nothing to any sum, and without optimisation both sum the same float32 products: of the 27,
    # in another order, so a level may round to its neighbour, 40 / 255
    difference = np.abs(run(plain, x, optimised=False) - run(padded, x, optimised=False))
    assert difference.max() <= 40 / 255 * 1.001
    assert (difference > 0).mean() < 0.01
    assert kernels(padded)["QLinearConv"] == kernels(plain)["QLinearConv"] == 1


GUARDS = {
    "a transposed convolution": (
        "(float[1, 2, 3, 3] x) => (float[1, 1, 3, 3] y) <float[2, 1, 1, 1] w = {1.0, 2.0}>{ y = ConvTranspose (x, w) }",
        "only Conv, Gemm and MatMul",
    ),
    "a table": (
        "(int64[2] x) => (float[2, 2] y) <float[2, 2] w = {1.0, 2.0, 3.0, 4.0}> { y = Gather (w, x) }",
        "only Conv, Gemm and MatMul",
    ),
    "the weight on the left": (
        "(float[2, 1] x) => (float[2, 1] y) <float[2, 2] w = {1.0, 2.0, 3.0, 4.0}> { y = MatMul (w, x) }",
        "not the second operand",
    ),
    "a stack of matrices": (
        "(float[1, 1, 2] x) => (float[1, 1, 1] y) <float[1, 2, 1] w = {1.0, 2.0}> { y = MatMul (x, w) }",
        "3 dimensions",
    ),
    "alpha": (
        "(float[1, 2] x) => (float[1, 1] y) <float[2, 1] w = {1.0, 2.0}> { y = Gemm <alpha = 2.0> (x, w) }",
        "alpha or beta",
    ),
    "transA": (
        "(float[2, 1] x) => (float[1, 1] y) <float[2, 1] w = {1.0, 2.0}> { y = Gemm <transA = 1> (x, w) }",
        "transposes its activation",
    ),
    "a computed bias": (
        "(float[1, 2] x, float[1] b) => (float[1, 1] y) <float[2, 1] w = {1.0, 2.0}> { y = Gemm (x, w, b) }",
        "bias is not a constant of 1 elements",
    ),
    "another type": (
        "(double[1, 2] x) => (double[1, 1] y) <double[2, 1] w = {1.0, 2.0}> { y = MatMul (x, w) }",
        "computes in float64",
    ),
    "no range": (
        "(float[1, 2] q) => (float[1, 1] y) <float[2, 1] w = {1.0, 2.0}> { y = MatMul (q, w) }",
        "no calibrated range of 'q'",
    ),
}


@pytest.mark.parametrize(("body", "reason"), GUARDS.values(), ids=GUARDS)
def test_guard_leaves_the_graph_and_gives_the_reason(body: str, reason: str) -> None:
    model = ir.from_onnx_text(f"{HEAD} g {body}")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    [record] = pipeline.run(model, [QuantizeStatic(ranges=RANGES)])
    assert not record.modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    [site] = record.sites
    assert reason in str(site.reason)


def test_weights_that_are_not_finite_are_left() -> None:
    model = ir.from_onnx_text(NET)
    value = model.graph.initializers["w1"]
    value.const_value = ir.tensor(np.full((2, 2, 1, 1), np.nan, np.float32), name="w1")
    [record] = pipeline.run(model, [QuantizeStatic(ranges=RANGES)])
    assert record.sites[0].reason == "the weight or bias holds NaN or infinity"


def test_a_subgraph_is_left() -> None:
    text = f"""
    {HEAD}
    g (float[1, 2] x, bool c) => (float[1, 1] y) <float[2, 1] w = {{1.0, 2.0}}> {{
        y = If (c) <then_branch = a () => (float[1, 1] t) {{ t = MatMul (x, w) }},
                    else_branch = b () => (float[1, 1] e) {{ e = MatMul (x, w) }}>
    }}
    """
    _, record = quantized(text)
    assert not record.modified
    assert [s.reason for s in record.sites] == ["inside a subgraph, where nothing is calibrated"] * 2


def test_an_old_opset_is_named() -> None:
    with pytest.raises(Unsupported, match="opset 12"):
        QuantizeStatic(ranges={})(ir.from_onnx_text(NET.replace('"" : 20', '"" : 12')))


@pytest.mark.parametrize(
    "tail",
    ["k = Clip (d, one, six)", "k = Clip (x, zero, d)", "k = Relu (d)\n e2 = Neg (d)"],
    ids=["zero lies outside the bounds", "the convolution is a bound", "two readers"],
)
def test_an_activation_that_cannot_be_absorbed_stays(tail: str) -> None:
    text = f"""
    {HEAD}
    g (float[1, 1, 1] x) => (float[1, 2, 1] k)
    <float[2, 1, 1] w = {{1.0, 2.0}}, float one = {{1.0}}, float zero = {{0.0}}, float six = {{6.0}}> {{
        d = Conv (x, w)
        {tail}
    }}
    """
    model = ir.from_onnx_text(text)
    [record] = pipeline.run(model, [QuantizeStatic(ranges=dict.fromkeys(["x", "d", "k"], Range(-1, 1)))])
    assert [s.reason for s in record.sites] == [None]
    assert any(n.op_type in ("Clip", "Relu") for n in model.graph)


def test_a_convolution_that_is_an_output_keeps_its_name_and_type() -> None:
    text = f"""
    {HEAD}
    g (float[n, 1, 2, 2] x) => (float[n, 2, 2, 2] y, float[n, 2, 2, 2] z) <float[2, 1, 1, 1] w = {{1.0, 0.5}}> {{
        c = Conv (x, w)
        y = Relu (c)
        z = Neg (y)
    }}
    """
    model = ir.from_onnx_text(text)
    [record] = pipeline.run(model, [QuantizeStatic(ranges={"x": Range(0, 2.55), "y": Range(0, 2.55)})])
    assert [s.reason for s in record.sites] == [None]  # and the interface is as it was: the pipeline checks it
    x = np.array([[[[0.0, 0.5], [1.0, 2.55]]]], np.float32)
    with OrtCpuRunner(model) as runner:
        outputs = runner.run({"x": x})
    # x lies on its levels of 0.01; weights 127 and 64 of 127 (64 for 63.5), and half a step of 0.01 at the output
    np.testing.assert_allclose(outputs["y"], np.concatenate([x, x / 2], axis=1), atol=0.005 + 2.55 * 0.5 / 127)
    np.testing.assert_array_equal(outputs["z"], -outputs["y"])


SQNR_BOUND = 20.0
"""Ranges of Gaussian data span about 9 deviations: a step of 9/255 is 40 dB below the signal at each tensor; paired
weights give about 38 dB. At most 13 such sources in a row cost 11 dB. The rest is room for outputs that cancel."""


def random_net(rng: np.random.Generator) -> Iterator[str]:
    """Lines of a random net of convolutions, activations, joins and moves, on [n, 4, 6, 6]."""
    last, shape = "x", 4
    for i in range(int(rng.integers(1, 6))):
        kind = rng.choice(["dense", "depthwise", "add", "pool", "float", "wide"])
        match kind:
            case "dense" | "wide":
                out = 16 if kind == "wide" else 4
                k = int(rng.choice([1, 3]))
                yield f"w{i}:{out},{shape},{k},{k}|v{i} = Conv <pads = [{','.join([str(k // 2)] * 4)}]> ({last}, w{i})"
                shape = out
            case "depthwise":
                yield f"w{i}:{shape},1,3,3|v{i} = Conv <group = {shape}, pads = [1, 1, 1, 1]> ({last}, w{i})"
            case "add":
                yield f"|v{i} = Add ({last}, {last})"
            case "pool":
                yield f"|v{i} = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({last})"
            case "float":
                yield f"|v{i} = Softplus ({last})"
        last = f"v{i}"
        if rng.random() < 0.5:
            yield f"|r{i} = Relu ({last})"
            last = f"r{i}"
    yield f"|m = ReduceMean <keepdims = 1> ({last}, axes)"
    yield "|f = Flatten (m)"
    yield f"head:{shape},3|y = Gemm (f, head)"


def build(rng: np.random.Generator) -> ir.Model:
    weights: dict[str, Array] = {}
    body = []
    for line in random_net(rng):
        declared, _, statement = line.partition("|")
        body.append(statement)
        if declared:
            name, _, shape = declared.partition(":")
            size = [int(d) for d in shape.split(",")]
            weights[name] = (rng.standard_normal(size) / np.sqrt(np.prod(size[1:]) / 2)).astype(np.float32)
    text = f"{HEAD} g (float[n, 4, 6, 6] x) => (float[n, 3] y) <int64[2] axes = {{2, 3}}> {{ {chr(10).join(body)} }}"
    return with_weights(text, weights)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_random_nets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = build(rng)
    x = rng.standard_normal((8, 4, 6, 6)).astype(np.float32)
    ranges = calibrate(model, [{"x": x}], tensors_to_calibrate(model), method="minmax")
    weighted = [n.name for n in weighted_nodes(model.graph)]
    after = model.clone()
    [record] = pipeline.run(after, [QuantizeStatic(ranges=ranges)])  # interface, form, honest ``modified``
    assert record.modified
    sites = collections.Counter(s.node for s in record.sites if s.op in ("Conv", "Gemm"))
    assert sum(sites.values()) == len(weighted)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    [again] = pipeline.run(after.clone(), [QuantizeStatic(ranges=ranges)])
    assert not again.modified
    assert not {"Conv", "Gemm"} & set(kernels(after))
    fused, unfused = run(after, x, optimised=True), run(after, x, optimised=False)
    # integer kernels round the same sums; where float32 sums fall on the other side of a half, one level of noise more
    # is added, of the kind that quantization adds everywhere: the two agree at least as well as either with float
    reference = run(model, x, optimised=False)
    assert sqnr_db(reference, fused) > SQNR_BOUND
    assert sqnr_db(unfused, fused) > SQNR_BOUND


def test_means_are_asked_for_along_the_axis_of_channels() -> None:
    assert channels_to_average(parse(NET)) == {"x": 1, "r": 1, "f": -1}


def test_a_shift_is_what_wrong_weights_add_on_average() -> None:
    rng = np.random.default_rng(0)
    for channels, groups, outputs in ((6, 1, 4), (6, 3, 9), (6, 6, 6)):
        error, x = rng.normal(size=(outputs, channels // groups)), rng.normal(size=(50, channels))
        each = np.split(x, groups, axis=1)
        added = np.concatenate([e @ w.T for e, w in zip(each, np.split(error, groups), strict=True)], axis=1)
        shift = mean_shift(error[:, :, None, None], x.mean(axis=0), groups)
        np.testing.assert_allclose(shift, added.mean(axis=0), atol=1e-14)  # a few hundred roundings of 1e-16


def test_corrected_biases_take_the_mean_error_of_weights_away() -> None:
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(8, 5)).astype(np.float32), np.ones(8, np.float32)
    w[:, 0] *= 300  # one large weight a row: the scale is too coarse for the others
    body = "g (float[n, 5] x) => (float[n, 8] y) { y = Gemm <transB = 1> (x, w, b) }"
    model = with_weights(f"{HEAD} {body}", {"w": w, "b": b})
    data = [{"x": rng.uniform(1, 2, (64, 5)).astype(np.float32)}]
    expected = run(model, data[0]["x"], optimised=False)
    names = tensors_to_calibrate(model)
    plain = QuantizeStatic(ranges=calibrate(model, data, names, method="minmax"), reduce_range=False)
    means = channel_means(model, data, channels_to_average(model))
    off = {}
    for form in (plain, replace(plain, correct_bias=True, means=means)):
        changed = model.clone()
        form(changed)
        off[form.correct_bias] = np.abs((run(changed, data[0]["x"], optimised=True) - expected).mean(axis=0)).max()
    assert off[True] < off[False] / 4

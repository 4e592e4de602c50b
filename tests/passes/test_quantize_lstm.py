from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.base import constant
from dlc.passes.quantize_dynamic import FULL, REDUCED
from dlc.passes.quantize_lstm import KERNEL, QuantizeLstm, quantize
from dlc.tolerance import EPS32
from dlc.types import Array, Feeds
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, serialized, sites, text
from tests.passes.weights import sqnr, weighted

T, K, H = 5, 6, 4
RNG = np.random.default_rng(0)


def random(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


W, R, B = random(1, 4 * H, K), random(1, 4 * H, H), random(1, 8 * H)
LSTM = f"""g (float[t, n, {K}] x, float[1, {4 * H}, {K}] w, float[1, {4 * H}, {H}] r, float[1, {8 * H}] b)
    => (float[t, 1, n, {H}] y, float[1, n, {H}] h) {{
    f = Relu(x)
    y, h = LSTM<hidden_size = {H}>(f, w, r, b)
}}"""
FEEDS: Feeds = {"x": random(T, 3, K)}


def test_golden() -> None:
    model = weighted(LSTM, {"w": W, "r": R, "b": B})
    assert [s.reason for s in sites(model, QuantizeLstm())] == [None]
    assert text(model) == expected("""
        f = Relu(x)
        y, h = DynamicQuantizeLSTM(f, w.quantized, r.quantized, b, , , , , w.scale, w.zero_point, r.scale, r.zero_point)
        b: [1,32]
        w.quantized: [1,6,16]
        w.scale: [1,16]
        w.zero_point: [1,16]
        r.quantized: [1,4,16]
        r.scale: [1,16]
        r.zero_point: [1,16]
    """)
    assert model.opset_imports["com.microsoft"] == 1


def test_rows_of_zeros_and_the_largest_weights_are_exact() -> None:
    weight = W.copy()
    weight[0, 3] = 0
    quantized, scale = quantize(weight, limit=FULL)
    assert scale[0, 3] == 1
    peaks = np.abs(quantized.astype(int)).max(axis=1)[0]
    assert [int(p) for p in peaks] == [FULL] * 3 + [0] + [FULL] * (4 * H - 4)
    reduced, _ = quantize(W, limit=REDUCED)
    assert 2 * 255 * int(np.abs(reduced.astype(int)).max()) <= np.iinfo(np.int16).max


def lstm(attributes: str = "", directions: int = 1, extra: str = "", given: str = "") -> str:
    """One LSTM of any kind behind a Relu; ``extra``: declarations of what ``given`` names as further operands."""
    d = directions
    return f"""g (float[t, n, {K}] x, float[{d}, {4 * H}, {K}] w,
        float[{d}, {4 * H}, {H}] r, float[{d}, {8 * H}] b{extra})
        => (float[t, {d}, n, {H}] y, float[{d}, n, {H}] h, float[{d}, n, {H}] c) {{
        f = Relu(x)
        y, h, c = LSTM<hidden_size = {H}{attributes}>(f, w, r, b{given})
    }}"""


STATES = f", float[1, n, {H}] h0, float[1, n, {H}] c0"
KINDS = {
    "plain": (lstm(), {}),
    "reverse": (lstm(', direction = "reverse"'), {}),
    "bidirectional": (lstm(', direction = "bidirectional"', 2), {}),
    "clip": (lstm(", clip = 0.5"), {}),
    "activations": (lstm(', activations = ["HardSigmoid", "Relu", "Tanh"]'), {}),
    "coupled gates": (lstm(", input_forget = 1"), {}),
    "states": (lstm("", 1, STATES, ", , h0, c0"), {"h0": random(1, 3, H), "c0": random(1, 3, H)}),
    "lengths": (lstm("", 1, ", int32[n] s", ", s"), {"s": np.array([T, 1, 3], np.int32)}),
    "peepholes": (lstm("", 1, f", float[1, {3 * H}] p", ", , , , p"), {"p": random(1, 3 * H)}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_the_products_stays_as_it_was(kind: str) -> None:
    """Weights that 8 bits hold exactly, and features that do too: only h is rounded, to 1/255 of a range within 2."""
    body, feeds = KINDS[kind]
    d = 2 if kind == "bidirectional" else 1
    levels = RNG.integers(-FULL, FULL + 1, (d, 4 * H, K)), RNG.integers(-FULL, FULL + 1, (d, 4 * H, H))
    for each in levels:
        each[..., 0] = FULL  # each row reaches the limit, so that its scale is 1/256
    w, r = (each.astype(np.float32) / 256 for each in levels)
    model = weighted(body, {"w": w, "r": r, "b": random(d, 8 * H)})
    exact = np.round(np.abs(random(T, 3, K)) * 16).clip(0, 255) / 16
    exact[0, 0, 0] = 255 / 16  # the scale of the features is 1/16
    inputs: Feeds = {"x": exact.astype(np.float32), **feeds}
    before = compute(model, inputs)
    assert [s.reason for s in sites(model, QuantizeLstm())] == [None]
    after = compute(model, inputs)
    for name, stated in before.items():
        # One step of h, at most max|h| / 127, through rows of R whose magnitudes sum to at most H/2, is H/254 of the
        # largest h a gate; a wrong operand is off by the outputs themselves.
        assert sqnr(stated, after[name]) > 20 * np.log10(254 / H / 4), name


BODY = LSTM
GUARDS = {
    "W is not constant": BODY.replace("y, h = LSTM", "v = Neg(w)\n y, h = LSTM").replace("(f, w,", "(f, v,"),
    "R is not constant": BODY.replace("y, h = LSTM", "v = Neg(r)\n y, h = LSTM").replace("w, r, b)\n}", "w, v, b)\n}"),
    "W is also read by Neg, which keeps it in FP32: the file would hold it twice": BODY.replace(
        f"float[1, n, {H}] h)", f"float[1, n, {H}] h, float[1, {4 * H}, {K}] z)"
    ).replace("f = Relu(x)", "f = Relu(x)\n z = Neg(w)"),
    "W is DOUBLE, not FLOAT": BODY.replace("float[", "double["),
    "W holds NaN or infinity": BODY,
    f"layout=1: {KERNEL} reads the sequence first": BODY.replace("<hidden_size", "<layout = 1, hidden_size")
    .replace(f"float[t, 1, n, {H}] y", f"float[t, n, 1, {H}] y").replace(f"float[1, n, {H}] h", f"float[t, 1, {H}] h"),
    "it reads the input 'x', which one scale for a whole sequence may not hold: inputs=False": BODY.replace(
        "f = Relu(x)", "f = Identity(x)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS, ids=[g[:30] for g in GUARDS])
def test_guard(reason: str) -> None:
    w, r, b = W, R, B
    if "infinity" in reason:
        w = np.where(np.arange(K) == 2, np.float32(np.nan), W)
    if "DOUBLE" in reason:
        w, r, b = (each.astype(np.float64) for each in (W, R, B))
    model = weighted(GUARDS[reason], {"w": w, "r": r, "b": b})
    before = serialized(model)
    (record,) = pipeline.run(model, [QuantizeLstm()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


def test_a_graph_input_is_no_constant() -> None:
    model = weighted(LSTM, {"r": R, "b": B})
    assert [s.reason for s in sites(model, QuantizeLstm())] == ["W is not constant"]


def test_a_weight_that_is_an_output_is_a_guard() -> None:
    model = weighted(LSTM, {"w": W, "r": R, "b": B})
    model.graph.outputs.append(model.graph.initializers["w"])
    assert [s.reason for s in QuantizeLstm().call(model).sites] == ["W is a graph output"]


def test_a_node_of_a_subgraph_is_a_guard() -> None:
    inner = f"LSTM<hidden_size = {H}>(x, w, r, b)"
    body = f"""g (float[t, n, {K}] x, float[1, {4 * H}, {K}] w, float[1, {4 * H}, {H}] r, float[1, {8 * H}] b, bool p)
        => (float[t, 1, n, {H}] y) {{
        y = If (p) <then_branch = t () => (float[t, 1, n, {H}] a) {{ a = {inner} }},
                    else_branch = e () => (float[t, 1, n, {H}] c) {{ c = {inner} }}>
    }}"""
    model = weighted(body, {"w": W, "r": R, "b": B})
    assert [s.reason for s in sites(model, QuantizeLstm())] == ["the node is in a subgraph"] * 2


def test_the_sequence_may_be_an_input_if_asked() -> None:
    model = weighted(LSTM.replace("f = Relu(x)", "f = Identity(x)"), {"w": W, "r": R, "b": B})
    assert [s.reason for s in sites(model, QuantizeLstm(inputs=True))] == [None]


def test_a_weight_of_two_layers_is_quantized_once() -> None:
    body = LSTM.replace(f"float[1, n, {H}] h)", f"float[1, n, {H}] h, float[t, 1, n, {H}] z)").replace(
        "f = Relu(x)", f"f = Relu(x)\n z = LSTM<hidden_size = {H}>(f, w, r)"
    )
    model = weighted(body, {"w": W, "r": R, "b": B})
    assert [s.reason for s in sites(model, QuantizeLstm())] == [None, None]
    assert sorted(model.graph.initializers) == [
        "b", "r.quantized", "r.scale", "r.zero_point", "w.quantized", "w.scale", "w.zero_point"
    ]  # fmt: skip


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 1 << 16))
def test_properties(n: int, k: int, h: int, reduce_range: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    body = f"""g (float[1, n, {k}] x, float[1, {4 * h}, {k}] w, float[1, {4 * h}, {h}] r) => (float[1, n, {h}] c) {{
        f = Relu(x)
        _, _, c = LSTM<hidden_size = {h}>(f, w, r)
    }}""".replace("_, _, c", "y, hidden, c")
    w, r = (rng.standard_normal((1, 4 * h, size)).astype(np.float32) for size in (k, h))
    model = weighted(body, {"w": w, "r": r})
    feeds: Feeds = {"x": rng.standard_normal((1, n, k)).astype(np.float32)}
    before, interface = compute(model, feeds)["c"], Interface.of(model)
    (record,) = pipeline.run(model, [QuantizeLstm(reduce_range=reduce_range)])
    assert record.modified
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = compute(model, feeds)["c"]
    # One step from h = 0: c = sigmoid(i) tanh(g), whose slopes are at most 1/4 and 1. A gate errs by at most
    # sum|x| sw/2 + sum|w| sx/2 + k sx sw/4; weights of 7 bits alone never saturate where there is no dot product.
    if reduce_range:
        x = np.maximum(feeds["x"][0].astype(np.float64), 0)
        sw = np.abs(w[0]).max(axis=1) / REDUCED
        sx = x.max() / 255
        gate = x.sum(1)[:, None] * sw / 2 + np.abs(w[0]).sum(1) * sx / 2 + k * sx * sw / 4  # [n, 4h]
        i, c = gate[:, :h], gate[:, 3 * h :]
        assert (np.abs(after[0] - before[0]) <= (i / 4 + c) * (1 + 1e-4) + 64 * EPS32).all()
    (again,) = pipeline.run(model, [QuantizeLstm(reduce_range=reduce_range)])
    assert not again.modified


class Stacked(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.lstm = torch.nn.LSTM(8, 32, num_layers=2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(torch.relu(self.linear(x)))
        last: torch.Tensor = hidden[-1]
        return last


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # torch compares sizes as it traces an LSTM
@pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size other than 1")
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exported(exporter: str) -> None:
    torch.manual_seed(0)
    model = EXPORTERS[exporter](Stacked().eval(), torch.randn(2, 7, 8))
    lstms = [n for n in model.graph if n.op_type == "LSTM"]
    assert [constant(n.inputs[i]) is not None for n in lstms for i in (1, 2, 3)] == [True] * 6  # the order is folded
    feeds: Feeds = {"x": random(3, 7, 8)}
    before = compute(model, feeds)["y"]
    assert [s.reason for s in sites(model, QuantizeLstm())] == [None, None]
    # 8 bits of h against its peak give about 45 dB; two layers and seven steps lose some of it.
    assert sqnr(before, compute(model, feeds)["y"]) > 30

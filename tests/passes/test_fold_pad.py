from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.interface import Interface
from dlc.passes.fold_pad import FoldPad
from dlc.tolerance import distance, reassociation
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text

CONVS = """g (float[n, 1, 5, 5] x) => (float[n, 1, a, b] y, float[n, 1, c, d] z)
    <float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64[8] p = {0, 0, 1, 0, 0, 0, 1, 2}> {
    q = Pad(x, p)
    y = Conv<pads = [1, 1, 1, 1]>(q, w)
    z = Conv<auto_pad = "VALID">(q, w)
}"""
POOL = """g (float[n, 1, 5, 5] x) => (float[n, 1, a, b] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}> {
    r = Relu(x)
    q = Pad(r, p)
    y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(q)
}"""
AVERAGE = POOL.replace("MaxPool", "AveragePool")


def test_golden_several_readers() -> None:
    model = graph(CONVS)
    assert [s.reason for s in sites(model, FoldPad())] == [None]
    assert text(model) == expected("""
        y = Conv(x, w)
        z = Conv(x, w)
        w: [1,1,3,3]""")
    pads = [list(n.attributes.get_ints("pads") or ()) for n in model.graph]
    assert pads == [[2, 1, 2, 3], [1, 0, 1, 2]]
    assert "auto_pad" not in list(model.graph)[1].attributes


def test_golden_pools() -> None:
    for body in (POOL, AVERAGE):
        model = ranked(body)
        assert [s.reason for s in sites(model, FoldPad())] == [None]
        node = list(model.graph)[1]
        assert [v.name for v in node.inputs] == ["r"]
        assert list(node.attributes.get_ints("pads") or ()) == [1, 1, 1, 1]
        assert node.attributes.get_int("count_include_pad", 0) == int(node.op_type == "AveragePool")


def ranked(body: str):  # type: ignore[no-untyped-def]
    import onnx
    import onnx_ir as ir

    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(graph(body))))


GUARDS = {
    "does not pad with a constant": CONVS.replace("Pad(x", 'Pad<mode = "reflect">(x'),
    "the amounts are not constant": CONVS.replace("5] x)", "5] x, int64[8] p)").replace(
        ", int64[8] p = {0, 0, 1, 0, 0, 0, 1, 2}", ""),
    "crops": CONVS.replace("{0, 0, 1, 0", "{0, 0, 1, -1"),
    "pads the first two axes": CONVS.replace("1, 5, 5] x", "1, 5, 5] x").replace("{0, 0, 1, 0", "{1, 0, 1, 0")
    .replace("[n, 1, a", "[e, 1, a").replace("[n, 1, c", "[f, 1, c"),
    "the rank is unknown or below 3": CONVS.replace("Pad(x, p)", "Pad(h, p)").replace(
        "> {", "> {\n h = Reshape(x, s)").replace("5, 5] x", "5, 5] x, int64[4] s"),
    "read by something else than Conv, AveragePool or MaxPool": CONVS.replace(
        'Conv<auto_pad = "VALID">(q, w)', "Neg(q)"),
    "the result is a graph output, or nothing reads it": CONVS.replace("d] z)", "d] z, float[n, 1, e, f] q)"),
    "Conv sets its padding itself": CONVS.replace("VALID", "SAME_UPPER"),
    "pads with another number than 0": CONVS.replace("Pad(x, p)", "Pad(x, p, v)").replace(
        "<float[1, 1", "<float v = {1}, float[1, 1"),
    "MaxPool rounds its size up": POOL.replace("strides", "ceil_mode = 1, strides"),
    "MaxPool is dilated: a window might hold padding alone": POOL.replace("strides", "dilations = [2, 2], strides"),
    "MaxPool would pad as much as its window": POOL.replace("[3, 3]", "[1, 1]"),
    "MaxPool would pad with another number": POOL.replace("Relu", "Neg"),
    "AveragePool does not count its own padding": AVERAGE.replace("strides", "pads = [1, 1, 1, 1], strides"),
    "MaxPool returns places in the padded map": POOL.replace("y = Max", "y, i = Max").replace(
        "b] y)", "b] y, int64[n, 1, c, d] i)"),
    "the axes are not constant": CONVS.replace("Pad(x, p)", "Pad(x, p, , k)").replace("5] x)", "5] x, int64[4] k)"),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    model = ranked(GUARDS[reason]) if "rank" not in reason else graph(GUARDS[reason])
    before = serialized(model)
    assert [s.reason for s in sites(model, FoldPad())] == [reason]
    assert serialized(model) == before


def test_an_average_of_padding_that_is_not_zero_is_a_guard() -> None:
    body = AVERAGE.replace("Pad(r, p)", "Pad(r, p, v)").replace("<int64", "<float v = {1}, int64")
    assert [s.reason for s in sites(ranked(body), FoldPad())] == ["pads with another number than 0"]


LOW = "-340282346638528859811704183484516925440"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(["Conv", "AveragePool", "MaxPool", "MaxPool of low"]), st.tuples(*[st.integers(0, 2)] * 4),
    st.integers(0, 2), st.integers(1, 2), st.booleans(), st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(op: str, p: tuple[int, ...], own: int, stride: int, axes: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    amounts = f"int64[4] p = {{{p[0]}, {p[1]}, {p[2]}, {p[3]}}}, int64[2] k = {{-2, 3}}" if axes else (
        f"int64[8] p = {{0, 0, {p[0]}, {p[1]}, 0, 0, {p[2]}, {p[3]}}}")  # fmt: skip
    value = "v" if op == "MaxPool of low" else ""
    name, counted = op.split(maxsplit=1)[0], ", count_include_pad = 1" if op == "AveragePool" else ""
    if own + max(p) > 2 and op != "Conv":
        own = 0
    reader = (
        f"{name}<kernel_shape = [3, 3], pads = [{own}, {own}, {own}, {own}], strides = [{stride}, {stride}]{counted}>"
    )
    body = f"""g (float[n, 1, 5, 6] x) => (float[n, 1, a, b] y) <float v = {{{LOW}}}, {amounts},
        float[1, 1, 3, 3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9}}> {{
        r = {"Neg" if value else "Relu"}(x)
        q = Pad(r, p, {value}{", k" if axes else ""})
        y = {reader}(q{", w" if op == "Conv" else ""})
    }}"""
    body = body.replace("Pad(r, p, )", "Pad(r, p)")
    model = ranked(body)
    x = {"x": rng.standard_normal((int(rng.integers(0, 3)), 1, 5, 6)).astype(np.float32)}
    before, interface = compute(model, x), Interface.of(model)
    assert [s.reason for s in sites(model, FoldPad())] == [None]
    assert Interface.of(model) == interface
    assert distance(compute(model, x), before)[0] <= reassociation(model)
    assert sites(model, FoldPad()) == ()


class Padded(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pad = torch.nn.ZeroPad2d((0, 1, 0, 1))
        self.left, self.right = torch.nn.Conv2d(2, 4, 3, stride=2), torch.nn.Conv2d(2, 4, 2, stride=2)
        self.pool = torch.nn.MaxPool2d(3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.pad(x)
        h = torch.relu(self.left(h)) + torch.relu(self.right(h))
        out: torch.Tensor = self.pool(self.pad(torch.relu(h)))
        return out


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_module(exporter: str) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 2, 8, 8)
    model = EXPORTERS[exporter](Padded().eval(), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    assert {s.reason for s in sites(model, FoldPad())} == {None}
    assert not [n for n in model.graph if n.op_type == "Pad"]
    assert distance(compute(model, x), before)[0] <= reassociation(model)

"""Multiply-adds and bytes of nodes at known shapes, counted by hand."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dlc.work import is_integer, macs, traffic

SHAPES = {
    "image": (2, 3, 8, 8), "filters": (16, 3, 3, 3), "deeper": (2, 16, 8, 8), "grouped": (16, 1, 3, 3),
    "up": (3, 5, 2, 2),
    "x": (4, 7, 32), "w": (32, 10), "wt": (10, 32), "y": (4, 7, 10), "flat": (4, 32), "z": (4, 10), "v": (32,),
    "q": (2, 5, 24), "k": (2, 9, 24), "q4": (2, 4, 5, 6), "k4": (2, 2, 9, 6), "packed": (2, 5, 4, 3, 6),
    "qkv": (24, 72),
    "kept": (2, 2, 12, 6), "steps": (11, 2, 6), "gates": (1, 32, 6), "back": (1, 32, 8), "states": (11, 1, 2, 8),
}  # fmt: skip


def node(text: str, **attributes: int) -> ir.Node:
    """``y = domain.Op(a, b)``; an underscore is a scale or a zero point."""
    out, _, call = text.partition(" = ")
    op, _, operands = call.rstrip(")").partition("(")
    domain, _, kind = op.rpartition(".")
    values = [ir.val(name) if name != "_" else ir.val("scale") for name in operands.split(", ")]
    made = ir.node(kind, values, attributes=attributes or None, domain=domain, num_outputs=len(out.split(", ")))
    for value, name in zip(made.outputs, out.split(", "), strict=True):
        value.name = name
    return made


@pytest.mark.parametrize(
    ("made", "count"),
    [
        (node("deeper = Conv(image, filters)"), 2 * 16 * 64 * 27),
        (node("deeper = com.microsoft.FusedConv(image, filters)"), 2 * 16 * 64 * 27),
        (node("deeper = Conv(deeper, grouped)", group=16), 2 * 16 * 64 * 9),
        (node("deeper = QLinearConv(image, _, _, filters, _, _, _, _)"), 2 * 16 * 64 * 27),
        (node("deeper = ConvTranspose(image, up)"), 2 * 3 * 64 * 5 * 4),
        (node("y = MatMul(x, w)"), 4 * 7 * 10 * 32),
        (node("y = com.microsoft.FusedMatMul(x, wt)", transB=1), 4 * 7 * 10 * 32),
        (node("z = Gemm(flat, w)"), 4 * 10 * 32),
        (node("z = Gemm(flat, wt)", transB=1), 4 * 10 * 32),
        (node("z = com.microsoft.QGemm(flat, _, _, wt, _, _)", transB=1), 4 * 10 * 32),
        (node("y = com.microsoft.MatMulNBits(x, _)", K=32, N=10, accuracy_level=4), 4 * 7 * 10 * 32),
        (node("q = com.microsoft.MultiHeadAttention(q, k, k)"), 2 * 5 * 24 * 9 * 2),
        (node("q = com.microsoft.MultiHeadAttention(packed)"), 2 * 5 * 24 * 5 * 2),
        (node("q4 = Attention(q4, k4, k4)"), 2 * 4 * 5 * 6 * 9 * 2),
        (node("q, kept = com.microsoft.GroupQueryAttention(q, k, k)"), 2 * 5 * 24 * 12 * 2),
        (node("q = com.microsoft.Attention(q, qkv)"), 2 * 5 * 24 * 72 + 2 * 5 * 24 * 5 * 2),
        (node("states = LSTM(steps, gates, back)"), 11 * 2 * (32 * 6 + 32 * 8)),
        (node("y = Softmax(y)"), 0),
        (node("y = Einsum(x, w)"), 0),
        (node("y = MatMul(x, unknown)"), None),
        (node("unknown = Conv(image, filters)"), None),
    ],
    ids=lambda each: each.op_type if isinstance(each, ir.Node) else "",
)
def test_multiply_adds(made: ir.Node, count: int | None) -> None:
    assert macs(made, SHAPES) == count


def test_a_vector_is_multiplied_once() -> None:
    assert macs(node("flat1 = MatMul(flat, v)"), {**SHAPES, "flat1": (4,)}) == 4 * 32


@pytest.mark.parametrize(
    ("made", "integer"),
    [
        (node("z = MatMulInteger(flat, w)"), True), (node("z = MatMul(flat, w)"), False),
        (node("y = com.microsoft.MatMulNBits(x, _)", accuracy_level=4), True),
        (node("y = com.microsoft.MatMulNBits(x, _)", accuracy_level=0), False),
    ],
)  # fmt: skip
def test_what_multiplies_integers(made: ir.Node, integer: bool) -> None:
    assert is_integer(made) is integer


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("c = Add(a, b)", 300 + 500 + 700),
        ("c = Gather(a, b)", 700 + 500 + 700),  # reads no more of the table than it writes
        ("c = Reshape(a, b)", 0),
        ("c = com.microsoft.Reshape(a, b)", 300 + 500 + 700),
        ("c = Add(a, unknown)", None),
    ],
)
def test_bytes(text: str, moved: int | None) -> None:
    sizes = {"a": 300, "b": 500, "c": 700}
    assert traffic(node(text), lambda value: sizes.get(str(value.name))) == moved

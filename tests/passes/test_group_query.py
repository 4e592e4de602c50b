"""Causal attention as GroupQueryAttention, and every mask and form of heads that it would compute otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from dlc.interface import Interface
from dlc.passes.base import constant
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fuse_attention import FuseAttention
from dlc.tolerance import distance, reassociation
from dlc.types import Array, Feeds
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, serialized, sites, text
from tests.passes.weights import weighted

GROUPED = FuseAttention(max_opset=22, grouped=True)


def body(length: int, size: int = 8, value: int = 8, batch: int | str = 3) -> str:
    """Attention with four heads of queries and two of keys and values, and a mask that is added."""
    return f"""g (float[{batch}, {length}, {4 * size}] q, float[{batch}, {length}, {2 * size}] k,
        float[{batch}, {length}, {2 * value}] v, float[{length}, {length}] mask) => (float[{batch}, {length}, out] y)
    <int64[4] queries = {{0, 0, 4, {size}}}, int64[4] keys = {{0, 0, 2, {size}}},
     int64[4] values = {{0, 0, 2, {value}}}, int64[1] two = {{2}}, int64[5] wide = {{1, 1, 2, 1, 1}},
     int64[4] flat_k = {{0, 4, {length}, {size}}},
     int64[4] flat_v = {{0, 4, {length}, {value}}}, int64[3] merge = {{0, 0, {4 * value}}}, float scale = {{0.75}}> {{
    q4 = Reshape(q, queries) qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    k4 = Reshape(k, keys) kt = Transpose<perm = [0, 2, 1, 3]>(k4)
    v4 = Reshape(v, values) vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    ku = Unsqueeze(kt, two) ke = Expand(ku, wide) kr = Reshape(ke, flat_k)
    vu = Unsqueeze(vt, two) ve = Expand(vu, wide) vr = Reshape(ve, flat_v)
    swapped = Transpose<perm = [0, 1, 3, 2]>(kr)
    product = MatMul(qt, swapped) scaled = Mul(product, scale) scores = Add(scaled, mask) p = Softmax(scores)
    o4 = MatMul(p, vr) ot = Transpose<perm = [0, 2, 1, 3]>(o4) y = Reshape(ot, merge)
}}""".replace("out]", f"{4 * value}]")


def triangle(length: int) -> Array:
    return np.where(np.tri(length, dtype=bool), 0, -np.inf).astype(np.float32)


def attention(text_: str, weights: Mapping[str, Array], opset: int = 20) -> ir.Model:
    model = weighted(text_, weights, f'<ir_version: 8, opset_import: ["" : {opset}]>')
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True))


def feeds(model: ir.Model, seed: int) -> Feeds:
    rng = np.random.default_rng(seed)
    shapes = {str(v.name): [int(str(d)) for d in v.shape or ()] for v in model.graph.inputs}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_golden() -> None:
    model = attention(body(5), {"mask": triangle(5)})
    assert [s.reason for s in sites(model, GROUPED)] == [None]
    assert text(model) == expected("""
        y = GroupQueryAttention(q, k, v, , , last, total)
        last: [3]
        total: []
    """)
    fused = model.graph.node(0)
    assert {n: a.value for n, a in fused.attributes.items()} == {"num_heads": 4, "kv_num_heads": 2, "scale": 0.75}
    assert [constant(v).tolist() for v in fused.inputs[5:]] == [[4, 4, 4], 5]  # type: ignore[union-attr]
    assert dict(model.opset_imports) == {"": 20, "com.microsoft": 1}


def padded(length: int) -> Array:
    """A causal mask that hides the last key from all, as padding would."""
    mask = triangle(length)
    mask[:-1, -1] = mask[-1, -1] = -np.inf
    return mask


NOT_CAUSAL = "the mask is not proven to hide the keys after each query and nothing else"
MASKS: dict[str, Array] = {
    "hides padding too": padded(5),
    "hides the first key": np.where(np.arange(5) == 0, -np.inf, triangle(5)).astype(np.float32),
    "hides nothing": np.zeros((5, 5), np.float32),
    "the other way round": np.ascontiguousarray(triangle(5).T),
    "a bias too": triangle(5) + np.eye(5, dtype=np.float32),
    "a number that a score could reach": np.maximum(triangle(5), -1e4).astype(np.float32),
    "a window": np.where(np.tri(5, k=-3, dtype=bool), -np.inf, triangle(5)).astype(np.float32),
}


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_that_is_not_just_causal_is_refused(mask: str) -> None:
    refuses(attention(body(5), {"mask": MASKS[mask]}), NOT_CAUSAL)


def test_a_mask_that_is_fed_is_refused() -> None:
    refuses(attention(body(5), {}), NOT_CAUSAL)


@pytest.mark.parametrize(
    ("size", "value", "reason"),
    [(8, 16, "GroupQueryAttention wants values as large as keys"), (12, 12, "the size of a head is no multiple of 8")],
)
def test_heads_that_the_kernel_does_not_take_are_refused(size: int, value: int, reason: str) -> None:
    refuses(attention(body(5, size, value), {"mask": triangle(5)}), reason)


def test_heads_that_are_split_already_are_refused() -> None:
    given_split = body(5).replace("float[3, 5, 32] q", "float[3, 4, 5, 8] qt").replace(
        "q4 = Reshape(q, queries) qt = Transpose<perm = [0, 2, 1, 3]>(q4)", "")  # fmt: skip
    refuses(attention(given_split, {"mask": triangle(5)}), "GroupQueryAttention reads heads that are not split")


def test_a_batch_that_may_be_empty_is_refused() -> None:
    reason = "the batch is not fixed, and an empty one ends the process in GroupQueryAttention"
    refuses(attention(body(5, batch="b"), {"mask": triangle(5)}), reason)


def refuses(model: ir.Model, reason: str) -> None:
    before = serialized(model)
    assert [s.reason for s in sites(model, GROUPED)] == [reason]
    assert serialized(model) == before


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(1, 9), st.sampled_from([8, 16]), st.integers(1, 3), st.sampled_from([13, 20]), st.integers(0, 1 << 16)
)
def test_properties(length: int, size: int, batch: int, opset: int, seed: int) -> None:
    model = attention(body(length, size, size, batch), {"mask": triangle(length)}, opset)
    fed, bound = feeds(model, seed), reassociation(model)
    before, interface = compute(model, fed), Interface.of(model)
    assert [s.reason for s in sites(model, GROUPED)] == [None]
    assert Interface.of(model) == interface
    assert distance(compute(model, fed), before)[0] <= max(bound, reassociation(model))
    assert sites(model, GROUPED) == ()


class Causal(torch.nn.Module):
    """Causal attention of a fixed length, with six heads of queries and fewer of keys and values."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.q, self.k, self.v = (torch.nn.Linear(48, 8 * n) for n in (6, groups, groups))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (each(x).unflatten(-1, (-1, 8)).transpose(1, 2) for each in (self.q, self.k, self.v))
        n, _, s, size = k.shape
        if (groups := self.groups) < 6:
            k, v = (t[:, :, None].expand(n, groups, 6 // groups, s, size).reshape(n, 6, s, size) for t in (k, v))
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).flatten(2)


def fixed(model: ir.Model, batch: int) -> ir.Model:
    """Fix the batch, in the interface and wherever its name is noted."""
    for value in (*model.graph.inputs, *model.graph.outputs, *(v for n in model.graph for v in n.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([batch if str(d) == "n" else d for d in value.shape])
    Canonicalize()(model)
    return model


@pytest.mark.parametrize(("exporter", "groups"), [("dynamo", 2), ("dynamo", 6), ("torchscript", 6)])
def test_real_module(exporter: str, groups: int) -> None:
    torch.manual_seed(0)
    example = torch.randn(2, 7, 48)
    model = fixed(EXPORTERS[exporter](Causal(groups).eval(), example), batch=2)
    fed = {"x": example.numpy()}
    before, bound = compute(model, fed), reassociation(model)
    assert [s.reason for s in sites(model, GROUPED)] == [None]
    assert distance(compute(model, fed), before)[0] <= max(bound, reassociation(model))
    [fused] = [n for n in model.graph if n.domain]
    assert (fused.op_type, fused.attributes.get_int("kv_num_heads", 0)) == ("GroupQueryAttention", groups)


def test_it_is_one_of_the_forms_that_are_measured() -> None:
    assert [form.pack for form in FuseAttention().alternatives() if form.grouped] == [True, False]

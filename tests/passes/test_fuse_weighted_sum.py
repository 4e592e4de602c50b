"""A sum of weighted rows as a product of matrices: up to the order of its terms, NaN and infinity included."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.interface import Interface
from dlc.passes.fuse_weighted_sum import FuseWeightedSum
from dlc.tolerance import EPS32
from tests.passes.exported import EXPORTERS
from tests.passes.texts import annotated, compute, expected, serialized, sites, text

SUM = """g (float[b, s, 3] x, float[b, s, 1] m) => (float[b, 3] y) <int64[1] axes = {1}> {
    p = Mul(x, m)
    y = ReduceSum<keepdims = 0>(p, axes)
}"""
FORMS = FuseWeightedSum().alternatives()


def weighted(body: str) -> ir.Model:
    model = annotated(body)
    for node in model.graph:
        node.name = f"n_{node.outputs[0].name}"
    return model


def test_golden() -> None:
    model = weighted(SUM)
    assert [s.reason for s in sites(model, FuseWeightedSum())] == [None]
    assert text(model) == expected("""
        n_y.weights = Squeeze(m, n_y.weights.axes)
        n_y.weights_row = Unsqueeze(n_y.weights, n_y.weights_row.axes)
        n_y.product = MatMul(n_y.weights_row, x)
        y = Squeeze(n_y.product, n_y.row.axes)
        n_y.weights.axes: [1]
        n_y.weights_row.axes: [1]
        n_y.row.axes: [1]
    """)


def test_golden_fused_with_keepdims() -> None:
    body = SUM.replace("<keepdims = 0>(p", "(p").replace("[b, 3] y", "[b, 1, 3] y").replace("(x, m)", "(m, x)")
    model = weighted(body.replace("{1}", "{-2}"))
    assert [s.reason for s in sites(model, FuseWeightedSum(fused=True))] == [None]
    assert text(model) == "y = FusedMatMul(m, x)"


GUARDS = {
    "dtype is DOUBLE, not FLOAT": SUM.replace("float", "double"),
    "the sum is not over the last axis but one": SUM.replace("{1}", "{0}").replace("[b, 3] y", "[s, 3] y"),
    "the product has another reader": SUM.replace("[b, 3] y)", "[b, 3] y, float[b, s, 3] z)").replace(
        "x, m)\n", "x, m)\n z = Neg(p)\n"),
    "neither factor is known to be one weight for each row of the other": SUM.replace("[b, s, 1] m", "[b, s, 3] m"),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_guard(reason: str, form: FuseWeightedSum) -> None:
    model = weighted(GUARDS[reason])
    before = serialized(model)
    assert [s.reason for s in sites(model, form)] == [reason]
    assert serialized(model) == before


@pytest.mark.parametrize(("old", "new"), [("[b, s, 1] m", "[b, t, 1] m"), ("[b, s, 1] m", "[b, 1, 1] m")])
def test_weights_that_are_broadcast_along_the_rows(old: str, new: str) -> None:
    model = weighted(SUM.replace(old, new))
    assert [s.reason for s in sites(model, FuseWeightedSum())] == [next(reversed(GUARDS))]


def test_an_old_opset() -> None:
    model = weighted(SUM)
    model.graph.opset_imports[""] = 12
    assert FuseWeightedSum().survey(model)[0][1] == "the opset is below 13"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(FORMS), st.booleans(), st.sampled_from(["b, s", "s", "1, s"]), st.integers(0, 3),
    st.integers(0, 40), st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(form: FuseWeightedSum, keep: bool, lead: str, batch: int, length: int, seed: int) -> None:
    body = SUM.replace("[b, s, 1] m", f"[{lead}, 1] m").replace("keepdims = 0", f"keepdims = {int(keep)}")
    model = weighted(body.replace("[b, 3] y", "[b, 1, 3] y") if keep else body)
    rng = np.random.default_rng(seed)
    sizes = {"b": batch, "s": length, "1": 1}
    x = rng.standard_normal((batch, length, 3)).astype(np.float32)
    m = rng.standard_normal([sizes[d] for d in (*lead.split(", "), "1")]).astype(np.float32)
    before, interface = compute(model, {"x": x, "m": m}), Interface.of(model)
    assert [s.reason for s in sites(model, form)] == [None]
    assert Interface.of(model) == interface
    # two orders of a sum of s products: each errs by at most (s + 1)·eps/2 of the sum of their magnitudes
    bound = (length + 1) * EPS32 * np.abs(x * m).sum(axis=1).max(initial=0.0)
    assert np.abs(compute(model, {"x": x, "m": m})["y"] - before["y"]).max(initial=0.0) <= bound
    assert sites(model, form) == ()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_a_hidden_row_that_is_not_finite(form: FuseWeightedSum, odd: float) -> None:
    """0 times infinity is NaN before and after: a mask of 0 does not hide it."""
    model = weighted(SUM)
    x, m = np.ones((1, 4, 3), np.float32), np.array([1, 0, 1, 0], np.float32).reshape(1, 4, 1)
    x[0, 1, 2] = odd
    before = compute(model, {"x": x, "m": m})["y"]
    assert np.isnan(before).tolist() == [[False, False, True]]
    sites(model, form)
    assert np.array_equal(compute(model, {"x": x, "m": m})["y"], before, equal_nan=True)


class MaskedMean(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = (x[..., :1] > 0).to(x.dtype)
        return (x * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_real_module(exporter: str, form: FuseWeightedSum) -> None:
    torch.manual_seed(0)
    example = torch.randn(3, 7, 5)
    model = EXPORTERS[exporter](MaskedMean().eval(), example)
    x = {"x": example.numpy()}
    before = compute(model, x)["y"]
    assert [s.reason for s in sites(model, form)] == [None]
    # a mean of seven numbers, none above 4 in magnitude: the sum errs by at most 8·eps/2 of 28, each way
    assert np.abs(compute(model, x)["y"] - before).max() <= 8 * 28 * EPS32

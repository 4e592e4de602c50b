from __future__ import annotations

import numpy as np
import pytest

from dlc.passes.canonicalize import Canonicalize
from dlc.passes.gate_order import orders_gates
from dlc.types import Array, Feeds
from tests.passes.texts import compute, sites
from tests.passes.weights import weighted

H, K = 64, 96
RNG = np.random.default_rng(0)
SWAPPED = f"""
    low = Slice(w, zero, half)
    high = Slice(w, half, end)
    joined = Concat<axis = 0>(high, low)
    v = Unsqueeze(joined, zero)
    y, h = LSTM<hidden_size = {H}>(x, v, r)
"""
BODY = f"""g (float[t, n, {K}] x, float[{4 * H}, {K}] w, float[1, {4 * H}, {H}] r)
    => (float[t, 1, n, {H}] y, float[1, n, {H}] h)
    <int64[1] zero = {{0}}, int64[1] half = {{{2 * H}}}, int64[1] end = {{{4 * H}}}> {{{SWAPPED}}}"""
W: Array = RNG.standard_normal((4 * H, K)).astype(np.float32)  # 24576 elements, more than folding reads by default
R: Array = RNG.standard_normal((1, 4 * H, H)).astype(np.float32)


def test_the_order_is_folded_into_the_weight() -> None:
    model = weighted(BODY, {"w": W, "r": R})
    feeds: Feeds = {"x": RNG.standard_normal((3, 2, K)).astype(np.float32)}
    before = compute(model, feeds)
    sites(model, Canonicalize())
    assert [n.op_type for n in model.graph] == ["LSTM"]
    stored = model.graph[0].inputs[1]
    assert stored is not None
    assert stored.const_value is not None
    assert np.array_equal(stored.const_value.numpy()[0], np.concatenate([W[2 * H :], W[: 2 * H]]))
    after = compute(model, feeds)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y, h = LSTM", "z = Neg(joined)\n    y, h = LSTM"),
        ("float[1, n, 64] h)", "float[1, n, 64] h, float[256, 96] joined)"),
    ],
    ids=["another reader", "a graph output"],
)
def test_what_is_read_elsewhere_stays(old: str, new: str) -> None:
    body = BODY.replace(old, new, 1)
    if "Neg" in new:
        body = body.replace("float[1, n, 64] h)", "float[1, n, 64] h, float[256, 96] z)")
    model = weighted(body, {"w": W, "r": R})
    joined = next(n for n in model.graph if n.op_type == "Concat")
    assert not orders_gates(joined)
    sites(model, Canonicalize())
    assert any(n.op_type == "Concat" for n in model.graph)


def test_data_is_no_order_of_gates() -> None:
    model = weighted(BODY, {"w": W, "r": R})
    assert [n.op_type for n in model.graph if orders_gates(n)] == ["Slice", "Slice", "Concat", "Unsqueeze"]
    assert not orders_gates(next(n for n in model.graph if n.op_type == "LSTM"))

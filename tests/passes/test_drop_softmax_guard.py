from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.base import clone
from dlc.passes.drop_softmax_guard import DropSoftmaxGuard
from tests.passes.exported import EXPORTERS
from tests.passes.texts import annotated, compute, expected, serialized, sites, text

STATED = DropSoftmaxGuard(invariants=("some-key-visible",))
INITIAL = (
    "float zero = {0}, float one = {1}, float low = {-3.4028234663852886e+38}, float inf = {-inf}, float scale = {2}"
)
GUARDED = f"""g (float[b, 3, 4] q, float[b, 4, 5] k, bool[b, 1, 5] seen) => (float[b, 3, 5] y) <{INITIAL}> {{
    product = MatMul(q, k)
    mask = Where(seen, zero, low)
    scores = Add(product, mask)
    p = Softmax(scores)
    bad = IsNaN(p)
    kept = Where(bad, zero, p)
    y = Abs(kept)
}}"""
INFINITE = GUARDED.replace("zero, low)", "zero, inf)")
CHOSEN = INFINITE.replace("mask = Where(seen, zero, inf)", "").replace(
    "Add(product, mask)", "Where(seen, product, inf)"
)
UNMASKED = GUARDED.replace("mask = Where(seen, zero, low)", "").replace("Add(product, mask)", "Mul(product, scale)")
FORMS = {"finite": GUARDED, "infinite": INFINITE, "chosen": CHOSEN, "unmasked": UNMASKED}


@pytest.mark.parametrize("form", ["finite", "unmasked"])
def test_a_dead_guard_is_dropped(form: str) -> None:
    model = annotated(FORMS[form])
    assert [s.reason for s in sites(model, DropSoftmaxGuard())] == [None]
    assert [n.op_type for n in model.graph][-2:] == ["Softmax", "Abs"]


def test_golden() -> None:
    model = annotated(GUARDED)
    assert sites(model, DropSoftmaxGuard())[0].applied
    assert text(model) == expected("""
        product = MatMul(q, k)
        mask = Where(seen, zero, low)
        scores = Add(product, mask)
        p = Softmax(scores)
        y = Abs(p)
        zero: []
        one: []
        low: []
        inf: []
        scale: []
    """)


def test_an_output_keeps_its_name() -> None:
    model = annotated(GUARDED.replace("y = Abs(kept)", "").replace("kept = Where", "y = Where"))
    assert sites(model, DropSoftmaxGuard())[0].applied
    assert [n.op_type for n in model.graph] == ["MatMul", "Where", "Add", "Softmax"]
    assert [v.name for v in model.graph.node(3).outputs] == ["y"]


@pytest.mark.parametrize("form", ["infinite", "chosen"])
def test_a_guard_that_may_act_stays_unless_an_invariant_is_stated(form: str) -> None:
    model = annotated(FORMS[form])
    before = serialized(model)
    reason = "rows may be all minus infinity: the mask is not finite"
    assert [s.reason for s in sites(model, DropSoftmaxGuard())] == [reason]
    assert serialized(model) == before
    assert [s.reason for s in sites(model, STATED)] == [None]


ROWS = "rows may be all minus infinity: the mask is not finite"
GUARDS = [
    ("it does not put 0 in the place of NaN", GUARDED.replace("Where(bad, zero, p)", "Where(bad, one, p)")),
    ("it does not put 0 in the place of NaN", GUARDED.replace("Where(bad, zero, p)", "Where(bad, p, zero)")),
    ("it does not put 0 in the place of NaN", GUARDED.replace("IsNaN(p)", "IsNaN(scores)")),
    ("what is guarded is no Softmax", GUARDED.replace("Softmax(scores)", "Exp(scores)")),
    ("dtype is DOUBLE, not FLOAT", GUARDED.replace("float", "double")),
    (ROWS, GUARDED.replace("Add(product, mask)", "Add(k, mask)").replace("float[b, 4, 5] k", "float[b, 3, 5] k")
     .replace("product = MatMul(q, k)", "")),
    (ROWS, GUARDED.replace("Add(product, mask)", "Add(mask, mask)").replace("mask = Where(seen", "mask = Where(wide")
     .replace("bool[b, 1, 5] seen", "bool[b, 3, 5] wide")),
    ("an output would change its name", GUARDED.replace("y = Abs(kept)", "").replace("kept = Where", "y = Where")
     .replace("[b, 3, 5] y)", "[b, 3, 5] y, float[b, 3, 5] p)")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS, ids=[f"{i}: {g[0][:40]}" for i, g in enumerate(GUARDS)])
def test_guard(reason: str, body: str) -> None:
    model = annotated(body)
    before = serialized(model)
    (record,) = pipeline.run(model, [DropSoftmaxGuard()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


def test_an_invariant_says_nothing_of_scores_that_are_an_input() -> None:
    model = annotated(
        INFINITE.replace("product = MatMul(q, k)", "").replace("float[b, 4, 5] k", "float[b, 3, 5] product")
    )
    assert [s.reason for s in sites(model, STATED)] == [ROWS]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(FORMS)), st.integers(0, 3), st.integers(0, 1 << 16))
def test_properties(form: str, batch: int, seed: int) -> None:
    """Exact: what is left are the same operators on the same numbers. Some key is visible in each row."""
    model, rng = annotated(FORMS[form]), np.random.default_rng(seed)
    seen = rng.random((batch, 1, 5)) > 0.5
    seen[..., 0] = True
    feeds = {"q": rng.standard_normal((batch, 3, 4)).astype(np.float32),
             "k": rng.standard_normal((batch, 4, 5)).astype(np.float32), "seen": seen}  # fmt: skip
    feeds = {str(v.name): feeds[str(v.name)] for v in model.graph.inputs}
    before, interface = compute(model, feeds), Interface.of(model)
    (record,) = pipeline.run(model, [STATED])
    assert [s.reason for s in record.sites] == [None]
    assert np.array_equal(compute(model, feeds)["y"], before["y"])
    assert Interface.of(model) == interface
    assert not pipeline.run(model, [STATED])[0].modified


@pytest.mark.parametrize("form", ["finite"])
def test_rows_without_a_visible_key_are_uniform_as_they_were(form: str) -> None:
    model, rng = annotated(FORMS[form]), np.random.default_rng(0)
    feeds = {"q": rng.standard_normal((2, 3, 4)).astype(np.float32), "seen": np.zeros((2, 1, 5), bool),
             "k": rng.standard_normal((2, 4, 5)).astype(np.float32)}  # fmt: skip
    before = compute(model, feeds)
    assert sites(model, DropSoftmaxGuard())[0].applied
    assert np.array_equal(compute(model, feeds)["y"], before["y"])
    assert np.allclose(before["y"], 0.2, rtol=0, atol=np.finfo(np.float32).eps)


class Guarded(torch.nn.Module):
    """Attention of torch under a mask that hides no key from all, in no form that an attention operator takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = (x[..., :1] < 1).transpose(-2, -1) | (torch.arange(5) == 0)
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=seen)


@pytest.mark.parametrize("exporter", sorted(EXPORTERS))
def test_exported(exporter: str) -> None:
    model = EXPORTERS[exporter](Guarded(), torch.randn(2, 2, 5, 8))
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 2, 5, 8)).astype(np.float32)}
    before = compute(model, feeds)
    found = sites(clone(model), DropSoftmaxGuard())[0].reason
    assert found == (ROWS if exporter == "torchscript" else None)  # dynamo writes FP32's lowest number, which is finite
    assert [s.reason for s in sites(model, STATED)] == [None]
    assert "IsNaN" not in [n.op_type for n in model.graph]
    assert np.array_equal(compute(model, feeds)["y"], before["y"])


def test_options_reach_the_manifest() -> None:
    assert STATED.options == {"invariants": ("some-key-visible",)}

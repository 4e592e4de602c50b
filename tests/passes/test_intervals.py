"""What is proven of the elements of a value, and that it holds of what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.passes.intervals import Interval, Intervals
from tests.passes.texts import annotated, compute

HEAD = """g (int64[n, s] x, bool[n, s] p, float[n, s] f) => (double[k] out)
    <int64 zero = {{0}}, int64 one = {{1}}, int64[1] minus = {{-1}}, int64 down = {{-1}}, int64 big = {{300}},
     int64[3] few = {{2, -5, 7}}, int64[2] axes = {{0, 1}}, int64[1] first = {{0}}, int64[4] times = {{1, 2, 1, 1}},
     bool true = {{1}}, bool false = {{0}}, float half = {{0.5}}, float nan = {{nan}}, float signed = {{-0.0}},
     float[2] none = {{0.0, -0.0}}> {{
        q = Shape(x)
        length = Size(x)
        r = Range(zero, length, one)
        {body}
        flat = Reshape(y, minus)
        out = Cast<to = 11>(flat)
    }}"""
TOP = (1 << 63) - 1
CASES: dict[str, Interval | None] = {
    "y = Shape(x)": (0, TOP),
    "y = Identity(few)": (-5, 7),
    "y = Range(one, length, one)": (1, TOP - 1),
    "y = Range(zero, big, one)": (0, 299),
    "y = Range(length, zero, down)": None,  # counts down
    "y = GreaterOrEqual(r, zero)": (1, 1),
    "y = Less(r, zero)": (0, 0),
    "y = Greater(r, zero)": (0, 1),
    "y = LessOrEqual(zero, r)": (1, 1),
    "y = GreaterOrEqual(x, zero)": (0, 1),
    "y = Equal(few, big)": (0, 0),
    "y = Equal(few, few)": (0, 1),
    "y = Equal(one, one)": (1, 1),
    "a = GreaterOrEqual(r, zero) y = Not(a)": (0, 0),
    "y = And(p, false)": (0, 0),
    "y = And(p, true)": (0, 1),
    "y = Or(p, true)": (1, 1),
    "y = ConstantOfShape(q)": (0, 0),
    "y = ConstantOfShape<value = int64[1] {3}>(q)": (3, 3),
    "a = ConstantOfShape<value = int64[1] {3}>(q) y = GatherElements<axis = 1>(a, x)": (3, 3),
    "a = ConstantOfShape(q) b = Unsqueeze(a, axes) y = Tile(b, times)": (0, 0),
    "y = Add(few, big)": (295, 307),
    "y = Mul(few, minus)": (-7, 5),
    "y = Sub(few, few)": (-12, 12),
    "y = Add(r, one)": (1, TOP),
    "y = Add(length, one)": None,  # might wrap around
    "y = Min(few, r)": (-5, 7),
    "y = Max(few, r)": (0, TOP - 1),
    "y = Max(few, x)": None,
    "y = Where(true, few, x)": (-5, 7),
    "y = Where(p, few, big)": (-5, 300),
    "y = Where(p, few, x)": None,
    "a = Reshape(few, minus) y = Concat<axis = 0>(a, first)": (-5, 7),
    "y = Cast<to = 9>(big)": (1, 1),
    "y = Cast<to = 9>(zero)": (0, 0),
    "y = Cast<to = 9>(few)": (0, 1),
    "y = Cast<to = 9>(x)": (0, 1),
    "y = Cast<to = 6>(few)": (-5, 7),
    "y = Cast<to = 2>(big)": None,  # UINT8 does not hold it
    "y = Cast<to = 1>(few)": (-5, 7),
    "y = Cast<to = 1>(r)": None,  # FP32 does not hold each
    "y = Cast<to = 7>(half)": None,
    "y = Identity(half)": (0.5, 0.5),
    "y = Identity(nan)": None,
    "y = Identity(signed)": None,
    "y = Identity(none)": None,
    "y = Add(half, half)": None,
}


def model_of(body: str) -> tuple[ir.Model, ir.Value]:
    """Return a model and the value in question, which is flattened and cast to be an output."""
    model = annotated(HEAD.format(body=body))
    return model, next(v for node in model.graph for v in node.outputs if v.name == "y")


@pytest.mark.parametrize("body", CASES)
def test_interval(body: str) -> None:
    model, y = model_of(body)
    assert Intervals(model).of(y) == CASES[body]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.sampled_from([c for c in CASES if CASES[c] is not None]), st.integers(0, 3),
       st.integers(1, 3), st.integers(0, 1 << 16))  # fmt: skip
def test_what_is_computed_lies_in_it(body: str, n: int, s: int, seed: int) -> None:
    model, _ = model_of(body)
    rng = np.random.default_rng(seed)
    feeds = {
        "x": rng.integers(0, s, (n, s)), "p": rng.integers(0, 2, (n, s)).astype(bool),
        "f": rng.standard_normal((n, s)).astype(np.float32),
    }  # fmt: skip
    if "few, r" in body:  # which is of three elements, or one
        feeds = {name: np.resize(v, (1, 3)) for name, v in feeds.items()}
    elif "p, few" in body:
        feeds = {name: np.resize(v, (max(n, 1), 3)) for name, v in feeds.items()}
    low, high = CASES[body] or (0, 0)
    found = compute(model, feeds)["out"]
    assert ((low <= found) & (found <= high)).all()


def test_a_number_has_the_type_of_the_value() -> None:
    model, y = model_of("a = GreaterOrEqual(r, zero) y = And(a, true)")
    number = Intervals(model).number(y)
    assert number is not None
    assert (number.dtype, number.shape, bool(number)) == (np.dtype(bool), (), True)


def test_a_default_that_callers_may_change_is_unknown() -> None:
    model, y = model_of("y = Identity(few)")
    few = model.graph.initializers["few"]
    model.graph.inputs.append(few)
    assert Intervals(model).of(y) is None


def test_values_of_an_outer_graph_are_known_in_a_subgraph() -> None:
    model, y = model_of("""a = GreaterOrEqual(r, zero)
        y = If (true) <then_branch = t () => (bool[k] b) { b = Not(a) },
                       else_branch = e () => (bool[k] c) { c = Not(a) }>""")
    producer = y.producer()
    assert producer is not None
    inner = producer.attributes["then_branch"].as_graph()
    assert Intervals(model).of(inner.outputs[0]) == (0, 0)

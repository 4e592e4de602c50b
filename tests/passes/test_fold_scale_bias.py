"""Constants behind a weighted node: a chain of them folds at one site."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.interface import Interface
from dlc.passes.fold_scale_bias import FoldScaleBias
from dlc.tolerance import distance, reassociation
from dlc.types import Array
from tests.passes.texts import annotated, compute, expected, serialized, sites, text
from tests.passes.weights import weighted

WEIGHTS = """float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {1, 2},
    float[2, 1, 1] c = {2, 3}, float[2, 1, 1] d = {1, -1}, float[2, 2] wide = {1, 2, 3, 4}"""
CHAIN = f"""g (float[n, 2, 2, 2] x) => (float[n, 2, 2, 2] y) <{WEIGHTS}> {{
    h = Conv(x, w, b)
    scaled = Mul(h, c)
    shifted = Sub(scaled, d)
    y = Relu(shifted)
}}"""
FEEDS = {"x": np.random.default_rng(0).standard_normal((2, 2, 2, 2)).astype(np.float32)}


def folded(body: str, *skip: str) -> tuple[str, tuple[tuple[str, str | None], ...]]:
    """Fold; return the nodes that are left and the sites, once the numbers were compared."""
    model = annotated(body)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    before, bound = compute(model, FEEDS), reassociation(model)
    found = sites(model, FoldScaleBias(skip=dict.fromkeys(skip, "slower")))
    assert distance(compute(model, FEEDS), before)[0] <= bound
    return text(model).split("\nwide")[0], tuple((s.node, s.reason) for s in found)


def test_a_chain_folds_in_one_run_at_its_first_node() -> None:
    nodes, found = folded(CHAIN)
    assert (
        nodes.splitlines()[:2]
        == expected("""
        shifted = Conv(x, node_h.weight_1, node_h.bias_1)
        y = Relu(shifted)
    """).splitlines()
    )
    assert found == (("node_scaled", None),)


STOPS = {
    "a constant that is not one per channel": ("Sub(scaled, wide)", ""),
    "another reader": ("Sub(scaled, d)", "z = Relu(scaled)"),
    "an operator that is none of the four": ("Max(scaled, d)", ""),
    "two values that are computed": ("Sub(scaled, x)", ""),
}


@pytest.mark.parametrize("why", STOPS)
def test_a_chain_folds_as_far_as_it_can(why: str) -> None:
    shifted, more = STOPS[why]
    body = CHAIN.replace("Sub(scaled, d)", f"{shifted}\n{more}")
    body = body.replace("2] y)", "2] y, float[n, 2, 2, 2] z)") if more else body
    nodes, found = folded(body)
    assert nodes.splitlines()[0] == "scaled = Conv(x, node_h.weight, node_h.bias)"
    assert f"shifted = {shifted}" in nodes
    assert found == (("node_scaled", None),)


def test_a_node_that_is_to_be_skipped_stays() -> None:
    nodes, found = folded(CHAIN, "node_shifted")
    assert "shifted = Sub(scaled, d)" in nodes
    assert found == (("node_scaled", None),)


ONE = """g (float[n, 2, 2, 2] x) => (float[n, 2, 2, 2] y)
    <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {1, 2}, float[2, 1, 1] c = {2, 3}, float zero = {0}> {
    h = Conv(x, w, b)
    y = Mul(h, c)
}"""
PRODUCT = """g (float[n, 3, 2] x) => (float[n, 3, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[2] c = {2, 3}> {
    h = MatMul(x, w)
    y = Add(h, c)
}"""
READER = "the output of Conv has another reader or is a graph output"
NOT_ONE = "the constant is not one per channel"
GUARDS = [
    (READER, ONE.replace("2] y)", "2] y, float[n, 2, 2, 2] h)")),
    (READER, ONE.replace("2] y)", "2] y, float[n, 2, 2, 2] z)").replace("y = Mul", "z = Relu(h)\n y = Mul")),
    ("the weight of Conv is not constant",
     ONE.replace("2, 2] x)", "2, 2] x, float[2, 2, 1, 1] w)").replace("float[2, 2, 1, 1] w = {1, 2, 3, 4}, ", "")),
    ("the weight of Conv has another reader",
     ONE.replace("2] y)", "2] y, float[2, 2, 1, 1] z)").replace("y = Mul", "z = Neg(w)\n y = Mul")),
    ("the bias of Conv is not one constant per channel",
     ONE.replace("2, 2] x)", "2, 2] x, float[2] b)").replace("float[2] b = {1, 2}, ", "")),
    (NOT_ONE, ONE.replace("float[2, 1, 1] c", "float[1, 2, 1] c")),
    (NOT_ONE, ONE.replace("float[2, 1, 1] c", "float[2] c")),
    (NOT_ONE, ONE.replace("float[2, 1, 1] c", "float[1, 1, 2, 1, 1] c").replace("[n, 2, 2, 2] y", "[m, n, 2, 2, 2] y")),
    ("divides by the output, or by zero", ONE.replace("Mul(h, c)", "Div(c, h)")),
    ("divides by the output, or by zero", ONE.replace("Mul(h, c)", "Div(h, zero)")),
    ("the scaled weight leaves the range of float32", ONE.replace("c = {2, 3}", "c = {1e38, 3e38}")),
    ("a MatMul has no bias", PRODUCT),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS)
def test_guard(reason: str, body: str) -> None:
    model = annotated(body)
    before = serialized(model)
    assert [s.reason for s in sites(model, FoldScaleBias())] == [reason]
    assert serialized(model) == before


SHAPES = {"Conv": "[n, {c}, 4, 5]", "ConvTranspose": "[n, {c}, 4, 5]", "Gemm": "[n, 3]", "MatMul": "[n, 2, 3]"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(SHAPES)), st.sampled_from(["Mul", "Div", "Add", "Sub"]), st.booleans(), st.booleans(),
    st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(op: str, how: str, left: bool, one: bool, size: tuple[int, int], seed: int) -> None:
    rng, (channels, groups) = np.random.default_rng(seed), size
    width = channels * groups
    kernel = {"Conv": (width, 3, 2, 2), "ConvTranspose": (3 * groups, channels, 2, 2)}.get(op, (3, width))
    per_channel = (1,) if one else (width, 1, 1) if "Conv" in op else (width,)
    weights: dict[str, Array] = {
        "w": rng.standard_normal(kernel).astype(np.float32),
        "c": (rng.uniform(0.5, 2, per_channel) * rng.choice([-1, 1], per_channel)).astype(np.float32),
    }
    stated = {name: ", ".join(map(str, array.shape)) for name, array in weights.items()}
    operands, shape = "c, h" if left else "h, c", SHAPES[op].format(c=3 * groups)
    group, axes = f"<group = {groups}>" if "Conv" in op else "", ", ".join("abcd"[: shape.count(",") + 1])
    model = weighted(
        f"""g (float{shape} x, float[{stated["w"]}] w, float[{stated["c"]}] c)
            => (float[{axes}] y) {{ h = {op}{group}(x, w) y = {how}({operands}) }}""",
        weights,
    )
    model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    sizes = [d if isinstance(d, int) else 2 for d in model.graph.inputs[0].shape or ()]
    x = {"x": rng.standard_normal(sizes).astype(np.float32)}
    before, interface, bound = compute(model, x), Interface.of(model), reassociation(model)
    [site] = sites(model, FoldScaleBias())
    possible = not (op == "MatMul" and how in ("Add", "Sub")) and not (how == "Div" and left)
    assert site.applied == possible
    assert [n.op_type for n in model.graph] == ([op] if possible else [op, how])
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    # W x + c may cancel: the error is eps of |W x| + |c|, which in these draws exceeds the largest output less than
    # 64 times, however few of its numbers there are.
    assert distance(compute(model, x), before)[0] <= 64 * bound
    assert not any(s.applied for s in sites(model, FoldScaleBias()))

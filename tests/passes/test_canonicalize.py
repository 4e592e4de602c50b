from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.export import export
from dlc.interface import Interface
from dlc.models import digits_cnn
from dlc.passes.canonicalize import Canonicalize
from dlc.tolerance import distance, reassociation
from tests.passes.texts import HEADER, compute, expected, graph, serialized, sites, text

GOLDEN = {
    "constants are folded": (
        """g (float[n, 2] x) => (float[n, 2] y) {
            one = Constant<value = float[2] {1, 2}>()
            two = Constant<value_floats = [3.0, 4.0]>()
            sum = Add(one, two)
            y = Mul(x, sum)
        }""",
        """
        y = Mul(x, sum)
        sum: [2]
        """,
    ),
    "dead nodes and initializers go": (
        """g (float[n, 2] x) => (float[n, 2] y) <float[2] w = {1, 2}> {
            dead = Add(x, w)
            deader = Relu(dead)
            y = Neg(x)
        }""",
        "y = Neg(x)",
    ),
    "equal subexpressions are computed once": (
        """g (float[n, 2] x) => (float[n, 2] y) {
            a = Relu(x)
            b = Relu(x)
            y = Add(a, b)
        }""",
        """
        a = Relu(x)
        y = Add(a, a)
        """,
    ),
    "equal initializers are stored once": (
        """g (float[n, 2] x) => (float[n, 2] y) <float[2] v = {1, 2}, float[2] w = {1, 2}> {
            a = Add(x, v)
            y = Mul(a, w)
        }""",
        """
        a = Add(x, v)
        y = Mul(a, v)
        v: [2]
        """,
    ),
    "no-ops go": (
        """g (float[n, 2] x) => (float[n, 2] y) {
            a = Cast<to = 1>(x)
            b = Transpose<perm = [0, 1]>(a)
            c = Dropout(b)
            d = Identity(c)
            e = Concat<axis = 0>(d)
            y = Neg(e)
        }""",
        "y = Neg(x)",
    ),
    "an Identity before an output hands its name on": (
        """g (float[n, 2] x) => (float[n, 2] y) {
            a = Neg(x)
            y = Identity(a)
        }""",
        "y = Neg(x)",
    ),
    "padding moves into the convolution": (
        """g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)
            <float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}> {
            a = Pad(x, pads)
            y = Conv(a, w)
        }""",
        """
        y = Conv(x, w)
        w: [1,1,3,3]
        """,
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: str) -> None:
    before, after = GOLDEN[case]
    model = graph(before)
    (record,) = pipeline.run(model, [Canonicalize()])
    assert record.modified
    assert text(model) == expected(after)
    (again,) = pipeline.run(model, [Canonicalize()])
    assert not again.modified


KEPT = {
    "output repeats an input or an initializer": """g (float[n, 2] x) => (float[n, 2] y) {
        y = Identity(x)
    }""",
    "output repeats another output": """g (float[n, 2] x) => (float[n, 2] y0, float[n, 2] y1) {
        y0 = Neg(x)
        y1 = Identity(y0)
    }""",
}


@pytest.mark.parametrize("reason", KEPT)
def test_an_identity_that_must_stay(reason: str) -> None:
    model = graph(KEPT[reason])
    for node in model.graph:
        node.name = f"the {node.op_type}"
    before = serialized(model)
    (record,) = pipeline.run(model, [Canonicalize()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


def test_two_equal_outputs_keep_their_names() -> None:
    model = graph("g (float[n, 2] x) => (float[n, 2] y, float[n, 2] z) { y = Neg(x)\n z = Neg(x) }")
    sites(model, Canonicalize())
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    out = compute(model, {"x": np.ones((1, 2), np.float32)})
    assert out["y"].tolist() == out["z"].tolist() == [[-1, -1]]


def test_a_constant_output_stays_an_output() -> None:
    model = graph("g (float[n, 2] x) => (float[2] y) { a = Constant<value = float[2] {1, 2}>()\n y = Neg(a) }")
    sites(model, Canonicalize())
    assert compute(model, {"x": np.ones((1, 2), np.float32)})["y"].tolist() == [-1, -2]


def test_functions_are_inlined() -> None:
    model = graph(
        """g (float[n, 2] x) => (float[n, 2] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["" : 20]> twice (a) => (b) { b = Add(a, a) }""",
        header='<ir_version: 10, opset_import: ["" : 20, "own" : 1]>',
    )
    sites(model, Canonicalize())
    assert text(model) == "y = Add(x, x)"
    assert dict(model.opset_imports) == {"": 20}


def test_notes_and_paths_are_cleared() -> None:
    model = graph("g (float[n, 2] x) => (float[n, 2] y) { y = Neg(x) }")
    node = next(iter(model.graph))
    node.name = "neg"
    node.metadata_props["pkg.torch.onnx.stack_trace"] = 'File "/home/someone/model.py", line 3'
    node.doc_string = node.outputs[0].doc_string = model.graph.doc_string = model.doc_string = "from /home/someone"
    model.graph.inputs[0].metadata_props["where"] = "/home/someone"
    (record,) = pipeline.run(model, [Canonicalize()])
    assert record.modified
    assert b"someone" not in serialized(model)


def test_unnamed_and_repeated_node_names_become_unique() -> None:
    model = graph("g (float[n, 2] x) => (float[n, 2] y) { a = Neg(x)\n b = Relu(a)\n c = Neg(b)\n y = Exp(c) }")
    sites(model, Canonicalize())
    assert [n.name for n in model.graph] == ["node_Neg", "node_Relu", "node_Neg_1", "node_Exp"]


def test_the_interface_is_not_sharpened() -> None:
    model = graph("g (float[n, 2] x) => (float[n, k] y) { y = Neg(x) }")
    sites(model, Canonicalize())
    assert str(Interface.of(model).outputs[0]) == "y: float32[n,k]"


def test_a_note_that_contradicts_the_graph_is_not_believed() -> None:
    model = graph("""g (float[?, ?, 4] x) => (float[a, b, c] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4}> {
            n0 = Shape<start = 0, end = 1>(x)
            s0 = Shape<start = 1, end = 2>(x)
            target = Concat<axis = 0>(n0, s0, two, two)
            split = Reshape(x, target)
            turned = Transpose<perm = [0, 2, 1, 3]>(split)
            sizes = Shape(turned)
            n1 = Slice(sizes, zero, one, zero)
            s1 = Slice(sizes, two, three, zero)
            merged = Concat<axis = 0>(s1, four, n1)
            y = Reshape(turned, merged)
        }""")
    values = {v.name: v for node in model.graph for v in node.outputs}
    values["split"].shape = ir.Shape(["u", "u", "v", "w", "z"])  # what onnx 1.23 infers of a slice by constants
    values["turned"].shape = ir.Shape(["u", "v", "u", "w"])
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}
    before = compute(model, feeds)
    pipeline.run(model, [Canonicalize()])
    assert distance(compute(model, feeds), before)[0] == 0


def test_folding_is_bounded() -> None:
    model = graph("""g (float[n, 4] x) => (float[n, 4] y) <float[4] a = {1, 2, 3, 4}, float[4] b = {1, 2, 3, 4}> {
        c = Add(a, b)
        y = Mul(x, c)
    }""")
    sites(model, Canonicalize(max_fold_input=3))
    assert [n.op_type for n in model.graph] == ["Add", "Mul"]


def test_a_large_weight_is_not_transposed() -> None:
    body = "g (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { t = Transpose(w)\n y = MatMul(x, t) }"
    model = graph(body)
    sites(model, Canonicalize(max_transpose=3))
    assert [n.op_type for n in model.graph] == ["Transpose", "MatMul"]
    model = graph(body)
    sites(model, Canonicalize(max_transpose=4))
    assert [n.op_type for n in model.graph] == ["MatMul"]


def test_subgraphs_are_cleaned_too() -> None:
    model = graph("""g (float[n, 2] x, bool p) => (float[n, 2] y) {
        y = If (p) <
            then_branch = t () => (float[n, 2] a) {
                c = Constant<value = float {2}>()
                i = Identity(x)
                a = Mul(i, c) },
            else_branch = e () => (float[n, 2] b) { d = Neg(x)\n b = Identity(d) }
        >
    }""")
    sites(model, Canonicalize())
    assert Counter(n.op_type for n in ir.traversal.RecursiveGraphIterator(model.graph)) == {"If": 1, "Mul": 1, "Neg": 1}
    for p, want in ((True, 2.0), (False, -1.0)):
        assert compute(model, {"x": np.ones((1, 2), np.float32), "p": np.array(p)})["y"].tolist() == [[want, want]]


UNARY = ("Relu", "Neg", "Identity", "Abs", "Tanh", "Identity", "Dropout", "Cast", "Transpose")


@st.composite
def graphs(draw: st.DrawFn) -> ir.Model:
    """Random valid graphs over [n, 2], full of what canonicalisation looks for; outputs may be equal."""
    values = ["x0", "x1"]
    lines = []
    for i in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(["unary", "binary", "constant"]))
        if kind == "unary":
            op, arg = draw(st.sampled_from(UNARY)), draw(st.sampled_from(values))
            attribute = {"Cast": "<to = 1>", "Transpose": "<perm = [0, 1]>"}.get(op, "")
            lines.append(f"v{i} = {op}{attribute}({arg})")
        elif kind == "binary":
            op = draw(st.sampled_from(["Add", "Mul", "Sub"]))
            lines.append(f"v{i} = {op}({draw(st.sampled_from(values))}, {draw(st.sampled_from(values))})")
        else:
            number = draw(st.sampled_from(["0", "1", "2"]))
            lines.append(f"v{i} = Constant<value = float[1, 2] {{{number}, {number}}}>()")
        values.append(f"v{i}")
    made = values[2:]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    head = ", ".join(f"float[{'1' if 'Constant' in lines[made.index(o)] else 'n'}, 2] {o}" for o in outputs)
    body = "\n".join(lines)
    # shapes of outputs that come from constants alone differ, so they are left to shape inference
    return ir.from_onnx_text(
        f"{HEADER}\ng (float[n, 2] x0, float[n, 2] x1) => ({head.replace('n, 2', 'p, q')}) {{\n{body}\n}}"
    )


@settings(max_examples=120, deadline=None, derandomize=True)
@given(graphs())
def test_properties(model: ir.Model) -> None:
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal((3, 2)).astype(np.float32) for n in ("x0", "x1")}
    before, interface, raw = compute(model, feeds), Interface.of(model), serialized(model)
    (record,) = pipeline.run(model, [Canonicalize()])
    after = compute(model, feeds)
    assert list(after) == list(before)
    for name, array in before.items():  # no sums are taken: elementwise operators are exact
        np.testing.assert_array_equal(after[name], array)
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    if not record.modified:
        assert serialized(model) == raw
    canonical = serialized(model)
    (again,) = pipeline.run(model, [Canonicalize()])
    assert not again.modified
    assert serialized(model) == canonical


def test_real_model() -> None:
    """A module's graph is canonical once exported; written down again in the exporter's raw form, it returns to it."""
    model = export(digits_cnn.recipe(), opset=20, ir_version=10).model
    images = np.random.default_rng(0).uniform(0, 1, (5, 1, 8, 8)).astype(np.float32)
    before, nodes = compute(model, {"image": images}), len(list(model.graph))
    assert not pipeline.run(model, [Canonicalize()])[0].modified
    for node in list(model.graph):
        identity = ir.node("Identity", [node.inputs[0]])
        node.graph.insert_before(node, identity)  # type: ignore[union-attr]
        node.replace_input_with(0, identity.outputs[0])
        node.metadata_props["stack_trace"] = "line 1"
    (record,) = pipeline.run(model, [Canonicalize()])
    assert record.modified
    assert record.nodes_after == nodes
    assert distance(compute(model, {"image": images}), before)[0] <= reassociation(model)

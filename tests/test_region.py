"""Cutting a place out of a graph: what flows in, what flows out, and what comes along."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dlc.region import Index, cut, idle, typed
from dlc.runtimes.ort_cpu import OrtCpuRunner

BODY = """<ir_version: 10, opset_import: ["": 20]> g (float[n, 4] x, bool c) => (float[n, 4] y, float[n, 4] z)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, float[4] b = {1, 1, 1, 1}> {
    p = MatMul(x, w)
    s = Add(p, b)
    r = Relu(s)
    y = Mul(r, p)
    z = If (c) <
        then_branch = t () => (float[n, 4] u) { u = Neg(r) },
        else_branch = e () => (float[n, 4] v) { v = Abs(x) }>
}"""


@pytest.fixture
def index() -> Index:
    model = ir.from_onnx_text(BODY)
    for node in model.graph:
        node.name = node.op_type
    return Index(model)


def names(values: object) -> list[str | None]:
    return [v.name for v in values]  # type: ignore[attr-defined]


def test_inputs_come_from_outside_and_outputs_are_read_there(index: Index) -> None:
    place = cut(index, ["Add", "Relu"])
    assert place is not None
    assert names(place.graph.inputs) == ["p"]
    assert names(place.graph.outputs) == ["r"]
    assert list(place.graph.initializers) == ["b"]


def test_a_value_read_inside_and_outside_is_an_output(index: Index) -> None:
    place = cut(index, ["Add", "MatMul"])  # any order
    assert place is not None
    assert [n.op_type for n in place.graph] == ["MatMul", "Add"]
    assert names(place.graph.outputs) == ["p", "s"]


def test_a_reader_in_a_subgraph_is_outside(index: Index) -> None:
    place = cut(index, ["Relu", "Mul"])
    assert place is not None
    assert names(place.graph.outputs) == ["r", "y"]


@pytest.mark.parametrize("which", [["If"], ["Neg"], ["no such node"], []])
def test_what_cannot_be_cut_out(index: Index, which: list[str]) -> None:
    assert cut(index, which) is None


def test_weights_are_shared_and_the_graph_is_untouched(index: Index) -> None:
    before = len(index.model.graph)
    place = cut(index, ["MatMul"])
    assert place is not None
    assert place.graph.initializers["w"].const_value is index.model.graph.initializers["w"].const_value
    assert index.model.graph.initializers["w"].uses()
    assert len(index.model.graph) == before


def test_a_place_computes_what_it_did_inside(index: Index) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    place = cut(index, ["MatMul", "Add", "Relu", "Mul"])
    assert place is not None
    with OrtCpuRunner(index.model) as whole, OrtCpuRunner(place) as alone:
        assert np.array_equal(whole.run({"x": x, "c": np.array(True)})["y"], alone.run({"x": x})["y"])


def test_the_idle_model_takes_the_same_feeds_and_gives_as_many_results(index: Index) -> None:
    place = cut(index, ["MatMul", "Add"])
    assert place is not None
    feeds = {"x": np.zeros((3, 4), np.float32)}
    with OrtCpuRunner(idle(place, feeds)) as runner:
        assert len(runner.run(feeds)) == 2


def test_an_input_without_a_type_gets_that_of_its_feed(index: Index) -> None:
    index.model.graph.node(0).outputs[0].type = None
    place = cut(index, ["Add"])
    assert place is not None
    typed(place, {"p": np.zeros((3, 4), np.float32)})
    assert place.graph.inputs[0].dtype is ir.DataType.FLOAT

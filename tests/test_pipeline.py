"""The pipeline holds each pass to its promises; here are passes that break them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from dlc import pipeline
from dlc.errors import PassError, Unsupported
from dlc.passes.base import Pass, Rewritten, Site
from tests.passes.texts import compute, graph

BODY = "g (float[n, 2] x) => (float[n, 2] y) <float[2] w = {1, 2}> { a = Relu(x)\n b = Neg(a)\n y = Mul(b, w) }"


@dataclass(frozen=True)
class Does(Pass):
    """Does one thing, and reports what it is told to."""

    name: ClassVar[str] = "does"
    action: Callable[[ir.Model], None] = field(repr=False)
    modified: bool = True
    level: int = 3

    def call(self, model: ir.Model) -> Rewritten:
        self.action(model)
        return Rewritten(model, self.modified, sites=(Site("does", "a", "Relu"),))


def nodes(model: ir.Model) -> list[ir.Node]:
    return list(model.graph)


def rename_output(model: ir.Model) -> None:
    model.graph.outputs[0].name = "z"


def sharpen_input(model: ir.Model) -> None:
    model.graph.inputs[0].shape = ir.Shape([3, 2])


def move_up(model: ir.Model) -> None:
    last = nodes(model)[-1]
    model.graph.remove(last)
    model.graph.insert_before(nodes(model)[0], last)


def repeat_name(model: ir.Model) -> None:
    nodes(model)[0].outputs[0].name = "b"


def lose_output(model: ir.Model) -> None:
    model.graph.outputs[0] = ir.val("y", ir.DataType.FLOAT, ["n", 2])


def swap(model: ir.Model) -> None:
    nodes(model)[0].op_type = "Abs"


def new_weight(model: ir.Model) -> None:
    model.graph.initializers["w"].const_value = ir.tensor(np.array([1, 2], np.float32), name="w")


def nothing(_: ir.Model) -> None:
    """Leave the model alone."""


def fails(model: ir.Model) -> None:
    try:
        model.graph.initializers["inner"]
    except KeyError as error:
        raise ValueError("outer") from error


def unsupported(model: ir.Model) -> None:
    raise Unsupported(str(model.graph.name))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (rename_output, r"changed the model's interface: output y: float32\[n,2\] became z: float32\[n,2\]"),
        (sharpen_input, r"changed the model's interface: input x: float32\[n,2\] became x: float32\[3,2\]"),
        (move_up, "reads 'b', which nothing before it produces"),
        (repeat_name, "two values are named 'b'"),
        (lose_output, "output 'y' is not produced"),
        (nothing, "reported modified=True, but the graph did not change"),
        (fails, r"KeyError: 'inner' \(ran before: does\)"),
    ],
)
def test_a_broken_promise_names_the_pass(action: Callable[[ir.Model], None], message: str) -> None:
    with pytest.raises(PassError, match=message) as caught:
        pipeline.run(graph(BODY), [Does(nothing, modified=False), Does(action)])
    assert caught.value.culprit == "does"


@pytest.mark.parametrize("action", [swap, new_weight])
def test_a_hidden_change_is_found(action: Callable[[ir.Model], None]) -> None:
    with pytest.raises(PassError, match="reported modified=False, but the graph changed"):
        pipeline.run(graph(BODY), [Does(action, modified=False)])


def test_errors_of_ours_pass_through() -> None:
    with pytest.raises(Unsupported):
        pipeline.run(graph(BODY), [Does(unsupported)])


def test_a_subgraph_is_held_to_the_same() -> None:
    body = """g (float[n, 2] x, bool p) => (float[n, 2] y) {
        y = If (p) <then_branch = t () => (float[n, 2] a) { c = Relu(x)\n a = Neg(c) },
                    else_branch = e () => (float[n, 2] b) { b = Abs(x) }>
    }"""
    model = graph(body)
    branch = nodes(model)[0].attributes["then_branch"].as_graph()
    assert pipeline.malformed(model) is None
    before = pipeline.digest(model)
    branch[0].op_type = "Exp"
    assert pipeline.digest(model) != before
    branch[0].outputs[0].name = "x"
    assert pipeline.malformed(model) == "two values are named 'x'"
    branch[0].outputs[0].name = "c"
    last = branch[1]
    branch.remove(last)
    branch.insert_before(branch[0], last)
    assert "reads 'c', which nothing before it produces" in str(pipeline.malformed(model))


def test_records_and_observers() -> None:
    seen: list[str] = []
    each = Does(swap)
    (record,) = pipeline.run(
        graph(BODY), [each], [lambda p, m, r: seen.append(f"{p.name} {nodes(m)[0].op_type} {r.modified}")]
    )
    assert seen == ["does Abs True"]
    assert record.options == {"modified": True, "level": 3}
    assert (record.nodes_before, record.nodes_after) == (3, 3)
    assert record.sites == (Site("does", "a", "Relu"),)
    assert record.seconds >= 0


def test_equivalence_on_request() -> None:
    feeds = {"x": np.array([[1, -2]], np.float32)}
    pipeline.run(graph(BODY), [Does(new_weight)], evaluate=lambda m: compute(m, feeds))
    with pytest.raises(PassError, match="changed output 'y' by"):
        pipeline.run(graph(BODY), [Does(swap)], evaluate=lambda m: compute(m, feeds))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: nodes(m)[0].metadata_props.update(a="b"),
        lambda m: setattr(nodes(m)[0], "doc_string", "a"),
        lambda m: setattr(nodes(m)[0], "name", "other"),
        lambda m: setattr(nodes(m)[0].outputs[0], "shape", ir.Shape([9])),
        lambda m: m.opset_imports.update({"": 21}),
        lambda m: nodes(m)[0].attributes.add(ir.AttrInt64("axis", 1)),
        lambda m: m.metadata_props.update(a="b"),
    ],
)
def test_the_digest_sees(change: Callable[[ir.Model], None]) -> None:
    model = graph(BODY)
    before = pipeline.digest(model)
    assert pipeline.digest(model) == before
    change(model)
    assert pipeline.digest(model) != before

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dlc.passes.liveness import Kernel, executed, liveness, tasks
from dlc.passes.offsets import Buffer
from dlc.passes.schedule import peak
from tests.passes.weights import weighted

SIZES = dict.fromkeys("abcdeiryxz", 128)


def over(node: ir.Node) -> Kernel:
    """Relu and Add write over their first input, Reshape hands it on."""
    if node.op_type == "Reshape":
        return Kernel(alias=((0, 0),))
    return Kernel(in_place=((0, 0),)) if node.op_type in ("Relu", "Add") else Kernel()


def spans(body: str, kernels: object = over, weights: dict[str, np.ndarray] | None = None) -> list[Buffer]:
    given = "".join(f", int64[{len(w)}] {name}" for name, w in (weights or {}).items())
    model = weighted(f"g (float[32] x{given}) => (float[32] y) {{ {body} }}", weights or {})
    return list(liveness(list(model.graph), model.graph, SIZES, kernels).buffers)  # type: ignore[arg-type]


def test_a_last_reader_writes_over_its_input() -> None:
    assert spans("a = Exp(x) b = Relu(a) y = Neg(b)") == [Buffer("a", 128, 0, 3)]


def test_not_while_another_reads_it_later() -> None:
    assert spans("a = Exp(x) b = Relu(a) c = Exp(a) d = Sub(b, c) y = Neg(d)")[:2] == [
        Buffer("a", 128, 0, 3), Buffer("b", 128, 1, 4),
    ]  # fmt: skip


def test_not_if_it_reads_it_twice() -> None:
    assert spans("a = Exp(x) b = Add(a, a) y = Neg(b)") == [Buffer("a", 128, 0, 2), Buffer("b", 128, 1, 3)]


def test_not_a_graph_input_and_not_into_a_graph_output() -> None:
    assert spans("a = Relu(x) y = Relu(a)") == [Buffer("a", 128, 0, 2)]


def test_not_a_view_of_what_is_read_later() -> None:
    body = "a = Exp(x) r = Reshape(a, s) b = Relu(r) c = Exp(a) d = Sub(b, c) y = Neg(d)"
    assert Buffer("b", 128, 2, 5) in spans(body, weights={"s": np.array([32])})


def test_not_if_sizes_differ() -> None:
    model = weighted("g (float[32] x) => (float[32] y) { a = Exp(x) b = Relu(a) y = Neg(b) }", {})
    found = liveness(list(model.graph), model.graph, {**SIZES, "b": 64}, over).buffers
    assert [b.name for b in found] == ["a", "b"]


def test_what_is_held_counts_outputs_apart() -> None:
    model = weighted("g (float[32] x) => (float[32] y, float[32] z) { a = Exp(x) y = Neg(a) z = Neg(y) }", {})
    lives = liveness(list(model.graph), model.graph, SIZES, over)
    assert (lives.held, lives.escaping) == ((128, 128, 0), (0, 128, 256))


def test_scratch_is_a_buffer_of_one_step() -> None:
    found = spans("a = Exp(x) y = Neg(a)", lambda node: Kernel(scratch=64 if node.op_type == "Neg" else 0))
    assert found == [Buffer("a", 128, 0, 2), Buffer("node_y#scratch", 64, 1, 2)]


def test_shape_and_size_run_at_once() -> None:
    """As ONNX Runtime does with ``ExecutionOrder.PRIORITY_BASED``."""
    body = "g (float[32] x) => (int64[1] y) { a = Exp(x) b = Neg(a) c = Exp(b) y = Shape(a) }"
    assert [n.op_type for n in executed(weighted(body, {}).graph)] == ["Exp", "Shape", "Neg", "Exp"]


def test_tasks_have_the_same_peak_as_the_buffers() -> None:
    body = "a = Exp(x) r = Reshape(a, s) b = Relu(r) c = Exp(b) d = Sub(b, c) y = Neg(d)"
    model = weighted(f"g (float[32] x, int64[1] s) => (float[32] y) {{ {body} }}", {"s": np.array([32])})
    order = list(model.graph)
    found, sizes = tasks(order, model.graph, SIZES, over)
    assert peak(found, sizes, range(len(order))) == max(liveness(order, model.graph, SIZES, over).held)


def test_what_nothing_reads_stays_until_the_end() -> None:
    body = "g (float[32] x) => (float[32] y) { a = Exp(x) b = Sub(x, x) c = Neg(x) y = Neg(c) }"
    model = weighted(body, {})
    order = list(model.graph)
    lives = liveness(order, model.graph, SIZES, over)
    assert [(b.name, b.first, b.last) for b in lives.buffers] == [("a", 0, 4), ("b", 1, 4), ("c", 2, 4)]
    found, sizes = tasks(order, model.graph, SIZES, over)
    assert (len(found), peak(found, sizes, range(5))) == (5, max(lives.held))

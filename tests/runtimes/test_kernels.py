"""Probes of real kernels. What is asserted is what ONNX Runtime 1.32 does; another version may answer otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from dlc.errors import CapabilityError, Unsupported
from dlc.passes.concrete_shapes import Shape
from dlc.passes.liveness import Kernel
from dlc.planning import name_nodes
from dlc.runtimes.footsteps import Footstep, footsteps, in_planned_order
from dlc.runtimes.kernels import Prober
from dlc.runtimes.planned import trace
from dlc.runtimes.session import SessionConfig
from dlc.runtimes.tensor_types import byte_size, ort_type
from dlc.types import Array, Feeds
from tests.passes.weights import WITH_CONTRIB, weighted

CONFIG = in_planned_order(SessionConfig())
X = np.ones((32, 64), np.float32)


def probed(body: str, types: Mapping[str, tuple[str, Shape]], header: str = WITH_CONTRIB, **weights: Array) -> Kernel:
    """Probe the node that writes ``y``."""
    model = weighted(body, weights, header)
    name_nodes(model)
    kernels = Prober(model, {"x": ort_type(X), **types}, CONFIG).kernels({"x": X})
    return kernels(next(n for n in model.graph if n.outputs[0].name == "y"))


def test_unary_operators_write_over_their_input() -> None:
    assert probed("g (float[32, 64] x) => (float[32, 64] y) { y = Relu(x) }", {}) == Kernel(in_place=((0, 0),))


def test_sums_do_not() -> None:
    body = "g (float[32, 64] x) => (float[32, 64] y) { a = Exp(x) y = Add(x, a) }"
    assert probed(body, {"a": ("float", (32, 64))}) == Kernel()


def test_a_reshape_hands_its_input_on() -> None:
    body = "g (float[32, 64] x, int64[1] s) => (float[2048] y) { y = Reshape(x, s) }"
    assert probed(body, {}, s=np.array([2048])) == Kernel(alias=((0, 0),))


def test_scratch_is_what_a_traced_run_takes_beside() -> None:
    """Against the tracing allocator, which sees every allocation; Softmax along the first axis transposes twice."""
    body = "g (float[32, 64] x) => (float[32, 64] z) { a = Mul(x, x) y = Softmax<axis = 0>(a) z = Mul(y, x) }"
    found = probed(body, {"a": ("float", (32, 64))})
    assert found == Kernel(in_place=((0, 0),), scratch=2 * X.nbytes)
    try:
        events = trace(weighted(body, {}), {"x": X}, CONFIG)
    except CapabilityError as error:
        pytest.skip(str(error))
    assert [e.size for e in events if e.size] == [X.nbytes] * 4  # a, which is y, the scratch twice, and z


def test_a_function_is_assumed() -> None:
    """ONNX Runtime runs the nodes of its body instead."""
    assert probed("g (float[32, 64] x) => (float[32, 64] y) { y = Mish(x) }", {}) == Kernel()


def test_a_type_that_numpy_lacks() -> None:
    body = "g (float[32, 64] x) => (float[32, 64] y) { a = Cast<to = 16>(x) y = Cast<to = 1>(a) }"
    assert probed(body, {"a": ("bfloat16", (32, 64))}) == Kernel()


def test_a_node_with_subgraphs_that_read_what_it_captures() -> None:
    body = """g (float[32, 64] x, bool[1] c) => (float[32, 64] y) {
        a = Exp(x)
        y = If(c) <then_branch = t () => (float[32, 64] p) { p = Neg(a) },
                   else_branch = e () => (float[32, 64] q) { q = Abs(a) }>
    }"""
    assert probed(body, {"a": ("float", (32, 64))}, c=np.array([True])) == Kernel()


def test_a_node_that_cannot_run_alone_is_assumed() -> None:
    """Nothing is known of what ``a`` is, so nothing can be fed."""
    body = "g (float[32, 64] x, int64[1] s) => (float[2048] y) { a = Exp(x) y = Reshape(a, s) }"
    assert probed(body, {}, s=np.array([2048])) == Kernel(alias=((0, 0),))


def test_what_this_runtime_lacks_is_not_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> list[Footstep]:
        raise CapabilityError("this ONNX Runtime does not count the bytes of a run")

    monkeypatch.setattr("dlc.runtimes.kernels.footsteps", lacking)
    with pytest.raises(CapabilityError, match="does not count"):
        probed("g (float[32, 64] x) => (float[32, 64] y) { y = Relu(x) }", {})


def test_nodes_of_a_kind_are_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def record(_self: Prober, node: ir.Node, _values: Feeds) -> Kernel:
        asked.append(node.op_type)
        return Kernel()

    monkeypatch.setattr(Prober, "_probe", record)
    body = "g (float[32, 64] x) => (float[32, 64] y) { a = Exp(x) b = Exp(a) c = Neg(b) y = Exp(c) }"
    probed(body, dict.fromkeys("abc", ("float", (32, 64))))
    assert sorted(asked) == ["Exp", "Neg"]


def test_footsteps_are_exact() -> None:
    model = weighted("g (float[32, 64] x) => (float[32, 64] y) { a = Exp(x) b = Add(a, x) y = Neg(b) }", {})
    steps = footsteps(model, {"x": X}, CONFIG)
    assert [s.node for s in steps] == ["node_a", "node_b", "node_y"]
    assert [s.taken for s in steps] == [X.nbytes] * 3
    assert [s.held for s in steps] == [X.nbytes, 2 * X.nbytes, 2 * X.nbytes]
    assert steps[0].outputs == (("float", (32, 64)),)


@pytest.mark.parametrize(("kind", "shape", "size"), [("float", (3, 5), 60), ("int4", (9,), 5), ("bool", (), 1)])
def test_bytes_of_a_type(kind: str, shape: Shape, size: int) -> None:
    assert byte_size(kind, shape) == size


def test_a_type_without_a_size_is_named() -> None:
    with pytest.raises(Unsupported, match="type string"):
        byte_size(*ort_type(np.array(["a"], object)))


def test_the_model_is_left_alone() -> None:
    model = weighted("g (float[32, 64] x) => (float[32, 64] y) { y = Relu(x) }", {})
    before = ir.to_proto(model).SerializeToString()
    Prober(model, {"x": ort_type(X)}, CONFIG).kernels({"x": X})
    assert ir.to_proto(model).SerializeToString() == before

"""Parts of a graph: which nodes are left, what they are fed, what they put out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.reduction import drop_unread_inputs, feed, freeze, least, part, without_constant_nodes
from dlc.runtimes.ort_cpu import OrtCpuRunner
from tests.passes.texts import graph

DIAMOND = graph("""g (float[n, 4] x, float[n, 4] z) => (float[n, 4] y)
    { a = Neg(x)  b = Relu(a)  c = Exp(a)  d = Add(b, c)  y = Mul(d, z) }""")
BRANCH = graph("""g (bool c, float[2] x) => (float[2] y) {
    a = Neg(x)  b = Exp(x)
    y = If(c) <then_branch = t () => (float[2] p) { p = Add(a, b) }, else_branch = e () => (float[2] q) { q = Abs(a) }>
}""")


def names(values: Sequence[ir.Value]) -> list[str | None]:
    return [v.name for v in values]


@pytest.mark.parametrize(
    ("kept", "inputs", "outputs"),
    [
        ({0, 1, 2, 3, 4}, ["x", "z"], ["y"]),
        ({0, 1}, ["x", "z"], ["a", "b"]),
        ({1, 3}, ["x", "z", "a", "c"], ["d"]),
        ({4}, ["x", "z", "d"], ["y"]),
    ],
)
def test_what_a_part_reads_and_puts_out(kept: set[int], inputs: list[str], outputs: list[str]) -> None:
    found = part(DIAMOND, kept)
    assert (len(found.graph), names(found.graph.inputs), names(found.graph.outputs)) == (len(kept), inputs, outputs)


def test_inputs_that_nothing_reads_go() -> None:
    found = part(DIAMOND, {1, 3})
    drop_unread_inputs(found)
    assert names(found.graph.inputs) == ["a", "c"]


def test_the_model_itself_stays_whole() -> None:
    before = ir.to_proto(DIAMOND).SerializeToString()
    part(DIAMOND, {1, 3})
    assert ir.to_proto(DIAMOND).SerializeToString() == before


def test_what_an_inner_graph_reads_is_an_input_too() -> None:
    found = part(BRANCH, {2})
    assert names(found.graph.inputs) == ["c", "x", "a", "b"]
    assert names(part(BRANCH, {0, 1}).graph.outputs) == ["a", "b"]
    drop_unread_inputs(found)
    a, b = np.array([1, -2], np.float32), np.array([3, 4], np.float32)
    feed(found, {"a": a, "b": b})
    with OrtCpuRunner(found) as runner:
        np.testing.assert_array_equal(runner.run({"c": np.array(True), "a": a, "b": b})["y"], a + b)


def test_fed_or_frozen_a_part_computes_what_the_whole_does() -> None:
    rng = np.random.default_rng(0)
    a, c = (rng.standard_normal((3, 4)).astype(np.float32) for _ in range(2))
    fed, frozen = part(DIAMOND, {1, 3}), part(DIAMOND, {1, 3})
    drop_unread_inputs(fed)
    for value in fed.graph.inputs:
        value.type = value.shape = None
    feed(fed, {"a": a, "c": c})
    freeze(frozen, {"a": a, "c": c})
    assert names(frozen.graph.inputs) == ["x", "z"]
    with OrtCpuRunner(fed) as one, OrtCpuRunner(frozen) as other:
        expected = np.maximum(a, 0) + c
        np.testing.assert_array_equal(one.run({"a": a, "c": c})["d"], expected)
        np.testing.assert_array_equal(other.run({"x": a, "z": a})["d"], expected)


def test_constants_stay_constant() -> None:
    model = without_constant_nodes(
        graph("g (float[4] x) => (float[2, 2] y) { s = Constant <value_ints = [2, 2]> ()  y = Reshape(x, s) }")
    )
    assert names(part(model, {0}).graph.inputs) == ["x"]
    assert [node.op_type for node in model.graph] == ["Reshape"]


@settings(derandomize=True, deadline=None)
@given(st.sets(st.integers(0, 99), min_size=1, max_size=4))
def test_the_nodes_that_fail_together_are_left(culprits: set[int]) -> None:
    assert least(100, lambda kept: culprits <= set(kept)) == sorted(culprits)


def test_a_failure_that_comes_and_goes_with_size_is_found_all_the_same() -> None:
    def fails(kept: Sequence[int]) -> bool:
        return {5, 50} <= set(kept) and len(kept) % 3 != 1

    found = least(100, fails)
    assert fails(found)
    assert not any(fails([i for i in found if i != one]) for one in found)


def test_one_culprit_takes_few_tries() -> None:
    tries = []

    def fails(kept: Sequence[int]) -> bool:
        tries.append(kept)
        return 700 in kept

    assert least(1024, fails) == [700]
    assert len(tries) <= 2 * 10 + 1

from __future__ import annotations

import numpy as np
import pytest

from dlc.errors import CapabilityError, DataError, ModelError
from dlc.runtimes.reference import ReferenceRunner
from tests.passes.texts import HEADER, compute, graph

BODY = "g (float[n, 2] x) => (float[n, 2] y, float[n, 2] z) <float[2] w = {1, 2}> { y = Mul(x, w)\n z = Neg(y) }"
X = np.array([[1, 2], [3, 4]], np.float32)


def test_agrees_with_onnx_runtime() -> None:
    model = graph(BODY)
    with ReferenceRunner(model) as runner:
        out = runner.run({"x": X})
    for name, array in compute(model, {"x": X}).items():  # products of small integers are exact
        np.testing.assert_array_equal(out[name], array)
    assert list(out) == ["y", "z"]


def test_feeds_are_checked() -> None:
    with ReferenceRunner(graph(BODY)) as runner, pytest.raises(DataError, match="input 'x' is not fed"):
        runner.run({})


def test_an_operator_that_it_does_not_have() -> None:
    body = "g (float[n, 2] x) => (float[n, 2] y) { y = com.microsoft.FastGelu(x) }"
    model = graph(body, HEADER.replace("]>", ', "com.microsoft" : 1]>'))
    with pytest.raises(CapabilityError, match=r"the ONNX reference evaluator cannot run this graph: .*FastGelu"):
        ReferenceRunner(model).open()


def test_a_run_that_fails() -> None:
    model = graph("g (float[n, 2] x) => (float[a] y) <int64[1] shape = {5}> { y = Reshape(x, shape) }")
    with ReferenceRunner(model) as runner, pytest.raises(ModelError, match="reference evaluator failed: ValueError"):
        runner.run({"x": X})

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dlc.errors import DataError, ModelError
from dlc.interface import Interface, TensorType
from dlc.runtimes.eager import EagerRunner, flatten, takes_keywords


class Difference(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, object]:
        return {"first": a - b, "rest": [(a + b,), None]}


def tensors(*names: str) -> tuple[TensorType, ...]:
    return tuple(TensorType(n, "float32", ("n",)) for n in names)


ONE, TWO = np.array([1], np.float32), np.array([2], np.float32)


@pytest.mark.parametrize(
    ("names", "difference"),
    [(("a", "b"), -1.0), (("b", "a"), 1.0), (("left", "right"), -1.0)],
    ids=["by keyword", "by keyword in another order", "by position"],
)
def test_inputs_go_by_name_where_forward_has_them(names: tuple[str, str], difference: float) -> None:
    with EagerRunner(Difference(), Interface(tensors(*names), tensors("first", "second"))) as runner:
        out = runner.run(dict(zip(names, (ONE, TWO), strict=True)))
    assert list(out) == ["first", "second"]
    assert out["first"].tolist() == [difference]
    assert out["second"].tolist() == [3.0]


def test_feeds_are_checked_and_not_written_to() -> None:
    interface = Interface(tensors("a", "b"), tensors("first", "second"))
    frozen = ONE.copy()
    frozen.flags.writeable = False
    with EagerRunner(Difference(), interface) as runner:
        runner.run({"a": frozen, "b": TWO})
        with pytest.raises(DataError, match="input 'b' is not fed"):
            runner.run({"a": ONE})


def test_a_forward_that_fails() -> None:
    runner = EagerRunner(nn.Linear(3, 2), Interface(tensors("input"), tensors("y")))
    with runner, pytest.raises(ModelError, match="the module's forward fails: RuntimeError"):
        runner.run({"input": ONE})


def test_outputs_must_be_as_many_as_the_interface_says() -> None:
    runner = EagerRunner(Difference(), Interface(tensors("a", "b"), tensors("first")))
    with runner, pytest.raises(ModelError, match="returns 2 tensors, its ONNX graph 1"):
        runner.run({"a": ONE, "b": TWO})


def test_takes_keywords() -> None:
    assert takes_keywords(Difference(), ["b"])
    assert not takes_keywords(Difference(), ["a", "c"])
    assert not takes_keywords(nn.Sequential(), ["x"])


def test_flatten() -> None:
    assert [a.tolist() for a in flatten((torch.ones(1), {"k": [torch.zeros(1), None]}))] == [[1.0], [0.0]]

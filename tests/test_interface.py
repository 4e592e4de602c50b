from __future__ import annotations

import numpy as np
import pytest

from dlc.errors import DataError
from dlc.interface import Interface, TensorType, sizes_of
from dlc.types import Array
from tests.passes.texts import graph

MODEL = """g (float[n, 2] x, int64[n] ids) => (float[n, 2] y) <int64[1] one = {1}> {
    i = Cast<to = 1>(ids)
    j = Unsqueeze(i, one)
    y = Mul(x, j)
}"""


def test_of() -> None:
    interface = Interface.of(graph(MODEL))
    assert list(map(str, interface.inputs)) == ["x: float32[n,2]", "ids: int64[n]"]
    assert list(map(str, interface.outputs)) == ["y: float32[n,2]"]
    assert interface == Interface.of(graph(MODEL))


def test_inputs_with_a_default_are_left_out() -> None:
    model = graph(MODEL)
    model.graph.inputs.append(model.graph.initializers["one"])
    assert [t.name for t in Interface.of(model).inputs] == ["x", "ids"]


def test_diff_names_every_change() -> None:
    a = Interface((TensorType("x", "float32", ("n", 2)),), (TensorType("y", "float32", None),))
    b = Interface((TensorType("x", "float32", ("m", 2)), TensorType("z", "int64", (None,))), ())
    assert a.diff(b) == (
        "input x: float32[n,2] became x: float32[m,2]; input nothing became z: int64[?]; "
        "output y: float32[?] became nothing"
    )
    assert a.diff(a) == ""


X, IDS = np.ones((3, 2), np.float32), np.ones(3, np.int64)


def test_feeds_that_fit() -> None:
    interface = Interface.of(graph(MODEL))
    interface.check_feeds({"x": X, "ids": IDS})
    assert sizes_of(interface, {"x": X, "ids": IDS}) == {"n": 3}


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": X, "ids": IDS, "extra": X}, "no input is named 'extra'; the model has 'x', 'ids'"),
        ({"x": X}, "input 'ids' is not fed; the model needs 'x', 'ids'"),
        ({"x": X.astype(np.float64), "ids": IDS}, "input 'x' has dtype float64, the model wants float32"),
        ({"x": X[0], "ids": IDS}, r"input 'x' has shape \[2\], the model wants x: float32\[n,2\]"),
        ({"x": np.ones((3, 5), np.float32), "ids": IDS}, r"input 'x' has shape \[3, 5\]"),
        ({"x": X, "ids": IDS[:2]}, "dimension 'n' is 3 in 'x' and 2 in 'ids'"),
    ],
)
def test_feeds_that_do_not_fit(feeds: dict[str, Array], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Interface.of(graph(MODEL)).check_feeds(feeds)


def test_an_unknown_rank_takes_anything() -> None:
    interface = Interface((TensorType("x", "unknown", None),), ())
    interface.check_feeds({"x": X})

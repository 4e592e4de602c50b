from __future__ import annotations

import numpy as np
import pytest

from dlc.errors import DataError, Unsupported
from dlc.feeds import distinct_sizes, input_like, least_sizes, measured_sizes, seeded_feeds, typical_sizes
from dlc.interface import Interface, TensorType
from dlc.recipe import Dim, Input


def draw(
    tensor: TensorType, spec: Input | None = None, **sizes: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    feeds = seeded_feeds(Interface((tensor,), ()), {tensor.name: spec} if spec else {}, sizes, np.random.default_rng(0))
    return feeds[tensor.name]


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "int8", "bool"]
)
def test_every_dtype_keeps_its_type_and_shape(dtype: str) -> None:
    array = draw(TensorType("x", dtype, ("n", 3, None)), n=5)
    assert (str(array.dtype), array.shape) == (dtype, (5, 3, 1))


def test_bounds_hold() -> None:
    floats = draw(TensorType("x", "float32", (1000,)), Input("float32", (1000,), -3.0, -1.0)).astype(float)
    assert floats.min() >= -3
    assert floats.max() <= -1
    integers = draw(TensorType("x", "int64", (1000,)), Input("int64", (1000,), 5, 8)).astype(int)
    assert set(integers.tolist()) == {5, 6, 7}


@pytest.mark.parametrize(("low", "high", "least", "most"), [(2.0, None, 2, 3), (None, -4.0, -5, -4)])
def test_one_bound_alone(low: float | None, high: float | None, least: float, most: float) -> None:
    array = draw(TensorType("x", "float64", (500,)), Input("float64", (500,), low, high)).astype(float)
    assert least <= array.min() <= array.max() <= most


def test_without_bounds_integers_are_0_or_1_and_floats_normal() -> None:
    assert set(draw(TensorType("x", "int64", (100,))).astype(int).tolist()) == {0, 1}
    normal = draw(TensorType("x", "float64", (10_000,))).astype(float)
    assert abs(normal.std() - 1) < 5 / np.sqrt(2 * 10_000)  # standard error of a standard deviation: 1 / sqrt(2n)


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(Unsupported, match="'x' has dtype object"):
        draw(TensorType("x", "object", (1,)))
    with pytest.raises(Unsupported, match="'x' has no rank"):
        draw(TensorType("x", "float32", None))
    with pytest.raises(DataError, match="no size is given for dimension 'n'"):
        draw(TensorType("x", "float32", ("n",)))


def test_sizes() -> None:
    dims = {"batch": Dim(1, 64, 8), "time": Dim(1, 64, 8), "one": Dim(1, 1), "few": Dim(1, 2, 1)}
    assert typical_sizes(dims) == {"batch": 8, "time": 8, "one": 1, "few": 1}
    assert least_sizes(dims) == {"batch": 1, "time": 1, "one": 1, "few": 1}
    assert distinct_sizes(dims, fixed={10}) == {"batch": 8, "time": 9, "one": 1, "few": 2}
    assert distinct_sizes({"n": Dim(1, 4, 4)}, fixed={4}) == {"n": 3}


@pytest.mark.parametrize(
    ("dims", "points"),
    [
        ({}, [{}]),
        ({"n": Dim(4, 4)}, [{"n": 4}]),
        ({"n": Dim(1, 16, 16)}, [{"n": 16}, {"n": 1}]),
        ({"n": Dim(2, 32, 8)}, [{"n": 8}, {"n": 2}, {"n": 32}]),
        ({"n": Dim(1, 1024, 16)}, [{"n": 16}, {"n": 1}, {"n": 128}]),  # GROWTH times 16
        (  # 2 and 32 times the typical, together 64 = GROWTH^2: each takes half of its steps, sqrt(2) and sqrt(32)
            {"batch": Dim(1, 20, 10), "time": Dim(1, 320, 10)},
            [{"batch": 10, "time": 10}, {"batch": 1, "time": 1}, {"batch": 14, "time": 56}],
        ),
    ],
    ids=["fixed", "of one size", "typical is largest", "within the growth", "beyond it", "shared"],
)
def test_rewrites_are_measured_at_typical_least_and_large_sizes(
    dims: dict[str, Dim], points: list[dict[str, int]]
) -> None:
    assert measured_sizes(dims) == points


def test_input_like() -> None:
    assert input_like(np.array([[3, 9]])) == Input("int64", (1, 2), 3.0, 10.0)
    assert input_like(np.zeros((2, 3), np.float32)) == Input("float32", (2, 3))

"""Which nodes share second moments, and which are left out; what the numbers are, ``test_round_weights`` holds."""

from __future__ import annotations

import math

import numpy as np

from dlc.moments import moments
from dlc.types import Array
from tests.passes.texts import annotated


def ones(name: str, *shape: int) -> str:
    """A weight in ONNX text; its numbers do not matter here."""
    return f"float{list(shape)} {name} = {{{', '.join(['1'] * math.prod(shape))}}}"


PRODUCTS = f"""g (float[n, 8] x) => (float[n, 8] a, float[n, 4] b, float[n, 4] c)
    <{ones("q", 8, 8)}, {ones("k", 8, 4)}, {ones("v", 8, 4)}> {{
    [first] a = MatMul(x, q) [second] b = MatMul(x, k) [third] c = MatMul(a, v)
}}"""
CONVOLUTIONS = f"""g (float[n, 2, 4, 4] x) => (float[n, 3, 4, 4] a, float[n, 5, 4, 4] b, float[n, 2, 4, 4] c)
    <{ones("p", 3, 2, 3, 3)}, {ones("q", 5, 2, 3, 3)}, {ones("r", 2, 1, 3, 3)}> {{
    [one] a = Conv<pads = [1, 1, 1, 1]>(x, p)
    [alike] b = Conv<pads = [1, 1, 1, 1]>(x, q)
    [grouped] c = Conv<pads = [1, 1, 1, 1], group = 2>(x, r)
}}"""
MATRIX = 8 * 8**2


def batches(*shape: int) -> list[dict[str, Array]]:
    return [{"x": np.random.default_rng(i).standard_normal(shape).astype(np.float32)} for i in range(2)]


def test_products_of_one_value_share_a_matrix() -> None:
    found = moments(annotated(PRODUCTS), batches(5, 8))
    assert found["first"] is found["second"]
    assert found["third"] is not found["first"]


def test_convolutions_share_one_only_where_they_see_the_same_patches() -> None:
    found = moments(annotated(CONVOLUTIONS), batches(1, 2, 4, 4))
    assert found["one"] is found["alike"]
    assert found["one"].second.shape == (1, 18, 18)
    assert found["grouped"].second.shape == (2, 9, 9)


def test_matrices_take_half_of_the_memory_and_later_nodes_are_left_out() -> None:
    model = annotated(PRODUCTS)
    assert moments(model, batches(5, 8), max_ram=4 * MATRIX).keys() == {"first", "second", "third"}
    assert moments(model, batches(5, 8), max_ram=4 * MATRIX - 1).keys() == {"first", "second"}
    assert moments(model, batches(5, 8), max_ram=2 * MATRIX - 1) == {}


def test_only_operators_that_were_asked_for_are_looked_at() -> None:
    assert moments(annotated(CONVOLUTIONS), batches(1, 2, 4, 4), operators=("MatMul",)) == {}

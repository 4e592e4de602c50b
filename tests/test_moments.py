from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from dlc.errors import DataError, Unsupported
from dlc.moments import input_moments
from dlc.types import Array, Feeds
from tests.passes.weights import weighted

BODY = """g (float[m, 4, 24] x, float[24, 32] v, float[32, 40] w, float[24, 32] u)
=> (float[m, 4, 40] y, float[m, 4, 32] z) {
    h = MatMul(x, v) y = MatMul(h, w) z = MatMul(x, u)
}"""
INPUTS = {"v": "x", "w": "h", "u": "x"}


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


WEIGHTS = {"v": normal(24, 32), "w": normal(32, 40), "u": normal(24, 32)}
DATA = [normal(n, 4, 24, seed=n) for n in (3, 1, 5)]


def batches() -> Iterator[Feeds]:
    return ({"x": x} for x in DATA)


def test_they_are_sums_over_all_rows() -> None:
    found = input_moments(weighted(BODY, WEIGHTS), batches(), INPUTS)
    rows = np.concatenate(DATA).reshape(-1, 24).astype(np.float64)
    # 36 rows summed in FP32, and h itself a sum of 24 products: (36 + 2 * 24) roundings of the absolute terms at most.
    size = np.abs(rows).T @ np.abs(rows)
    assert (np.abs(found["v"] - rows.T @ rows) <= 36 * 2.0**-24 * size).all()
    h, wide = rows @ WEIGHTS["v"], np.abs(rows) @ np.abs(WEIGHTS["v"])
    assert (np.abs(found["w"] - h.T @ h) <= (36 + 2 * 24) * 2.0**-24 * (wide.T @ wide)).all()


def test_products_of_one_input_share_one_matrix() -> None:
    found = input_moments(weighted(BODY, WEIGHTS), batches(), INPUTS)
    assert found["v"] is found["u"]


def test_batches_may_come_in_any_order() -> None:
    forth, back = (
        input_moments(weighted(BODY, WEIGHTS), ({"x": x} for x in data), {"v": "x"})["v"] for data in (DATA, DATA[::-1])
    )
    rows = np.abs(np.concatenate(DATA).reshape(-1, 24)).astype(np.float64)
    assert (np.abs(forth - back) <= 2 * 36 * 2.0**-24 * (rows.T @ rows)).all()  # each side within its own bound


def test_no_data_and_too_much_memory_are_said() -> None:
    model = weighted(BODY, WEIGHTS)
    with pytest.raises(DataError, match="calibration data is empty"):
        input_moments(model, [], INPUTS)
    needed = 4 * (24**2 + 32**2)
    with pytest.raises(Unsupported, match=f"the moments of 2 inputs take {needed} bytes, more than {needed - 1}"):
        input_moments(model, batches(), INPUTS, most=needed - 1)
    assert input_moments(model, batches(), INPUTS, most=needed)

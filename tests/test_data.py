from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from dlc.data import DataSummary, inspect, leaked
from dlc.errors import CapabilityError, DataError
from dlc.interface import Interface, TensorType
from dlc.models import digits
from dlc.recipe import Dataset
from dlc.types import Array, Feeds

DIGITS = Interface((TensorType("image", "float32", ("batch", 1, 8, 8)),), ())
TWO_INPUTS = Interface((TensorType("ids", "int64", ("b", "s")), TensorType("table", "float32", (3,))), ())


def of(*batches: Feeds, targets: Array | None = None) -> Dataset:
    return Dataset("mine", lambda: batches, targets=None if targets is None else lambda: targets)


def images(n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((n, 1, 8, 8), dtype=np.float32)


def summary(*batches: Feeds, targets: Array | None = None) -> DataSummary:
    return inspect(of(*batches, targets=targets), DIGITS)


def test_digits() -> None:
    evaluation, calibration = (inspect(d, DIGITS) for d in (digits.evaluation(), digits.calibration()))
    assert (evaluation.examples, evaluation.batches, len(evaluation.hashes)) == (599, 10, 599)
    assert (calibration.examples, calibration.batches) == (192, 3)
    assert leaked(calibration, evaluation) == 0
    assert inspect(digits.evaluation(), DIGITS) == evaluation


def test_sha256_covers_every_byte_fed_and_every_target() -> None:
    batch, targets = images(4), np.arange(4)
    first = summary({"image": batch}, targets=targets).sha256
    assert summary({"image": batch.copy()}, targets=targets.copy()).sha256 == first
    changed = batch.copy()
    changed[3, 0, 7, 7] = np.nextafter(changed[3, 0, 7, 7], np.float32(2))
    others = [
        summary({"image": changed}, targets=targets).sha256,
        summary({"image": batch}, targets=np.array([0, 1, 2, 4])).sha256,
        summary({"image": batch}).sha256,
        summary({"image": batch[:2]}, {"image": batch[2:]}, targets=targets).sha256,
    ]
    assert len({first, *others}) == 5


def test_leaked_counts_examples_however_they_are_batched() -> None:
    shared, own = images(5, seed=1), images(7, seed=2)
    calibration = summary({"image": shared}, {"image": own})
    evaluation = summary({"image": np.concatenate([images(3, seed=3), shared[::-1]])})
    assert leaked(calibration, evaluation) == 5
    assert leaked(calibration, calibration) == 12
    assert leaked(calibration, summary({"image": images(3, seed=3)})) == 0


def test_an_example_is_its_row_and_what_all_rows_share() -> None:
    ids, table = np.array([[1, 2], [3, 4]]), np.ones(3, np.float32)
    one = inspect(of({"ids": ids, "table": table}), TWO_INPUTS)
    other = inspect(of({"ids": ids, "table": 2 * table}), TWO_INPUTS)
    assert (one.examples, len(set(one.hashes))) == (2, 2)
    assert leaked(one, other) == 0


def test_a_fixed_batch_counts_its_rows() -> None:
    fixed = Interface((TensorType("image", "float32", (2, 1, 8, 8)),), ())
    assert inspect(of({"image": images(2)}, {"image": images(2)}), fixed).examples == 4


def test_a_model_without_a_batch_has_one_example_a_batch() -> None:
    scalar = Interface((TensorType("x", "float32", ()),), ())
    assert inspect(of({"x": np.array(1, np.float32)}, {"x": np.array(2, np.float32)}), scalar).examples == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_batch_and_input(value: float) -> None:
    bad = images(3)
    bad[1, 0, 2, 3] = value
    with pytest.raises(DataError, match="'mine', batch 1: input 'image' holds NaN or infinity"):
        summary({"image": images(3)}, {"image": bad})


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ({"picture": images(2)}, "no input is named 'picture'"),
        ({}, "input 'image' is not fed"),
        ({"image": images(2).astype(np.float64)}, "has dtype float64, the model wants float32"),
        ({"image": images(2)[:, :, :7]}, r"has shape \[2, 1, 7, 8\]"),
        ({"image": images(2)[0]}, r"has shape \[1, 8, 8\]"),
    ],
    ids=["unknown name", "missing name", "dtype", "shape", "rank"],
)
def test_a_batch_that_does_not_fit_is_named(feeds: Feeds, reason: str) -> None:
    with pytest.raises(DataError, match=f"data set 'mine', batch 1: .*{reason}"):
        summary({"image": images(2)}, feeds)


def test_an_empty_data_set_is_named() -> None:
    with pytest.raises(DataError, match="data set 'mine' is empty"):
        summary()


def test_an_empty_batch_is_named() -> None:
    with pytest.raises(DataError, match="data set 'mine', batch 1 holds no example"):
        summary({"image": images(2)}, {"image": images(0)})


def test_a_batch_must_be_a_mapping() -> None:
    with pytest.raises(DataError, match="batch 0: a batch maps input names to arrays, not ndarray"):
        inspect(Dataset("mine", lambda: [images(2)]), DIGITS)  # type: ignore[list-item]


@pytest.mark.parametrize(("count", "fits"), [(6, True), (3, True), (5, False), (0, False), (12, False)])
def test_targets_must_fit_the_examples(count: int, fits: bool) -> None:
    """Six rows may be three pairs; five targets fit nothing."""
    feeds = {"image": images(6)}
    if fits:
        assert summary(feeds, targets=np.arange(count)).examples == 6
    else:
        with pytest.raises(DataError, match=f"has {count} targets for 6 examples"):
            summary(feeds, targets=np.arange(count))


def test_one_number_is_no_target_list() -> None:
    with pytest.raises(DataError, match="has 0 targets for 6 examples"):
        summary({"image": images(6)}, targets=np.array(3))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_target_that_is_no_number_is_named(value: float) -> None:
    with pytest.raises(DataError, match="target 2 is NaN or infinite"):
        summary({"image": images(4)}, targets=np.array([1.0, 2.0, value, 4.0]))


def failing(error: Exception) -> Callable[[], Iterator[Feeds]]:
    def batches() -> Iterator[Feeds]:
        yield {"image": images(2)}
        raise error

    return batches


def test_a_reader_that_fails_is_named() -> None:
    with pytest.raises(DataError, match="'mine' fails after batch 0: OSError: disk on fire"):
        inspect(Dataset("mine", failing(OSError("disk on fire"))), DIGITS)


def test_our_own_errors_pass_through() -> None:
    with pytest.raises(CapabilityError, match="pip install"):
        inspect(Dataset("mine", failing(CapabilityError("pip install scikit-learn"))), DIGITS)


def test_targets_that_fail_are_named() -> None:
    def targets() -> Array:
        raise KeyError("label")

    with pytest.raises(DataError, match="targets of data set 'mine' cannot be read: KeyError: 'label'"):
        inspect(replace(of({"image": images(2)}), targets=targets), DIGITS)

from __future__ import annotations

import numpy as np
import pytest

from dlc.data import inspect, leaked, nearly_leaked
from dlc.duplicates import ALIKE, HASHES, Signatures, near
from dlc.interface import Interface, TensorType
from dlc.models import digits
from dlc.recipe import Dataset
from dlc.types import Array, Feeds

IMAGES = Interface((TensorType("image", "float32", ("batch", 1, 8, 8)),), ())
TOKENS = Interface((TensorType("ids", "int64", ("batch", "s")), TensorType("mask", "int64", ("batch", "s"))), ())


def of(**rows: Array) -> Signatures:
    signatures = Signatures()
    signatures.add(rows, len(next(iter(rows.values()))))
    return signatures


def images() -> Array:
    return digits.load().held_out.images


def test_distinct_digits_are_no_duplicates() -> None:
    split = digits.load()
    assert near(of(image=split.train.images), of(image=split.held_out.images)).sum() == 0


@pytest.mark.parametrize("change", ["noise", "darker", "raised"])
def test_changed_scans_are_found(change: str) -> None:
    scans, rng = images()[:200], np.random.default_rng(1)
    changed = {
        "noise": scans + rng.normal(scale=0.02, size=scans.shape),
        "darker": 0.5 * scans,
        "raised": scans + 0.2,
    }[change]
    assert near(of(image=changed.astype(np.float32)), of(image=images())).all()


def test_only_those_that_were_copied_are_counted() -> None:
    """Of four calibration scans one is an evaluation scan, one nearly so."""
    rng = np.random.default_rng(2)
    scans = digits.load().train.images[:4].copy()
    scans[1] = images()[5]
    scans[2] = images()[9] + rng.normal(scale=0.01, size=(1, 8, 8)).astype(np.float32)
    calibration = inspect(Dataset("c", lambda: [{"image": scans}]), IMAGES)
    evaluation = inspect(digits.evaluation(), IMAGES)
    assert (leaked(calibration, evaluation), nearly_leaked(calibration, evaluation)) == (1, 1)


def test_blank_images_are_no_duplicates() -> None:
    blank = np.zeros((3, 1, 8, 8), np.float32)
    assert not near(of(image=blank), of(image=np.concatenate([blank, images()]))).any()


def test_one_example_is_no_measure_of_distance() -> None:
    assert not near(of(image=images()[:5]), of(image=images()[:1])).any()


def padded(sentences: list[list[int]], length: int) -> Feeds:
    ids, mask = np.zeros((2, len(sentences), length), np.int64)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)], mask[row, : len(sentence)] = sentence, 1
    return {"ids": ids, "mask": mask}


def sentences(count: int, seed: int, length: int = 40) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[101, *rng.integers(1000, 20000, length).tolist(), 102] for _ in range(count)]


def test_a_sentence_padded_otherwise_is_found() -> None:
    """Byte for byte no two rows are equal."""
    old, new = sentences(20, 1), sentences(30, 2)
    new[4], new[7] = old[3], old[11]
    calibration = inspect(Dataset("c", lambda: [padded(old, 42)]), TOKENS)
    evaluation = inspect(Dataset("e", lambda: [padded(new, 64)]), TOKENS)
    assert leaked(calibration, evaluation) == 0
    assert nearly_leaked(calibration, evaluation) == 2


@pytest.mark.parametrize(("changed", "found"), [(1, True), (20, False)])
def test_words_may_differ_but_few(changed: int, found: bool) -> None:
    old = sentences(10, 1)
    new = [list(s) for s in old]
    for sentence in new:
        sentence[1 : 1 + changed] = range(30_000, 30_000 + changed)
    assert near(of(**padded(old, 42)), of(**padded(new, 42))).tolist() == [found] * 10


def test_short_sentences_are_told_apart() -> None:
    short = of(**padded([[101, 2000, 102], [101, 2001, 102], [101, 102]], 8))
    other = of(**padded([[101, 2000, 102]], 12))
    assert near(short, other).tolist() == [True, False, False]


def test_likeness_is_the_share_of_runs_in_common(rng: np.random.Generator) -> None:
    """Two rows of 1,110 runs have 900 in common; the share of equal min-hashes is within 5 standard deviations."""
    first = rng.permutation(100_000)[:1112]
    second = np.concatenate([first[:902], rng.permutation(np.arange(200_000, 300_000))[:210]])
    a, b = (of(ids=row[None]).hashes[0][0] for row in (first, second))
    shared = 900 / (1110 + 1110 - 900)
    assert float((a == b).mean()) == pytest.approx(shared, abs=5 * (shared * (1 - shared) / HASHES) ** 0.5)
    assert shared < ALIKE


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


def test_floats_and_tokens_must_both_be_near() -> None:
    texts = padded(sentences(30, 1), 42)["ids"]
    both = of(image=images()[:30], ids=texts)
    assert near(both, both).all()
    assert not near(of(image=images()[:30], ids=padded(sentences(30, 2), 42)["ids"]), both).any()

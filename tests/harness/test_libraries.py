"""Metrics that dlc adds up itself, against the libraries that have them, on drawn inputs and at their edges.

dlc's own sums are what a bootstrap needs: rows per example, resampled thousands of times, in numpy alone.
Bounds: both sides add the same few hundred float64 values in another order, so they are apart by at most the number of
additions times eps, of the largest; where a library computes in float32, by that of float32.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

import numpy as np
import pytest
from scipy.spatial import distance
from scipy.special import log_softmax
from sklearn import metrics as sklearn

from dlc.harness.accuracy import METRICS, metric_rows, recall_at
from dlc.harness.agreement import SQNR_MAX, AgreementMeter
from dlc.harness.detection import UNLABELLED
from dlc.types import Array
from tests.harness.test_metrics import scene

SUMS = 1000 * float(np.finfo(np.float64).eps)
"""Relative, of sums of up to 1,000 values."""
SUMS_32 = 1000 * float(np.finfo(np.float32).eps)
SEEDS = pytest.mark.parametrize("seed", range(4))


def value(name: str, predictions: Array, targets: Array) -> float:
    metric = METRICS[name]
    return metric.statistic(metric_rows(metric, predictions, targets, "some"))


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def library(name: str) -> Any:
    """Import a part of torchmetrics, or skip the test."""
    pytest.importorskip("torchmetrics", reason="needs torchmetrics, of the dev extra")
    return importlib.import_module(f"torchmetrics.{name}")


def tensor(array: Array) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


@SEEDS
@pytest.mark.parametrize("classes", [2, 7])
def test_top1_is_scikit_learns(rng: np.random.Generator, classes: int) -> None:
    scores, targets = rng.normal(size=(300, classes)), rng.integers(0, classes, 300)
    stated = sklearn.accuracy_score(targets, scores.argmax(axis=1))
    assert value("top1", scores, targets) == pytest.approx(100 * stated, rel=SUMS)


@SEEDS
@pytest.mark.parametrize("shape", [(200,), (40, 5), (1, 1)])
def test_mae_is_scikit_learns(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    a, b = rng.normal(size=shape), rng.normal(size=shape)
    assert value("mae", a, b) == pytest.approx(sklearn.mean_absolute_error(b.ravel(), a.ravel()), rel=SUMS)
    assert value("rmse", a, b) == pytest.approx(sklearn.root_mean_squared_error(b.ravel(), a.ravel()), rel=SUMS)
    assert value("mae", b, b) == value("rmse", b, b) == 0


@SEEDS
@pytest.mark.parametrize("levels", [2, 5, 10_000], ids=["two scores", "many ties", "few ties"])
def test_auc_is_scikit_learns(rng: np.random.Generator, levels: int) -> None:
    scores, classes = rng.integers(0, levels, 300).astype(float), rng.integers(0, 2, 300)
    stated = pytest.approx(100 * sklearn.roc_auc_score(classes, scores), rel=SUMS)
    assert value("auc", scores, classes) == stated
    unscored = np.append(classes, UNLABELLED)
    assert value("auc", np.append(scores, 99.0), unscored) == stated


@SEEDS
def test_eer_lies_on_scikit_learns_curve(rng: np.random.Generator) -> None:
    """The threshold of ``roc_curve`` where false accepts and false rejects are closest, halfway between the two."""
    vectors, speakers = rng.normal(size=(60, 5)), rng.integers(0, 6, 60)
    vectors += 2 * rng.normal(size=(6, 5))[speakers]
    i, j = np.triu_indices(60, k=1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    accepted, hit, _ = sklearn.roc_curve(
        speakers[i] == speakers[j], (unit[i] * unit[j]).sum(1), drop_intermediate=False
    )
    best = np.abs(1 - hit - accepted).argmin()
    assert value("eer", vectors, speakers) == pytest.approx(50 * (1 - hit[best] + accepted[best]), rel=SUMS)


@SEEDS
@pytest.mark.parametrize("k", [1, 5, 30], ids=["first", "some", "more than there are"])
def test_recall_is_torchmetrics(rng: np.random.Generator, k: int) -> None:
    scores, relevant = rng.random((40, 20)), rng.random((40, 20)) < 0.2  # of scores above 0 alone it finds items
    relevant[np.arange(40), rng.integers(0, 20, 40)] = True
    each = [
        float(library("functional.retrieval").retrieval_recall(tensor(s), tensor(r), top_k=k))
        for s, r in zip(scores, relevant, strict=True)
    ]
    assert recall_at(k).rows(scores, relevant.astype(int)).ravel() == pytest.approx(each, rel=SUMS_32)


@SEEDS
def test_perplexity_is_torchmetrics(rng: np.random.Generator) -> None:
    scores, tokens = rng.normal(size=(6, 12, 50)), rng.integers(0, 50, (6, 12))
    nats = -np.take_along_axis(log_softmax(scores[:, :-1], axis=2), tokens[:, 1:, None], axis=2)[..., 0]
    stated = float(library("functional.text").perplexity(tensor(scores[:, :-1]), tensor(tokens[:, 1:])))
    assert value("perplexity", nats, tokens) == pytest.approx(stated, rel=SUMS)


@SEEDS
def test_token_agreement_is_torchmetrics(rng: np.random.Generator) -> None:
    scores, targets = rng.normal(size=(6, 12, 9)), rng.integers(0, 9, (6, 12))
    targets[rng.random((6, 12)) < 0.3] = -100
    stated = library("functional.classification").multiclass_accuracy(
        tensor(scores.argmax(2)), tensor(targets), num_classes=9, average="micro", ignore_index=-100
    )
    assert value("token-agreement", scores, targets) == pytest.approx(100 * float(stated), rel=SUMS_32)


@SEEDS
@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_miou_is_scikit_learns_without_what_is_ignored(rng: np.random.Generator, ignored: float) -> None:
    predictions, targets = rng.integers(0, 5, (4, 8, 9)), rng.integers(0, 4, (4, 8, 9))
    targets[rng.random(targets.shape) < ignored] = 255
    due = targets != 255
    stated = sklearn.jaccard_score(targets[due], predictions[due], average="macro", zero_division=0)
    assert value("miou", predictions, targets) == pytest.approx(100 * stated, rel=SUMS)


@SEEDS
def test_map_is_pycocotools(seed: int) -> None:
    detections, objects = scene(seed)
    assert value("map", detections, objects) == pytest.approx(100 * coco(detections, objects), rel=SUMS)


@pytest.mark.parametrize("seed", [0])
def test_map_of_ties_and_of_images_without_anything_is_pycocotools(rng: np.random.Generator) -> None:
    detections, objects = scene(0)
    detections[..., 4] = np.where(detections[..., 4] < 0, -1.0, rng.integers(1, 4, detections.shape[:2]) / 4)
    detections[3:5], objects[4:6] = -1.0, -1.0
    assert value("map", detections, objects) == pytest.approx(100 * coco(detections, objects), rel=SUMS)


def coco(detections: Array, objects: Array) -> float:
    """``COCOeval.stats[0]`` of boxes as ``map`` takes them; it counts images, boxes and classes from 1."""
    pytest.importorskip("pycocotools", reason="needs pycocotools, of the dev extra")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def boxes(rows: Array, label: int) -> list[dict[str, Any]]:
        return [
            {"image_id": i + 1, "category_id": int(row[label]) + 1, "bbox": [*row[:2], *(row[2:4] - row[:2])],
             "area": float((row[2:4] - row[:2]).prod()), "iscrowd": 0, "score": float(row[4])}
            for i, image in enumerate(rows) for row in image if row[label] >= 0
        ]  # fmt: skip

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i + 1} for i in range(len(objects))],
            "annotations": [{**each, "id": n} for n, each in enumerate(boxes(objects, 4), start=1)],
            "categories": [{"id": c} for c in range(1, 4)],
        }
        truth.createIndex()
        found = COCO()
        found.dataset = {
            **truth.dataset, "annotations": [{**each, "id": n} for n, each in enumerate(boxes(detections, 5), start=1)]
        }  # fmt: skip
        found.createIndex()
        judged = COCOeval(truth, found, "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return float(judged.stats[0])


@SEEDS
@pytest.mark.parametrize("shape", [(5, 400), (3, 2, 200)], ids=["mono", "stereo"])
def test_si_snr_is_torchmetrics(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    sources = rng.normal(size=shape)
    estimates = sources + 0.1 * rng.normal(size=shape) + 3
    stated = library("functional.audio").scale_invariant_signal_noise_ratio(tensor(estimates), tensor(sources))
    each = stated.numpy().reshape(shape[0], -1).mean(axis=1)
    assert METRICS["si-snr"].rows(estimates, sources).ravel() == pytest.approx(each, rel=SUMS)


@SEEDS
def test_psnr_and_ssim_are_torchmetrics(rng: np.random.Generator) -> None:
    clean = rng.random((3, 3, 24, 20))
    noisy = np.clip(clean + rng.normal(scale=0.1, size=clean.shape), 0, 1)
    similar = library("functional.image").structural_similarity_index_measure
    _, full = similar(tensor(noisy), tensor(clean), data_range=1.0, return_full_image=True)  # the border reflects there
    inside = full.numpy()[..., 5:-5, 5:-5].reshape(3, -1).mean(axis=1)
    assert METRICS["ssim"].rows(noisy, clean).ravel() == pytest.approx(inside, rel=SUMS)
    ratio = library("functional.image").peak_signal_noise_ratio
    stated = [float(ratio(tensor(a), tensor(b), data_range=1.0)) for a, b in zip(noisy, clean, strict=True)]
    assert METRICS["psnr"].rows(noisy, clean).ravel() == pytest.approx(stated, rel=SUMS_32)  # its logarithms are


@SEEDS
def test_agreement_is_scipys_and_torchmetrics(rng: np.random.Generator) -> None:
    """Cosine, SQNR, equal classes and KL divergence, of 30 rows of scores in two batches."""
    b = rng.normal(size=(30, 8))
    a = b + 0.3 * rng.normal(size=b.shape)
    meter = AgreementMeter(classes=True)
    for part in (slice(0, 20), slice(20, 30)):
        meter.add({"y": a[part]}, {"y": b[part]}, batch=len(a[part]))
    found = meter.result()
    assert found.cosine == pytest.approx(
        np.mean([1 - distance.cosine(x, y) for x, y in zip(a, b, strict=True)]), rel=SUMS
    )
    ratio = library("functional.audio").signal_noise_ratio(tensor(a.ravel()), tensor(b.ravel()))
    assert found.sqnr_db == pytest.approx(float(ratio), rel=SUMS)
    assert found.argmax == sklearn.accuracy_score(b.argmax(1), a.argmax(1))
    log_p, log_q = (tensor(v).log_softmax(1) for v in (b, a))
    divergence = library("functional").kl_divergence(log_p, log_q, log_prob=True)
    assert found.kl == pytest.approx(float(divergence), rel=SUMS)


@pytest.mark.parametrize("seed", [0])
def test_the_edges_that_no_library_defines_alike(rng: np.random.Generator) -> None:
    """Where a library gives infinity or NaN, dlc gives a number that can be compared, or refuses."""
    b = rng.normal(size=(4, 8))
    meter = AgreementMeter(classes=True)
    meter.add({"y": b}, {"y": b}, batch=4)
    found = meter.result()
    assert (found.cosine, found.sqnr_db, found.argmax, found.kl) == (1.0, SQNR_MAX, 1.0, 0.0)
    assert value("spearman", np.ones(5), np.arange(5)) == 0  # scipy: NaN, with a warning
    assert np.isnan(value("auc", np.arange(4.0), np.ones(4)))  # scikit-learn: NaN, with a warning

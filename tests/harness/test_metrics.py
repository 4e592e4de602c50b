"""Each metric against the library that defines it, or against a value worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn

from dlc.errors import RecipeError
from dlc.harness.accuracy import METRICS, Metric, as_metric, metric_rows, own_metric, recall_at
from dlc.harness.agreement import SQNR_MAX
from dlc.types import Array, Floats

EPS = float(np.finfo(np.float64).eps)


def value(name: str, predictions: Array, targets: Array) -> float:
    metric = METRICS[name]
    return metric.statistic(metric_rows(metric, predictions, targets, "some"))


@pytest.mark.parametrize("levels", [5, 10_000], ids=["many ties", "few ties"])
def test_top5_is_scikit_learns(rng: np.random.Generator, levels: int) -> None:
    scores, targets = rng.integers(0, levels, (300, 20)).astype(float), rng.integers(0, 20, 300)
    stated = sklearn.top_k_accuracy_score(targets, scores, k=5, labels=np.arange(20))
    assert value("top5", scores, targets) == pytest.approx(100 * stated, rel=4 * EPS)


@pytest.mark.parametrize("name", ["top1", "top5", "f1"])
@pytest.mark.parametrize(
    ("targets", "found"), [([0, "cat", 2], "'0'"), ([0, 7, 2], "7"), ([0, -1, 2], "-1"), ([0.0, 0.5, 2], "0.0")]
)
def test_targets_that_are_no_classes_are_refused(name: str, targets: list[object], found: str) -> None:
    said = f"targets must be numbers of classes, 0 to 6; found {found}"
    with pytest.raises(RecipeError, match=said):
        value(name, np.eye(3, 7), np.array(targets))


def test_top5_of_five_classes_is_refused() -> None:
    with pytest.raises(RecipeError, match="more than 5 classes are due"):
        value("top5", np.ones((3, 5)), np.zeros(3, int))


@pytest.mark.parametrize("chosen", [3, 7], ids=["classes never chosen", "classes that are no target"])
def test_f1_is_scikit_learns(rng: np.random.Generator, chosen: int) -> None:
    predictions, targets = rng.integers(0, chosen, 200), rng.integers(0, 5, 200)
    stated = sklearn.f1_score(targets, predictions, average="macro", zero_division=0)
    assert value("f1", predictions, targets) == pytest.approx(100 * stated, rel=16 * EPS)  # a mean of 7 quotients
    assert value("f1", np.eye(7)[predictions], targets) == value("f1", predictions, targets)


def test_f1_of_resamples_without_a_class_is_scikit_learns(rng: np.random.Generator) -> None:
    rows = METRICS["f1"].rows(rng.integers(0, 5, 40), rng.integers(0, 5, 40))
    some = rows[rng.integers(0, 3, 40)]
    stated = sklearn.f1_score(some[:, 1], some[:, 0], average="macro", zero_division=0)
    assert METRICS["f1"].statistic(some) == pytest.approx(100 * stated, rel=16 * EPS)


def test_rmse_is_scikit_learns(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(50, 4))
    stated = sklearn.root_mean_squared_error(b.ravel(), a.ravel())
    assert value("rmse", a, b) == pytest.approx(stated, rel=4 * 200 * EPS)  # sums of 200 squares in another order
    assert not METRICS["rmse"].higher_is_better


def test_recall_counts_the_relevant_items_found() -> None:
    scores = np.array([[0.9, 0.1, 0.5, 0.4], [0.1, 0.2, 0.3, 0.4]])
    assert recall_at(2).rows(scores, np.array([2, 0])).tolist() == [[1], [0]]
    relevant = np.array([[1, 1, 1, 0], [0, 0, 0, 1]])
    assert recall_at(2).rows(scores, relevant).tolist() == [[2 / 3], [1]]
    assert value("recall@1", scores, relevant) == pytest.approx(100 * (1 / 3 + 1) / 2, rel=4 * EPS)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (np.array([[1, 0, 0], [0, 0, 0]]), "query 1 has no relevant item"),
        (np.array([[1, 0], [1, 0]]), "one column an item"),
        (np.array([0, 3]), "IndexError"),
    ],
)
def test_recall_without_something_to_find_is_refused(targets: Array, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        value("recall@1", np.ones((2, 3)), targets)


def test_recall_at_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="recall@0 looks at no item"):
        recall_at(0)


def scene(seed: int, images: int = 12) -> tuple[Floats, Floats]:
    """Draw detections that miss by a few pixels, some of another class, and several of one object."""
    rng = np.random.default_rng(seed)
    objects, detections = np.full((images, 6, 5), -1.0), np.full((images, 9, 6), -1.0)
    for i in range(images):
        k = rng.integers(1, 7)
        corner, size, label = rng.uniform(0, 80, (k, 2)), rng.uniform(8, 40, (k, 2)), rng.integers(0, 3, k)
        objects[i, :k] = np.column_stack([corner, corner + size, label])
        m = rng.integers(1, 10)
        at = rng.integers(0, k, m)
        box = objects[i, at, :4] + rng.normal(scale=3, size=(m, 4))
        box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
        named = np.where(rng.random(m) < 0.8, label[at], rng.integers(0, 3, m))
        detections[i, :m] = np.column_stack([box, rng.random(m), named])
    return detections, objects


@pytest.mark.parametrize(
    ("seed", "stated"),
    [(0, 14.361039550452462), (1, 15.953115882411852), (2, 12.283821239266784), (4, 20.300173577757644)],
)
def test_map_is_that_of_pycocotools(seed: int, stated: float) -> None:
    """As pycocotools 2.0.11 gives it, ``100 * COCOeval.stats[0]``, for these boxes."""
    assert value("map", *scene(seed)) == pytest.approx(stated, rel=1e-12)  # means of 3 x 10 x 101 precisions


def test_map_by_hand() -> None:
    """Two objects; the better detection is right at IoU 1, the next is of nothing: precision 1 up to recall 1/2."""
    objects = np.array([[[0, 0, 10, 10, 0], [20, 20, 30, 30, 0]]], float)
    detections = np.array([[[0, 0, 10, 10, 0.9, 0], [50, 50, 60, 60, 0.8, 0]]], float)
    assert value("map", detections, objects) == pytest.approx(100 * 51 / 101, rel=4 * EPS)
    assert value("map", np.concatenate([objects[..., :4], np.ones((1, 2, 1)), objects[..., 4:]], 2), objects) == 100


def test_map_counts_an_object_once() -> None:
    objects = np.array([[[0, 0, 10, 10, 0], [20, 20, 30, 30, 0]]], float)
    twice = np.array([[[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.8, 0]]], float)
    assert value("map", twice, objects) == pytest.approx(100 * 51 / 101, rel=4 * EPS)


def test_map_without_objects_is_no_score() -> None:
    assert np.isnan(value("map", np.full((1, 2, 6), -1.0), np.full((1, 1, 5), -1.0)))


def test_map_of_something_else_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"detections are \[n, d, 6\]"):
        value("map", np.zeros((2, 4, 5)), np.zeros((2, 4, 5)))


def test_miou_is_scikit_learns(rng: np.random.Generator) -> None:
    predictions, targets = rng.integers(0, 4, (6, 8, 9)), rng.integers(0, 4, (6, 8, 9))
    stated = sklearn.jaccard_score(targets.ravel(), predictions.ravel(), average="macro")
    assert value("miou", predictions, targets) == pytest.approx(100 * stated, rel=16 * EPS)
    scores = np.moveaxis(np.eye(4)[predictions], -1, 1)
    assert value("miou", scores, targets) == value("miou", predictions, targets)


@pytest.mark.parametrize("ignored", [255, -1])
def test_miou_leaves_out_what_is_no_class(ignored: int) -> None:
    predictions, targets = np.array([[0, 1, 1, 0]]), np.array([[0, 1, 0, ignored]])
    assert value("miou", predictions, targets) == 50.0  # class 0: 1 of 2; class 1: 1 of 2


def test_miou_of_another_shape_is_refused() -> None:
    with pytest.raises(RecipeError, match="each target pixel needs one prediction"):
        value("miou", np.zeros((2, 3, 3), int), np.zeros((2, 4, 4), int))


def test_token_agreement_counts_tokens_that_are_due() -> None:
    predictions, targets = np.array([[5, 6, 7], [1, 2, 3]]), np.array([[5, 6, -100], [1, 9, 3]])
    assert value("token-agreement", predictions, targets) == 100 * 4 / 5
    assert value("token-agreement", np.eye(10)[predictions], targets) == 100 * 4 / 5
    with pytest.raises(RecipeError, match="each target token needs one prediction"):
        value("token-agreement", predictions[:, :2], targets)


def test_si_snr_by_hand() -> None:
    """The part along the source has an energy of 4·2², the rest 4·1²: 6.02 dB, whatever the level and the mean."""
    source, across = np.array([[1.0, -1, 1, -1]]), np.array([[1.0, 1, -1, -1]])
    expected = pytest.approx(10 * np.log10(4), rel=16 * EPS)
    assert value("si-snr", 2 * source + across, source) == expected
    assert value("si-snr", 30 * source + 15 * across + 7, 5 * source - 3) == expected
    assert value("si-snr", source, source) == SQNR_MAX
    assert value("si-snr", across, source) == -SQNR_MAX
    assert value("si-snr", 0 * source, source) == -SQNR_MAX


def test_si_snr_of_silence_is_refused() -> None:
    with pytest.raises(RecipeError, match="a source is silent"):
        value("si-snr", np.ones((1, 4)), np.ones((1, 4)))


@pytest.fixture
def images() -> tuple[Floats, Floats]:
    """Noisy and clean images [2, 3, 24, 20] in [0, 1]."""
    rng = np.random.default_rng(7)
    clean = rng.random((2, 3, 24, 20))
    return np.clip(clean + rng.normal(scale=0.1, size=clean.shape), 0, 1), clean


def test_psnr_is_that_of_scikit_image(images: tuple[Floats, Floats]) -> None:
    """As scikit-image 0.26 gives it for these images."""
    noisy, clean = images
    assert METRICS["psnr"].rows(noisy, clean).ravel() == pytest.approx([20.49224376530137, 20.440051169570417])
    in_bytes = [(255 * each).astype(np.uint8) for each in images]
    assert METRICS["psnr"].rows(*in_bytes).ravel() == pytest.approx([20.49439744022903, 20.441618220896398])
    assert value("psnr", clean, clean) == SQNR_MAX


def test_ssim_is_that_of_scikit_image(images: tuple[Floats, Floats]) -> None:
    """As scikit-image 0.26 gives it for these images."""
    noisy, clean = images
    assert METRICS["ssim"].rows(noisy, clean).ravel() == pytest.approx([0.9504365634964667, 0.9447131042754885])
    assert value("ssim", clean, clean) == 1.0


@pytest.mark.parametrize("name", ["psnr", "ssim", "si-snr"])
def test_restored_and_clean_must_be_alike(name: str) -> None:
    with pytest.raises(RecipeError, match="needs the shape of what it estimates"):
        value(name, np.zeros((2, 16, 16)), np.zeros((2, 16, 15)))


def test_ssim_of_small_images_is_refused() -> None:
    with pytest.raises(RecipeError, match="at least 11 pixels each way"):
        value("ssim", np.zeros((2, 16, 10)), np.zeros((2, 16, 10)))


def close(predictions: Array, targets: Array) -> Array:
    """Whether the first score is near the target."""
    near: Array = np.abs(predictions[:, 0] - targets) < 0.5
    return near


def test_a_function_is_a_metric() -> None:
    metric = as_metric(close)
    rows = metric_rows(metric, np.array([[1.0], [2.0], [9.0], [4.0]]), np.array([1, 2, 3, 4]), "some")
    assert (metric.name, metric.statistic(rows)) == ("close", 0.75)


def test_a_metric_that_is_no_metric_is_refused() -> None:
    with pytest.raises(RecipeError, match="a name, a function or a Metric, not int"):
        as_metric(3)


def applied(function: object) -> Floats:
    metric = function if isinstance(function, Metric) else own_metric(function)  # type: ignore[arg-type]
    return metric_rows(metric, np.ones((3, 2)), np.zeros(3), "some")


def test_what_a_metric_raises_is_said() -> None:
    def broken(_: Array, __: Array) -> Array:
        raise KeyError("label")

    with pytest.raises(RecipeError, match=r"metric 'broken' cannot use .*KeyError: 'label'"):
        applied(broken)


def test_nan_of_a_metric_is_located() -> None:
    def unsure(_: Array, __: Array) -> Array:
        return np.array([1.0, np.nan, np.nan])

    with pytest.raises(RecipeError, match="metric 'unsure' gives NaN for example 1, 2 of 3"):
        applied(unsure)


def test_one_number_for_all_is_refused() -> None:
    def total(predictions: Array, _: Array) -> Array:
        return np.asarray(predictions.sum())

    with pytest.raises(RecipeError, match="must give one value per example"):
        applied(total)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from scipy.stats import spearmanr

from dlc.errors import DataError, ModelError, RecipeError
from dlc.harness.accuracy import METRICS, Evaluation, Metric, evaluate, metric_rows
from dlc.models import digits
from dlc.recipe import Dataset, Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Array, Feeds, Outputs

PLAIN = SessionConfig(graph_optimization="none")

LOG = """<ir_version: 10, opset_import: ["" : 20]>
g (float[b, 3] x) => (float[b, 3] y) { y = Log (x) }"""
LOG_OF_MORE = """<ir_version: 10, opset_import: ["" : 20]>
g (float[b, 3] x) => (float[b, 3] y) <float one = {1.0}> { x1 = Add (x, one)
 y = Log (x1) }"""
REGRESSION = """<ir_version: 10, opset_import: ["" : 20]>
g (float[b, 3] x) => (float[b, 1] y, float[b, 3] z) <int64[1] axes = {1}> { y = ReduceSum (x, axes)
 z = Relu (x) }"""


def compared(cnn: ir.Model, candidate: ir.Model, recipe: Recipe) -> dict[str, Evaluation]:
    assert recipe.evaluation is not None
    with OrtCpuRunner(cnn, PLAIN) as reference, OrtCpuRunner(candidate) as runner:
        return evaluate(
            {"reference": reference, "candidate": runner},
            recipe.evaluation,
            reference="reference",
            metric=recipe.metric,
        )


def small(text: str, batches: list[Feeds], **options: object) -> dict[str, Evaluation]:
    """Evaluate one ONNX text against itself over given batches."""
    with OrtCpuRunner(ir.from_onnx_text(text)) as a, OrtCpuRunner(ir.from_onnx_text(text)) as b:
        data = Dataset("some", lambda: batches)
        return evaluate({"a": a, "b": b}, data, reference="a", **options)  # type: ignore[arg-type]


def spoiled(model: ir.Model, value: float) -> ir.Model:
    """Put one value into the bias of the last layer."""
    clone = model.clone()
    bias = next(v for v in clone.graph.initializers.values() if v.shape == ir.Shape([10]))
    assert bias.const_value is not None
    array = bias.const_value.numpy().copy()
    array[3] = value
    bias.const_value = ir.tensor(array, name=bias.name)
    return clone


def test_top1_counts_hits() -> None:
    scores, labels = np.eye(4)[[0, 1, 2, 0]], np.array([0, 1, 2, 3])
    top1 = METRICS["top1"]
    assert top1.rows(scores, labels).tolist() == [[1], [1], [1], [0]]
    assert top1.statistic(top1.rows(scores, labels)) == 75.0


def test_spearman_is_scipys_with_ties(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 9, 200), rng.integers(0, 5, 200) + rng.integers(0, 9, 200)
    spearman = METRICS["spearman"]
    # both sum 200 products of half-integers up to 200 in float64: 4·n·eps
    assert spearman.statistic(spearman.rows(a, b)) == pytest.approx(
        100 * spearmanr(a, b).statistic, rel=4 * 200 * 2e-16
    )


def test_perplexity_weighs_tokens_not_sequences() -> None:
    nats, tokens = np.log([[2.0, 4.0, 4.0], [8.0, 8.0, 2.0]]), np.zeros((2, 4), np.int64)
    perplexity = METRICS["perplexity"]
    rows = perplexity.rows(nats, tokens)
    # 2 * 4 * 4 * 8 * 8 * 2 = 2^12 over 6 tokens; sums of 6 logarithms in float64
    assert perplexity.statistic(rows) == pytest.approx(4.0, rel=4 * 6 * 2e-16)
    assert rows[:, 1].tolist() == [3, 3]


def test_perplexity_needs_every_token_but_the_first() -> None:
    with pytest.raises(RecipeError, match=r"'perplexity' cannot use predictions of shape .* every token but the first"):
        metric_rows(METRICS["perplexity"], np.zeros((2, 4)), np.zeros((2, 4), np.int64), "d")


def test_spearman_of_a_constant_is_zero() -> None:
    spearman = METRICS["spearman"]
    assert spearman.statistic(spearman.rows(np.ones(5), np.arange(5))) == 0.0


def test_real_model_scores_as_it_was_trained(cnn: ir.Model, recipe: Recipe) -> None:
    result = compared(cnn, cnn, recipe)
    held_out = digits.load().held_out
    with OrtCpuRunner(cnn, PLAIN) as runner:
        scores = np.concatenate([
            runner.run({"image": held_out.images[i : i + 50]})["scores"] for i in range(0, 599, 50)
        ])  # fmt: skip
    expected = scores.argmax(axis=1) == held_out.labels
    assert result["reference"].rows is not None
    assert result["reference"].rows[:, 0].tolist() == expected.tolist()
    assert result["reference"].agreement is None
    assert result["candidate"].examples == 599


def test_optimised_graph_agrees_to_rounding(cnn: ir.Model, recipe: Recipe) -> None:
    agreement = compared(cnn, cnn, recipe)["candidate"].agreement
    assert agreement is not None
    assert agreement.argmax == 1.0
    assert agreement.examples == 599
    # folding BatchNorm rounds each of 5 layers anew: noise of 5 layers x 576 products x 2^-24 at most
    assert agreement.sqnr_db > -20 * np.log10(5 * 576 * 2.0**-24)


def test_nan_is_named(cnn: ir.Model, recipe: Recipe) -> None:
    result = compared(cnn, spoiled(cnn, np.nan), recipe)["candidate"]
    assert result.fault == "output 'scores' holds NaN: 64 of 640 values on batch 0"
    assert result.rows is None
    assert result.agreement is None


def test_infinity_is_named(cnn: ir.Model, recipe: Recipe) -> None:
    fault = compared(cnn, spoiled(cnn, np.inf), recipe)["candidate"].fault
    assert fault == "output 'scores' holds infinity: 64 of 640 values on batch 0"


def test_nan_in_the_reference_stops(cnn: ir.Model, recipe: Recipe) -> None:
    with pytest.raises(ModelError, match=r"reference .* NaN in output 'scores' on batch 0"):
        compared(spoiled(cnn, np.nan), cnn, recipe)


def test_infinity_that_the_reference_has_too_is_no_fault() -> None:
    x = np.array([[0, 1, 2]], np.float32)
    result = small(LOG, [{"x": x}])["b"]
    assert result.fault is None
    assert result.agreement is not None
    assert result.agreement.cosine == 1.0


def test_other_value_where_the_reference_is_infinite_is_no_fault() -> None:
    batch = {"x": np.array([[0, 1, 2]], np.float32)}
    with OrtCpuRunner(ir.from_onnx_text(LOG)) as a, OrtCpuRunner(ir.from_onnx_text(LOG_OF_MORE)) as b:
        assert evaluate({"a": a, "b": b}, Dataset("zero", lambda: [batch]), reference="a")["b"].fault is None
        swapped = evaluate({"a": a, "b": b}, Dataset("zero", lambda: [batch]), reference="b")["a"].fault
    assert swapped == "output 'y' holds infinity: 1 of 3 values on batch 0"


def test_another_shape_is_a_fault(recipe: Recipe, cnn: ir.Model) -> None:
    mean = cnn.clone()
    axes = ir.Value(name="axes", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
    axes.const_value = ir.tensor(np.array([1]), name="axes")
    mean.graph.register_initializer(axes)
    node = ir.node("ReduceMean", [mean.graph.outputs[0], axes])
    node.outputs[0].name = "mean"
    mean.graph.append(node)
    mean.graph.outputs[0].name, node.outputs[0].name = "inner", "scores"
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", 1])
    mean.graph.outputs[0] = node.outputs[0]
    fault = compared(cnn, mean, recipe)["candidate"].fault
    assert fault == "output 'scores' has shape [64, 1] on batch 0, the reference [64, 10]"


def test_a_candidate_that_cannot_run_is_a_finding() -> None:
    fixed = LOG.replace("float[b, 3] x", "float[1, 3] x")
    batch = {"x": np.ones((2, 3), np.float32)}
    with OrtCpuRunner(ir.from_onnx_text(LOG)) as a, OrtCpuRunner(ir.from_onnx_text(fixed)) as b:
        fault = evaluate({"a": a, "b": b}, Dataset("two", lambda: [batch]), reference="a")["b"].fault
    assert fault is not None
    assert "'x' has shape [2, 3]" in fault


def test_argmax_is_null_without_classes(rng: np.random.Generator) -> None:
    result = small(REGRESSION, [{"x": rng.standard_normal((4, 3)).astype(np.float32)}])["b"].agreement
    assert result is not None
    assert result.argmax is None


def test_data_is_read_once(cnn: ir.Model, recipe: Recipe) -> None:
    passes: list[int] = []

    def batches() -> Iterator[Feeds]:
        passes.append(1)
        assert recipe.evaluation is not None
        return iter(recipe.evaluation.batches())

    with OrtCpuRunner(cnn) as a, OrtCpuRunner(cnn) as b:
        evaluate({"a": a, "b": b}, Dataset("counted", batches), reference="a")
    assert len(passes) == 1


def test_no_targets_no_metric(cnn: ir.Model, recipe: Recipe) -> None:
    assert recipe.evaluation is not None
    result = compared(cnn, cnn, replace(recipe, evaluation=replace(recipe.evaluation, targets=None)))
    assert result["candidate"].rows is None
    assert result["candidate"].agreement is not None


def test_data_that_runs_out_is_named() -> None:
    with pytest.raises(DataError, match=r"'some' gave no batch; batches\(\) must return a fresh iterable"):
        small(LOG, [])


def evaluated_with(recipe: Recipe, cnn: ir.Model, **changes: object) -> None:
    assert recipe.evaluation is not None
    options = {"metric": recipe.metric, "prediction": None, **changes}
    data = options.pop("data", recipe.evaluation)
    with OrtCpuRunner(cnn) as runner:
        evaluate({"a": runner}, data, reference="a", **options)  # type: ignore[arg-type]


def _fails(_: Feeds, outputs: Outputs) -> Array:
    return outputs["logits"]


def test_prediction_that_fails_is_named(cnn: ir.Model, recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"prediction fails on batch 0: KeyError: 'logits'; .* outputs \(scores\)"):
        evaluated_with(recipe, cnn, prediction=_fails)


def test_prediction_without_rows_is_named(cnn: ir.Model, recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="one number for batch 0"):
        evaluated_with(recipe, cnn, prediction=lambda _, outputs: outputs["scores"].mean())


def test_predictions_and_targets_must_pair(cnn: ir.Model, recipe: Recipe) -> None:
    assert recipe.evaluation is not None
    short = replace(recipe.evaluation, targets=lambda: np.zeros(598, np.int64))
    with pytest.raises(DataError, match="598 targets for 599 predictions"):
        evaluated_with(recipe, cnn, data=short)


def test_metric_that_does_not_fit_is_named(cnn: ir.Model, recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"'top1' cannot use predictions of shape \[599\]"):
        evaluated_with(recipe, cnn, prediction=lambda _, outputs: outputs["scores"][:, 0])


def test_metric_must_give_rows(cnn: ir.Model, recipe: Recipe) -> None:
    flat = Metric(
        "flat", "", lambda predictions, _: predictions[:, 0].astype(np.float64), lambda rows: float(rows.mean())
    )
    with pytest.raises(RecipeError, match=r"'flat' must give rows \[n, k\] for 599 examples, not \[599\]"):
        evaluated_with(recipe, cnn, metric=flat)

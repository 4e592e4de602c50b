"""Static or dynamic int8: by what a model is made of, by what data there is, and where both would do by measurement.

Convolutions have an integer kernel in static form alone, which needs calibration data. Products have one in both forms;
the dynamic one needs no data and adapts to every input, the static one converts less often.
"""

from __future__ import annotations

import onnx_ir as ir

from dlc.costs import Costs
from dlc.errors import NotHere, Unsupported
from dlc.integer_format import integer_format
from dlc.passes.base import Pass
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic
from dlc.passes.weighted import weights_of
from dlc.recipe import Recipe
from dlc.stages.calibrating import recovered
from dlc.stages.excluding import excluded
from dlc.stages.recovering import applied, closeness, dynamic
from dlc.stages.recurrent import recurrent
from dlc.target import Target

NO_DATA = "without calibration data products alone are quantized, dynamically: with a calibration set, convolutions too"


def int8(model: ir.Model, recipe: Recipe, target: Target) -> list[Pass]:
    """Static for nets with convolutions, dynamic for the rest, and for products where there is no calibration data."""
    convolves = any(node.op_type == "Conv" for node in model.graph)
    if not convolves:
        return _dynamic(model, recipe, target)
    if recipe.calibration is not None:
        return recovered(model, recipe, recipe.calibration, target)
    if not mostly_products(model):
        raise Unsupported(
            "static int8 needs calibration data: give the recipe a calibration set, or compile with -r recipe.toml"
        )
    return _dynamic(model, recipe, target, NO_DATA)


def quicker(model: ir.Model, passes: list[Pass], recipe: Recipe, costs: Costs) -> list[Pass]:
    """Return the passes of static int8; or of dynamic int8, where most weights are those of products, if it is faster.

    It must be no further from FP32 on the calibration data, as far as that can be told.
    """
    data, target = recipe.calibration, costs.target
    if data is None or not isinstance(passes[-1], QuantizeStatic) or not mostly_products(model):
        return passes
    other = [*recurrent(model, target, recipe.int8), *_dynamic(model, recipe, target)]
    known, found = (closeness(model, each, data, target.threads, target.provider) for each in (passes, other))
    if known.beats(found):
        return passes
    try:
        ratio = costs.whole(applied(model, passes), applied(model, other)).ratio
    except NotHere:
        return passes
    return other if ratio.high < 1 else passes


def mostly_products(model: ir.Model) -> bool:
    """Whether products have at least half of the weights of products and convolutions in the main graph."""
    sizes = {"products": 0, "convolutions": 0}
    for node in model.graph:
        if kind := {"MatMul": "products", "Gemm": "products", "Conv": "convolutions"}.get(node.op_type):
            sizes[kind] += sum(v.const_value.size for v in weights_of(node).values() if v.const_value is not None)
    return sizes["products"] >= sizes["convolutions"] and sizes["products"] > 0


def _dynamic(model: ir.Model, recipe: Recipe, target: Target, *notes: str) -> list[Pass]:
    plain = QuantizeDynamic(
        reduce_range=integer_format(target).reduce_range, exclude=excluded(model, recipe.int8.exclude), notes=notes
    )
    if recipe.calibration is None:
        return [plain]
    return dynamic(
        model, recipe.calibration, plain, threads=target.threads, max_ram=recipe.calibrate.max_ram,
        recover=recipe.int8.recover, provider=target.provider,
    )  # fmt: skip

"""Weight-only quantization: how weights are rounded, and what products may do to activations, decided by measurement.

Candidates are rounding to nearest with and without zero points, HQQ, and GPTQ as far as its moments fit the memory; the
one whose real kernels agree best with FP32 on calibration data is kept. Without data it is rounding to nearest without
zero points: anything else would be a guess for this model.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import onnx_ir as ir

from dlc.costs import Costs
from dlc.errors import NotHere
from dlc.moments import moments
from dlc.passes.quantize_weights import PRODUCTS, QuantizeWeights
from dlc.passes.weighted import weights_of
from dlc.recipe import Dataset, Precision, Recipe
from dlc.stages.recovering import applied, closest, sqnr_db
from dlc.stages.widening import widened
from dlc.types import Bytes

CLOSE_ENOUGH = 30.0
"""dB at which the error of the outputs has a thousandth of their energy: whatever rounds activations may do so."""
DOUBLED = 3.0
"""dB that double the noise. Int8 activations may at most add as much as the weights' rounding did; tables take 8 bits
where 4 of them make more noise than all other weights.
"""
LOOK = 2
"""Batches that decide what activations may lose; products with FP32 activations may be hundreds of times as slow."""
ROUNDS = 3
"""Rounds that time the two levels: they differ in every product, and the slow one of 8 bits may take seconds."""


def bits_of(precision: Precision, recipe: Recipe) -> int | None:
    """Return how many bits weights take in a precision that quantizes weights alone; None for another."""
    if precision == "int4":
        return 4
    return 8 if precision == "int8" and recipe.int8 == "weights" else None


def weights_only(model: ir.Model, bits: int, recipe: Recipe, costs: Costs) -> QuantizeWeights:
    """Return how to quantize the weights of a model to ``bits``, with the level of accuracy of its products."""
    plain, data, threads = QuantizeWeights(bits=bits), recipe.calibration, costs.target.threads
    if data is None:
        return plain
    kept = closest(model, _forms(model, plain, data, threads, recipe.calibrate.max_ram), data, threads=threads)
    if bits == 4 and any(node.op_type == "Gather" and weights_of(node) for node in model.graph):
        wide = replace(kept, table_bits=8)
        if sqnr_db(model, wide, data, threads) > sqnr_db(model, kept, data, threads) + DOUBLED:
            kept = wide
    if bits == 4:
        kept = widened(model, kept, data, threads)
    return replace(kept, accuracy_level=_accuracy_level(model, kept, data, costs))


def _forms(
    model: ir.Model, plain: QuantizeWeights, data: Dataset, threads: int, max_ram: Bytes
) -> list[QuantizeWeights]:
    """8 bits are closer than activations are: nothing but zero points is worth trying for them."""
    shifted = replace(plain, symmetric=False)
    if plain.bits == 8:
        return [plain, shifted]
    forms = [plain, shifted, replace(plain, method="hqq"), replace(shifted, method="hqq")]
    seen = moments(model, data.batches, operators=PRODUCTS, threads=threads, max_ram=max_ram)
    return forms + [replace(form, method="gptq", moments=seen) for form in (plain, shifted) if seen]


def _accuracy_level(model: ir.Model, form: QuantizeWeights, data: Dataset, costs: Costs) -> int:
    """Return 4, which rounds activations to int8, where it is faster and its noise is small; else 0."""
    few = data.part(lambda: islice(iter(data.batches()), LOOK))
    exact, rounded = replace(form, accuracy_level=0), replace(form, accuracy_level=4)
    before, after = applied(model, exact), applied(model, rounded)
    if not any(node.op_type == "MatMulNBits" for node in after.graph):
        return form.accuracy_level
    threads = costs.target.threads
    noise = sqnr_db(model, rounded, few, threads)
    if noise < CLOSE_ENOUGH and noise < sqnr_db(model, exact, few, threads) - DOUBLED:
        return exact.accuracy_level
    try:
        ratio = costs.whole(before, after, rounds=ROUNDS).ratio
    except NotHere:
        return rounded.accuracy_level
    return (rounded if ratio.value < 1 else exact).accuracy_level

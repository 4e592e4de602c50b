"""Weight-only quantization: how weights are rounded, and what products may do to activations, decided by measurement.

Candidates are rounding to nearest with and without zero points, HQQ, and GPTQ as far as its moments fit the memory; the
one whose real kernels agree best with FP32 on calibration data is kept. Without data it is rounding to nearest without
zero points: anything else would be a guess for this model. What products may do to activations is then decided on
seeded inputs, and said to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import onnx_ir as ir

from dlc.costs import Costs
from dlc.errors import NotHere, Unsupported
from dlc.moments import moments
from dlc.passes.base import weight_bytes
from dlc.passes.quantize_weights import PRODUCTS, QuantizeWeights
from dlc.passes.round_weights import Moments
from dlc.passes.weighted import weights_of
from dlc.quantization import METHODS, Int4, Int8, Method
from dlc.recipe import Dataset, Precision, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.stages.excluding import excluded
from dlc.stages.halves import looked_at
from dlc.stages.recovering import applied, closest, sqnr_db
from dlc.stages.widening import WORTH, widened
from dlc.target import Target

CLOSE_ENOUGH = 30.0
"""dB at which the error of the outputs has a thousandth of their energy: whatever rounds activations may do so."""
DOUBLED = 3.0
"""dB that double the noise. Int8 activations may at most add as much as the weights' rounding did; tables take 8 bits
where 4 of them make more noise than all other weights.
"""
SEEDED = "decided on seeded inputs, which may be unlike real ones: the recipe has no calibration data"
LOOK = 2
"""Batches that decide what activations may lose; products with FP32 activations may be hundreds of times as slow."""
TELLING = 16
"""Batches by which forms are told apart; all of them count for the moments by which ``gptq`` rounds."""
ROUNDS = 3
"""Rounds that time the two levels: they differ in every product, and the slow one of 8 bits may take seconds."""


def bits_of(precision: Precision, recipe: Recipe) -> int | None:
    """Return how many bits weights take in a precision that quantizes weights alone; None for another."""
    if precision == "int4":
        return 4
    return 8 if precision == "int8" and recipe.int8.form == "weights" else None


def weights_only(model: ir.Model, bits: int, recipe: Recipe, costs: Costs) -> QuantizeWeights:
    """Return how to quantize the weights of a model to ``bits``, with the level of accuracy of its products."""
    stated: Int4 | Int8 = recipe.int4 if bits == 4 else recipe.int8
    data, threads = recipe.calibration, costs.target.threads
    plain = QuantizeWeights(
        bits=bits, block_size=stated.block_size, exclude=excluded(model, stated.exclude),
        table_bits=recipe.int4.table_bits if bits == 4 else None,
    )  # fmt: skip
    forms = _forms(model, plain, recipe, stated, threads)
    if data is None:
        kept = forms[0]
    else:
        few = data.part(lambda: islice(iter(data.batches()), TELLING))
        kept = closest(model, forms, few, threads=threads, provider=costs.target.provider)
        if bits == 4:
            config = SessionConfig(provider=costs.target.provider, intra_op_threads=threads)
            kept = widened(model, _with_tables(model, kept, few, costs.target), few, config)
    if stated.accuracy_level is not None:
        return replace(kept, accuracy_level=stated.accuracy_level)
    if data is not None:
        return replace(kept, accuracy_level=_accuracy_level(model, kept, data, costs))
    return _on_seeded_inputs(model, kept, recipe, costs)


def _forms(
    model: ir.Model, plain: QuantizeWeights, recipe: Recipe, stated: Int4 | Int8, threads: int
) -> list[QuantizeWeights]:
    """Return what the recipe states, and of what it leaves open all that is worth trying.

    8 bits are closer than activations are: nothing but zero points is worth trying for them. Without data nothing is.
    """
    data = recipe.calibration
    methods: Sequence[Method] = METHODS if plain.bits == 4 and data is not None else METHODS[:1]
    if stated.method is not None:
        methods = (stated.method,)
    symmetric = (True, False)[: 1 if data is None else 2] if stated.symmetric is None else (stated.symmetric,)
    seen: dict[str, Moments] = {}
    if "gptq" in methods and data is not None:
        seen = moments(model, data.batches, operators=PRODUCTS, threads=threads, max_ram=recipe.calibrate.max_ram)
    if stated.method == "gptq" and not seen:
        raise Unsupported(
            "method='gptq' needs moments of what products read: "
            + ("give the recipe a calibration set" if data is None else "raise max_ram, or give the model products")
        )
    of = {"rtn": {}, "hqq": {}, "gptq": seen}
    return [
        replace(plain, method=method, symmetric=each, moments=of[method])
        for method in methods if method != "gptq" or seen
        for each in symmetric
    ]  # fmt: skip


def _with_tables(model: ir.Model, kept: QuantizeWeights, data: Dataset, target: Target) -> QuantizeWeights:
    """Give tables 8 bits where that takes away as much noise for its bytes as is asked of products, unless stated."""
    if kept.table_bits is not None or not any(n.op_type == "Gather" and weights_of(n) for n in model.graph):
        return kept
    wide = replace(kept, table_bits=8)
    after, before = (sqnr_db(model, each, data, target.threads, target.provider) for each in (wide, kept))
    larger, plain = (weight_bytes(applied(model, each)) for each in (wide, kept))
    return wide if 1 - 10 ** ((before - after) / 10) > WORTH * (larger / plain - 1) else kept


def _on_seeded_inputs(model: ir.Model, form: QuantizeWeights, recipe: Recipe, costs: Costs) -> QuantizeWeights:
    seeded = Dataset("seeded inputs", lambda: looked_at(model, recipe))
    level = _accuracy_level(model, form, seeded, costs)
    return replace(form, accuracy_level=level, notes=(*form.notes, f"accuracy_level={level}: {SEEDED}"))


def _accuracy_level(model: ir.Model, form: QuantizeWeights, data: Dataset, costs: Costs) -> int:
    """Return 4, which rounds activations to int8, where it is faster and its noise is small; else 0."""
    few = data.part(lambda: islice(iter(data.batches()), LOOK))
    exact, rounded = replace(form, accuracy_level=0), replace(form, accuracy_level=4)
    before, after = applied(model, exact), applied(model, rounded)
    if not any(node.op_type == "MatMulNBits" for node in after.graph):
        return form.accuracy_level
    where = costs.target.threads, costs.target.provider
    noise = sqnr_db(model, rounded, few, *where)
    if noise < CLOSE_ENOUGH and noise < sqnr_db(model, exact, few, *where) - DOUBLED:
        return exact.accuracy_level
    try:
        ratio = costs.whole(before, after, rounds=ROUNDS).ratio
    except NotHere:
        return rounded.accuracy_level
    return (rounded if ratio.value < 1 else exact).accuracy_level

"""Recurrent operators in int8: an LSTM computes in integers; GRU and RNN are stored in 8 bits.

ONNX Runtime has no integer kernel of GRU and RNN. Their weights are unpacked when the model is loaded: the file
shrinks, memory and time are those of FP32. An integer product inside a Scan would cost a dispatch of each node at each
step.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from dlc.integer_format import integer_format
from dlc.passes.base import Pass, Site
from dlc.passes.quantize_lstm import QuantizeLstm
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.pipeline import PassRecord
from dlc.quantization import Int8
from dlc.recipe import Recipe
from dlc.stages.excluding import excluded
from dlc.stages.recovering import closeness
from dlc.target import Target

STORED = ("GRU", "RNN")
DEFAULT = Int8()


def recurrent(model: ir.Model, target: Target, options: Int8 = DEFAULT) -> list[Pass]:
    """Return the passes that the recurrent operators of a model need, before those for all others."""
    exclude = excluded(model, options.exclude)
    kinds = {node.op_type for node in model.graph}
    found: list[Pass] = []
    if "LSTM" in kinds:
        found.append(
            QuantizeLstm(reduce_range=integer_format(target).reduce_range, inputs=options.lstm_inputs, exclude=exclude)
        )
    if kinds.intersection(STORED):
        found.append(QuantizeWeights(bits=8, operators=STORED, exclude=exclude))
    return found


def agreeing(model: ir.Model, passes: list[Pass], recipe: Recipe, target: Target) -> list[Pass]:
    """Return the passes; or those for weights alone, where the outputs move away further than the recipe allows.

    Measured on the calibration data, as far as ``Gates.agreement`` asks for it. LSTMs compute in int8 either way.
    """
    least, data = recipe.gates.agreement, recipe.calibration
    if least is None or data is None:
        return passes
    found = closeness(model, passes, data, target.threads, target.provider).overall.cosine
    if found >= least:
        return passes
    note = (
        f"weights alone take 8 bits: with activations the cosine with FP32 was {found:.3f}, below the gate's {least:g}"
    )
    exclude = excluded(model, recipe.int8.exclude)
    return [*recurrent(model, target, recipe.int8), QuantizeWeights(bits=8, exclude=exclude, notes=(note,))]


def outcomes(records: Iterable[PassRecord]) -> tuple[Site, ...]:
    """What became of each node that several passes looked at: the pass that took it, else what the first one said."""
    found: dict[str, Site] = {}
    for site in (site for record in records for site in record.sites):
        if site.node not in found or site.applied:
            found[site.node] = site
    return tuple(found.values())

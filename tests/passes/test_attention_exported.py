"""Attention as both exporters write it, in each form: found, and the same numbers as before."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
import torch

from dlc import pipeline
from dlc.passes.base import clone
from dlc.passes.fuse_attention import FuseAttention
from dlc.tolerance import distance, reassociation
from dlc.types import Feeds
from tests.passes.attention_modules import LENGTH, MODULES, PADDING, WIDTH
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute

FORMS = {
    "attention": FuseAttention(),
    "multi-head attention": FuseAttention(max_opset=22),
    "products": FuseAttention(products=True),
}
GUARDED = "the mask may be infinite: rows without a visible key are guarded, and MultiHeadAttention gives NaN"
REFUSED = {("functional padded", "torchscript", "multi-head attention"): GUARDED,
           ("functional padded", "torchscript", "attention"): GUARDED}  # fmt: skip
"""Opset 17 cannot be raised: there is no Attention to take the guard's place."""


@cache
def exported(module: str, exporter: str) -> ir.Model:
    torch.manual_seed(0)
    with warnings.catch_warnings():  # torch's own modules compare sizes, which are constant here
        warnings.filterwarnings("ignore", "Converting a tensor", Warning)
        return EXPORTERS[exporter](MODULES[module]().eval(), torch.randn(2, LENGTH, WIDTH))


def feeds(batch: int) -> Feeds:
    return {"x": np.random.default_rng(batch).standard_normal((batch, LENGTH, WIDTH)).astype(np.float32)}


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("exporter", sorted(EXPORTERS))
@pytest.mark.parametrize("module", sorted(MODULES))
def test_found_with_the_same_numbers(module: str, exporter: str, form: str) -> None:
    model = clone(exported(module, exporter))
    before = {n: compute(model, feeds(n)) for n in (1, 3)}
    (record,) = pipeline.run(model, [FORMS[form]])
    assert [s.reason for s in record.sites] == [REFUSED.get((module, exporter, form))]
    for n, outputs in before.items():
        assert distance(compute(model, feeds(n)), outputs)[0] <= reassociation(exported(module, exporter))
    assert not pipeline.run(model, [FORMS[form]])[0].modified


@pytest.mark.parametrize("exporter", sorted(EXPORTERS))
@pytest.mark.parametrize("form", sorted(FORMS))
def test_padding_that_hides_all_keys(exporter: str, form: str) -> None:
    """NaN stays NaN: only a guard makes it 0, and there is none here."""
    model = clone(exported("multihead padded", exporter))
    given = feeds(3)
    given["x"][1, :, 0] = PADDING
    before = compute(model, given)
    assert np.isnan(before["y"]).all(axis=(1, 2)).tolist() == [False, True, False]
    assert pipeline.run(model, [FORMS[form]])[0].modified
    assert distance(compute(model, given), before)[0] <= reassociation(exported("multihead padded", exporter))


@pytest.mark.parametrize("exporter", sorted(EXPORTERS))
@pytest.mark.parametrize("module", ["multihead causal", "functional causal", "nanoGPT", "GPT-2"])
def test_a_constant_triangle_is_causal(module: str, exporter: str) -> None:
    for form in ("attention", "multi-head attention"):
        model = clone(exported(module, exporter))
        pipeline.run(model, [FORMS[form]])
        [fused] = [n for n in model.graph if "Attention" in n.op_type]
        assert len(fused.inputs) == 3
        assert {"is_causal", "unidirectional"} & set(fused.attributes)


def ops(module: str, exporter: str, form: str) -> list[str]:
    model = clone(exported(module, exporter))
    pipeline.run(model, [FORMS[form]])
    return [n.op_type for n in model.graph]


@pytest.mark.parametrize("exporter", sorted(EXPORTERS))
def test_three_axes_with_the_sequence_first_need_no_transpose(exporter: str) -> None:
    """FusedMatMul reads [s, b * h, d] as [b * h, s, d]; the batch is swapped on the way in and out of the layer."""
    left = ops("multihead with weights", exporter, "products")
    assert left.count("FusedMatMul") == 2
    assert left.count("Transpose") == 3
    assert ops("multihead with weights", exporter, "attention").count("Transpose") == 6


@pytest.mark.parametrize("exporter", sorted(EXPORTERS))
def test_a_packed_projection_is_split_once(exporter: str) -> None:
    for form in ("attention", "multi-head attention"):
        left = ops("vision", exporter, form)
        assert left[:3] == ["MatMul", "Add", "Split"]
        assert "Transpose" not in left

"""Models that came quantized: what onnxruntime.quantization writes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime.quantization as stock

from dlc.passes.canonicalize import Canonicalize
from dlc.types import Feeds


def dynamically(model: ir.Model, *, per_channel: bool = True) -> ir.Model:
    """A model as quantize_dynamic leaves it."""
    with TemporaryDirectory() as folder:
        source, result = _saved(model, folder), Path(folder) / "quantized.onnx"
        stock.quantize_dynamic(source, result, per_channel=per_channel)
        return _loaded(result)


def statically(model: ir.Model, batches: list[Feeds], **options: Any) -> ir.Model:
    """A model as quantize_static leaves it: QDQ, u8 activations, s8 weights a channel, unless options say otherwise."""
    usual = {"activation_type": stock.QuantType.QUInt8, "weight_type": stock.QuantType.QInt8, "per_channel": True}
    with TemporaryDirectory() as folder:
        source, result = _saved(model, folder), Path(folder) / "quantized.onnx"
        stock.quantize_static(
            source, result, _Reader(batches), quant_format=stock.QuantFormat.QDQ, **{**usual, **options}
        )
        return _loaded(result)


class _Reader(stock.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: list[Feeds]) -> None:
        self.batches: Iterator[Feeds] = iter(batches)

    def get_next(self) -> Feeds | None:
        return next(self.batches, None)


def _saved(model: ir.Model, folder: str) -> Path:
    """Save without the shapes in between: the quantizers fail on some that exporters write."""
    copy = model.clone()
    for node in copy.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    path = Path(folder) / "model.onnx"
    ir.save(copy, path)
    return path


def _loaded(path: Path) -> ir.Model:
    model = ir.from_proto(onnx.load(path))
    Canonicalize()(model)
    return model


def seeded(shape: tuple[int, ...], seed: int = 0) -> Feeds:
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


logging.getLogger().addFilter(lambda record: "pre-processing before quantization" not in record.getMessage())

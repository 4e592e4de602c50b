"""Modules as each of torch's two exporters writes them, canonicalised; batch dimension ``n``."""

from __future__ import annotations

import io
import warnings
from typing import Any

import onnx
import onnx_ir as ir
import torch

from dlc.export import export
from dlc.passes.canonicalize import Canonicalize
from dlc.recipe import Dim, Input, Recipe


def dynamo(module: torch.nn.Module, example: torch.Tensor) -> ir.Model:
    """As dlc exports a module."""
    recipe = Recipe(
        name="module", source=lambda: module, inputs={"x": Input("float32", ("n", *example.shape[1:]))},
        outputs=("y",), dims={"n": Dim(1, 8)},
    )  # fmt: skip
    return export(recipe, opset=20, ir_version=10).model


def torchscript(module: torch.nn.Module, example: torch.Tensor, *, opset: int = 17) -> ir.Model:
    """As the old exporter writes a module, folding nothing that training mode would need."""
    file: Any = io.BytesIO()  # what torch's stubs do not know it takes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        torch.onnx.export(
            module, (example,), file, dynamo=False, opset_version=opset, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}, do_constant_folding=False,
        )  # fmt: skip
    model = ir.from_proto(onnx.load_from_string(file.getvalue()))
    Canonicalize()(model)
    return model


EXPORTERS = {"dynamo": dynamo, "torchscript": torchscript}

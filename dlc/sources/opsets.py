"""Brings a model to an opset and IR version that the target accepts and the passes know."""

from __future__ import annotations

import logging

import onnx
import onnx_ir as ir

from dlc.errors import Unsupported
from dlc.versions import EXPORT_OPSET

LEAST_IR = 10
"""First IR version with every type that a pass may write (int4)."""


def fit(model: ir.Model, opset: int, ir_version: int) -> tuple[str, ...]:
    """Convert in place to at most ``opset`` and ``ir_version``, and up to EXPORT_OPSET; return what was done."""
    model.ir_version = min(max(model.ir_version, LEAST_IR), ir_version)
    found = model.opset_imports.get("", 1)
    if found > opset:
        if not _missing(model, opset):
            _convert(model, opset)
        if model.opset_imports.get("") != opset:
            operators = ", ".join(changed(model, found, opset)) or "an operator"
            raise Unsupported(
                f"the model uses opset {found}, the target accepts at most {opset}, and {operators} changed between "
                f"them: export at opset {opset}"
            )
    elif found < (wanted := min(EXPORT_OPSET, opset)):
        _convert(model, wanted)
        if model.opset_imports.get("") != wanted:
            return (f"stays at opset {found}: it could not be converted to {wanted}",)
    return () if (now := model.opset_imports.get("", 1)) == found else (f"converted from opset {found} to {now}",)


def changed(model: ir.Model, a: int, b: int) -> list[str]:
    """Operator types of a model whose definition differs between two opsets."""
    types = {n.op_type for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.domain == ""}
    return sorted(t for t in types if _since(t, a) != _since(t, b))


def _missing(model: ir.Model, opset: int) -> bool:
    """Whether a model uses an operator that an opset does not have."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return any(n.domain == "" and not _since(n.op_type, opset) for n in nodes)


def _since(op_type: str, opset: int) -> int:
    try:
        return int(onnx.defs.get_schema(op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def _convert(model: ir.Model, opset: int) -> None:
    if not changed(model, model.opset_imports.get("", 1), opset):
        model.opset_imports[""] = opset
        return
    from onnxscript.version_converter import ConvertVersionPass

    copy = model.clone()  # a converter that fails half way leaves its model half converted
    log = logging.getLogger("onnxscript.version_converter")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        ConvertVersionPass(opset, fallback=True)(copy)
    except (RuntimeError, ValueError):
        return
    finally:
        log.setLevel(level)
    if copy.opset_imports.get("") == opset:
        model.graph = copy.graph

"""Raises the opset of a model whose operators mean the same in the newer one."""

from __future__ import annotations

import onnx_ir as ir

from dlc.passes.base import all_nodes

OLDEST = 20
NEWEST = 23
REDEFINED = {"GroupNormalization"}
"""Operators that opsets 21 to 23 redefine; others accept more types, or attributes whose default is the old way."""
IR_VERSION = 11
"""First IR version of opset 23."""


def raisable(model: ir.Model, opset: int) -> bool:
    """Whether a model is at least at ``opset``, or can be brought there without a conversion."""
    found = model.opset_imports.get("", 1)
    if found >= opset:
        return True
    if found < OLDEST or opset > NEWEST or model.functions:
        return False
    return not any(node.op_type in REDEFINED for node in all_nodes(model.graph))


def raise_opset(model: ir.Model, opset: int) -> bool:
    """Bring a model to at least ``opset`` in place; False, with nothing changed, if that needs a conversion."""
    if not raisable(model, opset):
        return False
    if model.opset_imports.get("", 1) < opset:
        model.opset_imports[""] = opset
        model.ir_version = max(model.ir_version, IR_VERSION)
        for node in all_nodes(model.graph):
            if node.domain == "":
                node.version = None
    return True

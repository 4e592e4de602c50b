"""Finds what is done to each channel behind a node: constants multiplied, divided, added, subtracted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dlc.passes.base import constant, only_user
from dlc.passes.channels import fits
from dlc.passes.fold_scale_bias import ARITHMETIC, affine, per_channel
from dlc.types import Floats

CHANNELS = 1
"""The axis of the channels."""


@dataclass(frozen=True, slots=True)
class Affine:
    """``x * scale + shift``, [C] each, computed by ``length`` nodes, the last of them ``last``."""

    last: ir.Node
    scale: Floats
    shift: Floats
    length: int = 0

    @property
    def neutral(self) -> bool:
        """Whether it changes nothing."""
        return bool((self.scale == 1).all() and (self.shift == 0).all())

    def parameters(self) -> tuple[Floats, Floats] | None:
        """Scale and shift in FLOAT; None if they do not keep their precision there."""
        kind = np.dtype(np.float32)
        kept = fits(self.scale, kind) and fits(self.shift, kind)
        return (self.scale.astype(kind), self.shift.astype(kind)) if kept else None


def affine_after(node: ir.Node, rank: int, scale: Floats, shift: Floats) -> Affine:
    """Follow a node, whose output has ``rank`` axes and was scaled and shifted already, while it has one reader."""
    found = Affine(node, scale.astype(np.float64), shift.astype(np.float64))
    while (after := _after(found, rank)) is not None:
        found = after
    return found


def _after(found: Affine, rank: int) -> Affine | None:
    value = found.last.outputs[0]
    user = only_user(value)
    if user is None or user.domain != "" or user.op_type not in ARITHMETIC:
        return None
    left = user.inputs[1] is value
    array = constant(user.inputs[not left])
    if array is None or not np.isfinite(array).all():
        return None
    c = per_channel(array, rank, CHANNELS, len(found.scale))
    terms = affine(user.op_type, c, left=left) if c is not None else None
    if terms is None:
        return None
    a, b = terms
    return Affine(user, found.scale * a, found.shift * a + b, found.length + 1)

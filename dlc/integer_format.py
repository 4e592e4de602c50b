"""Which 8-bit format fits a target: the one whose products its kernels sum exactly, and fast.

Weights are s8 and symmetric everywhere. What differs is the activations, and how far weights may reach:

* x86 multiplies u8 by s8. With VNNI or AMX products are summed in 32 bits; else pairs of them in 16, which saturate
  unless the weights' range is reduced.
* ARM multiplies s8 by s8. With a dot product sums have 32 bits; else ONNX Runtime's kernel adds two products in 16 bits
  (``smull``, ``smlal2``), and ``2 * 128 * 127`` fits, for weights stay within 127: nothing is reduced.
* CUDA's own provider computes Q/DQ in float; TensorRT, which takes whole units over, wants s8 and zero points of 0.

Measured on x86 alone; for ARM and CUDA it follows what their kernels are written for.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlc.passes.qdq import ActivationType
from dlc.target import Target

X86 = ("x86_64", "i686", "x86")


@dataclass(frozen=True, slots=True)
class IntegerFormat:
    """Format of 8-bit products.

    ``symmetric``: zero points are 0. ``absorb_clips``: the saturation of an output takes the place of a ReLU, with a
    zero point that is not 0. ``reduce_range``: pairs of products must stay within 16 bits.
    """

    activations: ActivationType
    symmetric: bool
    absorb_clips: bool
    reduce_range: bool


def integer_format(target: Target) -> IntegerFormat:
    """Return the format of a target, by its provider, architecture and instruction set."""
    if target.provider == "cuda":
        return IntegerFormat("int8", symmetric=True, absorb_clips=False, reduce_range=False)
    if target.arch in X86:
        return IntegerFormat("uint8", symmetric=False, absorb_clips=True, reduce_range=not target.integer_dot)
    return IntegerFormat("int8", symmetric=True, absorb_clips=True, reduce_range=False)

"""Why a quantized model is slower, or further from FP32, than it need be on a target, and the way out.

ONNX Runtime turns DequantizeLinear, operator, QuantizeLinear into one integer kernel when it loads a file. What is not
such a whole unit stays in float, with conversions around it: that is seen in the graph after loading, and in a profile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dlc.matching import OPERANDS
from dlc.passes.base import all_nodes, constant
from dlc.passes.qdq import k_order
from dlc.passes.quantize_units import JOINS, MOVES
from dlc.passes.weighted import label
from dlc.runtimes.loaded import Kernel, Loaded
from dlc.target import Target
from dlc.types import Array

INTEGER_OPS = frozenset((
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "GatherBlockQuantized",
    "MatMulBnb4", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QGemm", "QLinearAdd",
    "QLinearConv", "QLinearMatMul",
))  # fmt: skip
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
PRODUCTS = ("Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul")
X86 = "x86_64"
PAIR_MAX = 128
"""Sum of two neighbouring s8 weights of one sign, times 255, that 16 bits still hold."""
COMPILE = "quantize the FP32 model with dlc compile --variants int8"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that costs time, or accuracy, at some nodes. ``share``: of the time of all nodes, None if not run."""

    what: str
    op: str
    nodes: tuple[str, ...]
    why: str
    way_out: str
    share: float | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """One node of a finding, and the nodes of the loaded graph whose time it costs."""

    what: str
    why: str
    way_out: str
    node: ir.Node
    costs: tuple[ir.Node, ...]


def is_quantized(model: ir.Model) -> bool:
    """Whether any node quantizes, dequantizes, or computes in integers."""
    return any(node.op_type in INTEGER_OPS or node.op_type in CONVERSIONS for node in all_nodes(model.graph))


def findings(model: ir.Model, loaded: Loaded, target: Target) -> tuple[Finding, ...]:
    """Return what is wrong with a quantized model on a target, the costliest first."""
    places = [*_unfused(loaded.graph), *_pairs(loaded.graph)]
    for node in all_nodes(model.graph):
        places += [place for rule in RULES if (place := rule(node, target)) is not None]
    groups = defaultdict[tuple[str, str, str, str], list[_Place]](list)
    for place in places:
        groups[place.what, place.node.op_type, place.why, place.way_out].append(place)
    found = [
        Finding(what, op, tuple(label(p.node) for p in each), why, way_out, _share(each, loaded.kernels))
        for (what, op, why, way_out), each in groups.items()
    ]
    found += _fallbacks(loaded.kernels, target)
    return tuple(sorted(found, key=lambda f: -(f.share or 0.0)))


def _share(places: Iterable[_Place], kernels: tuple[Kernel, ...]) -> float | None:
    """Sum the time of the nodes that a finding costs; loading may append a token to a name."""
    names = {node.name for place in places for node in place.costs}
    if not kernels or not names:
        return None
    return sum(k.share for k in kernels if k.node in names or k.node.partition("_token_")[0] in names)


def _unfused(loaded: ir.Model) -> Iterator[_Place]:
    """Nodes that compute in float between 8-bit values, after loading."""
    for node in loaded.graph:
        if node.op_type in CONVERSIONS:
            continue
        sources = [p for v in node.inputs if v is not None and (p := v.producer()) is not None]
        read = [p for p in sources if p.op_type == "DequantizeLinear"]
        wrote = [u.node for v in node.outputs for u in v.uses() if u.node.op_type == "QuantizeLinear"]
        weights = [p for p in read if _is_weight(p)]
        around = (node, *read, *wrote)
        if weights:
            yield _Place(
                "unfused Q/DQ", f"its weight is dequantized in every run, and the product is computed in float: "
                f"{_why_unfused(node, read, wrote)}", f"{COMPILE}, which writes whole units only", node, around,
            )  # fmt: skip
        elif read and wrote and node.op_type in (*JOINS, *MOVES):
            yield _Place(
                "unfused Q/DQ", "has an integer kernel, but not for these operands: all it reads must be 8 bit, and "
                "what only moves data must keep scale and zero point", COMPILE, node, around,
            )  # fmt: skip
        elif read and wrote:
            yield _Place(
                "no integer kernel", "computes in float, so its operands are dequantized and its result is quantized",
                f"leave it, and the conversions around it, in float: {_excluding(node)}", node, around,
            )  # fmt: skip


def _why_unfused(node: ir.Node, read: list[ir.Node], wrote: list[ir.Node]) -> str:
    if all(constant(p.inputs[0]) is not None for p in read):
        return "what it multiplies is not 8 bit"
    if node.op_type == "Conv" and not wrote:
        return "its result is not quantized"
    return "ONNX Runtime has no integer kernel for operands and a result of these kinds"


def _pairs(loaded: ir.Model) -> Iterator[_Place]:
    """Values that are rounded to 8 bits and back with nothing in between, and no 8-bit neighbour."""
    for node in loaded.graph:
        users = [u.node for v in node.outputs for u in v.uses()]
        if node.op_type != "QuantizeLinear" or not users or any(u.op_type != "DequantizeLinear" for u in users):
            continue
        readers = [u.node for d in users for u in d.outputs[0].uses()]
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        reads_8_bit = source is not None and any(
            p is not None and p.op_type == "DequantizeLinear" for p in (v.producer() for v in source.inputs if v)
        )
        if reads_8_bit or any(_is_weight(p) for r in readers for p in _sources(r)) or any(_writes(r) for r in readers):
            continue  # told at the node in between
        yield _Place(
            "Q/DQ around nothing", "rounds to 8 bits and back; nothing computes in 8 bits in between",
            f"take the pair out: {_excluding(*readers)}", node, (node, *users),
        )  # fmt: skip


def _excluding(*nodes: ir.Node) -> str:
    """Say how to leave operators out, in dlc and where most quantized models are made."""
    types = list(dict.fromkeys(node.op_type for node in nodes))
    options = "".join(f" --exclude {each}" for each in types)
    return f"{COMPILE}{options}; nodes_to_exclude in onnxruntime.quantization"


def _sources(node: ir.Node) -> list[ir.Node]:
    return [p for v in node.inputs if v is not None and (p := v.producer()) is not None]


def _writes(node: ir.Node) -> bool:
    return any(u.node.op_type == "QuantizeLinear" for v in node.outputs for u in v.uses())


def _is_weight(node: ir.Node) -> bool:
    array = constant(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
    return array is not None and array.ndim >= 2


def _kind(dequantize: ir.Node) -> str:
    value = dequantize.inputs[0]
    zero = constant(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else None
    dtype = (
        str(zero.dtype) if zero is not None else "uint8" if value is None or value.dtype is None else str(value.dtype)
    )
    return {"int8": "s8", "uint8": "u8", "INT8": "s8", "UINT8": "u8"}.get(dtype, dtype)


@dataclass(frozen=True, slots=True)
class _Product:
    """An 8-bit product: kinds of its operands, ``s8`` or ``u8``, its weight and the weight's scale."""

    activation: str
    kind: str
    weight: Array
    scale: Array | None


def _product(node: ir.Node) -> _Product | None:
    """Read what a node multiplies: by Q/DQ around it, or by its own operands."""
    if node.op_type in PRODUCTS:
        dequantize = [p for p in _sources(node) if p.op_type == "DequantizeLinear"]
        stored = [p for p in dequantize if _is_weight(p)]
        activations = [p for p in dequantize if constant(p.inputs[0]) is None]
        if not stored or not activations:
            return None
        weight = constant(stored[0].inputs[0])
        assert weight is not None
        return _Product(_kind(activations[0]), _kind(stored[0]), weight, constant(stored[0].inputs[1]))
    if node.op_type not in OPERANDS or node.op_type in ("Gather", "GatherBlockQuantized", "MatMulNBits"):
        return None
    at, scale_at, _ = OPERANDS[node.op_type]
    weight = constant(node.inputs[at])
    x = node.inputs[0]
    if weight is None or weight.ndim < 2:
        return None
    scale = constant(node.inputs[scale_at]) if scale_at is not None else None
    activation = "s8" if x is not None and x.dtype == ir.DataType.INT8 else "u8"
    return _Product(activation, "s8" if weight.dtype == np.int8 else "u8", weight, scale)


def _signed_activations(node: ir.Node, target: Target) -> _Place | None:
    found = _product(node)
    if target.arch != X86 or found is None or (found.activation, found.kind) != ("s8", "s8"):
        return None
    return _Place(
        "s8·s8 on x86", "x86 multiplies u8 by s8; s8·s8 runs 13 times slower than u8·s8, or is not fused at all",
        "take u8 activations and s8 weights: activation_type=QUInt8 in onnxruntime.quantization, or " + COMPILE,
        node, (node,),
    )  # fmt: skip


def _unsigned_weights(node: ir.Node, target: Target) -> _Place | None:
    found = _product(node)
    if target.arch != X86 or not target.integer_dot or found is None or (found.activation, found.kind) != ("u8", "u8"):
        return None
    return _Place(
        "u8·u8 on x86", "u8·u8 runs 2.6 times slower than u8·s8 on this processor",
        "take s8 weights: weight_type=QInt8 in onnxruntime.quantization, or " + COMPILE, node, (node,),
    )  # fmt: skip


def _one_scale(node: ir.Node, _target: Target) -> _Place | None:
    found = _product(node)
    if found is None or found.scale is None or found.scale.size > 1 or min(found.weight.shape[:2]) < 2:
        return None
    return _Place(
        "one scale a weight", "costs accuracy, not time: channels with small weights keep few levels "
        "(EfficientNet-Lite0: top-1 82.2, with a scale a channel 88.0)",
        "take a scale a channel: per_channel=True in onnxruntime.quantization, or " + COMPILE, node, (),
    )  # fmt: skip


def _saturates(node: ir.Node, target: Target) -> _Place | None:
    """Without an integer dot product, two products u8 * s8 are added in 16 bits."""
    found = _product(node)
    if target.arch != X86 or target.integer_dot or found is None or (found.activation, found.kind) != ("u8", "s8"):
        return None
    columns = node.op_type in (
        "MatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QLinearMatMul",
        "DynamicQuantizeMatMul",
    )
    rows = k_order(found.weight.T if columns else found.weight).astype(np.int64)
    even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)
    if max(np.maximum(even, 0).sum(-1).max(), np.maximum(-even, 0).sum(-1).max()) <= PAIR_MAX:
        return None
    return _Place(
        "weights of full range", "costs accuracy, not time: this processor adds pairs of products in 16 bits, which "
        "saturate", "take weights of 7 bits: reduce_range=True in onnxruntime.quantization, or " + COMPILE, node, (),
    )  # fmt: skip


def _slow_blocks(node: ir.Node, _target: Target) -> _Place | None:
    level, bits = node.attributes.get_int("accuracy_level", 0), node.attributes.get_int("bits", 4)
    if node.op_type != "MatMulNBits" or bits != 8 or level == 4:
        return None
    return _Place(
        "8-bit blocks at accuracy_level 0", "the kernel dequantizes in every run: about 20 times slower than FP32",
        "set accuracy_level to 4, which rounds activations to 8 bits and is faster than FP32", node, (node,),
    )  # fmt: skip


def _dynamic_convolution(node: ir.Node, _target: Target) -> _Place | None:
    if node.op_type != "ConvInteger":
        return None
    return _Place(
        "dynamically quantized Conv", "ConvInteger has no fast kernel: slower than FP32 wherever it was measured",
        "quantize convolutions statically, with calibration data: dlc compile -r recipe.toml --variants int8",
        node, (node,),
    )  # fmt: skip


RULES: tuple[Callable[[ir.Node, Target], _Place | None], ...] = (
    _signed_activations, _unsigned_weights, _one_scale, _saturates, _slow_blocks, _dynamic_convolution,
)  # fmt: skip


def _fallbacks(kernels: tuple[Kernel, ...], target: Target) -> list[Finding]:
    """Nodes that ran on another provider than the target's."""
    wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[target.provider]
    strays = defaultdict[tuple[str, str], list[Kernel]](list)
    for kernel in kernels:
        if kernel.provider != wanted:
            strays[kernel.op, kernel.provider].append(kernel)
    return [
        Finding(
            "fallback", op, tuple(k.node for k in each), f"ran on {provider}, with copies to it and back",
            f"choose a type that {wanted} has a kernel of {op} for", sum(k.share for k in each),
        )
        for (op, provider), each in strays.items()
    ]  # fmt: skip

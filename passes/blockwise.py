"""Block-wise quantization of a matrix, and its packed form.

    w ~ (q - zero) * scale,  q in 0 .. 2^bits - 1

Each row of w: [rows, K] is cut into blocks of ``block`` elements (the last one padded with zeros) with a scale each,
and a zero point each if asymmetric, else 2^(bits-1). Packed, element 2i of a row is the low nibble of byte i, 2i+1 the
high one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from dlc.passes.half_quadratic import fit
from dlc.passes.round_weights import DAMPING, learn_levels
from dlc.types import Array, Bytes, Floats

Method: TypeAlias = Literal["rtn", "hqq", "gptq"]
METHODS: tuple[Method, ...] = ("rtn", "hqq", "gptq")
"""Round to nearest; so too, with scales and zero points by ``half_quadratic``; or as ``round_weights`` learns to."""

SHRINK = (1.0, 8 / 7, 1.05, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Scales tried for each block, as factors of the one that just covers its largest element.

8/7 maps the largest element to 7 instead of -8, so that both signs reach equally far.
"""
CHUNK = 1 << 20
"""Elements quantized at a time: the candidates of one chunk stay in the cache."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A quantized matrix. q: [rows, blocks, block] uint8; scale: [rows, blocks]; zero: [rows, blocks] uint8 or None."""

    bits: int
    q: Array
    scale: Array
    zero: Array | None

    @property
    def nbytes(self) -> Bytes:
        """Bytes of the packed form."""
        zero = 0 if self.zero is None else self.zero.size * self.bits // 8
        return int(self.q.size * self.bits // 8 + self.scale.nbytes + zero)

    def dequantize(self) -> Array:
        """Return [rows, blocks * block] float32, padding included."""
        zero = np.float32(1 << (self.bits - 1)) if self.zero is None else self.zero[..., None].astype(np.float32)
        w = (self.q.astype(np.float32) - zero) * self.scale[..., None]
        return np.asarray(w.reshape(len(w), -1))


def quantize(
    w: Array, *, bits: int, block: int, symmetric: bool, search: bool, method: Method = "rtn",
    moments: Floats | None = None,
) -> Blocks:  # fmt: skip
    """Quantize in blocks; ``search`` picks the scale of least squared error instead of the covering one.

    ``moments``: E[x x'] of what w multiplies, [K, K], for ``gptq``; without it that method rounds to nearest. The error
    of a weight then counts as much as what it multiplies, in the choice of scales too.
    """
    rows, k = w.shape
    blocks = -(-k // block)
    padded = np.zeros((rows, blocks * block), np.float32)
    padded[:, :k] = w
    flat = padded.reshape(-1, block)
    step = max(1, CHUNK // block)
    learned = None if method != "gptq" or moments is None else np.pad(moments, (0, padded.shape[1] - k))
    counts = np.ones((blocks, block), np.float32) if learned is None else _counts(learned).reshape(blocks, block)
    parts = [
        _quantize(part, counts[np.arange(i, i + len(part)) % blocks], bits, symmetric, search, method)
        for i, part in ((i, flat[i : i + step]) for i in range(0, len(flat), step))
    ]
    q, scale, zero = (np.concatenate(p) for p in zip(*parts, strict=True))
    if learned is not None:
        q = _learned(flat, scale, zero, bits, learned)
    return Blocks(
        bits,
        q.reshape(rows, blocks, block),
        scale.reshape(rows, blocks),
        None if symmetric else zero.reshape(rows, blocks),
    )


def pack(q: Array, bits: int) -> Array:
    """Pack the last axis, [..., n] to [..., ceil(n * bits / 8)]; low nibble first."""
    if bits == 8:
        return q
    if q.shape[-1] % 2:
        q = np.concatenate([q, np.zeros((*q.shape[:-1], 1), np.uint8)], axis=-1)
    return np.asarray(q[..., 0::2] | q[..., 1::2] << 4)


def _counts(moments: Floats) -> Array:
    """How much the error of each input counts, [K]: its energy, and ``DAMPING`` of the mean lest one be all."""
    energy = np.diagonal(moments)
    mean = energy.mean() or 1.0
    return np.asarray(energy / mean + DAMPING, np.float32)


def _quantize(
    w: Array, counts: Array, bits: int, symmetric: bool, search: bool, method: Method = "rtn"  # noqa: FBT001
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Quantize blocks w: [n, block], of errors that count, [n, block], to q: [n, block], scale: [n], zero: [n]."""
    best: tuple[Array, Array, Array] | None = None
    error = np.full(len(w), np.inf, np.float32)
    for shrink in SHRINK if search else SHRINK[:1]:
        scale, zero = (_symmetric if symmetric else _asymmetric)(w, bits, np.float32(shrink))
        q = _round(w, scale, zero, bits)
        e = (np.square((q - zero[:, None]) * scale[:, None] - w) * counts).sum(axis=1)
        if best is None:
            best, error = (q, scale, zero), e
            continue
        better = e < error
        for mine, theirs in zip(best, (q, scale, zero), strict=True):
            mine[better] = theirs[better]
        error[better] = e[better]
    assert best is not None
    q, scale, zero = best
    if method == "hqq":
        scale, zero = fit(w, scale, zero, bits, symmetric=symmetric)
        q = _round(w, scale, zero, bits)
    return q.astype(np.uint8), scale, zero.astype(np.uint8)


def _learned(w: Array, scale: Array, zero: Array, bits: int, moments: Floats) -> Array:
    """Round blocks w: [n, block], whose rows have as many elements as ``moments``, at scales and zero points, [n]."""

    def each(of_blocks: Array) -> Array:
        return np.broadcast_to(of_blocks[:, None], w.shape).reshape(1, -1, len(moments))

    silent = scale == 0  # a block of zeros stays one
    origin, top = each(zero.astype(np.float32)), np.float32((1 << bits) - 1)
    low, high = (np.where(each(silent), 0, end) for end in (-origin, top - origin))
    levels = learn_levels(w.reshape(origin.shape), each(np.where(silent, 1, scale)), moments[None], low, high)
    return np.asarray(levels + origin, np.uint8).reshape(w.shape)


def _symmetric(w: Array, bits: int, shrink: np.float32) -> tuple[Array, Array]:
    """Map the element of largest magnitude to -2^(bits-1), the end of the range that reaches further."""
    half = np.float32(1 << (bits - 1))
    extreme = np.take_along_axis(w, np.abs(w).argmax(axis=1)[:, None], axis=1)[:, 0]
    return extreme / -half * shrink, np.full(len(w), half, np.float32)


def _asymmetric(w: Array, bits: int, shrink: np.float32) -> tuple[Array, Array]:
    """Map min..max, widened to hold zero, to the whole range; zero stays exact."""
    top = np.float32((1 << bits) - 1)
    low, high = np.minimum(w.min(axis=1), 0), np.maximum(w.max(axis=1), 0)
    scale = (high - low) / top * shrink
    zero = np.clip(np.floor(-low * shrink * _reciprocal(scale) + np.float32(0.5)), 0, top)
    return scale, zero


def _round(w: Array, scale: Array, zero: Array, bits: int) -> Array:
    q = np.floor(w * _reciprocal(scale)[:, None] + zero[:, None] + np.float32(0.5))
    return np.asarray(np.clip(q, 0, (1 << bits) - 1))


def _reciprocal(scale: Array) -> Array:
    """1 / scale, and 0 for a block of zeros."""
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)

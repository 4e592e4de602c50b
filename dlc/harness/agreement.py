"""How close a model's outputs come to the reference's, accumulated batch by batch in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from dlc.manifest import Agreement
from dlc.types import Array, Floats, Outputs

SQNR_MAX = 20 * math.log10(2**24)
"""dB at which FP32 itself rounds, 144.5: outputs that are equal, or closer than that, count as this."""
HIDDEN = -1e300
"""Score of a class without a chance, finite so that no difference of two is NaN."""


@dataclass
class _Sums:
    """Sums of one output: cosine per example, energy of the reference and of the difference."""

    cosine: float = 0.0
    rows: int = 0
    signal: float = 0.0
    noise: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise)."""
        if self.noise <= self.signal * 10 ** (-SQNR_MAX / 10):
            return SQNR_MAX
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -SQNR_MAX


@dataclass
class AgreementMeter:
    """Streaming agreement. With several outputs, cosine and SQNR are those of the output that fares worst.

    ``classes``: the first output, [n, classes], holds scores; equal choices are counted, and the divergence of what
    softmax makes of the scores is summed.
    """

    classes: bool = False
    examples: int = 0
    batches: int = 0
    _equal: int = 0
    _scored: int = 0
    _divergence: float = 0.0
    _sums: dict[str, _Sums] = field(default_factory=dict)
    _worst: list[Floats] = field(default_factory=list)

    def add(self, outputs: Outputs, expected: Outputs, *, batch: int) -> None:
        """Add one batch of ``batch`` examples; both sides have the same names and shapes."""
        self.examples += batch
        self.batches += 1
        worst = np.full(batch, SQNR_MAX)
        for index, (name, b) in enumerate(expected.items()):
            a = outputs[name]
            if self.classes and index == 0 and b.ndim == 2 and b.shape[1] > 1:
                self._scored += len(b)
                self._equal += int((a.argmax(axis=1) == b.argmax(axis=1)).sum())
                self._divergence += float(_divergence(a, b).sum())
            worst = np.minimum(worst, self._add_one(self._sums.setdefault(name, _Sums()), a, b, batch))
        self._worst.append(worst)

    def result(self) -> Agreement:
        """Agreement over everything added."""
        sums = self._sums.values()
        return Agreement(
            argmax=self._equal / self._scored if self._scored else None,
            kl=self._divergence / self._scored if self._scored else None,
            cosine=min((s.cosine / s.rows for s in sums if s.rows), default=1.0),
            sqnr_db=min((s.sqnr_db for s in sums), default=SQNR_MAX),
            examples=self.examples,
        )

    def each_db(self) -> Floats:
        """SQNR of each example's worst output, [examples]; that of its batch where an output has no row an example."""
        return np.concatenate([np.empty(0), *self._worst])

    def _add_one(self, sums: _Sums, a: Array, b: Array, batch: int) -> Floats:
        rows = batch if b.ndim and b.shape[0] == batch else 1
        elements = b.size // rows if rows else 0
        x, y = (v.astype(np.float64).reshape(rows, elements) for v in (a, b))
        both = np.isfinite(x) & np.isfinite(y)
        x, y = np.where(both, x, 0.0), np.where(both, y, 0.0)
        sums.cosine += float(_cosine(x, y).sum())
        sums.rows += rows
        signal, noise = (y**2).sum(axis=1), ((x - y) ** 2).sum(axis=1)
        sums.signal += float(signal.sum())
        sums.noise += float(noise.sum())
        return _sqnr_db(signal, noise)


def _divergence(a: Array, b: Array) -> Floats:
    """Kullback-Leibler divergence in nats of softmax(a) from softmax(b), both [n, classes], of each row.

    A class whose score is not finite on either side, one that a mask hides, say, is left out of both.
    """
    from scipy.special import log_softmax

    x, y = (v.astype(np.float64) for v in (a, b))
    both = np.isfinite(x) & np.isfinite(y)
    log_q, log_p = (log_softmax(np.where(both, v, HIDDEN), axis=1) for v in (x, y))
    found: Floats = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)  # never negative, but it rounds
    return found


def _sqnr_db(signal: Floats, noise: Floats) -> Floats:
    """SQNR of each row, within ±SQNR_MAX."""
    exact = noise <= signal * 10 ** (-SQNR_MAX / 10)
    silent = signal <= 0
    ratio = np.where(silent | exact, 1.0, signal) / np.where(exact, 1.0, noise)
    return np.where(exact, SQNR_MAX, np.where(silent, -SQNR_MAX, np.clip(10 * np.log10(ratio), -SQNR_MAX, SQNR_MAX)))


def _cosine(x: Floats, y: Floats) -> Floats:
    """Cosine of each pair of rows; two zero rows agree, one zero row does not."""
    lengths = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    equal = (x == y).all(axis=1)
    cosine = (x * y).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)
    return np.where(equal, 1.0, np.clip(cosine, -1.0, 1.0))

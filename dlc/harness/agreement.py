"""How close a model's outputs come to the reference's, accumulated batch by batch in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from dlc.manifest import Agreement, Status
from dlc.types import Array, Floats, Outputs

SQNR_MAX = 20 * math.log10(2**24)
"""dB at which FP32 itself rounds, 144.5: outputs that are equal, or closer than that, count as this."""
HIDDEN = -1e300
"""Score of a class without a chance, finite so that no difference of two is NaN."""


@dataclass
class _Sums:
    """One output: the cosine of each example so far, and sums of the energy of the reference and of the difference."""

    cosines: list[Floats] = field(default_factory=list)
    signal: float = 0.0
    noise: float = 0.0

    @property
    def each(self) -> Floats:
        """The cosine of each example, [n]."""
        return np.concatenate([np.empty(0), *self.cosines])

    @property
    def cosine(self) -> float:
        """The mean; 1 of no example, as of equal ones."""
        return float(each.mean()) if len(each := self.each) else 1.0

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

    def result(self, rng: np.random.Generator | None = None) -> Agreement:
        """Agreement over everything added; with ``rng`` also the interval of the cosine, by a bootstrap (BCa)."""
        sums = self._sums.values()
        worst = min(sums, key=lambda s: s.cosine, default=_Sums())
        interval = None if rng is None else _interval(worst.each, rng)
        return Agreement(
            argmax=self._equal / self._scored if self._scored else None,
            kl=self._divergence / self._scored if self._scored else None,
            cosine=worst.cosine,
            sqnr_db=min((s.sqnr_db for s in sums), default=SQNR_MAX),
            examples=self.examples,
            interval=interval,
            error=_error(worst.each) if interval and len(worst.each) == self.examples else None,
        )

    def each_db(self) -> Floats:
        """SQNR of each example's worst output, [examples]; that of its batch where an output has no row an example."""
        return np.concatenate([np.empty(0), *self._worst])

    def _add_one(self, sums: _Sums, a: Array, b: Array, batch: int) -> Floats:
        rows = batch if b.ndim and b.shape[0] == batch else 1
        elements = b.size // rows if rows else 0
        x, y = (v.astype(np.float64).reshape(rows, elements) for v in (a, b))
        stated = np.isfinite(y)  # a NaN or infinity in place of a number loses all of the number
        x, y = np.where(stated & np.isfinite(x), x, 0.0), np.where(stated, y, 0.0)
        sums.cosines.append(_cosine(x, y))
        signal, noise = (y**2).sum(axis=1), ((x - y) ** 2).sum(axis=1)
        sums.signal += float(signal.sum())
        sums.noise += float(noise.sum())
        return _sqnr_db(signal, noise)


def held(agreement: Agreement, least: float) -> tuple[Status, float | None]:
    """Hold the mean cosine to what is asked: the outcome, and the one-sided p-value that it holds.

    Cosines lie below 1 and far from it only seldom: a mean that came out low comes with a large standard error, so that
    Student's t gives p-values that are too large, if anything. Of one example there is neither interval nor p-value.
    """
    from scipy.stats import t

    low, high = agreement.interval or (agreement.cosine, agreement.cosine)
    status: Status = "pass" if low >= least else "fail" if high < least else "inconclusive"
    if agreement.error is None:
        return status, None
    away = agreement.cosine - least
    if agreement.error == 0:
        return status, float(away >= 0)
    return status, float(t.cdf(away / agreement.error, agreement.examples - 1))


def in_words(agreement: Agreement, least: float) -> str:
    """Write the mean cosine, its interval, and what is asked."""
    if agreement.interval is None:
        return f"cosine {agreement.cosine:.5f} with FP32 on {agreement.examples} examples, at least {least:g}"
    low, high = agreement.interval
    return (
        f"cosine {agreement.cosine:.5f} with FP32 [{low:.5f}, {high:.5f}] on {agreement.examples} examples, at least "
        f"{least:g}"
    )


def _interval(cosines: Floats, rng: np.random.Generator) -> tuple[float, float] | None:
    """Estimate the mean's interval from each example's cosine, [n]; None from fewer than two."""
    from dlc.harness.statistics import metric

    if len(cosines) < 2:
        return None
    found = metric(cosines.reshape(-1, 1), lambda rows: float(rows.mean()), rng=rng)
    return found.low, found.high


def _error(cosines: Floats) -> float:
    """Standard error of their mean."""
    return float(cosines.std(ddof=1) / math.sqrt(len(cosines)))


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

"""Mel spectrogram as ``librosa.feature.melspectrogram`` computes it with its defaults: power, Slaney's scale and norm.

    S[t, m] = sum_k F[m, k] |STFT(y)[t, k]|^2        y: [samples], F: [mels, 1 + fft/2]

Frames are centred: the signal is padded with half a window of zeros on both sides.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from dlc.types import Array, Floats

LINEAR_STEP = 200.0 / 3
"""Hz of one mel below 1 kHz; above, 27 mels make a factor of 6.4."""
BREAK_HZ = 1000.0
LOG_STEP = np.log(6.4) / 27


def spectrogram(signal: Array, *, rate: int, window: int, hop: int, mels: int) -> Array:
    """Mel spectrogram of a signal, [frames, mels]."""
    padded = np.pad(signal.astype(np.float64), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]  # [t, window]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    power = np.abs(np.fft.rfft(frames * hann, axis=1)) ** 2
    mel: Array = (power @ filters(rate, window, mels).T).astype(np.float32)
    return mel


@cache
def filters(rate: int, window: int, mels: int) -> Floats:
    """Triangles over the bins of an FFT, [mels, 1 + window/2], each of area 2 / width in Hz."""
    top = _to_mel(rate / 2)
    edges = _to_hz(np.linspace(0.0, top, mels + 2))  # [mels + 2]
    bins = np.linspace(0.0, rate / 2, 1 + window // 2)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    height = 2.0 / (edges[2:] - edges[:-2])
    triangles: Floats = np.maximum(0.0, np.minimum(rising, falling)) * height[:, None]
    return triangles


def _to_mel(hz: float) -> float:
    return hz / LINEAR_STEP if hz < BREAK_HZ else BREAK_HZ / LINEAR_STEP + float(np.log(hz / BREAK_HZ)) / LOG_STEP


def _to_hz(mel: Floats) -> Floats:
    start = BREAK_HZ / LINEAR_STEP
    hz: Floats = np.where(mel < start, mel * LINEAR_STEP, BREAK_HZ * np.exp(LOG_STEP * (mel - start)))
    return hz

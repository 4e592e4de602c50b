"""Restored sound and images beside the clean ones: SI-SNR, PSNR, SSIM; one value per example, in decibels or -1 to 1.

A share of decibels says little: gate them with ``Gates(max_drop=0.1)``, a tenth of a decibel.
"""

from __future__ import annotations

import numpy as np

from dlc.harness.agreement import SQNR_MAX
from dlc.types import Array, Floats

SIGMA, RADIUS = 1.5, 5
"""Gaussian window of SSIM: 11 pixels wide."""
K1, K2 = 0.01, 0.03


def si_snr(estimates: Array, sources: Array) -> Floats:
    """Scale-invariant signal-to-noise ratio over the last axis, mean over the others, [n, 1], in dB.

    Le Roux et al., "SDR - half-baked or well done?", 2019; both sides without their mean, as in torchmetrics'
    ``scale_invariant_signal_noise_ratio``. At most 144.5 dB either way, where FP32 rounds.
    """
    _alike(estimates, sources)
    x, s = (a.astype(np.float64) - a.mean(axis=-1, keepdims=True, dtype=np.float64) for a in (estimates, sources))
    energy = (s**2).sum(axis=-1, keepdims=True)
    if not (energy > 0).all():
        raise ValueError("a source is silent, so nothing can be a share of it; leave it out")
    part = (x * s).sum(axis=-1, keepdims=True) / energy * s
    return _per_example(_decibels((part**2).sum(axis=-1), ((x - part) ** 2).sum(axis=-1)))


def psnr(images: Array, clean: Array) -> Floats:
    """Peak signal-to-noise ratio of each image, [n, 1], in dB: 10 log10(range² / mean squared error).

    The range is 1, or 255 where the clean images are bytes. At most 144.5 dB, where FP32 rounds.
    """
    _alike(images, clean)
    apart = images.astype(np.float64) - clean.astype(np.float64)
    error = (apart.reshape(len(apart), -1) ** 2).mean(axis=1)
    return _per_example(_decibels(np.full(len(error), _range(clean) ** 2), error))


def ssim(images: Array, clean: Array) -> Floats:
    """Structural similarity of each image, [n, 1]; images [n, h, w] or [n, c, h, w], mean over channels.

    Wang et al., "Image quality assessment", IEEE TIP 13, 2004: Gaussian window of 11 pixels, sigma 1.5, the border of
    5 pixels left out. scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)``. The range is as for ``psnr``.
    """
    _alike(images, clean)
    if images.ndim not in (3, 4) or min(images.shape[-2:]) < 2 * RADIUS + 1:
        raise ValueError("images are [n, h, w] or [n, c, h, w], at least 11 pixels each way")
    x, y = images.astype(np.float64), clean.astype(np.float64)
    c1, c2 = ((k * _range(clean)) ** 2 for k in (K1, K2))
    mx, my = _blur(x), _blur(y)
    vx, vy, both = _blur(x * x) - mx * mx, _blur(y * y) - my * my, _blur(x * y) - mx * my
    index = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return _per_example(index[..., RADIUS:-RADIUS, RADIUS:-RADIUS])


def _blur(images: Floats) -> Floats:
    from scipy.ndimage import gaussian_filter

    blurred: Floats = gaussian_filter(images, SIGMA, axes=(-2, -1), radius=RADIUS)
    return blurred


def _decibels(signal: Floats, noise: Floats) -> Floats:
    """Ratio of energies in dB, within ±SQNR_MAX; of no signal and no noise, the least."""
    least = 10 ** (-SQNR_MAX / 10)
    exact, silent = (noise <= signal * least) & (signal > 0), signal <= noise * least
    ratio = np.where(silent, 1.0, signal) / np.where(exact | silent, 1.0, noise)
    return np.where(exact, SQNR_MAX, np.where(silent, -SQNR_MAX, 10 * np.log10(ratio)))


def _range(clean: Array) -> float:
    return 255.0 if clean.dtype == np.uint8 else 1.0


def _alike(a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError("an estimate needs the shape of what it estimates")


def _per_example(values: Floats) -> Floats:
    means: Floats = values.reshape(len(values), -1).mean(axis=1, keepdims=True)
    return means

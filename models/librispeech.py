"""LibriSpeech utterances of ten speakers: ``$DLC_DATA/librispeech_10spk/<speaker>/*.flac``, 16 kHz, mono."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlc.errors import CapabilityError, DataError
from dlc.models.datasets import data_root
from dlc.types import Array

FOLDER = "librispeech_10spk"
SOURCE = "LibriSpeech, ten speakers as chosen by Resemblyzer, CC BY 4.0"
RATE = 16_000


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording, and who speaks."""

    speaker: int
    path: Path


def folder() -> Path | None:
    """Return the folder of the utterances, or None where there is none."""
    root = data_root()
    return root / FOLDER if root is not None and (root / FOLDER).is_dir() else None


def utterances(root: Path) -> list[Utterance]:
    """List all utterances, ordered by speaker and name; DataError if there is none."""
    found = [Utterance(int(path.parent.name), path) for path in root.glob("*/*.flac") if path.parent.name.isdecimal()]
    if not found:
        raise DataError(f"{root} holds no <speaker>/<utterance>.flac")
    return sorted(found, key=lambda each: (each.speaker, each.path.name))


def read(path: Path) -> Array:
    """Decode a recording to FP32 in [-1, 1], [samples]."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise CapabilityError(f"recordings are decoded by soundfile ({error}): pip install 'dlc[zoo]'") from error
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"{path}: {error}") from error
    if rate != RATE or samples.ndim != 1:
        raise DataError(f"{path} has {rate} Hz and {samples.ndim} axes; it must be mono at {RATE} Hz")
    recording: Array = np.asarray(samples)
    return recording


def speakers(found: Sequence[Utterance]) -> Array:
    """Return who speaks in each, [n]."""
    return np.array([each.speaker for each in found])

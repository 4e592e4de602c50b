"""resemblyzer: a voice to a vector; three LSTM layers of 256 over 1.6 s of a mel spectrogram.

mels [b, 160, 40] -> hidden of the last step [b, 256] -> embedding [b, 256], of length 1 and nowhere negative

L. Wan et al., "Generalized end-to-end loss for speaker verification", 2018. Weights come with the PyPI package
resemblyzer (Apache-2.0), which is read and not imported: it needs librosa and webrtcvad, for audio alone. An utterance
is cut into parts of 160 frames, half of each shared with the next; it is the mean of their embeddings. Silences stay.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlc.errors import CapabilityError
from dlc.models import librispeech, mel
from dlc.models.datasets import VARIABLE
from dlc.recipe import Dataset, Dim, Gates, Input, Recipe
from dlc.types import Array, Feeds, Outputs

if TYPE_CHECKING:
    import torch

NAME = "resemblyzer"
PACKAGE = "resemblyzer"
INSTALL = "pip install --no-deps Resemblyzer==0.1.4 (its dependencies are for audio alone), and pip install 'dlc[zoo]'"
FRAMES, MELS, WIDTH = 160, 40, 256
WINDOW, HOP = 400, 160
"""25 ms and 10 ms, in samples."""
STEP = 77
"""Frames between two parts: 1.3 parts a second, as the package cuts."""
COVERAGE = 0.75
"""A last part that holds less of the utterance than this is left out."""
LOUDNESS_DB = -30.0
"""Quieter recordings are made this loud, below full scale."""
WITHOUT_DATA = f"no ${VARIABLE}/{librispeech.FOLDER}: judged by agreement with FP32 on seeded spectrograms, not by EER"


def recipe() -> Recipe:
    """What ``dlc compile resemblyzer`` compiles. No calibration: its int8 form measures activations as it runs."""
    from dlc.harness.accuracy import METRICS

    weights_file()
    folder = librispeech.folder()
    return Recipe(
        name=NAME,
        source=module,
        inputs={"mels": Input("float32", ("batch", FRAMES, MELS), low=0.0, high=1.0)},
        outputs=("embedding",),
        dims={"batch": Dim(1, 64, typical=8)},  # parts of an utterance; that of 7 s has 8
        evaluation=None if folder is None else verification(folder),
        metric=METRICS["eer"],
        prediction=voice,
        gates=Gates(max_drop=0.3),
        variants=("fp32", "int8"),
        expect_fusions={"split-bias": 1},
        notes=(WITHOUT_DATA,) if folder is None else (),
    )


def module() -> torch.nn.Module:
    """Trained encoder, in eval mode."""
    weights = weights_file()
    import torch

    class VoiceEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(MELS, WIDTH, num_layers=3, batch_first=True)
            self.linear = torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, mels: torch.Tensor) -> torch.Tensor:
            _, (hidden, _) = self.lstm(mels)  # [3, b, 256]
            embedding = torch.relu(self.linear(hidden[-1]))
            return torch.nn.functional.normalize(embedding, dim=1)

    encoder = VoiceEncoder()
    trained = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
    for name in ("similarity_weight", "similarity_bias"):  # of the loss it was trained with
        trained.pop(name)
    encoder.load_state_dict(trained)
    return encoder.eval()


def voice(_: Feeds, outputs: Outputs) -> Array:
    """Mean of the embeddings of an utterance's parts [k, 256], as one row."""
    mean: Array = outputs["embedding"].astype(np.float64).mean(axis=0, keepdims=True)
    return mean


def verification(folder: Path) -> Dataset:
    """One batch for each utterance, its parts; the target is who speaks."""
    found = librispeech.utterances(folder)

    def batches() -> Iterator[Feeds]:
        return ({"mels": parts(librispeech.read(each.path))} for each in found)

    return Dataset(
        "LibriSpeech, 10 speakers", batches, targets=lambda: librispeech.speakers(found), source=librispeech.SOURCE
    )


def parts(samples: Array) -> Array:
    """Cut an utterance into mel spectrograms of 160 frames, [k, 160, 40]; the last is filled up with silence."""
    loud = amplify(samples)
    frames = -(-(len(loud) + 1) // HOP)
    starts = list(range(0, max(1, frames - FRAMES + STEP + 1), STEP))
    if len(starts) > 1 and (len(loud) - starts[-1] * HOP) / (FRAMES * HOP) < COVERAGE:
        starts.pop()
    whole = np.pad(loud, (0, max(0, (starts[-1] + FRAMES) * HOP - len(loud))))
    spectrum = mel.spectrogram(whole, rate=librispeech.RATE, window=WINDOW, hop=HOP, mels=MELS)
    return np.stack([spectrum[start : start + FRAMES] for start in starts])


def amplify(samples: Array) -> Array:
    """Scale a recording that is quieter than -30 dB of full scale, root mean square; silence stays silent."""
    rms = float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
    wanted = 10 ** (LOUDNESS_DB / 20)
    return samples if rms == 0 or rms >= wanted else samples * np.float32(wanted / rms)


def weights_file() -> Path:
    """Weights in the folder of the package; the package itself is not imported."""
    if (found := importlib.util.find_spec(PACKAGE)) is None or found.origin is None:
        raise CapabilityError(f"{NAME} needs the weights of the package {PACKAGE}: {INSTALL}")
    return Path(found.origin).parent / "pretrained.pt"

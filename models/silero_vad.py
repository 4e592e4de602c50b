"""silero-vad: the chance of speech in each 32 ms; four convolutions, then one step of an LSTM of 128.

audio [b, 576], state [2, b, 128] -> |STFT| [b, 129, 4] -> features [b, 128, 1] -> speech [b, 1], next_state [2, b, 128]

``audio``: 512 new samples of 16 kHz after the 64 last ones before them; ``state``: h and c, zeros at the start. Weights
come from the ``.jit`` file of the PyPI package silero-vad (MIT); its ``.safetensors`` is another model. The package is
read, not imported: it needs torchaudio.

There are no labels of speech. Each recording is set between silences, noise 60 dB below its peak, which hold none;
a chunk of the recording is speech if it is within 25 dB of the loudest, and is not scored if it is quieter.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlc.errors import CapabilityError
from dlc.harness.detection import UNLABELLED
from dlc.models import librispeech
from dlc.models.datasets import VARIABLE
from dlc.models.librispeech import Utterance
from dlc.recipe import Dataset, Dim, Gates, Input, Recipe
from dlc.types import Array, Feeds, Outputs

if TYPE_CHECKING:
    import torch

NAME = "silero-vad"
PACKAGE = "silero_vad"
INSTALL = "pip install 'dlc[zoo]'"
CHUNK, CONTEXT, WIDTH = 512, 64, 128
BASIS, HOP = 256, 128
"""Samples of a window of the STFT, and between two."""
ENCODER = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
"""Channels in, channels out and stride of each convolution."""
SILENCE = 31
"""Chunks of silence before and after a recording: 1 s."""
NOISE_DB, SPEECH_DB = -60.0, -25.0
EACH = 3
"""Recordings of each speaker that are judged; one other calibrates."""
CALIBRATION_STEP = 24
"""Chunks between two that calibrate: neighbours are alike."""
WITHOUT_DATA = f"no ${VARIABLE}/{librispeech.FOLDER}: judged by agreement with FP32 on seeded noise, and not in int8"


def recipe() -> Recipe:
    """What ``dlc compile silero-vad`` compiles."""
    from dlc.harness.accuracy import METRICS

    weights_file()
    folder = librispeech.folder()
    return Recipe(
        name=NAME,
        source=module,
        inputs={
            "audio": Input("float32", ("batch", CONTEXT + CHUNK), low=-0.1, high=0.1),
            "state": Input("float32", (2, "batch", WIDTH), low=-1.0, high=1.0),
        },
        outputs=("speech", "next_state"),
        state={"state": "next_state"},
        dims={"batch": Dim(1, 64, typical=1)},
        calibration=None if folder is None else steps(folder),
        evaluation=None if folder is None else sequences(folder),
        metric=METRICS["auc"],
        prediction=chances,
        gates=Gates(agreement=0.99),  # users threshold the chance itself; the area under the curve only ranks it
        variants=("fp32", "int8"),
        notes=(WITHOUT_DATA,) if folder is None else (),
    )


def module() -> torch.nn.Module:
    """Trained detector for 16 kHz, in eval mode, with its state as input and output."""
    trained = scripted()
    import torch

    class Block(torch.nn.Module):
        def __init__(self, read: int, written: int, stride: int) -> None:
            super().__init__()
            self.reparam_conv = torch.nn.Conv1d(read, written, 3, stride=stride, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.reparam_conv(x))

    class Detector(torch.nn.Module):
        basis: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("basis", torch.empty(BASIS + 2, 1, BASIS))
            self.encoder = torch.nn.Sequential(*(Block(*sizes) for sizes in ENCODER))
            self.rnn = torch.nn.LSTM(WIDTH, WIDTH)
            self.head = torch.nn.Conv1d(WIDTH, 1, 1)

        def forward(self, audio: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            padded = torch.nn.functional.pad(audio.unsqueeze(1), (0, CONTEXT), mode="reflect")  # [b, 1, 640]
            real, imaginary = torch.nn.functional.conv1d(padded, self.basis, stride=HOP).chunk(2, dim=1)
            features = self.encoder(torch.sqrt(real**2 + imaginary**2))  # [b, 129, 4] -> [b, 128, 1]
            _, (h, c) = self.rnn(features.permute(2, 0, 1), (state[:1], state[1:]))  # one step, [1, b, 128] each
            speech = torch.sigmoid(self.head(torch.relu(h).permute(1, 2, 0)))
            return speech.squeeze(2), torch.cat([h, c])

    detector = Detector()
    detector.load_state_dict({_renamed(name): tensor for name, tensor in trained.state_dict().items()})
    return detector.eval()


def scripted() -> Any:
    """The package's own model for 16 kHz, in TorchScript."""
    weights = weights_file()
    import torch

    load: Any = torch.jit.load  # published without types
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is", DeprecationWarning)  # it comes in no other form
        return load(str(weights), map_location="cpu")._model  # noqa: SLF001 - the other half is for 8 kHz


def chances(_: Feeds, outputs: Outputs) -> Array:
    """Chance of speech in each chunk of a sequence [steps, 1, 1], as rows."""
    return outputs["speech"].reshape(-1, 1)


def sequences(folder: Path) -> Dataset:
    """One batch for each recording, a whole sequence of chunks; the target of a chunk is 1, 0, or left open."""
    judged = [each for number, each in _numbered(folder) if number < EACH]

    def batches() -> Iterator[Feeds]:
        return ({"audio": chunks(sound)[:, None], "state": start()} for sound in map(_recording, judged))

    def targets() -> Array:
        return np.concatenate([labels(sound) for sound in map(_recording, judged)])

    return Dataset("LibriSpeech between silences", batches, targets=targets, source=librispeech.SOURCE)


def steps(folder: Path) -> Dataset:
    """Single steps of other recordings of the same speakers, with the states that the trained model reaches there."""
    return Dataset("LibriSpeech, other recordings", lambda: reached(folder), source=librispeech.SOURCE)


@cache  # calibration reads them a dozen times; they are small
def reached(folder: Path) -> tuple[Feeds, ...]:
    """Every so many steps of the recordings that calibrate, run by the trained model from the start."""
    import torch

    detector, found = module(), list[Feeds]()
    for sound in (_recording(each) for number, each in _numbered(folder) if number == EACH):
        state = torch.from_numpy(start())
        for number, chunk in enumerate(chunks(sound)[:, None]):
            if number % CALIBRATION_STEP == 0:
                found.append({"audio": chunk, "state": state.numpy()})
            with torch.no_grad():
                _, state = detector(torch.from_numpy(chunk), state)
    return tuple(found)


def start() -> Array:
    """State before the first chunk."""
    return np.zeros((2, 1, WIDTH), np.float32)


def between_silences(samples: Array) -> Array:
    """Set a recording between seeded noise, and fill up its last chunk with it."""
    level = float(np.abs(samples).max()) * 10 ** (NOISE_DB / 20)
    whole = -(-len(samples) // CHUNK) * CHUNK
    noise = np.random.default_rng(0).standard_normal(2 * SILENCE * CHUNK + whole) * level
    sound = noise.astype(np.float32)
    sound[SILENCE * CHUNK : SILENCE * CHUNK + len(samples)] = samples
    return sound


def chunks(sound: Array) -> Array:
    """Cut into chunks of 512 samples, each after the 64 before it, [steps, 576]; silence before the first."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK)[::CHUNK]
    return np.ascontiguousarray(windows)


def labels(sound: Array) -> Array:
    """Mark each chunk: 0 for silence, 1 for a loud one of the recording, ``UNLABELLED`` for a quiet one, [steps]."""
    energy = (sound.reshape(-1, CHUNK).astype(np.float64) ** 2).mean(axis=1)
    spoken = energy >= energy.max() * 10 ** (SPEECH_DB / 10)
    marks: Array = np.where(spoken, 1, UNLABELLED)
    marks[:SILENCE] = marks[-SILENCE:] = 0
    return marks


def weights_file() -> Path:
    """File of the trained model in the folder of the package; the package itself is not imported."""
    if (found := importlib.util.find_spec(PACKAGE)) is None or found.origin is None:
        raise CapabilityError(f"{NAME} needs the weights of the package {PACKAGE}: {INSTALL}")
    return Path(found.origin).parent / "data" / "silero_vad.jit"


def _renamed(name: str) -> str:
    """Name of a tensor in an LSTM and a head for what the file calls a cell and the third of a sequence."""
    for theirs, ours in (("stft.forward_basis_buffer", "basis"), ("decoder.decoder.2", "head")):
        name = name.replace(theirs, ours)
    return f"{name.removeprefix('decoder.')}_l0" if name.startswith("decoder.rnn.") else name


def _recording(each: Utterance) -> Array:
    return between_silences(librispeech.read(each.path))


def _numbered(folder: Path) -> Sequence[tuple[int, Utterance]]:
    """Utterances, each with its number among those of its speaker."""
    seen: dict[int, int] = {}
    found = []
    for each in librispeech.utterances(folder):
        found.append((seen.get(each.speaker, 0), each))
        seen[each.speaker] = seen.get(each.speaker, 0) + 1
    return found

"""Trains the digits networks: seeded, one thread, deterministic; the same bytes again on the same kind of machine."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlc.errors import CapabilityError, UserError
from dlc.models import digits
from dlc.recipe import suggest
from dlc.types import Array

if TYPE_CHECKING:
    import torch

WEIGHTS = Path(__file__).parent / "weights"
NETWORKS = {"digits-cnn": "dlc.models.digits_cnn:network", "digits-mlp": "dlc.models.digits_mlp:network"}
BATCH = 32


@dataclass(frozen=True, slots=True)
class Schedule:
    """One cosine cycle of AdamW. ``shift``: images move by up to so many pixels each time they are seen."""

    epochs: int
    rate: float
    decay: float
    shift: int


SCHEDULES = {
    "digits-cnn": Schedule(epochs=30, rate=4e-3, decay=2e-2, shift=1),
    "digits-mlp": Schedule(epochs=60, rate=2e-3, decay=5e-2, shift=1),
}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Trained weights, their accuracy on the held-out third in percent, and how long it took."""

    weights: dict[str, Array]
    accuracy: float
    seconds: float


def train(name: str, *, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> TrainResult:
    """Train one network from scratch; ``progress`` is told (epochs done, epochs)."""
    network = _factory(name)
    start = time.perf_counter()
    with _deterministic(seed) as torch:
        module = network()
        _fit(torch, module, SCHEDULES[name], np.random.default_rng(seed), progress)
        module.eval()
        accuracy = _accuracy(torch, module)
    weights = {key: tensor.detach().numpy().copy() for key, tensor in module.state_dict().items()}
    return TrainResult(weights, accuracy, time.perf_counter() - start)


def save(name: str, weights: Mapping[str, Array], folder: Path = WEIGHTS) -> Path:
    """Write weights where the recipe reads them, or into another folder."""
    from safetensors.numpy import save as serialize

    path = folder / f"{name}.safetensors"
    path.write_bytes(serialize(dict(weights)))
    return path


def load(name: str) -> dict[str, Array]:
    """Read the weights that ship."""
    from safetensors.numpy import load_file

    return dict(load_file(WEIGHTS / f"{name}.safetensors"))


def reproduces(name: str, weights: Mapping[str, Array]) -> bool:
    """Whether weights are, byte for byte, those that ship."""
    shipped = load(name)
    return shipped.keys() == weights.keys() and all(
        shipped[k].dtype == w.dtype and shipped[k].shape == w.shape and shipped[k].tobytes() == w.tobytes()
        for k, w in weights.items()
    )


def restore(module: torch.nn.Module, weights: Mapping[str, Array]) -> torch.nn.Module:
    """Load weights into a network and put it into eval mode."""
    torch = import_torch()
    module.load_state_dict({key: torch.from_numpy(array) for key, array in weights.items()})
    return module.eval()


def import_torch() -> Any:
    """Import torch, or raise CapabilityError with the command that installs it."""
    try:
        import torch
    except ImportError as error:
        raise CapabilityError("the network is a torch module: pip install 'dlc[torch]'") from error
    return torch


def _factory(name: str) -> Callable[[], torch.nn.Module]:
    if name not in NETWORKS:
        raise UserError(f"{name!r} is not trained by dlc{suggest(name, NETWORKS)}")
    where, _, attribute = NETWORKS[name].partition(":")
    factory: Callable[[], torch.nn.Module] = getattr(importlib.import_module(where), attribute)
    return factory


@contextmanager
def _deterministic(seed: int) -> Iterator[Any]:
    """Seed torch, keep to one thread and to deterministic kernels; the caller's settings come back after."""
    torch = import_torch()
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            torch.set_num_threads(1)
            torch.use_deterministic_algorithms(mode=True)
            yield torch
    finally:
        torch.use_deterministic_algorithms(mode=strict)
        torch.set_num_threads(threads)


def _fit(
    torch: Any, module: torch.nn.Module, schedule: Schedule, rng: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> None:  # fmt: skip
    data = digits.load().train
    steps = schedule.epochs * (len(data.labels) // BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=schedule.rate, weight_decay=schedule.decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=schedule.rate, total_steps=steps)
    for epoch in range(schedule.epochs):
        order = rng.permutation(len(data.labels))
        for batch in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            images = torch.from_numpy(_shifted(data.images[batch], schedule.shift, rng))
            loss = torch.nn.functional.cross_entropy(module(images), torch.from_numpy(data.labels[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
        if progress:
            progress(epoch + 1, schedule.epochs)


def _shifted(images: Array, most: int, rng: np.random.Generator) -> Array:
    """Move each image by up to ``most`` pixels each way; zeros come in at the border."""
    size = images.shape[-1]
    padded = np.pad(images, [(0, 0), (0, 0), (most, most), (most, most)])
    corners = rng.integers(0, 2 * most + 1, (len(images), 2))
    return np.stack([p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, corners, strict=True)])


def _accuracy(torch: Any, module: torch.nn.Module) -> float:
    held_out = digits.load().held_out
    with torch.inference_mode():
        scores = module(torch.from_numpy(held_out.images)).numpy()
    return 100.0 * float((scores.argmax(axis=1) == held_out.labels).mean())

"""What calibration found, remembered: a file named after everything that it depends on.

The key covers the model with its weights, every byte that was fed and how it was batched, what was asked for, the
options, the processor and the runtime, and the code that calibrates. A key that leaves one out gives wrong ranges.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from dlc import __version__, calibrate, clipping, histogram, observe, observers
from dlc.calibrate import Calibrated
from dlc.calibration import Calibration
from dlc.cost_table import default_cache
from dlc.observe import Reader
from dlc.target import detect

CODE = (calibrate, clipping, histogram, observe, observers)


def default_folder() -> Path:
    """Return the user's folder of calibrations, beside the cost cache."""
    return default_cache().with_name("calibrations")


def remembered(
    model: ir.Model, batches: Reader, tensors: Sequence[str], means: Mapping[str, int],
    *, options: Calibration, threads: int,
) -> Calibrated:  # fmt: skip
    """Return what ``calibrate.measure`` finds, from the cache that the options name if it was found before."""

    def found() -> Calibrated:
        return calibrate.measure(model, batches, tensors, means, options=options, threads=threads)

    if options.cache is None:
        return found()
    return _through(options.cache / f"{key(model, batches, tensors, means, options, threads)}.json", found)


def key(
    model: ir.Model, batches: Reader, tensors: Sequence[str], means: Mapping[str, int], options: Calibration,
    threads: int,
) -> str:  # fmt: skip
    """Key of a calibration: a digest of all that the result depends on."""
    seen = hashlib.sha256()
    for part in (
        model_digest(model), data_digest(batches), repr(list(tensors)), repr(sorted(means.items())),
        repr(replace(options, cache=None)), detect("cpu", threads).fingerprint, __version__, np.__version__,
        *(hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in CODE),
    ):  # fmt: skip
        seen.update(part.encode() + b"\n")
    return seen.hexdigest()


def model_digest(model: ir.Model) -> str:
    """Digest of a graph by names, types, operators, attributes and weights; one weight at a time is in memory."""
    seen = hashlib.sha256(repr(sorted(model.opset_imports.items())).encode())
    graph = model.graph
    for value in (*graph.inputs, *graph.outputs):
        seen.update(f"{value.name} {value.dtype} {value.shape}\n".encode())
    for name, value in graph.initializers.items():
        tensor = value.const_value
        seen.update(f"{name} {tensor and (tensor.dtype, tensor.shape)}\n".encode())
        if tensor is not None:
            seen.update(tensor.tobytes())
    for node in graph:
        seen.update(ir.serde.serialize_node(node).SerializeToString(deterministic=True))
    for function in model.functions.values():
        seen.update(ir.serde.serialize_function(function).SerializeToString(deterministic=True))
    return seen.hexdigest()


def data_digest(batches: Reader) -> str:
    """Digest of every byte that is fed, and of how it is batched."""
    seen = hashlib.sha256()
    for feeds in batches():
        seen.update(b"batch\n")
        for name in sorted(feeds):
            array = np.ascontiguousarray(feeds[name])
            seen.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            seen.update(array.data)
    return seen.hexdigest()


def _through(file: Path, found: Callable[[], Calibrated]) -> Calibrated:
    """Read a result, or find it and write it; a file that cannot be used is as good as none."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Calibrated)
    except (OSError, msgspec.MsgspecError):
        result = found()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as scratch:  # whole, or not at all
            scratch.write(msgspec.json.encode(result))
        Path(scratch.name).replace(file)
    except OSError as error:
        logging.getLogger(__name__).warning("the calibration cache %s cannot be written: %s", file.parent, error)
    return result

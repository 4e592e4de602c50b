"""Ranges of activations over calibration data, for static quantization.

One run over the data, or several where ``max_ram`` demands it. What is kept of a tensor is its extremes and one
histogram of fixed size, whatever the number of examples; what is kept of a group of tensors becomes ranges before the
next group is looked at, so the depth of the model does not count either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from dlc.calibration import Calibration, Method
from dlc.clipping import Range, clipped
from dlc.errors import DataError, UserError
from dlc.histogram import Extremes, Histogram
from dlc.observe import Batches, Observed, Observer, observe
from dlc.observers import ChannelMeans, PerChannel
from dlc.types import Floats

__all__ = ["Calibrated", "Range", "calibrate", "calibrate_channels", "channel_means", "measure"]

EXTREMES_SUFFICE: frozenset[Method] = frozenset(("minmax", "moving-average"))


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Ranges of each tensor by each method, and means of channels. ``constant``: values that never change.

    ``runs``: how often the data was run, ``batches``: of how many batches it is.
    """

    ranges: Mapping[Method, Mapping[str, Range]]
    means: Mapping[str, list[float]]
    constant: Mapping[str, float]
    runs: int


def measure(
    model: ir.Model, batches: Batches, tensors: Sequence[str], means: Mapping[str, int] | None = None,
    *, options: Calibration | None = None, threads: int = 1,
) -> Calibrated:  # fmt: skip
    """Run the data through a clone of a model; return ranges of the tensors, and means of the channels of ``means``.

    ``means``: the axis that counts the channels, by name. DataError if there is no data, or a value holds NaN or
    infinity; UserError for a name that the model lacks, and where ``max_ram`` is too little.
    """
    options, axes = options or Calibration(), means or {}
    spread = partial(_spread(options.methods), options.momentum)

    def observers(name: str) -> list[Observer]:
        ranged: list[Observer] = [spread()] if name in wanted else []
        return [*ranged, ChannelMeans(axes[name])] if name in axes else ranged

    wanted = dict.fromkeys(tensors)
    names = dict.fromkeys((*tensors, *axes))
    seen = observe(
        model, batches, {name: partial(observers, name) for name in names}, threads=threads, max_ram=options.max_ram
    )
    spreads: dict[str, Extremes] = {name: seen.of[name][0] for name in wanted}
    for name, each in spreads.items():
        _must_hold_values(name, each)
    return Calibrated(
        {method: {n: clipped(s, method, options) for n, s in spreads.items()} for method in options.methods},
        {n: mean.tolist() for n in axes if (mean := seen.of[n][-1].mean) is not None},
        {n: s.low for n, s in spreads.items() if s.low == s.high},
        seen.runs,
    )


def calibrate(
    model: ir.Model, batches: Batches, tensors: Sequence[str], *, method: Method = "mse", threads: int = 1
) -> dict[str, Range]:
    """Return the range of each named value over the data; errors are those of ``measure``."""
    found = measure(model, batches, tensors, options=Calibration(method=method), threads=threads)
    return dict(found.ranges[method])


def channel_means(model: ir.Model, batches: Batches, axes: Mapping[str, int], *, threads: int = 1) -> dict[str, Floats]:
    """Return the mean of each channel of named values, [C] each; no data, no mean.

    ``axes``: the axis that counts the channels, by name. Errors are those of ``measure``.
    """
    seen = observe(model, batches, {n: partial(_means, axis) for n, axis in axes.items()}, threads=threads)
    return {name: mean for name in axes if (mean := seen.of[name][0].mean) is not None}


def calibrate_channels(
    model: ir.Model, batches: Batches, axes: Mapping[str, int], *, method: Method = "mse",
    options: Calibration | None = None, threads: int = 1,
) -> dict[str, tuple[Range, ...]]:  # fmt: skip
    """Return the range of every channel of named values; ``axes``: the axis that counts the channels, by name.

    For whoever looks why a tensor loses: no kernel takes a scale for each channel of an activation, so no pass does.
    Each channel has a histogram of its own, which counts against ``max_ram``. Errors are those of ``measure``.
    """
    options = options or Calibration(method=method)
    make = partial(_spread((method,)), options.momentum)
    wanted = {n: partial(_per_channel, axis, _extent(model, n, axis), make) for n, axis in axes.items()}
    seen: Observed = observe(model, batches, wanted, threads=threads, max_ram=options.max_ram)
    found: dict[str, tuple[Range, ...]] = {}
    for name in axes:
        channels = seen.of[name][0].of
        for each in channels:
            _must_hold_values(name, each)
        found[name] = tuple(clipped(each, method, options) for each in channels)
    return found


def _spread(methods: Sequence[Method]) -> type[Extremes]:
    return Extremes if EXTREMES_SUFFICE.issuperset(methods) else Histogram


def _means(axis: int) -> list[Observer]:
    return [ChannelMeans(axis)]


def _per_channel(axis: int, channels: int, make: Callable[[], Extremes]) -> list[Observer]:
    return [PerChannel(axis, channels, make)]


def _extent(model: ir.Model, name: str, axis: int) -> int:
    values = (*model.graph.inputs, *(v for node in model.graph for v in node.outputs))
    shape = next((v.shape for v in values if v.name == name), None)
    if shape is None or not -len(shape) <= axis < len(shape) or not isinstance(extent := shape[axis], int):
        raise UserError(f"cannot calibrate the channels of {name!r}: the graph does not state how many it has")
    return extent


def _must_hold_values(name: str, seen: Extremes) -> None:
    if seen.average is None:
        raise DataError(f"the calibration data is empty: no value of {name!r} was seen; give at least one example")

"""Stateful models over whole sequences: what a step puts out as state goes in at the next one.

Judged one step at a time from states that the reference computed, a variant's errors could not add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from dlc.errors import DataError, RecipeError
from dlc.interface import Extent, Interface
from dlc.recipe import suggest
from dlc.runtimes.base import Runner
from dlc.types import Array, Feeds, Outputs


def run(runner: Runner, feeds: Feeds, state: Mapping[str, str]) -> Outputs:
    """Run a model once or, with ``state``, over a sequence.

    ``state``: input to the output that is fed back to it. Its feed is what it starts from; all others have the steps as
    a leading axis, [steps, ...], and so have the outputs. Of a state, the last step's is returned.
    """
    if not state:
        return runner.run(feeds)
    reached: Feeds = {}
    collected: dict[str, list[Array]] = {}
    for each in steps(feeds, state):
        outputs = runner.run({**each, **reached})
        reached = {name: outputs[fed_back] for name, fed_back in state.items()}
        for name, array in outputs.items():
            collected.setdefault(name, []).append(array)
    last = set(state.values())
    return {name: arrays[-1] if name in last else np.stack(arrays) for name, arrays in collected.items()}


def steps(feeds: Feeds, state: Mapping[str, str]) -> Iterator[Feeds]:
    """Yield the feeds of each step, all with the state that the sequence starts from; DataError if there is no step."""
    if not state:
        yield feeds
        return
    start = {name: array for name, array in feeds.items() if name in state}
    inputs = {name: array for name, array in feeds.items() if name not in state}
    for step in range(_length(inputs)):
        yield {**start, **{name: array[step] for name, array in inputs.items()}}


def check_state(state: Mapping[str, str], interface: Interface) -> None:
    """RecipeError if a model cannot be fed its own state; a dynamic extent is taken to fit any other."""
    inputs, outputs = ({t.name: t for t in side} for side in (interface.inputs, interface.outputs))
    for name, fed_back in state.items():
        if name not in inputs:
            raise RecipeError(f"state {name!r} is no input of the model{suggest(name, inputs)}")
        if fed_back not in outputs:
            raise RecipeError(
                f"state {name!r} is fed from {fed_back!r}, which is no output{suggest(fed_back, outputs)}"
            )
        read, written = inputs[name], outputs[fed_back]
        if read.dtype != written.dtype or not _fits(read.shape, written.shape):
            raise RecipeError(f"state {read} cannot be fed from {written}: dtype and shape must be the same")


def _fits(a: tuple[Extent, ...] | None, b: tuple[Extent, ...] | None) -> bool:
    if a is None or b is None:
        return True
    return len(a) == len(b) and all(
        m == n for m, n in zip(a, b, strict=True) if isinstance(m, int) and isinstance(n, int)
    )


def _length(inputs: Feeds) -> int:
    lengths = {name: array.shape[0] if array.ndim else 0 for name, array in inputs.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        shown = ", ".join(f"{name}: {n}" for name, n in lengths.items()) or "no input but the state"
        raise DataError(f"a sequence needs the same number of steps, at least 1, on axis 0 of each input ({shown})")
    return next(iter(lengths.values()))

"""Times any models side by side, interleaved in one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from dlc.artifact import GOLDEN, MANIFEST, MODEL, SESSION, Artifact, read_golden, read_session
from dlc.errors import ArtifactError, UserError
from dlc.feeds import input_like, seeded_feeds
from dlc.harness.measure import latency, summarise
from dlc.harness.ratios import fastest
from dlc.interface import Interface, sizes_of
from dlc.lookup import load
from dlc.manifest import Latency
from dlc.progress import Progress
from dlc.recipe import suggest
from dlc.runtimes import RUNTIMES
from dlc.runtimes.ort import OrtRunner
from dlc.runtimes.session import SessionConfig, resting
from dlc.types import Feeds


@dataclass(frozen=True, slots=True)
class Row:
    """One model's latency; its ratio is against the first model."""

    name: str
    latency: Latency


@dataclass(frozen=True, slots=True)
class Subject:
    """A model file and the options to run it with."""

    name: str
    model: Path
    config: SessionConfig


def bench(
    paths: Sequence[Path], dims: Mapping[str, int], *, rounds: int, threads: int | None, seed: int, progress: Progress
) -> list[Row]:
    """Time every model of every path at the given sizes of the dynamic dims.

    Defaults: the sizes of an artifact's first golden vector, which are its recipe's typical ones; 1 without one.
    """
    subjects = subjects_of(paths, threads)
    rng = np.random.default_rng(seed)
    progress.stage("load", len(subjects))
    with ExitStack() as stack:
        runners: dict[str, OrtRunner] = {}
        for subject in subjects:
            runner: OrtRunner = load(RUNTIMES[subject.config.provider])(subject.model, resting(subject.config))
            runners[_unique(subject.name, runners)] = stack.enter_context(runner)
            progress.advance()
        interfaces = {r.interface for r in runners.values()}
        if len(interfaces) > 1:
            first, other = list(interfaces)[:2]
            raise UserError(f"the models differ in interface, so they cannot share inputs: {first.diff(other)}")
        feeds = inputs_for(subjects, interfaces.pop(), dims, rng)
        progress.stage("time", None)
        samples = latency(runners, feeds, rounds=rounds, rng=rng)
    first_samples = next(iter(samples.values()))
    return [Row(name, summarise(each, fastest(each, first_samples))) for name, each in samples.items()]


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    """Read ``name=size`` options."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, _, size = text.partition("=")
        if not size.isdecimal() or int(size) < 1:
            raise UserError(f"--dim {text}: write NAME=SIZE with a positive size, for example --dim batch=8")
        sizes[name] = int(size)
    return sizes


def subjects_of(paths: Sequence[Path], threads: int | None = None) -> list[Subject]:
    """List the models of some paths; ``threads``, if given, replaces those of each one's options."""
    found = [s for path in paths for s in _subjects(path, prefix=f"{path.name}/" if len(paths) > 1 else "")]
    return [
        replace(s, config=msgspec.structs.replace(s.config, intra_op_threads=threads or s.config.intra_op_threads))
        for s in found
    ]


def inputs_for(
    subjects: Sequence[Subject], interface: Interface, dims: Mapping[str, int], rng: np.random.Generator
) -> Feeds:
    """Draw inputs at the given sizes, by default those of the first golden vector beside a model, else 1."""
    example = _example(subjects)
    bounds = {name: input_like(array) for name, array in example.items()}
    return seeded_feeds(interface, bounds, sizes_to_time(interface, example, dims), rng)


def _subjects(path: Path, prefix: str = "") -> Iterator[Subject]:
    if path.is_file():
        yield Subject(path.name, path, SessionConfig())
    elif (path / MANIFEST).is_file():
        for variant in Artifact.load(path).built:
            yield from (replace(s, name=prefix + s.name) for s in _subjects(path / variant.precision))
    elif (path / MODEL).is_file():
        config = read_session(path) if (path / SESSION).is_file() else SessionConfig()
        yield Subject(path.name, path / MODEL, config)
    else:
        raise ArtifactError(f"{path} is not a model file, a variant folder or an artifact")


def _unique(name: str, taken: Mapping[str, object]) -> str:
    return name if name not in taken else next(n for i in range(2, 1 << 30) if (n := f"{name} ({i})") not in taken)


def _example(subjects: Sequence[Subject]) -> Feeds:
    """Return the inputs of the first golden vector that lies beside a model."""
    for subject in subjects:
        if (golden := subject.model.with_name(GOLDEN)).is_file():
            return read_golden(golden.parent)[0][0]
    return {}


def sizes_to_time(interface: Interface, example: Feeds, dims: Mapping[str, int]) -> dict[str, int]:
    """Sizes at which a model is timed: those given, else those of an example of its inputs, else 1."""
    named = {d for t in interface.inputs for d in t.shape or () if isinstance(d, str)}
    if unknown := [d for d in dims if d not in named]:
        raise UserError(f"no dynamic dimension is named {unknown[0]!r}{suggest(unknown[0], sorted(named))}")
    typical = sizes_of(interface, example) if set(example) == {t.name for t in interface.inputs} else {}
    return {name: dims.get(name, typical.get(name, 1)) for name in named}

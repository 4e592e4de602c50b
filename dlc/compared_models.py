"""What ``dlc compare`` is given: which two models, and on which inputs."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from dlc import data
from dlc.artifact import GOLDEN, MANIFEST, MODEL, SESSION, Artifact, read_golden, read_session
from dlc.comparison import Subject
from dlc.errors import ArtifactError, DataError, RecipeError, UserError
from dlc.feeds import at_sizes, seeded_feeds
from dlc.interface import Interface
from dlc.recipe import Recipe, suggest
from dlc.runtimes.session import SessionConfig
from dlc.sources import onnx_files
from dlc.sources.recipe_files import declared
from dlc.types import Feeds
from dlc.versions import TABLE


def subjects(words: Sequence[str]) -> tuple[Subject, Subject]:
    """Return reference and candidate of ``REF CAND``, or of ``ARTIFACT VARIANT VARIANT``."""
    if len(words) == 3:
        artifact = Artifact.load(words[0])
        for name in words[1:]:
            artifact.variant(name)
        paths = [artifact.path / name for name in words[1:]]
    elif len(words) == 2:
        paths = [Path(word) for word in words]
    else:
        raise UserError("two models are compared: dlc compare REF CAND, or dlc compare ARTIFACT VARIANT VARIANT")
    first, second = (subject(path) for path in paths)
    return first, second


def subject(path: Path) -> Subject:
    """Return a model file, or a variant's folder, as it is run."""
    if (path / MODEL).is_file():
        config = read_session(path) if (path / SESSION).is_file() else SessionConfig()
        return Subject(path.name, path / MODEL, config)
    if (path / MANIFEST).is_file():
        names = " ".join(v.precision for v in Artifact.load(path).built)
        raise ArtifactError(f"{path} is an artifact; name the variants: dlc compare {path} VARIANT VARIANT, of {names}")
    onnx_files.check_file(path)
    return Subject(path.name, path, SessionConfig())


def inputs_for(
    reference: Subject, recipe_file: str | None, dims: Mapping[str, int], batches: int, seed: int
) -> tuple[list[Feeds], str]:
    """Return what both models are fed, and say what it is.

    Calibration data of a recipe, else the golden vectors beside the reference unless sizes are given, else seeded.
    """
    interface = Interface.of(onnx_files.read(reference.model, max(TABLE.values())[0]))
    gc.collect()  # the rest of the model: a graph is full of cycles
    recipe = declared(recipe_file, reference.model) if recipe_file else None
    if recipe is not None and recipe.calibration is not None and not dims:
        found: list[Feeds] = [feeds for _, feeds in islice(data.checked(recipe.calibration, interface), batches)]
        if not found:
            raise DataError(f"data set {recipe.calibration.name!r} is empty: batches() gave none")
        return found, f"{len(found)} batches of {recipe.calibration.name}"
    golden = reference.model.with_name(GOLDEN)
    if recipe is None and not dims and golden.is_file():
        vectors = [feeds for feeds, _ in islice(read_golden(golden.parent), batches)]
        if vectors and all(set(v) == {t.name for t in interface.inputs} for v in vectors):
            return list(vectors), f"{len(vectors)} golden vectors"
    sizes = _sizes(interface, recipe, dims)
    rng = np.random.default_rng(seed)
    drawn = list(_seeded(interface, recipe, sizes, batches, rng))
    return drawn, f"{batches} seeded inputs at {at_sizes(sizes)}, seed {seed}"


def _seeded(
    interface: Interface, recipe: Recipe | None, sizes: Mapping[str, int], batches: int, rng: np.random.Generator
) -> Iterator[Feeds]:
    for _ in range(batches):
        yield seeded_feeds(interface, recipe.inputs if recipe else {}, sizes, rng)


def _sizes(interface: Interface, recipe: Recipe | None, dims: Mapping[str, int]) -> dict[str, int]:
    named = sorted({d for t in interface.inputs for d in t.shape or () if isinstance(d, str)})
    if unknown := [d for d in dims if d not in named]:
        raise UserError(f"no dynamic dimension is named {unknown[0]!r}{suggest(unknown[0], named)}")
    known = {} if recipe is None else {name: dim.typical for name, dim in recipe.dims.items()}
    return {name: dims.get(name) or known.get(name, 1) for name in named}


def parse_bytes(text: str) -> int:
    """Read ``256MiB``, ``1GiB``, or plain bytes."""
    units = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    number = text.strip().rstrip("BbIiKkMmGg")
    unit = text.strip()[len(number) :].strip().upper()
    try:
        count = float(number) * units[unit]
    except (ValueError, KeyError):
        count = 0
    if not 1 <= count < float("inf"):
        raise RecipeError(f"{text!r} is no amount of memory: write 256MiB or 1GiB")
    return int(count)

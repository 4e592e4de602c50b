"""What a user declares about a model: source, dynamic dimensions, data, metric, gates, variants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from dlc.calibration import DEFAULT, Calibration
from dlc.contract import DataContract, kept, kept_targets
from dlc.drift import Drift
from dlc.errors import RecipeError
from dlc.quantization import Bf16, Form, Fp16, Int4, Int8, Options
from dlc.search import Mixing
from dlc.types import Array, Feeds, Outputs

if TYPE_CHECKING:
    import torch

    from dlc.harness.accuracy import Metric
    from dlc.passes.rewrite import Rewrite

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "int4", "mixed"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "int4", "mixed")

Invariant: TypeAlias = Literal["some-key-visible"]
"""What a user states about every input that the model will be given, and the graph cannot tell.

``some-key-visible``: no mask hides all keys from a query; every sequence has at least one valid token.
"""
INVARIANTS: tuple[Invariant, ...] = ("some-key-visible",)

Source: TypeAlias = "Callable[[], torch.nn.Module] | Path"
"""A factory of a trained module in eval mode, or the path of an ``.onnx`` or ``.pt2`` file."""


@dataclass(frozen=True, slots=True)
class Dim:
    """Bounds of a dynamic dimension, and the size at which it is measured (default: the geometric middle)."""

    min: int = 1
    max: int = 64
    typical: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.max:
            raise RecipeError(f"a dimension needs 1 <= min <= max, not min={self.min}, max={self.max}")
        if self.typical == 0:
            object.__setattr__(self, "typical", round((self.min * self.max) ** 0.5))
        if not self.min <= self.typical <= self.max:
            raise RecipeError(f"typical={self.typical} lies outside {self.min}..{self.max}")


@dataclass(frozen=True, slots=True)
class Input:
    """One model input. ``shape`` holds sizes and names of declared dims, ``("batch", 3, 224, 224)``.

    Seeded inputs are drawn from ``[low, high)``; without bounds floats are standard normal and integers 0 or 1.
    """

    dtype: str
    shape: tuple[int | str, ...]
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if wrong := [d for d in self.shape if not isinstance(d, (int, str)) or (isinstance(d, int) and d < 0)]:
            raise RecipeError(f"shape {list(self.shape)}: {wrong[0]!r} is no size; name a dynamic dimension instead")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise RecipeError(f"inputs are drawn from [low, high), so low={self.low} must be below high={self.high}")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Batches of feeds, the same and in the same order each time, and what is true of each example.

    ``batches`` yields feeds; ``targets`` returns one row per example, [n, ...]. ``source``: where the data is from.
    ``slices``: parts on which the metric must hold too; a name to a function that returns one label per target, [n].
    ``contract``: what is promised of the data; it is checked whenever the data is read.
    """

    name: str
    batches: Callable[[], Iterable[Feeds]]
    targets: Callable[[], Array] | None = None
    source: str = ""
    slices: Mapping[str, Callable[[], Array]] = field(default_factory=dict)
    contract: DataContract | None = None

    def __post_init__(self) -> None:
        if self.contract is not None:
            object.__setattr__(self, "batches", kept(self.contract, self.name, self.batches))
            if self.targets is not None:
                object.__setattr__(self, "targets", kept_targets(self.contract, self.name, self.targets))

    def part(
        self, batches: Callable[[], Iterable[Feeds]], *, name: str = "", targets: Callable[[], Array] | None = None
    ) -> Dataset:
        """Return some of the batches, or the same with other targets.

        The contract is of the whole, and is checked as far as the whole is read: no part need hold every class.
        """
        return Dataset(name or self.name, batches, targets, self.source)


INSTEAD = {"retention": "max_drop", "slice_retention": "slice_drop"}
"""Gates on a share, and the gate on a distance that takes the place of each."""


def check_stated(gates: object) -> None:
    """Refuse a share and its distance in one table of gates, in which None is what is not stated."""
    for share, distance in INSTEAD.items():
        if getattr(gates, share) is not None and getattr(gates, distance) is not None:
            raise RecipeError(
                f"{share} and {distance} contradict each other: both say how far the metric may fall, as a share and "
                f"in its own unit; state one"
            )


@dataclass(frozen=True, slots=True)
class Gates:
    """What a variant must hold to pass.

    ``retention``: share of the reference's task metric; or ``max_drop``: how far the metric may fall behind, in its own
    unit, for errors near 0, of which a share says nothing. ``cosine``: mean cosine similarity with the reference's
    outputs, the gate where no metric can be computed; ``agreement``: the same, gated beside the metric, for models
    whose metric forgives what their users do not. ``slice_retention``, or ``slice_drop`` in its place: the same for
    each slice of the evaluation data. The ratios are against the FP32 baseline; None: not gated.
    """

    retention: float = 0.99
    cosine: float = 0.99
    max_drop: float | None = None
    agreement: float | None = None
    max_latency_ratio: float | None = None
    max_size_ratio: float | None = None
    slice_retention: float = 0.9
    slice_drop: float | None = None

    def __post_init__(self) -> None:
        for name in ("retention", "cosine", "agreement", "slice_retention"):
            if (share := getattr(self, name)) is not None and not 0 < share <= 1:
                raise RecipeError(f"gate {name}={share} is no share: write 0.99 for 99 %")
        for name in ("max_drop", "slice_drop"):
            if (drop := getattr(self, name)) is not None and not 0 <= drop < float("inf"):
                raise RecipeError(f"gate {name}={drop} is no distance: write 0.3 for 0.3 of the metric's unit")
        for name in ("max_latency_ratio", "max_size_ratio"):
            ratio = getattr(self, name)
            if ratio is not None and not 0 < ratio < float("inf"):
                raise RecipeError(f"gate {name}={ratio} is no ratio: write 0.5 for half of FP32's")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that ``dlc compile`` needs to know about one model.

    ``inputs`` and ``outputs`` name a module's arguments and results in order; for ONNX files they are read from the
    graph; ``inputs`` may add dims and value bounds. ``prediction`` turns the feeds and outputs of one batch into one
    row per example, [b, ...], for ``metric``; default: the first output. ``state`` names, for each input that carries
    state, the output to feed back: a batch of ``evaluation`` is then a sequence, [steps, ...] on all other inputs and
    outputs; ``calibration`` holds single steps. ``invariants``: what holds for every input.
    ``fp16``, ``bf16``, ``int8``, ``int4``: how each is built; ``mixed`` takes the options of ``int8``.
    ``calibrate``: how ranges are chosen on the data of ``calibration``. ``drift``: how far new data may be from it.

    ``rewrites``: rules of onnxscript's rewriter, or rewrites, of the user's own; measured and checked as ours are.
    ``expect_fusions``: rewrites, by name or short name, and at how many places each must at least fit.
    """

    name: str
    source: Source
    inputs: Mapping[str, Input] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    dims: Mapping[str, Dim] = field(default_factory=dict)
    calibration: Dataset | None = None
    evaluation: Dataset | None = None
    metric: Metric | None = None
    prediction: Callable[[Feeds, Outputs], Array] | None = None
    gates: Gates = Gates()
    mixed: Mixing = field(default_factory=Mixing)
    variants: tuple[Precision, ...] = ("fp32", "int8")
    fp16: Fp16 = field(default_factory=Fp16)
    bf16: Bf16 = field(default_factory=Bf16)
    int8: Int8 = field(default_factory=Int8)
    int4: Int4 = field(default_factory=Int4)
    rewrites: tuple[Rewrite, ...] = ()
    expect_fusions: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    invariants: tuple[Invariant, ...] = ()
    state: Mapping[str, str] = field(default_factory=dict)
    calibrate: Calibration = DEFAULT
    drift: Drift = field(default_factory=Drift)

    def __post_init__(self) -> None:
        self._accept_plain_words()
        if not self.name or not all(c.isalnum() or c in "-_." for c in self.name) or self.name.startswith("."):
            raise RecipeError(f"name {self.name!r} cannot be a folder name: use letters, digits, '-', '_' and '.'")
        if unknown := [v for v in self.variants if v not in PRECISIONS]:
            raise RecipeError(f"unknown variant {unknown[0]!r}{suggest(unknown[0], PRECISIONS)}")
        if unstated := [i for i in self.invariants if i not in INVARIANTS]:
            raise RecipeError(f"unknown invariant {unstated[0]!r}{suggest(unstated[0], INVARIANTS)}")
        for name, spec in self.inputs.items():
            for extent in spec.shape:
                if isinstance(extent, str) and extent not in self.dims:
                    raise RecipeError(
                        f"input {name!r} uses dimension {extent!r}, which dims does not declare"
                        f"{suggest(extent, self.dims)}"
                    )
        if self.rewrites:
            from dlc.passes.user_rewrite import adopt

            object.__setattr__(self, "rewrites", adopt(self.rewrites))
        if self.expect_fusions:
            object.__setattr__(self, "expect_fusions", self._expected())

    def options(self, precision: Precision) -> Options | None:
        """Return what is said about how a precision is built; None: nothing can be said."""
        name = "int8" if precision == "mixed" else precision
        return None if name == "fp32" else getattr(self, name)

    def _expected(self) -> dict[str, int]:
        from dlc.passes.naming import resolve

        expected: dict[str, int] = {}
        for word, places in self.expect_fusions.items():
            name = resolve(word, [each.name for each in self.rewrites])
            if name in expected:
                raise RecipeError(f"expect_fusions names {name!r} twice")
            if not isinstance(places, int) or isinstance(places, bool) or places < 1:
                raise RecipeError(f"expect_fusions: {word} = {places!r} is no number of places: write 1 or more")
            expected[name] = places
        return expected

    def _accept_plain_words(self) -> None:
        """Let text stand for a path, variant, form and metric, a function for a metric; refuse what is no mapping."""
        for name in ("inputs", "dims", "expect_fusions", "state"):
            if not isinstance(given := getattr(self, name), Mapping):
                raise RecipeError(f"{name} maps names to declarations, {{'x': …}}; it is a {type(given).__name__}")
        if isinstance(self.source, str):
            object.__setattr__(self, "source", Path(self.source))
        if not isinstance(self.rewrites, (tuple, list)):
            object.__setattr__(self, "rewrites", (self.rewrites,))
        if isinstance(self.variants, str):
            object.__setattr__(self, "variants", (self.variants,))
        if isinstance(self.int8, str):
            object.__setattr__(self, "int8", Int8(form=cast("Form", self.int8)))
        stated = (self.invariants,) if isinstance(self.invariants, str) else tuple(self.invariants)
        object.__setattr__(self, "invariants", stated)
        if self.metric is not None:
            from dlc.harness.accuracy import as_metric

            object.__setattr__(self, "metric", as_metric(self.metric))


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or the list of known words."""
    from difflib import get_close_matches

    names = list(known)
    if close := get_close_matches(word, names, n=1):
        return f"; did you mean {close[0]!r}?"
    return f" (known: {', '.join(map(repr, names)) or 'none'})"


Unchecked: TypeAlias = Any
"""A value from a user's file, not yet checked."""

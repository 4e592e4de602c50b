"""How the ranges of activations are chosen: what a recipe may say about calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from dlc.errors import RecipeError

if TYPE_CHECKING:
    from dlc.types import Bytes

Method: TypeAlias = Literal["mse", "minmax", "percentile", "entropy", "moving-average"]
METHODS: tuple[Method, ...] = get_args(Method)
Choice: TypeAlias = Literal["mse", "minmax", "percentile", "entropy", "moving-average", "best"]
CHOICES: tuple[Choice, ...] = get_args(Choice)

UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


MAX_RAM: Bytes = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Options of calibration.

    ``method``: how a range is cut from what was seen; ``best``: the one whose model agrees best with FP32 on the
    calibration data. ``percentile``: what of the values a range keeps at each end, in percent. ``momentum``: how much
    of a moving average is what was before. ``max_ram``: the most that observed activations and what is kept of them
    may take at once; the model's own memory comes on top. ``cache``: a folder that remembers results, None: no memory.
    """

    method: Choice = "mse"
    percentile: float = 99.99
    momentum: float = 0.9
    max_ram: Bytes = MAX_RAM
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.method not in CHOICES:
            from dlc.recipe import suggest

            raise RecipeError(f"unknown calibration method {self.method!r}{suggest(self.method, CHOICES)}")
        if not 50 < self.percentile <= 100:
            raise RecipeError(f"percentile={self.percentile}: a range keeps more than 50 and at most 100 percent")
        if not 0 <= self.momentum < 1:
            raise RecipeError(f"momentum={self.momentum}: a moving average keeps a share in [0, 1) of what was before")
        if self.max_ram < 1:
            raise RecipeError(f"max_ram={self.max_ram} is no amount of memory: write 1 << 30 for a gibibyte")

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that are tried: all whose result does not depend on the order of the data, or the one named."""
        return ("mse", "minmax", "percentile", "entropy") if self.method == "best" else (self.method,)


DEFAULT = Calibration()


def byte_size(text: str) -> Bytes:
    """Read ``2GiB``, ``512 MB`` or ``1000000``; RecipeError if it is none of that."""
    word = text.strip().lower().removesuffix("b")
    unit = word.lstrip("0123456789._ ")
    try:
        return round(float(word.removesuffix(unit)) * UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise RecipeError(f"{text!r} is no amount of memory: write 512MiB or 2GiB") from None

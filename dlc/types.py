"""Names for the values that cross module borders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = Mapping[str, Array]
"""Input name to array."""
Outputs: TypeAlias = dict[str, Array]
"""Output name to array, in the order of the model."""
Floats: TypeAlias = npt.NDArray[np.float64]
Bytes: TypeAlias = int
Step: TypeAlias = int
"""Index in the execution order."""
Nanoseconds: TypeAlias = int

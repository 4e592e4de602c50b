"""Second moments of the inputs of products over calibration data, for quantization that makes errors good (GPTQ).

    H = sum of x x' over all rows x of the input,  [K, K]

One pass over the data; what is kept is K^2 numbers of each distinct input, whatever the number of examples: products
that read the same value (queries, keys and values of attention) share one matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from dlc.calibrate import observed
from dlc.errors import DataError, Unsupported
from dlc.types import Bytes, Feeds, Floats

MOST: Bytes = 2 << 30


def input_moments(
    model: ir.Model, batches: Iterable[Feeds], inputs: Mapping[str, str], *, threads: int = 1, most: Bytes = MOST
) -> dict[str, Floats]:
    """Return the second moments of each weight's input, by the weight's name; ``inputs``: weight to input, by name.

    Errors are those of ``dlc.calibrate.observed``; DataError if there is no data, Unsupported if they would take more
    than ``most`` bytes.
    """
    sums = dict[str, Floats]()
    for values in observed(model, batches, sorted(set(inputs.values())), threads):
        for name, array in values.items():
            if name not in sums and (needed := sum(4 * values[x].shape[-1] ** 2 for x in values)) > most:
                raise Unsupported(f"the moments of {len(values)} inputs take {needed} bytes, more than {most}")
            rows = array.reshape(-1, array.shape[-1])
            sums[name] = sums.get(name, 0) + rows.T @ rows
    if missing := [name for name in inputs.values() if name not in sums]:
        raise DataError(
            f"the calibration data is empty: no value of {missing[0]!r} was seen; give at least one example"
        )
    return {weight: sums[name] for weight, name in inputs.items()}

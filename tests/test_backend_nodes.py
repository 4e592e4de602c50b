"""Every node model of onnx's backend tests that ONNX Runtime can run, through the default pipeline.

What ONNX Runtime computes on the model as it is must stay; what onnx states as the result does not matter. Each model
is taken as it comes, then with all inputs but the first, and at last with all of them, as weights: what a caller feeds
cannot be folded, and a compiler is made for constants.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dlc.errors import DlcError, ModelError
from dlc.tolerance import distance
from tests.default_pipeline import Differs, Fed, default_rewrites, evaluate, through

FED = {"all": 1 << 10, "the first": 1, "none": 0}
"""How many inputs are fed; the others are weights."""
REASONS: Mapping[str, str] = {
    "no kernel": r"find an implementation|not a registered function|not supported|opset|Unsupported model IR version",
    "a type that ORT's Python API cannot pass": r"Numpy_type|Numpy type|Unable to handle object|type_proto",
    "no locale": r"locale",
    "fails on its own inputs": r"failed while running|INVALID_ARGUMENT|Invalid|cannot load",
}
"""Why ONNX Runtime does not run a model, the first that its words match."""
RUN = {"all": 1500, "the first": 1550, "none": 1600}
"""The least models that must have run, of the 1884 of onnx 1.23; its other releases have more or fewer."""


@cache
def cases() -> tuple[tuple[str, onnx.ModelProto, list[Any]], ...]:
    """Name, model and inputs of each."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx computes the expected results, with all the infinities they are to have
        found = load_model_tests(kind="node")
    return tuple((c.name, c.model, list(c.data_sets[0][0])) for c in found if c.model and c.data_sets)


def with_weights(proto: onnx.ModelProto, values: list[Any], fed: int) -> tuple[ir.Model, Fed]:
    """Return a model some inputs of which are weights, and what to feed to the others."""
    model = ir.from_proto(proto)
    feeds: dict[str, Any] = {}
    for i, (value, given) in enumerate(zip(list(model.graph.inputs), values, strict=True)):
        array = onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else given
        array = np.asarray(array) if isinstance(array, np.generic) else array
        if i < fed or not isinstance(array, np.ndarray) or array.dtype.kind in "OUS":
            feeds[str(value.name)] = array
            continue
        model.graph.inputs.remove(value)
        value.const_value, value.shape = ir.Tensor(array, dtype=value.dtype, name=value.name), ir.Shape(array.shape)
        model.graph.register_initializer(value)
    return model, feeds


def why_not(model: ir.Model, feeds: Fed) -> str | None:
    """Say why a model cannot be compared, None if it can."""
    try:
        first, second = (evaluate(model, [feeds])[0] for _ in range(2))
    except ModelError as error:
        words = str(error)
        return next((reason for reason, pattern in REASONS.items() if re.search(pattern, words)), words)
    return "draws random numbers" if distance(first, second)[0] else None


@pytest.mark.parametrize("fed", FED)
def test_node_models_compute_what_they_did(fed: str) -> None:
    run, skipped, faults, passes = 0, Counter[str](), list[str](), default_rewrites()
    for name, proto, values in cases():
        model, feeds = with_weights(proto, values, FED[fed])
        if (reason := why_not(model, feeds)) is not None:
            skipped[reason] += 1
            continue
        try:
            through(model, [feeds], passes)
        except (Differs, DlcError) as fault:
            faults.append(f"{name}: {fault}")
        run += 1
    assert not faults, "\n".join(faults)
    assert set(skipped) <= {*REASONS, "draws random numbers"}
    assert run >= RUN[fed], skipped
    print(run, dict(skipped))  # noqa: T201 - with -s: how many ran, and why the others did not

"""Session options are measured like everything else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dlc.costs import Costs
from dlc.runtimes.session import SessionConfig
from dlc.stages.loading import LEVELS, session_for
from dlc.target import detect

WIDTH = 1024


def costs(model_input: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Costs:
    return Costs(detect(), SessionConfig(), {"x": model_input})


def test_a_level_that_undoes_what_was_measured_is_avoided() -> None:
    """At load ONNX Runtime fuses Add and LayerNormalization into a kernel that is slower than the two."""
    gamma = ", ".join(["1"] * WIDTH)
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["": 20]> g (float[n, {WIDTH}] x) => (float[n, {WIDTH}] y)
        <float[{WIDTH}] gamma = {{{gamma}}}> {{ r = Abs(x) t = Add(x, r) y = LayerNormalization(t, gamma) }}"""
    )
    here = costs(np.random.default_rng(0).standard_normal((256, WIDTH)).astype(np.float32))
    config, [choice] = session_for(model, here)
    assert len(here.table.seen) == len(LEVELS)
    assert choice.kept == (config.graph_optimization != "all")
    assert choice.ratio is not None
    assert choice.kept == (choice.ratio.high < 0.98)
    assert config.graph_optimization in ("all", choice.rewrite.partition("=")[2])


def test_a_default_session_stays_where_nothing_is_faster() -> None:
    model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) { y = Neg(x) }')
    config, [choice] = session_for(model, costs(np.zeros(8, np.float32)))
    assert choice.kept or config == SessionConfig()

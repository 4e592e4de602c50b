"""Runs in an environment that holds OpenVINO and NNCF: quantizes and times models for ``benchmarks.peers``.

Reads one JSON request a line from standard input, writes one JSON answer a line. It imports nothing of dlc.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

Compiled = dict[str, Any]


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # NNCF prints to standard output
    compiled: Compiled = {}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(globals()[request.pop("do")](compiled, **request)), file=answers, flush=True)


def load(compiled: Compiled, name: str, model: str, calibration: list[str] | None, kind: str | None) -> str:
    """Compile an ONNX file for one thread, in int8 if there are calibration feeds; FP32 as it is stated, not BF16."""
    graph = ov.Core().read_model(model)
    if calibration is not None:
        import nncf

        feeds = nncf.Dataset([dict(np.load(path)) for path in calibration])
        transformer = nncf.ModelType.TRANSFORMER if kind == "transformer" else None
        graph = nncf.quantize(graph, feeds, subset_size=len(calibration), model_type=transformer)
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # its threads inherit this; dlc is timed on the same
    compiled[name] = ov.Core().compile_model(graph, "CPU", options).create_infer_request()
    return f"openvino {ov.__version__.split('-')[0]}"


def run(compiled: Compiled, name: str, feeds: str, times: int) -> int:
    """Nanoseconds of so many calls."""
    given, request = dict(np.load(Path(feeds))), compiled[name]
    start = time.perf_counter_ns()
    for _ in range(times):
        request.infer(given)
    return time.perf_counter_ns() - start


def outputs(compiled: Compiled, name: str, feeds: str, into: str) -> None:
    """Save what a model computes."""
    result = compiled[name].infer(dict(np.load(Path(feeds))))
    np.savez(into, *[result[key] for key in result])


if __name__ == "__main__":
    main()

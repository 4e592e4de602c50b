"""Runs a model in a process of its own: ``python -I peak_rss.py REQUEST.json`` prints the memory it took, as JSON.

Imports nothing of dlc and no torch, so the peak is that of onnxruntime, numpy and the model.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

LEVELS = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def peak() -> int:
    """Return the largest resident set this process has had, in bytes.

    ``ru_maxrss`` comes second: on Linux it starts at what the parent had when it forked; ``VmHWM`` starts afresh.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(t for t in status.read_text(encoding="ascii").splitlines() if t.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(request: dict[str, Any]) -> dict[str, int]:
    """Load and run the model; the peak before is that of the bare runtime with the feeds in memory."""
    with np.load(request["feeds"]) as file:
        feeds = {name: file[f"arr_{i}"] for i, name in enumerate(request["inputs"])}
    config = request["config"]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = config["intra_op_threads"]
    options.inter_op_num_threads = 1
    level = LEVELS.get(config["graph_optimization"], "ORT_ENABLE_ALL")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    if config["execution_order"] == "priority":
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_reuse = config["mem_reuse"]
    options.enable_mem_pattern = config["mem_pattern"]
    options.enable_cpu_mem_arena = config["arena"]
    for key, value in config["entries"].items():
        options.add_session_config_entry(key, value)
    runtime = peak()
    session = ort.InferenceSession(
        request["model"], options, providers=[PROVIDERS[config["provider"]]],
        disabled_optimizers=config["disabled_optimizers"] or None,
    )  # fmt: skip
    for _ in range(request["runs"]):
        session.run(None, feeds)
    return {"peak": peak(), "runtime": runtime}


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))  # noqa: T201

"""Runs a model in a process of its own: ``python -I peak_rss.py REQUEST.json`` prints memory and start-up, as JSON.

Imports nothing of dlc and no torch, so the peak is that of onnxruntime, numpy and the model.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

LEVELS = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


STATUS = Path("/proc/self/status")


def status(field: str) -> int:
    """Return a size of this process that Linux keeps account of, in bytes."""
    line = next(t for t in STATUS.read_text(encoding="ascii").splitlines() if t.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def peak() -> int:
    """Return the largest resident set this process has had, in bytes.

    ``ru_maxrss`` comes second: on Linux it starts at what the parent had when it forked; ``VmHWM`` starts afresh.
    """
    if STATUS.exists():
        return status("VmHWM")
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(request: dict[str, Any]) -> dict[str, float]:
    """Load and run the model; the peak before is that of the bare runtime with the feeds in memory.

    ``load_ms`` creates the session, ``first_ms`` is its first call: nothing of either was done in this process before.
    """
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
    runtime, start = peak(), time.perf_counter()
    session = ort.InferenceSession(
        request["model"], options, providers=[PROVIDERS[config["provider"]]],
        disabled_optimizers=config["disabled_optimizers"] or None,
    )  # fmt: skip
    at = [time.perf_counter()]
    for _ in range(request["runs"]):
        session.run(None, feeds)
        at.append(time.perf_counter())
    first = at[1] - at[0] if request["runs"] else 0.0
    return {"peak": peak(), "runtime": runtime, "load_ms": 1e3 * (at[0] - start), "first_ms": 1e3 * first}


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))  # noqa: T201

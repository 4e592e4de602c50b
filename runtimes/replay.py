"""Replays golden vectors in a process of its own: ``python -I replay.py VARIANT_FOLDER`` prints one JSON object.

Imports nothing of dlc and no torch, so what it shows holds on a machine that has only onnxruntime and safetensors.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file

LEVELS = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}


def replay(folder: Path, *, default_options: bool) -> dict[str, object]:
    """Run each vector; return the largest error of each output, relative to that output's largest magnitude."""
    config = json.loads((folder / "session.json").read_text(encoding="utf-8"))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = config["intra_op_threads"]
    if not default_options:
        level = LEVELS.get(config["graph_optimization"], "ORT_ENABLE_ALL")
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        for key, value in config["entries"].items():
            options.add_session_config_entry(key, value)
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[config["provider"]]
    disabled = None if default_options else config["disabled_optimizers"]
    session = ort.InferenceSession(
        str(folder / "model.onnx"), options, providers=[provider], disabled_optimizers=disabled or None
    )
    tensors = load_file(folder / "golden.safetensors")
    names = [o.name for o in session.get_outputs()]
    errors = dict.fromkeys(names, 0.0)
    vectors = sorted({int(name.split(".", 1)[0]) for name in tensors})
    for index in vectors:
        prefix = f"{index}.input."
        feeds = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        for name, got in zip(names, session.run(None, feeds), strict=True):
            errors[name] = max(errors[name], error(got, tensors[f"{index}.output.{name}"]))
    return {
        "runtime": ort.__version__,
        "vectors": len(vectors),
        "errors": errors,
        "torch_loaded": "torch" in sys.modules,
    }


def error(got: np.ndarray, stated: np.ndarray) -> float:
    """Return ``max|got - stated| / max|stated|``; infinite for another shape, or a NaN on one side only."""
    if got.shape != stated.shape or got.dtype != stated.dtype:
        return float("inf")
    a, b = got.astype(np.float64), stated.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    worst = float(np.abs(a - b).max(initial=0.0))
    return worst / max(float(np.abs(b).max(initial=0.0)), float(np.finfo(np.float32).tiny)) if worst else 0.0


if __name__ == "__main__":
    print(json.dumps(replay(Path(sys.argv[1]), default_options="--default-options" in sys.argv[2:])))  # noqa: T201

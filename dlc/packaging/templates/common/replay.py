"""Golden vectors: how they are read, what counts as the same answer, and what a replay says of a model."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from machine import UnfitError

RUNS = 20
TINY = float(np.finfo(np.float32).tiny)


def golden(folder: Path) -> tuple[float, list]:
    """Return the bound, and pairs of feeds and stated outputs."""
    index = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    data = (folder / "golden.bin").read_bytes()

    def arrays(tensors: list) -> dict:
        return {
            t["name"]: np.frombuffer(data[t["offset"] :][: t["bytes"]], t["dtype"]).reshape(t["shape"]) for t in tensors
        }

    return index["bound"], [(arrays(v["inputs"]), arrays(v["outputs"])) for v in index["vectors"]]


def error(got: np.ndarray, stated: np.ndarray) -> float:
    """Return ``max|got - stated| / max|stated|``; infinite for another shape or type, another NaN, another integer."""
    if got.shape != stated.shape or got.dtype != stated.dtype:
        return float("inf")
    if got.dtype.kind != "f":
        return 0.0 if np.array_equal(got, stated) else float("inf")
    a, b = got.astype(np.float64), stated.astype(np.float64)
    odd = ~np.isfinite(b)
    if not np.array_equal(~np.isfinite(a), odd) or not np.array_equal(a[odd], b[odd], equal_nan=True):
        return float("inf")
    worst = float(np.abs(a[~odd] - b[~odd]).max(initial=0.0))
    return worst / max(float(np.abs(b[~odd]).max(initial=0.0)), TINY) if worst else 0.0


def peak() -> int | None:
    """Return the largest resident set of this process in bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:"))


def prove(open_model: Callable) -> dict:
    """Open a model, replay the vectors beside it, and time the first of them."""
    start = time.perf_counter()
    model = open_model()
    load_ms = (time.perf_counter() - start) * 1e3
    bound, vectors = golden(model.files)
    errors = dict.fromkeys(model.outputs, 0.0)
    for feeds, stated in vectors:
        got = model.run(feeds)
        errors = {name: max(worst, error(got[name], stated[name])) for name, worst in errors.items()}
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        model.session.run(None, vectors[0][0])
        times.append((time.perf_counter() - start) * 1e3)
    return {
        "runtime": f"onnxruntime {ort.__version__}", "variant": model.link["variant"], "bound": bound,
        "vectors": len(vectors), "errors": errors, "load_ms": load_ms, "latency_ms": float(np.median(times)),
        "peak_bytes": peak(), "alone": not {"dlc", "torch"} & set(sys.modules),
    }  # fmt: skip


def report(result: dict) -> bool:
    """Print a result as one line of JSON, which has no infinity; return whether every answer agrees."""
    errors = {name: worst if np.isfinite(worst) else None for name, worst in result["errors"].items()}
    print(json.dumps({**result, "errors": errors}))
    return all(worst <= result["bound"] for worst in result["errors"].values())


def main(open_model: Callable) -> None:
    """Prove a model and end: with 0 if every answer agrees, 1 if one differs, 3 if this machine cannot run it."""
    try:
        agrees = report(prove(open_model))
    except UnfitError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    sys.exit(not agrees)

"""What the packaged runner observes, held against calibration: ``python -m benchmarks.observed``.

Compiles digits-cnn, packages each variant for Python, and feeds the held-out scans, as they are and changed, to the
runner, in a Python that sees onnxruntime and numpy alone. Prints the table of docs/package-onnx.md, and how long a run
takes with and without observation.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import dlc
from dlc.data_check import check
from dlc.models import digits
from dlc.packaging.compose import compose
from dlc.packaging.onnx_form import PYTHON, environment
from dlc.packaging.source import load_source
from dlc.recipe import Precision
from dlc.target import detect
from dlc.types import Array

SEED = 0
VARIANTS: tuple[Precision, ...] = ("fp32", "int8")
BATCH = 32
USE = f"""
import json, sys, time
import numpy as np
from run import Model
model, times = Model(), []
scans = np.load(sys.argv[1])["image"]
for start in range(0, len(scans), {BATCH}):
    begin = time.perf_counter()
    model.run({{"image": scans[start : start + {BATCH}]}})
    times.append((time.perf_counter() - begin) * 1e3)
print(json.dumps(float(np.median(times))))
"""


def main() -> None:
    scans, rng = digits.load().held_out.images, np.random.default_rng(SEED)
    changed = {
        "as they are": scans, "at half the brightness": scans / 2,
        "with noise of 0.1": scans + rng.normal(scale=0.1, size=scans.shape), "inverted": 1 - scans,
    }  # fmt: skip
    print("| held-out scans | variant | input: PSI | KS | output: PSI | KS | |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="dlc-observed-") as scratch:
        options = dlc.Options(variants=VARIANTS, evaluate=False)
        artifact = dlc.compile(dlc.load_recipe("digits-cnn"), detect(), Path(scratch), options).artifact
        times: dict[tuple[str, bool], float] = {}
        for variant in VARIANTS:
            source = load_source(artifact.path / variant, allow_failing=True)
            package = compose([source], "onnx", Path(scratch), check=False).path
            assert package is not None
            for what, images in changed.items():
                log = Path(scratch) / "observed.json"
                times[variant, False], times[variant, True] = run(package, images, None), run(package, images, log)
                found = check(str(artifact.path), None, str(log))
                numbers = " | ".join(f"{each.psi:.3f} | {each.ks:.3f}" for each in found.moved)
                print(f"| {what} | {variant} | {numbers} | {'ok' if found.holds else 'drift'} |", flush=True)
    for (name, observed), time in times.items():
        print(f"a run of {BATCH} scans, {name}, {'observed' if observed else 'not observed'}: {time:.3f} ms")


def run(package: Path, images: Array, log: Path | None) -> float:
    """Feed images to a package; return the median of its runs in ms."""
    file = package.parent / "new.npz"
    np.savez(file, image=images.astype(np.float32))
    with environment() as variables:
        path = f"{variables['PYTHONPATH']}{os.pathsep}{package}"
        child = subprocess.run(
            [*PYTHON, "-c", USE, str(file)], check=True, capture_output=True, text=True,
            env={"PYTHONPATH": path, "DLC_STATISTICS": str(log or "")},
        )  # fmt: skip
    return float(json.loads(child.stdout))


if __name__ == "__main__":
    main()

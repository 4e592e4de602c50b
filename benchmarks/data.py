"""What ``dlc data check`` finds: near duplicates that were made, and drift that was.

    [DLC_DATA=...] python -m benchmarks.data

Near duplicates: noise on 200 of the digits' held-out scans, and distinct scans; with $DLC_DATA, the sentences that
calibrate minilm beside those that judge it. Drift: digits-mlp's held-out scans, as they are and changed, held against
the scans that calibrated it. docs/data.md quotes both tables.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import dlc
from dlc import data
from dlc.data_check import check
from dlc.drift import Moved
from dlc.duplicates import Signatures, near
from dlc.interface import Interface, TensorType
from dlc.models import digits
from dlc.target import detect
from dlc.types import Array

SEED = 0
MADE = 200
NOISE = (0.01, 0.02, 0.03, 0.05)


def main() -> None:
    held_out, train = digits.load().held_out.images, digits.load().train.images
    rng = np.random.default_rng(SEED)
    print("| examples | of | near duplicates |\n|---|---|---|")
    for scale in NOISE:
        noisy = held_out[:MADE] + rng.normal(scale=scale, size=held_out[:MADE].shape).astype(np.float32)
        print(f"| held-out scans with noise of {scale} | {MADE} | {found(noisy, held_out)} |")
    print(f"| held-out scans at half the brightness | {MADE} | {found(held_out[:MADE] / 2, held_out)} |")
    print(f"| held-out scans beside those to train on | {len(held_out)} | {found(held_out, train)} |", flush=True)
    sentences()
    drift(held_out, rng)


def found(examples: Array, others: Array) -> int:
    sides = Signatures(), Signatures()
    for side, rows in zip(sides, (examples, others), strict=True):
        side.add({"x": rows}, len(rows))
    return int(near(*sides).sum())


def sentences() -> None:
    recipe = dlc.load_recipe("minilm")
    if recipe.evaluation is None or recipe.calibration is None:
        print("(STS-B is not there: set DLC_DATA)")
        return
    inputs = Interface(tuple(TensorType(name, each.dtype, each.shape) for name, each in recipe.inputs.items()), ())
    calibration, evaluation = (data.inspect(each, inputs) for each in (recipe.calibration, recipe.evaluation))
    print(f"| sentences that calibrate minilm, equal to one of the evaluation | {calibration.examples} "
          f"| {data.leaked(calibration, evaluation)} |")  # fmt: skip
    print(f"| the same, near one | {calibration.examples} | {data.nearly_leaked(calibration, evaluation)} |")


def drift(held_out: Array, rng: np.random.Generator) -> None:
    changed = {
        "held-out scans": held_out, "at half the brightness": held_out / 2,
        "with noise of 0.1": held_out + rng.normal(scale=0.1, size=held_out.shape), "inverted": 1 - held_out,
    }  # fmt: skip
    recipe = dlc.load_recipe("digits-mlp")
    [name] = recipe.inputs
    print("\n| new data | input: PSI | KS | worst activation: PSI | KS |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="dlc-data-") as folder:
        options = dlc.Options(variants=("fp32",), evaluate=False)
        artifact = dlc.compile(recipe, detect(), Path(folder), options).artifact
        for what, scans in changed.items():
            np.savez(Path(folder) / "new.npz", **{name: scans.astype(np.float32)})  # type: ignore[arg-type]
            moved = {m.value: m for m in check(str(artifact.path), None, str(Path(folder) / "new.npz")).moved}
            own = moved.pop(name)
            inner = [m for m in moved.values() if (m.psi, m.ks) != (own.psi, own.ks)]  # not the input, flattened
            worst: Moved = max(inner, key=lambda m: m.psi)
            print(f"| {what} | {own.psi:.3f} | {own.ks:.3f} | {worst.psi:.3f} | {worst.ks:.3f} |")


if __name__ == "__main__":
    main()

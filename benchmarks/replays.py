"""Replays the golden vectors of the zoo in every form: ``python -m benchmarks.replays build [--forms onnx,web]``.

``build`` holds artifacts that ``dlc compile`` wrote. Prints a row for each model, variant, form and runtime: the
largest error relative to the largest output, the same in steps of 8 bits, its share of the bound, load and run times,
memory and size; for ``ort`` whether the operators that are listed are those that run; for ``web`` when the page is
interactive.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dlc.artifact import MANIFEST, Artifact
from dlc.cli.common import print_table
from dlc.errors import DlcError
from dlc.packaging import FORMS
from dlc.packaging.compose import Packaged, compose
from dlc.packaging.source import Source, load_source
from dlc.types import Array

STEPS = 255
HEADERS = (
    "model",
    "form",
    "runtime",
    "error",
    "bound",
    "of it",
    "8-bit steps",
    "loads",
    "latency",
    "peak",
    "size",
    "note",
)


def rows(build: Path, forms: list[str], precisions: list[str]) -> Iterator[tuple[bool, tuple[str, ...]]]:
    for path in sorted(p for p in build.iterdir() if (p / MANIFEST).is_file()):
        for variant in Artifact.load(path).built:
            for form in forms if variant.precision in precisions else ():
                yield from packaged(path / variant.precision, form)


def packaged(path: Path, form: str) -> Iterator[tuple[bool, tuple[str, ...]]]:
    name, source = f"{path.parent.name}/{path.name}", load_source(path, allow_failing=True)
    with tempfile.TemporaryDirectory() as out:
        try:
            made = compose([source], form, Path(out))
        except DlcError as error:
            yield False, (name, form, str(error), *[""] * 9)
            return
    yield from ((proof.ok, row(name, form, made, index, step(source))) for index, proof in enumerate(made.proofs))


def step(source: Source) -> float:
    """Return the scale that DynamicQuantizeLinear gives an output, beside its largest element; the least of all."""
    ranges = [max(a.max(), 0) - min(a.min(), 0) for a in outputs(source)]
    return min(float(r) / STEPS / float(np.abs(a).max()) for r, a in zip(ranges, outputs(source), strict=True))


def outputs(source: Source) -> list[Array]:
    return [a for _, stated in source.golden for a in stated.values() if a.dtype.kind == "f" and a.any()]


def row(name: str, form: str, made: Packaged, index: int, one: float) -> tuple[str, ...]:
    proof, size = made.proofs[index], f"{made.bytes / 1e6:.2f} MB"
    if (answer := proof.answer) is None:
        return (name, form, proof.subject, *[""] * 7, size, proof.detail)
    peak = "" if answer.peak_bytes is None else f"{answer.peak_bytes / 2**20:.1f} MiB"
    steps = f"{answer.worst / one:.2f}" if made.package.variant == "int8" else ""
    notes = "; ".join([*answer.notes, *([] if proof.ok else ["FAIL"])])
    return (
        name, form, answer.runtime, f"{answer.worst:.2g}", f"{answer.bound:.2g}", f"{answer.worst / answer.bound:.2f}",
        steps, f"{answer.load_ms:.0f} ms", f"{answer.latency_ms:.3f} ms", peak, size, notes,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("--forms", default="onnx,ort,web,node,c", help=f"of {', '.join(FORMS)}")
    parser.add_argument("--variants", default="fp32,int8")
    arguments = parser.parse_args()
    found = list(rows(arguments.build, arguments.forms.split(","), arguments.variants.split(",")))
    print_table(HEADERS, [cells for _, cells in found])
    print(f"{sum(ok for ok, _ in found)} of {len(found)} checks hold")
    return 0 if all(ok for ok, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())

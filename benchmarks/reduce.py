"""How small a part of MiniLM is left of an injected failure, and after how long.

    python -m benchmarks.reduce MODEL.onnx

MODEL: the FP32 variant that ``dlc compile minilm`` writes. A failing node is put behind one at a quarter, a half and
three quarters of the graph; ``dlc debug reduce`` is run for each, in a process of its own. Prints a row for each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir

BLOCK = 32
CHECK = """
import sys
import numpy as np
import onnxruntime as ort
session = ort.InferenceSession(sys.argv[1])
with np.load(sys.argv[2]) as inputs:
    outputs = session.run(None, dict(inputs))
sys.exit(0 if any(np.isnan(o).any() for o in outputs) else 1)
"""


def square_root(value: ir.Value) -> list[ir.Node]:
    """NaN wherever an activation is negative."""
    return [ir.node("Sqrt", [value], name="injected")]


def four_bits(value: ir.Value) -> list[ir.Node]:
    """Weights in 4 bits: ONNX Runtime fuses the two nodes into MatMulNBits, which rounds activations to 8 bits."""
    assert value.shape is not None
    rng, width = np.random.default_rng(0), value.shape[-1]
    assert isinstance(width, int)
    weights = ir.node(
        "Constant", [], {"value": ir.tensor(rng.integers(-8, 8, (width, width)).astype(ml_dtypes.int4))}, name="weights"
    )
    scales = ir.node(
        "Constant", [], {"value": ir.tensor(np.full((width // BLOCK, width), 0.02, np.float32))}, name="scales"
    )
    wide = ir.node(
        "DequantizeLinear", [weights.outputs[0], scales.outputs[0]], {"axis": 0, "block_size": BLOCK}, name="injected"
    )
    return [weights, scales, wide, ir.node("MatMul", [value, wide.outputs[0]], name="injected_matmul")]


def reshape(value: ir.Value) -> list[ir.Node]:
    """Seven rows, which 16 do not make: no load sees that, only the run."""
    assert value.shape is not None
    width = value.shape[-1]
    assert isinstance(width, int)
    shape = ir.node("Constant", [], {"value": ir.tensor(np.array([-1, 7, width]))}, name="shape")
    return [shape, ir.node("Reshape", [value, shape.outputs[0]], name="injected")]


def main(path: Path) -> None:
    """Print the table."""
    print("| `--fails` | injected behind node | nodes left | trials | time, s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check = folder / "check.py"
        check.write_text(CHECK)
        injections: dict[str, Callable[[ir.Value], list[ir.Node]]] = {
            "nan": square_root, "differs": four_bits, "crashes": reshape,
            f"{sys.executable} {check} {{model}} {{inputs}}": square_root,
        }  # fmt: skip
        for fails, inject in injections.items():
            for share in (0.25, 0.5, 0.75):
                row = _reduced(path, folder, fails, inject, share)
                print(f"| {fails.replace(sys.executable, 'python').replace(f'{folder}/', '')} | {row} |", flush=True)


def _reduced(
    path: Path, folder: Path, fails: str, inject: Callable[[ir.Value], list[ir.Node]], share: float
) -> str:  # fmt: skip
    model = ir.load(path)
    at, count = _inject(model, inject, share), len(model.graph)
    ir.save(model, folder / "broken.onnx")
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", "dlc", "debug", "reduce", str(folder / "broken.onnx"), "--fails", fails,
         "--output", str(folder / "reduced.onnx"), "--overwrite", "--dim", "sequence=16", "--format", "json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, said = time.perf_counter() - start, json.loads(ran.stdout)["reduced"]
    left = ", ".join(said["ops"])
    return f"{at} of {count} | {len(said['nodes'])}: {left} | {said['tried']} | {seconds:.0f}"


def _inject(model: ir.Model, inject: Callable[[ir.Value], list[ir.Node]], share: float) -> int:
    """Put nodes behind the first activation from some share of the graph on; return its place."""
    nodes = list(model.graph)
    at = next(i for i in range(int(share * len(nodes)), len(nodes)) if nodes[i].op_type in ("MatMul", "Add"))
    value = nodes[at].outputs[0]
    readers = tuple(value.uses())
    added = inject(value)
    model.graph.insert_after(nodes[at], added)
    for use in readers:
        use.node.replace_input_with(use.idx, added[-1].outputs[0])
    return at


if __name__ == "__main__":
    main(Path(sys.argv[1]))

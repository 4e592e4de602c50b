"""Where an error begins: each of 50 layers of EfficientNet-Lite0 is spoilt in turn, and ``dlc compare`` must name it.

    python -m benchmarks.divergence MODEL.onnx

MODEL: the FP32 variant that ``dlc compile efficientnet-lite0`` writes. Prints how many were located, under the same
cap on inner tensors, and the peak memory of a comparison beside that of one inference, each in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dlc.comparison import Subject, compare
from dlc.feeds import seeded_feeds
from dlc.harness.memory import peak_rss
from dlc.interface import Interface
from dlc.passes.weighted import label, weighted_nodes, weights_of
from dlc.runtimes.session import SessionConfig
from dlc.types import Bytes, Feeds

LAYERS = 50
HELD: Bytes = 8 << 20
CHILD = """
import sys
import dlc.compared_models, dlc.comparison
from dlc.cli import run
from dlc.runtimes.peak_rss import peak
before = peak()
run(["compare", *sys.argv[1:], "--layers", "--dim", "batch=1", "--batches", "1", "--max-ram", "8MiB"])
print(f"peak {peak()} before {before}", file=sys.stderr)
"""


def main(path: Path) -> None:
    """Print both results."""
    feeds = seeded_feeds(Interface.of(ir.load(path)), {}, {"batch": 1}, np.random.default_rng(0))
    names = [label(n) for n in weighted_nodes(ir.load(path).graph)][:LAYERS]
    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder) / "wrong.onnx"
        start = time.perf_counter()
        found = [_located(path, wrong, name, feeds) for name in names]
        seconds = (time.perf_counter() - start) / len(names)
        said = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), str(wrong)], capture_output=True, text=True, check=True
        ).stderr.split()
    rss = peak_rss(path, SessionConfig(), feeds)
    peak, before = int(said[-3]), int(said[-1])
    print("| what | result |\n|---|---|")
    print(f"| layers in which an error was located exactly | {sum(found)} of {len(found)} |")
    print(f"| one comparison, both models read anew | {seconds:.1f} s |")
    print(f"| peak of one inference | {rss.peak / 1e6:.0f} MB, of which the bare runtime {rss.runtime / 1e6:.0f} MB |")
    print(
        f"| peak of `dlc compare --layers --max-ram 8MiB` | {peak / 1e6:.0f} MB, {peak / rss.peak:.2f} times that; "
        f"{before / 1e6:.0f} MB with its modules imported |"
    )


def _located(path: Path, wrong: Path, name: str, feeds: Feeds) -> bool:
    """Scale the weight of one layer by a thousandth, and see which layer is named."""
    model = ir.load(path)
    node = next(n for n in model.graph if label(n) == name)
    weight = next(iter(weights_of(node).values()))
    assert weight.const_value is not None
    weight.const_value = ir.tensor((weight.const_value.numpy() * np.float32(1.001)), name=weight.name)
    ir.save(model, wrong)
    right, spoilt = (Subject(p.stem, p, SessionConfig()) for p in (path, wrong))
    first = compare(right, spoilt, [feeds], "seeded", layers=True, max_ram=HELD).first
    return first is not None and first.node == name


if __name__ == "__main__":
    main(Path(sys.argv[1]))

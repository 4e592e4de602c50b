"""Activation memory: stock ONNX Runtime, its best options, and dlc's plan in both tiers, one thread.

    python -m benchmarks.memory [--rounds 60] [NAME ...]

Models: the zoo as it is exported, a transformer of six layers written out in small operators, and eight randomly wired
networks. Memory is how far the peak of a process rises while runs are under way, the least of three for each way;
latencies are of one process, in turns. ``diff`` is measured less planned: within 256 KiB or 5 %, whichever is more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

import dlc
from benchmarks.generated import HIDDEN, LAYER, transformer
from benchmarks.random_wired import random_wired
from dlc.bench import Subject
from dlc.export import export
from dlc.feeds import seeded_feeds, typical_sizes
from dlc.interface import Interface
from dlc.memory_bench import BEST, OPTIONS, PLANNED, STOCK, MemoryRow, compare_memory
from dlc.models import ZOO
from dlc.progress import Silent
from dlc.runtimes.session import SessionConfig
from dlc.target import detect
from dlc.types import Array, Bytes, Feeds

SEED, SEEDS, SEQUENCE, PROCESSES = 0, 8, 512, 3
ROOM: Bytes = 64 * 4096
"""Linux adds pages to a process's resident set when a thread has touched 64 of them: so many it need not tell of."""

Source = Callable[[], tuple[ir.Model, Feeds]]
Table = Mapping[str, Mapping[str, MemoryRow]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="models to measure; default: all")
    parser.add_argument("--rounds", type=int, default=60, help="timed rounds of each row")
    arguments = parser.parse_args()
    target = detect()
    print(f"{target.runtime}, {target.arch}, {' '.join(target.isa)}, one thread; MB of a run\n")
    print(
        "| model | stock | stock, best options | dlc options | dlc planned | plan | diff | misses | outputs | latency |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    table = dict(measured(sources(arguments.names), arguments.rounds))
    print()
    bars = list(check(table))
    print("\n".join(f"{'ok  ' if holds else 'MISS'} {what}" for what, holds in bars))
    sys.exit(not all(holds for _, holds in bars))


def sources(names: Sequence[str]) -> dict[str, Source]:
    every: dict[str, Source] = {name: partial(exported, name) for name in ZOO}
    every["transformer, 6 layers"] = small_transformer
    every |= {f"random-wired {seed}": partial(wired, seed) for seed in range(SEEDS)}
    return {name: source for name, source in every.items() if not names or name in names}


def measured(models: Mapping[str, Source], rounds: int) -> Iterator[tuple[str, dict[str, MemoryRow]]]:
    """Measure each model and print its line."""
    with tempfile.TemporaryDirectory(prefix="dlc-memory-") as folder:
        for name, source in models.items():
            model, feeds = source()
            file = Path(folder) / "model.onnx"
            ir.save(model, file)
            subject, rng = Subject(name, file, SessionConfig()), np.random.default_rng(SEED)
            found = compare_memory(
                subject, feeds, rounds=rounds, rng=rng, progress=Silent(), processes=PROCESSES
            )  # fmt: skip
            rows = {r.way: r for r in found}
            print(line(name, rows), flush=True)
            yield name, rows


def line(name: str, rows: Mapping[str, MemoryRow]) -> str:
    planned, best = rows[PLANNED], rows[BEST]
    cells = [
        name, mb(rows[STOCK].growth), f"{mb(best.growth)} ({best.note})", mb(rows[OPTIONS].growth), mb(planned.growth),
        mb(planned.planned or 0), mb(planned.growth - (planned.planned or 0)), str(planned.misses),
        "same bits" if planned.exact else "differ",
        f"{planned.latency.ratio.value:.3f} [{planned.latency.ratio.low:.3f}, {planned.latency.ratio.high:.3f}]",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def check(table: Table) -> Iterator[tuple[str, bool]]:
    """Say whether each bar holds."""
    planned = [rows[PLANNED] for rows in table.values()]
    off = max(abs(r.growth - (r.planned or 0)) / max(ROOM, 0.05 * (r.planned or 0)) for r in planned)
    yield f"measured = planned within 256 KiB or 5 %: the worst takes {off:.2f} of it", off <= 1
    yield f"misses: {sum(r.misses or 0 for r in planned)}", not any(r.misses for r in planned)
    yield "outputs are bit-exact", all(r.exact for r in planned)
    for other, bar in ((STOCK, 0.45), (BEST, 0.75)):
        mean = geometric(np.array([rows[PLANNED].growth / rows[other].growth for rows in table.values()]))
        yield f"planned against {other}: {mean:.3f}x in the geometric mean, at most {bar}", mean <= bar
    ratios = {name: rows[PLANNED].latency.ratio.value for name, rows in table.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    mean = geometric(np.array(list(ratios.values())))
    yield (
        f"latency against stock: {mean:.3f} in the geometric mean, worst {ratios[worst]:.3f} ({worst}), at most 1.03",
        (ratios[worst] <= 1.03),
    )


def exported(name: str) -> tuple[ir.Model, Feeds]:
    """Return a model of the zoo in FP32 as it is exported, and inputs of its typical sizes."""
    target, rng = detect(), np.random.default_rng(SEED)
    made = export(dlc.load_recipe(name), opset=target.opset, ir_version=target.ir_version, seed=SEED)
    return made.model, seeded_feeds(Interface.of(made.model), made.inputs, typical_sizes(made.dims), rng)


def small_transformer() -> tuple[ir.Model, Feeds]:
    x = np.random.default_rng(SEED).standard_normal((1, SEQUENCE, HIDDEN))
    return transformer(6 * LAYER), {"x": x.astype(np.float32)}


def wired(seed: int) -> tuple[ir.Model, Feeds]:
    model = random_wired(seed)
    return model, seeded_feeds(Interface.of(model), {}, {}, np.random.default_rng(seed))


def geometric(ratios: Array) -> float:
    return float(np.exp(np.log(ratios).mean()))


def mb(size: Bytes) -> str:
    return f"{size / 1e6:.3f}"


if __name__ == "__main__":
    main()

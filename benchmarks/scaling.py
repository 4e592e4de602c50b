"""How long canonicalising and fusing takes as graphs grow, with all costs in the cache.

    python -m benchmarks.scaling                    # 10,000 and 50,000 nodes
    python -m benchmarks.scaling 1000 2000 4000

Bars: 50,000 nodes in 30 s; 50,000 nodes in 7 times the time of 10,000.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.generated import transformer
from dlc.cost_table import CostTable
from dlc.costs import Costs
from dlc.interface import Interface
from dlc.passes.base import clone
from dlc.stages.defaults import rewrites
from dlc.stages.rewriting import rewrite
from dlc.target import detect


def main() -> None:
    """Print a table: nodes before and after, and seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", nargs="*", type=int, default=[10_000, 50_000])
    sizes = parser.parse_args().nodes
    target = detect()
    print(f"{'nodes':>7} {'fused to':>9} {'attention':>10} {'costs cached, s':>16}")
    with tempfile.TemporaryDirectory() as folder:
        for nodes in sizes:
            model = transformer(nodes)
            typical = [{"batch": 1, "sequence": 8}]
            costs = Costs.at(target, Interface.of(model), {}, typical, table=CostTable(Path(folder) / "costs.sqlite"))
            rewrite(clone(model), costs, rewrites(target))
            again, start = clone(model), time.perf_counter()
            done = rewrite(again, costs, rewrites(target))
            seconds = time.perf_counter() - start
            attention = sum(s.applied for r in done.records for s in r.sites if s.rewrite == "fuse-attention")
            print(f"{len(model.graph):7} {len(done.model.graph):9} {attention:10} {seconds:16.1f}", flush=True)


if __name__ == "__main__":
    main()

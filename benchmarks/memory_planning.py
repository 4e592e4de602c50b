"""How good plans are: ``python -m benchmarks.memory_planning`` (extra ``plan``; $DLC_DATA for minimalloc's problems).

Prints the tables that docs/plan.md quotes, and exits 1 if a bar is missed. ``--zoo`` plans the zoo's models too.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from dlc.passes.offsets import Buffer, faults, lower_bound
from dlc.passes.pack import pack
from dlc.passes.schedule import Downset, Task, peak, schedule

CAPACITY = 1_048_576
Row = tuple[str, str, str, bool]
"""What, the bar, what was measured, and whether it holds."""
ZOO = ("digits-mlp", "digits-cnn", "efficientnet-lite0", "minilm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", action="store_true")
    zoo_too = parser.parse_args().zoo
    missed = 0
    for what, bar, measured, holds in rows(zoo_too=zoo_too):
        print(f"{'ok  ' if holds else 'MISS'} {what:60} {bar:>20}   {measured}", flush=True)
        missed += not holds
    sys.exit(1 if missed else 0)


def rows(*, zoo_too: bool) -> Iterator[Row]:
    yield from orders()
    yield from wide()
    yield large()
    if "DLC_DATA" in os.environ:
        yield from offsets()
    if zoo_too:
        yield from zoo()


def offsets() -> Iterator[Row]:
    folder = Path(os.environ["DLC_DATA"]) / "minimalloc" / "benchmarks" / "challenging"
    for path in sorted(folder.glob("*.csv")):
        with path.open() as file:
            problem = [Buffer(r["id"], int(r["size"]), int(r["lower"]), int(r["upper"])) for r in csv.DictReader(file)]
        start, busy = time.perf_counter(), time.process_time()
        found = pack(problem, CAPACITY)
        took, busy = time.perf_counter() - start, time.process_time() - busy
        wrong = next(faults(problem, found.offsets), "validated")
        holds = found.arena <= CAPACITY and took <= 10 and wrong == "validated"
        times = f"{took:.2f} s, {busy:.2f} s of CPU"
        measured = f"{found.arena:,} in {times}, {wrong}, bound {lower_bound(problem):,}, {found.solver}"
        yield f"minimalloc {path.name[0]}, {len(problem)} buffers", f"<= {CAPACITY:,}, 10 s", measured, holds


def orders() -> Iterator[Row]:
    rng, equal, worse, lower = random.Random(0), 0, 0, 0
    for _ in range(500):
        tasks, sizes = drawn(rng, rng.randint(1, 10))
        found, given = schedule(tasks, sizes).peak, peak(tasks, sizes, range(len(tasks)))
        equal += found == best(tasks, sizes)
        worse += found > given
        lower += found < given
    yield (
        "order: 500 random graphs of up to 10 nodes, optimal",
        "500",
        f"{equal}; {lower} below the given",
        equal == 500,
    )
    yield "order: worse than the given", "0", str(worse), worse == 0


def wide() -> Iterator[Row]:
    for reads in (1, 2, 3):
        rng, slowest, proved = random.Random(reads), 0.0, 0
        for _ in range(20):
            tasks, sizes = drawn(rng, 40, reads)
            start = time.process_time()
            proved += schedule(tasks, sizes).optimal
            slowest = max(slowest, time.process_time() - start)
        what = f"order: 20 random graphs of 40 nodes, up to {reads} inputs"
        yield what, "20 proved, < 1 CPU s", f"{proved} proved, slowest {slowest:.2f} s", proved == 20 and slowest < 1


def large() -> Row:
    rng = random.Random(0)
    sources = [[0]] + [
        [i - 1, *([max(0, i - rng.randint(2, 30))] if rng.random() < 0.4 else [])] for i in range(1, 10_000)
    ]
    tasks = [Task(frozenset(s) - {i}, tuple(sorted({*s} - {i})), (i,)) for i, s in enumerate(sources)]
    sizes = [64 * rng.randint(1, 20) for _ in tasks]
    start = time.process_time()
    found = schedule(tasks, sizes)
    at = {t: i for i, t in enumerate(found.order)}
    ends = {i: at[i] + 1 for i in range(len(tasks))}
    for i, task in enumerate(tasks):
        for b in task.reads:
            ends[b] = max(ends[b], at[i] + 1)
    buffers = [Buffer(str(i), sizes[i], at[i], ends[i]) for i in range(len(tasks))]
    placed = pack(buffers)
    took = time.process_time() - start
    wrong = next(faults(buffers, placed.offsets), "validated")
    measured = f"{took:.1f} s; arena {placed.arena / lower_bound(buffers):.3f} of its bound, {wrong}"
    return "order and offsets of 10,000 nodes", "< 20 CPU s", measured, took < 20 and wrong == "validated"


def drawn(rng: random.Random, nodes: int, most: int = 3) -> tuple[list[Task], list[int]]:
    """Draw a graph: each node reads up to ``most`` earlier ones, some may write over an input, some need scratch."""
    tasks: list[Task] = []
    sizes: list[int] = []
    for i in range(nodes):
        reads = rng.sample(range(i), min(i, rng.randint(0 if rng.random() < 0.2 else 1, most)))
        sizes.append(rng.randint(1, 20))
        over: tuple[tuple[int, int], ...] = ()
        if reads and rng.random() < 0.3:
            sizes[i] = sizes[reads[0]]
            over = ((i, reads[0]),)
        tasks.append(Task(frozenset(reads), tuple(reads), (i,), over, rng.choice([0, 0, 0, 5, 12])))
    return tasks, sizes


def best(tasks: Sequence[Task], sizes: Sequence[int]) -> int:
    """Return the least peak over all orders, by looking at every set of tasks that can have run."""
    everything = (1 << len(tasks)) - 1
    readers = [[i for i, t in enumerate(tasks) if b in t.reads] for b in range(len(sizes))]

    def alive(done: Downset) -> set[int]:
        made = [b for i, t in enumerate(tasks) if done >> i & 1 for b in t.writes]
        return {b for b in made if any(not done >> r & 1 for r in readers[b])}

    @cache
    def least(done: Downset) -> int:
        if done == everything:
            return 0
        return min(max(cost(i, done), least(done | 1 << i)) for i in range(len(tasks)) if ready(i, done))

    def ready(i: int, done: Downset) -> bool:
        return not done >> i & 1 and all(done >> j & 1 for j in tasks[i].after)

    def cost(i: int, done: Downset) -> int:
        before, after = alive(done), alive(done | 1 << i)
        over = sum(sizes[b] for _, b in tasks[i].in_place if b in before - after)
        return sum(sizes[b] for b in before) + sum(sizes[b] for b in tasks[i].writes) - over + tasks[i].scratch

    return least(0)


def zoo() -> Iterator[Row]:
    """Plan each model at its typical sizes, and at the most of its last dimension; then put the arena to the test."""
    import numpy as np

    from dlc.export import export
    from dlc.feeds import seeded_feeds
    from dlc.interface import Interface
    from dlc.passes.arena import UNIT
    from dlc.planned_files import FILE, write
    from dlc.planning import prepare
    from dlc.runtimes.capped import fits, reserved
    from dlc.sources.recipe_files import load_recipe

    for name in ZOO:
        exported = export(load_recipe(name, None), opset=20, ir_version=10)
        typical = {n: d.typical for n, d in exported.dims.items()}
        last, dim = list(exported.dims.items())[-1]
        for sizes in (typical, {**typical, last: dim.max}):
            feeds = seeded_feeds(Interface.of(exported.model), exported.inputs, sizes, np.random.default_rng(0))
            start = time.perf_counter()
            prepared = prepare(exported.model, feeds)
            plan, took = prepared.plan, time.perf_counter() - start
            where = f"{name}, {', '.join(f'{n}={s}' for n, s in sizes.items())}"
            given = (plan.given_bytes or 0) / max(plan.lower_bound, 1)
            measured = (
                f"{plan.arena / plan.lower_bound:.3f}: {plan.arena:,} bytes, "
                f"{'optimal' if plan.proved else 'not proved'}, given order {given:.3f}, {took:.1f} s"
            )
            yield f"{where}: arena / lower bound", "1.00", measured, plan.arena == plan.lower_bound
        with tempfile.TemporaryDirectory() as scratch:
            write(Path(scratch) / name, prepared)
            path, bound = Path(scratch) / name / FILE, plan.lower_bound
            weights = reserved(path, feeds, prepared.config)
            claim = plan.options_arena or 0
            runs, less, below = (
                fits(path, feeds, prepared.config, cap, weights)
                for cap in (claim, claim - UNIT, int(0.9 * bound) // UNIT * UNIT)
            )
            measured = (
                f"claimed {claim:,}, {claim / bound:.3f} of the bound: {verb(runs)}; {UNIT} bytes less: {verb(less)}; "
                f"0.9 of the bound: {verb(below)}"
            )
            what = f"{where}: options tier, 20 runs in a capped arena"
            yield what, "runs, fails, fails", measured, runs and not less and not below


def verb(fitted: bool) -> str:  # noqa: FBT001 - the one thing it says
    return "runs" if fitted else "fails"


if __name__ == "__main__":
    main()

"""In which order the nodes of a graph run, so that the fewest bytes are alive at the worst moment.

What is alive after some nodes have run depends on which have, not on their order: the states of the search are the
downsets of the graph, and the best order is the path to the last one whose highest step is lowest (Ahn et al., 2020,
"Ordering Chaos"). Three things keep it small, and lose nothing:

* a node that every other node comes before or after splits the graph: the parts are solved one by one;
* a node that frees at least as much as it takes, and needs no more than was needed already, runs at once, and so a
  chain of such nodes is one step: later it would free no more, and bytes would wait for it meanwhile;
* states are met lowest peak first, so the first complete order is an optimum.

A part with more than ``STATES`` states is searched by beam instead. The given order is kept unless another is lower.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from dlc.types import Bytes

STATES = 50_000
"""States of one part that the exact search may look at: as many as it meets in a second or so."""
BEAM = 32
MOVES = 300_000
"""Moves that a beam may weigh in one part: its width follows from it, so that 10,000 nodes take seconds."""
CLOSE = 2_000
"""Tasks up to which the bound counts what is alive beside a task in every order; more would take minutes."""

Downset: TypeAlias = int
"""The tasks that have run, a bit for each."""


@dataclass(frozen=True, slots=True)
class Task:
    """A node as the search sees it; buffers are numbers, tasks are positions in the given order.

    ``after``: tasks that must have run. ``in_place``: pairs of a buffer it writes and one it reads, which it writes to
    instead of taking memory if no other reader of that one is left. ``scratch``: bytes that it uses while it runs.
    """

    after: frozenset[int] = frozenset()
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    in_place: tuple[tuple[int, int], ...] = ()
    scratch: Bytes = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """An order, the bytes alive at its worst step, a bound that no order is below, and whether the order reaches it."""

    order: tuple[int, ...]
    peak: Bytes
    bound: Bytes
    optimal: bool


def schedule(tasks: Sequence[Task], sizes: Sequence[Bytes], *, states: int = STATES) -> Schedule:
    """Find an order of tasks with the least peak, or, where the graph is too wide, a low one; never above the given."""
    given = tuple(range(len(tasks)))
    before, floor = peak(tasks, sizes, given), bound(tasks, sizes)
    order: list[int] = []
    known = whole = True
    if before > floor:
        readers = readers_of(tasks, len(sizes))
        for part in parts(tasks):
            found = _solve(_Part.of(part, order, tasks, sizes, readers), floor, states)
            order += (part[i] for i in found.order)
            whole &= found.optimal
            floor = max(floor, found.bound)
        known = (reached := peak(tasks, sizes, order)) < before
    if before == floor or not known:
        order, reached = list(given), before
    return Schedule(tuple(order), reached, floor, optimal=whole or reached == floor)


def peak(tasks: Sequence[Task], sizes: Sequence[Bytes], order: Sequence[int]) -> Bytes:
    """Return the most bytes alive at once when tasks run in this order."""
    left = [len(r) for r in readers_of(tasks, len(sizes))]
    live = highest = 0
    for position in order:
        task = tasks[position]
        taken = sum(sizes[b] for b in task.writes)
        reused = sum(sizes[b] for _, b in task.in_place if left[b] == 1)
        highest = max(highest, live + taken - reused + task.scratch)
        for b in task.reads:
            left[b] -= 1
        dead = [b for b in task.reads if left[b] == 0] + [b for b in task.writes if left[b] == 0]
        live += taken - sum(sizes[b] for b in dead)
    return highest


def bound(tasks: Sequence[Task], sizes: Sequence[Bytes]) -> Bytes:
    """Return bytes that every order has alive at once: what a task reads, writes and uses, and what must wait for it.

    A buffer waits for a task if it is made before it, and read after it, in every order.
    """
    alive = [_footprint(t, sizes) for t in tasks]
    if len(tasks) <= CLOSE:
        ahead, behind = _ancestors(tasks), _descendants(tasks)
        readers = readers_of(tasks, len(sizes))
        for position, task in enumerate(tasks):
            for b in task.writes:
                used = sum(1 << r for r in readers[b])
                later = 0
                for r in readers[b]:
                    later |= ahead[r]
                for waits in _bits(later & behind[position] & ~used):
                    alive[waits] += sizes[b]
    return max(alive, default=0)


def _footprint(task: Task, sizes: Sequence[Bytes]) -> Bytes:
    held = sum(sizes[b] for b in (*task.reads, *task.writes)) - sum(sizes[b] for _, b in task.in_place)
    return held + task.scratch


def _bits(some: Downset) -> Iterator[int]:
    while some:
        yield (some & -some).bit_length() - 1
        some &= some - 1


def _ancestors(tasks: Sequence[Task]) -> list[Downset]:
    ahead = [0] * len(tasks)
    for i, task in enumerate(tasks):
        for j in task.after:
            ahead[i] |= ahead[j] | (1 << j)
    return ahead


def _descendants(tasks: Sequence[Task]) -> list[Downset]:
    behind = [0] * len(tasks)
    for i in range(len(tasks) - 1, -1, -1):
        for j in tasks[i].after:
            behind[j] |= behind[i] | (1 << i)
    return behind


def readers_of(tasks: Sequence[Task], buffers: int) -> list[list[int]]:
    """Return the tasks that read each buffer."""
    readers: list[list[int]] = [[] for _ in range(buffers)]
    for position, task in enumerate(tasks):
        for b in task.reads:
            readers[b].append(position)
    return readers


def parts(tasks: Sequence[Task]) -> Iterator[list[int]]:
    """Split tasks where one comes before or after every other: all orders run the parts one after another."""
    ahead, behind = _ancestors(tasks), _descendants(tasks)
    part: list[int] = []
    for i in range(len(tasks)):
        part.append(i)
        if ahead[i].bit_count() + behind[i].bit_count() == len(tasks) - 1:
            yield part
            part = []
    if part:
        yield part


@dataclass(frozen=True, slots=True)
class _Move:
    """A task within its part. ``frees`` and ``reuses``: bytes of a buffer, and its readers besides this task."""

    needs: Downset
    followers: tuple[int, ...]
    takes: Bytes
    keeps: Bytes
    scratch: Bytes
    frees: tuple[tuple[Bytes, Downset], ...]
    reuses: tuple[tuple[Bytes, Downset], ...]


@dataclass(frozen=True, slots=True)
class _Part:
    moves: tuple[_Move, ...]
    live: Bytes

    @classmethod
    def of(
        cls, part: Sequence[int], done: Sequence[int], tasks: Sequence[Task], sizes: Sequence[Bytes],
        readers: Sequence[Sequence[int]],
    ) -> _Part:  # fmt: skip
        """Number the tasks of a part from 0, and see what is alive when it begins."""
        local = {task: i for i, task in enumerate(part)}
        last = part[-1]

        def others(buffer: int, task: int) -> Downset | None:
            """Readers in this part; None if one comes later."""
            if any(r > last for r in readers[buffer]):
                return None
            return sum(1 << local[r] for r in readers[buffer] if r in local and r != task)

        followers: dict[int, list[int]] = {i: [] for i in range(len(part))}
        for i, task in enumerate(part):
            for j in tasks[task].after:
                if j in local:
                    followers[local[j]].append(i)
        moves = []
        for i, position in enumerate(part):
            each = tasks[position]
            dying = {b: mask for b in each.reads if (mask := others(b, position)) is not None}
            moves.append(
                _Move(
                    needs=sum(1 << local[j] for j in each.after if j in local),
                    followers=tuple(followers[i]),
                    takes=sum(sizes[b] for b in each.writes),
                    keeps=sum(sizes[b] for b in each.writes if readers[b]),
                    scratch=each.scratch,
                    frees=tuple((sizes[b], mask) for b, mask in dying.items()),
                    reuses=tuple((sizes[b], dying[b]) for _, b in each.in_place if b in dying),
                )
            )
        ran = set(done)
        made = (b for i in done for b in tasks[i].writes)
        live = sum(sizes[b] for b in made if any(r not in ran for r in readers[b]))
        return cls(tuple(moves), live)


class _State(NamedTuple):
    """Some tasks have run. States are met lowest peak first, then those that are furthest."""

    peak: Bytes
    left: int
    live: Bytes
    done: Downset
    ready: tuple[int, ...]
    path: tuple[Any, ...]
    """The last task, and the path to it."""


def _start(part: _Part, floor: Bytes) -> _State:
    ready = tuple(i for i, move in enumerate(part.moves) if not move.needs)
    return _State(floor, len(part.moves), part.live, 0, ready, ())


def _cost(move: _Move, state: _State) -> tuple[Bytes, Bytes]:
    """Return the bytes alive while a task runs, and after."""
    missing = ~state.done
    highest, after = state.live + move.takes + move.scratch, state.live + move.keeps
    for size, others in move.reuses:
        if not others & missing:
            highest -= size
    for size, others in move.frees:
        if not others & missing:
            after -= size
    return highest, after


def _run(part: _Part, state: _State, i: int, highest: Bytes, live: Bytes) -> _State:
    done = state.done | (1 << i)
    fresh = [j for j in part.moves[i].followers if not part.moves[j].needs & ~done]
    ready = (*(j for j in state.ready if j != i), *fresh)
    return _State(max(state.peak, highest), state.left - 1, live, done, ready, (i, state.path))


def _settle(part: _Part, state: _State) -> _State:
    """Run what costs nothing, until nothing is left that does."""
    moved = True
    while moved:
        moved = False
        for i in state.ready:
            highest, live = _cost(part.moves[i], state)
            if live <= state.live and highest <= state.peak:
                state, moved = _run(part, state, i, highest, live), True
                break
    return state


def _solve(part: _Part, floor: Bytes, states: int) -> Schedule:
    """Return the best order of a part; its bound is at least ``floor``, which every order of the whole reaches."""
    guess = _beam(part, floor)
    if guess.peak == floor:
        return _finished(guess, floor)
    start = _settle(part, _start(part, floor))
    heap, best = [start], {start.done: start.peak}
    while heap and len(best) <= states:
        state = heapq.heappop(heap)
        if not state.left:
            return _finished(state, state.peak)
        if best[state.done] < state.peak:
            continue
        for i in state.ready:
            after = _settle(part, _run(part, state, i, *_cost(part.moves[i], state)))
            if after.peak < best.get(after.done, guess.peak):
                best[after.done] = after.peak
                heapq.heappush(heap, after)
    return _finished(guess, min((s.peak for s in heap), default=guess.peak))


def _beam(part: _Part, floor: Bytes) -> _State:
    """Keep the states with the lowest peaks, then the fewest live bytes, after each task."""
    start = _settle(part, _start(part, floor))
    states, best, weighed = [start], _WORST if start.left else start, 0
    while states:
        following: dict[Downset, _State] = {}
        for state in states:
            for i in state.ready:
                after = _settle(part, _run(part, state, i, *_cost(part.moves[i], state)))
                if after.peak < min(best.peak, following.get(after.done, _WORST).peak):
                    following[after.done] = after
            weighed += len(state.ready)
        best = min(s for s in (best, *following.values()) if not s.left)
        unfinished = [s for s in following.values() if s.peak < best.peak]
        ahead = sum(s.left * len(s.ready) for s in unfinished) // max(1, len(unfinished))
        width = max(1, min(BEAM, (MOVES - weighed) // max(1, ahead)))
        states = heapq.nsmallest(width, unfinished, key=lambda s: (s.peak, s.live, s.left, s.done))
    return best


_WORST = _State(1 << 62, 0, 0, 0, (), ())


def _finished(state: _State, bound: Bytes) -> Schedule:
    order: list[int] = []
    path = state.path
    while path:
        order.append(path[0])
        path = path[1]
    return Schedule(tuple(reversed(order)), state.peak, bound, optimal=state.peak == bound)

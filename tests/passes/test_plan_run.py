from __future__ import annotations

import pytest

from dlc.allocations import Allocation, Event
from dlc.errors import PassError
from dlc.passes.offsets import Placement
from dlc.passes.plan_run import plan_run

SCRATCH = [
    Event(0, 100),
    Event(1, 640),  # scratch of a kernel, gone before the kernel's output
    Event(1, 0),
    Event(2, 640),
    Event(0, 0),
    Event(3, 50),  # an output
    Event(2, 0),
]


def test_scratch_gives_its_bytes_to_what_follows() -> None:
    plan = plan_run(SCRATCH, {"x": (1,)})
    assert plan.arena == plan.lower_bound == 640 + 128
    first, scratch, second, output = plan.allocations
    assert scratch == second
    assert scratch.offset != first.offset
    assert output == Allocation(50, None)
    assert plan.escaping == 50


def test_a_run_that_allocates_nothing_has_an_empty_arena() -> None:
    assert plan_run([], {}).arena == 0


def test_offsets_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dlc.passes.plan_run.place", lambda buffers: Placement({b.name: 0 for b in buffers}, 640, "none")
    )
    with pytest.raises(PassError, match="share bytes while both are alive"):
        plan_run(SCRATCH, {})

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.allocations import Allocation, Event, RunPlan, peak
from dlc.errors import CapabilityError, DataError, ModelError
from dlc.passes.plan_run import plan_run
from dlc.planning import prepare
from dlc.runtimes import planned_library
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.planned import FOLLOWED, AllocatingRunner, PlannedRunner, Tier, trace
from dlc.runtimes.planned_library import COMPILERS, Library, build, compiler, library
from dlc.types import Feeds

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler is installed")

CHAIN = """
<ir_version: 10, opset_import: ["" : 20]>
chain (float[n] x) => (float[n] y) {
    a = Sin(x)
    b = Add(a, x)
    c = Add(a, b)
    y = Add(c, x)
}
"""

SCRATCHED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[16, 64] x) => (float[16, 64] y) { a = Mul(x, x) b = Softmax<axis = 0>(a) c = Mul(b, x) y = Add(b, c) }
"""


@pytest.fixture
def chain() -> ir.Model:
    return ir.from_onnx_text(CHAIN)


def feeds(n: int) -> Feeds:
    return {"x": np.random.default_rng(n).standard_normal(n).astype(np.float32)}


def test_events_of_a_run_in_order(chain: ir.Model) -> None:
    """Add does not work in place; y is the output, so it is not freed within the run."""
    a, b, c, y = (Event(i, 4000) for i in range(4))
    freed = [Event(i, 0) for i in range(3)]
    events = trace(chain, feeds(1000))
    assert events == (a, b, c, freed[0], freed[1], y, freed[2])
    assert peak(events) == 3 * 4000


def test_a_trace_is_the_same_again(chain: ir.Model) -> None:
    assert trace(chain, feeds(1000)) == trace(chain, feeds(1000))


def planned_for(model: ir.Model, n: int) -> RunPlan:
    return plan_run(trace(model, feeds(n)), {"x": (n,)})


def test_runs_are_served_at_their_offsets(chain: ir.Model) -> None:
    plan = planned_for(chain, 1000)
    assert plan.arena == plan.lower_bound == 3 * 4032  # rounded up to lines of 64 bytes; y escapes
    assert plan.escaping == 4000
    with OrtCpuRunner(chain, FOLLOWED) as stock, PlannedRunner(chain, [plan]) as runner:
        for _ in range(3):
            assert np.array_equal(runner.run(feeds(1000))["y"], stock.run(feeds(1000))["y"])
        assert runner.tier == Tier("planned")
        counts = runner.counts
    assert (counts.runs, counts.served, counts.misses, counts.stranded, counts.fallbacks) == (3, 9, 0, 0, 0)


def test_the_plan_is_chosen_by_the_shapes_of_inputs(chain: ir.Model) -> None:
    with OrtCpuRunner(chain) as stock, PlannedRunner(chain, [planned_for(chain, n) for n in (10, 1000)]) as runner:
        for n, runs in ((10, 1), (1000, 2), (1001, 2), (10, 3)):  # none is for 1001
            assert np.array_equal(runner.run(feeds(n))["y"], stock.run(feeds(n))["y"])
            assert runner.counts.runs == runs
        assert (runner.counts.served, runner.counts.misses) == (9, 0)


def test_smaller_shapes_lie_in_the_smallest_arena_that_has_room(chain: ir.Model) -> None:
    with OrtCpuRunner(chain) as stock, PlannedRunner(chain, [planned_for(chain, n) for n in (1000, 100)]) as runner:
        for n in (77, 1, 100, 777):
            assert np.array_equal(runner.run(feeds(n))["y"], stock.run(feeds(n))["y"])
        counts = {key: runner.library.counts(handle) for key, handle in runner._handles.items() if runner.library}
    assert {key: (c.runs, c.served, c.misses) for key, c in counts.items()} == {
        ((100,),): (3, 9, 0),
        ((1000,),): (1, 3, 0),
    }


def test_a_wrong_plan_costs_misses_not_results(chain: ir.Model) -> None:
    """All at one offset: what is in use is not given twice."""
    plan = planned_for(chain, 1000)
    wrong = replace(plan, allocations=tuple(Allocation(a.size, 0) for a in plan.allocations))
    with OrtCpuRunner(chain) as stock, PlannedRunner(chain, [wrong]) as runner:
        assert np.array_equal(runner.run(feeds(1000))["y"], stock.run(feeds(1000))["y"])
        assert runner.counts.served + runner.counts.misses == 4
        assert runner.counts.misses >= 2


def test_sizes_that_depend_on_values_are_misses() -> None:
    """The same shapes of inputs, another number of positives: what the plan does not foresee is malloc's."""
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 20]>
        positives (float[n] x) => (float[m] y) {
            a = Relu(x)
            b = NonZero(a)
            c = Transpose(b)
            d = GatherND(a, c)
            e = Sin(d)
            y = Add(e, d)
        }
    """)
    given = feeds(1000)
    fewer = {"x": np.where(np.arange(1000) < 500, given["x"], -1).astype(np.float32)}
    plan = plan_run(trace(model, given), {"x": (1000,)})
    with OrtCpuRunner(model, FOLLOWED) as stock, PlannedRunner(model, [plan]) as runner:
        for each, missed in ((given, False), (fewer, True), (given, True)):
            assert np.array_equal(runner.run(each)["y"], stock.run(each)["y"])
            assert (runner.counts.misses > 0) == missed
        assert runner.counts.stranded == 0


def test_a_run_that_fails_leaves_nothing_behind() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 20]>
        picks (float[n] x, int64[1] i) => (float[1] y) {
            a = Sin(x)
            b = Add(a, x)
            y = Gather(b, i)
        }
    """)
    good, bad = ({**feeds(1000), "i": np.array([i])} for i in (3, 5000))
    plan = plan_run(trace(model, good), {"x": (1000,), "i": (1,)})
    with PlannedRunner(model, [plan], slabs=1) as runner:
        for _ in range(3):
            with pytest.raises(ModelError, match="indices element out of data bounds"):
                runner.run(bad)
        runner.run(good)
        counts = runner.counts
    assert (counts.runs, counts.misses, counts.stranded, counts.fallbacks) == (4, 0, 0, 0)


def test_sessions_outside_are_left_alone(chain: ir.Model) -> None:
    """Neither one of its own arena nor one that asks for the environment's takes part, in turns on one thread."""
    with (
        OrtCpuRunner(chain) as stock,
        AllocatingRunner(chain) as shares,
        PlannedRunner(chain, [planned_for(chain, 1000)]) as runner,
    ):
        for _ in range(2):
            outputs = [each.run(feeds(1000))["y"] for each in (stock, shares, runner)]
            assert all(np.array_equal(y, outputs[0]) for y in outputs)
        assert (runner.counts.runs, runner.counts.served, runner.counts.misses) == (2, 6, 0)


def test_without_a_compiler_options_are_in_force(chain: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned_for(chain, 1000)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    library.cache_clear()
    try:
        with PlannedRunner(chain, [plan]) as runner:
            runner.run(feeds(1000))
            tier, counts = runner.tier, runner.counts
        with pytest.raises(CapabilityError, match="apt-get install gcc"):
            trace(chain, feeds(1000))
    finally:
        library.cache_clear()
    assert tier == Tier("options", "planned allocation needs a C compiler: apt-get install gcc, or set CC")
    assert counts.runs == 0


def test_without_a_plan_options_are_in_force(chain: ir.Model) -> None:
    with PlannedRunner(chain, []) as runner:
        assert runner.tier == Tier("options", "there is no plan")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give ONNX Runtime a file that is no library."""
    given = Library(library().path)
    given.path = Path(__file__)
    monkeypatch.setattr("dlc.runtimes.planned.library", lambda: given)


def test_a_library_that_onnxruntime_refuses_leaves_options(chain: ir.Model, request: pytest.FixtureRequest) -> None:
    plan = planned_for(chain, 1000)
    request.getfixturevalue("refused")
    with PlannedRunner(chain, [plan]) as runner:
        runner.run(feeds(1000))
        assert runner.tier.name == "options"
        assert runner.tier.reason.startswith("ONNX Runtime refuses the library: ")


@pytest.mark.usefixtures("refused")
def test_a_library_that_onnxruntime_refuses_cannot_trace(chain: ir.Model) -> None:
    with pytest.raises(CapabilityError, match="ONNX Runtime refuses the library: "):
        trace(chain, feeds(1000))


@pytest.mark.usefixtures("refused")
def test_a_model_is_planned_without_a_trace() -> None:
    """Scratch is counted by the arena, then; the plan has no allocations to serve one by one."""
    plan = prepare(ir.from_onnx_text(SCRATCHED), {"x": np.ones((16, 64), np.float32)}).plan
    assert plan.arena >= 3 * 16 * 64 * 4
    assert plan.allocations == ()


def test_another_allocator_in_its_place_is_noticed() -> None:
    """Of a process, the environment's allocator is one: whoever registers last has it."""
    code = """
import onnx_ir as ir, onnxruntime as ort
from dlc.runtimes.planned import PlannedRunner, trace
from tests.runtimes.test_planned import CHAIN, feeds, planned_for
chain = ir.from_onnx_text(CHAIN)
plan = planned_for(chain, 1000)
info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
ort.create_and_register_allocator(info, None)
with PlannedRunner(chain, [plan]) as runner:
    runner.run(feeds(1000))
    print(runner.tier)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = Tier("options", "another allocator of this process took the library's place")
    assert child.stdout.strip() == str(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": {"z": (1000,)}}, "no shape of input 'x'"),
        ({"arena": 64}, "leaves its arena"),
        ({"allocations": (Allocation(4000, 1),)}, "is not aligned in it"),
    ],
    ids=["another model", "an arena too small", "an offset between lines"],
)
def test_a_plan_that_cannot_be_right_is_refused(change: dict[str, object], message: str, chain: ir.Model) -> None:
    plan = replace(planned_for(chain, 1000), **change)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message), PlannedRunner(chain, [plan]):
        pass


def test_two_plans_for_the_same_shapes_are_refused(chain: ir.Model) -> None:
    plan = planned_for(chain, 1000)
    with pytest.raises(DataError, match=r"two plans are for inputs of shapes \[\[1000\]\]"):
        PlannedRunner(chain, [plan, plan]).open()


def test_the_library_is_built_once_for_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "cache"))
    first = build(compiler())
    stamp = first.stat().st_mtime_ns
    assert build(compiler()) == first
    assert first.stat().st_mtime_ns == stamp
    assert build([*compiler(), "-g"]) != first
    assert len(list((tmp_path / "cache").iterdir())) == 2  # no half-built file is left


@pytest.mark.parametrize(
    ("cc", "message"), [("no-such-compiler", "cannot be run"), ("false", "fails: exit 1")], ids=["missing", "failing"]
)
def test_a_compiler_that_does_not_work_is_named(cc: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", cc)
    with pytest.raises(CapabilityError, match=f"{cc} {message}"):
        build(compiler())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(CapabilityError, match=r"cannot be built in .*file"):
        build(compiler())


def test_only_posix_systems_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_library, "POSIX", False)
    library.cache_clear()
    with pytest.raises(CapabilityError, match="needs a POSIX system"):
        library()

"""Verdicts on observations made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
import pytest

from dlc.errors import RecipeError
from dlc.gate import baseline, flow
from dlc.gate.cost_gates import Costs
from dlc.gate.judging import confirmed, judge, pool, slow_or_unsure
from dlc.gate.limits import Limits
from dlc.gate.lines import Decided, Line, corrected, exit_code, status
from dlc.gate.observation import DataSeen, Observation, Rows, Score
from dlc.gate.timing import How
from dlc.harness import pace, ratios
from dlc.harness.accuracy import METRICS
from dlc.manifest import Estimate, ExpectationRecord, Status
from dlc.recipe import Gates
from dlc.types import Floats
from tests.gate.example import QUIET, TARGET, observation, score, timing, variant

if TYPE_CHECKING:
    from dlc.artifact import Artifact

TOP1 = METRICS["top1"]
OTHER_DATA = DataSeen(name="test", sha256="e" * 64, examples=1000, sizes={"batch": (40, 64)})
CHANGED = {"outputs": "others", "files": {"model.onnx": "other"}}


def judged(now: Observation, before: Observation | None = None, limits: Limits | None = None, **how: Any) -> list[Line]:
    return judge(now, before, limits or Limits(), TOP1, **how)


def line(name: str, lines: list[Line]) -> Line:
    [found] = [each for each in lines if each.name == name]
    return found


def test_what_did_not_change_passes_every_gate() -> None:
    lines = judged(observation(), observation())
    assert [str(each) for each in lines if each.status != "pass"] == [
        "note: fp32/latency since baseline: 1.000 ms, 1.000× of when the baseline was recorded; times of another run "
        "decide nothing: name the earlier artifact as --baseline to time both in turns"
    ]
    assert exit_code(lines) == 0
    assert line("int8/accuracy", lines).reason == ("top1 95.00 %, 0.00 points behind FP32 [-0.38, 0.38], at most 0.95")


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(50, "pass"), (52, "pass"), (56, "inconclusive"), (65, "fail"), (70, "fail")]
)
def test_accuracy_since_the_baseline(wrong: int, verdict: Status) -> None:
    """The margin is 1 % of 95 points, of 1,000 examples: 9.5 of them."""
    now = observation(int8={"score": score(wrong), **CHANGED})
    assert line("int8/accuracy since baseline", judged(now, observation())).status == verdict


def test_a_drop_beyond_the_margin_that_chance_explains_is_inconclusive() -> None:
    """Of 120 changed answers 65 were lost and 55 gained: a point, and p = 0.2."""
    now = observation(int8={"score": score(60, other=60), **CHANGED})
    before = observation(int8={"score": score(50)})
    found = line("int8/accuracy since baseline", judged(now, before))
    assert found.value == pytest.approx(1.0)
    assert found.status == "inconclusive"
    assert "cannot be seen" in found.reason
    assert "not beyond chance" in found.reason


def test_outputs_that_are_the_same_bit_for_bit_need_no_statistics() -> None:
    found = line("int8/accuracy since baseline", judged(observation(), observation()))
    assert found.reason.endswith("every output is the baseline's, bit for bit")


def test_other_data_are_compared_but_not_in_pairs() -> None:
    now = observation(data=OTHER_DATA, int8=CHANGED)
    found = line("int8/accuracy since baseline", judged(now, observation()))
    assert "on other data, so not example by example" in found.reason
    assert found.high is not None
    assert found.high > 1.0  # twice the variance of 5 % of 1,000, ±1.9 points: pairs would give ±0.4
    assert found.status == "inconclusive"


def test_a_margin_that_no_examples_can_show_says_so() -> None:
    found = line("int8/accuracy", judged(observation(int8=CHANGED), limits=Limits(recipe=Gates(retention=1.0))))
    assert found.status == "inconclusive"
    assert found.reason.endswith("no number of examples shows that nothing at all was lost: state a margin")
    found = line("int8/accuracy", judged(observation(int8=CHANGED), limits=Limits(recipe=Gates(max_drop=0.3))))
    assert found.reason.endswith("1000 examples cannot show that a margin of 0.30 points holds: take 1277 or more")


def test_equal_outputs_under_other_labels_are_compared_all_the_same() -> None:
    now = observation(data=OTHER_DATA, int8={"score": score(90)}, fp32={"score": score(90)})
    assert line("int8/accuracy since baseline", judged(now, observation())).status == "fail"


def test_a_metric_without_data_is_inconclusive() -> None:
    blind: dict[str, Any] = {"score": None}
    lines = judge(observation(data=None, int8=blind, fp32=blind), None, Limits(), None)
    assert line("int8/accuracy", lines).status == "inconclusive"
    assert "-r" in line("int8/accuracy", lines).reason
    assert line("fp32/stated accuracy", lines).status == "inconclusive"


def test_a_reference_that_fails_its_stated_accuracy_fails() -> None:
    found = line("fp32/stated accuracy", judged(observation(fp32={"score": score(60)})))
    assert found.status == "fail"
    assert "nothing can be judged against it" in found.reason
    assert line("fp32/stated accuracy", judged(observation(fp32={"score": score(59)}))).status == "pass"


def test_a_reference_on_other_data_is_given_its_interval() -> None:
    now = observation(fp32={"score": score(60)}, data=OTHER_DATA)
    assert line("fp32/stated accuracy", judged(now)).status == "pass"  # 94 is above 93.5 - 0.95
    now = observation(fp32={"score": score(80)}, data=OTHER_DATA)
    assert line("fp32/stated accuracy", judged(now)).status == "fail"


@pytest.mark.parametrize(("more", "verdict"), [(0.0, "pass"), (0.4, "pass"), (0.6, "fail")])
def test_an_error_is_behind_where_it_is_larger(more: float, verdict: Status) -> None:
    """The errors of 100 examples are 5 on average; 0.5 more is allowed, in the metric's own unit."""
    rng = np.random.default_rng(0)
    distances = rng.uniform(4, 6, (100, 1))

    def errors(rows: Floats) -> Score:
        value = Estimate(value=float(rows.mean()), low=0.0, high=9.0)
        return Score(metric="mae", unit="", higher_is_better=False, value=value, rows=Rows.of(rows))

    before, now = errors(distances), errors(distances + more + rng.uniform(-0.01, 0.01, (100, 1)))
    limits = Limits(recipe=Gates(max_drop=0.5))
    lines = judge(
        observation(int8={"score": now, **CHANGED}, fp32={"score": before}, stated=None),
        observation(int8={"score": before}, fp32={"score": before}, stated=None), limits, METRICS["mae"],
    )  # fmt: skip
    assert line("int8/accuracy since baseline", lines).status == verdict
    assert line("int8/accuracy", lines).status == verdict


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.40, "pass"), (0.415, "pass"), (0.4201, "inconclusive"), (0.43, "fail"), (0.36, "pass")]
)
def test_latency_since_the_baseline(ratio: float, verdict: Status) -> None:
    found = line("int8/latency since baseline", judged(observation(int8={"timing": timing(ratio)}), observation()))
    assert found.status == verdict
    assert found.value == pytest.approx(ratio / 0.4)


def test_a_latency_beyond_its_limit_that_may_hold_it_says_why_it_stays_open() -> None:
    found = line("int8/latency since baseline", judged(observation(int8={"timing": timing(0.4201)}), observation()))
    assert found.reason.endswith(pace.UNSURE)
    [seen] = [v for v in judged(observation(), limits=Limits(recipe=Gates(max_latency_ratio=0.3599)))
              if v.name == "int8/latency"]  # fmt: skip
    assert seen.status == "inconclusive"
    assert seen.value == pytest.approx(0.4, rel=1e-3)


def test_the_chance_of_a_slow_down_is_that_it_is_within_the_limit() -> None:
    from scipy import stats

    now, before = observation(int8={"timing": timing(0.43)}), observation()
    [found] = [d for d in Costs(now, before, Limits()).of(now.variants[1]) if d.line.gate == "latency since baseline"]
    allowed = np.add(before.variants[1].timing.logs, np.log(1.05))
    stated = stats.ttest_ind(
        now.variants[1].timing.logs, allowed, equal_var=False, trim=ratios.TRIM, alternative="greater"
    )
    assert found.p is not None
    assert found.p == pytest.approx(stated.pvalue, rel=0.5)  # the noise floor is a little above the spread
    assert found.p < 1e-5


def test_a_noisy_machine_makes_no_latency_fail() -> None:
    noisy = tuple(60 * w for w in QUIET)
    slow = {"timing": timing(0.43)}
    for changed in ({"again": noisy}, {"away": 0.2}, {"reference_ms": 1.2}, {"reference_ms": 0.8}):
        found = line("int8/latency since baseline", judged(observation(int8=slow, **changed), observation()))
        assert found.status == "inconclusive", changed
    before = observation(away=0.2)
    assert line("int8/latency since baseline", judged(observation(int8=slow), before)).status == "inconclusive"


def test_a_model_that_never_warms_up_is_not_judged() -> None:
    slow = msgspec.structs.replace(timing(0.43), settled=3)
    found = line("int8/latency since baseline", judged(observation(int8={"timing": slow}), observation()))
    assert found.status == "inconclusive"
    assert "3 of 7 sittings" in found.reason


def test_a_noisy_machine_makes_no_limit_fail() -> None:
    limits = Limits(recipe=Gates(max_latency_ratio=0.35))
    noisy = tuple(60 * w for w in QUIET)
    for changed, verdict in (({}, "fail"), ({"away": 0.2}, "inconclusive"), ({"again": noisy}, "inconclusive")):
        assert line("int8/latency", judged(observation(**changed), limits=limits)).status == verdict


def test_in_the_same_sittings_another_pace_of_the_reference_matters_not() -> None:
    now = observation(int8={"timing": timing(0.43)}, reference_ms=1.5)
    assert line("int8/latency since baseline", judged(now, observation(), same=True)).status == "fail"


def test_times_of_another_isa_decide_nothing_and_say_so() -> None:
    now = observation(
        int8={"timing": timing(0.8)}, measured_on=msgspec.structs.replace(TARGET, isa=("avx2", "avx512f"))
    )
    found = line("int8/latency since baseline", judged(now, observation()))
    assert found.status is None
    assert "recorded with isa avx2, this is avx2+avx512f" in found.reason


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"dims": {"batch": 1}}, "timed at batch=8, this is batch=1"), ({"concurrency": 2}, "1 calls at once")],
)
def test_times_of_another_load_decide_nothing(changed: dict[str, Any], words: str) -> None:
    found = line("int8/latency since baseline", judged(observation(**changed), observation()))
    assert found.status is None
    assert words in found.reason


def carrying(rate: float, **changed: Any) -> Observation:
    """int8 with so many times fp32's examples per second."""
    logs = tuple(-w for w in timing(1 / rate).logs)
    own = msgspec.structs.replace(timing(0.4), throughput=logs, per_second=100.0)
    return observation(int8={"timing": own}, **{"concurrency": 2, "again_throughput": QUIET, **changed})


def test_throughput_is_the_objective_where_it_is_stated() -> None:
    limits = Limits(objective="throughput", concurrency=2)

    before = carrying(2.0)
    found = line("int8/throughput since baseline", judged(carrying(1.8), before, limits))
    assert found.status == "fail"
    assert "(100.0 examples/s at batch=8, 2 calls at once; 1.800× [1.797, 1.803] of fp32; A against A" in found.reason
    assert line("int8/throughput since baseline", judged(carrying(2.0), before, limits)).status == "pass"
    assert "int8/latency since baseline" not in [each.name for each in judged(carrying(2.0), before, limits)]
    for old in (observation(concurrency=2), msgspec.structs.replace(before, again_throughput=())):
        found = line("int8/throughput since baseline", judged(carrying(1.8), old, limits))
        assert (found.status, "holds no throughput" in found.reason) == ("inconclusive", True)


def test_throughput_has_a_noise_floor_of_its_own() -> None:
    """Of the reference's windows, not of its calls: either may be quiet while the other is not."""
    limits, noisy = Limits(objective="throughput", concurrency=2), tuple(60 * w for w in QUIET)
    for changed, verdict in (({"again_throughput": noisy}, "inconclusive"), ({"again": noisy}, "fail")):
        for now, before in ((carrying(1.8, **changed), carrying(2.0)), (carrying(1.8), carrying(2.0, **changed))):
            assert line("int8/throughput since baseline", judged(now, before, limits)).status == verdict
    both = pool(carrying(1.8), carrying(1.8))
    assert len(both.again_throughput) == len(both.variants[1].timing.throughput) == 2 * len(QUIET)


def test_limits_against_fp32() -> None:
    """0.4 of fp32, which takes 0.9 of stock, is 0.36 of stock."""
    for limit, verdict in ((0.37, "pass"), (0.35, "fail")):
        lines = judged(observation(), limits=Limits(recipe=Gates(max_latency_ratio=limit)))
        assert line("int8/latency", lines).status == verdict
    for limit, verdict in ((0.25, "pass"), (0.24, "fail")):
        lines = judged(observation(), limits=Limits(recipe=Gates(max_size_ratio=limit)))
        assert line("int8/size", lines).status == verdict


def test_size_and_memory_since_the_baseline() -> None:
    from dlc.gate.observation import Resident
    from dlc.manifest import Size

    grown = {
        "size": Size(bytes=1030, compressed_bytes=1, ratio=1.0),
        "memory": Resident(peak_bytes=(67_000_000, 67_100_000, 67_200_000), runtime_bytes=1),
    }
    lines = judged(observation(int8=grown), observation())
    assert line("int8/size since baseline", lines).status == "fail"
    memory = line("int8/peak memory since baseline", lines)
    assert memory.status == "fail"
    assert memory.low is not None
    assert memory.high is not None
    assert 1.1 < memory.low < 67.1 / 60.1 < memory.high
    assert f"{memory.value:.3f}× [{memory.low:.3f}, {memory.high:.3f}] of the baseline's 57.32 MiB" in memory.reason
    assert memory.reason.endswith("at most 1.1×; 3 processes")
    larger = Limits(max_growth=1.03, max_memory_growth=1.13)
    assert exit_code(judged(observation(int8=grown), observation(), larger)) == 0


@pytest.mark.parametrize(
    ("peaks", "status"),
    [
        ((67_000_000, 67_100_000, 67_200_000), "fail"),
        ((60_000_000, 67_000_000, 74_300_000), "inconclusive"),  # 11 % more on average, and perhaps by chance
        ((65_800_000, 66_000_000, 66_200_000), "inconclusive"),  # 9.8 % more, and perhaps beyond 10
        ((62_000_000, 62_100_000, 62_200_000), "pass"),
    ],
)
def test_memory_is_judged_by_the_spread_between_processes(peaks: tuple[int, ...], status: Status) -> None:
    from dlc.gate.observation import Resident

    lines = judged(observation(int8={"memory": Resident(peak_bytes=peaks, runtime_bytes=1)}), observation())
    assert line("int8/peak memory since baseline", lines).status == status


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"isa": ("avx512f",)},
            "recorded on onnxruntime 1.32.0 with avx2, threads 1, this is onnxruntime 1.32.0 with ",
        ),
        ({"runtime": "onnxruntime 1.33.0"}, "this is onnxruntime 1.33.0 with avx2, threads 1, which decides nothing"),
        ({"threads": 2}, "this is onnxruntime 1.32.0 with avx2, threads 2, which decides nothing"),
    ],
)
def test_memory_of_another_machine_or_runtime_decides_nothing(changed: dict[str, Any], words: str) -> None:
    from dlc.gate.observation import Resident

    more = {"memory": Resident(peak_bytes=(90_000_000,), runtime_bytes=1)}
    gate = "int8/peak memory since baseline"
    alone = line(gate, judged(observation(int8=more), observation()))
    assert (alone.status, alone.low) == ("fail", None)
    assert alone.reason.endswith("one run, so without an interval")
    now = observation(int8=more, measured_on=msgspec.structs.replace(TARGET, **changed))
    found = line(gate, judged(now, observation()))
    assert found.status is None
    assert found.value == pytest.approx(90 / 60.1, rel=1e-5)  # the mean of 60.0, 60.1 and 60.2 is geometric
    assert words in found.reason


def test_golden_vectors_and_determinism() -> None:
    lines = judged(observation(int8={"golden": (2e-4, 1e-4)}))
    assert line("int8/golden vectors", lines).status == "fail"
    lines = judged(observation(int8={"outputs": "others"}), observation())
    assert line("int8/determinism", lines).status == "fail"
    elsewhere = msgspec.structs.replace(TARGET, isa=("avx512f",))
    lines = judged(observation(int8={"outputs": "others"}, measured_on=elsewhere), observation())
    found = line("int8/determinism", lines)
    assert found.status is None
    assert "within the tolerance of golden vectors, 0.0001" in found.reason


def test_other_data_say_nothing_of_determinism() -> None:
    lines = judged(observation(int8={"outputs": "others"}, data=OTHER_DATA), observation())
    assert "int8/determinism" not in [each.name for each in lines]


def test_without_data_the_same_seeded_inputs_tell_of_determinism() -> None:
    """Other golden vectors, or another seed, draw other inputs; a baseline that does not say which decides nothing."""
    other: dict[str, Any] = {"outputs": "others", "score": None}

    def named(now: str, then: str) -> list[Line]:
        found = judge(observation(data=None, drawn=now, int8=other), observation(data=None, drawn=then), Limits(), None)
        return [each for each in found if each.name == "int8/determinism"]

    assert [each.status for each in named("1" * 64, "1" * 64)] == ["fail"]
    assert named("1" * 64, "2" * 64) == named("", "") == []
    mixed = judged(observation(int8=other), observation(data=None, drawn="d" * 63 + "0"))
    assert "int8/determinism" not in [each.name for each in mixed]


def test_a_fault_fails() -> None:
    lines = judged(observation(int8={"fault": "output 'y' holds NaN", "score": None, "agreement": None}))
    assert line("int8/outputs", lines).status == "fail"


def test_without_a_metric_agreement_decides() -> None:
    blind: dict[str, Any] = {"score": None}
    now = observation(int8=blind, fp32=blind, stated=None)
    assert line("int8/agreement", judge(now, None, Limits(), None)).status == "pass"
    strict = Limits(recipe=Gates(cosine=0.99995))
    assert line("int8/agreement", judge(now, None, strict, None)).status == "fail"


def test_a_variant_that_is_gone_fails_and_a_new_one_is_remarked() -> None:
    both = observation()
    alone = msgspec.structs.replace(both, variants=both.variants[:1])
    assert line("int8/built", judged(alone, both)).status == "fail"
    assert line("int8/built", judged(both, alone)).status is None


def test_a_baseline_is_cut_to_what_is_judged() -> None:
    both = observation()
    more = msgspec.structs.replace(both, variants=(*both.variants, variant("fp16", 0.8)))
    assert line("fp16/built", judged(both, more)).status == "fail"
    assert [v.precision for v in more.only(("int8",)).variants] == ["fp32", "int8"]
    assert more.only(None) is more


def test_expected_places_hold() -> None:
    hit = ExpectationRecord(rewrite="fuse-attention", expected=6, found=4, there=0, applied=4, reasons=())
    lines = judged(observation(fusions=(hit,)))
    assert line("fp32/places of fuse-attention", lines).status == "fail"


def test_failures_are_corrected_for_the_number_of_gates() -> None:
    def tested(gate: str, p: float) -> Decided:
        return Decided(Line(variant="int8", gate=gate, status="fail", reason="slow"), p)

    alone = corrected([tested("a since baseline", 0.03)])
    assert alone[0].status == "fail"
    two = corrected([tested("a since baseline", 0.03), tested("b since baseline", 0.9)])
    assert [each.status for each in two] == ["inconclusive", "inconclusive"]
    assert two[0].reason == "slow; not beyond chance (p = 0.06 among 2 gates, 0.05 asked)"


@pytest.mark.parametrize(
    "other",
    ["accuracy", "latency since baseline", "throughput since baseline", "peak memory since baseline", "latency"],
)
def test_gates_that_answer_another_question_are_another_family(other: str) -> None:
    found = [Decided(Line(variant="int8", gate=g, status="fail", reason="worse"), p) for g, p in (
        ("accuracy since baseline", 0.03), (other, 0.9),
    )]  # fmt: skip
    assert [each.status for each in corrected(found)] == ["fail", "inconclusive"]


def test_a_slow_first_measurement_is_not_enough() -> None:
    before, slow, quick = observation(), observation(int8={"timing": timing(0.46)}), observation()
    first, second = judged(slow, before), judged(quick, before)
    assert slow_or_unsure(first)
    assert not slow_or_unsure(second)
    both = judged(pool(slow, quick), before)
    found = line("int8/latency since baseline", confirmed(first, second, both))
    assert found.status == "inconclusive"
    assert found.reason.endswith("two measurements")
    again = confirmed(first, judged(slow, before), judged(pool(slow, slow), before))
    assert line("int8/latency since baseline", again).status == "fail"


def test_a_pool_holds_both_measurements() -> None:
    both = pool(observation(away=0.2, reference_ms=1.0), observation(away=0.0, reference_ms=1.5))
    assert (both.away, both.reference_ms) == (0.2, 1.25)
    assert [v.timing.ratio for v in both.variants] == [
        ratios.ITSELF,
        ratios.ratio(both.variants[1].timing.logs, ratios.spread(both.again)),
    ]
    assert len(both.again) == len(both.variants[1].timing.logs) == 2 * len(QUIET)


def test_what_is_kept_is_what_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first look that is slow and a second that is not: history, JSON and baseline hold both."""
    slow, quick = observation(int8={"timing": timing(0.46)}), observation()
    monkeypatch.setattr(flow, "observe", lambda *_: [slow])
    monkeypatch.setattr(flow, "retimed", lambda *_: [quick])
    limits = Limits(recipe=Gates(max_latency_ratio=0.4))  # of stock, of which fp32 takes 0.9
    path, artifact = tmp_path / "b.json", cast("Artifact", None)  # only what is replaced here looks at it
    outcome = flow.gate(artifact, None, limits, How(), against=path, update=True)
    judged_as = line("int8/latency", outcome.lines)
    kept = outcome.now.variants[1].timing
    assert judged_as.reason.endswith("two measurements")
    assert (kept.logs, kept.ratio.value) == (pool(slow, quick).variants[1].timing.logs, judged_as.value)
    assert baseline.read(path).variants[1].timing == kept


def test_nothing_decided_is_inconclusive() -> None:
    assert status([]) == "inconclusive"
    assert exit_code([Line(variant="int8", gate="a", status=None, reason="")]) == 5


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"max_slowdown": 0.9}, "the baseline could not hold it"),
        ({"max_growth": 0.0}, "is no factor"),
        ({"max_memory_growth": float("inf")}, "is no factor"),
        ({"concurrency": 0}, "at least one call"),
        ({"concurrency": 4}, "gates contradict each other"),
    ],
)
def test_limits_that_make_no_sense(stated: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Limits(**stated)

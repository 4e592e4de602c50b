"""Which change is to blame: each class by a case of its own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dlc.gate.blame import Blame, blame
from dlc.gate.changes import Change, changes
from dlc.gate.judging import judge
from dlc.gate.limits import Limits
from dlc.gate.lines import Line
from dlc.gate.observation import DataSeen, Observation, PassSeen
from dlc.harness.accuracy import METRICS
from dlc.manifest import ExpectationRecord, SourceRecord, TargetRecord
from tests.gate.example import TARGET, observation, score, timing

FILES = {"files": {"model.onnx": "other"}}
WRONG: dict[str, Any] = {"score": score(90), "outputs": "others"}
RUNTIME = {"versions": {"onnxruntime": "1.33.0"}}


def data(**changed: Any) -> DataSeen:
    seen = DataSeen(name="test", sha256="e" * 64, examples=1000, sizes={"batch": (40, 64)})
    return msgspec.structs.replace(seen, **changed)


def machine(**changed: Any) -> TargetRecord:
    return msgspec.structs.replace(TARGET, **changed)


def blamed(now: Observation, before: Observation | None, gate: str) -> Blame:
    lines = judge(now, before, Limits(), METRICS["top1"])
    found = changes(before, now) if before else []
    [line] = [each for each in lines if each.name == gate]
    result = blame(line, lines, now, before, found)
    assert result is not None, line
    return result


def test_another_processor_is_named_and_to_blame() -> None:
    here = machine(cpu="EPYC 7R13", cores=2, system="Linux 6.1")
    now = observation(int8={"timing": timing(0.6)}, measured_on=here)
    before = observation(measured_on=machine(cpu="Xeon 8375C", cores=4, system="Linux 6.1"))
    found = blamed(now, before, "int8/latency since baseline")
    assert found.kind == "machine"
    assert found.suspects == ("cpu Xeon 8375C → EPYC 7R13", "cores 4 → 2")
    assert changes(observation(), now) == []  # what an earlier baseline does not know did not change
    assert now.on_machine_of(before)  # the same kernels run on both: outputs are compared bit for bit
    assert not now.on_machine_of(observation(measured_on=machine(isa=("avx2", "avx512f"))))


def test_nothing_changed_between_equals() -> None:
    assert changes(observation(), observation()) == []


def test_quantization_where_fp32_holds() -> None:
    passes = (PassSeen(name="quantize-static", options={"bits": "4"}, applied=("a", "b", "c", "d")),)
    now = observation(int8={**WRONG, **FILES, "passes": passes})
    found = blamed(now, observation(), "int8/accuracy since baseline")
    assert found.kind == "quantization"
    assert found.suspects == ("pass quantize-static: bits 8 → 4",)
    assert "fp32 holds the same gate" in found.because
    assert "dlc compare" in found.next


def test_compiler_names_the_pass_and_its_places() -> None:
    passes = (
        PassSeen(name="fuse-gelu", options={}, applied=("g",)),
        PassSeen(name="quantize-static", options={"bits": "8"}, applied=("a", "b")),
    )
    now = observation(int8={**FILES, "timing": timing(0.6), "passes": passes})
    found = blamed(now, observation(), "int8/latency since baseline")
    assert found.kind == "quantization"
    assert found.suspects == ("pass quantize-static: 4 → 2 places, no longer at c, d", "pass fuse-gelu is new")
    passes = (passes[0], observation().variants[1].passes[0])
    found = blamed(observation(int8={**FILES, "timing": timing(0.6), "passes": passes}), observation(),
                   "int8/latency since baseline")  # fmt: skip
    assert found.kind == "compiler"


def test_a_version_of_the_compiler() -> None:
    compiled_with = {"dlc": "0.2.0", "onnxruntime": "1.32.0"}
    now = observation(int8={**FILES, "timing": timing(0.6)}, compiled_with=compiled_with)
    found = blamed(now, observation(), "int8/latency since baseline")
    assert (found.kind, found.suspects) == ("compiler", ("dlc 0.1.0 → 0.2.0, when it was compiled",))


def test_runtime_where_the_files_are_the_same() -> None:
    both = observation(int8={**FILES, "timing": timing(0.6), "kept": ("fuse-gelu",)}, **RUNTIME)
    found = blamed(both, observation(), "int8/latency since baseline")
    assert (found.kind, found.because) == ("compiler", "the first of what changed and could explain it")
    now = observation(int8={"timing": timing(0.6)}, **RUNTIME)
    found = blamed(now, observation(), "int8/latency since baseline")
    assert (found.kind, found.suspects) == ("runtime", ("onnxruntime 1.32.0 → 1.33.0, where it runs",))
    assert "byte for byte" in found.because


def test_the_same_files_exclude_the_source() -> None:
    other = SourceRecord(kind="module", sha256="6" * 64, parity="")
    now = observation(int8={"timing": timing(0.6)}, source=other)
    assert blamed(now, observation(), "int8/latency since baseline").kind == "machine"
    now = observation(int8={**FILES, "timing": timing(0.6)}, source=other)
    assert blamed(now, observation(), "int8/latency since baseline").kind == "source"


def test_data_where_both_fall() -> None:
    now = observation(int8=WRONG, fp32=WRONG, data=data())
    assert blamed(now, observation(), "int8/accuracy since baseline").kind == "data"
    assert blamed(now, observation(), "fp32/accuracy since baseline").kind == "data"


def test_truncation_where_the_sizes_fed_are_others() -> None:
    now = observation(int8=WRONG, fp32=WRONG, data=data(sizes={"batch": (40, 48)}))
    found = blamed(now, observation(), "int8/accuracy since baseline")
    assert found.kind == "shape"
    assert "batch was fed from 40 to 64, now from 40 to 48" in found.suspects


def test_machine_where_nothing_else_differs() -> None:
    found = blamed(observation(int8={"timing": timing(0.6)}), observation(), "int8/latency since baseline")
    assert (found.kind, found.suspects) == ("machine", ())
    found = blamed(observation(int8={"outputs": "others"}), observation(), "int8/determinism")
    assert found.kind == "machine"


def test_an_unrecorded_change_of_the_files() -> None:
    found = blamed(observation(int8={**WRONG, **FILES}), observation(), "int8/accuracy since baseline")
    assert found.kind == "quantization"
    assert "its files differ" in found.because


def test_without_a_baseline_fp32_is_the_witness() -> None:
    assert blamed(observation(int8={"score": score(90)}), None, "int8/accuracy").kind == "quantization"


def test_what_the_compile_did_not_write_is_its_own() -> None:
    both = observation()
    alone = msgspec.structs.replace(both, variants=both.variants[:1])
    found = blamed(alone, both, "int8/built")
    assert found.kind == "compiler"
    assert "dlc compile SOURCE --variants int8" in found.next
    hit = ExpectationRecord(rewrite="fuse-attention", expected=6, found=4, there=0, applied=4, reasons=())
    found = blamed(observation(fusions=(hit,)), None, "fp32/places of fuse-attention")
    assert found.kind == "compiler"
    assert "expect_fusions" in found.next


@pytest.mark.parametrize(
    ("changed", "kind"), [({}, "source"), ({"measured_on": machine(runtime="onnxruntime 1.33.0")}, "runtime")]
)
def test_a_fault_of_the_reference_is_not_one_of_quantization(changed: dict[str, Any], kind: str) -> None:
    fault: dict[str, Any] = {"fault": "output 'y' holds NaN", "score": None}
    assert blamed(observation(fp32=fault, **changed), None, "fp32/outputs").kind == kind
    assert (
        blamed(observation(int8={**fault, "agreement": None}, **changed), None, "int8/outputs").kind == "quantization"
    )


def test_a_gate_that_is_in_no_table_is_not_guessed_at() -> None:
    unheard = Line(variant="int8", gate="beauty since baseline", status="fail", reason="")
    with pytest.raises(KeyError, match="beauty"):
        blame(unheard, [unheard], observation(), observation(), [])
    with pytest.raises(KeyError, match="beauty"):
        blame(unheard, [unheard], observation(), None, [])


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"data": data()}, "data"),
        ({"measured_on": machine(runtime="onnxruntime 1.33.0")}, "runtime"),
        ({"measured_on": machine(isa=())}, "machine"),
        ({}, "machine"),
    ],
)
def test_a_reference_that_fails_what_it_states(changed: dict[str, Any], kind: str) -> None:
    now = observation(fp32={"score": score(90)}, **changed)
    assert blamed(now, None, "fp32/stated accuracy").kind == kind


def test_what_holds_is_not_blamed() -> None:
    lines = judge(observation(), observation(), Limits(), METRICS["top1"])
    assert all(blame(line, lines, observation(), observation(), []) is None for line in lines)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"calibration": None}, "calibration data cccccccccccc → none"),
        ({"measured_on": machine(threads=2)}, "threads 1 → 2"),
        ({"target": machine(opset=21)}, "target opset 20 → 21"),
        (
            {"data": data(examples=900)},
            "evaluation data 'test' dddddddddddd → 'test' eeeeeeeeeeee, 1000 → 900 examples",
        ),
        ({"int8": {"converted": {"Gemm": 3}}}, "converted 4 Gemm → 3 Gemm"),
        ({"int8": {"left": ("a", "b", "c", "d")}}, "other nodes left in FP32: a, b, c and 1 more"),
        ({"int8": {"kept": ("fuse-gelu",)}}, "fuse-gelu now kept"),
    ],
)
def test_changes_are_named(changed: dict[str, Any], text: str) -> None:
    found: list[Change] = changes(observation(), observation(**changed))
    assert text in [each.text for each in found]

"""Faults that were really put in, found by undoing one thing at a time: rebuilt and judged again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dlc.artifact import Artifact, faults, seal
from dlc.compiler import Options, compile  # noqa: A004 - the verb's name
from dlc.gate import baseline
from dlc.gate.flow import Outcome, gate
from dlc.gate.limits import Limits
from dlc.gate.observation import PassSeen
from dlc.gate.rebuilding import Rebuilder
from dlc.gate.timing import How
from dlc.gate.undoing import Undo, undone, undos
from dlc.progress import Silent
from dlc.recipe import Dataset, Dim, Gates, Precision, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.target import detect
from dlc.types import Array, Floats
from tests.gate.example import observation
from tests.report.example import LABELLED

if TYPE_CHECKING:
    import torch

CLASSES, CHANNELS, SIDE, EXAMPLES = 10, 4, 8, 600
RNG = np.random.default_rng(7)
CENTRES = RNG.uniform(0, 1, (CLASSES, 1, SIDE, SIDE)).astype(np.float32)
FILTERS = RNG.normal(size=(CHANNELS, 1, 3, 3)).astype(np.float32)
VARIANCE = np.array([1e-4, 1e-3, 1.0, 4.0], np.float32)
GAMMA = np.array([0.05, 0.05, 1.0, 1.0], np.float32)
"""Of channels with little variance a wrong epsilon takes most away."""


def features(x: Array) -> Floats:
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    convolved = np.einsum("bcijkl,mckl->bmij", windows, FILTERS)
    found: Floats = np.maximum(convolved * (GAMMA / np.sqrt(VARIANCE + 1e-5))[:, None, None], 0)
    return found


def network(path: Path) -> None:
    """Nearest centre of the features that a convolution, a normalisation and a ReLU make."""
    centres = features(CENTRES)
    nodes = [
        helper.make_node("Conv", ["x", "f"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["b"], "norm"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("Conv", ["c", "w", "bias"], ["d"], "match"),
        helper.make_node("Flatten", ["d"], ["scores"], "flatten"),
    ]
    constants = {
        "f": FILTERS, "gamma": GAMMA, "beta": np.zeros(CHANNELS, np.float32), "mean": np.zeros(CHANNELS, np.float32),
        "var": VARIANCE, "w": centres.astype(np.float32),
        "bias": (-0.5 * (centres**2).sum((1, 2, 3))).astype(np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "centres", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def data(name: str, seed: int, scale: float = 1.0) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, EXAMPLES)
    x = (CENTRES[labels] + rng.normal(scale=0.25, size=(EXAMPLES, 1, SIDE, SIDE))).astype(np.float32) * scale
    x = x.astype(np.float32)
    return Dataset(name, lambda: ({"x": x[i : i + 60]} for i in range(0, EXAMPLES, 60)), lambda: labels)


@dataclass(frozen=True)
class Bench:
    """A recipe, and a baseline of it as it should be; ``variants``: those that a test is about."""

    folder: Path
    recipe: Recipe
    against: Path
    variants: tuple[Precision, ...] = ("fp32", "int8")

    def built(self, out: Path, recipe: Recipe | None = None) -> Artifact:
        options = Options(variants=self.variants, cache=self.folder / "costs.sqlite", evaluate=False)
        return compile(recipe or self.recipe, detect(), out, options).artifact

    def outcome(self, artifact: Artifact, *, update: bool = False) -> Outcome:
        how = How(variants=self.variants)
        return gate(artifact, self.recipe, LIMITS, how, against=self.against, update=update)

    def bisected(self, artifact: Artifact, recipe: Recipe | None = None) -> Outcome:
        rebuilder = Rebuilder(artifact, recipe or self.recipe, self.folder / "costs.sqlite")
        return undone(self.outcome(artifact), rebuilder, self.outcome, LIMITS, self.recipe.metric, Silent())

    @property
    def good(self) -> Artifact:
        return Artifact.load(self.folder / "good" / "centres")


LIMITS = Limits(recipe=Gates(retention=0.95), max_slowdown=100.0, max_memory_growth=2.0)
"""What depends on the machine is not the point here."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """What has fewer nodes is kept, however long a busy machine takes: the clock is not the point here."""
    folder = tmp_path_factory.mktemp("undoing")
    network(folder / "centres.onnx")
    recipe = Recipe(
        name="centres", source=folder / "centres.onnx", dims={"batch": Dim(1, 64, 4)},
        calibration=data("calibration", 1), evaluation=data("evaluation", 2), metric="top1",  # type: ignore[arg-type]
    )  # fmt: skip
    bench = Bench(folder, recipe, folder / "b.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlc.costs.NOISE", 1e9)
        first = bench.outcome(bench.built(folder / "good"), update=True)
        assert first.written is not None, [str(line) for line in first.lines]
        yield bench


@pytest.fixture
def fp32(both: Bench) -> Bench:
    return replace(both, variants=("fp32",))


def tried(outcome: Outcome, gate_name: str) -> dict[str, str]:
    found = [t for t in outcome.tried if t.gate == gate_name]
    return {t.undone: t.result for t in found}


def test_a_pass_that_breaks_numbers_is_named(fp32: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on record differs, the pass folds at the same place as before: each that was applied is left out."""
    monkeypatch.setattr("dlc.passes.fold_batch_norm.EPSILON", 0.02)
    outcome = fp32.bisected(fp32.built(tmp_path))
    name = "fp32/accuracy since baseline"
    assert tried(outcome, name)["rebuilt with nothing undone"] == "fails"
    assert tried(outcome, name)["pass fold-batch-norm left out"] == "holds"
    found = outcome.blame_of()[name]
    assert found.kind == "compiler"
    assert found.because == "with one thing undone the gate holds: pass fold-batch-norm left out"
    assert any(line.startswith("undone: pass fold-batch-norm left out: the gate holds") for line in found.lines())
    assert "dlc debug bisect" in found.next


def test_changed_calibration_data_are_named(both: Bench, tmp_path: Path) -> None:
    """Calibrated on pictures that are fifty times too dark, int8 clips what it sees."""
    dark = replace(both.recipe, calibration=data("dark", 1, scale=0.02))
    outcome = both.bisected(both.built(tmp_path, dark), dark)
    name = "int8/accuracy since baseline"
    results = tried(outcome, name)
    assert results["rebuilt with nothing undone"] == "fails"
    assert results["calibrated on the inputs of the evaluation data"] == "holds"
    found = outcome.blame_of()[name]
    assert found.kind == "quantization"
    assert found.because.endswith("calibrated on the inputs of the evaluation data")
    assert "(the earlier calibration data are not here)" in " ".join(found.tried)


def test_a_failure_that_a_rebuild_does_not_show_is_none_of_what_is_recorded(fp32: Bench, tmp_path: Path) -> None:
    copytree(fp32.good.path, tmp_path / "centres")
    file = tmp_path / "centres" / "fp32" / "model.onnx"
    model = onnx.load(file)
    [bias] = [i for i in model.graph.initializer if list(i.dims) == [CLASSES]]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[::-1].copy(), bias.name))
    onnx.save(model, file)
    seal(tmp_path / "centres")
    outcome = fp32.bisected(Artifact.load(tmp_path / "centres"))
    name = "fp32/accuracy since baseline"
    assert tried(outcome, name) == {"rebuilt with nothing undone": "holds"}
    assert outcome.blame_of()[name].because.startswith("rebuilt as it is, the gate holds")


def test_what_cannot_be_undone_here_is_said(fp32: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = baseline.read(fp32.against)
    older = msgspec.structs.replace(before, versions={**before.versions, "onnxruntime": "1.0.0"})
    baseline.write(tmp_path / "b.json", older)
    monkeypatch.setattr("dlc.passes.fold_batch_norm.EPSILON", 0.02)
    artifact = fp32.built(tmp_path)
    target = msgspec.structs.replace(artifact.manifest.target, isa=("sse",))
    elsewhere = replace(artifact, manifest=msgspec.structs.replace(artifact.manifest, target=target))
    outcome = replace(fp32, against=tmp_path / "b.json").bisected(elsewhere)
    found = [t for t in outcome.tried if t.gate == "fp32/accuracy since baseline"]
    assert {t.result for t in found} == {"not testable here"}
    notes = {t.undone: t.note for t in found}
    assert notes["rebuilt with nothing undone"].startswith("it was compiled for onnxruntime")
    [runtime] = [what for what in notes if "onnxruntime 1.0.0" in what]
    assert notes[runtime] == "it takes the earlier runtime"
    assert runtime in outcome.blame_of()["fp32/accuracy since baseline"].suspects


def test_nothing_is_undone_where_nothing_fails(fp32: Bench) -> None:
    assert fp32.bisected(fp32.good).tried == ()


def torch_free() -> torch.nn.Module:
    raise AssertionError("nothing is built where undos are listed")


def listed(before: dict[str, object], now: dict[str, object], recipe: Recipe | None = None) -> list[Undo]:
    artifact = Artifact(Path("build/centres"), LABELLED)
    rebuilder = Rebuilder(artifact, recipe or Recipe(name="c", source=torch_free), None)
    return list(undos(observation(int8=before), observation(int8=now), ["fp32", "int8"], rebuilder))


def seen(name: str, applied: tuple[str, ...] = ("a",), **options: str) -> PassSeen:
    return PassSeen(name=name, options=options, applied=applied)


@pytest.mark.parametrize(
    ("before", "now", "kind", "text"),
    [
        (seen("quantize-static", bits="8"), seen("quantize-static", bits="4"), "quantization",
         "pass quantize-static with its earlier bits 8"),
        (seen("quantize-static", exclude="[]"), seen("quantize-static", ("a", "b"), exclude="[]"), "quantization",
         "pass quantize-static without the 1 places that are new"),
        (seen("fuse-gelu", ()), seen("fuse-gelu", ("g",)), "compiler", "pass fuse-gelu left out"),
        (seen("other"), seen("fuse-gelu"), "compiler", "pass fuse-gelu left out"),
    ],
)  # fmt: skip
def test_what_of_a_pass_can_be_undone(before: PassSeen, now: PassSeen, kind: str, text: str) -> None:
    [found] = listed({"passes": (before,)}, {"passes": (now,)})
    assert (found.kind, found.text, found.fault) == (kind, text, "")


def test_a_pass_of_the_source_cannot_be_undone_without_it() -> None:
    lost = Recipe(name="c", source=Path("build/centres/c.onnx"))
    [fused, quantized] = listed(
        {"passes": ()}, {"passes": (seen("fuse-gelu"), seen("quantize-static", exclude="[]"))}, lost
    )
    assert fused.fault.startswith("it runs on the source, which is not here")
    assert quantized.fault == ""


def test_session_options_are_put_back(both: Bench, tmp_path: Path) -> None:
    earlier = SessionConfig(graph_optimization="basic")
    [found] = listed({"session": earlier}, {})
    assert found.text == "int8 with its earlier session options"
    copy = Rebuilder(both.good, both.recipe, None).with_session("fp32", earlier)(tmp_path)
    assert copy.session("fp32") == earlier
    assert both.good.session("fp32") != earlier
    assert faults(copy.path) == []

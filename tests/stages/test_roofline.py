"""Work counted from the graph as it ran, on real sessions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.manifest import KernelRecord, Work
from dlc.runtimes.loaded import Kernel, Loaded
from dlc.runtimes.session import SessionConfig
from dlc.stages.evidence import Subject
from dlc.stages.roofline import SHOWN, counted, with_work, work_of
from tests.report.example import LABELLED, PEAKS

BATCH, DEPTH, COLUMNS = 5, 64, 32
FEEDS = {"x": np.random.default_rng(0).standard_normal((BATCH, DEPTH), np.float32)}


def product(op: str, folder: Path) -> Subject:
    rng = np.random.default_rng(0)
    if op == "MatMul":
        nodes, weights = "y = MatMul(x, w)", rng.standard_normal((DEPTH, COLUMNS), np.float32)
    else:
        nodes = "q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, z) y = Cast<to = 1>(i)"
        weights = rng.integers(-9, 9, (DEPTH, COLUMNS), np.int8)
    values = ", ".join(map(str, weights.ravel().tolist()))
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["": 20]>
        g (float[batch, {DEPTH}] x) => (float[batch, {COLUMNS}] y)
        <{"float" if op == "MatMul" else "int8"}[{DEPTH}, {COLUMNS}] w = {{{values}}}> {{ {nodes} }}
    """)
    folder.mkdir()
    ir.save(model, folder / "model.onnx")
    return Subject(op, folder, SessionConfig(provider="cpu", intra_op_threads=1))


def test_float_and_integer_products(tmp_path: Path) -> None:
    """2·5·64·32 operations; of float32 x, w and y are read and written once."""
    found = work_of([product("MatMul", tmp_path / "a"), product("MatMulInteger", tmp_path / "b")], FEEDS)
    ops = 2 * BATCH * DEPTH * COLUMNS
    assert (found["MatMul"].float_ops, found["MatMul"].integer_ops) == (ops, 0)
    assert found["MatMul"].bytes == 4 * (BATCH * DEPTH + DEPTH * COLUMNS + BATCH * COLUMNS)
    assert (found["MatMulInteger"].float_ops, found["MatMulInteger"].integer_ops) == (0, ops)
    [kernel] = [k for k in found["MatMulInteger"].kernels if k.ops]
    assert kernel.integer
    assert found["MatMul"].uncounted == found["MatMulInteger"].uncounted == ()


def test_what_cannot_be_profiled_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = product("MatMul", tmp_path / "a")
    gpu = Subject("gpu", sound.folder, SessionConfig(provider="cuda"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.onnx").write_bytes(b"none")
    broken = Subject("broken", tmp_path / "b", sound.config)
    assert work_of([gpu, broken, sound], FEEDS).keys() == {"MatMul"}
    monkeypatch.setattr("dlc.stages.roofline.LARGEST", 100)
    assert work_of([sound], FEEDS) == {}


def test_kernels_that_the_graph_does_not_have_are_said() -> None:
    graph = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (float[2] y) { y = Relu(x) }
    """)
    graph.graph[0].name = "relu"
    inner = Kernel("inside a loop", "MatMul", "CPUExecutionProvider", 0.9, 90.0, (("float", (2, 2)),))
    many = tuple(Kernel(f"k{i}", "Add", "CPUExecutionProvider", 0.0, 1.0) for i in range(20))
    known = Kernel("relu", "Relu", "CPUExecutionProvider", 0.1, 10.0, (("float", (2,)),))
    found = counted(Loaded(graph, (*many, known, inner)), {"x": np.zeros(2, np.float32)})
    assert found.uncounted == ("Add", "MatMul")
    assert len(found.kernels) == SHOWN
    assert found.kernels[:2] == (
        KernelRecord(node="inside a loop", op="MatMul", microseconds=90.0, ops=None, bytes=None),
        KernelRecord(node="relu", op="Relu", microseconds=10.0, ops=0, bytes=16),
    )
    assert (found.float_ops, found.bytes) == (0, 16)


def test_text_has_no_bytes() -> None:
    graph = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["": 20]> g (string[2] x) => (string[2] y) { y = Identity(x) z = Relu(x) }
    """)
    for node in graph.graph:
        node.name = node.op_type
    kernel = Kernel("Relu", "Relu", "CPUExecutionProvider", 1.0, 1.0, (("string", (2,)),))
    found = counted(Loaded(graph, (kernel,)), {"x": np.array(["a", "b"], dtype=object)})
    assert found.uncounted == ("Relu",)


def test_the_manifest_takes_it() -> None:
    work = Work(float_ops=1, integer_ops=2, bytes=3)
    record = with_work(LABELLED, "baseline", {"baseline": work, "int8": work}, PEAKS)
    assert record.reference.work == work
    assert [v.precision for v in record.variants if v.work] == ["int8"]
    assert record.peaks == PEAKS
    assert with_work(LABELLED, "baseline", {}, PEAKS).peaks is None

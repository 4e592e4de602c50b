"""Every way a model file can be wrong has its own message."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dlc import pipeline
from dlc.errors import DlcError, ModelError, Unsupported
from dlc.export import export
from dlc.passes.canonicalize import Canonicalize
from dlc.recipe import Recipe
from dlc.sources.onnx_files import data_files, digest, read
from tests.passes.texts import HEADER, graph

BODY = "g (float[n, 2] x) => (float[n, 2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.onnx"
    ir.save(graph(BODY), file)
    return file


def external(tmp_path: Path) -> Path:
    file = tmp_path / "model.onnx"
    ir.save(graph(BODY), file, external_data="weights.bin", size_threshold_bytes=0)
    return file


def message(path: Path, kind: type[DlcError] = ModelError, opset: int = 26) -> str:
    with pytest.raises(kind) as caught:
        read(path, opset)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value).replace(str(path.parent), "")


def test_reads(path: Path) -> None:
    assert [n.op_type for n in read(path, 26).graph] == ["Mul"]


def test_reads_the_norm_that_onnxruntime_adds_to_the_standard_domain(tmp_path: Path) -> None:
    body = "y = SimplifiedLayerNormalization<axis = -1, epsilon = 1e-5>(x, w)"
    model = ir.from_onnx_text(HEADER + f"g (float[n, 8] x, float[8] w) => (float[n, 8] y) {{ {body} }}")
    ir.save(model, tmp_path / "norm.onnx")
    assert [n.op_type for n in read(tmp_path / "norm.onnx", 23).graph] == ["SimplifiedLayerNormalization"]
    unknown = ir.from_onnx_text(HEADER + "g (float[n, 8] x) => (float[n, 8] y) { y = SimplifiedNothing(x) }")
    ir.save(unknown, tmp_path / "unknown.onnx")
    with pytest.raises(ModelError, match="No Op registered for SimplifiedNothing"):
        read(tmp_path / "unknown.onnx", 23)


def test_missing(tmp_path: Path) -> None:
    assert message(tmp_path / "model.onnx") == "/model.onnx: no such file"


def test_folder(path: Path) -> None:
    assert message(path.parent).endswith(" is a folder, not a model file; it holds model.onnx")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"import torch\nprint('hello')\n" * 9, "it is a text file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "it is a Git LFS pointer; fetch the file itself",
        ),
        (b"\x08\x0a\x00\xff\xfe" * 20, "it is damaged or cut off after 100 bytes"),
    ],
)
def test_not_onnx(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    assert f"is not an ONNX model: {reason}" in message(path)


def test_cut_off_anywhere(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises((ModelError, Unsupported)):
            read(path, 26)


def test_external_data(tmp_path: Path) -> None:
    model = read(external(tmp_path), 26)
    (tensor,) = (v.const_value for v in model.graph.initializers.values())
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.numpy().tolist() == [1, 2]


def test_missing_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    assert "external data file 'weights.bin' is missing; put it next to the model file" in message(path)


def test_short_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4)
    assert "'weights.bin' has 4 bytes, but weight 'w' ends at 8" in message(path)


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    next(e for e in proto.graph.initializer[0].external_data if e.key == "location").value = "../weights.bin"
    path.write_bytes(proto.SerializeToString())
    assert "lies outside the model's folder, in '../weights.bin'" in message(path)


def test_future_opset(path: Path) -> None:
    proto = onnx.load(path)
    proto.opset_import[0].version = 99
    path.write_bytes(proto.SerializeToString())
    assert (
        message(path, Unsupported) == "/model.onnx uses opset 99; the newest that can run here is 26: export it again"
    )


def test_custom_operator(path: Path) -> None:
    ir.save(
        graph("g (float[n, 2] x) => (float[n, 2] y) { y = acme.Magic(x) }", HEADER.replace("]>", ', "acme" : 1]>')),
        path,
    )
    assert "node 'y' is a custom operator, acme::Magic, that ONNX Runtime has no kernel for" in message(
        path, Unsupported
    )


def test_operators_of_onnx_runtime_are_known(path: Path) -> None:
    body = "g (float[n, 2] x) => (float[n, 2] y) { y = com.microsoft.FastGelu(x) }"
    ir.save(graph(body, HEADER.replace("]>", ', "com.microsoft" : 1]>')), path)
    assert len(list(read(path, 26).graph)) == 1


def test_invalid_graph(path: Path) -> None:
    proto = onnx.load(path)
    proto.graph.node[0].op_type = "Multiply"
    path.write_bytes(proto.SerializeToString())
    assert "is not a valid model: No Op registered for Multiply" in message(path)


def test_the_digest_covers_names_and_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    files = [path, *data_files(path, read(path, 26))]
    assert [f.name for f in files] == ["model.onnx", "weights.bin"]
    before = digest(files)
    assert before == digest(files)
    (tmp_path / "weights.bin").write_bytes(np.array([1, 3], np.float32).tobytes())
    assert digest(files) != before


LARGE = (1 << 31) + (1 << 20)
"""Bytes of weights: more than one protobuf message can hold."""


def large_model(folder: Path) -> Path:
    """An embedding of 2 GiB and more: a sparse file of zeros, but for the last row."""
    rows = LARGE // 256
    with (folder / "large.data").open("wb") as file:
        file.truncate(rows * 256)
        file.seek((rows - 1) * 256)
        file.write(np.ones(64, np.float32).tobytes())
    table = onnx.TensorProto(
        name="table", dims=[rows, 64], data_type=onnx.TensorProto.FLOAT, data_location=onnx.TensorProto.EXTERNAL
    )
    table.external_data.add(key="location", value="large.data")
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 64])
    node = onnx.helper.make_node("Gather", ["table", "ids"], ["y"])
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [ids], [y], [table]),
        opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    (folder / "large.onnx").write_bytes(proto.SerializeToString())
    return folder / "large.onnx"


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files, and ru_maxrss in KiB, are Linux's")
def test_a_model_over_two_gigabytes(tmp_path: Path) -> None:
    path = large_model(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        exported = export(Recipe(name="large", source=path), opset=26, ir_version=13)
        pipeline.run(exported.model, [Canonicalize()])
        (table,) = (v.const_value for v in exported.model.graph.initializers.values())
        assert isinstance(table, ir.ExternalTensor)
        assert table.nbytes > 1 << 31
        assert float(table.numpy()[-1].sum()) == 64.0
        assert exported.parity.startswith("the file itself")
        table.release()
    finally:
        (tmp_path / "large.data").unlink()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 6 << 20  # KiB: 6 GiB

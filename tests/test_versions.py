from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from dlc.errors import CapabilityError
from dlc.versions import EXPORT_OPSET, TABLE, limits, unknown

OPERATORS: dict[str, tuple[list[str], int]] = {
    "Relu": (["x"], TensorProto.FLOAT),
    "Gelu": (["x"], TensorProto.FLOAT),
    "Softmax": (["x"], TensorProto.FLOAT),
    "Transpose": (["x"], TensorProto.FLOAT),
    "Shape": (["x"], TensorProto.INT64),
    "MatMul": (["x", "w"], TensorProto.FLOAT),
    "Conv": (["image", "kernel"], TensorProto.FLOAT),
    "LayerNormalization": (["x", "scale"], TensorProto.FLOAT),
    "Reshape": (["x", "shape"], TensorProto.FLOAT),
    "QuantizeLinear": (["x", "step", "zero"], TensorProto.UINT8),
    "DequantizeLinear": (["codes", "step", "zero"], TensorProto.FLOAT),
}
CONSTANTS = {
    "w": np.ones((3, 2), np.float32), "image": np.ones((1, 1, 3, 3), np.float32),
    "kernel": np.ones((1, 1, 2, 2), np.float32), "scale": np.ones(3, np.float32), "shape": np.array([-1]),
    "step": np.float32(0.5), "zero": np.uint8(1), "codes": np.ones((2, 3), np.uint8),
}  # fmt: skip


def runs(op: str, opset: int, ir_version: int) -> bool:
    reads, dtype = OPERATORS[op]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, reads, ["y"])], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
            [helper.make_tensor_value_info("y", dtype, None)],
            [numpy_helper.from_array(np.asarray(CONSTANTS[n]), n) for n in reads if n in CONSTANTS],
        ),
        opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version,
    )  # fmt: skip
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, {"x": np.ones((2, 3), np.float32)})
    except Exception:  # noqa: BLE001 - ORT raises a class per status code
        return False
    return True


def test_the_row_of_the_installed_runtime_is_true() -> None:
    opset, ir_version = limits(ort.__version__)
    assert unknown(ort.__version__) is None
    assert [op for op in OPERATORS if not runs(op, opset, ir_version)] == []
    assert not runs("Relu", opset, ir_version + 1)
    assert not all(runs(op, opset + 1, ir_version) for op in OPERATORS)


def test_rows_only_rise_and_hold_the_export_opset() -> None:
    rows = [TABLE[v] for v in sorted(TABLE)]
    assert rows == sorted(rows)
    assert all(opset >= EXPORT_OPSET for opset, _ in rows)
    assert max(opset for opset, _ in rows) <= onnx.defs.onnx_opset_version()


@pytest.mark.parametrize("version", ["1.23.2", "1.23", "1.23.0rc1", "1.23.2+cu12"])
def test_a_patch_release_has_the_row_of_its_minor_version(version: str) -> None:
    assert limits(version) == (22, 11)


def test_a_newer_runtime_gets_the_newest_row_and_says_so() -> None:
    assert limits("1.99.0") == TABLE[max(TABLE)] == limits("2.0.1")
    assert "1.99.0 is newer than dlc knows; the limits of 1.32 are used" in str(unknown("1.99.0"))


@pytest.mark.parametrize("version", ["1.19.2", "0.9.0"])
def test_an_older_runtime_is_an_error(version: str) -> None:
    with pytest.raises(CapabilityError, match=rf"{version} is older than 1.23.*pip install 'onnxruntime>=1.32'"):
        limits(version)


@pytest.mark.parametrize("version", ["", "dev", "1", "one.two"])
def test_no_version_at_all(version: str) -> None:
    with pytest.raises(CapabilityError, match="is not an ONNX Runtime version"):
        limits(version)

from __future__ import annotations

import onnx_ir as ir
import pytest

from dlc.passes.ranges import LARGEST, between, finite

INITIAL = """<float zero = {0}, float low = {-3.4028234663852886e+38}, float inf = {-inf}, float one = {1},
    float nan = {nan}, float[2, 2] w = {1, 2, 3, 4}, int64[2] shape = {2, 2}, float half = {-1e4}>"""


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("m = Where(c, zero, low)", (-LARGEST, 0.0)),
        ("m = Where(c, zero, inf)", (-float("inf"), 0.0)),
        ("m = Where(c, zero, nan)", None),
        ("m = Where(c, x, low)", None),
        ("a = Where(c, zero, low) e = Expand(a, shape) m = Transpose(e)", (-LARGEST, 0.0)),
        ("a = Cast<to = 1>(c) b = Sub(one, a) m = Mul(b, low)", (-LARGEST, 0.0)),  # as BERT writes it
        ("a = Cast<to = 10>(c) m = Cast<to = 1>(a)", None),  # FP16 has another largest number
        ("p = MatMul(x, w) a = Where(c, zero, low) m = Add(p, a)", (-LARGEST, 0.0)),
        ("a = Where(c, zero, low) b = Where(c, zero, low) m = Add(a, b)", (-2 * LARGEST, 0.0)),
        ("a = Where(c, zero, inf) m = Mul(a, zero)", None),
        ("m = ConstantOfShape(shape)", (0.0, 0.0)),
        ("m = Identity(x)", None),
        ("m = Exp(x)", None),
    ],
)
def test_between(body: str, found: tuple[float, float] | None) -> None:
    model = ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[2, 2] x, bool[2, 2] c) => (float[2, 2] m) {INITIAL} {{ {body} }}""")
    for value in model.graph.inputs:  # parsed types reach the readers
        assert value.dtype is not None
    assert between(model.graph.outputs[0]) == found
    assert finite(model.graph.outputs[0]) == (found is not None and found[0] >= -LARGEST)

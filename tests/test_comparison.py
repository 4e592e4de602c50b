"""Two model files side by side: every layer that both have, and the one where an error begins."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.calibrate import calibrate
from dlc.comparison import Comparison, Layer, Subject, compare
from dlc.errors import ModelError, UserError
from dlc.harness.agreement import SQNR_MAX
from dlc.inner import HELD
from dlc.passes.cast_fp16 import CastFp16
from dlc.passes.qdq import quantize_weight, weight_scales
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic, tensors_to_calibrate
from dlc.runtimes.session import SessionConfig
from dlc.types import Array
from tests.passes.weights import WITH_CONTRIB, weighted

DEPTH, WIDTH = 6, 16
FEEDS = [{"x": np.random.default_rng(i).standard_normal((3, WIDTH)).astype(np.float32)} for i in range(2)]
BODY = f"""g (float[n, {WIDTH}] x, {", ".join(f"float[{WIDTH}, {WIDTH}] w{i}" for i in range(DEPTH))}) =>
    (float[n, {WIDTH}] y) {{
    {" ".join(f"m{i} = MatMul({f'r{i - 1}' if i else 'x'}, w{i}) r{i} = Relu(m{i})" for i in range(DEPTH))}
    y = Identity(r{DEPTH - 1})
}}"""


def weight(i: int) -> Array:
    return (np.random.default_rng(i).standard_normal((WIDTH, WIDTH)) / 3).astype(np.float32)


def chain(change: Callable[[dict[str, Array]], object] = lambda _: None) -> ir.Model:
    weights = {f"w{i}": weight(i) for i in range(DEPTH)}
    change(weights)
    return weighted(BODY, weights)


@pytest.fixture
def against(tmp_path: Path) -> Callable[..., Comparison]:
    def run(model: ir.Model, reference: ir.Model | None = None, *, held: int = HELD, layers: bool = True) -> Comparison:
        for name, each in (("one", reference or chain()), ("other", model)):
            ir.save(each, tmp_path / f"{name}.onnx")
        one, other = (Subject(n, tmp_path / f"{n}.onnx", SessionConfig()) for n in ("one", "other"))
        return compare(one, other, FEEDS, "seeded", layers=layers, max_ram=held)

    return run


Against = Callable[..., Comparison]


def activations(found: Comparison) -> list[Layer]:
    return [each for each in found.layers if each.kind == "activation"]


def test_equal_models(against: Against) -> None:
    found = against(chain())
    assert {each.apart.sqnr_db for each in (*found.outputs, *found.layers)} == {SQNR_MAX}
    assert (len(activations(found)), len(found.layers)) == (2 * DEPTH + 1, 3 * DEPTH + 1)
    assert (found.unmatched, found.first, found.threshold_db) == ((), None, 80)
    assert against(chain(), layers=False).layers == ()


@pytest.mark.parametrize("held", [HELD, 1], ids=["together", "one at a time"])
@pytest.mark.parametrize("at", range(DEPTH))
def test_the_layer_where_an_error_begins(against: Against, at: int, held: int) -> None:
    def change(weights: dict[str, Array]) -> None:
        weights[f"w{at}"][:, 0] *= 1.05

    found = against(chain(change), held=held)
    assert found.first is not None
    assert (found.first.value, found.first.node, found.first.op) == (f"m{at}", f"node_m{at}", "MatMul")
    assert [e.apart.sqnr_db for e in activations(found) if e.step < 2 * at] == [SQNR_MAX] * (2 * at)
    changed = [e.value for e in found.layers if e.kind == "weight" and e.apart.sqnr_db < SQNR_MAX]
    assert changed == [f"w{at}"]


def test_static_int8_is_compared_as_it_is_dequantized(against: Against) -> None:
    model = chain()
    ranges = calibrate(model, FEEDS, tensors_to_calibrate(model), method="minmax")
    QuantizeStatic(ranges=ranges, reduce_range=False)(model)
    found = against(model)
    weights = {e.value: e for e in found.layers if e.kind == "weight"}
    assert len(weights) == DEPTH
    for i in range(DEPTH):
        columns = weight(i).T
        scales = weight_scales(columns, pairs=False, bias=None, x_scale=np.float32(1))
        rounded = quantize_weight(columns, scales) * scales[:, None]
        assert weights[f"w{i}"].apart.max_abs == np.abs(rounded - columns).max()
    got = {e.value: e.got for e in activations(found)}
    assert got["r2"] == "r2_dequantized"
    assert found.threshold_db == 20
    assert all(20 < e.apart.sqnr_db < 60 for e in activations(found) if e.value.startswith("r"))


def test_dynamic_int8(against: Against) -> None:
    model = chain()
    QuantizeDynamic()(model)
    found = against(model)
    assert len([e for e in found.layers if e.kind == "weight"]) == DEPTH
    assert {e.value for e in activations(found)} >= {f"m{i}" for i in range(DEPTH)}
    assert found.first is None


def test_fp16(against: Against) -> None:
    model = chain()
    CastFp16()(model)
    found = against(model)
    assert found.threshold_db == 30
    assert all(e.apart.sqnr_db > 60 for e in found.layers if e.kind == "weight")  # one rounding: 2^-11/sqrt(3), 71 dB


def test_what_has_no_counterpart_says_so(against: Against) -> None:
    model = chain()
    node = next(n for n in model.graph if n.outputs[0].name == "m1")
    node.outputs[0].name, model.graph.initializers["w3"].name = "other", "v3"
    found = against(model)
    assert {(u.kind, u.value, u.reason) for u in found.unmatched} == {
        ("activation", "m1", "the candidate has no value of that name"),
        ("weight", "w3", "the candidate has no weight of that name"),
    }


def test_a_shape_that_differs_is_not_compared(against: Against) -> None:
    body = BODY.replace("r1 = Relu(m1)", "t = Transpose(m1) u = Relu(t) r1 = Transpose(u)")
    model = weighted(body, {f"w{i}": weight(i) for i in range(DEPTH)})
    for value in (v for n in model.graph for v in n.outputs):
        value.name = {"t": "m1x", "u": "r0x"}.get(str(value.name), value.name)
    other = chain()
    other.graph[3].outputs[0].name = "r0x"
    found = against(model, other)
    assert ("r0x", "its shape is [16, 3], not [3, 16]") in {(u.value, u.reason) for u in found.unmatched}


def test_nan_on_one_side(against: Against) -> None:
    def change(weights: dict[str, Array]) -> None:
        weights["w2"][0, 0] = np.nan

    found = against(chain(change))
    assert found.differs_in_kind
    assert found.first is not None
    assert found.first.value == "m2"


def test_another_interface(against: Against) -> None:
    model = chain()
    model.graph.outputs[0].name = "z"
    with pytest.raises(UserError, match="differ in interface"):
        against(model)


def test_outputs_are_the_same_whether_weights_are_mapped_or_not(against: Against) -> None:
    model = chain(lambda weights: weights.update(w2=weights["w2"] * np.float32(1.01)))
    assert against(model).outputs == against(model, layers=False).outputs


def test_an_error_names_the_file_that_was_given(against: Against, tmp_path: Path) -> None:
    broken = weighted(BODY.replace("Identity(", "com.microsoft.NoSuchOp("), {f"w{i}": weight(i) for i in range(DEPTH)},
                      WITH_CONTRIB)  # fmt: skip
    for layers in (True, False):
        with pytest.raises(ModelError, match=re.escape(f"cannot load {tmp_path / 'other.onnx'}")):
            against(broken, layers=layers)

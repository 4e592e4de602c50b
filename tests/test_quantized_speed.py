"""Why a quantized model is slow: models as onnxruntime.quantization writes them by default, and as dlc does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime.quantization as stock
import pytest

from dlc.calibrate import calibrate
from dlc.inspection import inspect
from dlc.passes.quantize_dynamic import QuantizeDynamic
from dlc.passes.quantize_static import QuantizeStatic, tensors_to_calibrate
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.quantized_speed import Finding, findings, is_quantized
from dlc.runtimes.loaded import Kernel, Loaded, load_as_run
from dlc.target import Target
from dlc.types import Feeds
from tests.passes.quantized import dynamically, statically
from tests.passes.weights import WITH_CONTRIB, weighted

VNNI = Target("cpu", "x86_64", ("avx2", "avx512_vnni"), 1, "onnxruntime 1.32", 26, 13)
PLAIN = replace(VNNI, isa=("avx2",))
ARM = replace(VNNI, arch="aarch64", isa=("asimddp",))
rng = np.random.default_rng(0)
FEEDS: Feeds = {"x": rng.standard_normal((1, 8, 12, 12)).astype(np.float32)}
BODY = """g (float[1, 8, 12, 12] x, float[16, 8, 3, 3] w, float[16] b, float[16, 16, 3, 3] v, float[16] c) =>
    (float[1, 16, 12, 12] y) {
    h = Conv<pads = [1, 1, 1, 1]>(x, w, b)
    a = MIDDLE(h)
    y = Conv<pads = [1, 1, 1, 1]>(a, v, c)
}"""


def network(middle: str = "Relu") -> ir.Model:
    """Two convolutions, and something between them."""
    shapes = {"w": (16, 8, 3, 3), "b": (16,), "v": (16, 16, 3, 3), "c": (16,)}
    weights = {name: np.random.default_rng(1).standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    return weighted(BODY.replace("MIDDLE", middle), weights)


def product(expression: str = "MatMul(x, w)", header: str = WITH_CONTRIB) -> ir.Model:
    body = f"g (float[8, 64] x, float[64, 32] w) => (float[8, 32] y) {{ y = {expression} }}"
    return weighted(body, {"w": np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)}, header)


def ours(model: ir.Model, feeds: Feeds = FEEDS, *, reduce_range: bool = True) -> ir.Model:
    ranges = calibrate(model, [feeds], tensors_to_calibrate(model))
    QuantizeStatic(ranges=ranges, reduce_range=reduce_range)(model)
    return model


def found(model: ir.Model, target: Target = VNNI, feeds: Feeds | None = None) -> dict[str, Finding]:
    return {f.what: f for f in findings(model, load_as_run(model, feeds), target)}


def test_ours_is_found_without_fault() -> None:
    assert found(ours(network()), feeds=FEEDS) == {}
    assert found(ours(network()), PLAIN) == {}  # reduce_range is on unless it is turned off
    dynamic = product()
    QuantizeDynamic()(dynamic)
    assert found(dynamic) == {}
    blocks = product()
    QuantizeWeights(bits=8, min_elements=1)(blocks)
    assert found(blocks) == {}


def test_a_float_model_is_not_quantized() -> None:
    assert not is_quantized(network())
    assert is_quantized(ours(network()))


def test_the_defaults_of_onnxruntime() -> None:
    """s8 activations, s8 weights, one scale a weight."""
    model = statically(network(), [FEEDS], activation_type=stock.QuantType.QInt8, per_channel=False)
    seen = found(model, feeds=FEEDS)
    assert set(seen) >= {"s8·s8 on x86", "one scale a weight"}
    signed = seen["s8·s8 on x86"]
    assert (signed.op, signed.nodes) == ("Conv", ("node_h", "node_y"))
    assert signed.share is not None
    assert 0 < signed.share <= 1
    assert "QUInt8" in signed.way_out
    assert seen["one scale a weight"].share is None
    assert "s8·s8 on x86" not in found(model, ARM)


def test_unsigned_weights() -> None:
    model = statically(network(), [FEEDS], weight_type=stock.QuantType.QUInt8, per_channel=False)
    assert found(model)["u8·u8 on x86"].nodes == ("node_h", "node_y")
    assert "u8·u8 on x86" not in found(model, PLAIN)


def test_pairs_that_saturate_without_an_integer_dot_product() -> None:
    model = ours(network(), reduce_range=False)
    assert found(model, PLAIN)["weights of full range"].nodes == ("node_h", "node_y")
    assert found(model, VNNI) == {}
    dynamic = product()
    QuantizeDynamic(reduce_range=False)(dynamic)
    assert "weights of full range" in found(dynamic, PLAIN)
    careful = product()
    QuantizeDynamic(reduce_range=True)(careful)
    assert found(careful, PLAIN) == {}


def test_an_operator_without_an_integer_kernel() -> None:
    seen = found(ours(network("HardSigmoid")), feeds=FEEDS)
    assert (seen["no integer kernel"].op, seen["no integer kernel"].nodes) == ("HardSigmoid", ("node_a",))
    assert "--variants int8 --exclude HardSigmoid;" in seen["no integer kernel"].way_out
    share = seen["no integer kernel"].share
    assert share is not None
    assert share > 0


def test_a_product_that_is_no_whole_unit() -> None:
    """The last convolution's result stays in float, so its weights are dequantized in every run."""
    model = ours(network())
    pair = model.graph.outputs[0].producer()
    assert pair is not None
    assert pair.op_type == "DequantizeLinear"
    convolution = next(n for n in model.graph if n.name == "node_y")
    model.graph.outputs[0] = convolution.outputs[0]
    convolution.outputs[0].name, pair.outputs[0].name = "y", "gone"
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
    unfused = found(model, feeds=FEEDS)["unfused Q/DQ"]
    assert unfused.nodes == ("node_y",)
    assert "its result is not quantized" in unfused.why


def test_a_pair_around_nothing() -> None:
    body = """g (float[8, 64] x, float s, uint8 z) => (float[8, 64] y) {
        a = Exp(x) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) y = Exp(d)
    }"""
    model = weighted(body, {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)})
    assert found(model)["Q/DQ around nothing"].nodes == ("node_q",)


def test_dynamic_convolution() -> None:
    seen = found(dynamically(network()), feeds=FEEDS)
    assert seen["dynamically quantized Conv"].op == "ConvInteger"
    assert len(seen["dynamically quantized Conv"].nodes) == 2


@pytest.mark.parametrize(("bits", "level", "slow"), [(8, 0, True), (8, 4, False), (4, 0, False)])
def test_blocks_at_an_accuracy_level(bits: int, level: int, slow: bool) -> None:
    model = product()
    QuantizeWeights(bits=bits, accuracy_level=level, min_elements=1)(model)
    assert ("8-bit blocks at accuracy_level 0" in found(model)) is slow


def test_nodes_on_another_provider() -> None:
    kernels = (
        Kernel("a", "Conv", "CUDAExecutionProvider", 0.5), Kernel("b", "TopK", "CPUExecutionProvider", 0.25),
        Kernel("c", "TopK", "CPUExecutionProvider", 0.25),
    )  # fmt: skip
    [stray] = findings(network(), Loaded(network(), kernels), replace(VNNI, provider="cuda"))
    assert (stray.what, stray.op, stray.nodes, stray.share) == ("fallback", "TopK", ("b", "c"), 0.5)


def test_the_time_of_nodes_without_a_name_is_told(tmp_path: Path) -> None:
    model = dynamically(network())
    for node in model.graph:
        node.name = None
    ir.save(model, tmp_path / "unnamed.onnx")
    [slow] = [f for f in inspect(tmp_path / "unnamed.onnx", {}).quantization or () if f.op == "ConvInteger"]
    assert slow.share is not None
    assert slow.share > 0


def test_the_time_of_all_nodes_adds_up() -> None:
    loaded = load_as_run(ours(network()), FEEDS)
    assert sum(k.share for k in loaded.kernels) == pytest.approx(1)
    assert {k.op for k in loaded.kernels} >= {"QLinearConv"}
    assert {k.node for k in loaded.kernels} == {n.name for n in loaded.graph.graph}
    assert load_as_run(network()).kernels == ()

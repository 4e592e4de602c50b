"""Static or dynamic: nets of products with a convolution in front, as vision transformers are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.calibration import Calibration
from dlc.cost_table import Cost
from dlc.costs import Costs
from dlc.errors import NotHere, Unsupported
from dlc.manifest import Estimate
from dlc.passes.base import Pass
from dlc.quantization import Int8
from dlc.recipe import Dataset, Recipe
from dlc.runtimes.session import SessionConfig
from dlc.stages.eight_bit import NO_DATA, int8, mostly_products, quicker
from dlc.stages.rewriting import rewrite
from dlc.stages.variants import build
from dlc.target import detect
from dlc.types import Array, Feeds
from tests.passes.weights import normal, weighted

DEPTH, WIDTH = 6, 32
LAYERS = " ".join(f"h{i + 1} = MatMul(h{i}, w{i})" for i in range(DEPTH))
PATCHES = f"""g (float[n, 3, 8, 8] x, float[{WIDTH}, 3, 4, 4] p, SHAPES) => (float[n, {WIDTH}, {WIDTH}] y) {{
    c = Conv<strides = [4, 4]>(x, p)
    f = Reshape(c, flat)
    h0 = MatMul(f, e)
    {LAYERS}
    y = Relu(h{DEPTH})
}}""".replace(
    "SHAPES", f"float[4, {WIDTH}] e, int64[3] flat, " + ", ".join(f"float[{WIDTH}, {WIDTH}] w{i}" for i in range(DEPTH))
)


def vision() -> ir.Model:
    weights: dict[str, Array] = {f"w{i}": normal(WIDTH, WIDTH, seed=i) / 6 for i in range(DEPTH)}
    weights |= {"p": normal(WIDTH, 3, 4, 4, seed=9) / 7, "e": normal(4, WIDTH, seed=8) / 2}
    weights["flat"] = np.array([0, WIDTH, 4])
    model = weighted(PATCHES, weights)
    for value in (v for node in model.graph for v in node.outputs):
        value.dtype = ir.DataType.FLOAT
        value.shape = ir.Shape(
            ["n", WIDTH, 2, 2] if value.name == "c" else ["n", WIDTH, 4 if value.name == "f" else WIDTH]
        )
    return model


IMAGES = Dataset("images", lambda: ({"x": normal(16, 3, 8, 8, seed=s)} for s in range(20, 24)))
FEEDS: Feeds = {"x": normal(2, 3, 8, 8, seed=30)}


@pytest.fixture
def costs() -> Costs:
    return Costs(detect(), SessionConfig(), FEEDS)


def declared(data: Dataset | None, **options: object) -> Recipe:
    return Recipe(name="m", source=Path("m.onnx"), calibration=data, **options)  # type: ignore[arg-type]


def test_without_data_products_are_quantized_and_the_convolution_says_why_not(costs: Costs) -> None:
    model = vision()
    built = build("int8", rewrite(model, costs, ()), declared(None), costs)
    assert built.model is not None
    assert built.quantized is not None
    assert built.quantized.converted["MatMul"] == DEPTH + 1
    [left] = built.quantized.left
    assert left.op == "Conv"
    assert "dynamic int8 convolution is slower" in str(left.reason)
    assert NO_DATA in built.notes


def test_a_net_of_convolutions_still_asks_for_data() -> None:
    model = vision()
    for i in range(DEPTH):
        value = model.graph.initializers[f"w{i}"]
        value.const_value = ir.tensor(np.zeros((WIDTH, 1), np.float32), name=value.name)  # too few to matter
    assert not mostly_products(model)
    with pytest.raises(Unsupported, match="give the recipe a calibration set"):
        int8(model, declared(None), detect())


def names(passes: list[Pass]) -> str:
    return passes[-1].name


@pytest.mark.parametrize(("ratio", "kind"), [(0.5, "quantize-dynamic"), (2.0, "quantize-static")])
def test_with_data_dynamic_takes_over_where_it_is_faster(
    ratio: float, kind: str, costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is stated: which is faster is the machine's affair."""
    timed = Cost(before_ns=1.0, after_ns=ratio, ratio=Estimate(value=ratio, low=ratio, high=ratio))
    monkeypatch.setattr(Costs, "whole", lambda *_, **__: timed)
    model, recipe = vision(), declared(IMAGES, int8=Int8(recover=()))
    static = int8(model, recipe, costs.target)
    assert names(static) == "quantize-static"
    assert names(quicker(model, static, recipe, costs)) == kind


def test_static_stays_where_dynamic_is_further_away(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    """One large pixel in each batch, of which the net knows nothing, spoils the scale that is made at run time."""

    def loud() -> Iterator[Feeds]:
        for feeds in IMAGES.batches():
            x = feeds["x"].copy()
            x[0, 0, 0, 0] = 3e4
            yield {"x": x}

    def never(*_: object, **__: object) -> Cost:
        raise AssertionError

    model = vision()
    embed = model.graph.initializers["e"]
    assert embed.const_value is not None
    unread = embed.const_value.numpy().copy()
    unread[0] = 0  # the first patch
    embed.const_value = ir.tensor(unread, name="e")
    options = Calibration(method="percentile", percentile=99.0)
    recipe = declared(Dataset("loud", loud), calibrate=options, int8=Int8(recover=()))
    static = int8(model, recipe, costs.target)
    monkeypatch.setattr(Costs, "whole", never)  # what is further away need not be timed
    assert quicker(model, static, recipe, costs) is static


def test_on_another_machine_s_costs_static_stays(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(*_: object, **__: object) -> Cost:
        raise NotHere("not measured on the target")

    monkeypatch.setattr(Costs, "whole", elsewhere)
    model, recipe = vision(), declared(IMAGES, int8=Int8(recover=()))
    static = int8(model, recipe, costs.target)
    assert quicker(model, static, recipe, costs) is static


def test_a_batch_norm_that_fp32_may_keep_is_no_part_of_an_8_bit_net(costs: Costs) -> None:
    """ONNX Runtime folds one itself when it loads the FP32 graph; between an integer kernel and its Q it cannot."""
    shapes = "float[8, 3, 3, 3] p, float[8] s, float[8] b, float[8] m, float[8] v"
    model = weighted(
        f"""g (float[n, 3, 8, 8] x, {shapes}) => (float[n, 8, 6, 6] y) {{
            c = Conv(x, p) d = BatchNormalization(c, s, b, m, v) y = Relu(d)
        }}""",
        {"p": normal(8, 3, 3, 3, seed=1), "s": np.full(8, 2, np.float32), "b": normal(8, seed=2),
         "m": normal(8, seed=3), "v": np.full(8, 4, np.float32)},
    )  # fmt: skip
    for value in (v for node in model.graph for v in node.outputs):
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(["n", 8, 6, 6])
    base = rewrite(model, costs, ())
    assert any(n.op_type == "BatchNormalization" for n in base.model.graph)
    built = build("int8", base, declared(IMAGES, int8=Int8(recover=())), costs)
    assert built.model is not None
    assert {n.op_type for n in built.model.graph} == {"QuantizeLinear", "DequantizeLinear", "Conv"}

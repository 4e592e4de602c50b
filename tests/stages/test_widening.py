"""Bits go where they buy most, within their room, and nowhere if they buy no more there than anywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from dlc.passes.base import weight_bytes
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.recipe import Dataset
from dlc.runtimes.session import SessionConfig
from dlc.stages.recovering import applied, sqnr_db
from dlc.stages.widening import ROOM, Group, affordable, groups, widened
from dlc.types import Feeds
from tests.passes.weights import weighted

LAYERS, WIDTH = 24, 64
LOUD = 17


def batches() -> Iterator[Feeds]:
    rng = np.random.default_rng(3)
    return ({"x": rng.standard_normal((32, WIDTH)).astype(np.float32)} for _ in range(4))


DATA = Dataset("noise", batches)


def chain(loud: float) -> ir.Model:
    """Products in a residual stream; what one of them adds is ``loud`` times what the others do."""
    steps = "\n".join(
        f"p{i} = MatMul(h{i}, w{i}) s{i} = Mul(p{i}, {'loud' if i == LOUD else 'one'}) h{i + 1} = Add(h{i}, s{i})"
        for i in range(LAYERS)
    )
    names = ", ".join(f"float[{WIDTH}, {WIDTH}] w{i}" for i in range(LAYERS))
    rng = np.random.default_rng(5)
    body = f"""g (float[m, {WIDTH}] x, {names}, float[1] one, float[1] loud) => (float[m, {WIDTH}] h{LAYERS}) {{
        h0 = Mul(x, one) {steps}
    }}"""
    weights = {f"w{i}": 0.02 * rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for i in range(LAYERS)}
    scales = {"one": np.ones(1, np.float32), "loud": np.full(1, loud, np.float32)}
    made = weighted(body, {**weights, **scales})
    for value in (v for node in made.graph for v in node.outputs):
        value.dtype = ir.DataType.FLOAT
    return made


def test_the_one_product_that_makes_the_noise_takes_8_bits_within_the_room() -> None:
    model, form = chain(loud=20.0), QuantizeWeights(accuracy_level=0)
    wide = widened(model, form, DATA, SessionConfig())
    assert wide.wide == (f"node_p{LOUD}",)
    narrow, changed = applied(model, form), applied(model, wide)
    assert weight_bytes(narrow) < weight_bytes(changed) <= (1 + ROOM) * weight_bytes(narrow)
    assert sqnr_db(model, wide, DATA, 1) > sqnr_db(model, form, DATA, 1) + 3  # it made half of the noise, or more
    bits = [n.attributes.get_int("bits") for n in changed.graph if n.op_type == "MatMulNBits"]
    assert bits == [8 if i == LOUD else 4 for i in range(LAYERS)]


def test_noise_that_all_products_make_alike_is_not_worth_bytes() -> None:
    form = QuantizeWeights(accuracy_level=0)
    assert widened(chain(loud=1.0), form, DATA, SessionConfig()) == form


def test_a_model_of_one_product_has_nothing_to_choose() -> None:
    body = "g (float[m, 64] x, float[64, 48] w) => (float[m, 48] y) { y = MatMul(x, w) }"
    one = weighted(body, {"w": np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)})
    assert widened(one, QuantizeWeights(), DATA, SessionConfig()) == QuantizeWeights()


@pytest.mark.parametrize(("looks", "parts"), [(2, 2), (3, 2), (8, 5), (99, 8)])
def test_groups_are_cut_where_the_noise_is_as_often_as_measurements_allow(looks: int, parts: int) -> None:
    asked: list[Sequence[str]] = []

    def measured(names: Sequence[str]) -> Group:
        asked.append(names)
        return Group(names, 5.0 * ("f" in names) + 0.1 * len(names), len(names))

    found = groups(measured, "abcdefgh", looks)
    assert len(found) == parts
    assert len(asked) <= looks
    assert sorted("".join("".join(g.names) for g in found)) == list("abcdefgh")
    assert parts < 5 or any(list(g.names) == ["f"] for g in found)


def test_one_product_is_a_group_that_is_measured() -> None:
    alone = Group(["a"], 0.5, 100)
    assert groups(lambda _: alone, ["a"]) == [alone]
    assert affordable([alone], 100) == {"a"}


def test_what_is_bought_is_the_most_that_fits() -> None:
    found = [Group("a", 6.0, 6), Group("b", 5.0, 4), Group("c", 1.0, 2), Group("d", 0.0, 1), Group("e", 9.0, 30)]
    assert affordable(found, 10) == {"a", "b"}
    assert affordable(found, 9) == {"a", "c"}  # by gain for a byte it would be b and c
    assert affordable(found, 6) == {"a"} or affordable(found, 6) == {"b", "c"}  # both gain 6
    assert affordable(found, 1) == set()

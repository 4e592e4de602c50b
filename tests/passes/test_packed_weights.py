"""Each weight is stored once, however many operators read it."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.errors import Unsupported
from dlc.passes.blockwise import quantize
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.runtimes.ort_cpu import OrtCpuRunner
from tests.passes.texts import expected, serialized, sites, text
from tests.passes.weights import TIED, normal, weighted

EPS = 2.0**-24
"""Half the gap between FP32 neighbours, relative: the rounding error of one operation."""


def test_a_shared_weight_is_stored_once() -> None:
    body = """g (float[m, 64] x, float[64, 64] w) => (float[m, 64] y) { h = MatMul(x, w) y = MatMul(h, w) }"""
    model = weighted(body, {"w": normal(64, 64)})
    assert [s.applied for s in sites(model, QuantizeWeights())] == [True, True]
    assert list(model.graph.initializers) == ["w_q4", "w_scale"]


@pytest.mark.parametrize("bits", [4, 8])
def test_golden_a_product_by_a_tables_numbers_reads_the_table(bits: int) -> None:
    w = normal(40, 64)
    model = weighted(TIED, {"w": w, "t": np.ascontiguousarray(w.T)})
    sites(model, QuantizeWeights(bits=4, table_bits=bits, accuracy_level=0, symmetric=False))
    width = 64 * bits // 8
    assert text(model) == expected(f"""
        e = GatherBlockQuantized(w_q{bits}, i, w_scale, w_zero)
        w_q{bits}_blocks = Reshape(w_q{bits}, w_q{bits}_shape)
        y = MatMulNBits(e, w_q{bits}_blocks, w_scale, w_zero)
        w_q{bits}: [40,{width}]
        w_scale: [40,2]
        w_zero: [40,{2 * bits // 8}]
        w_q{bits}_shape: [3]
    """)
    product = model.graph[-1]
    assert product.attributes.get_int("bits", 0) == bits
    table = quantize(w, bits=bits, block=32, symmetric=False, search=True).dequantize()
    i = np.arange(40)
    with OrtCpuRunner(model) as runner:
        got = runner.run({"i": i})["y"]
    wide = np.abs(table).astype(np.float64)
    # A product of 64 terms and the dequantization of each: 2 * 64 + 1 roundings of the absolute terms at most.
    assert (np.abs(got - table.astype(np.float64) @ table.T) <= (2 * 64 + 1) * EPS * (wide @ wide.T)).all()


def test_one_table_read_by_a_gemm_too_is_stored_once() -> None:
    body = """g (int64[m] i, float[40, 64] w) => (float[m, 40] y) {
        e = Gather(w, i) y = Gemm<transB = 1>(e, w)
    }"""
    model = weighted(body, {"w": normal(40, 64)})
    assert all(s.applied for s in sites(model, QuantizeWeights()))
    assert sorted(model.graph.initializers) == ["w_q4", "w_q4_shape", "w_scale"]


TRANSPOSED = """g (int64[m] i, float[40, 64] w) => (float[m, 40] y) {
    t = Transpose<perm = [1, 0]>(w) e = Gather(w, i) y = MatMul(e, t)
}"""


def test_golden_a_product_by_a_tables_transpose_reads_the_table() -> None:
    model = weighted(TRANSPOSED, {"w": normal(40, 64)})
    assert all(s.applied for s in sites(model, QuantizeWeights()))
    assert text(model) == expected("""
        e = GatherBlockQuantized(w_q4, i, w_scale)
        w_q4_blocks = Reshape(w_q4, w_q4_shape)
        y = MatMulNBits(e, w_q4_blocks, w_scale)
        w_q4: [40,32]
        w_scale: [40,2]
        w_q4_shape: [3]
    """)


def test_a_table_whose_transpose_is_read_otherwise_stays() -> None:
    model = weighted(TRANSPOSED.replace("MatMul(e, t)", "Gemm(e, t)"), {"w": normal(40, 64)})
    before = serialized(model)
    with pytest.raises(Unsupported, match="weight is also read by Transpose 'node_t'"):
        QuantizeWeights()(model)
    assert serialized(model) == before


def test_other_numbers_of_the_same_shape_are_stored_apart() -> None:
    w = normal(40, 64)
    other = np.ascontiguousarray(w.T)
    other[3, 3] += 1
    model = weighted(TIED, {"w": w, "t": other})
    sites(model, QuantizeWeights())
    assert sorted(model.graph.initializers) == ["t_q4", "t_scale", "w_q4", "w_scale"]

from __future__ import annotations

import onnx_ir as ir
import pytest

from dlc.errors import Unsupported
from dlc.kv_cache import cached, kv_cache

CONCAT = """<ir_version: 10, opset_import: ["" : 20]>
g (float16[b, 2, p, 64] past_k, float16[b, 2, p, 64] past_v, float16[b, 2, 1, 64] k, float16[b, 2, 1, 64] v)
=> (float16[b, 2, t, 64] present_k, float16[b, 2, t, 64] present_v) {
    present_k = Concat<axis = AXIS>(past_k, k) present_v = Concat<axis = 2>(past_v, v)
}"""

SHARED = """<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
g (float[b, 1, 256] q, float[b, 1, 128] k, float[b, 1, 128] v, float[b, 2, p, 64] pk, float[b, 2, p, 64] pv,
   int32[b] n, int32 total) => (float[b, 1, 256] y, float[b, 2, p, 64] ok, float[b, 2, p, 64] ov) {
    y, ok, ov = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>(q, k, v, pk, pv, n, total)
}"""


def read(text: str) -> ir.Model:
    return ir.from_onnx_text(text)


def test_a_cache_that_grows_by_concat() -> None:
    cache = kv_cache(read(CONCAT.replace("AXIS", "2")), context=100, batch=3)
    assert cache is not None
    assert (cache.layers, cache.heads, cache.head_size, cache.dtype) == (1, 2, 64, "FLOAT16")
    assert cache.token_bytes == 2 * 2 * 64 * 2  # keys and values, heads, head size, bytes
    assert cache.one_buffer == 512 * 100 * 3
    assert cache.two_buffers == 512 * 199 * 3
    assert cache.saving == 512 * 99 * 3
    assert not cache.can_share


def test_grouped_query_attention_can_share_one_buffer() -> None:
    cache = kv_cache(read(SHARED), context=8)
    assert cache is not None
    assert cache.can_share
    assert cache.token_bytes == 2 * 2 * 64 * 4
    assert [(c.past, c.present) for c in cached(read(SHARED).graph)] == [("pk", "ok"), ("pv", "ov")]


def test_a_concat_along_another_axis_is_no_cache() -> None:
    model = read(CONCAT.replace("AXIS", "3").replace("<axis = 2>", "<axis = 1>"))
    assert cached(model.graph) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("AXIS", "3"), ("[b, 2, p, 64] past_k", "[b, h, p, 64] past_k"), ("[b, 2, p, 64] past_k", "[b, 4, p, 64] past_k")],
    ids=["alone", "of a size that is not fixed", "of another shape"],
)
def test_what_is_no_pair_is_no_cache(old: str, new: str) -> None:
    """An image that is padded with a row is joined along the same axis as keys are."""
    assert kv_cache(read(CONCAT.replace(old, new).replace("AXIS", "2")), 8) is None


def test_a_model_without_cache() -> None:
    assert (
        kv_cache(read('<ir_version: 10, opset_import: ["" : 20]> g (float[n] x) => (float[n] y) { y = Neg(x) }'), 8)
        is None
    )


def test_heads_of_unknown_number_are_named() -> None:
    with pytest.raises(Unsupported, match=r"'pk' has dimension 'h'"):
        kv_cache(read(SHARED.replace("[b, 2, p, 64] pk", "[b, h, p, 64] pk")), 8)

from __future__ import annotations

from dlc.manifest import SiteRecord
from dlc.report.sites import GROUPS, Group, gather, shared
from tests.report.example import CANONICALIZE, FOLD, QUANTIZE, site


def test_alike_sites_are_counted_and_named_up_to_the_cap() -> None:
    sites = [site("a", reason="no"), site("b"), site("c", reason="no"), site("d", reason="no"), site("e", "Gemm", "no")]
    assert gather(sites, 2) == [
        Group("quantize-static", "Conv", None, 1, ("b",)),
        Group("quantize-static", "Conv", "no", 3, ("a", "c")),
        Group("quantize-static", "Gemm", "no", 1, ("e",)),
    ]
    assert [g.unnamed for g in gather(sites, 2)] == [0, 1, 0]


def test_reasons_beyond_the_cap_are_summed_up() -> None:
    sites: list[SiteRecord] = [site(f"n{i}", reason=f"reason {i}") for i in range(GROUPS + 5)]
    groups = gather(sites, 10)
    assert sum(g.count for g in groups) == len(sites)
    assert groups[-1].reason == "5 other reasons: see manifest.json"


def test_a_pass_that_variants_share_is_listed_once() -> None:
    rows = shared({"fp32": (CANONICALIZE, FOLD), "int8": (CANONICALIZE, FOLD, QUANTIZE), "bf16": ()})
    assert rows == [(CANONICALIZE, ("fp32", "int8")), (FOLD, ("fp32", "int8")), (QUANTIZE, ("int8",))]

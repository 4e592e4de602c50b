from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlc.manifest import LayerRecord, Lifetime, Manifest
from dlc.report.latency import distributions
from dlc.report.layers import SHOWN, by_sqnr
from dlc.report.lifetimes import NAMED, peak, plan
from dlc.report.svg import Box, Scale, place, tick_label, width_of
from dlc.report.tradeoff import tradeoff
from tests.report.example import (
    ACTIVATIONS,
    EXAMPLES,
    FP32,
    INT4,
    INT8,
    LABELLED,
    NOTHING_BUILT,
    UNLABELLED,
    estimate,
    latency,
    lifetimes,
    memory,
)  # fmt: skip

spans = st.tuples(st.floats(1e-3, 1e6), st.floats(1.01, 1e4))


def texts(picture: str) -> dict[str, ET.Element]:
    return {e.text or "": e for e in ET.fromstring(picture).iter("text")}


def boxes(picture: str, style: str) -> dict[str, Box]:
    """Boxes of the texts of one style, as wide as the layout takes them to be."""
    found = {}
    for words, element in texts(picture).items():
        if style in element.attrib.get("class", ""):
            wide = width_of(words)
            shift = {"middle": wide / 2, "end": wide}.get(element.attrib.get("text-anchor", ""), 0.0)
            found[words] = Box(float(element.attrib["x"]) - shift, float(element.attrib["y"]) - 12, wide, 16)
    return found


def inside(box: Box, picture: str) -> bool:
    _, _, wide, high = map(float, ET.fromstring(picture).attrib["viewBox"].split())
    return box.left >= 0 and box.top >= 0 and box.left + box.width <= wide and box.top + box.height <= high


@given(spans)
def test_ticks_are_round_distinct_and_inside(span: tuple[float, float]) -> None:
    low, high = span[0], span[0] * span[1]
    ticks = Scale(low, high, 0, 100).ticks()
    slack = (high - low) * 1e-6
    assert 2 <= len(ticks) <= 7
    assert all(low - slack <= t <= high + slack for t in ticks)
    labels = [tick_label(t, ticks) for t in ticks]
    assert len(set(labels)) == len(labels)


@given(spans, st.floats(0, 1))
def test_scales_keep_order_and_ends(span: tuple[float, float], share: float) -> None:
    low, high = span[0], span[0] * span[1]
    for log in (False, True):
        scale = Scale(low, high, 10, 90, log=log)
        middle = low + share * (high - low)
        rounding = 80 * 1e-9
        assert 10 - rounding <= scale(low) <= scale(middle) + rounding
        assert scale(middle) - rounding <= scale(high) <= 90 + rounding


def test_a_label_goes_where_it_covers_least() -> None:
    room, taken = Box(0, 0, 100, 100), [Box(0, 0, 50, 100)]
    assert place((20, 10), [(10, 10), (95, 10), (60, 10)], taken, room) == Box(60, 10, 20, 10)


def marks(picture: str) -> list[Box]:
    """Boxes of the points."""
    found = []
    for mark in (p for p in ET.fromstring(picture).iter("path") if p.attrib["class"].startswith("mark")):
        across, down = zip(*(map(float, c.split()) for c in mark.attrib["d"].strip("MZ").split("L")), strict=True)
        found.append(Box(min(across), min(down), max(across) - min(across), max(down) - min(down)))
    return found


@pytest.mark.parametrize("name", ["labelled", "unlabelled", "crowded"])
def test_labels_of_the_tradeoff_cover_neither_each_other_nor_a_point(name: str) -> None:
    row = [msgspec.structs.replace(INT8, precision=f"int8-{i}", latency=latency(1.0, 0.5 + i / 12)) for i in range(5)]
    crowded = msgspec.structs.replace(LABELLED, variants=tuple(row))
    drawn = tradeoff({**EXAMPLES, "crowded": crowded}[name])
    assert drawn is not None
    points = marks(drawn.picture)
    assert len(points) == len(boxes(drawn.picture, "label halo"))
    assert not any(box.overlap(p) for box in boxes(drawn.picture, "label").values() for p in points)
    placed = list((boxes(drawn.picture, "label") | boxes(drawn.picture, "note")).values())
    assert all(inside(box, drawn.picture) for box in placed)
    assert all(a.overlap(b) == 0 for i, a in enumerate(placed) for b in placed[:i])


def test_ten_variants_at_one_spot_get_ten_labels_apart() -> None:
    crowd = tuple(msgspec.structs.replace(INT8, precision=f"v{i}") for i in range(10))
    drawn = tradeoff(msgspec.structs.replace(LABELLED, variants=crowd))
    assert drawn is not None
    placed = list(boxes(drawn.picture, "label halo").values())
    assert len(placed) == 10
    assert all(a.overlap(b) == 0 for i, a in enumerate(placed) for b in placed[:i])


def test_the_tradeoff_names_what_it_cannot_show() -> None:
    drawn = tradeoff(LABELLED)
    assert drawn is not None
    assert drawn.missing == ("bf16",)
    assert drawn.closeness == "share of FP32's top1 kept"
    assert "gate 99.00 %" in texts(drawn.picture)
    assert tradeoff(NOTHING_BUILT) is None


def test_a_variant_far_below_the_gate_is_drawn_at_the_edge_with_its_number() -> None:
    assert INT4.accuracy is not None
    broken = msgspec.structs.replace(INT4.accuracy, retention=estimate(0.12, 0.01))
    variants = (FP32, msgspec.structs.replace(INT4, accuracy=broken))
    drawn = tradeoff(msgspec.structs.replace(LABELLED, variants=variants))
    assert drawn is not None
    assert "int4: fail ↓ 12.00 %" in texts(drawn.picture)


def test_a_latency_gate_is_drawn() -> None:
    drawn = tradeoff(msgspec.structs.replace(LABELLED, gates={**LABELLED.gates, "max_latency_ratio": 0.8}))
    assert drawn is not None
    assert "latency gate" in texts(drawn.picture)


def test_a_distance_is_no_line_on_an_axis_of_shares() -> None:
    drawn = tradeoff(msgspec.structs.replace(LABELLED, gates={**LABELLED.gates, "max_drop": 0.3}))
    assert drawn is not None
    assert not any("gate" in text for text in texts(drawn.picture))


def test_without_a_metric_the_upright_axis_is_the_cosine() -> None:
    drawn = tradeoff(UNLABELLED)
    assert drawn is not None
    assert drawn.closeness == "cosine similarity to FP32"
    assert {"gate 0.99000", "the outputs of FP32"} <= set(texts(drawn.picture))


def test_every_timed_model_has_its_row() -> None:
    found = texts(distributions(LABELLED))
    assert {"FP32 reference", "fp32", "fp16", "int8", "int4"} <= set(found)
    assert "bf16" not in found
    assert all(inside(box, distributions(LABELLED)) for box in boxes(distributions(LABELLED), "").values())


def test_runs_beyond_the_axis_are_counted() -> None:
    slow = latency(1.0, 1.0, runs=100)
    samples = (*slow.samples_ms[:99], 500.0)
    reference = msgspec.structs.replace(LABELLED.reference, latency=msgspec.structs.replace(slow, samples_ms=samples))
    page = distributions(msgspec.structs.replace(LABELLED, reference=reference, variants=()))
    assert any(re.search(r"beyond, up to 500 ms", words) for words in texts(page))


@pytest.mark.parametrize("samples", [(), (1.0,), (1.0,) * 50])
def test_few_or_equal_runs_can_be_drawn(samples: tuple[float, ...]) -> None:
    same = msgspec.structs.replace(latency(1.0, 1.0), samples_ms=samples, median_ms=1.0, p10_ms=1.0, p90_ms=1.0)
    reference = msgspec.structs.replace(LABELLED.reference, latency=same)
    manifest: Manifest = msgspec.structs.replace(LABELLED, reference=reference, variants=())
    assert "nan" not in distributions(manifest).lower()


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=30))
def test_peak_is_the_first_step_with_the_most_live_bytes(buffers: list[tuple[int, int, int]]) -> None:
    plan_ = [Lifetime(name=str(i), size=s, offset=0, first=f, last=f + n) for i, (s, f, n) in enumerate(buffers)]
    live = [sum(b.size for b in plan_ if b.first <= t < b.last) for t in range(40)]
    assert peak(plan_) == (int(np.argmax(live)), max(live))


def test_a_plan_draws_each_buffer_once_and_numbers_those_of_the_peak_first() -> None:
    drawn = plan(memory(0), ACTIVATIONS, 400)
    root = ET.fromstring(drawn.picture)
    rectangles = [r for r in root.iter("rect") if "buffer" in r.attrib["class"]]
    assert len(rectangles) == len(ACTIVATIONS) == drawn.buffers
    assert drawn.capped == ""
    at_peak = [b.first <= drawn.peak_step < b.last for b in ACTIVATIONS]
    sizes = ([b.size for b, at in zip(ACTIVATIONS, at_peak, strict=True) if at is which] for which in (True, False))
    assert [b.size for b in drawn.named] == [s for each in sizes for s in sorted(each, reverse=True)][:NAMED]
    assert {str(n) for n in range(1, NAMED + 1)} <= set(texts(drawn.picture))
    alive = [r for r in rectangles if "alive" in r.attrib["class"]]
    assert len(alive) == sum(b.first <= drawn.peak_step < b.last for b in ACTIVATIONS)


def test_a_large_plan_is_capped_and_says_so() -> None:
    drawn = plan(None, lifetimes(2_000), 100)
    rectangles = [r for r in ET.fromstring(drawn.picture).iter("rect") if "buffer" in r.attrib["class"]]
    assert len(rectangles) == 100
    assert drawn.capped.startswith("Drawn: the 100 largest of 2,000 buffers")


def test_rectangles_lie_where_the_plan_says() -> None:
    drawn = plan(memory(0), ACTIVATIONS, 400)
    tips = [
        r.findtext("title") or "" for r in ET.fromstring(drawn.picture).iter("rect") if "buffer" in r.attrib["class"]
    ]
    rows = [(float(r.attrib["x"]), t) for r, t in zip(
        (r for r in ET.fromstring(drawn.picture).iter("rect") if "buffer" in r.attrib["class"]), tips, strict=True
    )]  # fmt: skip
    assert all(a[0] <= b[0] for a, b in pairwise(rows))
    assert any("conv0" in tip for tip in tips)


def test_layers_by_sqnr_are_drawn_from_the_worst_on() -> None:
    worst_last = [LayerRecord(value=f"v{i}", node=f"n{i}", op="Conv", sqnr_db=60.0 - i * 3) for i in range(30)]
    drawn = by_sqnr(worst_last, 1)
    bars = re.findall(r'<rect [^>]*width="([\d.]+)"[^>]*class="area s1"', drawn)
    assert len(bars) == SHOWN
    assert [float(b) for b in bars] == sorted(float(b) for b in bars)
    assert float(bars[0]) == 0, "-27 dB: more noise than signal"
    assert "v29, computed by n29 (Conv): -27.0 dB" in drawn
    assert "v0," not in drawn

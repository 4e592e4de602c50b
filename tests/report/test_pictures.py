from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlc.manifest import LayerRecord, Lifetime, Manifest, Size
from dlc.report.latency import distributions
from dlc.report.layers import SHOWN, by_sqnr
from dlc.report.lifetimes import NAMED, peak, plan
from dlc.report.roofline import roofline
from dlc.report.svg import Box, Scale, place, tick_label, width_of
from dlc.report.tradeoff import tradeoff
from tests.report.example import (
    ACTIVATIONS,
    EXAMPLES,
    FP32,
    INT4,
    INT8,
    INTEGER_WORK,
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


def test_the_area_of_a_disc_is_the_size() -> None:
    drawn = tradeoff(LABELLED)
    assert drawn is not None
    discs = [c for c in ET.fromstring(drawn.picture).iter("circle") if c.attrib["class"].startswith("disc s")]
    areas = {str(c.findtext("title")).partition(":")[0]: float(c.attrib["r"]) ** 2 for c in discs}
    sizes = {v.precision: v.size.ratio for v in LABELLED.variants if v.size}
    assert areas.keys() == sizes.keys()
    for name, size in sizes.items():  # pixels are written to a tenth: half of that of a radius of 7 is 0.7 %
        assert areas[name] / areas["fp32"] == pytest.approx(size / sizes["fp32"], rel=0.03)
    largest = msgspec.structs.replace(INT8, size=Size(bytes=1 << 30, compressed_bytes=1, ratio=4000.0))
    drawn = tradeoff(msgspec.structs.replace(LABELLED, variants=(largest,)))
    assert drawn is not None
    assert max(float(c.attrib["r"]) for c in ET.fromstring(drawn.picture).iter("circle")) == 48.0


def test_the_front_holds_what_nothing_beats_in_all_three() -> None:
    drawn = tradeoff(LABELLED)
    assert drawn is not None
    assert {row[0]: row[-1] for row in drawn.rows} == {
        "fp32": "yes", "fp16": "no: int8 is better", "int8": "yes", "int4": "yes",
    }  # fmt: skip
    assert drawn.rows[2][:5] == ("int8", "99.83 %", "0.381×", "67.77 KiB", "0.271×")
    twins = tuple(msgspec.structs.replace(INT8, precision=name) for name in ("one", "other"))
    drawn = tradeoff(msgspec.structs.replace(LABELLED, variants=twins))
    assert drawn is not None
    assert {row[-1] for row in drawn.rows} == {"yes"}


def test_the_roofline_shows_models_and_kernels_where_they_are() -> None:
    drawn = roofline(LABELLED)
    assert drawn is not None
    names = ("FP32 reference", "fp32", "int8")
    assert boxes(drawn.picture, "label halo").keys() == {*names}
    assert [row[0] for row in drawn.rows] == [*names]
    assert len(marks(drawn.picture)) == 3
    shown = {"float32 peak 114 Gop/s", "8-bit integer peak 435 Gop/s", "memory 24.0 GB/s", "caches 91.0 GB/s"}
    assert shown <= texts(drawn.picture).keys()
    tips = [t.text or "" for t in ET.fromstring(drawn.picture).iter("title")]
    assert "fp32, Conv conv2: 112 Gop/s, 2.00 GB/s, 56.2 operations a byte" in tips
    assert len(tips) == 3 + 3  # a pool has no arithmetic, and 4 µs are too few to be drawn
    assert drawn.missing == ("fp16", "bf16", "int4")


def test_the_roofline_in_numbers() -> None:
    """45 Mop and 1.4 MB in the median of the runs."""
    drawn = roofline(LABELLED)
    assert drawn is not None
    assert FP32.latency is not None
    seconds = FP32.latency.median_ms / 1e3
    rows = {row[0]: row for row in drawn.rows}
    assert rows["fp32"] == (
        "fp32", "45.0 Mop", "0 %", "1.335 MiB", "32.1", f"{45e6 / seconds / 1e9:.0f} Gop/s",
        f"{100 * 45e6 / seconds / 1.14e11:.0f} %", f"{1.4e6 / seconds / 1e9:.2f} GB/s",
        f"{100 * 1.4e6 / seconds / 2.4e10:.0f} %",
    )  # fmt: skip
    assert rows["int8"][2] == "100 %"
    kernels = dict(drawn.kernels)
    assert kernels["fp32"][0] == ("Conv conv2", "160 µs", "112 Gop/s", "99 %", "2.00 GB/s", "8 %", "56.2")
    assert kernels["fp32"][1][2:4] == ("–", "–")
    assert kernels["int8"][0][3] == "69 %"  # of the peak of integers


def test_models_at_one_spot_of_the_roofline_get_names_apart() -> None:
    crowd = tuple(msgspec.structs.replace(INT8, precision=f"v{i}") for i in range(6))
    drawn = roofline(msgspec.structs.replace(LABELLED, variants=crowd))
    assert drawn is not None
    placed = list(boxes(drawn.picture, "label halo").values())
    assert len(placed) == 7
    assert all(inside(box, drawn.picture) for box in placed)
    assert all(a.overlap(b) == 0 for i, a in enumerate(placed) for b in placed[:i])


@pytest.mark.parametrize("missing", [{"peaks": None}, {"variants": (), "reference": "no work"}])
def test_without_a_profile_or_peaks_there_is_no_roofline(missing: dict[str, object]) -> None:
    if "reference" in missing:
        missing["reference"] = msgspec.structs.replace(LABELLED.reference, work=None)
    assert roofline(msgspec.structs.replace(LABELLED, **missing)) is None


def test_a_model_without_arithmetic_is_in_the_table_only() -> None:
    idle = msgspec.structs.replace(INT8, work=msgspec.structs.replace(INTEGER_WORK, integer_ops=0, uncounted=("Odd",)))
    drawn = roofline(msgspec.structs.replace(LABELLED, variants=(idle,)))
    assert drawn is not None
    assert drawn.rows[1][:3] == ("int8", "0 op", "–")
    assert drawn.uncounted == ("Odd",)
    assert boxes(drawn.picture, "label halo").keys() == {"FP32 reference"}


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


def test_too_few_runs_have_no_percentiles() -> None:
    few = msgspec.structs.replace(latency(1.0, 1.0, runs=28), p10_ms=None, p90_ms=None)
    page = distributions(msgspec.structs.replace(
        LABELLED, reference=msgspec.structs.replace(LABELLED.reference, latency=few), variants=()
    ))  # fmt: skip
    assert "no percentiles of 28 runs" in texts(page)
    assert 'class="spread' not in page
    assert any("middle 80 %" in words for words in texts(distributions(LABELLED)))


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

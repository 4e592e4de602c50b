from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from dlc.manifest import Manifest
from dlc.report.html import LIMIT, gate_lines, render_html
from dlc.report.markdown import render_markdown
from dlc.report.table import noise_line
from dlc.report.write import write_reports
from tests.report.example import CANONICALIZE, EXAMPLES, HOSTILE, LABELLED, PLANS, entry, large

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order, every id is used once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_html(LABELLED, PLANS))


@pytest.mark.parametrize("manifest", EXAMPLES.values(), ids=EXAMPLES)
def test_pages_are_well_formed_and_ask_the_network_for_nothing(manifest: Manifest) -> None:
    text = render_html(manifest, {})
    read = Page(text)
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = [value for name, value in read.attributes if name in {"href", "src", "xlink:href", "srcset", "action"}]
    assert all(t.removeprefix("#") in ids or t == "manifest.json" for t in targets)
    assert not {"script", "link", "img", "iframe", "object"} & set(read.tags)
    assert not re.search(r"https?://|url\(|@import", text)
    assert "default-src 'none'" in text


def test_every_variant_reason_note_and_warning_is_there(page: Page) -> None:
    for variant in LABELLED.variants:
        assert variant.precision in page.text
        for reason in (*variant.verdict.reasons, *variant.notes):
            assert (
                reason.removeprefix(f"{variant.verdict.status}: ").removeprefix("pass: ").removeprefix("note: ")
                in page.text
            )
    assert LABELLED.warnings[0] in page.text


def test_every_pass_choice_and_skipped_site_is_there(page: Page) -> None:
    for variant in LABELLED.variants:
        for each in variant.passes:
            assert each.name in page.text
            assert all(s.reason in page.text for s in each.sites if s.reason)
        assert all(c.rewrite in page.text for c in variant.choices)
    assert "rolled back" in page.text
    assert "per_channel=True" in page.text


def test_provenance_is_complete(page: Page) -> None:
    for text in (LABELLED.source.sha256, *(d.sha256 for d in LABELLED.data), "avx2", "onnx 1.23.2", "batch", "seed",
                 "EPYC 7R13, 2 cores, Linux 6.1"):  # fmt: skip
        assert text in page.text
    assert all(line in page.text for line in gate_lines(LABELLED))


NOISE = (
    "FP32 strays from a second session of itself by 1.2 % in a sitting; for 4 % of the time the CPU did something else"
)


def test_the_noise_of_the_machine_is_shown(page: Page) -> None:
    assert f"{NOISE}. No ratio is taken to be steadier than that." in " ".join(page.text.split())
    assert NOISE in render_markdown(LABELLED)
    unknown = msgspec.structs.replace(LABELLED.reference, away=None)
    assert noise_line(unknown) == NOISE.partition(";")[0]
    assert noise_line(msgspec.structs.replace(LABELLED.reference, again=())) == ""


def test_a_distance_stands_in_place_of_the_share() -> None:
    gates = {**LABELLED.gates, "max_drop": 0.3, "agreement": 0.995}
    lines = gate_lines(msgspec.structs.replace(LABELLED, gates=gates))
    assert "task metric at most 0.3 behind FP32's, in its unit" in lines
    assert "mean cosine similarity to FP32's outputs of at least 0.995, beside the task metric" in lines
    assert not any("keep at least" in line for line in lines)


def test_the_page_says_which_way_the_metric_is_better(page: Page) -> None:
    assert "; higher is better." in page.text
    errors = tuple(
        v if v.accuracy is None else msgspec.structs.replace(
            v, accuracy=msgspec.structs.replace(v.accuracy, metric="perplexity", higher_is_better=False)
        )
        for v in LABELLED.variants
    )  # fmt: skip
    text = Page(render_html(msgspec.structs.replace(LABELLED, variants=errors), PLANS)).text
    assert "; lower is better." in text
    assert "FP32's as a share of the variant's" in text
    assert "higher is better" not in text


def test_the_divergence_is_shown_where_it_was_measured(page: Page) -> None:
    assert "KL divergence" not in page.text
    measured = tuple(
        v
        if v.agreement is None
        else msgspec.structs.replace(v, agreement=msgspec.structs.replace(v.agreement, kl=3e-3))
        for v in LABELLED.variants
    )
    text = Page(render_html(msgspec.structs.replace(LABELLED, variants=measured), PLANS)).text
    assert "KL divergence 0.003 nats." in " ".join(text.split())


def test_names_from_a_model_stay_text(page: Page) -> None:
    assert page.tags["script"] == 0
    assert HOSTILE.replace("\x07", "\ufffd") in page.text
    everywhere = msgspec.structs.replace(LABELLED, name=HOSTILE, warnings=(HOSTILE,), versions={HOSTILE: HOSTILE})
    hostile = tuple(msgspec.structs.replace(b, name=HOSTILE) for b in PLANS["fp32"])
    assert Page(render_html(everywhere, {"fp32": hostile})).tags["script"] == 0


def test_passes_that_found_nothing_are_folded_into_one(page: Page) -> None:
    assert "found nothing to do" not in page.text
    idle = entry("fold-pad", [], 21, 21)
    variants = (msgspec.structs.replace(LABELLED.variants[0], passes=(CANONICALIZE, idle)),)
    text = render_html(msgspec.structs.replace(LABELLED, variants=variants), {})
    assert "1 more found nothing to do" in Page(text).text
    assert text.count('<span class="name">') == 2
    assert "fold-pad" in Page(text).text


def test_plans_that_variants_share_are_drawn_once(page: Page) -> None:
    assert "Plan of fp32, fp16" in page.text
    assert "Plan of int8" in page.text
    assert "Plan of int4" not in page.text


def test_the_same_manifest_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_reports(tmp_path / name, LABELLED, PLANS)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["junit.xml", "report.html", "summary.md"]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_a_big_model_fits_and_says_what_was_left_out() -> None:
    text = render_html(*large())
    assert len(text.encode()) < LIMIT
    read = Page(text)
    assert all(f"int8-{v}" in read.text for v in range(5))
    assert "of 2,000 buffers" in read.text
    assert re.search(r"and \d+ more", read.text)
    assert "scale is not constant" in read.text


def test_a_huge_model_gets_less_detail_not_a_larger_page() -> None:
    text = render_html(*large(sites=3_000, buffers=3_000, variants=12))
    assert len(text.encode()) < LIMIT
    assert "pass-7-11" in text

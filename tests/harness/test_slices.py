from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dlc.errors import DataError, RecipeError
from dlc.harness.accuracy import METRICS
from dlc.harness.judge import judge, verdicts
from dlc.harness.slices import MOST, collapses, compared, labels
from dlc.manifest import Latency, Size, SliceRecord
from dlc.recipe import Dataset, Gates
from dlc.report.html import gate_lines, render_html
from dlc.report.markdown import render_markdown
from dlc.report.slices import slice_rows
from dlc.types import Array, Floats
from tests.cli.conftest import RECIPE, Cli, cli, examples, model
from tests.report.example import LABELLED

__all__ = ["cli", "model"]  # fixtures

SITES = np.repeat(["north", "south", "west"], [450, 450, 100])
TOP1 = METRICS["top1"]
GATES = Gates()


def collapsed(share: float) -> tuple[Floats, Floats]:
    """Return hits [n, 1] of a reference that is always right, and of a candidate that fails a share of the west."""
    reference = np.ones((1000, 1))
    candidate = reference.copy()
    candidate[900 : 900 + round(100 * share)] = 0
    return reference, candidate


def measured(share: float, slicings: dict[str, Array] | None = None, gates: Gates = GATES) -> tuple[SliceRecord, ...]:
    return compared(TOP1, *collapsed(share), slicings or {"site": SITES}, gates=gates, seed=0)


def test_each_slice_is_measured_on_its_examples() -> None:
    north, south, west = measured(0.4)
    assert [s.name for s in (north, south, west)] == ["site=north", "site=south", "site=west"]
    assert north.accuracy is not None
    assert west.accuracy is not None
    assert (north.examples, west.examples) == (450, 100)
    assert (north.accuracy.drop.value, west.accuracy.drop.value) == (0.0, 40.0)
    assert west.accuracy.drop.low < 40 < west.accuracy.drop.high


def test_a_slice_collapses_while_the_mean_holds() -> None:
    """4 of 100 points are lost, all of them in a tenth of the data."""
    reference, candidate = collapsed(0.4)
    ratio = {"value": 0.5, "low": 0.5, "high": 0.5}
    latency = msgspec.convert(
        {"median_ms": 1, "mean_ms": 1, "p10_ms": 1, "p90_ms": 1, "runs": 100, "ratio": ratio, "samples_ms": (1.0,)},
        Latency,
    )
    whole = compared(TOP1, reference, candidate, {"all": np.full(1000, "x")}, gates=GATES, seed=0)[0].accuracy
    findings = judge(
        "int8", Gates(retention=0.9), latency=latency, size=Size(bytes=1, compressed_bytes=1, ratio=0.5),
        accuracy=whole, slices=measured(0.4),
    )  # fmt: skip
    [found] = verdicts([findings])
    assert found.status == "fail"
    assert [reason.partition(":")[0] for reason in found.reasons][:3] == ["pass", "fail", "pass"]
    assert "slice site=west: top1 60.00 keeps 60.00 [" in found.reasons[1]
    assert "2 slices hold, the worst slice site=" in found.reasons[2]


@pytest.mark.parametrize(
    ("gates", "status"),
    [
        (Gates(slice_retention=0.5), "pass"),
        (Gates(slice_retention=0.95), "inconclusive"),
        (Gates(slice_retention=1.0), "fail"),
        (Gates(slice_drop=20.0), "pass"),
        (Gates(slice_drop=4.0), "inconclusive"),
        (Gates(slice_drop=0.1), "fail"),
    ],
)
def test_limits_decide(gates: Gates, status: str) -> None:
    slices = measured(0.05, {"site": np.where(SITES == "west", "w", "e")}, gates)
    assert status in [each for each, _, _ in collapses(slices, gates)]


def test_a_slice_fails_only_beyond_chance_among_the_slices() -> None:
    """7 of 100 lost where 1.5 may be: p is 2.3 % by itself; of ten slices Holm asks for a tenth of 5 %."""
    gates = Gates(slice_retention=0.985)
    found = measured(0.07, {"site": np.where(SITES == "west", "w", "e")}, gates)
    west = next(each for each in found if each.name == "site=w")
    assert west.accuracy is not None
    assert west.accuracy.chance is not None
    assert 0.005 < west.accuracy.chance < 0.025
    [(alone, _, p)] = collapses([west], gates)
    assert (alone, p) == ("fail", west.accuracy.chance)
    held = next(each for each in found if each is not west)
    status, text, p = next(iter(collapses([west, *[held] * 9], gates)))
    assert status == "inconclusive"
    assert p == pytest.approx(10 * west.accuracy.chance)
    assert text.endswith("among 10 slices)")


def test_few_examples_are_a_note() -> None:
    tiny = np.where(np.arange(1000) >= 980, "tiny", "rest")
    lost = np.ones((1000, 1))
    lost[980:983] = 0
    found = compared(TOP1, np.ones((1000, 1)), lost, {"part": tiny}, gates=GATES, seed=0)
    [(status, text, _), _] = collapses(found[::-1], Gates())
    assert status is None
    assert text.endswith("20 examples are few")


def test_few_examples_can_still_fail() -> None:
    tiny = np.where(np.arange(1000) >= 980, "tiny", "rest")
    lost = np.ones((1000, 1))
    lost[980:999] = 0
    found = compared(TOP1, np.ones((1000, 1)), lost, {"part": tiny}, gates=GATES, seed=0)
    assert "fail" in [status for status, _, _ in collapses(found, Gates())]


def test_a_slice_that_the_metric_cannot_judge_says_why() -> None:
    rows = np.stack([np.arange(40.0), np.repeat([0.0, 1.0], 20)], axis=1)
    first, *_ = compared(METRICS["auc"], rows, rows, {"class": np.repeat(["0", "1"], 20)}, gates=GATES, seed=0)
    assert first.accuracy is None
    assert "gives nan" in first.note
    [(status, text, _), _] = collapses([first, first], Gates())
    assert status is None
    assert "slice class=0 was not measured, 20 examples are few: " in text


def test_a_slice_on_which_the_candidate_alone_has_no_value_fails() -> None:
    surprise = np.ones((80, 2))
    worse = surprise.copy()
    worse[:40, 0] = np.inf
    halves = {"half": np.repeat(["a", "b"], 40)}
    first, second = compared(METRICS["perplexity"], surprise, worse, halves, gates=GATES, seed=0)
    assert (first.failed, second.failed) == (True, False)
    [(status, text, _), *_] = collapses([first, second], Gates())
    assert status == "fail"
    assert text.startswith("slice half=a has no value, and FP32 has one, 40 examples: ")


@pytest.mark.parametrize("gates", [Gates(), Gates(slice_drop=50.0)], ids=["share", "drop"])
def test_the_slice_that_is_named_is_the_nearest_to_its_limit(gates: Gates) -> None:
    [(status, text, _)] = collapses(measured(0.02), gates)
    assert status == "pass"
    assert text.startswith("3 slices hold, the worst slice site=west: ")


def sliced(read: Callable[[], Array]) -> Dataset:
    return Dataset("mine", list, slices={"site": read})


def broken() -> Array:
    raise KeyError("site")


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: SITES[:10], r"have shape \[10\]; give one label for each of its 1000 targets"),
        (lambda: np.arange(1000), f"has 1000 slices; at most {MOST} are measured"),
        (broken, "slices 'site' of data set 'mine' cannot be read: KeyError: 'site'"),
    ],
)
def test_slices_that_do_not_fit_are_refused(read: Callable[[], Array], said: str) -> None:
    with pytest.raises(DataError, match=said):
        labels(sliced(read), 1000)


@pytest.mark.parametrize(
    ("given", "said"), [({"slice_drop": -1}, "slice_drop=-1"), ({"slice_retention": 2}, "=2 is no")]
)
def test_gates_that_are_none(given: dict[str, float], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Gates(**given)


def test_reports_show_slices() -> None:
    of = [msgspec.structs.replace(v, slices=measured(0.4)) for v in LABELLED.variants[:2]]
    shown = msgspec.structs.replace(LABELLED, variants=tuple(of), gates={"slice_retention": 0.9})
    headers, rows = slice_rows(shown)
    assert headers[:2] == ("slice", "examples")
    assert rows[2][:2] == ("site=west", "100")
    assert "60.0 % of FP32" in rows[2][2]
    assert "<h3>Slices</h3>" in render_html(shown, {})
    assert "| site=west | 100 |" in render_markdown(shown)
    assert gate_lines(shown) == ["each slice keeps at least 90 % of FP32's task metric"]


def test_reports_without_slices_do_not_speak_of_them() -> None:
    plain = msgspec.structs.replace(LABELLED, gates={"slice_retention": 0.9})
    assert slice_rows(plain) == ((), [])
    assert gate_lines(plain) == []
    assert "Slices" not in render_html(plain, {})


def test_a_compile_measures_the_slices_of_a_toml_recipe(cli: Cli, model: Path, tmp_path: Path) -> None:
    for name, seed in (("calibration", 1), ("evaluation", 2)):
        x, classes = examples(200, seed)
        np.savez(tmp_path / f"{name}.npz", x=x, label=classes, half=classes // 16)
    text = RECIPE.replace("[calibration]", "[gates]\nslice_retention = 0.8\n[calibration]")
    text = text.replace('targets = "label"\n', 'targets = "label"\nslices = ["half"]\n')
    (tmp_path / "recipe.toml").write_text(text)
    ran = cli("compile", model, "-r", "recipe.toml", "--variants", "fp32")
    assert ran.judged, ran.err
    record = msgspec.json.decode((tmp_path / "build/centres/manifest.json").read_bytes())
    assert [s["name"] for s in record["variants"][0]["slices"]] == ["half=0", "half=1"]
    assert "2 slices hold" in (tmp_path / "build/centres/summary.md").read_text()


def test_slices_without_a_metric_are_refused(cli: Cli, model: Path, tmp_path: Path) -> None:
    x, classes = examples(40, 2)
    np.savez(tmp_path / "evaluation.npz", x=x, half=classes // 16)
    (tmp_path / "recipe.toml").write_text('evaluation = { file = "evaluation.npz", slices = ["half"] }\n')
    ran = cli("compile", model, "-r", "recipe.toml")
    assert ran.code == 2
    assert "has slices, and no metric and targets to measure on them" in ran.err

"""dlc compile --variants mixed: the front in the manifest, in the report, and the same again from the journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dlc.manifest import Estimate
from dlc.search import Measured, Mix
from dlc.stages.workshop import Workshop
from tests.cli.conftest import Cli

OPTIONS = ("--variants", "fp32,mixed", "--evaluations", "3", "--format", "json")


def mixed(out: str) -> dict[str, Any]:
    found: dict[str, Any] = next(v for v in json.loads(out)["variants"] if v["precision"] == "mixed")
    return found


def test_a_second_compile_evaluates_nothing_and_writes_the_same_file(
    cli: Cli, model: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of the mix is stated: whether it is faster than FP32 is the machine's affair."""
    measure = Workshop.measure

    def faster(self: Workshop, chosen: Mix) -> Measured:
        return msgspec.structs.replace(measure(self, chosen), ratio=Estimate(value=0.5, low=0.4, high=0.6))

    monkeypatch.setattr(Workshop, "measure", faster)
    first = cli("compile", model, "-r", recipe, *OPTIONS, "--keep", "0.9", "-o", "first")
    assert first.judged, first.err
    search = mixed(first.out)["search"]
    assert search["objective"] == "the fastest that keeps 90 % of FP32"
    assert search["evaluations"] == 1  # one product: it is in 8 bits, or the model is FP32
    assert search["chosen"]["excluded"] == []
    assert search["front"]
    assert "the fastest that keeps 90 %" in (tmp_path / "first/centres/report.html").read_text()
    [journal] = (tmp_path / "cache" / "searches").iterdir()
    lines = journal.read_bytes()
    second = cli("compile", model, "-r", recipe, *OPTIONS, "--keep", "0.9", "-o", "second")
    assert mixed(second.out)["search"] == search
    assert journal.read_bytes() == lines
    files = [tmp_path / out / "centres" / "mixed" / "model.onnx" for out in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert cli("verify", tmp_path / "first" / "centres").code == 0


def test_an_objective_that_cannot_be_met_is_not_built(cli: Cli, model: Path, recipe: Path) -> None:
    ran = cli("compile", model, "-r", recipe, *OPTIONS, "--within-size", "1kB", "-o", "build")
    assert ran.code == 1
    found = mixed(ran.out)
    assert found["verdict"]["status"] == "not built"
    [reason] = found["verdict"]["reasons"]
    assert "no mix is the most accurate within 0.001 MB; the nearest keeps" in reason
    assert found["search"]["chosen"] is None


def test_options_of_a_variant_that_is_not_built_are_refused(cli: Cli, model: Path, recipe: Path) -> None:
    ran = cli("compile", model, "-r", recipe, "--keep", "0.9", "-o", "build")
    assert ran.code == 2
    assert "add it to --variants" in ran.err


def test_a_size_without_a_unit_is_refused(cli: Cli, model: Path, recipe: Path) -> None:
    ran = cli("compile", model, "-r", recipe, *OPTIONS, "--within-size", "8")
    assert ran.code == 2
    assert "like 8MB" in ran.err

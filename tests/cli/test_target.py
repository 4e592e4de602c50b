"""A machine described on the spot, and compiled for from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir
import pytest

from tests.cli.conftest import Cli

NORMED = """<ir_version: 10, opset_import: ["": 20]> g (float[batch, 64] x, float[batch, 64] r) => (float[batch, 64] y)
<float[64] gamma> {
    t = Add(x, r)
    n = LayerNormalization(t, gamma)
    y = Tanh(n)
}"""


@pytest.fixture
def normed(tmp_path: Path) -> Path:
    """A residual sum before a layer normalisation: a place that every CPU has an opinion on."""
    model = ir.from_onnx_text(NORMED.replace("gamma>", "gamma = {" + ", ".join(["1"] * 64) + "}>"))
    ir.save(model, tmp_path / "normed.onnx")
    return tmp_path / "normed.onnx"


def elsewhere(path: Path) -> None:
    """Make a target file one of another machine."""
    stated = json.loads(path.read_text())
    path.write_text(json.dumps({**stated, "arch": "aarch64"}))


def places(tmp_path: Path) -> list[str | None]:
    record = json.loads((tmp_path / "build/normed/manifest.json").read_text())
    [residual] = [p for p in record["variants"][0]["passes"] if p["name"] == "split-residual"]
    return [s["reason"] for s in residual["sites"]]


def test_profile_describes_this_machine(cli: Cli, tmp_path: Path) -> None:
    ran = cli("target", "profile", "-o", "board.json")
    assert ran.code == 0, ran.err
    stated = json.loads((tmp_path / "board.json").read_text())
    assert len(stated["costs"]) == 2  # what it does at most: of no place of a graph
    assert stated["provider"] == "cpu"


def test_from_the_device_and_back(cli: Cli, normed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("target", "profile", "-o", "board.json").code == 0
    elsewhere(tmp_path / "board.json")
    assert cli("compile", normed, "-t", "board.json", "--variants", "fp32", "-o", "build").judged
    assert places(tmp_path) == ["not measured on the target: dlc target profile measures it there"]

    ran = cli("target", "profile", "build/normed", "-o", "board.json", "--overwrite")  # as on the device
    assert ran.code == 0, ran.err
    measured = json.loads((tmp_path / "board.json").read_text())["costs"]
    assert measured
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "of the build machine"))
    ran = cli("compile", normed, "-t", "board.json", "--variants", "fp32", "-o", "build", "--overwrite")
    assert ran.judged, ran.err
    assert all("not measured" not in (reason or "") for reason in places(tmp_path))
    assert not (tmp_path / "of the build machine" / "costs.sqlite").exists() or not _stored(tmp_path)


def _stored(tmp_path: Path) -> list[tuple[object, ...]]:
    import sqlite3

    db = sqlite3.connect(tmp_path / "of the build machine" / "costs.sqlite")
    try:
        return db.execute("SELECT key FROM measured").fetchall()
    finally:
        db.close()


def test_nothing_is_overwritten(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "board.json").write_text("mine")
    ran = cli("target", "profile", "-o", "board.json")
    assert ran.code == 2
    assert "--overwrite" in ran.err
    assert (tmp_path / "board.json").read_text() == "mine"


@pytest.mark.parametrize(("arguments", "says"), [
    (("nothing-like-it", "-o", "b.json"), "nothing-like-it"), (("-o", "no/such/b.json"), "is no folder"),
])  # fmt: skip
def test_bad_input(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    ran = cli("target", "profile", *arguments)
    assert ran.code == 2
    assert says in ran.err
    assert not list(tmp_path.glob("**/b.json"))

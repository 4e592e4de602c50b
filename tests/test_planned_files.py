from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from dlc.errors import ArtifactError
from dlc.planned_files import DATA, FILE, read, write
from dlc.planning import Prepared, prepare
from tests.passes.weights import weighted
from tests.test_planning import FEEDS, wide

SHAPES = {"x": (16, 64)}


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(wide(), FEEDS)


def test_what_is_written_is_read(prepared: Prepared, tmp_path: Path) -> None:
    written = write(tmp_path / "planned", prepared)
    assert read(tmp_path / "planned", SHAPES) == written
    assert written.plan() == prepared.plan


def test_the_same_model_gives_the_same_files(prepared: Prepared, tmp_path: Path) -> None:
    write(tmp_path / "one", prepared)
    write(tmp_path / "two", prepare(wide(), FEEDS))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_weights_can_lie_apart(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model = weighted("g (float[16, 64] x, float[64, 64] w) => (float[16, 64] y) { y = MatMul(x, w) }", {"w": weight})
    folder = tmp_path / "planned"
    write(folder, prepare(model, FEEDS), mapped=True)
    assert (folder / DATA).stat().st_size >= weight.nbytes > (folder / FILE).stat().st_size
    [apart] = [v.const_value for v in ir.load(folder / FILE).graph.initializers.values()]
    assert isinstance(apart, ir.ExternalTensor)
    assert np.array_equal(apart.numpy(), weight)


def test_another_model_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    write(tmp_path / "p", prepared)
    with (tmp_path / "p" / FILE).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match=r"another model than planned\.onnx"):
        read(tmp_path / "p", SHAPES)


def test_other_shapes_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    write(tmp_path / "p", prepared)
    with pytest.raises(ArtifactError, match=r"for input 'x' of shape \[16, 64\], not \[8, 64\]"):
        read(tmp_path / "p", {"x": (8, 64)})


def test_another_runtime_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    recorded = msgspec.structs.replace(write(tmp_path / "p", prepared), runtime="0.9")
    (tmp_path / "p" / "memory.json").write_bytes(msgspec.json.encode(recorded))
    with pytest.raises(ArtifactError, match=r"for ONNX Runtime 0\.9"):
        read(tmp_path / "p", SHAPES)


def test_a_missing_model_is_named(prepared: Prepared, tmp_path: Path) -> None:
    write(tmp_path / "p", prepared)
    (tmp_path / "p" / FILE).unlink()
    with pytest.raises(ArtifactError, match=r"planned\.onnx is missing"):
        read(tmp_path / "p", SHAPES)

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.errors import ModelError
from dlc.harness.memory import CHILD, CHUNK, peak_rss, sizes
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds

WEIGHT = 32 << 20


@pytest.fixture
def small(tmp_path: Path, cnn: ir.Model) -> Path:
    ir.save(cnn, path := tmp_path / "small.onnx")
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Adds an initializer of 32 MiB; its input is named as numpy's own argument is."""
    values = np.arange(WEIGHT // 4, dtype=np.float32)
    x = ir.Value(name="file", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", const_value=ir.tensor(values, name="w"))
    node = ir.node("Add", [x, w])
    node.outputs[0].name, node.outputs[0].type = "y", x.type
    node.outputs[0].shape = ir.Shape([len(values)])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20}, name="large")
    ir.save(ir.Model(graph, ir_version=10), path := tmp_path / "large.onnx")
    return path


def test_peak_holds_the_model_and_its_activations(small: Path, large: Path, one_digit: Feeds) -> None:
    light = peak_rss(small, SessionConfig(), one_digit)
    heavy = peak_rss(large, SessionConfig(), {"file": np.ones(1, np.float32)})
    assert light.runtime < light.peak < light.runtime + WEIGHT
    # its weights and, once it runs, an output of the same size
    assert heavy.peak > heavy.runtime + 2 * WEIGHT
    assert heavy.runtime < light.runtime + WEIGHT


def test_running_is_part_of_the_peak(large: Path) -> None:
    feeds = {"file": np.ones(1, np.float32)}
    loaded, ran = (peak_rss(large, SessionConfig(), feeds, runs=runs).peak for runs in (0, 1))
    assert ran > loaded


def test_cold_start_and_first_call_are_timed_apart(large: Path) -> None:
    feeds = {"file": np.ones(1, np.float32)}
    loaded, ran = (peak_rss(large, SessionConfig(), feeds, runs=runs) for runs in (0, 1))
    assert loaded.load_ms > 0
    assert loaded.first_ms == 0
    assert ran.first_ms > 0


def test_parents_memory_does_not_count(small: Path, one_digit: Feeds) -> None:
    ballast = np.ones(WEIGHT, np.float64)  # 256 MiB in this process while the child starts
    assert peak_rss(small, SessionConfig(), one_digit).peak < ballast.nbytes


def test_child_loads_neither_torch_nor_dlc() -> None:
    code = (
        f"import runpy, sys; runpy.run_path({str(CHILD)!r}); print([m for m in ('torch', 'dlc') if m in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_child_that_fails_says_why(damage: str, small: Path, one_digit: Feeds) -> None:
    data = small.read_bytes()
    small.unlink()
    if damage == "truncated":
        small.write_bytes(data[: len(data) // 2])
    reason = "NoSuchFile|File doesn't exist" if damage == "missing" else "INVALID_PROTOBUF|Protobuf parsing failed"
    with pytest.raises(ModelError, match=rf"small\.onnx failed in a process of its own: .*({reason})"):
        peak_rss(small, SessionConfig(), one_digit)


def test_wrong_feeds_say_why(small: Path) -> None:
    with pytest.raises(ModelError, match="failed in a process of its own"):
        peak_rss(small, SessionConfig(), {"picture": np.ones((1, 1, 8, 8), np.float32)})


def test_session_options_reach_the_child(small: Path, one_digit: Feeds) -> None:
    with pytest.raises(ModelError, match="Config key is empty"):
        peak_rss(small, SessionConfig(entries={"": "x"}), one_digit)


def test_sizes_are_of_the_bytes_on_disk(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(CHUNK) + small.read_bytes())  # longer than one chunk
    both = sizes([small, other], sizes([other]))
    data = [p.read_bytes() for p in (small, other)]
    assert both.bytes == sum(map(len, data))
    assert both.compressed_bytes == sum(len(zlib.compress(d, 6)) for d in data)
    assert both.ratio == both.bytes / len(data[1])
    assert sizes([small]).ratio == 1.0

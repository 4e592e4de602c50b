"""dlc debug reduce from the command line: reduced, resumed, refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.runtimes.ort_cpu import OrtCpuRunner
from tests.cli.conftest import Cli

LONG = """<ir_version: 10, opset_import: ["": 20]>
g (float[batch, 4] x) => (float[batch, 4] y)
{ a = Abs(x)  b = Exp(a)  c = Neg(b)  d = Sqrt(c)  e = Tanh(d)  f = Sigmoid(e)  y = Cos(f) }"""
CHECK = """import sys
import numpy as np
import onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
x = {v.name: np.ones((2, 4), np.float32) for v in session.get_inputs()}
with open("calls", "a") as calls:
    calls.write("x")
sys.exit(not any(np.isnan(o).any() for o in session.run(None, x)))
"""


@pytest.fixture
def long(tmp_path: Path) -> Path:
    (tmp_path / "check.py").write_text(CHECK)
    ir.save(ir.from_onnx_text(LONG), tmp_path / "long.onnx")
    return tmp_path / "long.onnx"


def test_the_node_that_makes_nan(cli: Cli, long: Path, tmp_path: Path) -> None:
    ran = cli("debug", "reduce", long, "--fails", "nan", "--dim", "batch=3")
    assert ran.code == 0, ran.err
    assert "7 nodes reduced to 1, by " in ran.out
    assert "Sqrt" in ran.out
    assert "symptom: NaN; written to reduced.onnx, inputs to reduced.npz" in ran.out
    with np.load(tmp_path / "reduced.npz") as inputs, OrtCpuRunner(tmp_path / "reduced.onnx") as runner:
        fed = dict(inputs)
        assert {name: array.shape for name, array in fed.items()} == {"c": (3, 4)}
        assert np.isnan(runner.run(fed)["d"]).all()
    assert not (tmp_path / "reduced.onnx.journal").exists()


def test_a_command_that_feeds_the_model_itself(cli: Cli, long: Path, tmp_path: Path) -> None:
    ran = cli("debug", "reduce", long, "--fails", f"{sys.executable} check.py {{model}}", "--format", "json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)["reduced"]
    assert (said["ops"], said["symptom"], said["of"], said["steady"]) == (["Sqrt"], "exit 0", 7, True)
    left = ir.load(tmp_path / "reduced.onnx").graph
    assert ([v.name for v in left.inputs], list(left.initializers)) == (["x"], ["c"])
    assert said["tried"] + 1 == len((tmp_path / "calls").read_text()), "one more when it was written"


def test_it_goes_on_where_it_was_interrupted(cli: Cli, long: Path, tmp_path: Path) -> None:
    check = CHECK + "\n"
    (tmp_path / "check.py").write_text(
        check.replace(
            "sys.exit(", 'if len(open("calls").read()) > 4:\n    os.kill(os.getppid(), 2)\nsys.exit('
        ).replace("import sys", "import os\nimport sys")
    )
    arguments = ("debug", "reduce", long, "--fails", f"exec {sys.executable} check.py {{model}}", "--format", "json")
    stopped = cli(*arguments)
    assert stopped.code == 130, stopped.err
    assert not (tmp_path / "reduced.onnx").exists()
    (tmp_path / "check.py").write_text(check)
    said = json.loads(cli(*arguments).out)["reduced"]
    assert (said["known"], said["ops"]) == (4, ["Sqrt"])


def test_what_does_not_fail_is_refused(cli: Cli, long: Path, tmp_path: Path) -> None:
    ran = cli("debug", "reduce", long, "--fails", "crashes")
    assert (ran.code, ran.out) == (2, "")
    assert "the model does not fail" in ran.err
    assert not (tmp_path / "reduced.onnx").exists()


def test_nothing_is_overwritten_unless_asked(cli: Cli, long: Path, tmp_path: Path) -> None:
    (tmp_path / "reduced.npz").write_text("mine")
    ran = cli("debug", "reduce", long, "--fails", "nan")
    assert (ran.code, (tmp_path / "reduced.npz").read_text()) == (2, "mine")
    assert "reduced.npz exists" in ran.err
    assert cli("debug", "reduce", long, "--fails", "nan", "--overwrite").code == 0


def test_what_fails_by_chance_is_inconclusive(cli: Cli, long: Path, tmp_path: Path) -> None:
    (tmp_path / "check.py").write_text(
        'import os, sys\nopen("calls", "a").write("x")\nsys.exit(os.path.getsize("calls") > 1)\n'
    )
    ran = cli("debug", "reduce", long, "--fails", f"{sys.executable} check.py {{model}}")
    assert ran.code == 5, ran.err
    assert "it did not fail when it was run once more" in ran.out

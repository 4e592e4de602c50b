"""Statistics of the packaged runner: off by default, counts alone, and one meaning with those of ``dlc data check``."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlc.artifact import CHECKSUMS, seal
from dlc.drift import STATISTICS
from dlc.packaging.compose import compose
from dlc.packaging.onnx_form import PYTHON, environment
from dlc.packaging.source import load_source
from dlc.types import Array
from tests.cli.conftest import FEATURES, examples
from tests.packaging.conftest import Cli

USE = """
import sys
import numpy as np
from run import Model
model = Model()
for batch in np.array_split(np.load(sys.argv[1])["x"], int(sys.argv[2])):
    model.run({"x": batch})
assert not {"dlc", "torch"} & set(sys.modules)
"""


@pytest.fixture
def package(artifact: Path, tmp_path: Path) -> Path:
    return packaged(artifact, tmp_path, "fp32")


def packaged(artifact: Path, out: Path, precision: str) -> Path:
    path = compose([load_source(artifact / precision)], "onnx", out, check=False).path
    assert path is not None
    return path


def alone(folder: Path, *arguments: str | Path, log: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in a package, where it sees neither dlc nor anything else that is installed but the runtime."""
    with environment() as variables:
        paths = f"{variables['PYTHONPATH']}{os.pathsep}{folder}"
        return subprocess.run(
            [*PYTHON, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False,
            env={"PYTHONPATH": paths, "DLC_STATISTICS": "" if log is None else str(log)},
        )  # fmt: skip


def observed(package: Path, x: Array, log: Path, runs: int = 3) -> Any:
    """Feed a packaged model in some runs; return what it wrote down."""
    np.savez(log.with_suffix(".npz"), x=x)
    child = alone(package, "-c", USE, log.with_suffix(".npz"), str(runs), log=log)
    assert child.returncode == 0, child.stderr
    return json.loads(log.read_text())


def rows(moved: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["value"]: row for row in moved}


def test_statistics_are_off_by_default_and_hold_counts_alone(package: Path, tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 7 * FEATURES, dtype=np.float32).reshape(7, FEATURES)
    np.savez(tmp_path / "x.npz", x=x)
    before = {p: p.read_bytes() for p in package.iterdir() if p.is_file()}
    assert alone(package, "-c", USE, tmp_path / "x.npz", "3").returncode == 0
    assert {p: p.read_bytes() for p in package.iterdir() if p.is_file()} == before
    log = observed(package, x, tmp_path / "log.json")
    known = json.loads((package / STATISTICS).read_text())
    assert (log["schema"], log["model"], log["variant"], log["examples"]) == (known["schema"], "centres", "fp32", 7)
    assert (log["psi"], log["ks"]) == (known["psi"], known["ks"])
    assert {name: each["kind"] for name, each in log["values"].items()} == {"x": "input", "scores": "output"}
    for each in log["values"].values():
        assert set(each) == {"kind", "edges", "counts", "non_finite"}, "what else is there may be an element"
    edges = log["values"]["x"]["edges"]
    assert edges == known["values"]["x"]["edges"]
    assert log["values"]["x"]["counts"] == np.histogram(x, [-np.inf, *edges, np.inf])[0].tolist()


def test_the_package_brings_the_statistics_of_the_artifact(package: Path, artifact: Path) -> None:
    assert (package / STATISTICS).read_bytes() == (artifact / STATISTICS).read_bytes()
    assert STATISTICS in json.loads((package / "dlc-package.json").read_text())["files"]


@pytest.mark.parametrize(
    ("change", "drifts"),
    [
        (lambda x: x, False),
        (lambda x: 1 - x, True),
        (lambda x: x + np.random.default_rng(3).normal(scale=2, size=x.shape).astype(np.float32), True),
    ],
    ids=["same", "inverted", "noisy"],
)
def test_dlc_and_the_package_say_the_same_of_what_was_observed_and_of_the_data(
    change: Callable[[Array], Array], drifts: bool, package: Path, artifact: Path, tmp_path: Path, cli: Cli
) -> None:
    log = tmp_path / "log.json"
    observed(package, change(examples(300, 5)[0]), log)
    child = alone(package, "drift.py", log)
    assert child.returncode == drifts, child.stderr
    ours = cli("data", "check", artifact, "--data", log, "--format", "json")
    assert ours.code == drifts, ours.err
    theirs, found = json.loads(child.stdout), json.loads(ours.out)
    assert theirs == {key: found[key] for key in theirs}
    assert found["examples"] == 300
    assert set(rows(found["moved"])) == {"x", "scores"}
    data = json.loads(cli("data", "check", artifact, "--data", log.with_suffix(".npz"), "--format", "json").out)
    assert rows(data["moved"])["x"] == rows(found["moved"])["x"]


def test_outputs_of_another_precision_than_calibration_s_are_marked(artifact: Path, tmp_path: Path, cli: Cli) -> None:
    observed(packaged(artifact, tmp_path, "int8"), examples(300, 5)[0], tmp_path / "log.json")
    ran = cli("data", "check", artifact, "--data", tmp_path / "log.json")
    assert ran.code == 0, ran.out + ran.err
    assert "300 examples against calibration; at most PSI 0.25, KS 0.2" in ran.out
    assert "note: outputs are those of int8, calibration's those of fp32" in ran.out


def test_infinities_and_nans_are_outside_and_counted(package: Path, artifact: Path, tmp_path: Path, cli: Cli) -> None:
    x = examples(100, 5)[0]
    x[:30, 0], x[30:40, 0], x[40:45, 0] = np.nan, np.inf, -np.inf
    log = observed(package, x, tmp_path / "log.json")["values"]["x"]
    assert log["non_finite"] == 45
    assert (log["counts"][0] >= 5, log["counts"][-1] >= 40, sum(log["counts"])) == (True, True, x.size)
    ran = cli("data", "check", artifact, "--data", tmp_path / "log.json")
    assert f"45 of {x.size} elements of 'x' are NaN or infinite" in ran.out


def test_without_calibration_two_logs_compare(artifact: Path, tmp_path: Path, cli: Cli) -> None:
    (artifact / STATISTICS).unlink()
    seal(artifact)
    assert STATISTICS not in (artifact / CHECKSUMS).read_text()
    package, x = packaged(artifact, tmp_path, "fp32"), examples(300, 5)[0]
    logs = {name: tmp_path / f"{name}.json" for name in ("one", "same", "louder")}
    one = observed(package, x, logs["one"])
    observed(package, examples(300, 6)[0], logs["same"])
    observed(package, 3 * x, logs["louder"])
    assert (one["psi"], one["ks"], len(one["values"]["x"]["edges"])) == (0.25, 0.2, 163)
    assert alone(package, "drift.py", logs["one"], logs["same"]).returncode == 0
    assert alone(package, "drift.py", logs["one"], logs["louder"]).returncode == 1
    child = alone(package, "drift.py", logs["one"])
    assert child.returncode == 2
    assert "this package has none, give another file as BEFORE" in child.stderr
    ran = cli("data", "check", artifact, "--data", logs["one"])
    assert ran.code == 2
    assert "was compiled without calibration data" in ran.err


def test_a_value_that_calibration_did_not_keep_is_named(
    package: Path, artifact: Path, tmp_path: Path, cli: Cli
) -> None:
    text = json.loads((artifact / STATISTICS).read_text())
    del text["values"]["scores"]
    for place in (artifact, package):
        (place / STATISTICS).write_text(json.dumps(text))
    log = observed(package, examples(100, 5)[0], tmp_path / "log.json")
    assert len(log["values"]["scores"]["edges"]) == 163
    ran = cli("data", "check", artifact, "--data", tmp_path / "log.json")
    assert ran.code == 0, ran.err
    assert "'scores' was not looked at: calibration kept no statistics of it" in ran.out


Change = Callable[[dict[str, Any]], object]
BROKEN: list[tuple[Change, str, str]] = [
    (lambda log: log.update(schema="dlc-statistics/2"), "not of schema dlc-statistics/1", "not of schema"),
    (lambda log: log.update(model="other"), "is of the model 'other'", "the other of 'other'"),
    (lambda log: log.update(examples=0, values={}), "holds no run", "holds no run"),
    (lambda log: log["values"]["x"].update(edges=[0.0, 1.0], counts=[0, 1, 0]), "counts 'x' in other bins",
     "'x' is counted in other bins"),
    (lambda log: log["values"]["x"]["counts"].pop(), "counts do not fit", "is damaged"),
    (lambda log: log["values"]["x"].pop("counts"), "is damaged", "is damaged"),
    (lambda log: log.update(values={"y": log["values"]["x"]}), "no value in common", "no value in common"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "ours", "theirs"), BROKEN, ids=[each for _, each, _ in BROKEN])
def test_a_file_that_does_not_compare_is_refused_by_both(
    change: Change, ours: str, theirs: str, package: Path, artifact: Path, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "log.json"
    log = observed(package, examples(100, 5)[0], path)
    change(log)
    path.write_text(json.dumps(log))
    ran = cli("data", "check", artifact, "--data", path)
    assert (ran.code, ran.out) == (2, "")
    assert ours in ran.err
    child = alone(package, "drift.py", path)
    assert (child.returncode, child.stdout) == (2, "")
    assert theirs in child.stderr
    assert "Traceback" not in child.stderr


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is damaged"), ("[]", "is damaged or not of schema"), (None, "No such file")]
)
def test_what_is_no_log_is_refused(text: str | None, said: str, artifact: Path, package: Path, cli: Cli) -> None:
    if text is not None:
        Path("log.json").write_text(text)
    ran = cli("data", "check", artifact, "--data", "log.json")
    assert ran.code == 2
    assert f"log.json{':' if text is None else ''} {said}" in ran.err
    assert alone(package, "drift.py", Path("log.json").resolve()).returncode == 2


def test_a_log_is_known_by_what_it_holds_and_needs_an_artifact_that_has_its_variant(
    package: Path, artifact: Path, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "observed.json"
    log = observed(package, examples(100, 5)[0], path)
    (tmp_path / "observed").write_bytes(path.read_bytes())
    assert cli("data", "check", artifact, "--data", tmp_path / "observed").code == 0
    ran = cli("data", "check", "digits-mlp", "--data", path)
    assert ran.code == 2
    assert "hold it against the artifact of the package" in ran.err
    path.write_text(json.dumps({**log, "variant": "int4"}))
    ran = cli("data", "check", artifact, "--data", path)
    assert ran.code == 2
    assert "is of the variant 'int4'" in ran.err


@pytest.mark.parametrize("arguments", [(), ("a", "b", "c")])
def test_drift_says_how_it_is_called(arguments: tuple[str, ...], package: Path) -> None:
    child = alone(package, "drift.py", *arguments)
    assert child.returncode == 2
    assert "python drift.py [BEFORE] OBSERVED" in child.stderr


@pytest.mark.parametrize(("name", "said"), [(STATISTICS, "name another file"), ("no/log.json", "No such file")])
def test_a_place_where_no_log_can_go_is_said_before_the_first_run(name: str, said: str, package: Path) -> None:
    child = alone(package, "-c", "from run import Model; Model()", log=package / name)
    assert child.returncode == 1
    assert said in child.stderr
    assert Path(name).name in child.stderr


THREADED = """
import time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import observe
from run import Model

class Slow(observe.Counts):
    def __init__(self, *arguments):
        time.sleep(0.02)
        super().__init__(*arguments)

observe.Counts = Slow
model = Model()
list(ThreadPoolExecutor(8).map(lambda x: model.run({"x": x}), np.zeros((8, 2, 128), np.float32)))
"""


def test_runs_of_several_threads_are_all_counted(package: Path, tmp_path: Path) -> None:
    child = alone(package, "-c", THREADED, log=tmp_path / "log.json")
    assert child.returncode == 0, child.stderr
    log = json.loads((tmp_path / "log.json").read_text())
    assert (log["examples"], sum(log["values"]["x"]["counts"])) == (16, 16 * FEATURES)
    assert not list(tmp_path.glob(".log.json*"))

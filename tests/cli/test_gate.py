"""dlc gate from the command line, on an artifact that was really compiled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from dlc.artifact import seal
from dlc.gate import baseline
from dlc.gate.timing import RECORDED
from tests.cli.conftest import RECIPE, Cli, Ran, classifier, examples, spoil

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = 600
QUIET = "latency since baseline"
"""The one gate whose outcome is the machine's: these tests run on busy ones."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``centres.onnx``, ``recipe.toml``, its data, ``build/centres`` of them and its baseline, ``b.json``."""
    folder = tmp_path_factory.mktemp("gate")
    ir.save(classifier(), folder / "centres.onnx")
    for name, seed in (("calibration", 1), ("evaluation", 2)):
        x, labels = examples(EXAMPLES, seed)
        np.savez(folder / f"{name}.npz", x=x, label=labels)
    (folder / "recipe.toml").write_text(RECIPE)
    for command in (
        "compile centres.onnx -r recipe.toml",
        "gate build/centres -r recipe.toml --baseline b.json --update-baseline",
    ):
        line = [sys.executable, "-m", "dlc", *command.split()]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1, 5), done.stderr
    return folder


@pytest.fixture
def here(compiled: Path, tmp_path: Path) -> Path:
    """A copy of that folder, where ``cli`` runs."""
    shutil.copytree(compiled, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def gate(cli: Cli, here: Path) -> Callable[..., Ran]:
    def run(*options: str | Path, recipe: str | None = "recipe.toml") -> Ran:
        return cli(
            "gate", (here / "build" / "centres").relative_to(here), *(("-r", recipe) if recipe else ()), *options
        )

    return run


def statuses(ran: Ran) -> dict[str, str | None]:
    return {f"{e['variant']}/{e['gate']}": e["status"] for e in json.loads(ran.out)["lines"]}


def held(found: dict[str, str | None]) -> bool:
    """Whether everything passes but what the clock decides, which at least does not fail."""
    return all(s in ("pass", None) or (QUIET in name and s == "inconclusive") for name, s in found.items())


def test_a_baseline_is_written_and_then_held(gate: Callable[..., Ran], here: Path) -> None:
    ran = gate("--baseline", "base/centres.json", "--update-baseline")
    assert ran.code == 0, ran.out + ran.err
    assert "baseline: base/centres.json" in ran.out
    recorded = json.loads((here / "base" / "centres.json").read_text())["observation"]
    assert len(recorded["again"]) in (RECORDED, 2 * RECORDED)  # twice if the clock left something open
    ran = gate("--baseline", "base/centres.json", "--format", "json", "--junit", "out/f.xml", "--summary", "out/f.md",
               "--record", "out/h.jsonl")  # fmt: skip
    found = statuses(ran)
    assert held(found), ran.out
    assert found["int8/accuracy since baseline"] == found["int8/determinism"] == "pass"
    assert ran.code in (0, 5)
    suites = ET.parse(here / "out" / "f.xml").getroot()
    assert [s.get("name") for s in suites] == ["centres.fp32", "centres.int8"]
    assert suites.get("failures") == "0"
    summary = (here / "out" / "f.md").read_text()
    assert "dlc gate: centres" in summary
    assert "Nothing that is recorded changed since the baseline" in summary
    assert len((here / "out" / "h.jsonl").read_text().splitlines()) == 1
    assert (here / "out" / "h.svg").is_file()


def test_a_variant_that_was_not_asked_for_is_not_missed(gate: Callable[..., Ran]) -> None:
    found = statuses(gate("--baseline", "b.json", "--variants", "fp32", "--format", "json"))
    assert held(found)
    assert not any(name.startswith("int8/") for name in found)


def test_an_earlier_artifact_as_the_baseline_is_timed_in_turns(gate: Callable[..., Ran], here: Path) -> None:
    shutil.copytree(here / "build" / "centres", here / "earlier")
    found = statuses(gate("--baseline", "earlier", "--format", "json"))
    assert held(found)
    assert found["fp32/latency since baseline"] is not None  # both ran here, so the reference is judged too


def test_a_model_that_got_worse_fails_and_quantization_is_blamed(gate: Callable[..., Ran], here: Path) -> None:
    spoil(here / "build" / "centres", "int8")
    ran = gate("--baseline", "b.json", "--summary", "s.md")
    assert ran.code == 1
    assert "fail: int8/accuracy since baseline: top1" in ran.out
    assert "fail: int8/golden vectors" in ran.out
    assert "quantization: " in ran.out
    assert "pass: fp32/accuracy since baseline" in ran.out
    summary = (here / "s.md").read_text()
    assert "**quantization**" in summary
    assert "But the files of int8 are not the baseline's." in summary


def test_a_slice_that_collapses_is_named(gate: Callable[..., Ran], here: Path) -> None:
    """Two of the classes are lost, all of one site; the mean is allowed that, the site is not."""
    arrays = dict(np.load(here / "evaluation.npz"))
    site = np.where(arrays["label"] < 2, "harbour", "field")
    np.savez(here / "evaluation.npz", **arrays, site=site)
    text = (here / "recipe.toml").read_text().replace('targets = "label"\n[evaluation]', 'targets = "label"\n[gates]\n'
                                                      "retention = 0.5\n[evaluation]")  # fmt: skip
    (here / "recipe.toml").write_text(text + 'slices = ["site"]\n')
    assert gate("--baseline", "s.json", "--update-baseline").code in (0, 5)
    spoil(here / "build" / "centres", "int8", rows=2)
    ran = gate("--baseline", "s.json", "--format", "json", "--junit", "f.xml", "--summary", "f.md")
    assert ran.code == 1
    found = statuses(ran)
    assert (found["int8/accuracy since baseline"], found["int8/slices since baseline"]) == ("pass", "fail")
    assert found["fp32/slices since baseline"] == "pass"
    [line] = [e for e in json.loads(ran.out)["lines"] if (e["variant"], e["gate"]) == ("int8", "slices since baseline")]
    worst = f"slice site=harbour ({(site == 'harbour').sum()} examples): top1 "
    assert line["reason"].startswith(worst)
    assert f'message="{worst}' in (here / "f.xml").read_text()
    assert f"**int8, slices since baseline** ❌ {worst}" in (here / "f.md").read_text()


def test_bisect_says_that_a_rebuild_holds(gate: Callable[..., Ran], here: Path) -> None:
    """The files were altered after the compile: what is compiled anew, of the same graph, is as it was."""
    spoil(here / "build" / "centres", "int8")
    ran = gate("--baseline", "b.json", "--bisect", "--summary", "f.md", "--format", "json")
    assert ran.code == 1, ran.out + ran.err
    found = json.loads(ran.out)
    [tried] = [t for t in found["tried"] if t["gate"] == "int8/accuracy since baseline"]
    assert (tried["undone"], tried["result"]) == ("rebuilt with nothing undone", "holds")
    assert "- undone: rebuilt with nothing undone: the gate holds" in (here / "f.md").read_text()
    assert gate("--baseline", "b.json", "--bisect", "--update-baseline").code == 2
    assert gate("--bisect").code == 2


def test_a_baseline_that_fails_is_not_written(gate: Callable[..., Ran], here: Path) -> None:
    spoil(here / "build" / "centres", "int8")
    assert gate("--baseline", "worse.json", "--update-baseline").code == 1
    assert not (here / "worse.json").exists()


def test_other_data_are_blamed(gate: Callable[..., Ran], here: Path) -> None:
    x, labels = examples(EXAMPLES, 2)
    np.savez(here / "evaluation.npz", x=x[:, ::-1].copy(), label=labels)  # preprocessing mirrors its input
    ran = gate("--baseline", "b.json")
    assert ran.code == 1
    assert "fail: fp32/stated accuracy" in ran.out
    assert "preprocessing or data drift" in ran.out
    assert "changed: evaluation data 'evaluation'" in ran.out


def test_evaluation_data_that_hold_a_calibration_example_are_remarked_upon(
    gate: Callable[..., Ran], here: Path
) -> None:
    """The compile saw none: they were changed afterwards."""
    x, labels = examples(EXAMPLES, 2)
    known, own = examples(EXAMPLES, 1)
    x[0], labels[0] = known[7], own[7]
    np.savez(here / "evaluation.npz", x=x, label=labels)
    ran, said = gate("--summary", "s.md"), "1 calibration examples are evaluation examples: accuracy may flatter\n"
    assert f"note: int8/leakage: {said}" in ran.out
    assert f"**int8, leakage** {said}" in (here / "s.md").read_text()
    assert "fp32/leakage" not in ran.out
    np.savez(here / "calibration.npz", x=known[1:], label=own[1:])
    assert "note: int8/leakage: not looked for, as the recipe's calibration data are not those" in gate().out


def test_without_a_recipe_the_metric_is_missed(gate: Callable[..., Ran]) -> None:
    ran = gate("--format", "json", recipe=None)
    assert ran.code == 5
    assert statuses(ran)["int8/accuracy"] == "inconclusive"
    assert statuses(ran)["int8/agreement"] == "pass"
    assert gate("--baseline", "blind.json", "--update-baseline", recipe=None).code == 5
    for seed, outcome in ((0, "pass"), (1, None)):  # another seed draws other inputs, whose outputs tell nothing
        ran = gate("--baseline", "blind.json", "--format", "json", "--seed", str(seed), recipe=None)
        assert statuses(ran).get("int8/determinism") == outcome


def test_the_configuration_says_the_rest(cli: Cli, here: Path) -> None:
    (here / "dlc.toml").write_text(
        '[models.centres]\nrecipe = "recipe.toml"\nbaseline = "b.json"\nvariants = ["int8"]\n'
    )
    assert held(statuses(cli("gate", "build/centres", "--format", "json")))
    with (here / "dlc.toml").open("a") as file:
        file.write('dims = { batch = 8 }\ngates = { objective = "throughput", concurrency = 2 }\n')
    ran = cli("gate", "build/centres", "--format", "json", "--summary", "s.md")
    assert "| compressed | examples/s |" in (here / "s.md").read_text()
    found = json.loads(ran.out)
    assert found["observation"]["variants"][1]["timing"]["per_second"] > 0
    assert found["observation"]["dims"] == {"batch": 8}
    assert any(found["observation"]["again_throughput"])  # two sessions of one model never carry just the same
    assert "int8/throughput since baseline" in [f"{e['variant']}/{e['gate']}" for e in found["lines"]]
    (here / "dlc.toml").write_text('[models.centres]\nrecipe = "recipe.toml"\ntarget = "t"\n[targets.t]\nthreads = 3\n')
    ran = cli("gate", "build/centres")
    assert ran.code == 2
    assert "was compiled for threads 1, " in ran.err
    (here / "dlc.toml").write_text("[models.centers]\n")
    ran = cli("gate", "build/centres", "--baseline", "none.json")
    assert "note: " in ran.err
    assert "dlc.toml states nothing of model 'centres'; did you mean 'centers'?" in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--baseline", "none.json"), "baseline none.json does not exist"),
        (("--update-baseline",), "--update-baseline needs --baseline"),
        (("--variants", "int4"), "has no variant 'int4'"),
        (("--variants", "int9"), "unknown variant 'int9'; did you mean 'int8'?"),
        (("--config", "none.toml"), "none.toml: No such file"),
        (("--dim", "btach=2"), "no dynamic dimension is named 'btach'"),
    ],
)
def test_what_is_asked_wrongly(gate: Callable[..., Ran], options: tuple[str, ...], words: str) -> None:
    ran = gate(*options)
    assert ran.code == 2
    assert words in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--junit", "b.json/f.xml"), "b.json/f.xml cannot be written: Not a directory"),
        (("--summary", "/proc/f.md"), "/proc/f.md cannot be written: No such file"),
        (("--record", "h.svg"), "--record and the picture of --record are the same file, h.svg"),
        (("--junit", "f.out", "--summary", "./f.out"), "--junit and --summary are the same file, f.out"),
        (("--baseline", "b.json", "--update-baseline", "--record", "b.json"), "--record and --baseline are the same"),
        (("--record", "recipe.toml"), "history recipe.toml, line 1 is no record of a gate"),
        (("--record", "evaluation.npz"), "history evaluation.npz cannot be read: "),
        (("--baseline", "other.json"), "baseline other.json is of 'another', the artifact of 'centres'"),
        (("--config", "wide.toml"), "wide.toml: model 'centres': gate retention=1.5 is no share"),
    ],
)
def test_what_is_refused_before_anything_is_measured(
    gate: Callable[..., Ran], here: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    before = baseline.read(here / "b.json")
    baseline.write(here / "other.json", msgspec.structs.replace(before, model="another"))
    (here / "wide.toml").write_text("[models.centres]\ngates = { retention = 1.5 }\n")
    there = sorted(here.rglob("*"))
    monkeypatch.setattr("dlc.gate.flow.observe", None)  # what is measured would raise
    ran = gate(*options)
    assert ran.code == 2, ran.out + ran.err
    assert words in ran.err
    assert sorted(here.rglob("*")) == there


def test_an_interrupted_gate_leaves_nothing(here: Path) -> None:
    there = sorted(here.rglob("*"))
    line = [
        sys.executable, "-m", "dlc", "gate", "build/centres", "-r", "recipe.toml", "--baseline", "n/b.json",
        "--update-baseline", "--junit", "n/f.xml", "--summary", "n/f.md", "--record", "n/h.jsonl",
    ]  # fmt: skip
    child = subprocess.Popen(
        line, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    while child.poll() is None and not children.read_text():  # the first process that measures memory has begun
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate()
    assert child.returncode == 130
    assert err.strip() == "interrupted: nothing half-written was left behind"
    assert sorted(here.rglob("*")) == there


def test_a_damaged_artifact_is_not_measured(gate: Callable[..., Ran], here: Path) -> None:
    path = here / "build" / "centres" / "int8" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    ran = gate()
    assert ran.code == 2
    assert "int8/model.onnx is changed" in ran.err


def test_an_artifact_without_a_reference_is_refused(gate: Callable[..., Ran], here: Path) -> None:
    artifact = here / "build" / "centres"
    record = json.loads((artifact / "manifest.json").read_text())
    record["variants"] = record["variants"][1:]
    (artifact / "manifest.json").write_text(json.dumps(record))
    seal(artifact)
    ran = gate()
    assert ran.code == 2
    assert "has no fp32 variant" in ran.err


def test_a_recipe_of_another_model_is_refused(gate: Callable[..., Ran]) -> None:
    ran = gate(recipe="digits-cnn")
    assert ran.code == 2
    assert "recipe digits-cnn is of 'digits-cnn'" in ran.err


METRIC = """
import numpy as np
from dlc import Dataset, Recipe
from dlc.harness.accuracy import Metric
def batches():
    yield {{"x": np.load("evaluation.npz")["x"]}}
def targets():
    return np.load("evaluation.npz")["label"]
def statistic(rows):
    {statistic}
def rows(predictions, targets):
    {rows}
recipe = Recipe(name="centres", source="centres.onnx", metric=Metric("mine", "", rows, statistic),
                evaluation=Dataset("mine", {batches}, targets))
"""


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"statistic": "raise KeyError('k')"}, "the metric's statistic fails on 600 examples: mine.py:10: KeyError"),
        ({"statistic": "return float('nan')"}, "the metric's statistic gives nan on 600 examples"),
        ({"rows": "raise KeyError('k')"}, "metric 'mine' cannot use predictions"),
        ({"rows": "return np.full((600, 1), np.nan)"}, "metric 'mine' gives NaN for example 0, 600 of 600"),
        ({"batches": "list"}, "is empty"),
        ({"batches": "lambda: [{'x': np.empty((0, 128), np.float32)}]"}, "holds no example"),
    ],
)
def test_metrics_and_data_of_no_use(gate: Callable[..., Ran], here: Path, parts: dict[str, str], words: str) -> None:
    sound = {
        "statistic": "return rows.mean()", "batches": "batches",
        "rows": "return (predictions.argmax(1) == targets).astype(float)[:, None]",
    }  # fmt: skip
    (here / "mine.py").write_text(METRIC.format(**{**sound, **parts}))
    ran = gate(recipe="mine.py")
    assert ran.code == 2, ran.out + ran.err
    assert words in ran.err


def test_gate_works_without_torch(here: Path) -> None:
    code = (
        "import sys, importlib.abc\n"
        "class NoTorch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.partition('.')[0] == 'torch': raise ImportError('no torch here')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from dlc.cli import run\n"
        "sys.exit(run(['gate', 'build/centres', '-r', 'recipe.toml']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode in (0, 5), done.stderr
    assert "centres: " in done.stdout

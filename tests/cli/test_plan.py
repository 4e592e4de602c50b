from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from dlc.artifact import read_session
from dlc.memory_plan import read
from dlc.passes.arena import UNIT
from dlc.passes.base import weight_bytes
from dlc.planned_session import open_planned
from dlc.runtimes.capped import fits, reserved
from dlc.runtimes.ort import session_options
from dlc.runtimes.ort_cpu import OrtCpuRunner
from tests.cli.conftest import CLASSES, Cli, classifier

UNNAMED = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n, ?] x) => (float[n, ?] y) { y = Neg(x) }"""


def test_says_where_every_byte_goes(cli: Cli, model: Path) -> None:
    ran = cli("plan", model, "--dim", "batch=4")
    assert ran.code == 0, ran.err
    for words in (
        "planned peak",
        "every order",
        "optimal",
        "weights, private",
        "unaccounted",
        "by session options",
        "KV cache: none",
    ):
        assert words in ran.out


def test_the_lines_leave_little_of_what_was_measured(cli: Cli, model: Path) -> None:
    """What no line accounts for is mostly code that the session is the first to run: no more than all of it."""
    found = msgspec.json.decode(cli("plan", model, "--dim", "batch=4", "--format", "json").out)
    account = found["account"]
    assert (account["private"], account["mapped"]) == (weight_bytes(classifier()), 0)
    assert account["outputs"] == 4 * CLASSES * 4
    code = next((Path(ort.__file__).parent / "capi").glob("onnxruntime_pybind11_state*")).stat().st_size
    assert 0 <= account["unaccounted"] <= code
    assert account["needed"] == account["measured"] - account["runtime"]
    [bucket] = found["buckets"]
    assert bucket["proved"]
    assert bucket["planned"] == found["plan"]["arena_bytes"] == account["activations"]


def test_buckets_and_what_the_largest_reserves(cli: Cli, model: Path) -> None:
    ran = cli("plan", model, "--dim", "batch=1,16", "--no-measure", "--format", "json")
    one, many = msgspec.json.decode(ran.out)["buckets"]
    assert (one["sizes"], many["sizes"]) == ({"batch": 1}, {"batch": 16})
    assert one["reserved"] == many["planned"] / one["planned"]
    assert many["reserved"] == 1


def test_buckets_are_written_and_run(cli: Cli, model: Path, tmp_path: Path) -> None:
    """Sizes in between lie in the arena of the next larger ones; larger ones are not planned."""
    assert cli("plan", model, "--dim", "batch=1,4,16", "--no-measure", "-o", "out").code == 0
    recorded = read(tmp_path / "out" / "memory.json")
    assert [p.dims for p in recorded.plans()] == [{"batch": 16}, {"batch": 1}, {"batch": 4}]
    assert "_batch_4_ARENA_BYTES" in (tmp_path / "out" / "memory.h").read_text().replace("BATCH", "batch")
    rng = np.random.default_rng(0)
    with OrtCpuRunner(classifier()) as stock, open_planned(tmp_path / "out") as session:
        for batch in (1, 3, 4, 16, 17):
            x = {"x": rng.standard_normal((batch, 128)).astype(np.float32)}
            assert all(np.array_equal(y, stock.run(x)[name]) for name, y in session.run(x).items())
        if session.tier.name == "planned":
            assert (session.counts.runs, session.counts.misses) == (4, 0)


def test_the_options_tier_runs_in_what_is_claimed_for_it(cli: Cli, model: Path, tmp_path: Path) -> None:
    ran = cli("plan", model, "--dim", "batch=4", "--no-measure", "-o", "out", "--format", "json")
    [bucket] = msgspec.json.decode(ran.out)["buckets"]
    if bucket["options"] is None:
        pytest.skip("allocations cannot be traced here")
    path, config = tmp_path / "out" / "planned.onnx", read_session(tmp_path / "out")
    x = {"x": np.zeros((4, 128), np.float32)}
    weights = reserved(path, x, config)
    assert fits(path, x, config, bucket["options"], weights)
    assert not fits(path, x, config, bucket["options"] - UNIT, weights)


def test_a_recipe_bounds_the_dimensions(cli: Cli, model: Path, recipe: Path) -> None:
    ran = cli("plan", model, "-r", recipe, "--no-measure", "--format", "json")
    assert [b["sizes"]["batch"] for b in msgspec.json.decode(ran.out)["buckets"]] == [4, 64]


def test_planned_files_run_in_a_plain_session(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert cli("plan", model, "--dim", "batch=4", "--no-measure", "-o", "out").code == 0
    folder = tmp_path / "out"
    assert {p.name for p in folder.iterdir()} == {"planned.onnx", "session.json", "memory.json", "memory.h"}
    session = ort.InferenceSession(folder / "planned.onnx", session_options(ort, read_session(folder)))
    x = np.random.default_rng(0).standard_normal((4, 128)).astype(np.float32)
    [scores] = session.run(None, {"x": x})
    stock = ort.InferenceSession(ir.to_proto(classifier()).SerializeToString())
    assert np.array_equal(scores, stock.run(None, {"x": x})[0])
    recorded = read(folder / "memory.json")
    assert (recorded.file, recorded.shapes) == ("planned.onnx", {"x": (4, 128)})


def test_files_are_not_replaced_unless_asked(cli: Cli, model: Path, tmp_path: Path) -> None:
    words = ("plan", model, "--dim", "batch=4", "--no-measure", "-o", "out")
    assert cli(*words).code == 0
    again = cli(*words)
    assert (again.code, "--overwrite" in again.err) == (2, True)
    assert cli(*words, "--overwrite").code == 0
    (tmp_path / "other").mkdir()
    refused = cli("plan", model, "--dim", "batch=4", "--no-measure", "-o", "other", "--overwrite")
    assert (refused.code, "holds no planned model" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [((), 2, "dimension 'batch' of input 'x' has neither a size nor bounds"),
     (("--dim", "bach=1"), 2, "did you mean 'batch'?"),
     (("--dim", "batch=0"), 2, "positive size"),
     (("--dim", "batch=4", "--budget", "1KiB"), 2, "below the weights"),
     (("--dim", "batch=4", "--budget", "many"), 2, "is no amount of memory"),
     (("--dim", "batch=100000", "--budget", "1MiB", "--no-measure"), 1, "over budget")],
)  # fmt: skip
def test_bad_input(cli: Cli, model: Path, options: tuple[str, ...], code: int, words: str) -> None:
    ran = cli("plan", model, *options)
    assert (ran.code, words in ran.err) == (code, True), ran.err


def test_a_dimension_without_a_name_is_named_by_its_input(cli: Cli, tmp_path: Path) -> None:
    ir.save(ir.from_onnx_text(UNNAMED), tmp_path / "unnamed.onnx")
    ran = cli("plan", "unnamed.onnx", "--dim", "n=2")
    assert (ran.code, "input 'x' has a dimension without a name" in ran.err) == (2, True)


def test_a_folder_that_is_no_variant(cli: Cli, tmp_path: Path) -> None:
    ran = cli("plan", tmp_path)
    assert (ran.code, "neither a model file nor the folder of a variant" in ran.err) == (2, True)


def test_compile_climbs_down_to_a_budget(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    ran = cli("compile", model, "-r", recipe, "--memory-budget", "1GiB", "-o", "build")
    assert ran.judged
    assert "within the memory budget: fp32 stock" in ran.out
    assert not (tmp_path / "build/centres/fp32/planned").exists()


def test_a_budget_that_nothing_meets_exits_1_with_the_table(cli: Cli, model: Path, recipe: Path) -> None:
    ran = cli("compile", model, "-r", recipe, "--memory-budget", "100KiB", "-o", "build")
    assert ran.code == 1
    assert "nothing fits the memory budget" in ran.out
    for way in ("stock", "order", "mapped"):
        assert ran.out.count(way) >= 2  # of fp32 and of int8


def test_a_budget_below_every_weight_is_refused_before_the_evaluation(
    cli: Cli, model: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlc.compiler.gather", None)
    ran = cli("compile", model, "-r", recipe, "--memory-budget", "1KiB", "-o", "build")
    assert (ran.code, "below the smallest variant's weights" in ran.err) == (2, True)
    assert not (tmp_path / "build" / "centres").exists()

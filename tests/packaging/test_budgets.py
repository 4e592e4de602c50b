"""Budgets and fallback chains, on what manifests say."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from dlc.artifact import MANIFEST, Artifact, seal
from dlc.packaging.budgets import Budget, best, candidates
from dlc.packaging.chain import SATURATES, chain
from dlc.packaging.source import load_source
from dlc.target import INTEGER_DOT
from tests.packaging.conftest import Cli, as_if_for, set_verdict


@pytest.fixture
def measured(artifact: Path) -> Path:
    """State latencies: int8 takes 1 ms, fp32 takes 2."""
    manifest = Artifact.load(artifact).manifest
    variants = []
    for each in manifest.variants:
        assert each.latency is not None
        latency = msgspec.structs.replace(each.latency, median_ms={"fp32": 2.0, "int8": 1.0}[each.precision])
        variants.append(msgspec.structs.replace(each, latency=latency))
    (artifact / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, variants=tuple(variants))))
    seal(artifact)
    return artifact


def order(artifact: Path, budget: Budget = Budget(), *, allow_failing: bool = False) -> list[tuple[str, bool]]:  # noqa: B008 - frozen
    found = candidates(Artifact.load(artifact), budget, allow_failing=allow_failing)
    return [(c.precision, c.fits) for c in found]


def test_the_fastest_of_those_that_pass_is_best(measured: Path) -> None:
    assert order(measured) == [("int8", True), ("fp32", True)]
    set_verdict(measured, "int8", "inconclusive")
    assert order(measured) == [("fp32", True), ("int8", True)]
    set_verdict(measured, "fp32", "fail")
    assert order(measured) == [("int8", True), ("fp32", False)]
    assert order(measured, allow_failing=True) == [("int8", True), ("fp32", True)]


def test_each_budget_excludes_and_says_by_how_much(measured: Path) -> None:
    artifact = Artifact.load(measured)
    fp32 = artifact.variant("fp32")
    assert fp32.size is not None
    assert fp32.memory is not None
    memory = fp32.memory.peak_rss_bytes - fp32.memory.runtime_rss_bytes
    at_limit = Budget(size=fp32.size.bytes, memory=10 * memory, latency_ms=2.0)
    assert order(measured, at_limit) == [("int8", True), ("fp32", True)]
    for budget, said in (
        (Budget(size=fp32.size.bytes - 1), f"size {fp32.size.bytes:,.6g} bytes, at most {fp32.size.bytes - 1:,.6g}"),
        (Budget(latency_ms=1.5), "latency 2 ms, at most 1.5"),
        (Budget(memory=1), "at most 1"),
    ):
        found = {c.precision: c for c in candidates(artifact, budget, allow_failing=False)}
        assert said in found["fp32"].problems[0]


def test_what_was_not_measured_does_not_fit_a_budget_for_it(measured: Path) -> None:
    manifest = Artifact.load(measured).manifest
    bare = tuple(msgspec.structs.replace(v, latency=None, memory=None) for v in manifest.variants)
    artifact = Artifact(measured, msgspec.structs.replace(manifest, variants=bare))
    found = candidates(artifact, Budget(memory=1 << 40, latency_ms=1e9), allow_failing=False)
    assert best(found) is None
    assert found[0].problems == ("memory was not measured", "latency was not measured")


def test_the_verb_takes_the_best_or_prints_why_none_fits(measured: Path, cli: Cli) -> None:
    ran = cli("package", measured, "--as", "onnx", "--max-latency", "1500us", "--no-check")
    assert ran.code == 0, ran.err
    assert Path("packages/centres-int8-onnx").is_dir()
    assert "latency 2 ms, at most 1.5" in ran.out
    ran = cli("package", measured, "--as", "onnx", "--max-size", "1kB", "-o", "small")
    assert ran.code == 1
    assert "nothing fits" in ran.out
    assert not Path("small").exists()
    ran = cli("package", measured / "fp32", "--as", "onnx", "--max-latency", "1ms", "--format", "json")
    assert ran.code == 1
    content = json.loads(ran.out)
    assert content["fits"] is None
    assert [c["precision"] for c in content["candidates"]] == ["fp32"]


@pytest.mark.parametrize(
    ("option", "text"), [("--max-size", "5"), ("--max-memory", "1 parsec"), ("--max-latency", "3MB")]
)
def test_a_budget_that_is_none_shows_how_one_is_written(option: str, text: str, measured: Path, cli: Cli) -> None:
    ran = cli("package", measured, "--as", "onnx", option, text)
    assert ran.code == 2
    assert "write a number and one of" in ran.err


def test_eight_bit_weights_ask_for_processors_that_sum_them_in_32_bits(artifact: Path) -> None:
    full = as_if_for(artifact, ("avx2", "avx512_vnni"))
    int8, fp32 = chain([load_source(full / "int8"), load_source(full / "fp32")])
    assert (int8.isa, int8.why) == (INTEGER_DOT, SATURATES)
    assert (fp32.isa, fp32.why) == ((), "")
    seven = as_if_for(artifact, ("avx2",))  # weights of seven bits do not saturate
    assert chain([load_source(seven / "int8")])[0].isa == ()


def test_a_variant_that_does_not_exist_is_not_called_too_large(measured: Path, cli: Cli) -> None:
    ran = cli("package", measured / "int3", "--as", "onnx", "--max-size", "1GB")
    assert ran.code == 2
    assert "has no variant 'int3'; it has fp32, int8" in ran.err

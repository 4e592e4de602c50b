"""The experiment that tells what kernels do otherwise from what a quantized graph makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from benchmarks.flips import compared, expand, in_python, in_wasm, shake, show, take
from dlc.packaging.source import Source, load_source
from tests.packaging.test_forms import needs


@pytest.fixture(scope="session")
def source(compiled: Path) -> Source:
    return load_source(compiled / "int8")


def fresh(source: Source) -> ir.Model:
    return expand(ir.load(source.model))


def test_a_quantizer_apart_from_its_product_gives_the_same(source: Source) -> None:
    feeds, stated = source.golden[0]
    got = in_python(show(fresh(source)), feeds)
    assert "DynamicQuantizeMatMul" in {n.op_type for n in source.graph.graph}
    for name, b in stated.items():
        np.testing.assert_array_equal(got[name], b)
    [(_, values), *_] = [(n, a) for n, a in got.items() if a.dtype == np.uint8 and a.ndim]
    found = compared({**got}, got, list(stated))
    assert (found.distance, found.differ, found.values, found.first) == (0, 0, values.size, "")


def test_values_that_are_put_in_are_those_that_are_read(source: Source) -> None:
    feeds, stated = source.golden[0]
    plain = in_python(show(fresh(source)), feeds)
    name = next(n for n, a in plain.items() if a.dtype == np.uint8 and a.ndim)
    for step, moves in ((0, False), (1, True)):
        values = plain[name] ^ np.uint8(step)
        got = in_python(show(take(fresh(source), {name: values})), {**feeds, f"{name}.given": values})
        assert (compared(got, plain, list(stated)).distance > 0) == moves
        np.testing.assert_array_equal(got[name], plain[name])  # the quantizer itself still reads what it did


def test_one_eps_moves_what_quantizers_read_and_no_value_by_more_than_one_step(source: Source) -> None:
    feeds, stated = source.golden[0]
    plain = in_python(show(fresh(source)), feeds)
    shapes = {n: a.shape for n, a in plain.items()}
    got = in_python(show(shake(fresh(source), shapes, np.random.default_rng(0))), feeds)
    assert compared(got, plain, list(stated)).steps <= 1
    scale = next(n for n, a in plain.items() if a.dtype == np.float32 and a.ndim == 0)
    apart = float(abs(got[scale] - plain[scale]))
    assert 0 < apart <= 4 * np.finfo(np.float32).eps * float(plain[scale])  # both ends of a range move, then round


@needs["web"]
def test_the_browser_s_quantizers_are_within_one_step_of_python_s(source: Source) -> None:
    feeds, stated = source.golden[0]
    plain = in_python(show(fresh(source)), feeds)
    given = {n: a for n, a in plain.items() if n not in stated}
    fed = {**feeds, **{f"{n}.given": a for n, a in given.items()}}
    assert compared(in_wasm(show(take(fresh(source), given)), fed), plain, list(stated)).steps <= 1

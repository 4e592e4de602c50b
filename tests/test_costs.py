"""Measured decisions: what is kept, what is remembered, and what counts as the same graph."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dlc.cost_table import Cost, CostTable
from dlc.costs import Costs, canonical_text, decide
from dlc.errors import NotHere
from dlc.manifest import Estimate
from dlc.passes.base import clone
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SPINNING_STOP, SessionConfig, resting
from dlc.target import detect

HEAD = '<ir_version: 10, opset_import: ["": 20]>'
CHAIN = HEAD + " g (float[n, 256] x) => (float[n, 256] y) {{ {} }}"


def chain(length: int) -> ir.Model:
    """Sigmoid applied ``length`` times: each costs the same, and no optimiser removes one."""
    names = ["x", *(f"t{i}" for i in range(1, length)), "y"]
    return ir.from_onnx_text(CHAIN.format(" ".join(f"{b} = Sigmoid({a})" for a, b in itertools.pairwise(names))))


def costs(cache: Path | None) -> Costs:
    feeds = {"x": np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)}
    return Costs(detect(), SessionConfig(), feeds, table=CostTable(cache))


def test_a_shorter_chain_is_measured_faster() -> None:
    cost = costs(None).whole(chain(8), chain(1))
    assert cost.ratio.high < 1
    assert cost.saved_ns > 0
    assert decide(cost.ratio, fewer_nodes=True) == (True, "faster")


def test_second_question_is_answered_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "costs.sqlite"
    first = costs(cache).whole(chain(2), chain(1))
    assert costs(cache).whole(chain(2), chain(1)) == first
    assert costs(None).whole(chain(2), chain(1)) != first  # measured anew: no two runs take the same nanoseconds


@pytest.mark.parametrize(
    ("ratio", "fewer_nodes", "kept"),
    [
        ((0.8, 0.7, 0.9), False, True),
        ((1.2, 1.1, 1.3), True, False),
        ((1.2, 1.1, 1.3), False, False),
        ((1.0, 0.9, 1.1), True, True),
        ((1.0, 0.9, 1.1), False, False),
        ((1.015, 1.01, 1.02), True, True),
        ((1.015, 1.01, 1.02), False, False),
    ],
)
def test_decide(ratio: tuple[float, float, float], fewer_nodes: bool, kept: bool) -> None:
    value, low, high = ratio
    assert decide(Estimate(value=value, low=low, high=high), fewer_nodes=fewer_nodes)[0] is kept


def test_canonical_text_ignores_names_and_weight_values() -> None:
    text = HEAD + " g (float[n, 2] {x}) => (float[n, 2] {y}) <float[2] {w} = {{{a}, 2}}> {{ {y} = Add({x}, {w}) }}"
    one = ir.from_onnx_text(text.format(x="x", y="y", w="w", a=1))
    other = ir.from_onnx_text(text.format(x="in", y="out", w="bias", a=9))
    assert list(canonical_text(one)) == list(canonical_text(other))


def test_canonical_text_sees_shape_operands_attributes_and_operators() -> None:
    text = HEAD + " g (float[4] x) => (float[a, b] y) <int64[2] s = {{{s}}}> {{ y = Reshape{z}(x, s) }}"
    base = ir.from_onnx_text(text.format(s="2, 2", z=""))
    assert list(canonical_text(base)) != list(canonical_text(ir.from_onnx_text(text.format(s="4, 1", z=""))))
    assert list(canonical_text(base)) != list(
        canonical_text(ir.from_onnx_text(text.format(s="2, 2", z=" <allowzero = 1>")))
    )


def test_a_place_is_measured_without_the_cost_of_a_call() -> None:
    here = costs(None)
    whole = here.whole(chain(1), chain(1))
    place = here.place(here.key("one"), chain(1), chain(1), here.feeds)
    assert 0 < place.before_ns < whole.before_ns
    assert place.ratio.low < 1.1


def test_costs_that_a_target_file_carries_are_used_and_others_are_not_made_up() -> None:
    elsewhere = replace(detect(), isa=("some", "other"))
    feeds = costs(None).feeds
    known = Cost(before_ns=2.0, after_ns=1.0, ratio=Estimate(value=0.5, low=0.4, high=0.6))
    blank = Costs(elsewhere, SessionConfig(), feeds, table=CostTable(carried={"x": known}))
    sizes = str([("n", 64)])
    key = blank.key(*canonical_text(chain(2)), *canonical_text(chain(1)), sizes)
    theirs = replace(blank, table=CostTable(carried={key: known}))
    assert theirs.whole(chain(2), chain(1)) == known
    with pytest.raises(NotHere, match="dlc target profile"):
        theirs.whole(chain(3), chain(1))


def test_the_key_tells_targets_apart() -> None:
    mine = Costs(detect(), SessionConfig(), {}, table=CostTable(carried={}))
    two_threads = Costs(detect(threads=2), SessionConfig(intra_op_threads=2), {})
    assert mine.key("a") != two_threads.key("a")
    assert mine.key("a") == mine.key("a")


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_wait_for_their_turn_rest(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[SessionConfig] = []

    class Runner(OrtCpuRunner):
        def __init__(self, model: ir.Model, config: SessionConfig):
            opened.append(config)
            super().__init__(model, config)

    monkeypatch.setattr("dlc.costs.load", lambda _: Runner)
    config = SessionConfig(intra_op_threads=threads)
    replace(costs(None), config=config).whole(chain(2), chain(1), rounds=2)
    assert opened == [resting(config)] * 2
    assert (SPINNING_STOP in opened[0].entries) == (threads > 1)


def test_clone_shares_no_type() -> None:
    model = chain(2)
    copy = clone(model)
    next(iter(copy.graph)).outputs[0].dtype = ir.DataType.FLOAT16
    assert next(iter(model.graph)).outputs[0].dtype is not ir.DataType.FLOAT16


@pytest.mark.parametrize("kind", ["garbage", "folder", "file in the way"])
def test_a_cache_that_cannot_be_used_is_said_and_costs_are_measured(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / kind / "costs.sqlite"
    if kind == "garbage":
        cache.parent.mkdir()
        cache.write_text("this is no database, and long enough to be sure of it" * 100)
    elif kind == "folder":
        cache.mkdir(parents=True)
    else:
        cache.parent.write_text("")
    assert costs(cache).whole(chain(2), chain(1)).ratio.value > 0
    assert "cannot be used" in caplog.text
    assert len(caplog.records) == 1

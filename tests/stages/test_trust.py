"""A user's rewrite is not believed: its numbers are compared, whatever the options say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from onnxscript.rewriter import RewriteRule

from dlc.costs import Costs
from dlc.errors import PassError, RuleError
from dlc.passes.edit import Edit
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.rewrite import Rewrite
from dlc.passes.user_rewrite import adopt
from dlc.pipeline import digest
from dlc.runtimes.session import SessionConfig
from dlc.stages.choosing import Chosen
from dlc.stages.defaults import rewrites
from dlc.stages.rewriting import Rewritten, rewrite
from dlc.stages.trust import evaluator, fault
from dlc.target import detect
from tests.cli.conftest import FEATURES
from tests.stages.test_rewriting import Liar, Straighten, Wrong, detours


@pytest.fixture
def costs() -> Costs:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(n, FEATURES)).astype(np.float32)} for n in (8, 1)]
    return Costs(detect(), SessionConfig(), feeds[0], (feeds[1],))


def detour(op: Any, x: Any) -> Any:
    return op.Asinh(op.Sinh(x))


def straight(op: Any, x: Any) -> Any:
    return op.Sum(x)


def only_where_it_is_large(op: Any, x: Any) -> Any:
    """As it was at a batch of 8, and zero at a batch of 1."""
    large = op.Greater(op.Size(x), op.Constant(value_int=4 * FEATURES))
    return op.Mul(x, op.Cast(large, to=ir.DataType.FLOAT))


def scaled(op: Any, x: Any) -> Any:
    return op.Mul(x, op.Constant(value_float=1 + 4e-6))


def rule(replacement: Any) -> Rewrite:
    [made] = adopt([RewriteRule(detour, replacement, name="mine")])
    return made


def ops(done: Rewritten) -> list[str]:
    return [n.op_type for n in done.model.graph]


def test_a_rule_that_holds_is_measured_and_applied(costs: Costs) -> None:
    done = rewrite(detours(2), costs, [rule(straight)])
    assert done.bugs == ()
    assert ops(done) == ["Tanh", "Sum", "Sum", "Softmax"]
    assert all(s.ratio is not None and s.ratio < 1 for s in done.records[-1].sites)


@pytest.mark.parametrize("own", [rule(lambda op, x: op.Neg(x)), *adopt([Wrong()])], ids=["rule", "rewrite"])
def test_what_changes_the_numbers_is_left_out_without_being_asked_to_check(costs: Costs, own: Rewrite) -> None:
    done = rewrite(detours(3), costs, [own, Straighten()])  # an odd number: two signs would cancel
    [error] = done.bugs
    assert isinstance(error, RuleError)
    assert error.exit_code == 2
    first = "node_Asinh" if own.name == "mine" else "node_Sinh"
    assert str(error).startswith(f"rewrite {own.name!r} at node '{first}' (")
    assert "changed output 'y at batch=" in str(error)
    assert ops(done) == ["Tanh", "Sum", "Sum", "Sum", "Softmax"]
    [left] = [r for r in done.records if r.name == own.name]
    assert not left.modified
    assert all(s.reason is not None and s.reason.startswith("left out: changed output") for s in left.sites)


def test_numbers_are_compared_at_every_size(costs: Costs) -> None:
    done = rewrite(detours(1), costs, [rule(only_where_it_is_large)])
    [error] = done.bugs
    assert "changed output 'y at batch=1' by" in str(error)
    assert rewrite(detours(1), replace(costs, bounds=()), [rule(only_where_it_is_large)]).bugs == ()


def test_places_that_are_wrong_only_together_are_so_called(costs: Costs) -> None:
    model, own = detours(6), rule(scaled)
    chosen = {f"node_Asinh{f'_{i}' if i else ''}": Chosen(own, "faster") for i in range(6)}
    for node, name in zip((n for n in model.graph if n.op_type == "Asinh"), chosen, strict=True):
        node.name = name
    before = digest(model)
    error = fault([own], chosen, model, costs)
    assert str(error).startswith("rewrite 'mine' at its 6 places together: changed output")
    alone = {name: c if name == "node_Asinh" else Chosen(None, "not now") for name, c in chosen.items()}
    assert fault([own], alone, model, costs) is None
    assert digest(model) == before


def test_one_that_raises_is_left_out_with_its_line_and_the_rest_goes_on(costs: Costs) -> None:
    def crash(_op: Any, x: Any) -> Any:  # noqa: ARG001 - what a rule is given
        raise ZeroDivisionError("by a rule")

    done = rewrite(detours(1), costs, [rule(crash), Straighten()])
    line = crash.__code__.co_firstlineno + 1
    assert [str(bug) for bug in done.bugs] == [
        f"rewrite 'mine' at node 'node_Asinh' (Asinh): test_trust.py:{line}: ZeroDivisionError: by a rule"
    ]
    assert ops(done) == ["Tanh", "Sum", "Softmax"]


def test_one_that_lies_is_the_users_mistake_and_one_of_ours_is_a_bug(costs: Costs) -> None:
    [own] = adopt([Liar()])
    [error] = rewrite(detours(1), costs, [own]).bugs
    assert isinstance(error, RuleError)
    [bug] = rewrite(detours(1), costs, [Liar()]).bugs
    assert isinstance(bug, PassError)


@dataclass(frozen=True)
class Stumbling(Straighten):
    """A rewrite that raises as soon as it looks."""

    name: ClassVar[str] = "stumbling"

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:  # noqa: ARG002 - what a rewrite is given
        raise KeyError(node.op_type)


def test_one_that_raises_at_a_look_is_left_out_whoever_wrote_it(costs: Costs) -> None:
    for each, kind in ((Stumbling(), PassError), (adopt([Stumbling()])[0], RuleError)):
        [error] = rewrite(detours(1), costs, [each]).bugs
        assert isinstance(error, kind)
        assert "KeyError: 'Sinh'" in str(error)


def test_own_rewrites_come_first_and_one_of_ours_takes_its_place() -> None:
    target = detect()
    own = adopt([RewriteRule(detour, straight, name="mine"), FuseAttention(max_opset=21)])
    passes = rewrites(target, own)
    assert [each.name for each in passes] == ["mine", *(each.name for each in rewrites(target))]
    [attention] = [each for each in passes if each.name == "fuse-attention"]
    assert attention.options["max_opset"] == 21


def test_the_evaluator_names_the_sizes_only_where_there_are_several(costs: Costs) -> None:
    assert list(evaluator(costs)(detours(0))) == ["y"]
    assert list(evaluator(costs, everywhere=True)(detours(0))) == ["y at batch=8", "y at batch=1"]

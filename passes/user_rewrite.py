"""A rule of the user's own becomes a rewrite like ours: found, explained, timed and checked place by place.

A rule is written in the language of onnxscript's rewriter: a pattern, a condition, a replacement. It says only what
equals what; where it is applied, and how the graph changes, is decided and done here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import onnx_ir as ir

from dlc.errors import RecipeError, RuleError, raised_at
from dlc.lookup import load
from dlc.passes import PASSES
from dlc.passes.base import Rewritten, graphs
from dlc.passes.edit import Edit, Survey
from dlc.passes.exact_rules import may_match
from dlc.passes.replacement import Replacement
from dlc.passes.rewrite import Rewrite
from dlc.passes.weighted import label

NAME = re.compile(r"[\w.-]+")
NEEDS_A_NAME = "needs a name of letters, digits, '-', '_' and '.': name='my-rule'"
NO_REASON = "Condition function check failed"
"""What the rewriter says of a condition that gave none."""
LONGEST_REASON = 200
"""Characters of a rule's own reason that a site keeps."""


@dataclass(frozen=True)
class UserRewrite(Rewrite):
    """At each node the first of some rules that matches, and whose condition holds, is applied.

    ``rules``: one ``onnxscript.rewriter.RewriteRule``, or the variants of one that differ in the order of operands.
    Sites are the nodes with the operator of a pattern's last node. Not applied where the rule says so, and where its
    result has no place: see ``dlc.passes.replacement``.
    """

    name: ClassVar[str] = "user-rewrite"  # an instance bears the name of its rule
    rules: tuple[Any, ...] = field(repr=False)
    _order: dict[ir.Node, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _name(self.rules))

    def call(self, model: ir.Model) -> Rewritten:
        """Visit every candidate, between the rules' own set-up and clean-up."""
        with self._set_up(model):
            return super().call(model)

    def survey(self, model: ir.Model) -> list[tuple[ir.Node, str | None]]:
        """Look at every candidate, between the rules' own set-up and clean-up."""
        with self._set_up(model):
            return super().survey(model)

    def candidates(self, graph: ir.Graph) -> Iterable[ir.Node]:
        """Return the nodes whose operator is the last of a rule's pattern."""
        self._order.clear()
        if any(len(_pattern(rule).outputs) > 1 for rule in self.rules):
            self._order.update((node, i) for i, node in enumerate(graph))
        return (node for node in graph if any(may_match(rule, node) for rule in self.rules))

    def rewrite(self, node: ir.Node, edit: Edit) -> str | None:
        """Apply the first rule that matches."""
        trace, refusal = _Trace(), ""
        for rule in (r for r in self.rules if may_match(r, node)):
            try:
                with self._blamed(node), _imports_kept(edit.model.graph, edit.graph):
                    found = rule.try_rewrite(edit.model, edit.graph, node, tracer=trace)
            except RuleError:
                trace.detach()
                raise
            if found is None:
                trace.detach()
                continue
            if isinstance(edit, Survey):
                trace.detach()
                edit.context(node)
            with self._blamed(node):
                replacement = Replacement.of(node, found, edit)
            refused = replacement.refusal(self._order)
            if refused is None:
                replacement.apply(self._order)
                return None
            replacement.discard()
            refusal = refusal or refused
        return refusal or trace.reason

    @contextmanager
    def _set_up(self, model: ir.Model) -> Iterator[None]:
        """Let the rules set up and clean up, and let patterns see the values of Constant nodes."""
        from onnxscript.optimizer import basic_constant_propagation

        for graph in graphs(model.graph):
            basic_constant_propagation(graph)
        with self._blamed():
            for rule in self.rules:
                if rule.graph_pre_visitor:
                    rule.graph_pre_visitor()
        yield
        with self._blamed():
            for rule in self.rules:
                if rule.graph_post_visitor:
                    rule.graph_post_visitor()

    @contextmanager
    def _blamed(self, node: ir.Node | None = None) -> Iterator[None]:
        """Name rule, node and line of what a rule raises; what it prints is no result."""
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            text = f"{raised_at(error)}{type(error).__name__}: {' '.join(str(error).split())}"
            raise RuleError(self.name, text, f"node {label(node)!r} ({node.op_type})" if node else "") from error


def adopt(given: Sequence[Any]) -> tuple[Rewrite, ...]:
    """Return the rewrites of a recipe: rules are wrapped, rewrites stay; RecipeError for what is neither.

    None is trusted but a pass of ours with options of the user's.
    """
    from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase, RewriteRuleSet

    adopted: dict[str, Rewrite] = {}
    for each in given:
        if isinstance(each, Rewrite):
            made: Rewrite = each
        elif isinstance(each, RewriteRule):
            made = UserRewrite((each,))
        elif isinstance(each, RewriteRuleSet):
            made = UserRewrite(tuple(each.rules))
        else:
            kind = each if isinstance(each, type) else type(each)
            hint = f": call {kind.__name__}.rule()" if issubclass(kind, RewriteRuleClassBase) else ""
            hint = f": call it, {kind.__name__}()" if issubclass(kind, Rewrite) else hint
            raise RecipeError(f"rewrites holds a {kind.__name__}, not a rule of onnxscript's rewriter{hint}")
        name = str(getattr(made, "name", ""))
        if not NAME.fullmatch(name):
            raise RecipeError(f"rewrite {name or type(made).__name__!r} {NEEDS_A_NAME}")
        ours = name in PASSES and type(made) is load(PASSES[name])
        if name in adopted or (name in PASSES and not ours):
            raise RecipeError(f"two rewrites are named {name!r}; give the rule another name")
        adopted[name] = made if ours else replace(made, trusted=False)
    return tuple(adopted.values())


class _Trace:
    """Hears from the rewriter how far a rule got at one node; it takes the place of ``MatchingTracer``."""

    def __init__(self) -> None:
        self.best: tuple[int, int] = (-1, 0)
        self.reason = "the pattern does not match"
        self._matches: list[Any] = []

    def log(self, _rule: Any, _graph: Any, _node: ir.Node, match: Any, status: Any) -> None:
        """Keep the reason of the rule that got farthest."""
        self._matches.append(match)
        if (score := (int(status), len(match.nodes))) <= self.best:
            return
        self.best = score
        if match.reason and match.reason != NO_REASON:
            self.reason = _shorten(match.reason, match.failure_nodes_and_values)
        elif int(status) > 0:
            self.reason = "the condition does not hold" if int(status) == 1 else "the rule made no replacement"

    def detach(self) -> None:
        """Undo that nodes which a failed replacement left over read values of the graph."""
        for match in self._matches:
            values = {v for n in match.nodes for v in (*n.inputs, *n.outputs) if v is not None}
            for value in values | {v for v in match.bindings.values() if isinstance(v, ir.Value)}:
                for use in tuple(value.uses()):
                    if use.node.graph is None:
                        use.node.replace_input_with(use.idx, None)


@contextmanager
def _imports_kept(*graphs: ir.Graph) -> Iterator[None]:
    """Take back the operator sets that the rewriter imports before it is known whether the rule is applied."""
    before = [(graph.opset_imports, dict(graph.opset_imports)) for graph in graphs]
    try:
        yield
    finally:
        for imports, kept in before:
            imports.clear()
            imports.update(kept)


def _pattern(rule: Any) -> Any:
    return rule._target_pattern  # noqa: SLF001 - a rule tells its pattern in no other way


def _name(rules: tuple[Any, ...]) -> str:
    """Return the one name of some rules; RecipeError if there is none, or if a rule is of a kind not applied."""
    names = {rule.name or _function_name(rule) for rule in rules}
    if len(names) != 1:
        raise RecipeError(
            f"a RewriteRuleSet holds the rules {', '.join(sorted(names)) or 'none'}: list them one by one"
        )
    [name] = names
    if not NAME.fullmatch(name):
        raise RecipeError(f"rewrite {name!r} {NEEDS_A_NAME}")
    for rule in rules:
        if rule.as_function:
            raise RecipeError(f"rewrite {name!r} makes a function (as_function=True); dlc rewrites without functions")
        if not _pattern(rule).output_nodes:
            raise RecipeError(f"rewrite {name!r} has a pattern without an operator: it would match everywhere")
    return name


def _function_name(rule: Any) -> str:
    function = rule._replacement_pattern._function  # noqa: SLF001 - stands in for a name that was not given
    return str(getattr(function, "__name__", "<unnamed>"))


def _shorten(reason: str, at: Sequence[ir.Node | ir.Value]) -> str:
    """Return one line that is the same in every run: without addresses of objects."""
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(reason.split())).rstrip(".")
    names = [label(a) if isinstance(a, ir.Node) else str(a.name) for a in at]
    where = f" (at {names[0]})" if names and names[0] not in text else ""
    return (text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…") + where

"""The rules of onnxscript that canonicalisation applies: those that change no number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

ALLOWZERO = 14
"""First opset with the attribute of Reshape by which 0 is a size."""


def exact_rules(opset: int) -> ir.passes.InPlacePass:
    """Rules that onnxscript applies by default and that are exact.

    Left out: those that fold BatchNormalization; that take nearly 0 for 0; that merge Clip, Relu, Min and Max whose
    intervals need not overlap; that take any ScatterND over all rows for a copy, whatever its ``reduction``; that move
    a Pad with zeros into ConvInteger, which pads with the zero point; and that make one Split of two Slices, which
    looks at all pairs of nodes. Below opset 14 also the one that writes down the target of a Reshape: it takes no 0 for
    a copy, which Reshape cannot be told there.
    """
    from onnxscript.rewriter import RewritePass
    from onnxscript.rewriter.rules import common as rules

    chosen: Any = _ByOperator([
        rules.dropout_zero_rule, rules.dropout_inference_rule,
        rules.two_reshapes_matmul_reshape_rule, rules.one_reshape_matmul_reshape_rule,
        rules.cast_constant_of_shape_rule, rules.cast_constant_of_shape_without_value_rule,
        rules.collapse_slice_rule, rules.collapse_slice2_rule, rules.successive_relu_rule,
        *([rules.materialize_reshape_shape_rule] if opset >= ALLOWZERO else []),
        rules.cast_cast_rule, rules.no_op_cast_rule, rules.no_op_expand_rule, rules.reshape_reshape_rule,
        rules.no_op_transpose_rule, rules.transpose_transpose_rule,
        rules.unsqueeze_unsqueeze_rule, rules.squeeze_reshape_1d_rule,
        rules.no_op_dynamic_scatter_nd_rule,
        rules.normalize_pad_format_conv_rule, rules.fuse_pad_into_conv_rule,
        rules.remove_optional_bias_from_conv_rule, rules.remove_optional_bias_from_conv_transpose_rule,
        rules.remove_optional_bias_from_gemm_rule, rules.remove_optional_bias_from_qlinear_conv_rule,
    ])  # fmt: skip
    made: ir.passes.InPlacePass = RewritePass([chosen])
    return made


UNLIKE_REFERENCE = ("MaxUnpool", "Resize", "Upsample")
"""Operators that onnx's reference, which folds constants, computes otherwise than ONNX Runtime: Resize with
``align_corners`` and scales, MaxUnpool with an output shape."""


def misfolded(node: ir.Node) -> bool:
    """Whether onnxscript's constant folding would change what a node computes, or fail.

    It forgets ``saturate`` of CastLike, and takes the size of chunks in SplitToSequence for a constant.
    """
    if node.domain != "":
        return False
    if node.op_type == "CastLike":
        return node.attributes.get_int("saturate", 1) == 0
    if node.op_type == "SplitToSequence":
        chunk = node.inputs[1] if len(node.inputs) > 1 else None
        return chunk is not None and chunk.const_value is None and (chunk.shape is None or len(chunk.shape) == 0)
    return node.op_type in UNLIKE_REFERENCE


def may_match(rule: Any, node: ir.Node) -> bool:
    """Whether the last node of a rule's pattern has the operator of a node."""
    root = rule._target_pattern.output_nodes[0]  # noqa: SLF001 - a rule tells its pattern in no other way
    return bool(root.op.matches(node.op_type) and root.domain.matches(node.domain))


class _ByOperator:
    """Several rules in the place of one: at a node only those are tried that its operator may end.

    The rewriter tries each rule at each node; at 25 rules and 50,000 nodes that is most of canonicalisation.
    """

    as_function = False

    def __init__(self, rules: Sequence[Any]) -> None:
        self.rules = tuple(rules)
        self.name, self.remove_nodes = "", all(rule.remove_nodes for rule in rules)
        self._tried: dict[tuple[str, str], tuple[Any, ...]] = {}

    def graph_pre_visitor(self) -> None:
        """Let the rules set up."""
        for rule in self.rules:
            if rule.graph_pre_visitor:
                rule.graph_pre_visitor()

    def graph_post_visitor(self) -> None:
        """Let the rules clean up."""
        for rule in self.rules:
            if rule.graph_post_visitor:
                rule.graph_post_visitor()

    def try_rewrite(self, model: ir.Model, graph: Any, node: ir.Node, **options: Any) -> Any:
        """Return the replacement of the first rule that applies."""
        operator = node.domain, node.op_type
        if operator not in self._tried:
            self._tried[operator] = tuple(rule for rule in self.rules if may_match(rule, node))
        for rule in self._tried[operator]:
            if (found := rule.try_rewrite(model, graph, node, **options)) is not None:
                self.name, self.remove_nodes = rule.name, rule.remove_nodes
                return found
        return None

"""The fallback chain: which variant, on which provider, and what the machine must have for it."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.errors import UserError
from dlc.packaging.record import Link
from dlc.packaging.source import Source, check_verdict
from dlc.target import INTEGER_DOT

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INTEGER_OPERATORS = frozenset({
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
})  # fmt: skip
"""Operators whose CPU kernels multiply 8-bit integers, or become such when the model is loaded."""
SATURATES = "without it pairs of 8-bit products saturate at 16 bits, and the outputs are other ones"


def chain(sources: Sequence[Source]) -> tuple[Link, ...]:
    """Describe the links, one for each variant, in the order in which they are tried."""
    return tuple(_link(source) for source in sources)


def unchecked(link: Link, who: str) -> list[str]:
    """Return a note for a form whose runtime loads a variant wherever it is; none if the variant runs anywhere."""
    if not link.isa:
        return []
    return [f"{link.variant} needs a processor with one of {', '.join(link.isa)}: {link.why}; {who} does not look"]


def fallbacks(source: Source, precisions: Sequence[str], *, allow_failing: bool) -> list[Source]:
    """Return the chosen variant and those that stand in for it; UserError for one named twice, or one that failed."""
    sources = [source]
    for precision in precisions:
        if precision in [s.precision for s in sources]:
            raise UserError(f"--fallback {precision}: that variant is in the chain already")
        sources.append(source.sibling(precision))
        check_verdict(sources[-1], allow_failing=allow_failing)
    return sources


def _link(source: Source) -> Link:
    integer = any(node.op_type in INTEGER_OPERATORS for node in source.graph.graph.all_nodes())
    target = source.manifest.target
    full_range = integer and any(flag in target.isa for flag in INTEGER_DOT)  # else weights take 7 bits, safe anywhere
    return Link(
        variant=source.precision,
        folder=source.precision,
        provider=PROVIDERS[source.session.provider],
        isa=INTEGER_DOT if full_range and source.session.provider == "cpu" else (),
        why=SATURATES if full_range else "",
    )

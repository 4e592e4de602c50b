"""What a form's runtime does not take: a newer opset or IR version, an operator without a kernel."""

from __future__ import annotations

import re

from dlc.errors import Unsupported
from dlc.packaging.record import Runtime
from dlc.packaging.source import Source
from dlc.versions import limits

MISSING = (
    re.compile(r"Could not find an implementation for (?P<op>[\w.]+)\("),
    re.compile(r"(?P<domain>[\w.]+):(?P<op>\w+)\((?:-?\d+)\) is not a registered function/op"),
    re.compile(r"No Op registered for (?P<op>\w+) with"),
    re.compile(r"Failed to find kernel for (?P<op>[\w.]+)\("),
    re.compile(r"kernel not found in \w+ for (?P<op>\w+)|Kernel not found.*?(?P<op2>\w+)\("),
)
"""How ONNX Runtime says that it lacks an operator, when it loads a graph."""


def check_limits(source: Source, runtime: Runtime) -> None:
    """Refuse a model that is too new for a runtime: Unsupported names the version and the way out."""
    opset, ir_version = limits(runtime.version)
    has = source.graph.opset_imports.get("", 0)
    if has > opset or (source.graph.ir_version or 0) > ir_version:
        raise Unsupported(
            f"{source.folder} is of opset {has} and IR version {source.graph.ir_version}; {runtime.name} "
            f"{runtime.version} takes opset {opset} and IR version {ir_version} at most: compile with -t and a target "
            f'file of runtime "onnxruntime {runtime.version}"'
        )


def missing_operator(text: str) -> str | None:
    """Return the operator that a runtime said it lacks; None if the text is about something else."""
    for pattern in MISSING:
        if (found := pattern.search(text)) is not None:
            named = found.groupdict()
            return named.get("op") or named.get("op2")
    return None


def without(operator: str, source: Source) -> list[str]:
    """Return the other variants of the artifact that do not use an operator."""
    others = (source.sibling(v.precision) for v in source.artifact.built if v.precision != source.precision)
    return [s.precision for s in others if all(node.op_type != operator for node in s.graph.graph.all_nodes())]


def explain(text: str, source: Source, runtime: Runtime) -> str:
    """Say which operator a runtime lacks and which variant does without it; the text itself if it is about neither."""
    operator = missing_operator(text)
    if operator is None:
        return text
    way_out = ", ".join(without(operator, source))
    return f"{runtime.name} {runtime.version} has no kernel for {operator}, which variant {source.precision} uses; " + (
        f"without it: {way_out}" if way_out else "every other variant uses it too: compile for that runtime with -t"
    )

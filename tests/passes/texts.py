"""ONNX text in, ONNX text out; and what a graph computes with ORT's own optimisations off."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import onnx
import onnx_ir as ir

from dlc import pipeline
from dlc.passes.base import Pass, Site
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.types import Feeds, Outputs

HEADER = '<ir_version: 10, opset_import: ["" : 20]>'


def graph(body: str, header: str = HEADER) -> ir.Model:
    """A checked model from the text of one graph."""
    model = ir.from_onnx_text(f"{header}\n{body}")
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def annotated(body: str) -> ir.Model:
    """Parse, with the types and shapes that an exporter annotates."""
    proto = ir.to_proto(graph(body))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def text(model: ir.Model) -> str:
    """Nodes of the main graph, one a line, and names and shapes of the initializers."""
    lines = [f"{_names(n.outputs)} = {n.op_type}({_names(n.inputs)})" for n in model.graph]
    weights = [f"{name}: {value.shape}" for name, value in model.graph.initializers.items()]
    return "\n".join([*lines, *weights])


def _names(values: Iterable[ir.Value | None]) -> str:
    return ", ".join((v.name or "") if v is not None else "" for v in values)


def expected(body: str) -> str:
    return textwrap.dedent(body).strip()


def sites(model: ir.Model, each: Pass) -> tuple[Site, ...]:
    """Run a pass under the pipeline's checks and return what it reports."""
    return pipeline.run(model, [each])[0].sites


def compute(model: ir.Model, feeds: Feeds) -> Outputs:
    with OrtCpuRunner(model, SessionConfig(graph_optimization="none")) as runner:
        return runner.run(feeds)


def serialized(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))

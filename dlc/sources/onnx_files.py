"""Reads ONNX files: what is wrong with one is said before anything else touches it. Weights stay on disk until used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from dlc.errors import ModelError, Unsupported
from dlc.logs import silent
from dlc.types import Bytes

RUNTIME_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""Operator domains that ONNX Runtime has kernels for."""

NORM = "SimplifiedLayerNormalization"
BLOCK: Bytes = 1 << 20
STRING = ir.DataType.STRING


def read(path: Path, newest_opset: int) -> ir.Model:
    """Read and check a model file; external data stays memory-mapped."""
    check_file(path)
    fault = _fault(path)  # first, while nothing else is in memory: the checker reads the whole file too
    proto = _parse(path)
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    known = max(newest_opset, onnx.defs.onnx_opset_version())
    if opset > known:
        raise Unsupported(f"{path} uses opset {opset}; the newest that can run here is {newest_opset}: export it again")
    with silent("onnx_ir"):  # the checker says what is wrong
        model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    _check_external_data(path, model)
    _check_domains(path, model)
    _check_kinds(path, model)
    _check_names(path, model)
    if fault is not None:
        raise ModelError(f"{path} is not a valid model: {_first_line(fault)}") from fault
    return model


def data_files(path: Path, model: ir.Model) -> list[Path]:
    """External data files of a model, by name."""
    return sorted({path.parent / t.location for t in _external_tensors(model)})


def digest(paths: list[Path]) -> str:
    """SHA-256 over the names and bytes of files."""
    seen = hashlib.sha256()
    for path in paths:
        seen.update(f"{path.name}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                seen.update(block)
    return seen.hexdigest()


def check_file(path: Path) -> None:
    """Raise ModelError unless the path is a file that can be read."""
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.glob("*.onnx"))[:3])
        raise ModelError(f"{path} is a folder, not a model file" + (f"; it holds {inside}" if inside else ""))
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def _fault(path: Path) -> onnx.checker.ValidationError | None:
    _declare_norm()
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        return error
    return None


def _declare_norm() -> None:
    """Declare what ONNX Runtime registers in the standard domain, and ``fuse-rms-norm`` writes: onnx has no schema."""
    if onnx.defs.has(NORM):
        return
    parameter, attribute, single = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.Attribute, "T"
    onnx.defs.register_schema(
        onnx.defs.OpSchema(
            NORM, "", 1,
            inputs=[parameter("X", single), parameter("scale", single)], outputs=[parameter("Y", single)],
            type_constraints=[(single, ["tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)"], "")],
            attributes=[
                attribute("axis", onnx.defs.OpSchema.AttrType.INT, required=False),
                attribute("epsilon", onnx.defs.OpSchema.AttrType.FLOAT, required=False),
                attribute("stash_type", onnx.defs.OpSchema.AttrType.INT, required=False),
            ],
        )
    )  # fmt: skip


def _parse(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except Exception as error:
        raise ModelError(f"{path} is not an ONNX model: {_looks_like(path)}") from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{path} is not an ONNX model: {_looks_like(path)}")
    return proto


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself with git lfs pull"
    try:
        text = head.decode()
    except UnicodeDecodeError:
        text = "\0"
    if all(c.isprintable() or c in "\r\n\t" for c in text):
        return "it is a text file"
    return f"it is damaged or cut off after {path.stat().st_size} bytes; copy or export it again"


def _check_external_data(path: Path, model: ir.Model) -> None:
    for tensor in _external_tensors(model):
        file = path.parent / tensor.location
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise ModelError(f"{path}: weight {tensor.name!r} lies outside the model's folder, in {tensor.location!r}")
        if not file.is_file():
            raise ModelError(
                f"{path}: external data file {str(tensor.location)!r} is missing; put it next to the model file"
            )
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if (size := file.stat().st_size) < end:
            raise ModelError(
                f"{path}: external data file {str(tensor.location)!r} has {size} bytes, but weight {tensor.name!r} "
                f"ends at {end}; copy it again"
            )


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
        for node in graph:
            for attr in node.attributes.values():
                if attr.type == ir.AttributeType.TENSOR and isinstance(attr.value, ir.ExternalTensor):
                    yield attr.value


def _check_kinds(path: Path, model: ir.Model) -> None:
    """Raise Unsupported for an input or output that is no tensor of numbers."""
    for role, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            if (value.type is not None and not isinstance(value.type, ir.TensorType)) or value.dtype is STRING:
                raise Unsupported(
                    f"{path}: {role} {value.name!r} is {value.type}; dlc judges tensors of numbers: export the model "
                    "without it (from scikit-learn: zipmap=False and integer labels)"
                )


def _check_names(path: Path, model: ir.Model) -> None:
    """Raise Unsupported for an output that bears the name of an input, or of another output: no graph can keep both."""
    names = [str(v.name) for v in (*model.graph.inputs, *model.graph.outputs)]
    if twice := [n for i, n in enumerate(names) if n in names[:i]]:
        raise Unsupported(
            f"{path}: output {twice[0]!r} is an input or another output too; give it a name of its own, by Identity"
        )


def _check_domains(path: Path, model: ir.Model) -> None:
    for graph in model.graphs():
        for node in graph:
            if node.domain not in RUNTIME_DOMAINS and node.op_identifier() not in model.functions:
                raise Unsupported(
                    f"{path}: node {node.name or node.outputs[0].name!r} is a custom operator, "
                    f"{node.domain}::{node.op_type}, that ONNX Runtime has no kernel for; export the model without it"
                )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__

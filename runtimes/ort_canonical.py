"""Makes files in ORT format the same each time they are written.

ONNX Runtime lays out one table of the file, the resolver of kernel types, in the order of a hash map that is seeded
anew in every session; what the table says is the same. Here it is written again in the order of its keys. FlatBuffers
are built from the end, and offsets count from there, so the model behind the table stays as it is.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

IDENTIFIER = b"ORTM"
ALIGNMENT = 16
"""At least that of every field; whole files are multiples of it."""

Entries = list[tuple[bytes, list[tuple[bytes, list[tuple[int, int]]]]]]
"""Operator, then the names of its types, then (input or output, index) of the values that have that type."""


def canonicalise(path: Path) -> None:
    """Write the file again with its resolver in order."""
    import flatbuffers
    import onnxruntime.tools.ort_format_model  # noqa: F401 - finds the next module
    from ort_flatbuffers_py import fbs

    data = path.read_bytes()
    session = fbs.InferenceSession.InferenceSession.GetRootAs(data, 0)
    table = session.Model()._tab  # noqa: SLF001 - positions have no other name
    start = min(table.Pos, table.Pos - struct.unpack_from("<i", data, table.Pos)[0])  # a table, or its layout before it
    builder = flatbuffers.Builder(len(data) + ALIGNMENT)
    builder.minalign = ALIGNMENT
    _prepend(builder, data[start:])
    resolver = _build(fbs, builder, _entries(session.KernelTypeStrResolver()))
    version = builder.CreateString(session.OrtVersion())
    fbs.InferenceSession.Start(builder)
    fbs.InferenceSession.AddOrtVersion(builder, version)
    fbs.InferenceSession.AddModel(builder, len(data) - table.Pos)
    fbs.InferenceSession.AddKernelTypeStrResolver(builder, resolver)
    builder.Finish(fbs.InferenceSession.End(builder), file_identifier=IDENTIFIER)
    path.write_bytes(builder.Output())


def _prepend(builder: Any, data: bytes) -> None:
    builder.head -= len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data


def _entries(resolver: Any) -> Entries:
    """Read the resolver, in the order of its keys."""
    operators = map(resolver.OpKernelTypeStrArgs, range(resolver.OpKernelTypeStrArgsLength()))
    return sorted((each.OpId(), sorted(_types(each))) for each in operators)


def _types(operator: Any) -> list[tuple[bytes, list[tuple[int, int]]]]:
    types = map(operator.KernelTypeStrArgs, range(operator.KernelTypeStrArgsLength()))
    return [(t.KernelTypeStr(), [(a.ArgType(), a.Index()) for a in map(t.Args, range(t.ArgsLength()))]) for t in types]


def _build(fbs: Any, builder: Any, entries: Entries) -> int:
    """Write the resolver."""
    operators = [_build_operator(fbs, builder, *entry) for entry in entries]
    fbs.KernelTypeStrResolver.StartOpKernelTypeStrArgsVector(builder, len(operators))
    vector = _end_vector(builder, operators)
    fbs.KernelTypeStrResolver.Start(builder)
    fbs.KernelTypeStrResolver.AddOpKernelTypeStrArgs(builder, vector)
    return int(fbs.KernelTypeStrResolver.End(builder))


def _build_operator(fbs: Any, builder: Any, operator: bytes, types: list[tuple[bytes, list[tuple[int, int]]]]) -> int:
    built = [_build_type(fbs, builder, *each) for each in types]
    name = builder.CreateString(operator)
    fbs.OpIdKernelTypeStrArgsEntry.StartKernelTypeStrArgsVector(builder, len(built))
    vector = _end_vector(builder, built)
    fbs.OpIdKernelTypeStrArgsEntry.Start(builder)
    fbs.OpIdKernelTypeStrArgsEntry.AddOpId(builder, name)
    fbs.OpIdKernelTypeStrArgsEntry.AddKernelTypeStrArgs(builder, vector)
    return int(fbs.OpIdKernelTypeStrArgsEntry.End(builder))


def _build_type(fbs: Any, builder: Any, name: bytes, arguments: list[tuple[int, int]]) -> int:
    built = []
    for kind, index in arguments:
        fbs.ArgTypeAndIndex.Start(builder)
        fbs.ArgTypeAndIndex.AddArgType(builder, kind)
        fbs.ArgTypeAndIndex.AddIndex(builder, index)
        built.append(fbs.ArgTypeAndIndex.End(builder))
    text = builder.CreateString(name)
    fbs.KernelTypeStrArgsEntry.StartArgsVector(builder, len(built))
    vector = _end_vector(builder, built)
    fbs.KernelTypeStrArgsEntry.Start(builder)
    fbs.KernelTypeStrArgsEntry.AddKernelTypeStr(builder, text)
    fbs.KernelTypeStrArgsEntry.AddArgs(builder, vector)
    return int(fbs.KernelTypeStrArgsEntry.End(builder))


def _end_vector(builder: Any, offsets: list[int]) -> int:
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())

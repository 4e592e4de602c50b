"""The form ``triton``: a model repository for NVIDIA Triton Inference Server, checked against its protobuf definitions.

``templates/triton/model_config.binpb`` is the FileDescriptorProto of the published ``model_config.proto`` (tritonclient
2.73.0, BSD-3-Clause, licence beside it): the client package itself cannot be installed beside this protobuf.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from dlc.artifact import MODEL
from dlc.interface import Interface, TensorType
from dlc.packaging import golden
from dlc.packaging.chain import chain, unchecked
from dlc.packaging.form import Form, Proof
from dlc.packaging.options import entries
from dlc.packaging.source import Source
from dlc.packaging.texts import TEMPLATES
from dlc.runtimes.session import SessionConfig

REPOSITORY, CONFIG, WARM_UP, VERSION = "model_repository", "config.pbtxt", "warmup", "1"
DESCRIPTOR = TEMPLATES / "triton" / "model_config.binpb"
TYPES = {
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64",
    **{name: f"TYPE_{name.upper()}" for name in golden.DTYPES if not name.startswith("float")},
}  # fmt: skip
LEVELS = {"none": 2, "basic": -1, "extended": 1, "all": 0}
"""``optimization.graph.level`` as Triton's ONNX Runtime backend reads it."""
ENTRIES = ("session.use_device_allocator_for_initializers",)
"""The session entries that the backend hands on (its README, "Model Config Options")."""


class TritonForm(Form):
    """A model repository of one model."""

    name: ClassVar[str] = "triton"
    providers: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def write(self, sources: Sequence[Source], folder: Path) -> tuple[str, ...]:
        """Write the repository, with warm-up data from the golden vectors."""
        from google.protobuf import text_format

        [source], [link] = sources, chain(sources)
        place = folder / REPOSITORY / source.name
        (place / VERSION).mkdir(parents=True)
        (place / WARM_UP).mkdir()
        source.copy_model(place / VERSION)
        index = golden.write(source, folder)
        config = _config(source, index)
        data = (folder / golden.DATA).read_bytes()
        batched = config.max_batch_size > 0
        for number, tensor in enumerate(index.vectors[0].inputs):
            first = tensor.bytes // tensor.shape[0] if batched else tensor.bytes
            (place / WARM_UP / str(number)).write_bytes(data[tensor.offset :][:first])
        (place / CONFIG).write_text(text_format.MessageToString(config), encoding="utf-8")
        return ("no server was run", *_left_out(source.session), *unchecked(link, "the server"))

    def check(self, folder: Path) -> list[Proof]:
        """Parse the configuration, and compare it with the graph and with the warm-up data."""
        [place] = (folder / REPOSITORY).iterdir()
        problems = list(_problems(place))
        detail = "; ".join(problems) or "parsed with Triton's definitions, agrees with the graph; no server was run"
        return [Proof(CONFIG, ok=not problems, detail=detail)]


def batch_limit(source: Source) -> int:
    """Return the largest batch; 0 if the first dimension is not one dynamic size that all tensors share."""
    tensors = (*source.interface.inputs, *source.interface.outputs)
    first = {t.shape[0] if t.shape else None for t in tensors}
    name = first.pop() if len(first) == 1 else None
    return source.manifest.dims[name][1] if isinstance(name, str) and name in source.manifest.dims else 0


def _config(source: Source, index: golden.Golden) -> Any:
    config, batch = _message(), batch_limit(source)
    config.name, config.backend, config.max_batch_size = source.name, "onnxruntime", batch
    for tensors, field in ((source.interface.inputs, config.input), (source.interface.outputs, config.output)):
        for tensor in tensors:
            field.add(name=tensor.name, data_type=TYPES[tensor.dtype], dims=_dims(tensor, batch))
    kind = "KIND_GPU" if source.session.provider == "cuda" else "KIND_CPU"
    config.instance_group.add(count=1, kind=kind)
    _set_options(config, source.session)
    if batch > 1:
        config.dynamic_batching.SetInParent()  # what waits is batched; nothing is held back for more to come
    warm = config.model_warmup.add(name="golden", batch_size=1)
    for number, (stated, entry) in enumerate(zip(config.input, index.vectors[0].inputs, strict=True)):
        fed = warm.inputs[entry.name]
        fed.data_type, fed.input_data_file = stated.data_type, str(number)  # a name may hold a slash
        fed.dims.extend(entry.shape[1:] if batch else entry.shape)
    return config


def _set_options(config: Any, session: SessionConfig) -> None:
    config.optimization.graph.level = LEVELS[session.graph_optimization]
    config.parameters["intra_op_thread_count"].string_value = str(session.intra_op_threads)
    config.parameters["inter_op_thread_count"].string_value = "1"
    for key, value in session.entries.items():
        if key in ENTRIES:
            config.parameters[key].string_value = value


def _left_out(session: SessionConfig) -> list[str]:
    """Say which options the backend does not take, so that it runs with its defaults."""
    left = [key for key, _ in entries(session) if key not in ENTRIES]
    return [f"Triton's backend does not take {', '.join(left)}: it runs without"] if left else []


def _dims(tensor: TensorType, batch: int) -> list[int]:
    shape = (tensor.shape or ())[1:] if batch else tensor.shape or ()
    return [d if isinstance(d, int) else -1 for d in shape]


def _message() -> Any:
    """Return an empty ModelConfig of the published definitions."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(DESCRIPTOR.read_bytes()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


def parse(text: str) -> Any:
    """Parse a ``config.pbtxt``; google.protobuf.text_format.ParseError says what is no field of Triton's."""
    from google.protobuf import text_format

    return text_format.Parse(text, _message())


def _problems(place: Path) -> Iterator[str]:
    from google.protobuf import text_format

    try:
        config = parse((place / CONFIG).read_text(encoding="utf-8"))
    except text_format.ParseError as error:
        yield str(error)
        return
    interface = Interface.of(ir.load(place / VERSION / MODEL))
    if config.name != place.name:
        yield f"the model is called {config.name!r} in a folder called {place.name!r}"
    for role, stated, tensors in (
        ("input", config.input, interface.inputs),
        ("output", config.output, interface.outputs),
    ):
        found = [(t.name, t.data_type, list(t.dims)) for t in stated]
        enum = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
        wanted = [(t.name, enum[TYPES[t.dtype]].number, _dims(t, config.max_batch_size)) for t in tensors]
        if found != wanted:
            yield f"the {role}s of the graph are {wanted}, not {found}"
    yield from _warm_up_problems(place, config)


def _warm_up_problems(place: Path, config: Any) -> Iterator[str]:
    sizes = {TYPES[name]: np.dtype(name).itemsize for name in golden.DTYPES}
    names = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    for warm in config.model_warmup:
        if missing := {t.name for t in config.input} ^ set(warm.inputs):
            yield f"warm-up {warm.name!r} and the inputs differ in {sorted(missing)}"
        for name, fed in warm.inputs.items():
            wanted = math.prod(fed.dims) * sizes[names[fed.data_type].name]
            found = (place / WARM_UP / fed.input_data_file).stat().st_size
            if found != wanted:
                yield f"warm-up of {name!r} holds {found} bytes, not {wanted}"

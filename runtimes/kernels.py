"""What the kernel of a node does with memory, found by running that node alone, on the values that it is fed.

    input ── Expand ──► x ── node ──► y ── Shape ──► output

``Expand`` always writes a new buffer, so that the node is free to write over ``x``. It did, or handed ``x`` on, if it
took fewer bytes than its outputs have; it handed ``x`` on if it does so while ``x`` is still needed. Bytes that were
held beside ``x`` and ``y`` at the worst moment are scratch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from dlc.allocations import peak
from dlc.errors import CapabilityError, ModelError, Unsupported
from dlc.passes.base import holds_graph, subgraphs
from dlc.passes.concrete_shapes import Shape
from dlc.passes.liveness import Kernel, Kernels, assumed, reads
from dlc.runtimes.footsteps import footsteps
from dlc.runtimes.planned import trace
from dlc.runtimes.probe import Probe
from dlc.runtimes.session import SessionConfig
from dlc.runtimes.tensor_types import FOREIGN, Types, byte_size
from dlc.types import Bytes, Feeds

NODE = "probed"
BALLAST: Bytes = 1 << 16
SMALL = 64
"""Elements of a constant whose values can decide a kernel's shape: axes, pads, shapes."""
FED = "/fed"


@dataclass(frozen=True, slots=True)
class Prober:
    """Probes kinds of nodes: of one operator, with the same attributes and constants, fed the same types and shapes.

    ``types``: type and shape of every tensor of the main graph that a run writes or is fed.
    """

    model: ir.Model
    types: Types
    config: SessionConfig

    def kernels(self, feeds: Feeds) -> Kernels:
        """Probe each kind once; one that cannot run alone is assumed to be like its operator."""
        nodes = [n for n in self.model.graph if not (n.op_type == "Constant" and not n.domain)]
        kinds = {node: self._kind(node) for node in nodes}
        first = {kind: node for node, kind in reversed(kinds.items())}
        needed = sorted({name for node in first.values() for name in self._fed(node)})
        foreign = {n: np.zeros(self.types[n][1], np.float32) for n in needed if self.types[n][0] in FOREIGN}
        with Probe(self.model) as probe:
            values = {**next(iter(probe.fetch([n for n in needed if n not in foreign], [feeds]))), **foreign}
        found = {kind: self._probe(node, values) for kind, node in first.items()}
        return lambda node: found[kinds[node]] if node in kinds else assumed(node)

    def _fed(self, node: ir.Node) -> list[str]:
        """Return the tensors of the main graph that a node, or one in its subgraphs, reads; constants left out."""
        names = dict.fromkeys(str(v.name) for v in reads(node) if not is_constant(v))
        return [name for name in names if name in self.types]

    def _kind(self, node: ir.Node) -> str:
        version = self.model.opset_imports.get(node.domain, 0)
        attributes = "; ".join(f"{name}={_text(a)}" for name, a in sorted(node.attributes.items()))
        operands = ", ".join("-" if v is None else self._operand(v) for v in node.inputs)
        captured = ", ".join(f"{self.types[n]}" for n in self._fed(node)) if holds_graph(node) else ""
        return f"{node.domain}.{node.op_type}-{version} [{attributes}] ({operands}) {captured}"

    def _operand(self, value: ir.Value) -> str:
        if (tensor := ir.convenience.get_const_tensor(value)) is None:
            return f"{self.types.get(str(value.name))}"
        content = tensor.numpy().tobytes().hex() if tensor.size <= SMALL else ""
        return f"const {tensor.dtype}{tuple(tensor.shape)} {content}"

    def _probe(self, node: ir.Node, values: Feeds) -> Kernel:
        fed = self._fed(node)
        sizes = {i: byte_size(*self.types[str(v.name)]) for i, v in enumerate(node.inputs) if v and v.name in fed}
        try:
            taken, written, scratch = self._run(node, values, kept=())
            missing = sum(written) - taken
            fitting = [j for j, out in enumerate(written) if 0 < out <= missing]
            pairs = [(j, i) for j in fitting for i, size in sizes.items() if size == written[j]]
            if missing <= 0 or not pairs:
                return Kernel(scratch=scratch)
            if self._run(node, values, kept=fed)[0] == taken:
                return Kernel(alias=tuple(_first_of_each(pairs)), scratch=scratch)
            over = [(j, i) for j, i in pairs if self._overwrites(node, values, i, fed, sum(written))]
        except (ModelError, Unsupported):
            return assumed(node)
        return Kernel(in_place=tuple(over), scratch=scratch)

    def _overwrites(self, node: ir.Node, values: Feeds, i: int, fed: Sequence[str], written: Bytes) -> bool:
        """Whether a node takes less if its input ``i`` alone is not needed any more."""
        dying = node.inputs[i]
        assert dying is not None
        return self._run(node, values, kept=[name for name in fed if name != dying.name])[0] < written

    def _run(self, node: ir.Node, values: Feeds, kept: Collection[str]) -> tuple[Bytes, list[Bytes], Bytes]:
        """Return the bytes a node took, those of each of its outputs, and its scratch."""
        fed = self._fed(node)
        feeds = {name + FED: values[name] for name in fed}
        steps = footsteps(_alone(self.model, node, {n: self.types[n] for n in fed}, kept), feeds, self.config)
        if (at := next((i for i, s in enumerate(steps) if s.node == NODE), None)) is None:
            raise Unsupported(f"{node.op_type} is a function, whose own nodes run")
        before, step = steps[at - 1], steps[at]  # the ballast comes first
        named = [v for v in node.outputs if v.name]
        sizes = iter(byte_size(kind, shape) for kind, shape in step.outputs)
        written = [next(sizes) if v in named else 0 for v in node.outputs]
        scratch = step.peak - step.in_use if step.peak > before.peak else 0
        return step.taken, written, self._exact(node, feeds, step.taken, scratch) if scratch and not kept else scratch

    def _exact(self, node: ir.Node, feeds: Feeds, taken: Bytes, counted: Bytes) -> Bytes:
        """Return scratch to the byte where allocations can be traced; the arena counts what it cannot split off too."""
        fed = {n: self.types[n] for n in self._fed(node)}
        try:
            most = peak(trace(_alone(self.model, node, fed, ()), feeds, self.config))
        except CapabilityError:
            return counted
        copies = sum(byte_size(*kind) for kind in fed.values())
        return max(0, most - _ballast_bytes(node) - copies - taken)


def is_constant(value: ir.Value) -> bool:
    """Whether a value is known before a run; an input with a default is, as nobody feeds it here."""
    return ir.convenience.get_const_tensor(value) is not None


def _first_of_each(pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    yield from {j: (j, i) for j, i in reversed(pairs)}.values()


def _text(attribute: ir.Attr) -> str:
    if attribute.type is ir.AttributeType.TENSOR:
        return str(attribute.as_tensor().tobytes().hex())
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return str(ir.serde.serialize_attribute(attribute).SerializeToString().hex())
    return str(attribute.value)


def _alone(model: ir.Model, node: ir.Node, fed: Types, kept: Collection[str]) -> ir.Model:
    """Build a model of one node; it is fed by copies, and ``kept`` of them are needed after it as well."""
    proto = ir.serde.serialize_node(node)
    proto.name = NODE
    inner = {name for graph in subgraphs(node) for name in graph.initializers}
    weights = {v.name: v for v in reads(node) if is_constant(v) and v.name and v.name not in inner}
    initializers = [_weight(v) for v in weights.values()]
    nodes = [
        _ballast(), *starmap(_copied, fed.items()), proto,
        *(helper.make_node("Shape", [name], [name + "/end"]) for name in proto.output if name),
        *(_reread(name, fed[name][0]) for name in kept),
        helper.make_node("Gather", ["/ballast", "/first"], ["/end"]),
    ]  # fmt: skip
    for i, each in enumerate(nodes):
        each.name = each.name or f"/{i}"
    initializers += [_ints(name + "/shape", shape) for name, (_, shape) in fed.items()]
    initializers += [_ints("/size", (_ballast_bytes(node),)), _ints("/first", (0,))]
    inputs = [helper.make_tensor_value_info(name + FED, _element(kind), shape) for name, (kind, shape) in fed.items()]
    ends = [n for each in nodes for n in each.output if n.endswith(("/end", "/kept"))]
    outputs = [onnx.ValueInfoProto(name=name) for name in ends]
    graph = helper.make_graph(nodes, "probe", inputs, outputs, initializers)
    opsets = [helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version))


def _ballast_bytes(node: ir.Node) -> Bytes:
    constants = {v: t for v in reads(node) if (t := ir.convenience.get_const_tensor(v)) is not None}
    return BALLAST + 2 * sum(t.nbytes for t in constants.values())


def _ballast() -> onnx.NodeProto:
    """More bytes than loading takes, held until the end: the peak is reached by the node."""
    value = helper.make_tensor("", TensorProto.INT8, [1], [0])
    return helper.make_node("ConstantOfShape", ["/size"], ["/ballast"], value=value)


def _copied(name: str, kind: tuple[str, Shape]) -> onnx.NodeProto:
    if kind[0] in FOREIGN:
        return helper.make_node("Cast", [name + FED], [name], to=TensorProto.DataType.Value(kind[0].upper()))
    return helper.make_node("Expand", [name + FED, name + "/shape"], [name])


def _reread(name: str, kind: str) -> onnx.NodeProto:
    if kind in FOREIGN:
        return helper.make_node("Cast", [name], [name + "/kept"], to=TensorProto.FLOAT)
    return helper.make_node("Expand", [name, name + "/shape"], [name + "/kept"])


def _element(kind: str) -> int:
    """Return the ONNX type with which a tensor is fed."""
    return TensorProto.FLOAT if kind in FOREIGN else TensorProto.DataType.Value(kind.upper())


def _weight(value: ir.Value) -> TensorProto:
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    proto = ir.serde.serialize_tensor(tensor)
    proto.name = str(value.name)
    return proto


def _ints(name: str, values: Sequence[int]) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)

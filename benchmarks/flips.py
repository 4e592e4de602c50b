"""Why a quantized graph answers otherwise in the browser: ``python -m benchmarks.flips build/minilm/int8``.

The graph is run in ONNX Runtime's Python package and in onnxruntime-web (wasm, in Node.js), both without graph
optimisation, and what every quantizer gives is compared with what it gives in Python. For each golden vector:

    browser             the outputs' distance; how many 8-bit values differ, by how many steps at most, and where first
    Python's values     the same, with the values of all quantizers replaced by Python's, so nothing is carried from
    put in              one to the next: what is left is what the kernels themselves do otherwise
    as in the browser   Python, with the values of that first quantizer, and of it alone, as the browser has them: what
                        one step of so many values moves, in one and the same runtime
    one eps             Python, with what every quantizer reads moved at random by at most one FP32 eps (2^-23 of its
                        value), ``--draws`` times: what any other rounding of the FP32 arithmetic may do; and how far
                        the nearest of these runs is from the browser's
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dlc.cli.common import print_table
from dlc.packaging.npm import modules
from dlc.packaging.programs import find
from dlc.packaging.source import Source, load_source
from dlc.packaging.texts import TEMPLATES
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.tolerance import EPS32, distance
from dlc.types import Array, Feeds, Outputs

QUANTIZERS = ("DynamicQuantizeLinear", "QuantizeLinear")
HIDDEN = ("DynamicQuantizeLSTM",)
"""Operators that quantize inside, where nobody sees the values: they count as readers alone."""
PLAIN = SessionConfig(graph_optimization="none")
PROGRAM = Path(__file__).with_name("wasm.mjs")


@dataclass(frozen=True, slots=True)
class Found:
    """What differs: distance of the outputs, values that quantizers gave, by how many steps, and where first."""

    distance: float
    differ: int
    values: int
    steps: int
    first: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        return f"{self.distance:.2g}", f"{self.differ:,} of {self.values:,}", str(self.steps), self.first


def expand(model: ir.Model) -> ir.Model:
    """Write DynamicQuantizeMatMul as its quantizer and its product, in place."""
    for node in [n for n in model.graph if n.op_type == "DynamicQuantizeMatMul"]:
        a, b, scale, zero, bias = [*node.inputs, None][:5]
        quantized = ir.node("DynamicQuantizeLinear", [a], num_outputs=3, name=f"{node.name}.quantize")
        for value, what in zip(quantized.outputs, ("values", "scale", "zero"), strict=True):
            value.name = f"{node.outputs[0].name}.{what}"
        q, s, z = quantized.outputs
        product = ir.node("MatMulIntegerToFloat", [q, b, s, scale, z, zero, bias], domain="com.microsoft",
                          name=f"{node.name}.product")  # fmt: skip
        model.graph.insert_before(node, [quantized, product])
        name = node.outputs[0].name
        node.outputs[0].replace_all_uses_with(product.outputs[0], replace_graph_outputs=True)
        node.outputs[0].name, product.outputs[0].name = f"{name}.old", name
        model.graph.remove(node, safe=True)
    return model


def show(model: ir.Model) -> ir.Model:
    """Make what quantizers give outputs of the graph, and what hidden ones read, in place."""
    for node in model.graph:
        if node.op_type in QUANTIZERS:
            model.graph.outputs.extend(node.outputs)
        elif node.op_type in HIDDEN and (x := node.inputs[0]) is not None and x.producer() is not None:
            model.graph.outputs.append(x)
    return model


def take(model: ir.Model, given: Mapping[str, Array]) -> ir.Model:
    """Let readers of quantizers, and hidden quantizers, read inputs of the graph instead, in place."""
    for node in list(model.graph):
        for value in node.outputs if node.op_type in QUANTIZERS else ():
            if str(value.name) in given:
                value.replace_all_uses_with(_fed(model, value, given))
        if node.op_type in HIDDEN and (x := node.inputs[0]) is not None and str(x.name) in given:
            node.replace_input_with(0, _fed(model, x, given))
    return model


def _fed(model: ir.Model, value: ir.Value, given: Mapping[str, Array]) -> ir.Value:
    array = given[str(value.name)]
    fed = ir.val(f"{value.name}.given", ir.DataType.from_numpy(array.dtype), array.shape)
    model.graph.inputs.append(fed)
    return fed


def shake(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> ir.Model:
    """Move what quantizers read by at most one eps of its value, in place."""
    for i, node in enumerate([n for n in model.graph if n.op_type in (*QUANTIZERS, *HIDDEN)]):
        known, *_ = node.outputs if node.op_type in QUANTIZERS else filter(None, node.inputs)
        factors = 1 + EPS32 * rng.uniform(-1, 1, shapes[str(known.name)])
        by = ir.tensor(factors.astype(np.float32), name=f"factors{i}")
        value = ir.val(f"factors{i}", by.dtype, factors.shape, const_value=by)
        model.graph.initializers.add(value)
        moved = ir.node("Mul", [node.inputs[0], value], name=f"moved{i}")
        model.graph.insert_before(node, moved)
        node.replace_input_with(0, moved.outputs[0])
    return model


def in_python(model: ir.Model, feeds: Feeds) -> Outputs:
    with OrtCpuRunner(model, PLAIN) as runner:
        return runner.run(feeds)


def in_wasm(model: ir.Model, feeds: Feeds) -> Outputs:
    web = modules("onnxruntime-web") / "onnxruntime-web" / "dist" / "ort.node.min.mjs"
    with tempfile.TemporaryDirectory() as name:
        folder, data, entries = Path(name), bytearray(), []
        ir.save(model, folder / "model.onnx")
        for key, array in feeds.items():
            data += bytes(-len(data) % 64)
            entries.append({"name": key, "dtype": str(array.dtype), "shape": array.shape, "offset": len(data),
                            "bytes": array.nbytes})  # fmt: skip
            data += np.ascontiguousarray(array).tobytes()
        (folder / "feeds.bin").write_bytes(data)
        (folder / "feeds.json").write_text(json.dumps(entries))
        golden = TEMPLATES / "common" / "golden.mjs"
        subprocess.run([find("node"), PROGRAM, folder, web.as_uri(), golden.as_uri()], check=True)
        raw = (folder / "answers.bin").read_bytes()
        return {
            t["name"]: np.frombuffer(raw[t["offset"] :][: t["bytes"]], t["dtype"]).reshape(t["shape"])
            for t in json.loads((folder / "answers.json").read_text())
        }


def compared(got: Outputs, stated: Outputs, outputs: list[str]) -> Found:
    """Compare two runs; quantizers are in the order in which they run."""
    differ, values, steps, first = 0, 0, 0, ""
    for name, b in stated.items():
        if name in outputs or b.dtype.kind not in "ui" or b.ndim == 0:
            continue
        apart = np.abs(got[name].astype(np.int64) - b.astype(np.int64))
        differ, values, steps = differ + int((apart > 0).sum()), values + b.size, max(steps, int(apart.max()))
        first = first or (name if apart.any() else "")
    apart_by, _ = distance({n: got[n] for n in outputs}, {n: stated[n] for n in outputs})
    return Found(apart_by, differ, values, steps, first)


def rows(source: Source, draws: int, rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """Yield the rows, for each golden vector."""
    outputs = [t.name for t in source.interface.outputs]

    def fresh() -> ir.Model:
        return expand(ir.load(source.model))

    def put_in(values: Mapping[str, Array], feeds: Feeds) -> tuple[ir.Model, Feeds]:
        return show(take(fresh(), values)), {**feeds, **{f"{name}.given": a for name, a in values.items()}}

    for number, (feeds, stated) in enumerate(source.golden):
        python = in_python(show(fresh()), feeds)
        start, _ = distance({n: python[n] for n in outputs}, stated)
        yield str(number), "Python, from the golden vector", f"{start:.2g}", "", "", ""
        web = in_wasm(show(fresh()), feeds)
        apart = compared(web, python, outputs)
        yield str(number), "browser", *apart.cells
        every = {n: a for n, a in python.items() if n not in outputs}
        yield str(number), "browser, Python's values put in", *compared(
            in_wasm(*put_in(every, feeds)), python, outputs).cells  # fmt: skip
        if apart.first:
            one = in_python(*put_in({apart.first: web[apart.first]}, feeds))
            changed = int((web[apart.first] != python[apart.first]).sum())
            yield str(number), f"Python, {changed} of {apart.first} as in the browser", *compared(
                one, python, outputs).cells  # fmt: skip
        shapes, moved, near = {n: a.shape for n, a in python.items()}, list[Found](), list[Found]()
        for _ in range(draws):
            run = in_python(show(shake(fresh(), shapes, rng)), feeds)
            moved.append(compared(run, python, outputs))
            near.append(compared(run, web, outputs))
        for what, each in spread(moved):
            yield str(number), f"Python, one eps, {what} of {draws}", *each.cells
        yield str(number), "the nearest of them, from the browser", *spread(near)[0][1].cells


def spread(found: list[Found]) -> list[tuple[str, Found]]:
    """Return the least, the middle and the largest."""
    ordered = sorted(found, key=lambda each: each.distance)
    return [("least", ordered[0]), ("median", ordered[len(ordered) // 2]), ("largest", ordered[-1])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--draws", type=int, default=21)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source = load_source(arguments.source, allow_failing=True)
    headers = ("vector", "run", "output", "8-bit values that differ", "steps", "first")
    print_table(headers, list(rows(source, arguments.draws, np.random.default_rng(arguments.seed))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

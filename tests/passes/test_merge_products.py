from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.interface import Interface
from dlc.passes.merge_products import MergeProducts
from dlc.tolerance import EPS32, distance, reassociation
from dlc.types import Array
from tests.passes.exported import EXPORTERS
from tests.passes.texts import compute, expected, graph, serialized, sites, text
from tests.passes.weights import weighted

WEIGHTS = "float[2, 3] w = {1, 2, 3, 4, 5, 6}, float[2, 1] v = {7, 8}"
BIASES = "float[3] b = {1, 2, 3}, float[1] c = {4}"
MATMULS = f"""g (float[n, 4, 2] x) => (float[n, 4, 3] y, float[n, 4, 1] z) <{WEIGHTS}, {BIASES}> {{
    p = MatMul(x, w)
    y = Add(p, b)
    q = MatMul(x, v)
    z = Add(c, q)
}}"""
GEMMS = f"""g (float[n, 2] x) => (float[n, 3] y, float[n, 1] z) <{WEIGHTS}, {BIASES}> {{
    y = Gemm<beta = 0.5>(x, w, b)
    z = Gemm<beta = 0.5>(x, v, c)
}}"""
CONVS = """g (float[n, 2, 4, 4] x) => (float[n, 1, 4, 4] y, float[n, 2, 4, 4] z)
    <float[1, 2, 1, 1] w = {1, 2}, float[2, 2, 1, 1] v = {3, 4, 5, 6}, float[2] c = {7, 8}> {
    p = Conv(x, w)
    y = Relu(p)
    q = Conv(x, v, c)
    z = Relu(q)
}"""


def test_golden_matmuls() -> None:
    model = graph(MATMULS)
    assert [s.reason for s in sites(model, MergeProducts())] == [None]
    assert text(model) == expected("""
        y+z.product = MatMul(x, y+z.weight)
        y+z = Add(y+z.product, y+z.bias)
        y, z = Split(y+z, y+z.sizes)
        y+z.weight: [2,4]
        y+z.bias: [4]
        y+z.sizes: [2]""")
    assert values(model, "y+z.weight") == [1, 2, 3, 7, 4, 5, 6, 8]
    assert values(model, "y+z.bias") == [1, 2, 3, 4]


def test_golden_one_bias_missing() -> None:
    model = graph(MATMULS.replace("z = Add(c, q)", "z = Neg(q)").replace(", float[1] c = {4}", ""))
    assert [s.reason for s in sites(model, MergeProducts())] == [None]
    assert [n.op_type for n in model.graph] == ["MatMul", "Add", "Split", "Neg"]
    assert values(model, "y+q.bias") == [1, 2, 3, 0]


def test_golden_gemms() -> None:
    model = graph(GEMMS)
    assert [s.reason for s in sites(model, MergeProducts())] == [None]
    assert text(model) == expected("""
        y+z = Gemm(x, y+z.weight, y+z.bias)
        y, z = Split(y+z, y+z.sizes)
        y+z.weight: [2,4]
        y+z.bias: [4]
        y+z.sizes: [2]""")
    assert values(model, "y+z.bias") == [0.5, 1, 1.5, 2]
    assert model.graph.node(0).attributes.get_float("beta") == 1.0


def test_golden_convolutions_with_their_activation() -> None:
    model = graph(CONVS)
    assert [s.reason for s in sites(model, MergeProducts())] == [None]
    assert text(model) == expected("""
        p+q = Conv(x, p+q.weight, p+q.bias)
        y+z = Relu(p+q)
        y, z = Split(y+z, y+z.sizes)
        p+q.weight: [3,2,1,1]
        p+q.bias: [3]
        y+z.sizes: [2]""")
    assert values(model, "p+q.bias") == [0, 7, 8]
    assert model.graph.node(2).attributes.get_int("axis") == 1


def test_activations_that_differ_stay_apart() -> None:
    model = graph(CONVS.replace("z = Relu(q)", "z = LeakyRelu(q)"))
    assert [s.reason for s in sites(model, MergeProducts())] == [None]
    assert [n.op_type for n in model.graph] == ["Conv", "Split", "Relu", "LeakyRelu"]


def test_what_cannot_be_merged_is_left_out() -> None:
    body = MATMULS.replace("2] x)", "2] x, float[2, 5] u)").replace("1] z)", "1] z, float[n, 4, 5] o)").replace(
        "p = MatMul(x, w)", "o = MatMul(x, u)\n p = MatMul(x, w)")  # fmt: skip
    model = graph(body)
    assert [s.reason for s in sites(model, MergeProducts())] == [None]
    assert [n.op_type for n in model.graph] == ["MatMul", "Add", "Split", "MatMul"]


def test_several_readers_read_the_parts() -> None:
    body = MATMULS.replace("1] z)", "1] z, float[n, 4, 3] o)").replace("z = Add(c, q)", "z = Add(c, q)\n o = Mul(y, z)")
    model = graph(body)
    x = {"x": np.random.default_rng(0).standard_normal((2, 4, 2)).astype(np.float32)}
    before = compute(model, x)
    assert [s.reason for s in sites(model, MergeProducts())] == [None]
    assert distance(compute(model, x), before)[0] <= reassociation(model)


def values(model: ir.Model, name: str) -> list[float]:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return [float(v) for v in tensor.numpy().reshape(-1)]


GUARDS = {
    "the weight of MatMul is not constant": MATMULS.replace("2] x)", "2] x, float[2, 1] v)").replace(
        ", float[2, 1] v = {7, 8}", ""),
    "the weight of MatMul has another reader": MATMULS.replace("1] z)", "1] z, float[2, 3] o)").replace(
        "p = M", "o = Neg(w)\n p = M"),
    "the weight of MatMul is no matrix": MATMULS.replace("float[2, 1] v", "float[1, 2, 1] v"),
    "the weight of MatMul is INT32": MATMULS.replace("float", "int32"),
    "the bias of Gemm is not one constant per channel": GEMMS.replace("2] x)", "2] x, float[1] c)").replace(
        ", float[1] c = {4}", ""),
    "the convolution is grouped": CONVS.replace("Conv(", "Conv<group = 2>(").replace(
        "float[1, 2, 1, 1] w = {1, 2}", "float[2, 1, 1, 1] w = {1, 2}").replace(
        "float[2, 2, 1, 1] v = {3, 4, 5, 6}", "float[2, 1, 1, 1] v = {3, 4}").replace("1, 4, 4] y", "2, 4, 4] y"),
}  # fmt: skip


@pytest.mark.parametrize("reason", GUARDS)
def test_guard(reason: str) -> None:
    model = graph(GUARDS[reason])
    before = serialized(model)
    assert [s.reason for s in sites(model, MergeProducts())] == [reason]
    assert serialized(model) == before


NO_SITES = {
    "another input": MATMULS.replace("q = MatMul(x, v)", "r = Neg(x)\n q = MatMul(r, v)"),
    "another operator": GEMMS.replace("Gemm<beta = 0.5>(x, v, c)", "MatMul(x, v)").replace(", float[1] c = {4}", ""),
    "another attribute": GEMMS.replace("Gemm<beta = 0.5>(x, v", "Gemm<beta = 0.25>(x, v"),
    "another kernel": CONVS.replace("q = Conv(", "q = Conv<pads = [0, 0, 1, 0]>(").replace(
        "float[2, 2, 1, 1] v = {3, 4, 5, 6}", "float[2, 2, 2, 1] v = {3, 4, 5, 6, 3, 4, 5, 6}"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_SITES)
def test_products_of_different_kinds_are_no_site(case: str) -> None:
    assert sites(graph(NO_SITES[case]), MergeProducts()) == ()


def test_opset_without_split_by_sizes_is_a_guard() -> None:
    model = graph(MATMULS, '<ir_version: 8, opset_import: ["" : 12]>')
    assert [s.reason for s in sites(model, MergeProducts())] == [
        "opset 12 has no Split of given sizes; it came with 13"
    ]


PARTS = st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=2, max_size=4)
ATTRIBUTES = {
    "MatMul": "",
    "Gemm": "<alpha = 0.5, beta = 1.5>",
    "Gemm, transposed": "<alpha = 0.5, beta = 1.5, transB = 1>",
    "Conv": "<pads = [1, 1, 1, 1]>",
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(ATTRIBUTES)), PARTS, st.integers(0, 3), st.integers(1, 6),
    st.sampled_from(["", "Relu", "Sigmoid"]), st.integers(0, 1 << 16),
)  # fmt: skip
def test_properties(
    kind: str, parts: list[tuple[int, bool]], batch: int, depth: int, act: str, seed: int
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    model, shape = random_graph(kind, parts, depth, act, rng)
    feeds = {"x": rng.uniform(-1, 1, (batch, *shape)).astype(np.float32)}
    before, interface = compute(model, feeds), Interface.of(model)
    assert [s.reason for s in sites(model, MergeProducts())] == [None]
    assert Interface.of(model) == interface
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = compute(model, feeds)
    terms = depth * (9 if kind == "Conv" else 1) + 2
    for name, stated in before.items():  # two orders of one sum of terms of at most 3/2, and an activation of slope 1
        assert after[name].shape == stated.shape
        assert np.abs(after[name] - stated).max(initial=0.0) <= (3 * terms**2 + 4) * EPS32
    assert sites(model, MergeProducts()) == ()


def random_graph(
    kind: str, parts: list[tuple[int, bool]], depth: int, act: str, rng: np.random.Generator
) -> tuple[ir.Model, tuple[int, ...]]:
    """Several products of one x, each with some channels, a bias or none, and an activation or none; and x's shape."""
    op, conv = kind.split(",", maxsplit=1)[0], kind == "Conv"
    x = {"MatMul": (3, depth), "Gemm": (depth,), "Conv": (depth, 3, 3)}[op]
    inputs, outputs, lines, weights = [f"float[n, {listed(x)}] x"], [], [], dict[str, Array]()
    for i, (channels, biased) in enumerate(parts):
        w = (channels, depth, 3, 3) if conv else (channels, depth) if "transposed" in kind else (depth, channels)
        weights[f"w{i}"] = rng.uniform(-1, 1, w).astype(np.float32)
        weights[f"b{i}"] = rng.uniform(-1, 1, channels).astype(np.float32)
        inputs.append(f"float[{listed(w)}] w{i}" + (f", float[{channels}] b{i}" if biased else ""))
        outputs.append(f"float[n, {listed((channels, 3, 3) if conv else (*x[:-1], channels))}] y{i}")
        inside = biased and op != "MatMul"
        steps = [f"{op}{ATTRIBUTES[kind]}(x, w{i}{f', b{i}' if inside else ''})"]
        steps += [f"Add(@, b{i})"] if biased and not inside else []
        steps += [f"{act}(@)"] if act else []
        names = [*(f"t{i}_{k}" for k in range(len(steps) - 1)), f"y{i}"]
        lines += [f"{n} = {s.replace('@', names[k - 1])}" for k, (n, s) in enumerate(zip(names, steps, strict=True))]
    body = "\n".join(lines)
    return weighted(f"g ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {body} }}", weights), x


def listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


class Gated(torch.nn.Module):
    """The gated perceptron of LLaMA."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = torch.nn.Linear(8, 12, bias=False), torch.nn.Linear(8, 12, bias=False)
        self.down = torch.nn.Linear(12, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))
        return out


class Inception(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Conv2d(4, c, 1) for c in (3, 5, 2))
        self.wide = torch.nn.Conv2d(5, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c = (torch.relu(head(x)) for head in self.heads)
        return torch.cat([a, self.wide(b), c], 1)


MODULES = {"gated": (Gated, (2, 3, 8), "MatMul"), "inception": (Inception, (2, 4, 5, 5), "Conv")}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_real_module(exporter: str, module: str) -> None:
    torch.manual_seed(0)
    make, shape, op = MODULES[module]
    example = torch.randn(*shape)
    model = EXPORTERS[exporter](make().eval(), example)
    before = compute(model, {"x": example.numpy()})
    assert [s.reason for s in sites(model, MergeProducts())] == [None]
    ops = [n.op_type for n in model.graph]
    assert (ops.count(op), ops.count("Split")) == (2, 1)
    assert distance(compute(model, {"x": example.numpy()}), before)[0] <= reassociation(model)

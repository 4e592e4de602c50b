from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc import pipeline
from dlc.interface import Interface
from dlc.passes.fuse_rms_norm import FuseRmsNorm
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.tolerance import EPS32, distance, reassociation
from dlc.types import Feeds
from tests.passes.exported import EXPORTERS, dynamo
from tests.passes.texts import compute, expected, graph, serialized, sites, text

CONSTANTS = "int64[1] last = {-1}, float two = {2}, float eps = {0.00001}"
GAMMA = "float[4] gamma = {1, 2, 3, 4}"
NORM = f"""g (float[n, 4] x) => (float[n, 4] y) <{CONSTANTS}, {GAMMA}> {{
    q = Pow(x, two)
    v = ReduceMean<keepdims = 1>(q, last)
    a = Add(v, eps)
    s = Sqrt(a)
    r = Reciprocal(s)
    z = Mul(x, r)
    y = Mul(z, gamma)
}}"""
ATTRIBUTE = NORM.replace("ReduceMean<keepdims = 1>(q, last)", "ReduceMean<axes = [-1], keepdims = 1>(q)")
RESTORED = "m = ReduceMean<keepdims = 0>(q, last)\n v = Reshape(m, kept)"


def written(constant: str, *changes: tuple[str, str]) -> str:
    """The same with one constant more, and other nodes."""
    body = NORM.replace("float two", f"{constant}, float two") if constant else NORM
    for old, new in changes:
        assert old in body
        body = body.replace(old, new)
    return body


FORMS = {
    "dynamo": NORM,
    "one over root": written("float one = {1}", ("Reciprocal(s)", "Div(one, s)"), ("Mul(z, gamma)", "Mul(gamma, z)")),
    "quotient": written("", ("r = Reciprocal(s)\n", ""), ("Mul(x, r)", "Div(x, s)")),
    "product with itself": written("", ("Pow(x, two)", "Mul(x, x)")),
    "power of minus a half": written("float half = {-0.5}", ("s = Sqrt(a)\n", ""), ("Reciprocal(s)", "Pow(a, half)")),
    "power of a half": written("float half = {0.5}", ("s = Sqrt(a)", "s = Pow(a, half)")),
    "swapped": written("", ("Add(v, eps)", "Add(eps, v)"), ("Mul(x, r)", "Mul(r, x)")),
    "gamma first": written("", ("z = Mul(x, r)", "z = Mul(r, gamma)"), ("Mul(z, gamma)", "Mul(x, z)")),
    "mean restored": written("int64[2] kept = {-1, 1}", ("v = ReduceMean<keepdims = 1>(q, last)", RESTORED)),
    "no gamma": written("", ("y = Mul(z, gamma)", "y = Relu(z)"), (f", {GAMMA}", "")),
}
OPERATORS = {23: "RMSNormalization", 22: "SimplifiedLayerNormalization"}


def parsed(body: str, header: str = '<ir_version: 10, opset_import: ["" : 20]>') -> ir.Model:
    """With the shapes of inner values, as exporters state them."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(graph(body, header)), data_prop=True))


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_golden() -> None:
    model = parsed(NORM)
    assert [s.reason for s in sites(model, FuseRmsNorm())] == [None]
    assert text(model) == expected("""
        y = RMSNormalization(x, gamma)
        gamma: [4]
    """)
    (node,) = model.graph
    assert node.attributes.get_float("epsilon", 0.0) == float(np.float32(1e-5))
    assert node.attributes.get_int("axis", 0) == -1
    assert (model.opset_imports[""], model.ir_version) == (23, 11)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_golden_below_opset_23() -> None:
    model = parsed(NORM)
    assert [s.reason for s in sites(model, FuseRmsNorm(max_opset=22))] == [None]
    assert text(model) == expected("""
        y = SimplifiedLayerNormalization(x, gamma)
        gamma: [4]
    """)
    assert dict(model.opset_imports) == {"": 20}


def test_an_opset_that_cannot_be_raised_gets_the_other_operator() -> None:
    model = parsed(ATTRIBUTE, '<ir_version: 8, opset_import: ["" : 17]>')
    assert [s.reason for s in sites(model, FuseRmsNorm())] == [None]
    assert op_types(model) == ["SimplifiedLayerNormalization"]
    assert model.opset_imports[""] == 17


def test_alternatives() -> None:
    assert [a.max_opset for a in FuseRmsNorm().alternatives()] == [23, 22]
    assert [a.max_opset for a in FuseRmsNorm(max_opset=21).alternatives()] == [21]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(FORMS)), st.sampled_from((22, 23)), st.integers(0, 5), st.integers(0, 1 << 16))
def test_properties(form: str, opset: int, rows: int, seed: int) -> None:
    model = parsed(FORMS[form])
    feeds = {"x": np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)}
    before, interface = compute(model, feeds), Interface.of(model)
    each = FuseRmsNorm(max_opset=opset)
    assert pipeline.run(model, [each])[0].modified
    assert Interface.of(model) == interface
    assert OPERATORS[opset] in op_types(model)
    assert len(model.graph) <= 2
    # Positive terms are summed, so that each of the n + 6 operations errs by eps of its own result.
    assert distance(compute(model, feeds), before)[0] <= 2 * (4 + 6) * EPS32
    assert not pipeline.run(model, [each])[0].modified


ODD = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 1e30, -1e30, 1e-30]


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("epsilon", ["0.00001", "0", "-1"])
def test_infinities_and_nans_stay(form: str, epsilon: str) -> None:
    model = parsed(FORMS[form].replace("eps = {0.00001}", f"eps = {{{epsilon}}}"))
    feeds = {"x": np.array(np.meshgrid(*[ODD] * 4), np.float32).reshape(4, -1).T.copy()}
    before = compute(model, feeds)["y"]
    assert [s.reason for s in sites(model, FuseRmsNorm())] == [None]
    after = compute(model, feeds)["y"]
    assert np.array_equal(np.isnan(after), np.isnan(before))
    assert np.array_equal(np.isinf(after), np.isinf(before))


def test_two_axes() -> None:
    body = NORM.replace("float[n, 4]", "float[n, 2, 2]").replace("int64[1] last = {-1}", "int64[2] last = {-1, 1}")
    model = parsed(body.replace("float[4] gamma", "float[2, 2] gamma"))
    assert [s.reason for s in sites(model, FuseRmsNorm())] == [None]
    assert next(iter(model.graph)).attributes.get_int("axis", 0) == -2


def test_gamma_need_not_be_constant() -> None:
    model = parsed(NORM.replace("4] x)", "4] x, float[4] gamma)").replace(f", {GAMMA}", ""))
    assert [s.reason for s in sites(model, FuseRmsNorm())] == [None]
    assert op_types(model) == ["RMSNormalization"]


SHARED = NORM.replace("float[n, 4] y)", "float[n, 4] y, float[n, 4] w)").replace(
    "y = Mul(z, gamma)", "y = Mul(z, gamma)\n w = Mul(z, two)"
)


def test_a_quotient_with_two_readers_is_fused_without_gamma() -> None:
    model = parsed(SHARED)
    assert [s.reason for s in sites(model, FuseRmsNorm())] == [None]
    assert op_types(model) == ["RMSNormalization", "Mul", "Mul"]
    (ones,) = (v for name, v in model.graph.initializers.items() if "ones" in name)
    assert ones.const_value is not None
    assert ones.const_value.numpy().tolist() == [1, 1, 1, 1]


HALF = """g (float16[n, 4] h) => (float16[n, 4] y) <int64[1] last = {-1}, float two = {2}, float eps = {0.00001},
    float16[4] gamma = {1, 2, 3, 4}> {
    x = Cast<to = 1>(h)
    q = Pow(x, two)
    v = ReduceMean<keepdims = 1>(q, last)
    a = Add(v, eps)
    s = Sqrt(a)
    z = Div(x, s)
    c = Cast<to = 10>(z)
    y = Mul(gamma, c)
}"""


@pytest.mark.parametrize("opset", [22, 23])
def test_casts_around_are_taken_in(opset: int) -> None:
    model = parsed(HALF)
    feeds = {"h": np.random.default_rng(0).standard_normal((5, 4)).astype(np.float16)}
    before = compute(model, feeds)
    assert [s.reason for s in sites(model, FuseRmsNorm(max_opset=opset))] == [None]
    assert op_types(model) == [OPERATORS[opset]]
    # The quotient and the product are rounded to FP16 on one side, the product alone on the other.
    assert distance(compute(model, feeds), before)[0] <= 2 * np.finfo(np.float16).eps


KEPT = [
    HALF.replace("float16[n, 4] h", "double[n, 4] h"),
    HALF.replace("c = Cast<to = 10>(z)", "c = Cast<to = 11>(z)").replace("float16[4] gamma", "double[4] gamma")
    .replace("float16[n, 4] y", "double[n, 4] y"),
    HALF.replace("x = Cast<to = 1>(h)", "x = Identity(h)").replace("float16[n, 4] h", "float[n, 4] h"),
]  # fmt: skip


@pytest.mark.parametrize("body", KEPT)
def test_casts_that_do_not_belong_stay(body: str) -> None:
    model = parsed(body)
    assert [s.reason for s in sites(model, FuseRmsNorm())] == [None]
    assert op_types(model)[1:] == ["RMSNormalization", "Cast", "Mul"]


AXES = "the mean is not over the last axes, kept"
READER = "a value in between has another reader or is a graph output"
OUTPUTS = "float[n, 4] y)"
DIVIDED = "x is not divided by the square root"
SIZES = "the sizes of the normalised axes are dynamic or 0"
GUARDS = [
    ("epsilon is not constant", NORM.replace("4] x)", "4] x, float eps)").replace(", float eps = {0.00001}", "")),
    ("what is averaged is no square", NORM.replace("two = {2}", "two = {3}")),
    ("what is averaged is no square", NORM.replace("Pow(x, two)", "Mul(x, eps)")),
    ("dtype is DOUBLE, not FLOAT", NORM.replace("float", "double")),
    (AXES, NORM.replace("last = {-1}", "last = {0}")),
    (AXES, NORM.replace("[n, 4]", "[4, 4]").replace("ReduceMean<keepdims = 1>", "ReduceMean<keepdims = 0>")),
    (AXES, FORMS["mean restored"].replace("[n, 4]", "[4, 4]").replace("kept = {-1, 1}", "kept = {1, 4}")),
    (SIZES, NORM.replace("[n, 4]", "[n, w]")),
    (SIZES, NORM.replace("[n, 4]", "[n, 0]").replace(GAMMA, "float[1] gamma = {1}")),
    (DIVIDED, FORMS["quotient"].replace("Div(x, s)", "Div(s, x)")),
    (DIVIDED, NORM.replace("Mul(x, r)", "Div(x, r)")),
    (DIVIDED, NORM.replace("z = Mul(x, r)", "o = Neg(x)\n z = Mul(o, r)")),
    (DIVIDED, NORM.replace("z = Mul(x, r)", "o = Mul(x, gamma)\n z = Mul(o, r)")),
    (DIVIDED, FORMS["gamma first"].replace("Mul(x, z)", "Div(x, z)")),
    (DIVIDED, FORMS["gamma first"].replace("y = Mul(x, z)", "o = Neg(x)\n y = Mul(o, z)")),
    (DIVIDED, FORMS["gamma first"].replace("{1, 2, 3, 4}", "{1, 2, 3, 1e20}")),
    (DIVIDED, FORMS["gamma first"].replace("4] x)", "4] x, float[4] gamma)").replace(f", {GAMMA}", "")),
    (DIVIDED, FORMS["gamma first"].replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, 4] z)")),
    (READER, NORM.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, 4] o)").replace("y =", "o = Neg(q)\n y =")),
    *((READER, NORM.replace(OUTPUTS, f"{OUTPUTS[:-1]}, float[n, {width}] {value})"))
      for value, width in (("q", 4), ("v", 1), ("a", 1), ("s", 1), ("r", 1))),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "body"), GUARDS, ids=[f"{i}: {g[0][:40]}" for i, g in enumerate(GUARDS)])
def test_guard(reason: str, body: str) -> None:
    model = parsed(body)
    before = serialized(model)
    (record,) = pipeline.run(model, [FuseRmsNorm()])
    assert [s.reason for s in record.sites] == [reason]
    assert not record.modified
    assert serialized(model) == before


@pytest.mark.parametrize("opset", [22, 23])
def test_what_is_fused_already_is_a_site(opset: int) -> None:
    model = parsed(NORM)
    sites(model, FuseRmsNorm(max_opset=opset))
    before = serialized(model)
    assert [s.reason for s in sites(model, FuseRmsNorm(max_opset=opset))] == ["already fused"]
    assert serialized(model) == before


def test_subgraphs_are_visited() -> None:
    inner = NORM.split("{\n", 1)[1].rsplit("}", 1)[0]
    model = graph(
        f"g (bool c, float[n, 4] x) => (float[n, 4] z) <{CONSTANTS}, {GAMMA}> {{ z = If (c) <"
        f"then_branch = t1 () => (float[n, 4] y) {{ {inner.replace('z', 'u')} }}, "
        "else_branch = e1 () => (float[n, 4] q) { q = Neg(x) }> }"
    )
    assert [s.applied for s in sites(model, FuseRmsNorm())] == [True]
    assert "RMSNormalization" in {n.op_type for n in ir.traversal.RecursiveGraphIterator(model.graph)}


class Written(torch.nn.Module):
    """As many write it: no gamma, a quotient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def llama() -> torch.nn.Module:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    module: torch.nn.Module = LlamaRMSNorm(64)
    return module


def gemma() -> torch.nn.Module:
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

    module: torch.nn.Module = GemmaRMSNorm(64)
    return module


def t5() -> torch.nn.Module:
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    module: torch.nn.Module = T5LayerNorm(64)
    return module


MODULES = [*(pytest.param(each, marks=pytest.mark.zoo, id=each.__name__) for each in (llama, gemma, t5)), Written]


def perturbed(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize("opset", [22, 23])
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("module", MODULES)
def test_real_module(module: Callable[[], torch.nn.Module], exporter: str, opset: int) -> None:
    example = torch.randn(2, 5, 64)
    model = EXPORTERS[exporter](perturbed(module()), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    bound = reassociation(model)
    assert [s.reason for s in sites(model, FuseRmsNorm(max_opset=opset))] == [None]
    assert len(model.graph) == 1
    assert distance(compute(model, x), before)[0] <= bound


@pytest.mark.parametrize("shape", [(64,), (5, 64)])
def test_the_module_of_torch(shape: tuple[int, ...]) -> None:
    """The TorchScript exporter refuses it: aten::rms_norm is unknown to opset 17."""
    example = torch.randn(2, 5, 64)
    model = dynamo(perturbed(torch.nn.RMSNorm(shape)), example)
    x = {"x": example.numpy()}
    before = compute(model, x)
    assert [s.reason for s in sites(model, FuseRmsNorm())] == [None]
    assert len(model.graph) == 1
    assert distance(compute(model, x), before)[0] <= reassociation(model)


def optimised(model: ir.Model, feeds: Feeds) -> list[str]:
    """Names of the nodes that ONNX Runtime runs with all its own optimisations."""
    for i, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{i}"
    with OrtCpuRunner(model, SessionConfig(graph_optimization="all"), profile=True) as runner:
        return list(runner.placements(feeds))


@pytest.mark.parametrize("operator", ["RMSNormalization", "SimplifiedLayerNormalization", "LayerNormalization"])
def test_onnx_runtime_fuses_the_residual_sum_with_layer_normalisation_only(operator: str) -> None:
    """If it fused the others too, into an operator slower than the two, split-residual would have to prevent it."""
    body = f"""g (float[n, 3, 4] x, float[n, 3, 4] r) => (float[n, 3, 4] y) <{GAMMA}> {{
        t = Add(x, r)
        y = {operator}<axis = -1>(t, gamma)
    }}"""
    model = ir.from_onnx_text(f'<ir_version: 11, opset_import: ["" : 23]>\n{body}')
    x = np.ones((2, 3, 4), np.float32)
    ran = optimised(model, {"x": x, "r": x})
    assert (ran == ["Add_0", f"{operator}_1"]) == (operator != "LayerNormalization"), ran

"""Sources that become graphs, and sources that cannot: each says why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from dlc.errors import ExportError, RecipeError, Unsupported
from dlc.export import Exported, export, rename_dims, seeded_feeds
from dlc.interface import Interface
from dlc.recipe import Dim, Input, Recipe
from tests import modules
from tests.passes.texts import HEADER, compute, graph


def run(recipe: Recipe, opset: int = 26, ir_version: int = 13) -> Exported:
    return export(recipe, opset=opset, ir_version=ir_version)


def shown(exported: Exported) -> list[str]:
    interface = Interface.of(exported.model)
    return [str(t) for t in (*interface.inputs, *interface.outputs)]


@pytest.fixture(scope="module")
def two() -> Exported:
    return run(modules.two_by_two())


def test_two_inputs_two_outputs_and_a_name_collision(two: Exported) -> None:
    assert shown(two) == [
        "ids: int64[batch,length]", "scale: float32[batch]",
        "scaled: float32[batch,length,4]", "embedding: float32[batch,4]",
    ]  # fmt: skip
    onnx.checker.check_model(ir.to_proto(two.model), full_check=True)
    assert two.kind == "module"
    assert two.model.opset_imports == {"": 20}
    assert "at 3 shapes (batch=2, length=3; batch=3, length=4; batch=1, length=1)" in two.parity


def test_the_colliding_internal_value_is_renamed(two: Exported) -> None:
    internal = next(v.name for n in two.model.graph for v in n.outputs if not v.is_graph_output())
    collide = dataclasses.replace(modules.two_by_two(), outputs=("a", str(internal)))
    model = run(collide).model
    assert [v.name for v in model.graph.outputs] == ["a", internal]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_nothing_of_this_machine_enters_the_graph(two: Exported) -> None:
    raw = ir.to_proto(two.model).SerializeToString()
    assert str(Path(__file__).parent).encode() not in raw
    assert b"stack_trace" not in raw


def test_the_hash_depends_on_weights_and_structure_only() -> None:
    def make(bias: float, *more: nn.Module) -> str:
        linear = nn.Linear(4, 2)
        nn.init.constant_(linear.weight, 1.0)
        nn.init.constant_(linear.bias, bias)
        return run(modules.recipe(nn.Sequential(linear, *more))).sha256

    first, same, other_weights, other_structure = make(0.0), make(0.0), make(1.0), make(0.0, nn.ReLU())
    assert first == same
    assert len({first, other_weights, other_structure}) == 3


def test_a_returned_input_and_a_repeated_output_are_outputs_of_their_own() -> None:
    exported = run(modules.recipe(modules.Echo(), outputs=("same", "one", "two")))
    x = np.ones((2, 4), np.float32)
    out = compute(exported.model, {"x": x})
    assert [out[n].max() for n in ("same", "one", "two")] == [1, 2, 2]


def test_training_mode_is_left_and_noted() -> None:
    exported = run(modules.recipe(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))))
    assert exported.notes == ("the module was in training mode (Dropout); it was switched to eval mode",)
    assert exported.eager is not None
    assert not exported.eager.training
    assert run(modules.recipe(nn.Sequential(nn.Linear(4, 4)))).notes == ()


def test_a_dim_that_can_take_one_size_is_fixed() -> None:
    exported = run(modules.recipe(nn.Sequential(nn.ReLU()), dims={"batch": Dim(3, 3)}))
    assert shown(exported)[0] == "x: float32[3,4]"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (modules.Branches(), r"control flow depends on the values of a tensor at `if x.sum\(\) > 0:`.*use torch.where"),
        (modules.FixesBatch(), r"dimension 'batch' is fixed at \d by the module's code.*or declare the size"),
        (modules.Singular(), r"operator aten._linalg_svd has no ONNX form"),
        (modules.WrongWidth(), r"tiny: the module's forward fails: RuntimeError: .*\(inputs x: float32\[\d, 4\]\)"),
        (modules.Sum(), r"forward fails: TypeError: .*missing 1 required positional argument: 'y'"),
        (modules.Remembers(), r"differs from eager PyTorch by .*It holds at batch=3, so the export fixed 'batch'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_what_cannot_be_exported_says_why(module: nn.Module, message: str) -> None:
    if isinstance(module, modules.Remembers):
        module.last = 3  # as after one eager call at the representative size
    with pytest.raises(ExportError, match=message) as caught:
        run(modules.recipe(module))
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (modules.FirstFour(), r"dimension 'batch': the module's code holds for Dim\(min=4, max=8\) only"),
        (modules.Pairs(), r"dimension 'batch': the module's code holds for multiples of 2 only; fix its size"),
    ],
)
def test_bounds_that_the_code_does_not_hold_for(module: nn.Module, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        run(modules.recipe(module, dims={"batch": Dim(2, 8, 6)}))


def test_two_dims_that_must_be_equal() -> None:
    recipe = Recipe(
        name="sum", source=modules.Sum,
        inputs={"x": Input("float32", ("a", 4)), "y": Input("float32", ("b", 4))},
        dims={"a": Dim(2, 8), "b": Dim(2, 8)},
    )  # fmt: skip
    with pytest.raises(ExportError, match=r"sum: .*(equal|match|must)"):
        run(recipe)


def test_a_minimum_that_the_module_cannot_take() -> None:
    recipe = Recipe(
        name="conv",
        source=lambda: nn.Sequential(nn.Conv1d(1, 1, 5)),
        inputs={"input": Input("float32", (1, 1, "time"))},
        dims={"time": Dim(1, 32)},
    )
    with pytest.raises(ExportError, match=r"'time'"):
        run(recipe)


def test_a_source_that_is_no_module() -> None:
    with pytest.raises(RecipeError, match=r"returned int, not a torch\.nn\.Module"):
        run(Recipe(name="x", source=lambda: 3, inputs={"x": Input("float32", (2,))}))  # type: ignore[arg-type, return-value]


def test_a_module_without_inputs() -> None:
    with pytest.raises(RecipeError, match="a module needs inputs"):
        run(Recipe(name="x", source=nn.ReLU))


def test_output_names_must_be_as_many_as_outputs() -> None:
    with pytest.raises(ExportError, match="names 2 outputs, the module returns 1"):
        run(modules.recipe(nn.Sequential(nn.ReLU()), outputs=("a", "b")))


def test_output_named_like_an_input() -> None:
    with pytest.raises(ExportError, match="two inputs or outputs are named 'x'"):
        run(modules.recipe(nn.Sequential(nn.ReLU()), outputs=("x",)))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved program of two inputs; its length is fixed, its batch is not."""
    path = tmp_path_factory.mktemp("pt2") / "two.pt2"
    batch = torch.export.Dim("batch", min=1, max=6)
    args = (torch.tensor([[1, 2, 7], [3, 4, 0]]), torch.ones(2))
    saved = torch.export.export(modules.TwoByTwo().eval(), args, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(saved, path)
    return path


def test_pt2_by_itself(program: Path) -> None:
    exported = run(Recipe(name="two", source=program))
    assert shown(exported)[:2] == ["ids: int64[ids_0,3]", "scale: float32[ids_0]"]
    assert exported.dims == {"ids_0": Dim(1, 6)}
    assert exported.inputs["ids"] == Input("int64", ("ids_0", 3), 0.0, 8.0)
    assert exported.kind == "pt2"
    assert exported.eager is not None


def test_pt2_with_names(program: Path) -> None:
    inputs = {"tokens": Input("int64", ("batch", 3), 0, 10), "scale": Input("float32", ("batch",))}
    recipe = Recipe(name="two", source=program, inputs=inputs, dims={"batch": Dim(1, 4)}, outputs=("a", "b"))
    exported = run(recipe)
    assert shown(exported) == [
        "tokens: int64[batch,3]", "scale: float32[batch]", "a: float32[batch,3,4]", "b: float32[batch,4]",
    ]  # fmt: skip
    assert exported.sha256 == run(recipe).sha256


def test_pt2_with_a_fixed_dim_that_the_recipe_calls_dynamic(program: Path) -> None:
    inputs = {"ids": Input("int64", ("batch", "length")), "scale": Input("float32", ("batch",))}
    recipe = Recipe(name="two", source=program, inputs=inputs, dims={"batch": Dim(), "length": Dim()})
    with pytest.raises(ExportError, match=r"dimension 'length' of input 'ids' is fixed at 3 in the program"):
        run(recipe)


def write(tmp_path: Path, body: str, header: str = HEADER) -> Path:
    path = tmp_path / "model.onnx"
    ir.save(graph(body, header), path)
    return path


def test_onnx_names_what_has_no_name_and_uses_default_bounds(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 2, None])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 2, None])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [x], [y]), opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(proto, path)
    exported = run(Recipe(name="m", source=path))
    assert shown(exported)[0] == "x: float32[x_0,2,x_2]"
    assert exported.dims == {"x_0": Dim(), "x_2": Dim()}
    assert exported.eager is None
    assert exported.parity.startswith("the file itself, run at 3 shapes")


def test_onnx_dims_are_renamed_by_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "g (float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }")
    recipe = Recipe(name="m", source=path, inputs={"x": Input("float32", ("batch", 2))}, dims={"batch": Dim(1, 4)})
    assert shown(run(recipe)) == ["x: float32[batch,2]", "y: float32[batch,2]"]


def test_onnx_with_a_baked_batch_is_caught_at_the_second_shape(tmp_path: Path) -> None:
    body = """g (float[n, 4] x) => (float[a, b] y) <int64[2] shape = {8, 4}> { y = Reshape(x, shape) }"""
    with pytest.raises(ExportError, match=r"the graph fails: .*It holds at n=8, so the export fixed 'n'"):
        run(Recipe(name="m", source=write(tmp_path, body)))


def test_onnx_fixed_axis_that_the_recipe_calls_dynamic(tmp_path: Path) -> None:
    path = write(tmp_path, "g (float[3, 2] x) => (float[3, 2] y) { y = Relu(x) }")
    recipe = Recipe(name="m", source=path, inputs={"x": Input("float32", ("batch", 2))}, dims={"batch": Dim()})
    with pytest.raises(ExportError, match="axis 0 of input 'x' is fixed at 3 in the file, the recipe says 'batch'"):
        run(recipe)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": {"z": Input("float32", (2,))}}, "no input 'z'"),
        ({"dims": {"m": Dim()}}, "no dimension 'm'"),
        ({"inputs": {"x": Input("float32", (2,))}}, "has 2 dimensions, the recipe 1"),
    ],
)
def test_onnx_recipe_that_does_not_fit(tmp_path: Path, given: dict[str, dict[str, Input]], message: str) -> None:
    path = write(tmp_path, "g (float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }")
    with pytest.raises(RecipeError, match=message):
        run(Recipe(name="m", source=path, **given))  # type: ignore[arg-type]


def test_onnx_of_an_old_opset_is_raised_and_compared(tmp_path: Path) -> None:
    body = "g (float[n, 1, 2] x) => (float[n, 2] y) { y = Squeeze<axes = [1]>(x) }"
    path = write(tmp_path, body, '<ir_version: 6, opset_import: ["" : 11]>')
    exported = run(Recipe(name="m", source=path))
    assert exported.model.opset_imports[""] == 20
    assert exported.notes == ("converted from opset 11 to 20",)
    assert exported.parity.startswith("equal to the file within 0 of")


def test_onnx_initializers_listed_as_inputs_in_an_old_file(tmp_path: Path) -> None:
    body = "g (float[n, 2] x, float[2] w) => (float[n, 2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }"
    path = tmp_path / "model.onnx"
    proto = onnx.parser.parse_model('<ir_version: 3, opset_import: ["" : 9]>' + body)
    onnx.save(proto, path)
    assert shown(run(Recipe(name="m", source=path)))[:1] == ["x: float32[n,2]"]


def test_onnx_functions_are_inlined(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """g (float[n, 2] x) => (float[n, 2] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["" : 20]> twice (a) => (b) { b = Add(a, a) }""",
        '<ir_version: 10, opset_import: ["" : 20, "own" : 1]>',
    )
    exported = run(Recipe(name="m", source=path))
    assert [n.op_type for n in exported.model.graph] == ["Add"]
    assert not exported.model.functions


def test_the_limits_of_the_target_hold(tmp_path: Path) -> None:
    body = "g (float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }"
    path = write(tmp_path, body, '<ir_version: 13, opset_import: ["" : 26]>')
    exported = run(Recipe(name="m", source=path), opset=22, ir_version=11)
    assert (exported.model.opset_imports[""], exported.model.ir_version) == (22, 11)


def test_an_operator_that_the_target_does_not_have(tmp_path: Path) -> None:
    body = "g (float[n, 2] x) => (float[n, 2] y) <float[2] s = {1, 2}> { y = RMSNormalization(x, s) }"
    path = write(tmp_path, body, '<ir_version: 11, opset_import: ["" : 23]>')
    message = "uses opset 23, the target accepts at most 22, and RMSNormalization changed between them"
    with pytest.raises(Unsupported, match=message):
        run(Recipe(name="m", source=path), opset=22)


def test_a_file_newer_than_the_runtime_is_compared_through_the_reference(tmp_path: Path) -> None:
    body = "g (float[n, 2] x) => (uint8[n, 2] y) <float s = {0.5}, uint8 z = {9}> { y = QuantizeLinear(x, s, z) }"
    path = write(tmp_path, body, '<ir_version: 13, opset_import: ["" : 28]>')
    exported = run(Recipe(name="m", source=path), opset=22)
    assert exported.notes == ("converted from opset 28 to 22",)
    assert exported.parity.startswith("equal to the file within 0 of")


def test_parity_feeds_are_the_public_ones() -> None:
    interface = Interface.of(graph("g (float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }"))
    one = seeded_feeds(interface, {}, {"n": 3}, np.random.default_rng(1))
    two = seeded_feeds(interface, {}, {"n": 3}, np.random.default_rng(1))
    np.testing.assert_array_equal(one["x"], two["x"])


def test_rename_dims_inside_expressions() -> None:
    model = graph("g (float[s1, 2] x) => (float[s1, 2] y) { y = Relu(x) }")
    model.graph.outputs[0].shape = ir.Shape(["2*s1 + s11", 2])
    rename_dims(model, {"s1": "batch", "s11": "time"})
    assert str(Interface.of(model).outputs[0]) == "y: float32[2*batch + time,2]"

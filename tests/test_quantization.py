"""What a recipe may say about how each precision is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlc import Recipe
from dlc.errors import RecipeError
from dlc.passes.blockwise import METHODS as ROUNDINGS
from dlc.quantization import METHODS, OPTIONS, Bf16, Blocks, Fp16, Int4, Int8
from dlc.sources.recipe_files import declared, load_recipe


def test_methods_are_those_of_the_pass() -> None:
    assert METHODS == ROUNDINGS


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (Int4, {"block_size": 48}, "int4: block_size=48 has no kernel: 16, 32, 64, 128, 256"),
        (Int4, {"method": "gtpq"}, "int4: unknown method 'gtpq'; did you mean 'gptq'"),
        (Int4, {"accuracy_level": 2}, "int4: accuracy_level=2"),
        (Int4, {"table_bits": 2}, "int4: table_bits=2"),
        (Int8, {"form": "weight"}, "unknown form of int8, 'weight'; did you mean 'weights'"),
        (Int8, {"recover": "smooth"}, "nothing to recover accuracy is called 'smooth'; did you mean 'smooth-quant'"),
        (Int8, {"block_size": 64}, 'int8: block_size belongs to form = "weights", not to "auto"'),
        (Int8, {"form": "weights", "lstm_inputs": True}, 'int8: lstm_inputs belongs to form = "auto"'),
        (Fp16, {"exclude": ("",)}, "fp16: an empty pattern in exclude"),
    ],
)  # fmt: skip
def test_mistakes(kind: type[Blocks], given: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError) as error:
        kind(**given)
    assert says in str(error.value)


def test_plain_words() -> None:
    loose: Any = {"exclude": "Gather", "recover": ["correct-bias"]}
    assert Int8(**loose) == Int8(exclude=("Gather",), recover=("correct-bias",))
    assert Int8(form="weights", exclude=("Gather",), block_size=64).block_size == 64


def test_whose_options_a_precision_takes() -> None:
    recipe = Recipe(name="m", source=Path("m.onnx"), int8=Int8(exclude=("Conv",)), bf16=Bf16(exclude=("Exp",)))
    assert recipe.options("mixed") is recipe.options("int8") is recipe.int8
    assert recipe.options("bf16") == Bf16(exclude=("Exp",))
    assert recipe.options("fp32") is None
    assert {type(getattr(recipe, name)) for name in OPTIONS} == set(OPTIONS.values())


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("""
int4 = { method = "hqq", symmetric = false, block_size = 64, table_bits = 8, accuracy_level = 0 }
fp16 = { exclude = ["LayerNormalization"] }
[int8]
exclude = ["/head/*", "Gather"]
recover = []
lstm_inputs = true
""")
    recipe = declared(str(path), Path("m.onnx"))
    assert recipe.int4 == Int4(method="hqq", symmetric=False, block_size=64, table_bits=8, accuracy_level=0)
    assert recipe.int8 == Int8(exclude=("/head/*", "Gather"), recover=(), lstm_inputs=True)
    assert (recipe.fp16, recipe.bf16) == (Fp16(exclude=("LayerNormalization",)), Bf16())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("int4 = { blocksize = 64 }", "unknown key 'blocksize' in int4; did you mean 'block_size'"),
        ("fp16 = { method = 'rtn' }", "unknown key 'method' in fp16"),
        ("int8 = { block_size = 64 }", "block_size belongs to form"),
        ("int8 = 'weight'", "weight"),
        ("int4 = { symmetric = 'no' }", "Expected `bool | null`"),
    ],
)
def test_mistakes_in_toml_name_the_file(tmp_path: Path, text: str, says: str) -> None:
    (path := tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.toml") as error:
        load_recipe("m.onnx", path)
    assert says in str(error.value)

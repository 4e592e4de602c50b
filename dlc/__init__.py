"""dlc: a deep-learning compiler for ONNX Runtime. The names below are imported when they are first used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlc.artifact import Artifact
    from dlc.calibration import Calibration
    from dlc.compiler import Options, compile  # noqa: A004 - the verb's name
    from dlc.quantization import Bf16, Fp16, Int4, Int8
    from dlc.recipe import Dataset, Dim, Gates, Input, Recipe
    from dlc.sources.recipe_files import load_recipe
    from dlc.target import Target, detect

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "Bf16",
    "Calibration",
    "Dataset",
    "Dim",
    "Fp16",
    "Gates",
    "Input",
    "Int4",
    "Int8",
    "Options",
    "Recipe",
    "Target",
    "__version__",
    "compile",
    "detect",
    "load_recipe",
]

_HOME = {
    "Artifact": "dlc.artifact",
    "Bf16": "dlc.quantization",
    "Calibration": "dlc.calibration",
    "Dataset": "dlc.recipe",
    "Dim": "dlc.recipe",
    "Fp16": "dlc.quantization",
    "Gates": "dlc.recipe",
    "Input": "dlc.recipe",
    "Int4": "dlc.quantization",
    "Int8": "dlc.quantization",
    "Options": "dlc.compiler",
    "Recipe": "dlc.recipe",
    "Target": "dlc.target",
    "compile": "dlc.compiler",
    "detect": "dlc.target",
    "load_recipe": "dlc.sources.recipe_files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dlc' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)

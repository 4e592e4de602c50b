"""dlc: a deep-learning compiler for ONNX Runtime. The names below are imported when they are first used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlc.artifact import Artifact
    from dlc.calibration import Calibration
    from dlc.compiler import Options, compile  # noqa: A004 - the verb's name
    from dlc.recipe import Dataset, Dim, Gates, Input, Recipe
    from dlc.sources.recipe_files import load_recipe
    from dlc.target import Target, detect

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "Calibration",
    "Dataset",
    "Dim",
    "Gates",
    "Input",
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
    "Calibration": "dlc.calibration",
    "Dataset": "dlc.recipe",
    "Dim": "dlc.recipe",
    "Gates": "dlc.recipe",
    "Input": "dlc.recipe",
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

"""What stands after ``dlc compile``, to a Recipe.

* a name of the zoo: ``digits-cnn``
* ``recipe.py``: its module-level ``recipe``, a Recipe or a function without arguments that returns one
* ``recipe.toml``: see ``dlc.sources.recipe_toml``
* ``model.onnx``, ``model.pt2``
* ``package.module:factory``: called without arguments; returns a Recipe, or ``(module, example_inputs)``, or a module
  whose inputs a TOML recipe declares. Examples are a tuple, in the order of ``forward``, or a dict by name; their
  shapes are taken as fixed: dynamic dims are declared in a recipe.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dlc.calibration import Calibration
from dlc.errors import RecipeError
from dlc.feeds import input_like
from dlc.lookup import load
from dlc.models import ZOO
from dlc.quantization import OPTIONS
from dlc.recipe import Dataset, Dim, Gates, Input, Recipe, Unchecked, suggest
from dlc.search import Mixing
from dlc.sources import recipe_toml
from dlc.sources.user_code import import_file, look_up, user_code

KINDS = "a zoo name, recipe.py, recipe.toml, model.onnx, model.pt2 or package.module:factory"
FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def load_recipe(spec: str, overrides: Path | None = None) -> Recipe:
    """Load what ``spec`` names; ``overrides``, a TOML recipe without a source, declares the rest."""
    if overrides is None:
        return _load(spec, None)
    document = recipe_toml.read(overrides)
    if document.source is not None:
        raise RecipeError(f"recipe {overrides} has a source of its own, {document.source!r}: leave one of the two out")
    return recipe_toml.apply(document, _load(spec, document), overrides)


def declared(spec: str, model: Path) -> Recipe:
    """Load a recipe for the sake of what it declares about a model file, wherever its own source is."""
    path = Path(spec)
    if path.suffix.lower() == ".toml":
        return recipe_toml.apply(recipe_toml.read(path), Recipe(name=_name(model.stem), source=model), path)
    return load_recipe(spec)


def _load(spec: str, document: recipe_toml.Document | None) -> Recipe:
    path = Path(spec)
    if spec in ZOO:
        made: Recipe = load(ZOO[spec])()
        return made
    suffix = path.suffix.lower()
    if suffix == ".py":
        return _from_python(path)
    if suffix == ".toml":
        return _from_toml(path)
    if suffix in (".onnx", ".pt2"):
        return Recipe(name=_name(path.stem), source=path)
    if FACTORY.fullmatch(spec):
        return _from_factory(spec, bool(document and document.inputs))
    if path.exists():
        raise RecipeError(f"{spec}: not a source that dlc knows; expected {KINDS}")
    raise RecipeError(f"no source is called {spec!r}{suggest(spec, ZOO)}; expected {KINDS}")


def _from_toml(path: Path) -> Recipe:
    document = recipe_toml.read(path)
    if document.source is None:
        raise RecipeError(f"recipe {path} has no source; name one, or compile a model with -r {path}")
    source = document.source
    if source.endswith((".onnx", ".pt2")):
        source = str(path.parent / source)
    if Path(source).suffix in (".py", ".toml") or source in ZOO:
        raise RecipeError(f"recipe {path}: the source is a recipe itself, {source!r}; compile it with -r {path}")
    return recipe_toml.apply(document, _load(source, document), path)


def _from_python(path: Path) -> Recipe:
    module = import_file(path, "recipe")
    if not hasattr(module, "recipe"):
        raise RecipeError(f"{path} defines no 'recipe'; name a Recipe, or a function that returns one, so")
    with user_code(path):
        made = module.recipe() if _is_function(module.recipe) else module.recipe
    return _checked(made, str(path), path.parent)


def _from_factory(spec: str, inputs_follow: bool) -> Recipe:  # noqa: FBT001 - private, called once
    module_name, _, attribute = spec.partition(":")
    factory = look_up(spec, Path.cwd())
    file = sys.modules[module_name].__file__
    with user_code(Path(file) if file else None, spec):
        made = factory() if _is_function(factory) else factory
    if isinstance(made, Recipe):
        return _checked(made, spec, Path.cwd())
    network, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not _is_module(network):
        raise RecipeError(f"{spec} returned {type(network).__name__}; expected a Recipe, or (module, example_inputs)")
    if examples is None and not inputs_follow:
        raise RecipeError(
            f"{spec} returned a module without inputs: return (module, example_inputs) or a Recipe, "
            "or declare the inputs in a TOML recipe and pass it with -r"
        )
    name = _name(f"{module_name.rpartition('.')[2]}-{attribute}")
    return Recipe(name=name, source=lambda: network, inputs=_example_inputs(spec, network, examples))


def _example_inputs(spec: str, module: Unchecked, examples: Unchecked) -> dict[str, Input]:
    if examples is None:
        return {}
    if not isinstance(examples, Mapping):
        values = examples if isinstance(examples, (tuple, list)) else (examples,)
        examples = dict(zip(_parameters(module, len(values)), values, strict=True))
    if not all(hasattr(v, "shape") and hasattr(v, "dtype") for v in examples.values()):
        raise RecipeError(f"{spec}: example inputs must be tensors or arrays, in a tuple or in a dict by name")
    arrays = {str(k): np.asarray(v.detach().cpu() if hasattr(v, "detach") else v) for k, v in examples.items()}
    return {name: input_like(array) for name, array in arrays.items()}


def _parameters(module: Unchecked, count: int) -> list[str]:
    """Names of the first parameters of ``forward``; those of ``*args`` are numbered."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in positional]
    return [named[i] if i < len(named) else f"input_{i}" for i in range(count)]


def _checked(made: Unchecked, where: str, folder: Path) -> Recipe:
    """Check the types that a Recipe only states; a string source is a path relative to the recipe."""
    if not isinstance(made, Recipe):
        raise RecipeError(f"{where}: 'recipe' gives {type(made).__name__}, not a Recipe")
    source: Unchecked = made.source
    if isinstance(source, str):
        source = Path(source)
    if isinstance(source, Path) and not source.is_absolute():
        source = folder / source
    if not (isinstance(source, Path) or callable(source)) or _is_module(source):
        raise RecipeError(f"{where}: source must be a path or a function that returns the module")
    expected: list[tuple[str, Unchecked, type]] = [
        *((f"inputs[{k!r}]", v, Input) for k, v in made.inputs.items()),
        *((f"dims[{k!r}]", v, Dim) for k, v in made.dims.items()),
        *((k, v, Dataset) for k in ("calibration", "evaluation") if (v := getattr(made, k)) is not None),
        ("gates", made.gates, Gates),
        ("calibrate", made.calibrate, Calibration),
        ("mixed", made.mixed, Mixing),
        *((name, getattr(made, name), kind) for name, kind in OPTIONS.items()),
    ]
    for name, value, kind in expected:
        if not isinstance(value, kind):
            raise RecipeError(f"{where}: {name} is {type(value).__name__}, expected {kind.__name__}")
    return replace(made, source=source)


def _is_function(value: Unchecked) -> bool:
    return callable(value) and not isinstance(value, Recipe) and not _is_module(value)


def _is_module(value: Unchecked) -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _name(text: str) -> str:
    """Make a folder name of any text."""
    return re.sub(r"[^\w.-]", "-", text).lstrip(".") or "model"

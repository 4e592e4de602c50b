"""One real model for the whole folder: digits-cnn, exported once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dlc.export import export
from dlc.models import digits_cnn
from dlc.recipe import Recipe
from dlc.types import Feeds


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return digits_cnn.recipe()


@pytest.fixture(scope="session")
def cnn(recipe: Recipe) -> ir.Model:
    """FP32 graph as exported; tests that change it take a clone."""
    return export(recipe, opset=20, ir_version=10).model


@pytest.fixture(scope="session")
def one_digit(recipe: Recipe) -> Feeds:
    assert recipe.evaluation is not None
    return {name: array[:1] for name, array in next(iter(recipe.evaluation.batches())).items()}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)

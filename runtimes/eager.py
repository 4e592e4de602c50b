"""PyTorch, as the user wrote the model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dlc.errors import CapabilityError, ModelError
from dlc.interface import Interface
from dlc.runtimes.base import Runner
from dlc.types import Array, Feeds, Outputs

if TYPE_CHECKING:
    import torch


class EagerRunner(Runner):
    """Runs a module on the CPU, numpy in and out. Outputs are flattened in order and take the interface's names."""

    name: ClassVar[str] = "eager"

    def __init__(self, module: torch.nn.Module, interface: Interface):
        self.module = module
        self.interface = interface

    @classmethod
    def check_available(cls) -> None:
        """Raise CapabilityError without torch."""
        import_torch()

    def open(self) -> None:
        """Settle how the inputs are passed."""
        self._torch = import_torch()
        self._by_name = takes_keywords(self.module, [t.name for t in self.interface.inputs])

    def infer(self, feeds: Feeds) -> Outputs:
        """Run once, without gradients."""
        names, arrays = [t.name for t in self.interface.outputs], self.call(feeds)
        if len(arrays) != len(names):
            raise ModelError(f"the module returns {len(arrays)} tensors, its ONNX graph {len(names)}")
        return dict(zip(names, arrays, strict=True))

    def call(self, feeds: Feeds) -> list[Array]:
        """Call the module and flatten what it returns."""
        arrays = {t.name: np.require(feeds[t.name], requirements="W") for t in self.interface.inputs}
        tensors = {name: self._torch.from_numpy(array) for name, array in arrays.items()}
        try:
            with self._torch.no_grad():
                result = self.module(**tensors) if self._by_name else self.module(*tensors.values())
        except Exception as error:
            raise ModelError(f"the module's forward fails: {type(error).__name__}: {_first_line(error)}") from error
        return flatten(result)


def takes_keywords(module: torch.nn.Module, names: Sequence[str]) -> bool:
    """Whether every name is a parameter of ``forward``; inputs are passed by position otherwise."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(module.forward).parameters
    return all(n in parameters and parameters[n].kind in kinds for n in names)


def flatten(result: Any) -> list[Array]:
    """Tensors of a module's result, in order; nested tuples, dicts and dataclasses are opened, None is left out."""
    from torch.utils import _pytree as pytree

    return [leaf.detach().cpu().numpy() for leaf in pytree.tree_leaves(result) if hasattr(leaf, "detach")]


def import_torch() -> Any:
    """Import torch, or raise CapabilityError with the command that installs it."""
    try:
        import torch
    except ImportError as error:
        raise CapabilityError("torch is not installed: pip install 'dlc[torch]'") from error
    return torch


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")

"""The reference evaluator of ONNX: slow, in numpy, by the letter of the specification."""

from __future__ import annotations

from typing import Any, ClassVar

import onnx_ir as ir

from dlc.errors import CapabilityError, ModelError
from dlc.interface import Interface
from dlc.runtimes.base import Runner
from dlc.types import Feeds, Outputs


class ReferenceRunner(Runner):
    """Runs a model in memory with ``onnx.reference``; standard operators only."""

    name: ClassVar[str] = "reference"

    def __init__(self, model: ir.Model):
        self.model = model
        self.interface = Interface.of(model)
        self._evaluator: Any = None

    @classmethod
    def check_available(cls) -> None:
        """Do nothing: onnx is always installed."""

    def open(self) -> None:
        """Build the evaluator; CapabilityError names an operator that it does not have."""
        from onnx.reference import ReferenceEvaluator

        try:
            self._evaluator = ReferenceEvaluator(ir.to_proto(self.model))
        except Exception as error:
            raise CapabilityError(f"the ONNX reference evaluator cannot run this graph: {_text(error)}") from error

    def close(self) -> None:
        """Drop the evaluator."""
        self._evaluator = None

    def infer(self, feeds: Feeds) -> Outputs:
        """Run once."""
        names = [t.name for t in self.interface.outputs]
        try:
            return dict(zip(names, self._evaluator.run(names, dict(feeds)), strict=True))
        except Exception as error:
            raise ModelError(f"the ONNX reference evaluator failed: {_text(error)}") from error


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"

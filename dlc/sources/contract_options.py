"""What a TOML recipe says of data: a contract, and how far it may drift. Unknown keys are errors."""

from __future__ import annotations

from typing import Any

import msgspec

from dlc.contract import DataContract, Field, Labels
from dlc.drift import Drift


class StatedField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said of one input: ``dlc.contract.Field``."""

    dtype: str | None = None
    shape: tuple[int | str, ...] | None = None
    low: float | None = None
    high: float | None = None
    missing: float | None = None
    max_missing: float = 0.0


class StatedLabels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said of the targets: ``dlc.contract.Labels``."""

    classes: tuple[int, ...] | None = None
    least_share: float = 0.0
    most_share: float = 1.0
    low: float | None = None
    high: float | None = None


class StatedContract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table ``contract``: ``dlc.contract.DataContract``."""

    id: str
    version: str
    sha256: str | None = None
    source: str = ""
    label: str = ""
    sampling: str = ""
    window: tuple[str, str] | None = None
    privacy: str = ""
    min_examples: int = 1
    inputs: dict[str, StatedField] = {}
    targets: StatedLabels | None = None

    def promised(self) -> DataContract:
        """Return the contract that the table states; RecipeError if it cannot be one."""
        given: dict[str, Any] = {f: getattr(self, f) for f in self.__struct_fields__ if f not in {"inputs", "targets"}}
        inputs = {name: Field(**msgspec.structs.asdict(each)) for name, each in self.inputs.items()}
        targets = None if self.targets is None else Labels(**msgspec.structs.asdict(self.targets))
        return DataContract(inputs=inputs, targets=targets, **given)


class StatedDrift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table ``drift``: ``dlc.drift.Drift``."""

    psi: float = Drift().psi
    ks: float = Drift().ks
    activations: tuple[str, ...] = ()

"""Whether calibration examples are in the evaluation data, which may have changed since the compile looked for them."""

from __future__ import annotations

from collections.abc import Iterator

from dlc.data import NEARLY, DataSummary, inspect, leaked, nearly_leaked
from dlc.errors import DlcError
from dlc.gate.lines import LEAKAGE, Line
from dlc.gate.observation import Leakage, Observation, VariantSeen
from dlc.interface import Interface
from dlc.recipe import Dataset


def look(calibration: Dataset | None, evaluation: DataSummary, interface: Interface) -> Leakage | None:
    """Look for examples of both; None without calibration data. The gate does without them, so they may be away."""
    if calibration is None:
        return None
    try:
        found = inspect(calibration, interface)
    except DlcError as error:
        return Leakage(unread=str(error))
    return Leakage(
        sha256=found.sha256, exact=leaked(found, evaluation), near=nearly_leaked(found, evaluation)
    )  # fmt: skip


def leakage(now: Observation, variant: VariantSeen) -> Iterator[Line]:
    """Remark, as the compile does, that a variant's accuracy may flatter; the reference is calibrated on nothing."""
    seen = now.data.leakage if now.data is not None else None
    if seen is None or variant.precision == now.reference:
        return
    for reason in _reasons(seen, now.calibration):
        yield Line(variant=variant.precision, gate=LEAKAGE, status=None, reason=reason)


def _reasons(seen: Leakage, compiled_with: str | None) -> Iterator[str]:
    if seen.unread:
        yield f"not looked for, as the calibration data cannot be read here: {seen.unread}"
        return
    if compiled_with is not None and seen.sha256 != compiled_with:
        yield "not looked for, as the recipe's calibration data are not those that the artifact was compiled with"
        return
    reasons = []
    if seen.exact:
        reasons.append(f"{seen.exact} calibration examples are evaluation examples: accuracy may flatter")
    if seen.near:
        reasons.append(NEARLY.format(seen.near))
    if reasons:
        yield "; ".join(reasons)

"""Whether the same files, on the same data and machine, still answer the same."""

from __future__ import annotations

from collections.abc import Iterator

from dlc.gate.lines import Line
from dlc.gate.observation import Observation, VariantSeen


def determinism(now: Observation, before: Observation | None, variant: VariantSeen) -> Iterator[Line]:
    """Compare outputs bit for bit where nothing differs; where the ISA or the runtime does, say so."""
    earlier = before.variant(variant.precision) if before else None
    if before is None or earlier is None or variant.files != earlier.files or not variant.outputs:
        return
    if not now.on_data_of(before):
        return
    same = variant.outputs == earlier.outputs
    if now.on_machine_of(before):
        reason = "same files, data and machine: " + (
            "every output is the baseline's, bit for bit" if same else "outputs differ from the baseline's"
        )
        yield Line(
            variant=variant.precision, gate="determinism", status="pass" if same else "fail", reason=reason
        )  # fmt: skip
    elif not same:
        bound = f"{variant.golden[1]:.2g}" if variant.golden else "its golden vectors'"
        reason = (
            f"recorded on {before.where}, this is {now.where}: outputs are not compared bit for bit but within the "
            f"tolerance of golden vectors, {bound}"
        )
        yield Line(variant=variant.precision, gate="determinism", status=None, reason=reason)

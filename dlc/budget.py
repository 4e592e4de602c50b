"""Down to a memory budget: one way after another of holding a model, until what it adds to a process fits.

The rungs of one precision, then those of the next:

    stock      the variant as it is, with the options of its session.json
    order      the graph that ONNX Runtime makes of it, in the planned order, each buffer freed after its last reader
    planned    that, at planned offsets (where the library that serves them is at hand)
    mapped     that, with weights mapped from a file of their own, and no second copy in a kernel's layout
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dlc.allocations import RunPlan
from dlc.artifact import MODEL
from dlc.errors import CapabilityError, ModelError, PassError, UserError
from dlc.manifest import Budget, Rung
from dlc.planned_files import FILE, write
from dlc.planning import Prepared, prepare
from dlc.runtimes.added import added
from dlc.runtimes.session import SessionConfig
from dlc.types import Bytes, Feeds

FOLDER = "planned"
"""In the folder of the variant that fits: the planned files, if it takes them to fit."""
MAPPED: Mapping[str, str] = {"session.disable_prepacking": "1"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant's folder, and the options it is run with."""

    precision: str
    folder: Path
    config: SessionConfig


def check_weights(weights: Sequence[Bytes], budget: Bytes) -> None:
    """UserError if a budget is below the weights of every variant."""
    if weights and budget < (least := min(weights)):
        raise UserError(
            f"a memory budget of {budget:,} bytes is below the smallest variant's weights, {least:,} bytes: nothing "
            "can meet it; add a smaller precision (--variants int8,int4), or raise the budget"
        )


def climb(candidates: Sequence[Candidate], feeds: Feeds, budget: Bytes, bugs: list[PassError]) -> Budget:
    """Try every rung until one fits, and write its files into its variant.

    A pass that breaks a promise fails its rung, and is appended to ``bugs``.
    """
    tried: list[Rung] = []
    for candidate in candidates:
        for rung in _rungs(candidate, feeds, budget, bugs):
            tried.append(rung)
            if rung.fits:
                return Budget(budget_bytes=budget, tried=tuple(tried), chosen=f"{rung.precision} {rung.rung}")
    return Budget(budget_bytes=budget, tried=tuple(tried), chosen="")


def _rungs(candidate: Candidate, feeds: Feeds, budget: Bytes, bugs: list[PassError]) -> Iterator[Rung]:
    """Yield each way as it is measured; its files stay if it is the last that is asked for."""
    model = candidate.folder / MODEL
    yield _measured(candidate, "stock", model, feeds, candidate.config, budget)
    for mapped in (False, True):
        config = candidate.config
        if mapped:
            config = msgspec.structs.replace(config, entries={**config.entries, **MAPPED})
        try:
            prepared = prepare(model, feeds, config)
        except (UserError, CapabilityError, PassError) as error:
            if isinstance(error, PassError):
                bugs.append(error)
            yield _failed(candidate, "mapped" if mapped else "order", str(error))
            continue
        yield from _followed(candidate, prepared, feeds, budget, mapped=mapped)


def _followed(candidate: Candidate, prepared: Prepared, feeds: Feeds, budget: Bytes, *, mapped: bool) -> Iterator[Rung]:
    """Measure a planned graph with options alone, and at planned offsets if the plan has them."""
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
        folder = Path(scratch) / FOLDER
        write(folder, prepared, mapped=mapped)
        ways: list[tuple[str, RunPlan | None]] = [("planned", prepared.plan.run)] if prepared.plan.allocations else []
        if not mapped or not ways:
            ways.insert(0, ("order", None))
        for name, plan in ways:
            rung = "mapped" if mapped else name
            done = _measured(candidate, rung, folder / FILE, feeds, prepared.config, budget, plan)
            if done.fits:
                shutil.copytree(folder, candidate.folder / FOLDER)
            yield done
            if done.fits:
                return


def _measured(
    candidate: Candidate, rung: str, model: Path, feeds: Feeds, config: SessionConfig, budget: Bytes,
    plan: RunPlan | None = None,
) -> Rung:  # fmt: skip
    try:
        found = added(model, feeds, config, plan)
    except ModelError as error:
        return _failed(candidate, rung, str(error))
    fits = found.bytes <= budget
    return Rung(precision=candidate.precision, rung=rung, bytes=found.bytes, fits=fits, note=found.tier)


def _failed(candidate: Candidate, rung: str, why: str) -> Rung:
    return Rung(precision=candidate.precision, rung=rung, bytes=None, fits=False, note=why)


def table(budget: Budget) -> Iterable[tuple[str, ...]]:
    """Yield a row for each way that was tried."""
    for each in budget.tried:
        used = "not measured" if each.bytes is None else f"{each.bytes:,}"
        yield each.precision, each.rung, used, "fits" if each.fits else "does not fit", each.note

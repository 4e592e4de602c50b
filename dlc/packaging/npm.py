"""Packages of npm, of one pinned version, kept in the user's cache; no script of theirs is run."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dlc.cost_table import default_cache
from dlc.errors import CapabilityError
from dlc.packaging.programs import find, last_words, run

VARIABLE = "DLC_NODE_MODULES"
VERSION = "1.30.0"
"""The newest release of all three in this manner; ``dlc.versions`` has its opset and IR version."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A package and the SHA-512 of its archive, as npm writes it."""

    name: str
    integrity: str


PINS = {
    pin.name: pin
    for pin in (
        Pin(
            "onnxruntime-common",
            "sha512-7fdVWjAID1dVhH/G8qK3APARunV4VkBFoCQAP7qp4Wkab0mrorvmc+sqiT+mKXOzDqdjN5j+/Z9nb4gzNPWcyA==",
        ),
        Pin(
            "onnxruntime-node",
            "sha512-twhs1C2C/BFkz1yc5OY0KIU2GUq6DURO7hD4bx5Q2Qy3nAMJwRXW8xU3NVczE29VA9lolLOYepoD8fjTGOfIqw==",
        ),
        Pin(
            "onnxruntime-web",
            "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        ),
    )
}


def present(name: str) -> Path | None:
    """Return the folder of a package that is here already, in ``$DLC_NODE_MODULES`` or in the cache."""
    return next((root / name for root in _roots() if _version(root / name) == VERSION), None)


def modules(*names: str) -> Path:
    """Return a folder ``node_modules`` that holds these packages, fetched with npm if they are not here.

    CapabilityError if npm is missing, does not reach its registry, or brings an archive other than the pinned one.
    """
    for root in _roots():
        if all(_version(root / name) == VERSION for name in names):
            return root
    cache = _cache()
    for name in names:
        if _version(cache / name) != VERSION:
            _fetch(PINS[name], cache)
    return cache


def _roots() -> list[Path]:
    named = os.environ.get(VARIABLE)
    return [*([Path(named)] if named else []), _cache()]


def _cache() -> Path:
    return default_cache().parent / f"npm-{VERSION}" / "node_modules"


def _version(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError):
        return None


def _fetch(pin: Pin, cache: Path) -> None:
    wanted = f"{pin.name}@{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache.parent) as scratch:
        child = run([find("npm"), "pack", "--silent", "--pack-destination", scratch, wanted], Path(scratch))
        archives = list(Path(scratch).glob("*.tgz"))
        if child.returncode or not archives:
            raise CapabilityError(
                f"npm does not bring {wanted} ({last_words(child)}): fetch it elsewhere with npm install {wanted}, "
                f"and set {VARIABLE} to that node_modules"
            )
        check(archives[0], pin)
        with tarfile.open(archives[0]) as archive:
            archive.extractall(scratch, filter="data")
        if _version(cache / pin.name) != VERSION:  # another process may have been faster
            (Path(scratch) / "package").rename(cache / pin.name)


def check(archive: Path, pin: Pin) -> None:
    """Compare an archive with its pin: CapabilityError if it is another one."""
    with archive.open("rb") as file:
        found = "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != pin.integrity:
        raise CapabilityError(
            f"the registry of npm gives another {pin.name} {VERSION} than the one that dlc was tested with ({found}): "
            f"it is not used; set {VARIABLE} to a node_modules that you trust"
        )

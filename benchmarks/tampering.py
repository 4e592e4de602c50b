"""Changes a signed bundle at random, and counts what ``dlc verify`` detects.

``python -m benchmarks.tampering ARTIFACT/VARIANT``. Of each kind as many: a flip of one bit of the file; a flip of one
bit of a file in it, packed again in the format; a file added, removed, or renamed, packed again. The signature is
checked with the key; nothing of the bundle is run.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dlc.cli.common import print_table
from dlc.errors import ArtifactError
from dlc.packaging import archive
from dlc.packaging.bundle import bundle, integrity
from dlc.packaging.source import load_source


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def flip_inside(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    path.write_bytes(flip(path.read_bytes(), rng))


def add(folder: Path, rng: random.Random) -> None:
    (rng.choice(files(folder)).parent / f"{rng.getrandbits(32):08x}").write_bytes(rng.randbytes(rng.randrange(64)))


def remove(folder: Path, rng: random.Random) -> None:
    rng.choice(files(folder)).unlink()


def rename(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    path.rename(path.with_name(f"{path.name}.{rng.getrandbits(32):08x}"))


CHANGES: dict[str, Callable[[Path, random.Random], None] | None] = {
    "bit of the zip": None, "bit of a file in it": flip_inside, "file added": add, "file removed": remove,
    "file renamed": rename,
}  # fmt: skip


def detected(path: Path, public: Ed25519PublicKey) -> bool:
    try:
        with archive.opened(path) as folder:
            return not all(check.ok for check in integrity(folder, public))
    except ArtifactError:
        return True


def changed(path: Path, kind: str, rng: random.Random, scratch: Path) -> Path:
    again = scratch / "again.zip"
    again.unlink(missing_ok=True)
    if (change := CHANGES[kind]) is None:
        again.write_bytes(flip(path.read_bytes(), rng))
        return again
    shutil.rmtree(scratch / "content", ignore_errors=True)
    archive.unpack(path, scratch / "content")
    change(scratch / "content", rng)
    archive.pack(scratch / "content", again)
    return again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, found = random.Random(arguments.seed), Counter[str]()
    made = Counter(kind for kind, _ in zip(itertools.cycle(CHANGES), range(arguments.changes), strict=False))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        key = Ed25519PrivateKey.generate()
        private = scratch / "key.pem"
        private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
        source = load_source(arguments.source, allow_failing=True)
        path = bundle([source], "onnx", scratch, key=private, check=False).path
        assert path is not None
        assert not detected(path, key.public_key()), "the bundle as it was made must verify"
        for kind in made.elements():
            found[kind] += detected(changed(path, kind, rng, scratch), key.public_key())
    print_table(("change", "made", "detected"), [(kind, str(made[kind]), str(found[kind])) for kind in made])
    print(f"{found.total()} of {made.total()} detected, seed {arguments.seed}")
    return 0 if found == made else 1


if __name__ == "__main__":
    sys.exit(main())

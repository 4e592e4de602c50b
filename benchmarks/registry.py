"""Kills writers of a registry at random: ``python -m benchmarks.registry ARTIFACT``.

``--writers`` processes at once push packages and move one tag, over and over; after random times one of them is killed
(SIGKILL) and another takes its place, ``--kills`` times. All the while a reader checks that every version that is
listed is complete and every tag leads to one; in the end the whole registry is read once more. ``--address``: where,
by default a folder; an object store that has nothing of the name yet, ``s3://bucket/new``.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dlc.artifact import Artifact
from dlc.packaging.compose import compose
from dlc.packaging.registry import Registry
from dlc.packaging.source import load_source

WRITER = """
import itertools, random, sys, time
from pathlib import Path
from dlc.errors import UserError
from dlc.packaging.registry import Registry
kept, rng = Registry(sys.argv[1]), random.Random(int(sys.argv[2]))
print("ready", flush=True)
for _ in itertools.count():
    model, digest = kept.push(Path(rng.choice(sys.argv[3:])))
    try:
        kept.rollback(model, "prod") if rng.random() < 0.2 else kept.tag(model, digest, "prod")
    except UserError:
        pass  # another writer was faster, or there is nothing to go back to
    time.sleep(rng.random() / 10)
"""
LONGEST = 0.5  # seconds that a writer lives after it has started


def start(address: str, seed: int, packages: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, address, str(seed), *packages]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--address")
    parser.add_argument("--writers", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, damage, reads = random.Random(arguments.seed), 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        variants = [v.precision for v in Artifact.load(arguments.artifact).built]
        sources = [load_source(arguments.artifact / v, allow_failing=True) for v in variants]
        packages = [str(compose([s], "onnx", Path(scratch), check=False).path) for s in sources]
        address = arguments.address or str(Path(scratch) / "registry")
        kept = Registry(address)
        writers = [start(address, i, packages) for i in range(arguments.writers)]
        for writer in writers:
            ready(writer)
        for kill in range(arguments.kills):
            time.sleep(rng.random() * LONGEST)
            victim = writers.pop(rng.randrange(len(writers)))
            victim.kill()
            victim.wait()
            damage, reads = damage + sum(1 for _ in kept.faults()), reads + 1
            writers.append(start(address, arguments.writers + kill, packages))
        for writer in writers:
            writer.kill()
            writer.wait()
        damage += sum(1 for _ in kept.faults())
        moves = len(kept.store.names(f"tags/{sources[0].name}/prod"))
        versions = len(kept.versions(sources[0].name))
    killed = arguments.kills + len(writers)
    print(
        f"{arguments.writers} writers at once, {killed} killed, {moves} moves of one tag, "
        f"{versions} of {len(packages)} versions complete, read {reads + 1} times: "
        f"{damage} things damaged or half-visible"
    )
    return 1 if damage or versions != len(packages) else 0


if __name__ == "__main__":
    sys.exit(main())

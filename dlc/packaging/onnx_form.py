"""The form ``onnx``: model, session options, golden vectors and a runner for ONNX Runtime's Python package."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from dlc import distances
from dlc.artifact import SESSION
from dlc.drift import STATISTICS
from dlc.packaging import links
from dlc.packaging.form import Form, Proof
from dlc.packaging.source import Source
from dlc.packaging.texts import copy_programs
from dlc.target import runtime_distribution

PROGRAMS = ("run.py", "session.py", "machine.py", "observe.py", "drift.py", "proof.py", "replay.py")
DISTANCES = "distances.py"
"""dlc's own, which needs numpy alone: a package and ``dlc data check`` say the same numbers."""
PYTHON = (sys.executable, "-S", "-s", "-B", "-W", "error::DeprecationWarning")
"""Python without its installed packages, which writes no bytecode into the package."""
OLDEST_NUMPY = "2.1"
"""As dlc's own: older ones are not tested."""


class OnnxForm(Form):
    """A folder for any machine with Python, numpy and onnxruntime."""

    name: ClassVar[str] = "onnx"
    providers: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    takes_fallbacks: ClassVar[bool] = True

    def write(self, sources: Sequence[Source], folder: Path) -> tuple[str, ...]:
        """Write one folder for each variant, the chain, the programs, and what calibration data looked like."""
        links.write(sources, folder)
        for source in sources:
            shutil.copyfile(source.folder / SESSION, folder / source.precision / SESSION)
        copy_programs(self.name, PROGRAMS, folder)
        shutil.copyfile(distances.__file__, folder / DISTANCES)
        if (known := sources[0].artifact.path / STATISTICS).is_file():
            shutil.copyfile(known, folder / STATISTICS)
        distribution = "onnxruntime-gpu" if sources[0].session.provider == "cuda" else "onnxruntime"
        needs = f"{distribution}>={self.runtime().version}\nnumpy>={OLDEST_NUMPY}\n"
        (folder / "requirements.txt").write_text(needs, encoding="utf-8")
        return ()

    def check(self, folder: Path) -> list[Proof]:
        """Replay each link on plain onnxruntime, in a Python that sees nothing but it and numpy."""
        with environment() as variables:
            return links.prove("Python without dlc", [*PYTHON, "proof.py"], folder, variables)


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Yield the variables with which ``PYTHON`` sees onnxruntime and numpy, and nothing else that is installed here."""
    distribution, _ = runtime_distribution()
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch:
        for name in (distribution, "numpy"):
            for top in _top_level(name):
                (Path(scratch) / top.name).symlink_to(top)
        yield {"PYTHONPATH": scratch, "DLC_STATISTICS": ""}


def _top_level(distribution: str) -> set[Path]:
    found = metadata.distribution(distribution)
    roots = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
    return {path for root in roots if (path := Path(str(found.locate_file(root)))).is_dir()}

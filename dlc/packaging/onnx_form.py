"""The form ``onnx``: model, session options, golden vectors and a runner for ONNX Runtime's Python package."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from dlc.artifact import SESSION
from dlc.packaging import golden, record
from dlc.packaging.chain import chain
from dlc.packaging.form import Form, Proof
from dlc.packaging.programs import judge_run, last_words, run
from dlc.packaging.record import Link
from dlc.packaging.source import Source
from dlc.packaging.texts import copy_programs
from dlc.pretty import pretty_json
from dlc.target import runtime_distribution

PROGRAMS = ("run.py", "machine.py", "observe.py", "drift.py", "proof.py", "replay.py")
CHAIN = "chain.json"
UNFIT = 3
"""Exit code of ``proof.py`` where the machine cannot run the variant."""
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
        """Write one folder for each variant, the chain, and the programs that all share."""
        for source in sources:
            write_variant(source, folder / source.precision)
        (folder / CHAIN).write_bytes(pretty_json(chain(sources)))
        copy_programs(self.name, PROGRAMS, folder)
        distribution = "onnxruntime-gpu" if sources[0].session.provider == "cuda" else "onnxruntime"
        needs = f"{distribution}>={self.runtime().version}\nnumpy>={OLDEST_NUMPY}\n"
        (folder / "requirements.txt").write_text(needs, encoding="utf-8")
        return ()

    def check(self, folder: Path) -> list[Proof]:
        """Replay each link on plain onnxruntime, in a Python that sees nothing but it and numpy.

        One that this machine cannot run is left out, if there is another.
        """
        with environment() as variables:
            return _one_at_least([_replay(link, folder, variables) for link in record.read(folder).chain])


def _replay(link: Link, folder: Path, variables: Mapping[str, str]) -> Proof:
    subject = f"Python without dlc, {link.variant}"
    child = run([*PYTHON, "proof.py", link.variant], folder, variables)
    if child.returncode == UNFIT:
        return Proof(subject, ok=True, detail=f"not replayed here: {last_words(child)}")
    return judge_run(subject, link.variant, child)


def _one_at_least(proofs: list[Proof]) -> list[Proof]:
    ran = any(p.answer or not p.ok for p in proofs)
    return proofs if ran else [replace(p, ok=False) for p in proofs]


def write_variant(source: Source, folder: Path) -> None:
    """Write the model with its external data, its session options, and its golden vectors."""
    folder.mkdir()
    source.copy_model(folder)
    shutil.copyfile(source.folder / SESSION, folder / SESSION)
    golden.write(source, folder)


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

"""The form ``ort``: the graph as it runs, in ORT format, for a runtime built with nothing but its operators."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from dlc.artifact import SESSION
from dlc.errors import ModelError, Unsupported
from dlc.packaging import golden, record
from dlc.packaging.chain import chain, unchecked
from dlc.packaging.form import Form, Proof
from dlc.packaging.limits import explain
from dlc.packaging.onnx_form import PYTHON, environment
from dlc.packaging.programs import last_words, prove, run
from dlc.packaging.source import Source
from dlc.packaging.texts import copy_programs, fill, write_json
from dlc.runtimes.ort_format import listed_operators, required_operators, save_ort
from dlc.target import isa

MODEL = "model.ort"
OPERATORS = "required_operators_and_types.config"
BLOCKED = "com.microsoft.nchwc"
"""Domain of convolutions whose weights lie in blocks of 16 channels with AVX-512, of 8 without (MLAS)."""


class OrtForm(Form):
    """A folder for a minimal build of ONNX Runtime."""

    name: ClassVar[str] = "ort"

    def write(self, sources: Sequence[Source], folder: Path) -> tuple[str, ...]:
        """Write the model as it runs at the optimisation level of ``session.json``, and the operators of that graph."""
        [source], [link] = sources, chain(sources)
        try:
            save_ort(source.model, source.session, folder / MODEL)
        except ModelError as error:
            raise Unsupported(explain(str(error), source, self.runtime())) from error
        operators = required_operators(folder / MODEL)
        (folder / OPERATORS).write_text(operators, encoding="utf-8")
        write_json(folder / SESSION, {**msgspec.to_builtins(source.session), **msgspec.to_builtins(link)})
        golden.write(source, folder)
        copy_programs(self.name, ("proof.py", "machine.py", "replay.py"), folder)
        fill(self.name, "build.sh.j2", folder / "build.sh", version=self.runtime().version)
        return (*([_layout_note()] if BLOCKED in operators else []), *unchecked(link, "a runtime of your own"))

    def check(self, folder: Path) -> list[Proof]:
        """Replay in onnxruntime; then profile a run, and compare what ran with what the configuration lists."""
        with environment() as variables:
            variant = record.read(folder).variant
            replayed = prove("Python without dlc", variant, [*PYTHON, "proof.py"], folder, variables)
            child = run([*PYTHON, "proof.py", "--operators"], folder, variables)
        if child.returncode:
            return [replayed, Proof("operators", ok=False, detail=last_words(child))]
        return [replayed, _compared(listed_operators(folder / OPERATORS), set(json.loads(child.stdout)))]


def _compared(stated: set[str], ran: set[str]) -> Proof:
    idle, unlisted = sorted(stated - ran), sorted(ran - stated)
    if not idle and not unlisted:
        return Proof("operators", ok=True, detail=f"{len(ran)} operators are listed, and the same {len(ran)} ran")
    return Proof("operators", ok=False, detail=f"listed but idle: {idle}; ran but unlisted: {unlisted}")


def _layout_note() -> str:
    wide = "avx512f" in isa()
    return (
        f"weights of convolutions are laid out for processors {'with' if wide else 'without'} AVX-512 "
        "(com.microsoft.nchwc): package on the kind of processor that the target has, or compile with a "
        "session of graph_optimization extended"
    )

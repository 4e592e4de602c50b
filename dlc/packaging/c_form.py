"""The form ``c``: a C library and its self-test against ONNX Runtime's C interface."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from dlc.errors import Unsupported
from dlc.packaging import golden, record
from dlc.packaging.chain import chain
from dlc.packaging.form import Form, Proof
from dlc.packaging.programs import find, last_words, prove, run
from dlc.packaging.source import Source
from dlc.packaging.texts import copy_programs, render
from dlc.runtimes.session import SessionConfig
from dlc.target import runtime_distribution

PROGRAMS = ("ort_abi.h", "model.h", "model.c", "selftest.c", "CMakeLists.txt")
LEVELS = {
    "none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL",
}  # fmt: skip
TYPES = {name: int(ir.DataType.from_numpy(np.dtype(name))) for name in golden.DTYPES}
RANK_MAX, IO_MAX = 8, 64
"""MODEL_RANK_MAX and MODEL_IO_MAX of model.h."""
DISABLED = "optimization.disable_specified_optimizers"
"""The session entry that takes names of optimisers, separated by semicolons."""


class CForm(Form):
    """A folder of C sources, headers and data."""

    name: ClassVar[str] = "c"

    def require(self) -> None:
        """Need cmake and a C compiler."""
        find("cmake")
        find("gcc", "cc", "clang")

    def write(self, sources: Sequence[Source], folder: Path) -> tuple[str, ...]:
        """Write the model, the program, and as headers what the program must know of the model."""
        [source], [link] = sources, chain(sources)
        _check_limits(source)
        source.copy_model(folder)
        index = golden.write(source, folder)
        copy_programs(self.name, PROGRAMS, folder)
        data = render(
            self.name, "model_data.h.j2", model=source.name, variant=source.precision, golden=index, types=TYPES,
            inputs=[t.name for t in source.interface.inputs], outputs=[t.name for t in source.interface.outputs],
            threads=source.session.intra_op_threads, optimization=LEVELS[source.session.graph_optimization],
            entries=entries(source.session), needs=link.why if link.isa else "",
            bytes=(folder / golden.DATA).stat().st_size,
        )  # fmt: skip
        (folder / "model_data.h").write_text(data, encoding="utf-8")
        plan = render(self.name, "memory_plan.h.j2", plan=source.plan)
        (folder / "memory_plan.h").write_text(plan, encoding="utf-8")
        return () if source.plan else ("the artifact holds no memory plan of this variant",)

    def check(self, folder: Path) -> list[Proof]:
        """Build with cmake and gcc against the shared library of the installed package, and run the self-test."""
        cmake = find("cmake")
        with tempfile.TemporaryDirectory(prefix="dlc-") as build:
            configured = run([cmake, "-S", folder, "-B", build, f"-DONNXRUNTIME_DIR={library_folder()}"], folder)
            built = configured if configured.returncode else run([cmake, "--build", build], folder)
            if built.returncode:
                return [Proof("gcc", ok=False, detail=f"does not build: {last_words(built)}")]
            return [prove("C program", record.read(folder).variant, [Path(build) / "selftest", folder], folder)]


def entries(config: SessionConfig) -> list[tuple[str, str]]:
    """Return the session entries, among them the one that disables optimisers: C has no other way to."""
    disabled = [(DISABLED, ";".join(config.disabled_optimizers))] if config.disabled_optimizers else []
    return [*config.entries.items(), *disabled]


def library_folder() -> Path:
    """Return the folder of libonnxruntime inside the installed package."""
    distribution, _ = runtime_distribution()
    return Path(str(metadata.distribution(distribution).locate_file("onnxruntime/capi")))


def _check_limits(source: Source) -> None:
    tensors = (*source.interface.inputs, *source.interface.outputs)
    if deep := [t.name for t in tensors if len(t.shape or ()) > RANK_MAX]:
        raise Unsupported(f"tensor {deep[0]!r} has more than {RANK_MAX} dimensions, which model.h does not hold")
    if max(len(source.interface.inputs), len(source.interface.outputs)) > IO_MAX:
        raise Unsupported(f"{source.folder}: model.h holds at most {IO_MAX} inputs and {IO_MAX} outputs")

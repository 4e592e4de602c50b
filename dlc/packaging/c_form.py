"""The form ``c``: a C library and its self-test against ONNX Runtime's C interface."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from dlc.errors import Unsupported
from dlc.packaging import golden, links
from dlc.packaging.chain import chain
from dlc.packaging.form import Form, Proof
from dlc.packaging.options import entries
from dlc.packaging.programs import find, last_words, run
from dlc.packaging.record import Link
from dlc.packaging.source import Source
from dlc.packaging.texts import copy_programs, fill
from dlc.target import runtime_distribution

PROGRAMS = ("ort_abi.h", "model.h", "model.c", "selftest.c", "CMakeLists.txt")
LEVELS = {
    "none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL",
}  # fmt: skip
TYPES = {name: int(ir.DataType.from_numpy(np.dtype(name))) for name in golden.DTYPES}
RANK_MAX, IO_MAX = 8, 64
"""MODEL_RANK_MAX and MODEL_IO_MAX of model.h."""


class CForm(Form):
    """A folder of C sources, headers and data."""

    name: ClassVar[str] = "c"
    takes_fallbacks: ClassVar[bool] = True

    def require(self) -> None:
        """Need cmake and a C compiler."""
        find("cmake")
        find("gcc", "cc", "clang")

    def write(self, sources: Sequence[Source], folder: Path) -> tuple[str, ...]:
        """Write the models, the program, and as headers what the program must know of the models."""
        for source in sources:
            _check_limits(source)
        vectors = links.write(sources, folder)
        copy_programs(self.name, PROGRAMS, folder)
        chosen = sources[0]
        fill(
            self.name, "model_data.h.j2", folder / "model_data.h", model=chosen.name, types=TYPES,
            inputs=[t.name for t in chosen.interface.inputs], outputs=[t.name for t in chosen.interface.outputs],
            variants=[_variant(*each, folder) for each in zip(sources, chain(sources), vectors, strict=True)],
        )  # fmt: skip
        fill(self.name, "memory_plan.h.j2", folder / "memory_plan.h", plan=chosen.plan, variant=chosen.precision)
        return () if chosen.plan else ("the artifact holds no memory plan of this variant",)

    def check(self, folder: Path) -> list[Proof]:
        """Build with cmake and gcc against the shared library of the installed package, and run the self-test."""
        cmake = find("cmake")
        with tempfile.TemporaryDirectory(prefix="dlc-") as build:
            configured = run([cmake, "-S", folder, "-B", build, f"-DONNXRUNTIME_DIR={library_folder()}"], folder)
            built = configured if configured.returncode else run([cmake, "--build", build], folder)
            if built.returncode:
                return [Proof("gcc", ok=False, detail=f"does not build: {last_words(built)}")]
            return links.prove("C program", [Path(build) / "selftest", folder], folder)


def _variant(source: Source, link: Link, vectors: golden.Golden, folder: Path) -> dict[str, Any]:
    """Return what model_data.h says of a variant."""
    return {
        "name": source.precision, "threads": source.session.intra_op_threads,
        "optimization": LEVELS[source.session.graph_optimization], "entries": entries(source.session),
        "needs": link.why if link.isa else "", "golden": vectors,
        "bytes": (folder / source.precision / golden.DATA).stat().st_size,
    }  # fmt: skip


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

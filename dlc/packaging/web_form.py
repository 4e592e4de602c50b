"""The form ``web``: a static folder with onnxruntime-web in it, and a page that proves itself in the browser."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from dlc.artifact import MODEL
from dlc.errors import Unsupported
from dlc.packaging import golden, record
from dlc.packaging.browser import find_browser, visit
from dlc.packaging.form import Form, Proof
from dlc.packaging.limits import check_limits
from dlc.packaging.npm import VERSION, modules
from dlc.packaging.options import for_javascript
from dlc.packaging.record import Runtime, list_files
from dlc.packaging.source import Source
from dlc.packaging.texts import copy_programs, fill, write_json

RUNTIME = "runtime"
PLAIN = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs")
WASM = "ort-wasm-simd-threaded.wasm"
"""The build without WebGPU: a third of the size of the other."""
PAGE = ("index.html", "app.mjs", "golden.mjs", "facts.json", "golden.json", golden.DATA, MODEL)


class WebForm(Form):
    """A folder for any web server."""

    name: ClassVar[str] = "web"
    any_processor: ClassVar[bool] = True  # wasm has no dot product that saturates (i32x4.dot_i16x8_s)
    includes_runtime: ClassVar[bool] = True

    def runtime(self) -> Runtime:
        """Return the pinned onnxruntime-web."""
        return Runtime(name="onnxruntime-web", version=VERSION, registry="npm")

    def require(self) -> None:
        """Need Chromium."""
        find_browser()

    def write(self, sources: Sequence[Source], folder: Path) -> tuple[str, ...]:
        """Write page, model and runtime; Unsupported if the model is too large for one file."""
        [source] = sources
        check_limits(source, self.runtime())
        if source.model.with_name(f"{MODEL}.data").is_file():
            raise Unsupported(
                f"{source.folder}: weights of more than a gigabyte are no download; package a smaller variant"
            )
        source.copy_model(folder)
        golden.write(source, folder)
        copy_programs(self.name, ("app.mjs", "golden.mjs"), folder)
        verdict = source.variant.verdict
        failing = verdict.reasons if verdict.status == "fail" else ()
        title = f"{source.name}, {source.precision}"
        fill(self.name, "index.html.j2", folder / "index.html", title=title, failing=failing)
        _write_runtime(folder / RUNTIME)
        size = sum(f.bytes for f in list_files(folder).values())
        session = {k: v for k, v in for_javascript(source.session).items() if not k.endswith("NumThreads")}
        facts = {"variant": source.precision, "bytes": size, "session": {**session, "executionProviders": ["wasm"]}}
        write_json(folder / "facts.json", facts)
        _write_worker(folder)
        return (f"{RUNTIME}/{WASM}.gz is compressed, and unpacked by the page",)

    def check(self, folder: Path) -> list[Proof]:
        """Open the page in Chromium: with one thread, with several, and from its cache while the server is gone."""
        return visit(folder, record.read(folder).variant)


def _write_runtime(folder: Path) -> None:
    source = modules("onnxruntime-web") / "onnxruntime-web" / "dist"
    folder.mkdir()
    for name in PLAIN:
        text = (source / name).read_text(encoding="utf-8")
        plain = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("//# sourceMappingURL"))
        (folder / name).write_text(plain, encoding="utf-8")
    with (folder / f"{WASM}.gz").open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write((source / WASM).read_bytes())


def _write_worker(folder: Path) -> None:
    files = [*PAGE, *(f"{RUNTIME}/{name}" for name in PLAIN), f"{RUNTIME}/{WASM}.gz"]
    content = "".join(f"{name}:{file.sha256}\n" for name, file in list_files(folder).items())
    digest = f"dlc-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    fill("web", "worker.js.j2", folder / "worker.js", digest=digest, files=["./", *files])

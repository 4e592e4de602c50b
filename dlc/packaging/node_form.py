"""The form ``node``: an npm package with types and a test, for onnxruntime-node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from dlc.packaging import golden, record
from dlc.packaging.c_form import entries
from dlc.packaging.chain import chain
from dlc.packaging.form import Form, Proof
from dlc.packaging.limits import check_limits
from dlc.packaging.npm import VERSION, modules
from dlc.packaging.programs import find, prove
from dlc.packaging.record import Runtime
from dlc.packaging.source import Source
from dlc.packaging.texts import copy_programs, render
from dlc.runtimes.session import SessionConfig

LEVELS = {"none": "disabled", "basic": "basic", "extended": "extended", "all": "all"}


class NodeForm(Form):
    """A folder that ``npm install`` takes."""

    name: ClassVar[str] = "node"
    providers: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def runtime(self) -> Runtime:
        """Return the pinned onnxruntime-node."""
        return Runtime(name="onnxruntime-node", version=VERSION, registry="npm")

    def require(self) -> None:
        """Need Node.js and the pinned package."""
        find("node", "nodejs")
        modules("onnxruntime-node", "onnxruntime-common")

    def write(self, sources: Sequence[Source], folder: Path) -> tuple[str, ...]:
        """Write the package."""
        [source], [link] = sources, chain(sources)
        check_limits(source, self.runtime())
        source.copy_model(folder)
        golden.write(source, folder)
        copy_programs(self.name, ("index.js", "test.js", "golden.mjs"), folder)
        types = render(self.name, "index.d.ts.j2", interface=source.interface)
        (folder / "index.d.ts").write_text(types, encoding="utf-8")
        options = {"session": session_options(source.session), "isa": link.isa, "why": link.why}
        write_json(folder / "session.json", options)
        write_json(folder / "package.json", _package(source))
        return ()

    def check(self, folder: Path) -> list[Proof]:
        """Run the package's test in Node.js."""
        node = find("node", "nodejs")
        packages = modules("onnxruntime-node", "onnxruntime-common")
        variant = record.read(folder).variant
        return [prove("Node.js", variant, [node, "test.js"], folder, {"NODE_PATH": str(packages)})]


def session_options(config: SessionConfig) -> dict[str, Any]:
    """Write session options as ONNX Runtime's JavaScript interface takes them."""
    options: dict[str, Any] = {
        "executionProviders": [config.provider],
        "graphOptimizationLevel": LEVELS[config.graph_optimization],
        "intraOpNumThreads": config.intra_op_threads,
        "interOpNumThreads": 1,
        "executionMode": "sequential",
    }
    if found := entries(config):
        options["extra"] = _nested(found)
    return options


def _nested(found: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Turn ``session.x`` into ``{"session": {"x": …}}``, from which the interface makes it again."""
    tree: dict[str, Any] = {}
    for key, value in found:
        *path, last = key.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def _package(source: Source) -> dict[str, Any]:
    return {
        "name": f"{source.name}-{source.precision}".lower(),
        "version": "1.0.0",
        "description": f"{source.name}, variant {source.precision}, verdict {source.variant.verdict.status}",
        "private": True,
        "main": "index.js",
        "types": "index.d.ts",
        "scripts": {"test": "node test.js"},
        "dependencies": {"onnxruntime-node": VERSION},
        "engines": {"node": ">=18"},
        "dlc": {"variant": source.precision, "artifact": source.seal},
    }


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

"""The form ``node``: an npm package with types and a test, for onnxruntime-node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from dlc.artifact import SESSION
from dlc.packaging import links
from dlc.packaging.form import Form, Proof
from dlc.packaging.limits import check_limits
from dlc.packaging.npm import VERSION, modules
from dlc.packaging.options import for_javascript
from dlc.packaging.programs import find
from dlc.packaging.record import Runtime
from dlc.packaging.source import Source
from dlc.packaging.texts import copy_programs, fill, write_json


class NodeForm(Form):
    """A folder that ``npm install`` takes."""

    name: ClassVar[str] = "node"
    providers: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    takes_fallbacks: ClassVar[bool] = True

    def runtime(self) -> Runtime:
        """Return the pinned onnxruntime-node."""
        return Runtime(name="onnxruntime-node", version=VERSION, registry="npm")

    def require(self) -> None:
        """Need Node.js and the pinned package."""
        find("node", "nodejs")
        modules("onnxruntime-node", "onnxruntime-common")

    def write(self, sources: Sequence[Source], folder: Path) -> tuple[str, ...]:
        """Write the package: one folder for each variant, the chain, and the program that chooses."""
        for source in sources:
            check_limits(source, self.runtime())
        links.write(sources, folder)
        for source in sources:
            write_json(folder / source.precision / SESSION, for_javascript(source.session))
        copy_programs(self.name, ("index.js", "machine.js", "test.js", "golden.mjs"), folder)
        fill(self.name, "index.d.ts.j2", folder / "index.d.ts", interface=sources[0].interface)
        write_json(folder / "package.json", _package(sources[0]))
        return ()

    def check(self, folder: Path) -> list[Proof]:
        """Run the package's test in Node.js, for each variant of the chain."""
        packages = modules("onnxruntime-node", "onnxruntime-common")
        return links.prove("Node.js", [find("node", "nodejs"), "test.js"], folder, {"NODE_PATH": str(packages)})


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

"""OpenVINO and NNCF beside dlc, in an environment and a process of their own: they are no dependency of dlc."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import venv
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dlc.types import Array, Feeds, Nanoseconds

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / "build" / "openvino-environment"
PACKAGES = ("openvino==2026.4.1", "nncf==3.4.0")
WORKER = Path(__file__).with_name("peers_worker.py")


class OpenVino:
    """A process that loads ONNX files into OpenVINO and runs them; ``version`` is known once one is loaded."""

    def __init__(self) -> None:
        self.version = "openvino"

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="dlc-openvino-")
        self._process = subprocess.Popen(
            [_environment() / "bin" / "python", "-P", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=(Path(self._folder.name) / "log").open("w"), env=_apart(),
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def load(self, name: str, model: Path, calibration: Iterable[Feeds] | None = None, kind: str | None = None) -> None:
        """Compile a file for one thread; with calibration feeds NNCF makes it int8 (kind: ``transformer``, or None)."""
        feeds = None if calibration is None else [self.keep(f"{name}-{i}", f) for i, f in enumerate(calibration)]
        self.version = self._ask(do="load", name=name, model=str(model), calibration=feeds, kind=kind)

    def keep(self, name: str, feeds: Feeds) -> str:
        """Put feeds where the process finds them; return the place."""
        path = Path(self._folder.name) / f"{name}.npz"
        np.savez(path, **dict(feeds))  # type: ignore[arg-type]
        return str(path)

    def run(self, name: str, feeds: str, times: int) -> Nanoseconds:
        """Time so many calls, as the process itself sees them."""
        return int(self._ask(do="run", name=name, feeds=feeds, times=times))

    def outputs(self, name: str, feeds: str) -> Sequence[Array]:
        """Run a model once."""
        path = Path(self._folder.name) / "outputs.npz"
        self._ask(do="outputs", name=name, feeds=feeds, into=str(path))
        with np.load(path) as loaded:
            return [loaded[key] for key in loaded.files]

    def _ask(self, **request: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if not (answer := self._process.stdout.readline()):
            raise SystemExit(f"OpenVINO stopped:\n{(Path(self._folder.name) / 'log').read_text()[-2000:]}")
        return json.loads(answer)


def _environment() -> Path:
    """Install OpenVINO and NNCF, the first time."""
    if not (ENVIRONMENT / "complete").exists():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([ENVIRONMENT / "bin" / "pip", "install", "--quiet", *PACKAGES], check=True, env=_apart())
        (ENVIRONMENT / "complete").touch()
    return ENVIRONMENT


def _apart() -> dict[str, str]:
    """Return what the process sees of the environment: no path to packages of this one."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

"""When a model fails: ORT dies or refuses it, puts out NaN, differs from itself, or a command of the user's says so.

Each returns a symptom, None if there is none; a part of a model fails as the whole does if the symptom is the same.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dlc.errors import ModelError, UserError
from dlc.harness.memory import peak_rss
from dlc.recipe import suggest
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.tolerance import distance, reassociation
from dlc.types import Feeds, Outputs

Predicate = Callable[[Path, Feeds], str | None]
"""What a model file does when it is fed: the symptom, or None."""

OPTIMIZED, PLAIN = SessionConfig(), SessionConfig(graph_optimization="none")
STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : (\w+)(?:.* while running (\w+) node)?")
CANNOT_RUN = (126, 127)
"""What a shell exits with for a command that it may not run, or cannot find (POSIX, 2.8.2)."""


def crashes(path: Path, feeds: Feeds) -> str | None:
    """ONNX Runtime does not load the model, does not run it, or dies; in a process of its own.

    The symptom is the status that it ends with, and the operator if it came so far; the whole message names nodes and
    shapes, and may be another for each part.
    """
    try:
        peak_rss(path, OPTIMIZED, feeds, runs=1)
    except ModelError as error:
        found = STATUS.search(str(error))
        return " in ".join(filter(None, found.groups())) if found else str(error).rpartition(": ")[2]
    return None


def puts_out_nan(path: Path, feeds: Feeds) -> str | None:
    """An output holds NaN, and no input does."""
    got = None if _holds_nan(feeds) else _run(path, OPTIMIZED, feeds)
    return "NaN" if got is not None and _holds_nan(got) else None


def differs(path: Path, feeds: Feeds) -> str | None:
    """Outputs with ONNX Runtime's optimisations are not those without, by more than two orders of a sum may differ."""
    one, other = _run(path, PLAIN, feeds), _run(path, OPTIMIZED, feeds)
    if one is None or other is None:
        return None
    return "differs" if distance(other, one)[0] > reassociation(ir.load(path)) else None


@dataclass(frozen=True, slots=True)
class Command:
    """A shell command that exits with 0 while the model ``{model}`` fails, as C-Reduce has it.

    ``{inputs}``: an .npz file, with an array for each input. A run longer than ``timeout`` seconds is no failure.
    """

    text: str
    timeout: float

    def __call__(self, path: Path, feeds: Feeds) -> str | None:
        """Run it; UserError if the shell cannot."""
        inputs = path.with_suffix(".npz")
        np.savez(inputs, **feeds)  # type: ignore[arg-type]  # its second parameter is a bool
        line = self.text.replace("{model}", shlex.quote(str(path))).replace("{inputs}", shlex.quote(str(inputs)))
        with subprocess.Popen(  # noqa: S602 - the user's own command
            line, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        ) as child:
            try:
                said = child.communicate(timeout=self.timeout)[1].decode(errors="replace").strip()
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end(child)
        if child.returncode in CANNOT_RUN:
            raise UserError(f"--fails {self.text!r} cannot be run: {said.splitlines()[-1] if said else 'not found'}")
        return "exit 0" if child.returncode == 0 else None


BUILT_IN: dict[str, Predicate] = {"crashes": crashes, "differs": differs, "nan": puts_out_nan}


def predicate(text: str, timeout: float) -> Predicate:
    """Return what ``--fails`` names; UserError for a command that does not say where the model goes."""
    if (known := BUILT_IN.get(text)) is not None:
        return known
    if "{model}" not in text:
        raise UserError(
            f"--fails {text!r} is none of {', '.join(BUILT_IN)}, nor a command with {{model}} in it"
            f"{suggest(text, BUILT_IN)}"
        )
    return Command(text, timeout)


def _run(path: Path, config: SessionConfig, feeds: Feeds) -> Outputs | None:
    try:
        with OrtCpuRunner(path, config) as runner:
            return runner.run(feeds)
    except ModelError:
        return None


def _holds_nan(arrays: Feeds | Outputs) -> bool:
    return any(a.dtype.kind == "f" and bool(np.isnan(a).any()) for a in arrays.values())


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a command that still runs, with whatever it started."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()  # leaving the block does not, after Ctrl-C

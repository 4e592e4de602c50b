"""Programs outside Python: where they are, what to install where they are not, and what they answer."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from dlc.errors import CapabilityError
from dlc.packaging.form import Answer, Proof, judge

SECONDS = 600
"""After so long a program hangs: the slowest check that is known takes a tenth of it."""
HUNG = 124
"""Exit code of a program that was ended, as timeout(1) has it."""
INSTALL = {
    "node": "apt-get install nodejs, or https://nodejs.org",
    "npm": "apt-get install npm, or https://nodejs.org",
    "chromium": "apt-get install chromium",
    "gcc": "apt-get install gcc",
    "cmake": "apt-get install cmake make",
}


def find(tool: str, *others: str) -> str:
    """Return the path of a program, or of the first that does as well; CapabilityError says what to install."""
    for name in (tool, *others):
        if (path := shutil.which(name)) is not None:
            return path
    raise CapabilityError(
        f"{tool} is not installed, and this needs it: {INSTALL[tool]}; or leave the check to the target with --no-check"
    )


def run(
    command: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; one that hangs is ended, and then has failed and answered nothing."""
    words = [str(each) for each in command]
    try:
        return subprocess.run(  # noqa: S603 - the package's own program, in the runtime it is for
            words, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False,
            timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, HUNG, "", f"did not end within {SECONDS} s")


def prove(
    subject: str, variant: str, command: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None
) -> Proof:
    """Run a package's own program and judge what it answers about a variant."""
    return judge_run(subject, variant, run(command, cwd, env))


def judge_run(subject: str, variant: str, child: subprocess.CompletedProcess[str]) -> Proof:
    """Judge a run; one without an answer, or with one that its exit code contradicts, is a bad proof."""
    try:
        answer = msgspec.json.decode(child.stdout.strip().rpartition("\n")[2], type=Answer)
    except msgspec.DecodeError:
        return Proof(subject, ok=False, detail=f"does not run: {last_words(child)}")
    proof = judge(subject, variant, answer)
    if proof.ok and child.returncode:
        return replace(proof, ok=False, detail=f"answers, and then fails: {last_words(child)}")
    return proof


def last_words(child: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a program wrote to standard error, or how it ended."""
    lines = child.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit {child.returncode}"

"""Every command that the docs show is run, in one folder, in the order of the pages below."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("compile", "verify", "bench", "inspect", "doctor", "zoo", "target", "debug")


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.mark.parametrize("command", [c for page in PAGES for c in commands(page)])
def test_documented_command_runs(command: str, folder: Path) -> None:
    program, *arguments = shlex.split(command)
    assert program == "dlc"
    child = subprocess.run(
        [sys.executable, "-m", "dlc", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    verdicts = (0, 1, 5) if "compile" in arguments else (0,)  # what a noisy machine makes of latency is not the point
    assert child.returncode in verdicts, child.stdout + child.stderr
    assert child.stdout.strip()


def test_every_verb_has_a_page() -> None:
    from dlc.cli import VERBS

    assert {page for page in VERBS if commands(page)} == set(VERBS)


@pytest.mark.parametrize(("page", "said"), [("compile", "VerdictRecord"), ("passes", "True ['Abs']")])
def test_python_example_runs(page: str, said: str, folder: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    child = subprocess.run(
        [sys.executable, "-c", code.replace('"build"', '"build-api"')],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert said in child.stdout


def test_the_broken_pass_is_found_as_the_page_says(tmp_path: Path) -> None:
    page = (DOCS / "debug.md").read_text()
    [code], [stated] = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "text"))
    (tmp_path / "clip.py").write_text(code)
    [command] = re.findall(r"`dlc (debug bisect .*? clip:\w+)`", page)
    child = subprocess.run(
        [sys.executable, "-m", "dlc", *command.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert child.returncode == 4, child.stderr
    assert without_fractions(child.stdout) == without_fractions(stated)


def without_fractions(text: str) -> str:
    """Leave out what another machine may round otherwise."""
    return re.sub(r"\d+\.\d+(e-?\d+)?", "…", text)

"""The composite action: its steps, run by bash as a runner would, with a dlc that exits as told."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="needs PyYAML to read action.yml")
ACTION = Path(__file__).parent.parent / "action.yml"
STAND_IN = """#!/bin/sh
printf '%s\\n' "$*" > called
mkdir -p dlc-gate && echo '### verdict' > dlc-gate/summary.md
exit {code}
"""


def step(name: str) -> dict[str, Any]:
    action = yaml.safe_load(ACTION.read_text())
    [found] = [s for s in action["runs"]["steps"] if s["name"] == name]
    return dict(found)


def defaults() -> dict[str, str]:
    """The variables of the step, as a job that states no input has them."""
    action = yaml.safe_load(ACTION.read_text())
    names = {k: v.removeprefix("${{ inputs.").removesuffix(" }}") for k, v in step("Gate")["env"].items()}
    return {variable: action["inputs"][name].get("default", "") for variable, name in names.items()}


def run(folder: Path, code: int, **inputs: str) -> subprocess.CompletedProcess[str]:
    tool = folder / "bin" / "dlc"
    tool.parent.mkdir()
    tool.write_text(STAND_IN.format(code=code))
    tool.chmod(0o755)
    given = defaults() | {"ARTIFACT": "build/a b"} | inputs
    environment = {
        **given, "PATH": f"{tool.parent}:{os.environ['PATH']}", "GITHUB_OUTPUT": "output",
        "GITHUB_STEP_SUMMARY": "page",
    }  # fmt: skip
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step("Gate")["run"]], cwd=folder, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def test_every_variable_comes_from_a_declared_input() -> None:
    action = yaml.safe_load(ACTION.read_text())
    for each in action["runs"]["steps"]:
        for value in each["env"].values():
            declared = value.removeprefix("${{ inputs.").removesuffix(" }}") in action["inputs"]
            assert declared or value == "${{ github.action_path }}"


@pytest.mark.parametrize(("asked", "installed"), [("", "/a b/dlc[cpu]"), ("dlc[cpu]==1.0", "dlc[cpu]==1.0")])
def test_the_action_installs_its_own_version_unless_told_otherwise(tmp_path: Path, asked: str, installed: str) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "INSTALL": asked, "ACTION": "/a b/dlc"}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step("Install dlc")["run"]], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["-m", "pip", "install", "--quiet", installed]
    assert step("Install dlc")["if"] == "inputs.install != 'no'"


def test_options_reach_the_command_whole(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        0,
        BASELINE="b 1.json",
        RECIPE="r.py",
        CONFIG="c d.toml",
        VARIANTS="int8",
        RECORD="h.jsonl",
        BISECT="true",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "called").read_text() == (
        "gate build/a b --junit dlc-gate/junit.xml --summary dlc-gate/summary.md --baseline b 1.json --recipe r.py "
        "--config c d.toml --variants int8 --record h.jsonl --bisect\n"
    )
    assert (tmp_path / "page").read_text() == "### verdict\n"
    assert "code=0" in (tmp_path / "output").read_text()


@pytest.mark.parametrize(
    ("code", "inconclusive", "ends"), [(0, "fail", 0), (1, "pass", 1), (5, "fail", 5), (5, "pass", 0), (2, "pass", 2)]
)
def test_the_verdict_is_the_job_s(tmp_path: Path, code: int, inconclusive: str, ends: int) -> None:
    done = run(tmp_path, code, INCONCLUSIVE=inconclusive)
    assert done.returncode == ends
    assert f"code={code}" in (tmp_path / "output").read_text()


def test_what_is_not_stated_is_not_passed_on(tmp_path: Path) -> None:
    assert run(tmp_path, 0).returncode == 0
    assert (tmp_path / "called").read_text() == (
        "gate build/a b --junit dlc-gate/junit.xml --summary dlc-gate/summary.md\n"
    )


@pytest.mark.parametrize(("variable", "value"), [("BISECT", "yes"), ("INCONCLUSIVE", "warn")])
def test_a_word_that_means_nothing_ends_the_job(tmp_path: Path, variable: str, value: str) -> None:
    done = run(tmp_path, 0, **{variable: value})
    assert done.returncode == 2
    assert f"::error::{variable.lower()} is " in done.stdout
    assert f"not '{value}'" in done.stdout
    assert not (tmp_path / "called").exists()
    assert "code=2" in (tmp_path / "output").read_text()


def test_every_option_of_the_command_is_an_input(cli_help: str) -> None:
    """But those that print, that write the baseline, and that say at which size and with which seed."""
    of_the_command = {w for w in cli_help.split() if w.startswith("--") and w[2:].isalpha()}
    elsewhere = {"--format", "--verbose", "--debug", "--help", "--dim", "--seed", "--update"}
    stated = {word.rstrip(')"') for word in step("Gate")["run"].replace("(", " ").split() if word.startswith("--")}
    assert of_the_command - elsewhere == stated


def test_every_option_is_one_of_the_command_s(cli_help: str) -> None:
    for word in step("Gate")["run"].replace("(", " ").split():
        if word.startswith("--"):
            assert word.rstrip(')"') in cli_help


def test_the_documented_jobs_use_what_there_is(cli_help: str) -> None:
    page = (ACTION.parent / "docs" / "gate.md").read_text()
    github, gitlab = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    given = next(each["with"] for each in github if "artifact" in each.get("with", {}))
    assert given.keys() <= yaml.safe_load(ACTION.read_text())["inputs"].keys()
    [command] = [line for line in gitlab["gate"]["script"] if line.startswith("dlc gate ")]
    options = [word for word in command.split() if word.startswith("--")]
    assert "--bisect" in options
    assert all(option in cli_help for option in options)


@pytest.fixture
def cli_help() -> str:
    from click.testing import CliRunner

    from dlc.cli.gate import command

    return CliRunner().invoke(command, ["--help"]).output

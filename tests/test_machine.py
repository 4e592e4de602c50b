"""What is recorded of a machine, and what is not."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from dlc import machine
from dlc.manifest import TargetRecord
from dlc.target import detect


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC  7R13 \n\nmodel name\t: another\n", "AMD EPYC 7R13"),
        ("CPU part\t: 0xd08\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n", "Raspberry Pi 4 Model B Rev 1.4"),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "CPU implementer 0x41, CPU part 0xd0c"),
        ("processor\t: 0\n", ""),
    ],
    ids=["x86", "board", "server", "nothing"],
)  # fmt: skip
def test_the_processor_by_its_name(text: str, name: str, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert machine.cpu(cpuinfo) == name


def test_without_cpuinfo_the_system_is_asked(tmp_path: Path) -> None:
    assert isinstance(machine.cpu(tmp_path / "none"), str)


def test_this_machine_is_recorded_and_its_name_is_not() -> None:
    found = detect()
    assert found.cores >= 1
    assert found.system.startswith(platform.system())
    assert platform.node() not in (found.cpu, found.system)
    assert "-" not in found.system  # of the release nothing but numbers


def test_the_machine_is_no_part_of_the_key_of_costs() -> None:
    """A kernel's cost is kept by what decides which kernel runs; costs of a profiled device come with its file."""
    found = detect()
    assert not found.cpu or found.cpu not in found.fingerprint


@pytest.mark.parametrize(
    ("cpu", "cores", "system", "words"),
    [
        ("EPYC", 2, "Linux 6.1", "EPYC, 2 cores, Linux 6.1"),
        ("EPYC", 1, "", "EPYC, 1 core"),
        ("", 0, "Linux 6.1", "Linux 6.1"),
        ("", 0, "", ""),
    ],
)
def test_a_machine_in_words(cpu: str, cores: int, system: str, words: str) -> None:
    record = TargetRecord(
        provider="cpu", arch="x86_64", isa=(), threads=1, runtime="onnxruntime 1.32.0", opset=20, ir_version=10,
        cpu=cpu, cores=cores, system=system,
    )  # fmt: skip
    assert record.machine == words

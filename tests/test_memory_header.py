from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from dlc.memory_header import header, identifier
from dlc.memory_plan import MemoryPlan
from dlc.passes.offsets import Buffer
from dlc.passes.plan_memory import Plan

PLAN = Plan(
    arena=192, lower_bound=192, buffers=(Buffer('a "b"\\?/é*/', 128, 0, 2), Buffer("c", 64, 1, 3)),
    offsets={'a "b"\\?/é*/': 0, "c": 128}, order=("n0", "n1", "n2"), dims={}, solver="", shapes={"x */": (1, 2)},
)  # fmt: skip
PROGRAM = """
#include <stdio.h>
#include "memory.h"
int main(void) {
    printf("%zu %zu %d %d\\n", NET_1_ARENA_BYTES, NET_1_ALIGNMENT, NET_1_BUFFERS, NET_1_STEPS);
    for (int i = 0; i < NET_1_BUFFERS; i++)
        printf("%s|%zu %zu %u %u\\n", net_1_buffers[i].name, net_1_buffers[i].offset, net_1_buffers[i].size,
               net_1_buffers[i].first, net_1_buffers[i].last);
    return 0;
}
"""


def test_a_compiler_reads_what_the_plan_says(tmp_path: Path) -> None:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    (tmp_path / "memory.h").write_text(header(MemoryPlan.of(PLAN, "0" * 64), "Net-1"), encoding="ascii")
    (tmp_path / "main.c").write_text(PROGRAM)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run([compiler, *strict, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout.decode().splitlines()
    assert printed == ["192 64 2 3", 'a "b"\\?/é*/|0 128 0 2', "c|128 64 1 3"]


def test_a_plan_without_buffers_is_valid(tmp_path: Path) -> None:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    plan = msgspec.structs.replace(MemoryPlan.of(PLAN, "0" * 64), buffers=())
    (tmp_path / "memory.h").write_text(header(plan, "Net-1"), encoding="ascii")
    (tmp_path / "main.c").write_text(PROGRAM)
    subprocess.run([compiler, "-std=c99", "main.c", "-o", "main"], cwd=tmp_path, check=True)


@pytest.mark.parametrize(("name", "word"), [("Net-1", "net_1"), ("7b", "plan_7b"), ("", "plan_"), ("é", "plan_")])
def test_names_become_identifiers(name: str, word: str) -> None:
    assert identifier(name) == word

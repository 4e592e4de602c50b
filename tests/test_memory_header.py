from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
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


def printed(plan: MemoryPlan, folder: Path, *flags: str) -> list[str]:
    """Compile a program against the header of a plan, and return what it reads there."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    (folder / "memory.h").write_text(header(plan, "Net-1"), encoding="ascii")
    (folder / "main.c").write_text(PROGRAM)
    subprocess.run([compiler, "-std=c99", *flags, "main.c", "-o", "main"], cwd=folder, check=True)
    return subprocess.run([folder / "main"], capture_output=True, check=True).stdout.decode().splitlines()


def test_a_compiler_reads_what_the_plan_says(tmp_path: Path) -> None:
    strict = ("-Wall", "-Wextra", "-Werror", "-pedantic")
    found = printed(MemoryPlan.of(PLAN, "0" * 64), tmp_path, *strict)
    assert found == ["192 64 2 3", 'a "b"\\?/é*/|0 128 0 2', "c|128 64 1 3"]


def test_a_plan_without_buffers_lists_none(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(MemoryPlan.of(PLAN, "0" * 64), buffers=(), arena_bytes=0)
    assert printed(plan, tmp_path) == ["0 64 0 3"]


def test_each_choice_of_sizes_has_a_table(tmp_path: Path) -> None:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    small = replace(PLAN, dims={"batch": 1, "n-s": 2}, arena=128, buffers=PLAN.buffers[:1])
    (tmp_path / "memory.h").write_text(header(MemoryPlan.of(PLAN, "0" * 64, others=[small]), "net"), encoding="ascii")
    (tmp_path / "main.c").write_text("""
        #include "memory.h"
        _Static_assert(NET_ARENA_BYTES == 192 && NET_BUFFERS == 2, "the largest");
        _Static_assert(NET_BATCH_1_N_S_2_ARENA_BYTES == 128 && NET_BATCH_1_N_S_2_BUFFERS == 1, "the other");
        const net_buffer *of(int large) { return large ? net_buffers : net_batch_1_n_s_2_buffers; }
    """)
    command = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-c", "main.c"]
    subprocess.run(command, cwd=tmp_path, check=True)


@pytest.mark.parametrize(("name", "word"), [("Net-1", "net_1"), ("7b", "plan_7b"), ("", "plan_"), ("é", "plan_")])
def test_names_become_identifiers(name: str, word: str) -> None:
    assert identifier(name) == word

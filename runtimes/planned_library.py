"""The library that serves allocations at planned offsets: built once with the system's compiler, then loaded.

Its source comes with the package; the binary lies in the user's cache under a hash of the source, the compiler and
its options. Where there is no compiler, or the system is not POSIX, CapabilityError says so.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import operator
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from dlc.allocations import Event, Planned
from dlc.cache import cache_folder
from dlc.errors import CapabilityError, DataError

SOURCE = Path(__file__).with_name("planned_allocator.c")
OPTIONS = ("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread")
POSIX = os.name == "posix"
COMPILERS = ("cc", "gcc", "clang")
ESCAPES = 2**64 - 1
"""The offset that the library reads as: outlives the run."""
TRACING, SMALLER = 1, 2
"""How a run begins: its events are kept; its shapes are no larger than those of the plan."""
TIMEOUT = 120
"""Seconds that a compiler may take."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the runs under a plan.

    ``runs`` ended in a slab, ``fallbacks`` without one; ``served`` allocations lay at their offsets, ``misses`` came
    from malloc though they had one or were not foreseen; ``stranded`` runs ended with ranges of the slab in use.
    """

    runs: int = 0
    fallbacks: int = 0
    served: int = 0
    misses: int = 0
    stranded: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(operator.add, astuple(self), astuple(other)))


Handle = ctypes.c_void_p
"""Of a plan that the library holds."""


class _Entry(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint64), ("offset", ctypes.c_uint64))


class _Event(ctypes.Structure):
    _fields_ = (("buffer", ctypes.c_uint64), ("size", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple((f.name, ctypes.c_uint64) for f in fields(Counts))


class Library:
    """The loaded library; ONNX Runtime loads it again by its ``path``, which is the same one."""

    def __init__(self, path: Path):
        self.path = path
        # no call blocks, so none gives up the interpreter's lock, which costs more than the call
        self._dll = ctypes.PyDLL(str(path))
        self._dll.dlc_plan_create.restype = ctypes.c_void_p
        self._dll.dlc_plan_create.argtypes = (
            ctypes.POINTER(_Entry), ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p,
        )  # fmt: skip
        self._dll.dlc_entries_hold.restype = ctypes.c_bool
        self._dll.dlc_entries_hold.argtypes = (ctypes.POINTER(_Entry), ctypes.c_size_t, ctypes.c_uint64)
        self._dll.dlc_plan_destroy.argtypes = (ctypes.c_void_p,)
        self._dll.dlc_plan_counts.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Counts))
        self._dll.dlc_run_events.restype = ctypes.c_size_t
        self._dll.dlc_run_events.argtypes = (ctypes.POINTER(_Event), ctypes.c_size_t)
        # on the way of every run: without declared types, handles and small integers pass as they are, in half the time
        self.begin = self._dll.dlc_run_begin
        self.end = self._dll.dlc_run_end
        self.end.restype = None

    @contextmanager
    def traced(self, events: list[Event]) -> Iterator[None]:
        """Append to ``events`` what this thread allocates and frees meanwhile, by sessions that use the allocator."""
        if self.begin(None, TRACING) < 0:
            raise MemoryError
        try:
            yield
            n = self._dll.dlc_run_events(None, 0)
            found = (_Event * n)()
            self._dll.dlc_run_events(found, n)
            events.extend(Event(e.buffer, e.size) for e in found)
        finally:
            self.end()

    def create(self, plan: Planned, slabs: int, host: Handle | None = None) -> Handle:
        """Return a handle for runs under a plan, at most so many in slabs at a time; DataError if it does not hold.

        ``host``: of a plan with an arena no smaller, whose slabs are shared.
        """
        entries = (_Entry * len(plan.allocations))()
        for entry, allocation in zip(entries, plan.allocations, strict=True):
            entry.size = allocation.size
            entry.offset = ESCAPES if allocation.offset is None else allocation.offset
        if not self._dll.dlc_entries_hold(entries, len(entries), plan.arena):
            raise DataError("an allocation of the plan leaves its arena, or is not aligned in it; plan the model again")
        if not (handle := self._dll.dlc_plan_create(entries, len(entries), plan.arena, slabs, host)):
            raise MemoryError
        return Handle(handle)

    def counts(self, handle: Handle) -> Counts:
        """Return the counts of the runs that have ended."""
        counts = _Counts()
        self._dll.dlc_plan_counts(handle, counts)
        return Counts(*(getattr(counts, f.name) for f in fields(Counts)))

    def destroy(self, handle: Handle) -> None:
        """Give a handle back."""
        self._dll.dlc_plan_destroy(handle)


@functools.cache
def library() -> Library:
    """Return the library, built if need be; CapabilityError says what is missing."""
    if not POSIX:
        raise CapabilityError(f"planned allocation needs a POSIX system, not {os.name}")
    path = build(compiler())
    try:
        return Library(path)
    except OSError as error:
        raise CapabilityError(f"{path} cannot be loaded: {error}; delete it, and it is built again") from error


def compiler() -> tuple[str, ...]:
    """Return the command of the C compiler: ``$CC``, else the first that is installed."""
    if named := shlex.split(os.environ.get("CC", "")):
        return tuple(named)
    if found := next(filter(None, map(shutil.which, COMPILERS)), None):
        return (found,)
    raise CapabilityError("planned allocation needs a C compiler: apt-get install gcc, or set CC")


def build(command: Sequence[str]) -> Path:
    """Return the library as this compiler builds it, from the cache if it did before."""
    version = _run([*command, "--version"])
    identity = "\0".join((SOURCE.read_text("utf-8"), *command, *OPTIONS, version, platform.machine(), sys.platform))
    path = cache_folder() / f"planned-allocator-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.so"
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as scratch:
            built = Path(scratch) / path.name
            _run([*command, *OPTIONS, str(SOURCE), "-o", str(built)])
            built.replace(path)  # whoever builds at the same time puts the same there
    except OSError as error:
        raise CapabilityError(f"planned allocation cannot be built in {path.parent}: {error.strerror}") from error
    return path


def _run(command: Sequence[str]) -> str:
    try:
        child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CapabilityError(f"the C compiler {command[0]} cannot be run: {error}; set CC to another") from error
    if child.returncode:
        reason = next(iter(child.stderr.strip().splitlines()), f"exit {child.returncode}")
        raise CapabilityError(f"the C compiler {command[0]} fails: {reason}; set CC to another")
    return child.stdout

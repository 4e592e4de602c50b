"""Measured costs: whether a rewrite makes the whole model faster here, remembered per target.

Both graphs run interleaved on the target with the session's threads. The answer is kept in an SQLite file under a key
of target, runtime version, both graphs' text (weights enter by shape, not by value) and the sizes of dynamic dims, so
a second compile measures nothing and decides the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import platformdirs

from dlc.harness.measure import latency
from dlc.harness.statistics import ratio_of_medians
from dlc.interface import Interface, sizes_of
from dlc.lookup import load
from dlc.manifest import Estimate
from dlc.runtimes import RUNTIMES
from dlc.runtimes.session import SessionConfig
from dlc.target import Target, detect
from dlc.types import Feeds

ROUNDS = 120
NOISE = 0.02
"""A rewrite that leaves fewer nodes stays unless it is slower than this, beyond its interval."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Measures on one target, at one set of feeds; ``cache`` None remembers nothing."""

    target: Target
    config: SessionConfig
    feeds: Feeds
    seed: int = 0
    cache: Path | None = None

    def ratio(self, before: ir.Model, after: ir.Model) -> Estimate:
        """Latency of ``after`` as a share of ``before``, with its 95 % interval."""
        key = self._key(before, after)
        if (known := self._read(key)) is not None:
            return known
        rng = np.random.default_rng(self.seed)
        runner = load(RUNTIMES[self.target.provider])
        with runner(before, self.config) as old, runner(after, self.config) as new:
            samples = latency({"before": old, "after": new}, self.feeds, rounds=ROUNDS, rng=rng)
        measured = ratio_of_medians(samples["after"], samples["before"], rng=rng)
        self._write(key, measured)
        return measured

    def run(self, model: ir.Model) -> None:
        """Run a model once; ModelError if it cannot be loaded or run."""
        with load(RUNTIMES[self.target.provider])(model, self.config) as runner:
            runner.run(self.feeds)

    def _key(self, before: ir.Model, after: ir.Model) -> str:
        here = detect(self.target.provider, self.target.threads)  # measured here, whatever the target is
        seen = hashlib.sha256(here.fingerprint.encode() + msgspec.json.encode(self.config))
        for model in (before, after):
            seen.update("\n".join(canonical_text(model)).encode())
        seen.update(str(sorted(sizes_of(Interface.of(before), self.feeds).items())).encode())
        return seen.hexdigest()

    def _read(self, key: str) -> Estimate | None:
        rows = self._query("SELECT ratio FROM costs WHERE key = ?", key)
        return msgspec.json.decode(rows[0][0], type=Estimate) if rows else None

    def _write(self, key: str, ratio: Estimate) -> None:
        self._query("INSERT OR REPLACE INTO costs VALUES (?, ?)", key, msgspec.json.encode(ratio))

    def _query(self, sql: str, *values: str | bytes) -> list[tuple[bytes]]:
        """Run one statement; a cache that cannot be used is said once, and costs are measured anew."""
        if self.cache is None:
            return []
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(str(self.cache), timeout=30)) as db, db:
                db.execute("CREATE TABLE IF NOT EXISTS costs (key TEXT PRIMARY KEY, ratio BLOB NOT NULL)")
                return db.execute(sql, values).fetchall()
        except (OSError, sqlite3.Error) as error:
            _say_once(f"the cost cache {self.cache} cannot be used, so costs are measured anew: {error}")
            return []


def decide(ratio: Estimate, *, fewer_nodes: bool) -> tuple[bool, str]:
    """Keep a rewrite that is faster, or that is simpler and not slower; say which."""
    if ratio.high < 1:
        return True, "faster"
    if ratio.low > (1 + NOISE if fewer_nodes else 1):
        return False, "slower on this target"
    return (True, "no slower, and fewer nodes") if fewer_nodes else (False, "no faster: the simpler graph stays")


def canonical_text(model: ir.Model) -> Iterator[str]:
    """Yield a graph's lines with values numbered in order, so that names do not matter; weights by dtype and shape."""
    numbers: dict[ir.Value, int] = {}

    def number(value: ir.Value | None) -> str:
        return "" if value is None else f"%{numbers.setdefault(value, len(numbers))}"

    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        yield f"{number(value)} {value.dtype} {value.shape} {_shape_like(value.const_value)}"
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        attributes = sorted(
            f"{a.name}={a.value}" for a in node.attributes.values() if a.type is not ir.AttributeType.GRAPH
        )
        inputs, outputs = ",".join(map(number, node.inputs)), ",".join(map(number, node.outputs))
        yield f"{outputs} = {node.domain}.{node.op_type}({inputs}) {attributes}"
    yield f"return {','.join(map(number, model.graph.outputs))} {sorted(model.opset_imports.items())}"


def default_cache() -> Path:
    """Return the user's cost cache: in ``$DLC_CACHE_DIR``, else in the platform's cache folder."""
    named = os.environ.get("DLC_CACHE_DIR")
    return (Path(named) if named else platformdirs.user_cache_path("dlc")) / "costs.sqlite"


@cache
def _say_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)


def _shape_like(tensor: ir.TensorProtocol | None) -> str:
    """Return the elements of a small integer tensor: it is an operand of shape arithmetic, not a weight."""
    if tensor is None or tensor.dtype is not ir.DataType.INT64 or tensor.size > 64:
        return ""
    return str(tensor.numpy().tolist())


def _attribute(attribute: ir.Attr) -> str:
    if isinstance(attribute.value, ir.TensorProtocol):
        return f"{attribute.name}={attribute.value.dtype}{attribute.value.shape}"
    return f"{attribute.name}=" if attribute.type is ir.AttributeType.GRAPH else f"{attribute.name}={attribute.value}"

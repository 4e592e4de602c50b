"""Measured costs, remembered: an SQLite file, or what a target file carries."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import msgspec

from dlc.cache import cache_folder
from dlc.manifest import Estimate, Record


class Cost(Record, frozen=True, kw_only=True):
    """Fastest times of two graphs run in turns, without the cost of a call, and ``after`` as a share of ``before``."""

    before_ns: float
    after_ns: float
    ratio: Estimate

    @property
    def saved_ns(self) -> float:
        """What ``after`` saves a run."""
        return self.before_ns - self.after_ns


@dataclass(slots=True)
class CostTable:
    """Costs by key. ``file`` None: nothing is kept for the next time.

    ``carried``: what a target file brought along, None without one. ``seen``: what was read or written through this.
    """

    file: Path | None = None
    carried: Mapping[str, Cost] | None = None
    seen: dict[str, Cost] = field(default_factory=dict)

    def read(self, key: str) -> Cost | None:
        """Return a known cost."""
        found = self.seen.get(key) or (self.carried or {}).get(key)
        if found is None and (rows := self._query("SELECT cost FROM measured WHERE key = ?", key)):
            found = msgspec.json.decode(rows[0][0], type=Cost)
        if found is not None:
            self.seen[key] = found
        return found

    def write(self, key: str, fingerprint: str, cost: Cost) -> None:
        """Remember a cost of the target with this fingerprint."""
        self.seen[key] = cost
        encoded = msgspec.json.encode(cost)
        self._query("INSERT OR REPLACE INTO measured VALUES (?, ?, ?)", key, fingerprint, encoded)

    def everything(self, fingerprint: str) -> dict[str, Cost]:
        """Return all costs known of a target, in the order of their keys."""
        rows = self._query("SELECT key, cost FROM measured WHERE fingerprint = ? ORDER BY key", fingerprint)
        stored = {str(key): msgspec.json.decode(cost, type=Cost) for key, cost in rows}
        return dict(sorted({**(self.carried or {}), **stored, **self.seen}.items()))

    def _query(self, sql: str, *values: str | bytes) -> list[tuple[bytes, ...]]:
        """Run one statement; a cache that cannot be used is said once, and costs are measured anew."""
        if self.file is None:
            return []
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(str(self.file), timeout=30)) as db, db:
                db.execute(
                    "CREATE TABLE IF NOT EXISTS measured (key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, "
                    "cost BLOB NOT NULL)"
                )
                return db.execute(sql, values).fetchall()
        except (OSError, sqlite3.Error) as error:
            _say_once(f"the cost cache {self.file} cannot be used, so costs are measured anew: {error}")
            return []


def default_cache() -> Path:
    """Return the user's cost cache."""
    return cache_folder() / "costs.sqlite"


@cache
def _say_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)

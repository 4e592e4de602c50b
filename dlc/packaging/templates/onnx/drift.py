"""Compares two files of statistics: ``python drift.py BEFORE AFTER``; exit code 1 if a tensor moved.

Per tensor: the population stability index, sum((a - b) ln(a / b)) over the shares a, b of the bins, half a count added
to each; and the Kolmogorov-Smirnov distance, the largest difference of the two distributions at an edge.
"""

import json
import sys
from pathlib import Path

import numpy as np

MOVED = 0.2
"""The index from which a distribution counts as another one (Siddiqi, Credit Risk Scorecards, 2006)."""


def read(path: str) -> dict:
    """Return the tensors of a file by role and name."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if content.get("schema") != "dlc-statistics/1":
        raise SystemExit(f"{path} holds no statistics: DLC_STATISTICS={path} makes them")
    return {f"{t['role']} {t['name']}": t for t in content["tensors"]}


def compare(before: dict, after: dict) -> dict:
    """Return both measures of one tensor."""
    a, b = (np.asarray(t["histogram"], np.float64) for t in (before, after))
    used = (a + b) > 0
    p, q = ((c[used] + 0.5) / (c[used] + 0.5).sum() for c in (a, b))
    distance = np.abs(np.cumsum(a) / max(a.sum(), 1) - np.cumsum(b) / max(b.sum(), 1)).max()
    return {"psi": float(((p - q) * np.log(p / q)).sum()), "ks": float(distance)}


if __name__ == "__main__":
    before, after = map(read, sys.argv[1:3])
    found = {name: compare(before[name], after[name]) for name in before if name in after}
    print(json.dumps(found, indent=1))
    sys.exit(any(each["psi"] > MOVED for each in found.values()))

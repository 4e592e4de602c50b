"""How far what was observed has moved: ``python drift.py [BEFORE] OBSERVED``.

BEFORE is what the model was calibrated on, ``statistics.json`` beside this program, or another file of DLC_STATISTICS.
Prints JSON, with the numbers that ``dlc data check`` gives. Exit code 1 if a value moved beyond the limits that BEFORE
states, 2 if the two do not compare.
"""

import json
import sys
from pathlib import Path

import numpy as np
from distances import ks, outside, psi

CALIBRATION = Path(__file__).resolve().parent / "statistics.json"
SCHEMA = "dlc-statistics/1"


class IncomparableError(Exception):
    """Two files do not compare, or one is none; says why."""


def read(path: Path) -> dict:
    """Read a file of statistics."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        way_out = ": this package has none, give another file as BEFORE" if path == CALIBRATION else ""
        raise IncomparableError(f"{path}: {error.strerror}{way_out}") from error
    except ValueError as error:
        raise IncomparableError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise IncomparableError(f"{path} is not of schema {SCHEMA}: DLC_STATISTICS names where such a file goes")
    if not content.get("values"):
        raise IncomparableError(f"{path} holds no run")
    return content


def compare(before: dict, after: dict) -> dict:
    """Return the limits, and how far each value moved that both have."""
    if before.get("model", after["model"]) != after["model"]:
        raise IncomparableError(f"one file is of the model {before['model']!r}, the other of {after['model']!r}")
    both = [name for name in before["values"] if name in after["values"]]
    if not both:
        raise IncomparableError("the two have no value in common")
    rows = [moved(name, before["values"][name], after["values"][name], before) for name in both]
    limits = {"psi": before["psi"], "ks": before["ks"]}
    return {"against": before["data"], "examples": after["examples"], **limits, "moved": rows}


def moved(name: str, before: dict, after: dict, limits: dict) -> dict:
    """Compare one value."""
    if before["edges"] != after["edges"]:
        raise IncomparableError(f"{name!r} is counted in other bins: the two are not of one package")
    old, new = (np.array(each["counts"]) for each in (before, after))
    far = {"psi": psi(old, new), "ks": ks(old, new), "outside": outside(new)}
    drifted = far["psi"] > limits["psi"] or far["ks"] > limits["ks"]
    return {"value": name, "kind": before["kind"], **far, "drifted": drifted}


def main(paths: list) -> int:
    """Compare two files, the first of which may be left out; return the exit code."""
    if len(paths) not in (1, 2):
        raise IncomparableError(str(__doc__).partition("\n")[0])
    before, after = map(read, [CALIBRATION, *map(Path, paths)][-2:])
    try:
        found = compare(before, after)
    except (KeyError, TypeError, ValueError) as error:
        raise IncomparableError(f"one of {', '.join(paths)} is damaged: {error!r}") from error
    print(json.dumps(found, indent=1))
    return int(any(each["drifted"] for each in found["moved"]))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except IncomparableError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

"""Statistics of what goes in and comes out, for drift checks. Off unless ``DLC_STATISTICS`` names a file.

The file is of the schema of ``statistics.json``, which has what the model was calibrated on: of each value how many of
its elements lie in which bin, over all runs. Bins are those of calibration; of a value that was not calibrated they are
``EDGES``, which are the same for every model. No element is in it, nor an extreme.
"""

import atexit
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from distances import KS, PSI, count

HERE = Path(__file__).resolve().parent
CALIBRATION = HERE / "statistics.json"
POSITIVE = 2.0 ** np.arange(-20, 20.5, 0.5)
EDGES = np.concatenate([-POSITIVE[::-1], [0.0], POSITIVE])
"""Half-powers of two on both sides of zero."""
NUMBERS = "fiub"
"""Kinds of numpy's dtypes that are counted: texts are not."""
EVERY = 1000
"""Runs between two writes; the last one is at exit."""


def observer(session: ort.InferenceSession, variant: str) -> Callable:
    """Return what is called with the feeds and outputs of every run."""
    path = os.environ.get("DLC_STATISTICS")
    return Log(session, variant, Path(path)).add if path else nothing


def nothing(_feeds: dict, _outputs: dict) -> None:
    """Observe nothing."""


class Log:
    """Counts over runs, of any thread, and the file that they go to."""

    def __init__(self, session: ort.InferenceSession, variant: str, path: Path) -> None:
        if path.resolve() == CALIBRATION:
            raise ValueError(f"DLC_STATISTICS={path} holds what the model was calibrated on: name another file")
        known = json.loads(CALIBRATION.read_text()) if CALIBRATION.exists() else {"psi": PSI, "ks": KS, "values": {}}
        model = json.loads((HERE / "dlc-package.json").read_text())["model"]
        self.head = {"schema": "dlc-statistics/1", "model": model, "data": "observed", "variant": variant,
                     "psi": known["psi"], "ks": known["ks"]}  # fmt: skip
        self.path, self.calibrated, self.batch = path, known["values"], batched(session)
        self.runs = self.examples = 0
        self.values, self.lock = {}, threading.Lock()
        self.write()  # a file that cannot be written shows now, not at the end
        atexit.register(self.write)

    def add(self, feeds: dict, outputs: dict) -> None:
        """Add one run."""
        with self.lock:
            for name, given in {**outputs, **feeds}.items():
                array = np.asarray(given)
                if array.size and array.dtype.kind in NUMBERS:
                    self.counts(name, "input" if name in feeds else "output").add(array)
            self.runs += 1
            self.examples += len(feeds[self.batch]) if self.batch else 1
            if self.runs % EVERY == 0:
                self.write()

    def counts(self, name: str, kind: str) -> "Counts":
        """Return the counts of a value."""
        if name not in self.values:
            edges = self.calibrated[name]["edges"] if name in self.calibrated else EDGES.tolist()
            self.values[name] = Counts(kind, edges)
        return self.values[name]

    def write(self) -> None:
        """Replace the file, whole."""
        values = {name: counts.result() for name, counts in self.values.items()}
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        scratch.write_text(json.dumps({**self.head, "examples": self.examples, "values": values}), encoding="utf-8")
        scratch.replace(self.path)


class Counts:
    """How many elements of one value lie in which bin."""

    def __init__(self, kind: str, edges: list) -> None:
        self.kind, self.edges, self.non_finite = kind, edges, 0
        self.total = np.zeros(len(edges) + 1, np.int64)

    def add(self, array: np.ndarray) -> None:
        """Count the elements of one array; infinities and NaNs are outside all bins, and counted apart, too."""
        self.total += count(self.edges, array)
        self.non_finite += int(array.size - np.isfinite(array).sum())

    def result(self) -> dict:
        """Return what is written."""
        return {"kind": self.kind, "edges": self.edges, "counts": self.total.tolist(), "non_finite": self.non_finite}


def batched(session: ort.InferenceSession) -> str | None:
    """Return the input whose axis 0 counts examples: the first where it is dynamic, else the first that has one."""
    axes = {each.name: each.shape[0] for each in session.get_inputs() if each.shape}
    return next((name for name, size in axes.items() if not isinstance(size, int)), next(iter(axes), None))

from __future__ import annotations

import shutil

import numpy as np
import onnx_ir as ir
import pytest

from dlc.allocations import Event, peak
from dlc.runtimes.planned import trace
from dlc.runtimes.planned_library import COMPILERS
from dlc.types import Feeds

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler is installed")

CHAIN = """
<ir_version: 10, opset_import: ["" : 20]>
chain (float[n] x) => (float[n] y) {
    a = Sin(x)
    b = Add(a, x)
    c = Add(a, b)
    y = Add(c, x)
}
"""


@pytest.fixture
def chain() -> ir.Model:
    return ir.from_onnx_text(CHAIN)


def feeds(n: int) -> Feeds:
    return {"x": np.random.default_rng(n).standard_normal(n).astype(np.float32)}


def test_events_of_a_run_in_order(chain: ir.Model) -> None:
    """Add does not work in place; y is the output, so it is not freed within the run."""
    a, b, c, y = (Event(i, 4000) for i in range(4))
    freed = [Event(i, 0) for i in range(3)]
    events = trace(chain, feeds(1000))
    assert events == (a, b, c, freed[0], freed[1], y, freed[2])
    assert peak(events) == 3 * 4000


def test_a_trace_is_the_same_again(chain: ir.Model) -> None:
    assert trace(chain, feeds(1000)) == trace(chain, feeds(1000))

"""The order of gates: torch has i, f, g, o for an LSTM and r, z, n for a GRU; ONNX has i, o, f, c and z, r, h.

Both exporters leave the reordering to the graph, Slice by Slice into a Concat. Folded, the weights are no larger than
before, are constants of the node that reads them, and a precision pass can find them.
"""

from __future__ import annotations

import onnx_ir as ir

RECURRENT = ("GRU", "LSTM", "RNN")
MOVES = ("Concat", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""What exporters order gates with; none repeats an element."""


def orders_gates(node: ir.Node) -> bool:
    """Whether a node moves elements, and they go to recurrent nodes alone, by way of other such moves at most."""
    if node.op_type not in MOVES or node.domain != "" or any(v.is_graph_output() for v in node.outputs):
        return False
    readers = {use.node for v in node.outputs for use in v.uses()}
    return bool(readers) and all(r.op_type in RECURRENT or orders_gates(r) for r in readers)

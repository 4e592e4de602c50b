"""Causal attention whose queries share keys and values, in every form that dlc writes, one thread.

    python -m benchmarks.shared_heads [--rounds 60] [--lengths 8 128 1024]

A layer of the size of SmolLM2-135M: 9 heads of queries, 3 of keys and values, 64 wide, with its four projections and
without rotary embedding, of a fixed batch and length, as dynamo exports it. Latency is interleaved; the base is the
export.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from dlc import pipeline
from dlc.export import export
from dlc.harness.measure import interleaved
from dlc.passes.base import clone
from dlc.passes.fuse_attention import FuseAttention
from dlc.recipe import Input, Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig
from dlc.target import detect

HEADS, GROUPS, SIZE = 9, 3, 64
WIDTH = HEADS * SIZE
SEED = 0
FORMS = {
    "Attention": FuseAttention(pack=False),
    "GroupQueryAttention": FuseAttention(max_opset=22, pack=False, grouped=True),
}


class Layer(torch.nn.Module):
    """Projections and attention, with keys and values repeated as transformers does, and a mask that is a weight."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.mask = torch.nn.Buffer(torch.full((length, length), -torch.inf).triu(1))
        self.q, self.o = (torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.k, self.v = (torch.nn.Linear(WIDTH, GROUPS * SIZE, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        q, k, v = (each(x).unflatten(-1, (-1, SIZE)).transpose(1, 2) for each in (self.q, self.k, self.v))
        n, _, s, _ = k.shape
        k, v = (t[:, :, None].expand(n, GROUPS, HEADS // GROUPS, s, SIZE).reshape(n, HEADS, s, SIZE) for t in (k, v))
        y = scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return torch.as_tensor(self.o(y.transpose(1, 2).flatten(2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60, help="timed runs of each form at length 128; others in share")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 128, 1024])
    given = parser.parse_args()
    print(f"{detect().runtime}\n\n| sequence | as exported, ms | {' | '.join(FORMS)} |\n|---|---|{'---|' * len(FORMS)}")
    for length in given.lengths:
        compare(length, max(5, given.rounds * 128 // max(length, 32)))


def compare(length: int, rounds: int) -> None:
    """Print the row of one sequence length."""
    torch.manual_seed(SEED)
    target, recipe = detect(), Recipe(
        name="layer", source=lambda: Layer(length).eval(), inputs={"x": Input("float32", (1, length, WIDTH))},
        outputs=("y",),
    )  # fmt: skip
    models = {"exported": export(recipe, opset=20, ir_version=target.ir_version, seed=SEED).model}
    for name, form in FORMS.items():
        models[name] = clone(models["exported"])
        [record] = pipeline.run(models[name], [form])
        assert record.modified, [s.reason for s in record.sites]
    rng = np.random.default_rng(SEED)
    feeds = {"x": rng.standard_normal((1, length, WIDTH)).astype(np.float32)}
    with ExitStack() as stack:
        config = SessionConfig(intra_op_threads=1)
        runners = {name: stack.enter_context(OrtCpuRunner(model, config)) for name, model in models.items()}
        calls = {name: partial(runner.infer, feeds) for name, runner in runners.items()}
        samples = interleaved(calls, rounds=rounds, max_seconds=60.0, rng=rng, pin=False)
    base = float(np.median(samples["exported"]))
    cells = [f"{np.median(samples[name]) / base:.2f}x" for name in FORMS]
    print(f"| {length} | {base / 1e6:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

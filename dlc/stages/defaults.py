"""The rewrites that are tried by default, in order."""

from __future__ import annotations

from collections.abc import Sequence

from dlc.passes.cancel_transposes import CancelTransposes
from dlc.passes.convolve_linear import ConvolveLinear
from dlc.passes.drop_softmax_guard import DropSoftmaxGuard
from dlc.passes.fold_batch_norm import FoldBatchNorm
from dlc.passes.fold_input_scale import FoldInputScale
from dlc.passes.fold_pad import FoldPad
from dlc.passes.fold_scale_bias import FoldScaleBias
from dlc.passes.fuse_attention import FuseAttention
from dlc.passes.fuse_conv_residual import FuseConvResidual
from dlc.passes.fuse_gelu import FuseGelu
from dlc.passes.fuse_gemm import FuseGemm
from dlc.passes.fuse_group_norm import FuseGroupNorm
from dlc.passes.fuse_hard_swish import FuseHardSwish
from dlc.passes.fuse_instance_norm import FuseInstanceNorm
from dlc.passes.fuse_integer_matmul import FuseIntegerMatMul
from dlc.passes.fuse_layer_norm import FuseLayerNorm
from dlc.passes.fuse_rms_norm import FuseRmsNorm
from dlc.passes.fuse_rotary import FuseRotary
from dlc.passes.fuse_silu import FuseSilu
from dlc.passes.fuse_weighted_sum import FuseWeightedSum
from dlc.passes.merge_products import MergeProducts
from dlc.passes.merge_terms import MergeTerms
from dlc.passes.move_qdq import MoveQdq
from dlc.passes.pool_mean import PoolMean
from dlc.passes.rewrite import Rewrite
from dlc.passes.share_dynamic_quantize import ShareDynamicQuantize
from dlc.passes.slice_table import SliceTable
from dlc.passes.split_bias import SplitBias
from dlc.passes.split_residual import SplitResidual
from dlc.passes.unpack_integer_products import UnpackIntegerProducts
from dlc.passes.unroll_grid import UnrollGrid
from dlc.passes.untile_statistics import UntileStatistics
from dlc.recipe import Invariant
from dlc.target import Target


def rewrites(
    target: Target, own: Sequence[Rewrite] = (), invariants: tuple[Invariant, ...] = ()
) -> tuple[Rewrite, ...]:
    """Return those of a graph as it came, ours and a recipe's ``own``; it may come quantized, whole or in part.

    The recipe's come first, so that they see the graph as it was exported; one of ours with other options stands where
    it does by default.
    """
    given = {each.name: each for each in own}
    ours = [given.pop(each.name, each) for each in _ours(target.opset, invariants)]
    return (*given.values(), *ours)


def _ours(opset: int, invariants: tuple[Invariant, ...]) -> tuple[Rewrite, ...]:
    """Return ours.

    Those that fold a factor come after those that look for it, means are pooled when no norm has a use for them, and
    what changes the form of products comes last.
    """
    return (
        UntileStatistics(), FuseInstanceNorm(), FuseGroupNorm(),
        FoldBatchNorm(), FoldPad(), CancelTransposes(),
        SliceTable(), MergeTerms(),
        FuseLayerNorm(), SplitResidual(), FuseRmsNorm(max_opset=min(opset, FuseRmsNorm.max_opset)),
        PoolMean(), FuseWeightedSum(), ConvolveLinear(), SplitBias(),
        FuseGelu(), FuseSilu(), FuseHardSwish(), UnrollGrid(),
        FuseRotary(max_opset=min(opset, FuseRotary.max_opset)),
        FuseAttention(max_opset=min(opset, FuseAttention.max_opset), invariants=invariants),
        DropSoftmaxGuard(invariants=invariants),
        FoldScaleBias(), FoldInputScale(), FuseConvResidual(), MergeProducts(), FuseGemm(),
        *quantized_rewrites(),
    )  # fmt: skip


def quantized_rewrites() -> tuple[Rewrite, ...]:
    """Return those of a graph that was quantized; products are split before they may take their quantization inside."""
    return ShareDynamicQuantize(), UnpackIntegerProducts(), FuseIntegerMatMul(), MoveQdq()

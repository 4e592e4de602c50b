"""Graph to graph, one transformation a file. Nothing is imported until it is chosen."""

PASSES = {
    "canonicalize": "dlc.passes.canonicalize:Canonicalize",
    "cast-fp16": "dlc.passes.cast_fp16:CastFp16",
    "emulate-bf16": "dlc.passes.emulate_bf16:EmulateBf16",
    "fold-batch-norm": "dlc.passes.fold_batch_norm:FoldBatchNorm",
    "fuse-attention": "dlc.passes.fuse_attention:FuseAttention",
    "fuse-gelu": "dlc.passes.fuse_gelu:FuseGelu",
    "fuse-layer-norm": "dlc.passes.fuse_layer_norm:FuseLayerNorm",
    "split-residual": "dlc.passes.split_residual:SplitResidual",
    "unroll-grid": "dlc.passes.unroll_grid:UnrollGrid",
    "quantize-dynamic": "dlc.passes.quantize_dynamic:QuantizeDynamic",
    "quantize-static": "dlc.passes.quantize_static:QuantizeStatic",
    "quantize-weights": "dlc.passes.quantize_weights:QuantizeWeights",
}

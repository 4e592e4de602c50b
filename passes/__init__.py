"""Graph to graph, one transformation a file. Nothing is imported until it is chosen."""

PASSES = {
    "cancel-transposes": "dlc.passes.cancel_transposes:CancelTransposes",
    "canonicalize": "dlc.passes.canonicalize:Canonicalize",
    "cast-fp16": "dlc.passes.cast_fp16:CastFp16",
    "convolve-gemm": "dlc.passes.convolve_gemm:ConvolveGemm",
    "drop-softmax-guard": "dlc.passes.drop_softmax_guard:DropSoftmaxGuard",
    "emulate-bf16": "dlc.passes.emulate_bf16:EmulateBf16",
    "fold-batch-norm": "dlc.passes.fold_batch_norm:FoldBatchNorm",
    "fold-input-scale": "dlc.passes.fold_input_scale:FoldInputScale",
    "fold-pad": "dlc.passes.fold_pad:FoldPad",
    "fold-scale-bias": "dlc.passes.fold_scale_bias:FoldScaleBias",
    "fuse-attention": "dlc.passes.fuse_attention:FuseAttention",
    "fuse-gelu": "dlc.passes.fuse_gelu:FuseGelu",
    "fuse-layer-norm": "dlc.passes.fuse_layer_norm:FuseLayerNorm",
    "split-residual": "dlc.passes.split_residual:SplitResidual",
    "unroll-grid": "dlc.passes.unroll_grid:UnrollGrid",
    "pool-mean": "dlc.passes.pool_mean:PoolMean",
    "quantize-dynamic": "dlc.passes.quantize_dynamic:QuantizeDynamic",
    "quantize-static": "dlc.passes.quantize_static:QuantizeStatic",
    "quantize-weights": "dlc.passes.quantize_weights:QuantizeWeights",
}

"""The only place that touches a device: one runner a file. Nothing is imported until it is chosen."""

RUNTIMES = {
    "cpu": "dlc.runtimes.ort_cpu:OrtCpuRunner",
    "cuda": "dlc.runtimes.ort_cuda:OrtCudaRunner",
    "eager": "dlc.runtimes.eager:EagerRunner",
    "reference": "dlc.runtimes.reference:ReferenceRunner",
}

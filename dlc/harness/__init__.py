"""Measure, then judge: accuracy, latency, memory and size of each variant against the FP32 reference."""

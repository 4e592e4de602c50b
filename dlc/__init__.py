"""dlc: a deep-learning compiler for ONNX Runtime."""

__version__ = "0.1.0"

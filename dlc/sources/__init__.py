"""What a user may hand to dlc: recipe files, PyTorch modules, ``.pt2`` and ``.onnx`` files. ``dlc.export`` leads in."""

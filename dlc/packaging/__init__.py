"""Compiled models for the place where they run: one form a file, each with the proof that it does the same there."""

FORMS = {
    "onnx": "dlc.packaging.onnx_form:OnnxForm",
    "ort": "dlc.packaging.ort_form:OrtForm",
    "web": "dlc.packaging.web_form:WebForm",
    "node": "dlc.packaging.node_form:NodeForm",
    "c": "dlc.packaging.c_form:CForm",
    "triton": "dlc.packaging.triton_form:TritonForm",
}
"""Form to its class; a ``bundle`` is a zip of any of them."""

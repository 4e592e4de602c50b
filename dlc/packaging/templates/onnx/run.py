"""The model on plain ONNX Runtime: ``from run import Model; Model().run({"name": array})``."""

from pathlib import Path

import onnxruntime as ort
from observe import observer
from session import first_that_fits, measured_with

HERE = Path(__file__).resolve().parent


def open_variant(link: dict) -> ort.InferenceSession:
    """Open the variant of a link of ``chain.json``, with the options it was measured with."""
    files = HERE / link["folder"]
    return ort.InferenceSession(files / "model.onnx", providers=[link["provider"]], **measured_with(files))


class Model:
    """One session, of the first variant in the chain that this machine can run, or of the one that is named."""

    def __init__(self, variant: str | None = None) -> None:
        self.link, self.session = first_that_fits(HERE / "chain.json", variant, open_variant)
        self.files = HERE / self.link["folder"]
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.observe = observer(self.session, self.link["variant"])

    def run(self, feeds: dict) -> dict:
        """Return the outputs by name."""
        outputs = dict(zip(self.outputs, self.session.run(None, feeds), strict=True))
        self.observe(feeds, outputs)
        return outputs

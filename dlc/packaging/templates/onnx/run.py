"""The model on plain ONNX Runtime: ``from run import Model; Model().run({"name": array})``."""

import json
from pathlib import Path

import onnxruntime as ort
from machine import first
from observe import observer

HERE = Path(__file__).resolve().parent
LEVELS = {"none": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}


class Model:
    """One session, of the first variant in ``chain.json`` that this machine can run, or of the one that is named."""

    def __init__(self, folder: Path = HERE, variant: str | None = None) -> None:
        self.folder = folder
        chain = [link for link in json.loads((folder / "chain.json").read_text()) if variant in (None, link["variant"])]
        self.link, self.session = first(chain, ort.get_available_providers(), self.open)
        self.files = folder / self.link["folder"]
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.observe = observer(self.link["variant"])

    def open(self, link: dict) -> ort.InferenceSession:
        """Open a variant with the options it was measured with."""
        config, options = json.loads((self.folder / link["folder"] / "session.json").read_text()), ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = config["intra_op_threads"], 1
        level = f"ORT_{LEVELS[config['graph_optimization']]}"
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        for key, value in config["entries"].items():
            options.add_session_config_entry(key, value)
        return ort.InferenceSession(
            str(self.folder / link["folder"] / "model.onnx"), options, providers=[link["provider"]],
            disabled_optimizers=config["disabled_optimizers"] or None,
        )  # fmt: skip

    def run(self, feeds: dict) -> dict:
        """Return the outputs by name."""
        outputs = dict(zip(self.outputs, self.session.run(None, feeds), strict=True))
        self.observe(feeds, outputs)
        return outputs

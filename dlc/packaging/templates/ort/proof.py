"""Replays the golden vectors: ``python proof.py`` prints one JSON object.

Exit code 1 if an answer differs, 3 if this machine cannot run the variant.
``--operators`` profiles one run instead, and prints the operators that ran.
"""

import json
import sys
import tempfile
from pathlib import Path

import onnxruntime as ort
from machine import check
from replay import golden, main

HERE = Path(__file__).resolve().parent


class Model:
    """``model.ort`` in a session; it was optimised before it was written, so nothing is optimised here."""

    def __init__(self, profile: str | None = None) -> None:
        config = json.loads((HERE / "session.json").read_text())
        self.files, self.link = HERE, config
        check(config, ort.get_available_providers())
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = config["intra_op_threads"], 1
        for key, value in config["entries"].items():
            options.add_session_config_entry(key, value)
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile
        self.session = ort.InferenceSession(str(HERE / "model.ort"), options, providers=[config["provider"]])
        self.outputs = [each.name for each in self.session.get_outputs()]

    def run(self, feeds: dict) -> dict:
        """Return the outputs by name."""
        return dict(zip(self.outputs, self.session.run(None, feeds), strict=True))


def operators() -> list:
    """Return the types of the operators that ran on the golden vectors."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Model(str(Path(scratch) / "profile"))
        for feeds, _ in golden(HERE)[1]:
            model.run(feeds)
        events = json.loads(Path(model.session.end_profiling()).read_text())
    return sorted({e["args"]["op_name"] for e in events if e["cat"] == "Node" and e["name"].endswith("_kernel_time")})


if __name__ == "__main__":
    if "--operators" in sys.argv[1:]:
        print(json.dumps(operators()))
    else:
        main(Model)

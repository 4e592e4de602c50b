"""Which variant is opened, and with which options."""

import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
from machine import UnfitError, check

LEVELS = {"none": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}


def measured_with(files: Path) -> dict:
    """Return the arguments of a session that a variant was measured with, as its ``session.json`` has them."""
    config, options = json.loads((files / "session.json").read_text()), ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = config["intra_op_threads"], 1
    level = f"ORT_{LEVELS[config['graph_optimization']]}"
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    for key, value in config["entries"].items():
        options.add_session_config_entry(key, value)
    return {"sess_options": options, "disabled_optimizers": config["disabled_optimizers"] or None}


def first_that_fits(chain: Path, variant: str | None, open_variant: Callable) -> tuple:
    """Return the first link of a chain that this machine can run, and its session; UnfitError says what each one lacks.

    ``variant``: that one alone.
    """
    lacking = []
    for link in json.loads(chain.read_text()):
        if variant not in (None, link["variant"]):
            continue
        try:
            check(link, ort.get_available_providers())
            session = open_variant(link)
            check(link, session.get_providers())  # one without a device is left out of a session, without an error
        except UnfitError as error:
            lacking.append(str(error))
        else:
            return link, session
    raise UnfitError(f"no variant of this package fits this machine: {'; '.join(lacking) or 'none has that name'}")

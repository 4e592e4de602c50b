"""Models in ORT format: optimised once, as a session does it, and written for runtimes that cannot optimise."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlc.errors import CapabilityError
from dlc.runtimes.ort import import_onnxruntime
from dlc.runtimes.ort_canonical import canonicalise
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.runtimes.session import SessionConfig

ERRORS_ONLY = 3


class _Writer(OrtCpuRunner):
    """Writes the graph that the session runs."""

    def __init__(self, model: Path, config: SessionConfig, path: Path) -> None:
        super().__init__(model, config)
        self._path = path

    def configure(self, options: Any) -> None:
        options.log_severity_level = ERRORS_ONLY  # it warns of layouts, which required_operators shows
        options.optimized_model_filepath = str(self._path)
        options.add_session_config_entry("session.save_model_format", "ORT")


def save_ort(model: Path, config: SessionConfig, path: Path) -> None:
    """Write the graph that a session with these options runs, the same bytes each time.

    ModelError if ONNX Runtime refuses the model; CapabilityError if the package's tools are missing.
    """
    with _Writer(model, config, path), _tools():
        canonicalise(path)


def required_operators(path: Path) -> str:
    """Return what a runtime needs for a model in ORT format, as ONNX Runtime's own build reads it.

    Lines of ``domain;version;operator{types},…``. CapabilityError if the package's tools are missing.
    """
    with _tools():
        from onnxruntime.tools.ort_format_model import create_config_from_models
    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="dlc-") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # their processor leaves the model file to the collector
        config = Path(scratch) / "config"
        create_config_from_models([path], config, True)  # noqa: FBT003 - their signature
        lines = config.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


def listed_operators(path: Path) -> set[str]:
    """Return the operator types that such a file lists, as the parser of ONNX Runtime's build reads it.

    Without domains and versions: a profile has neither. CapabilityError if the package's tools are missing.
    """
    with _tools():
        from onnxruntime.tools.reduced_build_config_parser import parse_config
    operators, _ = parse_config(str(path), True)  # noqa: FBT003 - their signature
    return {name for opsets in operators.values() for names in opsets.values() for name in names}


@contextlib.contextmanager
def _tools() -> Iterator[None]:
    """Explain that the tools of onnxruntime are missing, which the package comes with, and they need flatbuffers."""
    import_onnxruntime()
    try:
        yield
    except ImportError as error:
        raise CapabilityError(f"the tools of onnxruntime do not load ({error}): pip install 'dlc[cpu]'") from error

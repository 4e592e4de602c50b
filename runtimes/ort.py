"""ONNX Runtime sessions, whatever the provider."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from dlc.errors import CapabilityError, ModelError
from dlc.interface import Interface, TensorType
from dlc.runtimes.base import Runner
from dlc.runtimes.session import INLINE_LIMIT, SessionConfig
from dlc.types import Feeds, Outputs


class OrtRunner(Runner):
    """Runs a model file, or a model in memory, in one session. Subclasses name the provider.

    ``title``: what errors call the model, if not by its file or its graph.
    """

    provider: ClassVar[str]

    def __init__(
        self, model: ir.Model | Path, config: SessionConfig | None = None, *, profile: bool = False, title: str = ""
    ):
        self.model = model
        self.config = config or SessionConfig()
        self.profile = profile
        self.title = title
        self._session: Any = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def open(self) -> None:
        """Create the session; CapabilityError without the package or provider, ModelError if ORT refuses the model."""
        ort = import_onnxruntime()
        self.check_provider(ort)
        if self.profile or _too_large(self.model):
            self._scratch = tempfile.TemporaryDirectory(prefix="dlc-")
        options = session_options(ort, self.config)
        try:
            self.configure(options)
        except CapabilityError:
            self.close()
            raise
        if self.profile and self._scratch:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._scratch.name) / "profile")
        try:
            self._session = ort.InferenceSession(
                self._source(), options, providers=self.providers(),
                disabled_optimizers=list(self.config.disabled_optimizers) or None,
            )  # fmt: skip
        except Exception as error:
            self.close()
            raise ModelError(
                f"ONNX Runtime {ort.__version__} cannot load {self._name()}: {_first_line(error)}"
            ) from error
        if isinstance(self.model, ir.Model):
            self.interface = Interface.of(self.model)
        else:
            self.interface = _interface_of(self._session)
        self._outputs = [t.name for t in self.interface.outputs]
        try:
            self.check_session()
        except CapabilityError:
            self.close()
            raise

    def close(self) -> None:
        """Release the session and its files."""
        self._session = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def infer(self, feeds: Feeds) -> Outputs:
        """Run once."""
        try:
            return dict(zip(self._outputs, self._session.run(None, dict(feeds)), strict=True))
        except Exception as error:
            raise ModelError(f"{self._name()} failed while running: {_first_line(error)}") from error

    def providers(self) -> list[Any]:
        """Providers asked of the session, in order."""
        return [self.provider]

    def configure(self, options: Any) -> None:
        """Set session options that the provider needs."""

    @classmethod
    def check_provider(cls, ort: Any) -> None:
        """Raise CapabilityError if the provider cannot be used here."""

    @classmethod
    def check_available(cls) -> None:
        """Raise CapabilityError if this runtime cannot be used here."""
        cls.check_provider(import_onnxruntime())

    def check_session(self) -> None:
        """Raise CapabilityError if the session is not on the provider that was asked for."""

    def placements(self, feeds: Feeds) -> Mapping[str, str]:
        """Return the provider that each node of the optimised graph really ran on; needs ``profile=True``."""
        self.infer(feeds)
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        nodes = (e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"))
        return {e["name"].removesuffix("_kernel_time"): e["args"]["provider"] for e in nodes}

    def _source(self) -> str | bytes:
        if isinstance(self.model, Path):
            return str(self.model)
        if self._scratch is None or not _too_large(self.model):
            return bytes(ir.serde.serialize_model(self.model).SerializeToString())
        path = Path(self._scratch.name) / "model.onnx"
        ir.save(self.model, path, external_data="model.onnx.data")
        return str(path)

    def _name(self) -> str:
        if self.title:
            return self.title
        return str(self.model) if isinstance(self.model, Path) else f"graph {self.model.graph.name!r}"


def import_onnxruntime() -> Any:
    """Import onnxruntime, or raise CapabilityError with the command that installs it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise CapabilityError("onnxruntime is not installed: pip install 'dlc[cpu]'") from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def runtime_version() -> str:
    """Return the version of the ONNX Runtime that is installed."""
    return str(import_onnxruntime().__version__)


def session_options(ort: Any, config: SessionConfig) -> Any:
    """Translate a configuration to ``onnxruntime.SessionOptions``."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.intra_op_threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = {
        "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }[config.graph_optimization]
    if config.execution_order == "priority":
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_reuse = config.mem_reuse
    options.enable_mem_pattern = config.mem_pattern
    options.enable_cpu_mem_arena = config.arena
    for key, value in config.entries.items():
        options.add_session_config_entry(key, value)
    return options


def _interface_of(session: Any) -> Interface:
    def tensor(node: Any) -> TensorType:
        name = node.type.removeprefix("tensor(").removesuffix(")")
        dtype = {"float": "float32", "double": "float64"}.get(name, name)
        return TensorType(node.name, dtype, tuple(node.shape))

    return Interface(tuple(map(tensor, session.get_inputs())), tuple(map(tensor, session.get_outputs())))


def _too_large(model: ir.Model | Path) -> bool:
    if isinstance(model, Path):
        return False
    sizes = (v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    return sum(sizes) > INLINE_LIMIT


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

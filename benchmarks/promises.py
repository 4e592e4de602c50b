"""The numbers that dlc promises, one row each: ``python benchmarks/promises.py`` (needs the zoo extra and $DLC_DATA).

Every figure is measured by the commands a user would type, in folders that vanish; nothing is cached between runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Row:
    """One promise: what, the bar, what was measured, and whether it holds."""

    what: str
    bar: str
    measured: str
    holds: bool


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="dlc-numbers-") as scratch:
        for row in measure(Path(scratch)):
            rows.append(row)
            print(f"{'ok  ' if row.holds else 'MISS'} {row.what:58} {row.bar:>12}   {row.measured}", flush=True)
    sys.exit(0 if all(r.holds for r in rows) else 1)


def measure(scratch: Path) -> Iterator[Row]:
    """Compile the zoo and look at the manifests."""
    _, seconds = compiled(scratch / "a", "digits-cnn", "fp32,fp16,bf16,int8,int4")
    yield Row("digits-cnn, all variants, compile time", "< 60 s", f"{seconds:.1f} s", seconds < 60)
    _, seconds = compiled(scratch / "b", "minilm", "fp32,int8", "--no-evaluate")
    yield Row("minilm, fp32 + int8, compile time without STS-B", "< 120 s", f"{seconds:.1f} s", seconds < 120)

    record, _ = compiled(scratch / "c", "efficientnet-lite0", "fp32,int8")
    fp32, int8 = record["variants"]
    yield level("efficientnet-lite0 fp32, top-1", fp32, lambda v: round(v, 1) == 89.0, "89.0")
    yield ratio("efficientnet-lite0 int8, latency vs stock FP32", int8, 0.55)
    drop = int8["accuracy"]["drop"]
    yield Row(
        "efficientnet-lite0 int8, top-1 drop", "<= 1.0", f"{drop['value']:.1f} {interval(drop)}", drop["value"] <= 1.0
    )

    record, _ = compiled(scratch / "d", "minilm", "fp32,int8")
    fp32, int8 = record["variants"]
    yield level("minilm fp32, STS-B Spearman", fp32, lambda v: abs(v - 82.03) <= 0.05, "82.03 ± 0.05")
    yield level("minilm int8, STS-B Spearman", int8, lambda v: v >= 81.8, ">= 81.8")
    yield ratio("minilm int8, latency vs stock FP32, sequence 32", int8, 0.48)
    yield without_torch(scratch)


def level(what: str, variant: dict[str, Any], holds: Any, bar: str) -> Row:
    value = variant["accuracy"]["value"]
    return Row(what, bar, f"{value['value']:.2f} {interval(value)}", bool(holds(value["value"])))


def ratio(what: str, variant: dict[str, Any], bar: float) -> Row:
    value = variant["latency"]["ratio"]
    return Row(what, f"<= {bar}x", f"{value['value']:.3f}x {interval(value)}", value["value"] <= bar)


def interval(estimate: dict[str, float]) -> str:
    return f"[{estimate['low']:.3f}, {estimate['high']:.3f}]"


def compiled(out: Path, name: str, variants: str, *options: str) -> tuple[dict[str, Any], float]:
    """Run dlc compile with an empty cost cache; return the manifest and the seconds it took."""
    start = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-m", "dlc", "compile", name, "--variants", variants, "-o", str(out), *options],
        env={**os.environ, "DLC_CACHE_DIR": str(out / "cache")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if child.returncode not in (0, 1, 5):  # a verdict is a result; anything else is not
        raise SystemExit(child.stderr)
    seconds = time.perf_counter() - start
    return json.loads((out / name / "manifest.json").read_text()), seconds


def without_torch(scratch: Path) -> Row:
    """Install the base and the cpu extra alone, and run the verbs that must not need torch."""
    environment = scratch / "venv"
    venv.create(environment, with_pip=True)

    def run(*words: str) -> str:
        done = subprocess.run([str(environment / "bin" / words[0]), *words[1:]], capture_output=True, check=True)
        return done.stdout.decode()

    run("python", "-m", "pip", "install", "--quiet", f"{ROOT}[cpu]", "-c", str(ROOT / "constraints.txt"))
    installed = run("python", "-m", "pip", "list")
    artifact = str(scratch / "a" / "digits-cnn")
    run("dlc", "verify", artifact)
    run("dlc", "bench", artifact, "--rounds", "20")
    run("dlc", "inspect", f"{artifact}/int8/model.onnx")
    subprocess.run([str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "scikit-learn"], check=True)
    gated = subprocess.run([str(environment / "bin" / "dlc"), "gate", artifact], capture_output=True, check=False)
    if gated.returncode not in (0, 1, 5):
        raise SystemExit(gated.stderr.decode())
    absent = "torch" not in installed.split()
    return Row(
        "pip install '.[cpu]': verify, bench, gate, inspect",
        "no torch",
        "run" if absent else "torch came along",
        absent,
    )


if __name__ == "__main__":
    main()

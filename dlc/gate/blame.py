"""Which change is to blame for a gate that does not hold: by elimination over what was measured and recorded.

Three facts exclude causes. Files that are the baseline's byte for byte exclude the source, the compiler and the
quantization. A reference that holds the same gate excludes what touches all variants alike. Equal digests of the data
exclude the data. What is left, in the order of KINDS, is the suspect; with nothing left it is the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from dlc.gate.changes import Change, Kind
from dlc.gate.lines import Line
from dlc.gate.observation import Observation
from dlc.manifest import Record

KINDS: tuple[Kind, ...] = ("shape", "data", "quantization", "compiler", "source", "runtime", "machine")
"""The more particular cause first: truncated inputs are other data, too."""
IN_FILES: tuple[Kind, ...] = ("source", "compiler", "quantization")
SPEED: tuple[Kind, ...] = ("quantization", "compiler", "source", "runtime", "machine")
EXPLAINS: dict[str, tuple[Kind, ...]] = {
    "accuracy": KINDS, "slices": KINDS, "determinism": KINDS, "latency": SPEED, "throughput": SPEED, "size": IN_FILES,
    "peak": (*IN_FILES, "runtime", "machine"),
}  # fmt: skip
"""What can move a number since the baseline, by the first word of its gate."""
BESIDE: dict[str, tuple[Kind, str]] = {
    "accuracy": ("quantization", "measured beside FP32, on the same data and runtime"),
    "slices": ("quantization", "measured beside FP32, on the same data and runtime"),
    "agreement": ("quantization", "measured beside FP32, on the same data and runtime"),
    "outputs": ("quantization", "measured beside FP32, on the same data and runtime"),
    "latency": ("compiler", "measured beside FP32, in the same run"),
    "size": ("compiler", "measured beside FP32, in the same run"),
    "built": ("compiler", "the compile did not write it, whatever it measures"),
    "places": ("compiler", "counted when it was compiled, whatever it measures"),
}
"""What is to blame where no earlier number is needed, and the evidence, by the first word of the gate."""
WORDS: dict[Kind, str] = {
    "quantization": "quantization", "compiler": "compiler change", "source": "source change",
    "runtime": "runtime version", "data": "preprocessing or data drift", "shape": "serving shape or truncation",
    "machine": "machine",
}  # fmt: skip
NEXT: dict[Kind, str] = {
    "quantization": "dlc compare the fp32 and {variant} models with --layers: the first layer that diverges "
    "belongs in FP32; the variant mixed finds such layers by itself",
    "compiler": "dlc gate --bisect undoes these changes one by one; dlc debug bisect SOURCE names the pass and the "
    "site where the numbers change",
    "source": "look at its weights and its graph; if other ones are meant, accept them with --update-baseline",
    "runtime": "pin the earlier runtime: if the gate then holds, report it upstream; if not, look at the next cause",
    "data": "feed the earlier data: if the gate then holds, look at what prepares the data; if the data are meant, "
    "accept them with --update-baseline",
    "shape": "compare the lengths that are fed with those in training: a limit on length, a padding or a crop changed",
    "machine": "run it again on a quiet machine of the recorded kind; nothing else differs from the baseline",
}  # fmt: skip
NEXT_OF = {
    "built": "dlc compile SOURCE --variants {variant} builds it, or says why not; if it is meant to go, accept that "
    "with --update-baseline",
    "places": "the line says what stood in the way there; if fewer are meant, state them as expect_fusions",
}
"""In the place of the class's, by the first word of the gate."""


class Blame(Record, frozen=True, kw_only=True):
    """Why a gate does not hold: the class, the evidence, the changes that could be why, and what to do next.

    ``tried``: what became of it with each of them undone.
    """

    gate: str
    kind: Kind
    because: str
    suspects: tuple[str, ...]
    next: str
    tried: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The class, in words."""
        return WORDS[self.kind]

    def lines(self) -> list[str]:
        """Write it, the class first and what to do last."""
        return [
            f"{self.words}: {self.because}", *(f"changed: {s}" for s in self.suspects),
            *(f"undone: {t}" for t in self.tried), f"next: {self.next}",
        ]  # fmt: skip


def blame(
    line: Line, lines: Sequence[Line], now: Observation, before: Observation | None, found: Sequence[Change]
) -> Blame | None:
    """Classify a gate that fails; None for one that does not."""
    if line.status != "fail":
        return None
    if before is None or not ("baseline" in line.gate or line.gate == "determinism"):
        return _by_itself(line, now)
    mine, then = now.variant(line.variant), before.variant(line.variant)
    reference = line.variant == now.reference
    same_files = mine is not None and then is not None and mine.files == then.files
    alone = not reference and _reference_holds(line, lines, now)
    kinds = EXPLAINS[_word(line)]
    suspects = [c for c in found if c.kind in kinds and c.variant in (None, line.variant)]
    reasons = []
    if same_files:
        suspects = [c for c in suspects if c.kind not in IN_FILES]
        reasons.append("its files are the baseline's, byte for byte")
    if alone:
        reasons.append("fp32 holds the same gate")
        kept = [c for c in suspects if c.variant is not None or c.kind in ("quantization", "machine")]
        if not same_files and not kept:  # a source may quantize worse, a compiler treat one precision otherwise
            kept = [c for c in suspects if c.kind in IN_FILES]
        suspects = kept or suspects
    kind = next((k for k in KINDS if any(c.kind == k for c in suspects)), None)
    if kind is None:
        kind = "quantization" if not same_files and alone else "compiler" if not same_files else "machine"
        reasons.append("nothing that is recorded differs" if same_files else "its files differ")
    first = "the first of what changed and could explain it" if len({c.kind for c in suspects}) > 1 else ""
    return _blame(
        line, kind, "; ".join(filter(None, [*reasons, first])) or "it alone changed", [c.text for c in suspects]
    )


def revised(found: Blame, kind: Kind | None, because: str, tried: Iterable[str]) -> Blame:
    """Return it with what was tried; ``kind`` and ``because``: of what made the gate hold, None if nothing did."""
    tested = msgspec.structs.replace(found, tried=tuple(tried))
    if kind is None:
        return tested
    what = NEXT[kind].format(variant=found.gate.partition("/")[0])
    return msgspec.structs.replace(tested, kind=kind, because=because, next=what)


def _by_itself(line: Line, now: Observation) -> Blame:
    """Classify a gate against FP32, or against what the manifest states; there is no earlier run to look at."""
    here, then = now.measured_on, now.compiled_on
    if line.gate == "stated accuracy":
        if now.data is not None and now.data.sha256 != now.stated_data:
            return _blame(line, "data", "the files are those that were compiled, the data are not", [])
        if here != then:
            kind: Kind = "runtime" if here.runtime != then.runtime else "machine"
            return _blame(line, kind, "the files and the data are those of the compile", [])
        return _blame(line, "machine", "the files, the data and the runtime are those of the compile", [])
    if line.gate == "golden vectors":
        kind = "runtime" if here.runtime != then.runtime else "machine"
        return _blame(line, kind, "the files are those that were compiled", [])
    if line.gate == "outputs" and line.variant == now.reference:
        kind = "runtime" if here.runtime != then.runtime else "source"
        runs = "another runtime than the compile's runs it" if kind == "runtime" else "the compile's runtime runs it"
        return _blame(line, kind, f"nothing of the reference is quantized, and {runs}", [])
    kind, because = BESIDE[_word(line)]
    return _blame(line, kind, because, [])


def _blame(line: Line, kind: Kind, because: str, suspects: list[str]) -> Blame:
    what = NEXT_OF.get(_word(line), NEXT[kind]).format(variant=line.variant)
    return Blame(gate=line.name, kind=kind, because=because, suspects=tuple(dict.fromkeys(suspects)), next=what)


def _reference_holds(line: Line, lines: Sequence[Line], now: Observation) -> bool:
    """Whether the reference holds the same gate: what touches all variants alike then did no harm there."""
    return any(o.variant == now.reference and o.gate == line.gate and o.status == "pass" for o in lines)


def _word(line: Line) -> str:
    """Return what the tables have a gate by; one that they do not have is a bug, and a KeyError."""
    return line.gate.partition(" ")[0]

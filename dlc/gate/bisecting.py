"""Looks for the change to blame: the gate once more on rebuilt artifacts, with what the first run was given."""

from __future__ import annotations

from dataclasses import replace

from dlc.artifact import Artifact
from dlc.cost_table import default_cache
from dlc.gate.flow import Outcome, gate
from dlc.gate.rebuilding import Rebuilder
from dlc.gate.settings import Settings
from dlc.gate.undoing import undone
from dlc.progress import Progress


def bisected(outcome: Outcome, artifact: Artifact, given: Settings, progress: Progress) -> Outcome:
    """Undo one change since the baseline at a time, and blame the one whose undoing makes a failing gate hold."""

    def again(rebuilt: Artifact) -> Outcome:
        built = tuple(v.precision for v in rebuilt.built)
        wanted = tuple(v for v in built if given.how.variants is None or v in given.how.variants)
        how = replace(given.how, variants=wanted)
        return gate(rebuilt, given.recipe, given.limits, how, against=given.baseline)

    rebuilder = Rebuilder.of(artifact, given.recipe, given.spec, default_cache())
    metric = given.recipe.metric if given.recipe is not None else None
    return undone(outcome, rebuilder, again, given.limits, metric, progress)

"""Evaluation data for the zoo's recipes: found through ``$DLC_DATA``, read when it is iterated, never copied."""

from __future__ import annotations

import os
from pathlib import Path

from dlc.errors import DataError

VARIABLE = "DLC_DATA"


def data_root() -> Path | None:
    """Return the folder that ``$DLC_DATA`` names, or None where it is not set; DataError if it is not a folder."""
    if not (named := os.environ.get(VARIABLE)):
        return None
    if not (root := Path(named)).is_dir():
        raise DataError(f"${VARIABLE} is {named!r}, which is not a folder: correct it, or unset it to go without data")
    return root

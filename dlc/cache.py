"""Where dlc keeps what it need not find out twice."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the user's cache: ``$DLC_CACHE_DIR``, else in the platform's cache folder."""
    named = os.environ.get("DLC_CACHE_DIR")
    return Path(named) if named else platformdirs.user_cache_path("dlc")

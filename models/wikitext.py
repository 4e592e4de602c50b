"""WikiText-2, text of Wikipedia articles as tokens apart by spaces; here one string, tokenized again by each model."""

from __future__ import annotations

from pathlib import Path

from dlc.errors import DataError

SOURCE = "WikiText-2 (Merity et al., 2016), CC BY-SA 3.0"


def read(path: Path) -> str:
    """Read a file as it is; DataError if it cannot be."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"cannot read {path}: {reason}; $DLC_DATA/wikitext2 holds valid.txt and test.txt") from error

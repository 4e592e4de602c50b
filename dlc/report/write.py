"""Writes every report of one compile into its artifact's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dlc.errors import UserError
from dlc.manifest import Lifetime, Manifest
from dlc.report.html import render_html
from dlc.report.junit import render_junit
from dlc.report.markdown import render_markdown


def write_reports(folder: Path, manifest: Manifest, plans: Mapping[str, Sequence[Lifetime]]) -> None:
    """Write ``report.html``, ``summary.md`` and ``junit.xml``; ``plans`` holds the memory plan of each variant."""
    pages = {
        "report.html": render_html(manifest, plans),
        "summary.md": render_markdown(manifest),
        "junit.xml": render_junit(manifest),
    }
    for name, text in pages.items():
        (folder / name).write_bytes(text.encode())


def write_text(path: Path, text: str) -> None:
    """Write one report where the user asked for it; UserError if that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error

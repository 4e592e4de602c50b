"""Writes every report of one compile into its artifact's folder, and single ones where a user asked for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dlc.errors import UserError
from dlc.manifest import Lifetime, Manifest
from dlc.report.html import render_html
from dlc.report.junit import render_junit
from dlc.report.markdown import render_markdown
from dlc.whole_file import probe, write_whole


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
    """Write one report where the user asked for it, whole or not at all; UserError if that cannot be."""
    with _said(path):
        write_whole(path, text.encode())


def check_writable(path: Path) -> None:
    """UserError where ``write_text`` could not write: for before anything is measured."""
    with _said(path):
        probe(path)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error

"""The page in a real browser: it opens without a complaint, in both themes, and is no wider than a phone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dlc.report.html import render_html
from tests.report.chromium import CHROMIUM, FLAGS, needs_chromium
from tests.report.example import LABELLED, PLANS

pytestmark = needs_chromium

WIDTH_PROBE = """<!doctype html><iframe id=page src="report.html" width=400 height=2000></iframe><script>
const page = document.getElementById("page");
page.onload = () => {
  const root = page.contentDocument.documentElement;
  document.title = root.scrollWidth + " of " + root.clientWidth;
  document.body.dataset.wide = document.title;
};
</script>"""


def browse(folder: Path, name: str, *flags: str) -> tuple[str, str]:
    """Open a page; return the resulting document, and what the browser logged."""
    command = [str(CHROMIUM), *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom",
               (folder / name).as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "report.html").write_text(render_html(LABELLED, PLANS), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("theme", ["0", "1"], ids=["dark", "light"])
def test_no_console_message(folder: Path, theme: str) -> None:
    document, log = browse(folder, "report.html", f"--blink-settings=preferredColorScheme={theme}")
    assert "digits-cnn" in document
    assert "CONSOLE" not in log


def test_the_console_would_be_heard(folder: Path) -> None:
    (folder / "loud.html").write_text("<script>console.error('broken')</script>", encoding="utf-8")
    assert "CONSOLE" in browse(folder, "loud.html")[1]


def test_the_page_is_no_wider_than_a_phone(folder: Path) -> None:
    (folder / "probe.html").write_text(WIDTH_PROBE, encoding="utf-8")
    flags = ("--allow-file-access-from-files", "--virtual-time-budget=5000")
    document, _ = browse(folder, "probe.html", *flags)
    wide, _, room = document.split('data-wide="', 1)[1].split('"', 1)[0].partition(" of ")
    assert int(wide) <= int(room)

"""Opens a folder in headless Chromium, as a visitor would, and takes what the page reports."""

from __future__ import annotations

import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from dlc.packaging.form import Answer, Proof, judge
from dlc.packaging.programs import find

SECONDS = 120
"""Longer than this no page takes: the slowest that is known takes a tenth."""
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
FLAGS = (
    "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip

WARM = "/warm"
"""A page that does nothing but go on to the real one, so that the start of the browser is not in the page's times."""


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012 - theirs is so
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".gz": "application/gzip",
    }

    def __init__(self, *args: Any, site: Site, **kwargs: Any) -> None:
        self.site = site
        super().__init__(*args, directory=str(site.folder), **kwargs)

    def do_GET(self) -> None:
        if self.path.startswith(WARM):
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><script>onload = () => location.replace('./' + location.search)</script>")
        elif self.site.offline:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.site.reports.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def end_headers(self) -> None:
        for name, value in (ISOLATION if self.site.isolated else {}).items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - their name
        """Say nothing."""


class Site:
    """A folder on a server, of a package of a variant.

    ``isolated``: with the headers that threads need. ``offline``: it answers no GET.
    """

    def __init__(self, folder: Path, variant: str) -> None:
        self.folder, self.variant = folder, variant
        self.isolated = self.offline = False
        self.reports: queue.Queue[bytes] = queue.Queue()

    @contextmanager
    def served(self) -> Iterator[str]:
        """Yield the address while the folder is served."""
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, site=self)) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/"
            finally:
                server.shutdown()
                thread.join()


def find_browser() -> str:
    """Return the program; CapabilityError says what to install."""
    return find("chromium", "chromium-browser", "google-chrome")


def visit(folder: Path, variant: str) -> list[Proof]:
    """Return three proofs: one thread without isolation, several threads with it, and a visit without the server.

    The first alone, if it fails.
    CapabilityError if no Chromium is installed.
    """
    chromium = find_browser()
    site = Site(folder, variant)
    with site.served() as address, tempfile.TemporaryDirectory(prefix="dlc-", ignore_cleanup_errors=True) as profile:
        one = _open(site, chromium, profile, f"{address}{WARM[1:]}?report=1", "Chromium")
        if not one.ok:
            return [one]
        site.offline = True
        offline = _open(site, chromium, profile, f"{address}{WARM[1:]}?report=1", "Chromium, without the server")
        site.offline, site.isolated = False, True
        with tempfile.TemporaryDirectory(prefix="dlc-", ignore_cleanup_errors=True) as fresh:
            several = _open(site, chromium, fresh, f"{address}{WARM[1:]}?report=1&threads=2", "Chromium, isolated")
    return [one, several, offline]


def _open(site: Site, chromium: str, profile: str, address: str, subject: str) -> Proof:
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # it does not start as root
    command = [chromium, *FLAGS, *sandbox, f"--user-data-dir={profile}", address]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    try:
        return _proof(subject, site.variant, site.reports.get(timeout=SECONDS))
    except queue.Empty:
        ended = process.poll()
        how = f"Chromium ended with exit code {ended}" if ended is not None else f"the page said nothing in {SECONDS} s"
        return Proof(subject, ok=False, detail=how)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _proof(subject: str, variant: str, report: bytes) -> Proof:
    try:
        return judge(subject, variant, msgspec.json.decode(report, type=Answer))
    except msgspec.DecodeError:
        said = msgspec.json.decode(report, type=dict[str, Any]).get("failed", "an answer that is none")
        return Proof(subject, ok=False, detail=f"does not run: {said}")

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Hear Ctrl-C, as the programs that tests start shall: a shell's background jobs are told to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

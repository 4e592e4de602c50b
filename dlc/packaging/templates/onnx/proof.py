"""Replays the golden vectors: ``python proof.py`` prints one JSON object, exit code 1 if one differs."""

import sys

from replay import prove, report
from run import Model

if __name__ == "__main__":
    sys.exit(not report(prove(Model)))

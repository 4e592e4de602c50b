"""Replays the golden vectors: ``python proof.py [VARIANT]`` prints one JSON object.

Exit code 1 if an answer differs, 3 if this machine cannot run the variant.
"""

import sys
from functools import partial

from machine import UnfitError
from replay import prove, report
from run import Model

if __name__ == "__main__":
    try:
        result = prove(partial(Model, variant=next(iter(sys.argv[1:]), None)))
    except UnfitError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    sys.exit(not report(result))

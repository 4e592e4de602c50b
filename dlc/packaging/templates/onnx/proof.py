"""Replays the golden vectors: ``python proof.py [VARIANT]`` prints one JSON object.

Exit code 1 if an answer differs, 3 if this machine cannot run the variant.
"""

import sys
from functools import partial

from replay import main
from run import Model

if __name__ == "__main__":
    main(partial(Model, variant=next(iter(sys.argv[1:]), None)))

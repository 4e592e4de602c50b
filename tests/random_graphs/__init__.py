"""Random valid graphs that hold what rewrites look for, and what only resembles it.

To add a family: a function ``(Sketch, Tensor) -> Tensor`` in a module here, and its name in the tuple of the module, or
in ``FAMILIES`` of ``draw``. It writes one computation, picks among its spellings by ``g.pick`` and ``g.chance``, and
takes its weights from ``g.weight`` and ``g.number``, which sometimes share them, expose them as inputs or write them as
Constant nodes.
"""

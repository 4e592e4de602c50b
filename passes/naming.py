"""What rewrites are called: ``fuse-attention``, or ``attention`` for short.

The table of ``docs/rewrites.md`` is printed by ``python -m dlc.passes.naming``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from dlc.errors import RecipeError
from dlc.lookup import load
from dlc.passes import PASSES
from dlc.passes.rewrite import Rewrite
from dlc.recipe import suggest


def short(name: str) -> str:
    """Return a rewrite's name without its verb."""
    return name.partition("-")[2] or name


def matching(word: str, names: Iterable[str]) -> list[str]:
    """Return the names that a word means: the one that is equal, else those that it is short for."""
    known = list(names)
    return [n for n in known if n == word] or [n for n in known if short(n) == word]


def known(names: Iterable[str]) -> list[str]:
    """Return every word that names one of some rewrites, the short ones first."""
    return list(dict.fromkeys(word for name in names for word in (short(name), name)))


def resolve(word: str, own: Iterable[str] = ()) -> str:
    """Return the one rewrite, ours or a recipe's own, that a word means; RecipeError if there is none, or several."""
    names = [*own, *(name for name, path in PASSES.items() if issubclass(load(path), Rewrite))]
    found = list(dict.fromkeys(matching(word, names)))
    if not found:
        raise RecipeError(f"no rewrite is named {word!r}{suggest(word, known(names))}")
    if len(found) > 1:
        raise RecipeError(f"{word!r} may mean {' or '.join(map(repr, found))}: write the whole name")
    return found[0]


def table() -> str:
    """Return the table of rewrites in ``docs/rewrites.md``, from the names and what the classes say of themselves."""
    kinds = {name: kind for name, path in PASSES.items() if issubclass(kind := load(path), Rewrite)}
    rows = [f"| `{name}` | `{short(name)}` | {_first_line(kind)} |" for name, kind in sorted(kinds.items())]
    return "\n".join(["| rewrite | short | what it does |", "|---|---|---|", *rows])


def _first_line(kind: type[Rewrite]) -> str:
    return str(kind.__doc__).partition("\n")[0].replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")

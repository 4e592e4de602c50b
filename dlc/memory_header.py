"""A memory plan as a C header: for a runtime that lays out a static arena itself."""

from __future__ import annotations

import re

from dlc.memory_plan import MemoryPlan, SizesPlan

HEAD = """\
/* Memory plan of {file}, sha256 {sha}.
   Made by dlc; schema {schema}. A buffer lives at steps first <= step < last of the planned order. */
#ifndef {guard}
#define {guard}
#include <stddef.h>

#define {prefix}_ALIGNMENT ((size_t){alignment})
#define {prefix}_STEPS {steps}

typedef struct {{ const char *name; size_t offset, size; unsigned first, last; }} {lower}_buffer;
"""
TABLE = """
/* {shapes} */
#define {prefix}_ARENA_BYTES ((size_t){arena})
#define {prefix}_BUFFERS {count}
static const {type}_buffer {lower}_buffers[] = {{
{rows}}};
"""
FOOT = """
#endif /* {guard} */
"""


def header(plan: MemoryPlan, name: str = "plan") -> str:
    """Write a plan as a C99 header; every name in it begins with ``name``, made a C identifier.

    Of several sizes the largest have that name alone, the others are named after them: ``plan_batch_8_buffers``.
    """
    lower = identifier(name)
    words = {
        "file": _comment(plan.file), "sha": plan.model_sha256, "schema": plan.schema, "prefix": lower.upper(),
        "guard": f"{lower.upper()}_MEMORY_H", "lower": lower, "alignment": plan.alignment, "steps": len(plan.order),
    }  # fmt: skip
    tables = [_table(plan, lower, lower)]
    for other in plan.others:
        sizes = "_".join(f"{dim}_{size}" for dim, size in sorted(other.dims.items()))
        tables.append(_table(other, lower, identifier(f"{name}_{sizes}")))
    return HEAD.format(**words) + "".join(tables) + FOOT.format(**words)


def _table(plan: MemoryPlan | SizesPlan, kind: str, lower: str) -> str:
    rows = [f"    {{{_quoted(b.name)}, {b.offset}, {b.size}, {b.first}, {b.last}}},\n" for b in plan.buffers]
    return TABLE.format(
        shapes=_comment("; ".join(f"{n}: {list(shape)}" for n, shape in plan.shapes.items()) or "fixed shapes"),
        prefix=lower.upper(), lower=lower, type=kind, arena=plan.arena_bytes, count=len(plan.buffers),
        rows="".join(rows) or "    {0}\n",
    )  # fmt: skip


def identifier(name: str) -> str:
    """Make a C identifier of a name."""
    word = re.sub(r"[^0-9a-zA-Z]+", "_", name).strip("_").lower()
    return word if word[:1].isalpha() else f"plan_{word}"


def _quoted(text: str) -> str:
    """Write a C string: octal escapes for all but plain printable ASCII, as trigraphs and encodings are no name's."""
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode())
    return f'"{"".join(plain)}"'


def _comment(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode().replace("*/", "* /")

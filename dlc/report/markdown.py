"""The verdicts as Markdown, to be read as a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dlc.manifest import Manifest, Status
from dlc.report import table
from dlc.report.numbers import legible, shorten
from dlc.report.slices import slice_rows

SYMBOLS: Mapping[Status, str] = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "not built": "➖"}
LONGEST_LINE = 600
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def render_markdown(manifest: Manifest) -> str:
    """Render a manifest as Markdown; what comes from a user's model is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - not HTML: the filter ``cell`` escapes for Markdown
        loader=PackageLoader("dlc.report", ""), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["cell"] = cell
    headers, rows = table.verdict_rows(manifest)
    page = environment.get_template("summary.md.j2").render(
        m=manifest, headline=table.headline(manifest), best=table.best(manifest), headers=headers, rows=rows,
        lines=table.lines, symbols=SYMBOLS, slices=slice_rows(manifest),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", page)


def cell(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line, and notifies nobody named after an ``@``."""
    line = " ".join(shorten(legible(text), LONGEST_LINE).split())
    return _SPECIAL.sub(r"\\\1", line.replace("&", "&amp;")).replace("@", "@\u2060")

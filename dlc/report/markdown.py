"""The verdicts as Markdown, to be read as a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dlc.manifest import Manifest, Status
from dlc.report import table
from dlc.report.delivery import delivery_rows
from dlc.report.numbers import legible, shorten
from dlc.report.slices import slice_rows

SYMBOLS: Mapping[Status, str] = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "not built": "➖"}
LONGEST_LINE = 600
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def render_markdown(manifest: Manifest) -> str:
    """Render a manifest as Markdown; what comes from a user's model is escaped."""
    headers, rows = table.verdict_rows(manifest)
    return render(
        "summary.md.j2", m=manifest, headline=table.headline(manifest), best=table.best(manifest), headers=headers,
        rows=rows, lines=table.lines, slices=slice_rows(manifest), delivery=delivery_rows(manifest),
        noise_line=table.noise_line(manifest.reference),
    )  # fmt: skip


def render(template: str, **values: object) -> str:
    """Fill in a template of this folder, which has ``cell`` to escape with and the symbols of verdicts."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - not HTML: the filter ``cell`` escapes for Markdown
        loader=PackageLoader("dlc.report", ""), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["cell"] = cell
    page = environment.get_template(template).render(symbols=SYMBOLS, **values)
    return re.sub(r"\n{3,}", "\n\n", page)


def cell(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line, and notifies nobody named after an ``@``."""
    line = " ".join(shorten(legible(text), LONGEST_LINE).split())
    return _SPECIAL.sub(r"\\\1", line.replace("&", "&amp;")).replace("@", "@\u2060")

"""How every JSON file that dlc leaves behind is written: indented by one, for people and for version control."""

from __future__ import annotations

import msgspec


def pretty_json(value: object) -> bytes:
    """Encode a record, with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"

"""How a build departs from what it would do by itself: to see what a pass, or one of its options, is to blame for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, get_type_hints

import msgspec

from dlc.errors import UserError
from dlc.passes.base import Pass

AnyPass = TypeVar("AnyPass", bound=Pass)


@dataclass(frozen=True, slots=True)
class Amended:
    """``without``: passes that are left out. ``options``: JSON by field, by name of the pass that has it instead."""

    without: frozenset[str] = frozenset()
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of(self, passes: Iterable[AnyPass]) -> list[AnyPass]:
        """Return the passes that are left, with their options; UserError where one cannot have such an option."""
        return [self._with_options(each) for each in passes if each.name not in self.without]

    def _with_options(self, each: AnyPass) -> AnyPass:
        stated = self.options.get(each.name)
        if not stated:
            return each
        hints = get_type_hints(type(each))
        try:
            values: dict[str, Any] = {
                name: msgspec.json.decode(text, type=hints[name]) for name, text in stated.items()
            }  # fmt: skip
            return replace(each, **values)  # type: ignore[type-var]
        except (KeyError, TypeError, msgspec.DecodeError) as error:
            raise UserError(f"pass {each.name} cannot have the options that were recorded: {error}") from error


AS_IT_IS = Amended()

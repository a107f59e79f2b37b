"""What settings and items are declared with: a model, and how items of a list are told apart.

The items of `include` are in `includes`, those of `save` in `saves`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field

__all__ = ["SettingsModel", "one_of", "setting"]


def setting(description: str, example: object, **more: Any) -> Any:
    """Declare a setting that may be left out."""
    more.setdefault("default", None)
    return Field(description=description, examples=[example], **more)


class SettingsModel(BaseModel):
    """Unknown keys are errors; nothing changes later; no error shows a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _find_kind(kinds: Mapping[str, type[BaseModel]]) -> Callable[[Any], str | None]:
    """Return a function from an item to the name of its model, if need be the nearest one.

    Of several kinds it takes the first, so that all else that is wrong is found as well.
    """

    def find(item: object) -> str | None:
        if isinstance(item, BaseModel):
            return type(item).__name__
        if not isinstance(item, Mapping):
            return None
        near = [difflib.get_close_matches(str(key), kinds, n=1) for key in item]
        found = [kind for kind in kinds if kind in item] + [
            name for names in near for name in names
        ]
        return kinds[found[0]].__name__ if found else None

    return find


def one_of(kinds: Mapping[str, type[BaseModel]]) -> Discriminator:
    """Return what tells items apart: an item's kind is the one key of `kinds` that it has."""
    return Discriminator(
        _find_kind(kinds),
        custom_error_type="kind_expected",
        custom_error_message=f"expected a mapping with one of {', '.join(kinds)}",
    )

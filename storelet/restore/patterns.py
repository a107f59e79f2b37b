"""Patterns: which members are wanted, said as in a .gitignore."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from storelet.errors import UsageError
from storelet.restore.listing import StoredMember

__all__ = ["make_filter"]


def make_filter(patterns: Iterable[str]) -> Callable[[StoredMember], bool]:
    """Return the test of a member against patterns; without any, all are wanted."""
    lines = [patterns] if isinstance(patterns, str) else list(patterns)
    if not lines:
        return lambda _member: True
    import pathspec  # 20 ms that nobody without patterns need spend

    try:
        spec = pathspec.GitIgnoreSpec.from_lines(lines)
    except (ValueError, re.error) as error:
        raise UsageError(f"pattern not understood: {error}") from error
    return lambda member: spec.match_file(member.name)

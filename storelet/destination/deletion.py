"""Deleting archives: what goes in which order, and what is said of those that stay.

A mark goes after its archive and never before: broken off between them, a bad archive must not
look like a good one. A mark that is left then hurts nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from storelet.destination.contract import Stored
from storelet.destination.mark import mark_name
from storelet.errors import StoreletError, join_errors

__all__ = ["Failures", "Files", "delete_with_marks"]

Files = Mapping[str, Stored | None]  # by name, what is to go: an archive as listed; None: a mark
Failures = Mapping[str, StoreletError]  # by name, why something is still there


def delete_with_marks(archives: Sequence[Stored], delete: Callable[[Files], Failures]) -> None:
    """Delete archives and then their marks. Raises what kept any of them, when all were tried."""
    failures = dict(delete({each.name: each for each in archives}))
    gone = [each for each in archives if each.name not in failures]
    failures |= delete({mark_name(each.name): None for each in gone if each.is_bad})
    if failures:
        raise _join(failures)


def _join(failures: Failures) -> StoreletError:
    """Return one error that says all, each reason once; it is of their kind, where that is one."""
    reasons: dict[tuple[type[StoreletError], str], list[str]] = {}
    for name, error in sorted(failures.items()):
        reasons.setdefault((type(error), error.message), []).append(name)
    errors = []
    for (kind, message), (first, *others) in reasons.items():
        who = first if not others else f"{first} and {len(others)} more"
        errors.append(kind(f"{who}: {message}", hint=failures[first].hint))
    joined = join_errors(errors)
    kinds = {type(each) for each in errors}
    return kinds.pop()(joined.message, hint=joined.hint) if len(kinds) == 1 else joined

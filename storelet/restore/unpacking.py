"""Small members out of a span of an archive, in this process or in a helper (`unpacker`).

A task and its answer are what marshal can write: tuples, and nothing that could be a surprise.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator

from storelet.catalogue import DamagedError
from storelet.restore.content import find_data, unpack
from storelet.restore.listing import StoredMember
from storelet.restore.paths import RefusedError
from storelet.restore.reading import Span
from storelet.restore.target import Target

__all__ = ["RETRY", "Outcome", "pack_task", "unpack_task"]

# None: done. Else why not, and whether nothing else can be done either.
Outcome = tuple[str, bool] | None
RETRY: Outcome = ("", False)  # by itself: its local header is longer than could be known


class _ShortError(Exception):
    """The span does not have all of a member."""


def pack_task(span: Span, data: bytes) -> bytes:
    """Return a span as a helper takes it."""
    members = [(each.path, tuple(each.member)) for each in span.wanted]
    return marshal.dumps((span.offset, data, members))


def unpack_task(task: bytes | memoryview, secret: bytes, target: Target | None) -> list[Outcome]:
    """Unpack a span into a target, or only check it; return what became of each member."""
    offset, data, members = marshal.loads(task)  # noqa: S302 - from `pack_task`
    view = memoryview(data)
    outcomes = []
    for path, fields in members:
        member = StoredMember._make(fields)
        outcomes.append(_unpack_one(view[member.offset - offset :], path, member, secret, target))
    return outcomes


def _unpack_one(
    data: memoryview, path: str, member: StoredMember, secret: bytes, target: Target | None
) -> Outcome:
    try:
        content = unpack(_find(data, member), member, secret)
        if target is not None:
            target.write(path, member, content)
        else:
            for _ in content:
                pass
    except _ShortError:
        return RETRY
    except (DamagedError, RefusedError) as error:
        return str(error), False
    except OSError as error:
        return error.strerror or str(error), True
    return None


def _find(data: memoryview, member: StoredMember) -> Iterator[bytes]:
    start = find_data(data, member)
    stored = data[start : start + member.stored_size]
    if len(stored) < member.stored_size:
        raise _ShortError
    yield bytes(stored)

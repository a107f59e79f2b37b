"""Small members out of a span of an archive, in this process or in a helper (`unpacker`).

A task and its answer are what marshal can write: tuples, and nothing that could be a surprise.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterator
from typing import Literal

from storelet.catalogue import DamagedError
from storelet.errors import StoreletError
from storelet.restore.comparing import Comparison, DifferentError
from storelet.restore.content import find_data, unpack
from storelet.restore.listing import StoredMember
from storelet.restore.paths import RefusedError
from storelet.restore.reading import Span
from storelet.restore.target import Target

__all__ = [
    "Outcome",
    "ShortError",
    "Sink",
    "pack_task",
    "unpack_from",
    "unpack_task",
    "unpack_to",
]

Sink = Target | Comparison  # where members go

# None: done. Else what became of it, and why.
Outcome = tuple[Literal["compared", "different", "retry", "refused", "fatal"], str] | None


class ShortError(Exception):
    """The span does not have all of a member."""


def pack_task(span: Span, data: bytes) -> bytes:
    """Return a span as a helper takes it."""
    members = [(each.path, tuple(each.member)) for each in span.wanted]
    return marshal.dumps((span.offset, data, members))


def unpack_task(task: bytes | memoryview, secret: bytes, sink: Sink) -> list[Outcome]:
    """Unpack a span into a target, or only check it; return what became of each member."""
    offset, data, members = marshal.loads(task)  # noqa: S302 - from `pack_task`
    view = memoryview(data)
    outcomes = []
    for path, fields in members:
        member = StoredMember._make(fields)
        stored = _find(view[member.offset - offset :], member)
        outcomes.append(unpack_to(sink, path, member, stored, secret))
    return outcomes


def unpack_to(
    sink: Sink,
    path: str,
    member: StoredMember,
    stored: Iterator[bytes],
    secret: bytes,
    follow: Callable[[Iterator[bytes]], Iterator[bytes]] = iter,
) -> Outcome:
    """Unpack a member from what is stored of it; return what became of it.

    Its content goes through `follow`. Raises StoreletError where reading does.
    """
    try:
        is_compared = sink.write(path, member, follow(unpack(stored, member, secret)))
    except ShortError:
        return "retry", ""  # by itself: its local header is longer than could be known
    except DifferentError as error:
        return "different", str(error)
    except (DamagedError, RefusedError) as error:
        return "refused", str(error)
    except StoreletError:  # some are an OSError, too
        raise
    except OSError as error:
        return "fatal", error.strerror or str(error)
    return ("compared", "") if is_compared else None


def unpack_from(data: memoryview, member: StoredMember, secret: bytes) -> Iterator[bytes]:
    """Yield the content of a member out of bytes that begin with it.

    Raises as `unpack` does, and ShortError.
    """
    return unpack(_find(data, member), member, secret)


def _find(data: memoryview, member: StoredMember) -> Iterator[bytes]:
    start = find_data(data, member)
    stored = data[start : start + member.stored_size]
    if len(stored) < member.stored_size:
        raise ShortError
    yield bytes(stored)

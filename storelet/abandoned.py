"""Uploads that runs which came to no end have left, to be aborted where they are met.

Whoever remembers what was begun and not ended (`UploadOpened`, `UploadEnded`) names it here; the
destination that has the bucket aborts it. Nothing else is ever aborted: other uploads of the same
bucket may be another machine's, and on their way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

__all__ = ["AbandonedUpload", "abandoned", "take_abandoned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonedUpload:
    """A multipart upload that nobody goes on with."""

    bucket: str
    key: str
    upload_id: str


_lock = Lock()  # a script may save in several threads
_abandoned: list[AbandonedUpload] = []


@contextmanager
def abandoned(uploads: Sequence[AbandonedUpload]) -> Iterator[None]:
    """Let the destinations of this process abort `uploads` when they open their buckets."""
    with _lock:
        _abandoned.extend(uploads)
    try:
        yield
    finally:
        with _lock:
            _abandoned[:] = [each for each in _abandoned if each not in uploads]


def take_abandoned(bucket: str, prefix: str) -> list[AbandonedUpload]:
    """Return those of the bucket whose keys begin with `prefix`; each is returned once."""
    with _lock:
        found = [e for e in _abandoned if e.bucket == bucket and e.key.startswith(prefix)]
        _abandoned[:] = [each for each in _abandoned if each not in found]
    return found

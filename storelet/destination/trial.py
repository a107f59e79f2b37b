"""A trial: archives of random bytes that are made to see what a destination can do.

Their names begin as those of the backup's archives, so that a key for these alone may make them,
and go on as no archive's, so that nobody takes them for one. Each is deleted again, and nothing
else is.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence

from storelet.destination.contract import Destination, Stored, Upload
from storelet.errors import StoreletError

__all__ = ["Trial"]

_log = logging.getLogger("storelet")


class Trial:
    """Makes trial archives; `close` deletes what is still there."""

    def __init__(self, destination: Destination, backup: str) -> None:
        self.destination = destination
        self._backup = backup
        self._names: list[str] = []  # of what may be there

    def make(self, data: bytes) -> Stored | None:
        """Upload an archive; return it, or None where the key may not look at it."""
        return self._upload(data, None, ())

    def compose(
        self, source: Stored, ranges: Sequence[tuple[int, int]], tail: bytes
    ) -> Stored | None:
        """Likewise one of copied ranges of `source` with a tail. Raises CopyFailedError, too."""
        return self._upload(tail, source, ranges)

    def remove(self, made: Stored) -> None:
        """Delete a trial archive. Raises DestinationError."""
        found = self.destination.find_archive(made.name)
        if found is not None:
            self.destination.delete_archives([found])
        self._names.remove(made.name)

    def close(self) -> None:
        """Delete what is still there; failing is logged."""
        for name in self._names:
            try:
                found = self.destination.find_archive(name)
                if found is not None:
                    self.destination.delete_archives([found])
            except StoreletError as error:
                _log.warning("Could not delete %s in %s: %s", name, self.destination, error)

    def _upload(
        self, data: bytes, source: Stored | None, ranges: Sequence[tuple[int, int]]
    ) -> Stored | None:
        name = f"{self._backup}_storelet-trial-{uuid.uuid4().hex[:12]}"
        upload: Upload = self.destination.open_upload(name, {}, len(data))
        self._names.append(name)
        try:
            if source is not None:
                upload.copy(source, ranges)
            upload.write(data)
            upload.commit()
        except BaseException:
            upload.abort()
            raise
        return self.destination.find_archive(name)

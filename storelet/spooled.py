"""The spooled way of a backup: read when included, sent when saved.

The archive grows in a temporary file. Saving completes a copy of the catalogue behind it and
sends all of it; more may be included and saved afterwards, and the sources may be gone by then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from threading import Lock

from storelet.archive import ArchiveWriter
from storelet.deflate import Compression
from storelet.destination.contract import Destination
from storelet.errors import ArchiveExistsError, StoreletError, UsageError
from storelet.label import Label, names_taken
from storelet.observer import Saved, report
from storelet.source import Entry
from storelet.temporary import Spool

__all__ = ["SpooledBackup"]

_log = logging.getLogger("storelet")


class SpooledBackup:
    """One archive in a temporary file."""

    def __init__(self, label: Label, compression: Compression) -> None:
        self._label = label
        self._lock = Lock()  # what several threads include must not get into each other
        self._spool = Spool()
        self._writer = ArchiveWriter(self._spool, label.record, compression)
        self._is_whole = True
        self.is_saved = False

    def include(self, entries: Iterable[Entry]) -> None:
        """Read entries into the archive and report what became of them."""
        with self._lock:
            self._require_whole()
            self._is_whole = False  # until all are: a script may catch what ends it halfway
            for event in self._writer.write(entries):
                report(event)
            self._is_whole = True

    def save(self, destination: Destination) -> str:
        """Send the archive under the first free name from this second on; return its URL."""
        with self._lock:
            self._require_whole()
            size, tail = self._writer.offset, self._writer.central_directory()
        for name in self._label.file_names():
            try:
                url = self._send(destination, name, size, tail)
            except ArchiveExistsError:
                _log.debug("%s is taken in %s", name, destination)
                continue
            self.is_saved = True
            report(Saved(url=url, destination=str(destination), bytes=size + len(tail)))
            return url
        raise names_taken(destination)

    def close(self) -> None:
        """Give the temporary file back; may be called twice."""
        self._spool.close()

    def _require_whole(self) -> None:
        """Raise where nothing more may be done with the archive."""
        if self._spool.is_closed:
            raise UsageError(
                f"backup {self._label.name} has ended",
                hint="include and save inside its with block",
            )
        if not self._is_whole:
            raise StoreletError(
                f"backup {self._label.name} broke off in the middle of a file and cannot go on",
                hint="see the error before this one",
            )

    def _send(self, destination: Destination, name: str, size: int, tail: bytes) -> str:
        upload = destination.open_upload(name, self._label.metadata)
        try:
            for piece in self._spool.read(size):
                upload.write(piece)
            upload.write(tail)
            return upload.commit()
        except BaseException:
            upload.abort()
            raise

"""The streamed way of a backup: planned when included, read and sent when the block ends.

1. including only walks: the plan is what was found, in order;
2. an upload is opened at every destination, before anything is read;
3. each entry is read and deflated once, and its bytes go to all of them as they come: there is
   no temporary file, and parts leave while files are still read;
4. each destination commits by itself. One that fails is let go of and the others go on; in the
   end its error is raised.

If the block raises, nothing was opened. If writing is broken off, every upload is aborted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from storelet.archive import ArchiveWriter
from storelet.deflate import Compression
from storelet.destination.contract import Destination, Upload
from storelet.errors import ArchiveExistsError, StoreletError, UsageError, join_errors
from storelet.label import Label, names_taken
from storelet.observer import Saved, report
from storelet.source import Entry

__all__ = ["StreamedBackup"]

_log = logging.getLogger("storelet")


class StreamedBackup:
    """One archive for one or several destinations."""

    def __init__(
        self, label: Label, compression: Compression, destinations: Sequence[Destination]
    ) -> None:
        self._label = label
        self._compression: Compression = compression
        self._destinations = destinations
        self._plan: list[Entry] = []
        self._has_ended = False

    def include(self, entries: Iterable[Entry]) -> None:
        """Put entries on the plan."""
        if self._has_ended:
            raise UsageError(
                f"backup {self._label.name} has ended", hint="include inside its with block"
            )
        self._plan += entries

    def write(self) -> None:
        """Read what is planned and save it at every destination. Raises StoreletError."""
        self._has_ended = True
        uploads = _Uploads()
        try:
            uploads.open(self._label, self._destinations)
            writer = ArchiveWriter(uploads, self._label.record, self._compression)
            for event in writer.write(self._plan):
                report(event)
            tail = writer.central_directory()
            uploads.write(tail)
            uploads.commit(writer.offset + len(tail))
        except BaseException:
            uploads.abort()
            raise
        if uploads.failures:
            raise join_errors(uploads.failures)

    def close(self) -> None:
        """Forget the plan."""
        self._has_ended = True
        self._plan = []


class _Uploads:
    """The uploads to all destinations, as one sink; those that fail are let go of."""

    def __init__(self) -> None:
        self.failures: list[StoreletError] = []
        self._open: list[tuple[Destination, Upload]] = []

    def open(self, label: Label, destinations: Sequence[Destination]) -> None:
        """Open an upload at each destination. Raises StoreletError where none can be."""
        for destination in destinations:
            try:
                self._open.append((destination, _open_upload(destination, label)))
            except StoreletError as error:
                self._fail(error)
        self._require_one()

    def write(self, data: bytes | memoryview) -> None:
        """Append `data` to each. Raises StoreletError where none is left."""
        for destination, upload in list(self._open):
            try:
                upload.write(data)
            except StoreletError as error:
                self._let_go(destination, upload)
                self._fail(error)
        self._require_one()

    def commit(self, size: int) -> None:
        """Make each archive visible and report it; what fails is among `failures`."""
        for destination, upload in list(self._open):
            try:
                url = upload.commit()
            except StoreletError as error:
                self._let_go(destination, upload)
                self._fail(error)
                continue
            self._open.remove((destination, upload))
            report(Saved(url=url, destination=str(destination), bytes=size))

    def abort(self) -> None:
        """Abort what has not been committed."""
        for destination, upload in list(self._open):
            self._let_go(destination, upload)

    def _let_go(self, destination: Destination, upload: Upload) -> None:
        upload.abort()
        self._open.remove((destination, upload))

    def _fail(self, error: StoreletError) -> None:
        _log.error("%s", error)
        self.failures.append(error)

    def _require_one(self) -> None:
        if not self._open:
            raise join_errors(self.failures)


def _open_upload(destination: Destination, label: Label) -> Upload:
    """Open an upload under the first free name from this second on."""
    for name in label.file_names():
        try:
            return destination.open_upload(name, label.metadata)
        except ArchiveExistsError:
            _log.debug("%s is taken in %s", name, destination)
    raise names_taken(destination)

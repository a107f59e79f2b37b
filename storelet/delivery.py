"""A delivery: one archive on its way to one destination.

1. `reuse` chooses what can be copied of the archive before;
2. `open` opens the upload under the first free name, and begins it with the copies;
3. whoever has the delivery writes the rest through its `layout`;
4. `commit` appends the catalogue and makes the archive visible;
5. where something was copied, what stands there then is looked at: stores have ignored ranges and
   copied wrong bytes. What is not right is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

from storelet.catalogue import DamagedError
from storelet.destination.contract import CopyFailedError, Destination, Stored, Upload
from storelet.encryption import Encryption
from storelet.errors import ArchiveExistsError, DestinationError, StoreletError
from storelet.inspection import Inspection, require_password
from storelet.label import Label, names_taken
from storelet.layout import Layout
from storelet.matching import Match
from storelet.observer import NotReused, Saved, report
from storelet.previous import NotReusableError, PreviousArchive, read_previous
from storelet.reuse import Span, choose, cut, expire, find_spans

__all__ = ["Delivery"]

_log = logging.getLogger("storelet")


class Delivery:
    """One archive for one destination.

    Methods raise StoreletError, but for `write`, the sink of the layout: what fails there is
    raised by `commit`, and nothing more is written, so that others may go on.
    """

    def __init__(
        self,
        destination: Destination,
        label: Label,
        encryption: Encryption | None,
        taken: frozenset[str] = frozenset(),
    ) -> None:
        """Begin a delivery under none of the names `taken`."""
        self.destination = destination
        self.name = ""  # of the archive's file
        self.spans: Sequence[Span] = ()  # what is copied
        self.layout = Layout(self, label.record)
        self._label = label
        self._encryption = encryption
        self._traffic = destination.traffic
        self._previous: PreviousArchive | None = None
        self._taken = taken
        self._upload: Upload | None = None
        self._error: StoreletError | None = None

    def reuse(self, match: Match, reread: timedelta | None, but: frozenset[int]) -> None:
        """Choose what is copied: nothing, where that cannot be, with a report why.

        What was read from its source longer than `reread` ago is not; nor are spans that hold
        one of the offsets `but`, which could not be copied before.
        """
        try:
            previous = read_previous(self.destination, self._label.name)
            live = match.find_live(previous)
            require_password(self.destination, previous, self._encryption)
            spans = self._choose(previous, live, reread)
        except NotReusableError as error:
            self._say_not_reused(str(error), is_first=error.is_first)
        except DamagedError as error:
            self._say_not_reused(f"the archive before is damaged: {error}")
        else:
            self._previous = previous
            self.spans = [each for each in spans if not _holds_any(each, but)]

    def open(self, fresh: int, whole: int) -> None:
        """Open the upload of an archive with about `fresh` bytes that are not copied.

        What cannot be copied is not; then it has about `whole` bytes.
        """
        self.name, self._upload = self._open_upload(fresh)
        if self._previous is not None and self.spans:
            ranges = cut(self.spans, self.destination.copy_limits)
            try:
                self._upload.copy(self._previous.stored, ranges)
            except CopyFailedError as error:
                self._say_not_reused(error.message)
                self.spans = ()
                self._upload.abort()
                self.name, self._upload = self._open_upload(whole)
        for span in self.spans:
            self._add_copied(span)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        if self._error is not None or self._upload is None:
            return
        try:
            self._upload.write(data)
        except StoreletError as error:
            self._error = error
            self.layout.is_open = False
            self._upload.abort()

    def commit(self) -> str:
        """Make the archive whole and visible, report it, and return its URL.

        Raises CopyFailedError, with a report, where copies failed, or what came of them is not
        what it should be; then it is gone again.
        """
        try:
            return self._commit()
        except CopyFailedError as error:
            self._say_not_reused(error.message)
            raise

    def abort(self) -> None:
        """Leave nothing behind. Never raises."""
        if self._upload is not None:
            self._upload.abort()

    def _commit(self) -> str:
        size = self.layout.offset
        for piece in self.layout.catalogue():
            self.write(piece)
            size += len(piece)
        url = self._commit_upload()
        if self.spans:
            self._inspect(size)
        traffic = self.destination.traffic - self._traffic
        report(
            Saved(
                url=url,
                destination=str(self.destination),
                bytes=size,
                bytes_reused=sum(span.size for span in self.spans),
                bytes_sent=traffic.bytes_sent,
                requests=traffic.requests,
            )
        )
        return url

    def _commit_upload(self) -> str:
        if self._error is not None:
            raise self._error
        assert self._upload is not None  # noqa: S101 - it is open
        try:
            return self._upload.commit()
        except StoreletError:
            self._upload.abort()
            raise

    def _open_upload(self, size: int) -> tuple[str, Upload]:
        """Open an upload under the first free name from this second on."""
        for name in self._label.file_names():
            try:
                if name not in self._taken:
                    metadata = self._label.metadata
                    return name, self.destination.open_upload(name, metadata, size)
            except ArchiveExistsError:
                _log.debug("%s is taken in %s", name, self.destination)
        raise names_taken(self.destination)

    def _choose(
        self, previous: PreviousArchive, live: bytearray, reread: timedelta | None
    ) -> list[Span]:
        limits = self.destination.copy_limits
        members = previous.members
        spans = choose(find_spans(members.offsets, live), limits)
        if reread is None:
            return spans
        now = self._label.record.started_ns // 1_000_000_000
        old = expire(
            spans,
            members.offsets,
            members.read_at,
            before=now - int(reread.total_seconds()),
            budget=previous.stored.size // max(reread.days, 1),
        )
        for member in old:
            live[member] = 0
        return choose(find_spans(members.offsets, live), limits) if old else spans

    def _add_copied(self, span: Span) -> None:
        """Take the members of a span over into the layout."""
        assert self._previous is not None  # noqa: S101 - there are spans of it
        shift = self.layout.offset - span.offset
        for headers in self._previous.members.headers(span):
            self.layout.add(headers, shift)
        self.layout.skip(span.size)

    def _inspect(self, size: int) -> None:
        """Look at what has become visible, and delete it where it is not right."""
        assert self._previous is not None  # noqa: S101 - there are spans of it
        before = self._previous.stored
        archive = self.destination.find_archive(self.name)
        try:
            now = self.destination.find_archive(before.name)
            if now is not None and (now.version, now.size) != (before.version, before.size):
                # Asked once more: radosgw 16.2 ignores CopySourceIfMatch.
                raise CopyFailedError(f"{before.name} has changed meanwhile")
            if archive is None or archive.size != size:
                raise CopyFailedError(f"{self.name} has another size than what was sent for it")
            pieces = cut(self.spans, self.destination.copy_limits) if now is not None else ()
            inspection = Inspection(self.destination, archive, self._previous, self._encryption)
            inspection.look(self.layout, self.spans, pieces)
        except StoreletError as error:
            _log.error("%s in %s is not right: %s", self.name, self.destination, error)
            if archive is not None:
                self._take_back(archive)
            raise CopyFailedError(error.message) from error

    def _take_back(self, archive: Stored) -> None:
        try:
            self.destination.delete_archives([archive])
        except StoreletError as error:
            raise DestinationError(
                f"{archive.name} in {self.destination} is not right and stays there: "
                f"{error.message}",
                hint="delete it by hand",
            ) from error

    def _say_not_reused(self, reason: str, *, is_first: bool = False) -> None:
        report(NotReused(destination=str(self.destination), reason=reason, is_first=is_first))


def _holds_any(span: Span, offsets: frozenset[int]) -> bool:
    return any(span.offset <= each < span.offset + span.size for each in offsets)

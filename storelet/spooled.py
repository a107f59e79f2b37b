"""The spooled way of a backup: read when included, sent when saved.

The archive grows in a temporary file. Saving sends all of it, with the catalogue behind; what the
destination has already, by name, size, CRC and time, it copies from the archive before, and is not
sent. More may be included and saved afterwards, and the sources may be gone by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock

from storelet.archive import Piece, write_members
from storelet.deflate import Compression
from storelet.delivery import Delivery
from storelet.destination.contract import CopyFailedError, Destination
from storelet.encryption import Encryption
from storelet.entry import Entry
from storelet.errors import ArchiveExistsError, StoreletError, UsageError
from storelet.label import Label
from storelet.layout import Layout
from storelet.matching import SpoolMatch
from storelet.observer import report
from storelet.output import Output
from storelet.plan import Plan
from storelet.previous import Members
from storelet.reuse import Span, find_spans
from storelet.temporary import Spool

__all__ = ["SpooledBackup"]


class SpooledBackup:
    """One archive in a temporary file."""

    def __init__(
        self,
        label: Label,
        compression: Compression,
        encryption: Encryption | None,
        *,
        reuse: bool,
    ) -> None:
        self._label = label
        self._compression: Compression = compression
        self._encryption = encryption
        self._reuse = reuse
        self._lock = Lock()  # what several threads include must not get into each other
        self._spool = Spool()
        self._layout = Layout(self._spool, label.record)
        self._plan = Plan()
        self._is_whole = True
        self.is_saved = False

    def include(self, entries: Iterable[Entry]) -> None:
        """Read entries into the archive and report what became of them."""
        with self._writing():
            for entry in entries:
                skipped = self._plan.add(entry)
                if skipped is not None:
                    report(skipped)

    def include_output(self, output: Output) -> None:
        """Read what a command says into the archive. Raises SourceError where it fails."""
        with self._writing():
            self._plan.add_output(output)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write what a block plans."""
        with self._lock:
            self._require_whole()
            self._is_whole = False  # until all are: a script may catch what ends it halfway
            firsts = [shelf.count for shelf in self._plan.shelves]
            yield
            batches = [
                batch
                for shelf, first in zip(self._plan.shelves, firsts, strict=True)
                for batch in shelf.batches(first)
            ]
            pieces = (Piece(each, [self._layout]) for each in batches)
            write_members(pieces, self._compression, self._encryption, outputs=self._plan.outputs)
            self._is_whole = True

    def save(self, destination: Destination) -> str:
        """Send the archive under the first free name from this second on; return its URL."""
        with self._lock:
            self._require_whole()
            size = self._layout.offset
            members = Members(self._layout.headers(), size)
        match = SpoolMatch(members)
        reuse = self._reuse and size >= destination.copy_limits.smallest
        taken: frozenset[str] = frozenset()
        while True:
            delivery = Delivery(destination, self._label, self._encryption, taken)
            try:
                self._send(delivery, members, match, reuse=reuse)
                url = delivery.commit()
            except CopyFailedError:
                reuse = False
            except ArchiveExistsError:
                if not delivery.name:
                    raise
                taken |= {delivery.name}  # meanwhile, by somebody else
            else:
                self.is_saved = True
                return url
            finally:
                delivery.abort()

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

    def _send(
        self, delivery: Delivery, members: Members, match: SpoolMatch, *, reuse: bool
    ) -> None:
        if reuse:
            delivery.reuse(match, None, frozenset())
        delivery.open(members.offsets[-1], members.offsets[-1])
        for span in find_spans(members.offsets, match.wanted(delivery.spans)):
            self._send_span(delivery.layout, members, span)

    def _send_span(self, layout: Layout, members: Members, span: Span) -> None:
        shift = layout.offset - span.offset
        for piece in self._spool.read(span.offset, span.size):
            if not layout.is_open:
                return
            layout.write(piece)
        for headers in members.headers(span):
            layout.add(headers, shift)

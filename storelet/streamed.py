"""The streamed way of a backup: planned when included, read and sent when the block ends.

1. including only walks: the plan is what was found;
2. for each destination the plan is compared with the archive before: what has not changed is
   copied there, and all else is wanted anew;
3. each wanted entry is read and deflated once, and its bytes go to those that want it as they
   come: there is no temporary file, and parts leave while files are still read;
4. each destination commits by itself. One that fails is let go of and the others go on; in the
   end its error is raised. Where copies failed, its archive is made once more with fewer.

If the block raises, nothing was opened. If writing is broken off, every upload is aborted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from threading import Lock

from storelet.archive import select, write_members
from storelet.deflate import Compression
from storelet.delivery import Delivery
from storelet.destination.contract import CopyFailedError, Destination
from storelet.encryption import Encryption
from storelet.entry import Entry
from storelet.errors import StoreletError, UsageError, join_errors
from storelet.label import Label
from storelet.layout import Layout
from storelet.matching import PlanMatch, ReusePolicy
from storelet.observer import Reused, report
from storelet.output import Output
from storelet.plan import Plan, Shelf
from storelet.zipformat import portable_name

__all__ = ["StreamedBackup"]

_log = logging.getLogger("storelet")

_ATTEMPTS = 3  # of one destination with copies, each without those that failed


_Wanted = dict[Shelf, bytearray]  # a 1 for each entry of a shelf; without it, all are wanted


@dataclass(frozen=True, slots=True)
class _Order:
    """A destination that is to get the archive, and what may be reused there."""

    destination: Destination
    policy: ReusePolicy | None
    but: frozenset[int] = frozenset()  # offsets whose spans could not be copied

    def without(self, error: CopyFailedError) -> _Order:
        """Return the order for the next attempt, after copies have failed."""
        if error.offset is None or len(self.but) + 1 >= _ATTEMPTS:
            return _Order(self.destination, None)
        return _Order(self.destination, self.policy, self.but | {error.offset})


class StreamedBackup:
    """One archive for one or several destinations."""

    def __init__(
        self,
        label: Label,
        compression: Compression,
        encryption: Encryption | None,
        destinations: Sequence[Destination],
        policy: ReusePolicy | None,
    ) -> None:
        self._label = label
        self._compression: Compression = compression
        self._encryption = encryption
        self._orders = [_Order(each, policy) for each in destinations]
        self._plan = Plan()
        self._planning = Lock()  # several threads may include
        self._read = b""  # a 1 for each file that some destination wanted anew
        self._told = bytearray()  # a 1 for each file whose outcome was reported
        self._failures: list[StoreletError] = []
        self._has_ended = False

    def include(self, entries: Iterable[Entry]) -> None:
        """Put entries on the plan, and report those whose names are taken."""
        self._require_open()
        for entry in entries:
            with self._planning:
                skipped = self._plan.add(entry)
            if skipped is not None:
                report(skipped)

    def include_output(self, output: Output) -> None:
        """Put what a command will say on the plan. Raises UsageError where its name is taken."""
        self._require_open()
        with self._planning:
            self._plan.add_output(output)

    def write(self) -> None:
        """Read what is planned and save it at every destination. Raises StoreletError."""
        self._has_ended = True
        orders = self._orders
        self._told = bytearray(self._plan.files.count)
        while orders:
            orders = self._attempt(orders)
        reused = self._read.count(0)
        if reused:
            report(Reused(files=reused))
        if self._failures:
            raise join_errors(self._failures)

    def close(self) -> None:
        """Forget the plan."""
        self._has_ended = True
        self._plan = Plan()

    def _require_open(self) -> None:
        if self._has_ended:
            raise UsageError(
                f"backup {self._label.name} has ended", hint="include inside its with block"
            )

    def _attempt(self, orders: Sequence[_Order]) -> list[_Order]:
        """Make the archive for each order; return those that are to be tried once more."""
        deliveries = [
            (order, Delivery(order.destination, self._label, self._encryption)) for order in orders
        ]
        try:
            opened = []
            for order, delivery in deliveries:
                wanted = self._open(order, delivery)
                if wanted is not None:
                    opened.append((order, delivery, wanted))
            self._write_members([(delivery.layout, wanted) for _, delivery, wanted in opened])
            again = [self._commit(order, delivery) for order, delivery, _ in opened]
        except BaseException:
            for _, delivery in deliveries:
                delivery.abort()
            raise
        return [order for order in again if order is not None]

    def _open(self, order: _Order, delivery: Delivery) -> _Wanted | None:
        """Open a delivery and return what it wants; None where it failed."""
        shelves = self._plan.shelves
        whole = sum(shelf.size_of(None) for shelf in shelves)
        wanted: _Wanted = {}
        try:
            if order.policy is not None and whole >= order.destination.copy_limits.smallest:
                match = PlanMatch(self._plan, order.policy)
                delivery.reuse(match, order.policy.reread, order.but)
                wanted = match.wanted(delivery.spans) if delivery.spans else {}
            fresh = sum(shelf.size_of(wanted.get(shelf)) for shelf in shelves)
            delivery.open(fresh, whole)
        except StoreletError as error:
            self._fail(error)
            return None
        if not delivery.spans:
            wanted = {}
        files = self._plan.files
        self._read = _or(self._read, wanted.get(files, b"\1" * files.count))
        return wanted

    def _write_members(self, wanted: Sequence[tuple[Layout, _Wanted]]) -> None:
        selected = chain.from_iterable(
            select(shelf.batches(), [(layout, each.get(shelf)) for layout, each in wanted])
            for shelf in self._plan.shelves
        )
        write_members(
            selected, self._compression, self._encryption, self._is_news, self._plan.outputs
        )

    def _is_news(self, entry: Entry) -> bool:
        """Tell whether nothing was reported of a file; a further attempt reads some again."""
        found = self._plan.find(portable_name(entry.name))
        if found is None or self._told[found[1]]:
            return False
        self._told[found[1]] = 1
        return True

    def _commit(self, order: _Order, delivery: Delivery) -> _Order | None:
        """Commit a delivery; return the order that is to be tried once more, if it is."""
        try:
            delivery.commit()
        except CopyFailedError as error:
            return order.without(error)
        except StoreletError as error:
            self._fail(error)
        return None

    def _fail(self, error: StoreletError) -> None:
        _log.error("%s", error)
        self._failures.append(error)


def _or(one: bytes | bytearray, other: bytes | bytearray) -> bytes:
    """Return the bits of both."""
    bits = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return bits.to_bytes(max(len(one), len(other)), "little")

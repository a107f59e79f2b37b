"""An examination of a destination: what backups can do there, found out by doing it.

1. its archives are listed; a place that is missing, or knows no such key, ends it here;
2. a small trial archive is made and read;
3. the place says what else it is like (`Destination.examine_place`);
4. the trial archive is deleted. If it cannot be, nothing larger is written;
5. a larger one is made and another one composed of ranges of it, of several sizes; where that
   fails, of one size. Both are deleted.

A key that may write and nothing else is enough for backups, so only that fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

from storelet.destination.contract import CopyFailedError, Destination, Stored
from storelet.destination.finding import Finding, attempt
from storelet.destination.trial import Trial
from storelet.errors import DestinationError, StoreletError
from storelet.reuse import CopyLimits

__all__ = ["examine"]

_SMALL_BYTES = 1024
_MORE_BYTES = 1 << 20  # than the smallest copy, in what is copied from
_EDGE_BYTES = 512  # compared on both sides of where a range begins
_SENDS_ALL = "so each backup reads and sends everything"


def examine(destination: Destination, backup: str, *, quick: bool = False) -> Iterator[Finding]:
    """Yield what is found out about a destination for the backup `backup`, as it is found out.

    Up to 6 MiB are sent, and 10 MiB stored for a moment; `quick` sends 1 KiB and leaves out 3 and
    5. Where the bucket keeps versions, those of the trial archives stay. Closing the iterator
    deletes what was written. Raises nothing of its own: what is wrong is a finding.
    """
    listed = attempt("list", lambda: _list(destination, backup), denied="warning")
    yield listed
    if listed.state == "failed":
        return
    with closing(Trial(destination, backup)) as trial:
        untried = None
        try:
            untried = destination.why_untried()
        except StoreletError as error:
            yield Finding(check="lock", state="note", message=error.message, hint=error.hint)
        if untried is not None:
            yield Finding(check="write", state="note", message=f"not tried: {untried}")
            if not quick:
                yield from _ask_place(destination, backup, None)
            return
        yield from _try(trial, backup, quick=quick)


def _list(destination: Destination, backup: str) -> str:
    archives = destination.list_archives(backup)
    if not archives:
        return f"no archive of {backup} yet"
    bad = sum(each.is_bad for each in archives)
    marked = f", {bad:,} of them marked as bad" if bad else ""
    noun = "archive" if len(archives) == 1 else "archives"
    return f"{len(archives):,} {noun} of {backup}{marked}"


def _try(trial: Trial, backup: str, *, quick: bool) -> Iterator[Finding]:
    destination, data = trial.destination, os.urandom(_SMALL_BYTES)
    made: list[Stored | None] = []
    written = attempt("write", _saying("an archive can be written", lambda: trial.make(data), made))
    yield written
    if written.state == "failed":
        return
    small = made[0]
    if small is not None:
        yield _read(destination, small, data)
    else:
        yield Finding(
            check="read",
            state="warning",
            message=f"the key may not look at what it has written, {_SENDS_ALL}",
            hint="allow it s3:GetObject there",
        )
    if not quick:
        yield from _ask_place(destination, backup, small)
    if small is None:
        return
    deleted = _delete(trial, small)
    yield deleted
    if deleted.state == "ok" and not quick:
        yield _try_copying(trial)


def _saying(
    said: str, call: Callable[[], Stored | None], made: list[Stored | None]
) -> Callable[[], str]:
    """Return a call that keeps what another one returns, and says something."""

    def do() -> str:
        made.append(call())
        return said

    return do


def _ask_place(destination: Destination, backup: str, made: Stored | None) -> Iterator[Finding]:
    try:
        yield from destination.examine_place(backup, made)
    except StoreletError as error:
        yield Finding(check="place", state="note", message=error.message, hint=error.hint)


def _read(destination: Destination, made: Stored, data: bytes) -> Finding:
    try:
        is_right = _is_right(destination, made, data, _SMALL_BYTES // 2)
    except StoreletError as error:
        return Finding(check="read", state="warning", message=error.message, hint=error.hint)
    if not is_right:
        wrong = DestinationError(f"{destination} returns other bytes than were written")
        return Finding(
            check="read",
            state="failed",
            message=wrong.message,
            hint="keep no backups there; or is there a cache between?",
            error=wrong,
        )
    return Finding(check="read", state="ok", message="any range of an archive can be read")


def _is_right(destination: Destination, made: Stored, data: bytes, middle: int) -> bool:
    """Tell whether what lies around an offset is what was written."""
    first = max(middle - _EDGE_BYTES // 2, 0)
    expected = data[first : middle + _EDGE_BYTES // 2]
    return destination.read(made, first, len(expected)) == expected


def _delete(trial: Trial, made: Stored) -> Finding:
    def delete() -> str:
        trial.remove(made)
        if trial.destination.find_archive(made.name) is not None:
            raise DestinationError("what was deleted is still there")
        return "an archive can be deleted"

    found = attempt("delete", delete, denied="warning")
    if found.state == "ok":
        return found
    return replace(found, message=f"{found.message}; {made.name} stays there")


def _try_copying(trial: Trial) -> Finding:
    limits = trial.destination.copy_limits
    data = os.urandom(limits.smallest + _MORE_BYTES)
    try:
        source = trial.make(data)
        if source is None:
            raise CopyFailedError("the archive to copy from is not there")
        try:
            return _copy(trial, source, data, limits, more=_MORE_BYTES // 2)
        finally:
            trial.remove(source)
    except StoreletError as error:
        return Finding(
            check="copy", state="warning", message=f"{error.message}, {_SENDS_ALL}", hint=error.hint
        )


def _copy(trial: Trial, source: Stored, data: bytes, limits: CopyLimits, *, more: int) -> Finding:
    """Compose an archive of two copied ranges, the second one `more` bytes longer."""
    first, second = limits.smallest, limits.smallest + more
    tail = data[:_SMALL_BYTES]
    try:
        made = trial.compose(source, [(0, first), (_EDGE_BYTES, second)], tail)
    except CopyFailedError as error:
        if not more:
            raise
        try:
            _copy(trial, source, data, limits, more=0)
        except StoreletError:
            raise error from None
        raise CopyFailedError(
            f"{trial.destination} wants all parts of an upload of one size"
        ) from error
    if made is None:
        raise CopyFailedError("what was copied is not there")
    expected = data[:first] + data[_EDGE_BYTES : _EDGE_BYTES + second] + tail
    try:
        edges = (0, first, first + second)
        if made.size != len(expected) or not all(
            _is_right(trial.destination, made, expected, edge) for edge in edges
        ):
            raise DestinationError(f"{trial.destination} copies other bytes than it is told to")
    finally:
        trial.remove(made)
    said = "what has not changed can be copied from the archive before"
    return Finding(check="copy", state="ok", message=said)

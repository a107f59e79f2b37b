"""The channel: a worker's end of the pipe to its runner."""

from __future__ import annotations

import errno
import os
import sys
import threading
from dataclasses import replace

from storeletd import events, secrets

__all__ = ["Channel"]


class Channel:
    """The pipe to the runner."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # what the job starts must not hold it open
        self._descriptor = descriptor
        self._pipe = _identify(descriptor)
        self._process = os.getpid()
        self._sending = threading.Lock()  # a module may back up in several threads

    def check_process(self) -> None:
        """Raise what is being handled, or end, in a process that a module has forked."""
        if os.getpid() != self._process:
            if sys.exc_info()[1] is not None:
                raise
            raise SystemExit(0)

    def send(self, event: events.Event) -> None:
        """Tell the runner. Raises OSError."""
        if os.getpid() != self._process:  # what a forked process does is no part of the run
            return
        line = events.encode(_mask(event))
        with self._sending:
            # A module that closes all descriptors, as daemons do, closes ours: the number may be
            # an archive's by now.
            if _identify(self._descriptor) != self._pipe:
                raise OSError(errno.EBADF, "the job closed a descriptor that is not its own")
            while line:
                line = line[os.write(self._descriptor, line) :]


def _identify(descriptor: int) -> tuple[int, int]:
    """Return what tells an open file from every other. Raises OSError where none is open."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _mask(event: events.Event) -> events.Event:
    """Take secrets out of what is only said: the names of uploads, say, must stay as they are."""
    match event:
        case events.Logged() | events.Noted():
            return replace(event, message=secrets.mask(event.message))
        case events.Ended(message=str(message), hint=hint):
            hint = hint and secrets.mask(hint)
            return replace(event, message=secrets.mask(message), hint=hint)
    return event

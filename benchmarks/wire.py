"""Counts what goes over the wire: a TCP proxy that looks at nothing, in front of a server.

Bytes are moved by splice(2) and never come up into this process: a gigabyte costs it 0.25 s of
processor time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.helpers import wait_for

__all__ = ["Traffic", "Wire"]

_PIPE_BYTES = 1 << 20  # Linux lets anyone have this much


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes as a client sees them, headers of HTTP included, those of TCP not."""

    sent_bytes: int
    received_bytes: int

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(
            sent_bytes=self.sent_bytes - before.sent_bytes,
            received_bytes=self.received_bytes - before.received_bytes,
        )


class Wire:
    """Passes on what connects to its port; to be opened by `Wire.open`."""

    def __init__(self, listener: socket.socket, behind: int) -> None:
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._behind = behind
        self._lock = threading.Lock()
        self._moved: Counter[str] = Counter()  # bytes, by direction
        self._connections = 0

    @classmethod
    @contextmanager
    def open(cls, behind: int) -> Iterator[Wire]:
        """Listen on a free port of loopback, in front of port `behind`, until the block ends."""
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
            wire = cls(listener, behind)
            threading.Thread(target=wire._accept, daemon=True).start()
            try:
                yield wire
            finally:
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()

    def look(self) -> Traffic:
        """Say what went over it so far. Clients must have ended: their connections are awaited."""
        wait_for(lambda: self._connections == 0, what="the end of connections")
        return Traffic(sent_bytes=self._moved["sent"], received_bytes=self._moved["received"])

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            with self._lock:
                self._connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._behind)) as server:
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ways = [(client, server, "sent"), (server, client, "received")]
            threads = [threading.Thread(target=self._pass_on, args=way) for way in ways]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        with self._lock:
            self._connections -= 1

    def _pass_on(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        moved = 0
        out, into = os.pipe()
        with open(out, "rb") as reading, open(into, "wb") as writing:
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            try:
                while size := os.splice(source.fileno(), writing.fileno(), _PIPE_BYTES):
                    moved += size
                    while size:
                        size -= os.splice(reading.fileno(), sink.fileno(), size)
                sink.shutdown(socket.SHUT_WR)
            except OSError:  # one side broke off: let the other know at once
                for each in (source, sink):
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._moved[direction] += moved

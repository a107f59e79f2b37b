"""What a command takes: wall clock, processor, memory, and what it writes and sends.

Of all its processes together: the processor time and the bytes written to disk are those the
kernel adds up for children that have been waited for; memory is the most that they had at once
(PSS, looked at every 20 ms, or more seldom where looking would itself cost a twentieth).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.wire import Traffic, Wire
from tests.helpers import CLONE, wait_for

__all__ = ["Requests", "Run", "measure", "read_text"]

_LOOK_SECONDS = 0.02
_LOOK_SHARE = 20  # looking may take one part in so many
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests to S3, as its price list tells them apart; deletions are free."""

    writing: int  # and copying, listing, multipart uploads
    reading: int  # GET and HEAD

    def __sub__(self, before: Requests) -> Requests:
        return Requests(
            writing=self.writing - before.writing, reading=self.reading - before.reading
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run took."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int  # of memory
    written_bytes: int  # to disk, temporary files included
    sent_bytes: int = 0  # over the wire
    received_bytes: int = 0
    left_bytes: int = 0  # by how much what is kept grew
    requests: Requests = Requests(writing=0, reading=0)  # to S3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """What processes have used up so far."""

    cpu_seconds: float
    written_bytes: int


def measure(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    *,
    wire: Wire | None = None,
    daemon: int | None = None,
) -> Run:
    """Run a command to its end, its output into `log`; end this program if it fails.

    `daemon` is the pid of a process that works for the command: it and what it starts count too.
    """
    os.sync()
    traffic, use = _look_at(wire), _use_of(daemon)
    begun = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=CLONE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        memory = _Memory([process.pid, *([daemon] if daemon else [])])
        memory.start()
        try:
            status = process.wait()
        except BaseException:  # ^C or SIGTERM: it has started others
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    wall_seconds = time.perf_counter() - begun
    memory.stop()
    if status:
        said = read_text(log)[-2_000:]
        sys.exit(f"{' '.join(command)[:200]} ended with status {status}:\n{said}")
    if daemon:  # it has waited for its children when they are gone
        wait_for(lambda: _families([daemon]) == [daemon], what="the daemon's run to be over")
    passed, used = _look_at(wire), _use_of(daemon)
    return Run(
        wall_seconds=wall_seconds,
        cpu_seconds=used.cpu_seconds - use.cpu_seconds,
        peak_bytes=memory.peak_bytes,
        written_bytes=used.written_bytes - use.written_bytes,
        sent_bytes=passed.sent_bytes - traffic.sent_bytes,
        received_bytes=passed.received_bytes - traffic.received_bytes,
    )


def _look_at(wire: Wire | None) -> Traffic:
    return wire.look() if wire else Traffic(sent_bytes=0, received_bytes=0)


def _use_of(daemon: int | None) -> _Use:
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds, written_bytes = own.ru_utime + own.ru_stime, own.ru_oublock * 512
    if daemon:
        fields = read_text(Path(f"/proc/{daemon}/stat")).rpartition(")")[2].split()
        cpu_seconds += sum(map(int, fields[11:15])) / _TICKS  # utime stime cutime cstime
        for line in read_text(Path(f"/proc/{daemon}/io")).splitlines():
            if line.startswith("write_bytes:"):
                written_bytes += int(line.split()[1])
    return _Use(cpu_seconds=cpu_seconds, written_bytes=written_bytes)


class _Memory(threading.Thread):
    """Looks at the memory of processes and their descendants (proc(5), smaps_rollup)."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._pids = pids
        self._over = threading.Event()

    def run(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            begun = time.perf_counter()
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss, _families(self._pids))))
            pause = max(_LOOK_SECONDS, (time.perf_counter() - begun) * _LOOK_SHARE)

    def stop(self) -> None:
        self._over.set()
        self.join()


def _families(pids: list[int]) -> list[int]:
    """List processes and their descendants; not every kernel has /proc/PID/task/TID/children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = read_text(Path("/proc", name, "stat")).rpartition(")")[2].split()
            if fields:
                children.setdefault(int(fields[1]), []).append(int(name))
    found = list(pids)
    for each in found:  # grows as we go
        found += children.get(each, [])
    return found


def _pss(pid: int) -> int:
    for line in read_text(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def read_text(path: Path) -> str:
    """Read a file; one that is gone, such as an ended process's, is empty."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""

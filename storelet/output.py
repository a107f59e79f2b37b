"""What a command writes to its standard output, read as it comes: a dump, without a file of it.

It becomes one member, of which neither size nor content is known before. Only a command that ends
with status 0 has said all it had to say: any other ends the backup, and nothing of it is kept.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from storelet.errors import SourceError
from storelet.observer import report_moved
from storelet.source import BLOCK_BYTES

__all__ = ["Output", "Start"]

_log = logging.getLogger("storelet")

Start = Callable[..., "subprocess.Popen[bytes]"]  # is called as `subprocess.Popen` is

_PIECE_BYTES = 64 << 10  # a pipe holds as many
_LINE_BYTES = 4096  # of what a command says on standard error, at most
_GRACE_SECONDS = 2.0  # for its last words, and between SIGTERM and SIGKILL


@dataclass(frozen=True, slots=True)
class Output:
    """A command whose standard output is to become a member."""

    name: str  # the member's
    command: Sequence[str]  # may hold secrets: no message has it
    start: Start = subprocess.Popen

    def blocks(self) -> Generator[bytes, None, None]:
        """Run the command; yield its output in blocks of BLOCK_BYTES, the last one shorter.

        The iterator ends when the command has ended well. Raises SourceError where it has not, or
        cannot be started. To close the iterator early is to end the command.
        """
        process = self._start()
        assert process.stdout is not None and process.stderr is not None  # noqa: S101
        errors = _Errors(self.name, process.stderr)
        try:
            yield from _join(process.stdout)
            status = process.wait()
        finally:
            _end(process)
            process.stdout.close()
            errors.join(_GRACE_SECONDS)  # what it has left behind may hold the pipe for ever
        if status:
            how = f"status {status}" if status > 0 else f"signal {-status}"
            raise SourceError(
                f"the command of {self.name} ended with {how}"
                + (f": {errors.last}" if errors.last else ""),
                hint=None if errors.last else "it said nothing on standard error",
            )

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return self.start(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise SourceError(
                f"cannot run the command of {self.name}: {error.strerror}",
                hint="is it installed, and on the PATH?",
            ) from error


class _Errors(threading.Thread):
    """Logs what a command says on standard error, line by line, and keeps the last one.

    That is the last one that speaks of an error, where any does.
    """

    def __init__(self, name: str, pipe: IO[bytes]) -> None:
        super().__init__(name="storelet-errors", daemon=True)
        self.last = ""
        self._member = name
        self._pipe = pipe
        self.start()

    def run(self) -> None:
        """Read until the end."""
        with self._pipe as pipe:
            while line := pipe.readline(_LINE_BYTES):
                text = line.decode(errors="replace").rstrip()
                if text:
                    # pg_dump, for one, says details behind it.
                    if "error" in text.lower() or "error" not in self.last.lower():
                        self.last = text
                    _log.warning("%s: %s", self._member, text)


def _join(pipe: IO[bytes]) -> Iterator[bytes]:
    """Yield what comes in blocks of BLOCK_BYTES; whatever comes is a sign of life."""
    block = bytearray()
    while piece := pipe.read1(min(_PIECE_BYTES, BLOCK_BYTES - len(block))):  # type: ignore[attr-defined] # a BufferedReader
        report_moved(read=len(piece))
        block += piece
        if len(block) == BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that still runs."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

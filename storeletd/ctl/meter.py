"""How far a restore or a verification is: a line that lives at the bottom of the terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from storeletd.ctl import console
from storeletd.ctl.formats import describe_bytes, describe_count, describe_span

if TYPE_CHECKING:
    from rich.text import Text

    import storelet

__all__ = ["Meter", "showing_progress"]

_SPEED_SECONDS = 5.0  # the speed shown is that of the last seconds
_LARGE_BYTES = 1 << 20  # above, a file says how far it is before it is whole


@contextmanager
def showing_progress(*, live: bool) -> Iterator[storelet.Observer]:
    """Keep one line at the bottom of the terminal while an archive is read.

    Gives what is to be told of that which the library does not see.
    """
    if not live:
        yield lambda _event: None
        return
    from rich.live import Live

    import storelet

    meter = Meter()
    shown = Live(
        get_renderable=meter.draw,
        console=console.open_terminal(),
        refresh_per_second=8,
        transient=True,
    )
    with shown, storelet.observe(meter.observe):
        yield meter.observe


class Meter:
    """Counts what is done of an archive, and says it in a line."""

    def __init__(self) -> None:
        self._counting = Lock()  # events come from several threads
        self._files = self._bytes = self._underway = 0
        self._planned: tuple[int, int] | None = None  # files and bytes
        self._samples = deque([(time.monotonic(), 0)])  # of (seconds, bytes)

    def observe(self, event: storelet.Event) -> None:
        """Take note of an event of the library."""
        import storelet

        with self._counting:
            match event:
                case storelet.Restoring(files=files, bytes=size):
                    self._planned = files, size
                case storelet.Moved(bytes_read=size):
                    self._underway += size
                case storelet.Restored(member=member, bytes=size):
                    self._files += not member.endswith("/")
                    self._bytes += size
                    if size > _LARGE_BYTES:
                        self._underway = max(self._underway - size, 0)

    def draw(self) -> Text:
        """Return the line; called by rich, eight times a second."""
        from rich.text import Text

        with self._counting:
            return Text(self._describe(time.monotonic()), no_wrap=True, overflow="ellipsis")

    def _describe(self, now: float) -> str:
        if self._planned is None:
            return "reads what is in the archive, and what is there …"
        files, size = self._planned
        done = min(self._bytes + self._underway, size)
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] < now - _SPEED_SECONDS:
            self._samples.popleft()
        begin, before = self._samples[0]
        speed = (done - before) / max(now - begin, 0.1)
        cells = [
            f"{self._files:,} of {describe_count(files, 'file')}",
            f"{describe_bytes(done)} of {describe_bytes(size)}",
            f"{describe_bytes(speed)}/s",
        ]
        if speed:
            cells.append(f"{describe_span((size - done) / speed)} left")
        return "  ".join(cells)

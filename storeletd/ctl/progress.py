"""A run while it is followed: its events, and what people see of them.

On a terminal one line lives at the bottom and is gone when the run is over; elsewhere nothing
is shown but, if asked for, the run's lines.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from storeletd.ctl import console
from storeletd.ctl.console import CommandError
from storeletd.ctl.forecast import Forecast
from storeletd.ctl.formats import (
    describe_bytes,
    describe_count,
    describe_span,
    escape,
    shorten_path,
)
from storeletd.ctl.replies import BytesSoFar, Files, Progress, Run

if TYPE_CHECKING:
    from rich.text import Text

    from storeletd.ctl.client import Client

__all__ = ["follow_run", "open_display", "show_event"]

_SPEED_SECONDS = 5.0  # the speed shown is that of the last seconds
_INTERRUPTED = 130
_SECOND_CHANCE_SECONDS = 2.0  # after ^C, for another
_WHERE_ANY: tuple[Literal["reused", "skipped"], ...] = ("reused", "skipped")


class Display(Protocol):
    """Shows a run while it is followed; a context manager, since a terminal must be restored."""

    def show_state(self, run: Run) -> None:
        """Take note that the run is queued or running now."""

    def show_progress(self, progress: Progress) -> None:
        """Take note how far the run is."""

    def show_line(self, level: str, message: str) -> None:
        """Take note of a line of the run."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def follow_run(client: Client, run: Run, display: Display) -> Run:
    """Show a run until it is finished and return it with its outcome.

    Raises CommandError with 130 when the user breaks off (the run goes on, or at a second ^C is
    cancelled), with 69 when the daemon goes away.
    """
    try:
        with display:
            for event in client.events(run["id"]):
                show_event(display, event.name, event.data)
                if event.name == "finished":
                    run = event.data
    except KeyboardInterrupt:
        raise _leave(client, run) from None
    return run


def _leave(client: Client, run: Run) -> CommandError:
    """Return how following ends: the run goes on, unless somebody presses ^C once more."""
    which = f"run {run['id']} of {run['job']}"
    try:
        if console.is_terminal():
            console.print_remark(f"{which} goes on; ^C once more cancels it")
            time.sleep(_SECOND_CHANCE_SECONDS)
    except KeyboardInterrupt:
        client.cancel(run["id"])
        return CommandError(
            f"{which} is being cancelled",
            hint=f"storeletctl history --run {run['id']}",
            exit_code=_INTERRUPTED,
        )
    return CommandError(
        f"no longer following {which}, which goes on",
        hint=f"storeletctl cancel {run['id']} to end it",
        exit_code=_INTERRUPTED,
    )


def show_event(display: Display, name: str, data: Any) -> None:
    """Show what happened in a run; how it ended is not the display's matter."""
    match name:
        case "state":
            display.show_state(data)
        case "progress":
            display.show_progress(data)
        case "log":
            display.show_line(data["level"], data["message"])


def open_display(run: Run, *, live: bool, lines: bool, basis: Run | None = None) -> Display:
    """Return a line that lives (for a terminal) or nothing; `lines` adds the run's own lines.

    `basis` is the earlier run, if any, that tells how long this one takes.
    """
    return _LiveDisplay(run, lines=lines, basis=basis) if live else _PlainDisplay(lines=lines)


class _PlainDisplay:
    """Prints lines one after the other, or nothing at all."""

    def __init__(self, *, lines: bool) -> None:
        self._lines = lines

    def show_state(self, run: Run) -> None:
        if self._lines and run["state"] == "queued":
            console.print_line(f"run {run['id']} of {escape(run['job'])} waits for its turn")

    def show_progress(self, progress: Progress) -> None:
        pass

    def show_line(self, level: str, message: str) -> None:
        if self._lines:
            console.print_line(console.describe_line(level, message))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class _LiveDisplay:
    """Keeps one line at the bottom of the terminal up to date."""

    def __init__(self, run: Run, *, lines: bool, basis: Run | None) -> None:
        from rich.live import Live

        self._run = run
        self._lines = lines
        self._progress = Progress(
            files=Files(seen=0, reused=0, read=0, skipped=0),
            bytes=BytesSoFar(read=0, sent=0),
            current=None,
        )
        self._forecast = None if basis is None else Forecast(basis)
        self._begun = time.monotonic()
        self._samples = deque([(time.monotonic(), 0)])  # of (seconds, bytes read)
        self._console = console.open_terminal()
        self._live = Live(
            get_renderable=self._draw, console=self._console, refresh_per_second=8, transient=True
        )

    def show_state(self, run: Run) -> None:
        self._run = run
        self._begun = time.monotonic()

    def show_progress(self, progress: Progress) -> None:
        self._progress = progress
        now = time.monotonic()
        self._samples.append((now, progress["bytes"]["read"]))
        while len(self._samples) > 2 and self._samples[1][0] < now - _SPEED_SECONDS:
            self._samples.popleft()
        if self._forecast is not None:
            self._forecast.see(progress, now - self._begun)

    def show_line(self, level: str, message: str) -> None:
        from rich.text import Text

        if self._lines:
            line = Text.from_ansi(console.describe_line(level, message))
            self._console.print(line, soft_wrap=True)  # the terminal wraps it: so it can be copied

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def _draw(self) -> Text:
        """Return the line; called by rich, eight times a second."""
        from rich.text import Text

        name = escape(self._run["job"])
        if self._run["state"] == "queued":
            line = f"{name}  run {self._run['id']} waits for its turn"
        else:
            line = self._describe_progress(name)
        return Text(line, no_wrap=True, overflow="ellipsis")

    def _describe_progress(self, name: str) -> str:
        progress, files = self._progress, self._progress["files"]
        cells = [
            name,
            describe_count(files["read"], "file"),
            describe_bytes(progress["bytes"]["read"]),
            f"{describe_bytes(self._bytes_per_second())}/s",
        ]
        left = self._forecast.left(time.monotonic() - self._begun) if self._forecast else None
        if left is not None:
            cells.append(f"{describe_span(left)} left")
        if progress["bytes"]["sent"]:
            cells.append(f"{describe_bytes(progress['bytes']['sent'])} sent")
        cells += [f"{files[what]:,} {what}" for what in _WHERE_ANY if files[what]]
        line = "  ".join(cells)
        room = self._console.width - len(line) - 2
        return f"{line}  {shorten_path(escape(progress['current'] or ''), room)}"

    def _bytes_per_second(self) -> float:
        (begin, before), (_, read) = self._samples[0], self._samples[-1]
        return (read - before) / max(time.monotonic() - begin, 0.1)

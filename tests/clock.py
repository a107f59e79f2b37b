"""A clock of their own for daemons, which tests set: libfaketime's. Workers have the real one."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.helpers import Daemon

__all__ = ["DAY", "LIBRARY", "NIGHT", "Clock", "give_clock"]

# multiarch, or where Fedora and Arch have it
_PLACES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")
LIBRARY = next((path for place in _PLACES for path in glob.glob(place)), None)
NIGHT = datetime(2027, 3, 20, 2, 50, tzinfo=UTC)  # jobs of these tests are due at three
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of a daemon, which goes on from where it is set."""

    file: Path

    def set(self, to: datetime) -> None:
        """Show another time from now on."""
        offset = to - datetime.now(UTC)
        temporary = self.file.with_suffix(".new")
        temporary.write_text(f"{offset.total_seconds():+.6f}\n")
        temporary.rename(self.file)

    def now(self) -> datetime:
        """Return what it shows."""
        return datetime.now(UTC) + timedelta(seconds=float(self.file.read_text()))


def give_clock(daemon: Daemon, clock: Clock) -> None:
    """Let the daemon have that clock from its next start on."""
    if LIBRARY is None:
        pytest.skip("no libfaketime here: apt install libfaketime")
    daemon.environment |= {
        "LD_PRELOAD": LIBRARY,
        "FAKETIME_TIMESTAMP_FILE": str(clock.file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "TZ": "UTC",
    }

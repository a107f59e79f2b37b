"""Night after night: backups of one tree, and what an archive of it must hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import freezegun

import storelet
from storelet.destination.contract import Destination
from storelet.reuse import CopyLimits
from tests.helpers import Bucket
from tests.zipparser import ParsedZip, parse_zip

__all__ = ["Choosy", "Nights", "archives", "contents", "contents_of", "last"]

Kind = TypeVar("Kind", bound=storelet.Event)


class Choosy(storelet.Directory):
    """A directory that copies only what is long enough, in pieces, as S3 does."""

    @property
    def copy_limits(self) -> CopyLimits:
        return CopyLimits(smallest=1024, usual=4096, largest=8192, most=8)


class Nights:
    """Backups of one tree, each on a day of its own, so that nothing is too new to be trusted."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.day = 0
        self.events: list[storelet.Event] = []  # of the last backup

    def back_up(self, *destinations: Destination, name: str = "example", **options: Any) -> None:
        with (
            self.next(),
            storelet.ZipBackup(name, destination=destinations, **options) as backup,
        ):
            backup.include_directory(self.source)

    def spool(self, *buckets: Bucket, directory: Path | None = None, **options: Any) -> None:
        with self.next(), storelet.ZipBackup("example", **options) as backup:
            backup.include_directory(self.source)
            for bucket in buckets:
                backup.save_to_s3(bucket.name, "key", "secret", endpoint_url=bucket.endpoint)
            if directory is not None:
                backup.save_to_directory(directory)

    @contextmanager
    def next(self) -> Iterator[None]:
        """Let it be the next night for a block, and hear what is reported in it."""
        self.day += 1
        self.events = []
        now = datetime.now(tz=UTC) + timedelta(days=self.day)
        with freezegun.freeze_time(now, tick=True), storelet.observe(self.events.append):
            yield

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def read(self) -> set[str]:
        """The members that were read."""
        return {event.member for event in self.of(storelet.Added)}

    @property
    def reused(self) -> int:
        return sum(event.files for event in self.of(storelet.Reused))

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.of(storelet.NotReused) if not event.is_first]

    @property
    def saved(self) -> storelet.Saved:
        (saved,) = self.of(storelet.Saved)
        return saved


def archives(directory: Path) -> list[Path]:
    """Return the archives, oldest first; two of the same moment have names in order."""
    return sorted(directory.glob("*.zip"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def last(directory: Path, password: str | None = None) -> ParsedZip:
    """Return the newest archive, read strictly."""
    return parse_zip(archives(directory)[-1].read_bytes(), password=password)


def contents_of(source: Path) -> dict[str, bytes]:
    """Return what an archive of a directory must hold, directories with nothing in them."""
    found = {}
    for path in source.rglob("*"):
        name = str(path.relative_to(source))
        if path.is_symlink():
            found[name] = os.fsencode(os.readlink(path))
        elif path.is_dir():
            found[name + "/"] = b""
        else:
            found[name] = path.read_bytes()
    return found


def contents(archive: ParsedZip) -> dict[str, bytes]:
    """Return what an archive holds, in the same form."""
    listed = {member.name.decode(): member.data for member in archive.members}
    assert len(listed) == len(archive.members), "each member once"
    return listed

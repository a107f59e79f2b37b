"""`ZipBackup`, the script's API: sources go in, archives come out at destinations.

Without a destination it is spooled: files are read when they are included and the archive is
saved as often as asked for. With one it is streamed: files are read when the block ends, and go
to the destination as they are read.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any

from storelet.deflate import COMPRESSIONS, Compression
from storelet.destination.contract import Destination
from storelet.destination.directory import Directory
from storelet.destination.s3 import S3
from storelet.destination.s3lock import Lock
from storelet.encryption import Encryption
from storelet.entry import Entry
from storelet.errors import UsageError
from storelet.label import Label
from storelet.matching import REREAD, ReusePolicy
from storelet.observer import Event, Filling, Passed, report
from storelet.output import Output, Start
from storelet.source import Source, find_file, never_include, walk
from storelet.spooled import SpooledBackup
from storelet.streamed import StreamedBackup
from storelet.temporary import temporary_directory

__all__ = ["NewDirectory", "ZipBackup"]

_log = logging.getLogger("storelet")


class ZipBackup:
    """A backup in the making; use it as a context manager.

    `name` begins the archives' names: `<name>_<YYYYMMDDhhmmss>.zip`. With `destination`, one or
    several of S3 and Directory, the archive is streamed there when the block ends well, and the
    sources must stay in place until then. `compression` is `fast`, `small` (three times slower, a
    few per cent smaller) or `none`. With `encryption`, files can be read with its password alone.

    With `reuse`, what has not changed since the archive before is copied by the destination: in
    a streamed backup it is not even read. It has not changed where size, mtime, ctime and inode
    are the same; `change_detection={"ctime": False, "inode": False}` leaves those out, for file
    systems that make them up. What was read longer than `reread` ago is read anew, a bit each
    time.
    """

    def __init__(
        self,
        name: str,
        *,
        destination: Destination | Sequence[Destination] | None = None,
        compression: Compression = "fast",
        encryption: Encryption | None = None,
        reuse: bool = True,
        reread: timedelta = REREAD,
        change_detection: Mapping[str, bool] | None = None,
    ) -> None:
        self.name = name
        self._label = Label(name)
        if compression not in COMPRESSIONS:
            raise UsageError(
                f"no such compression: {compression!r}", hint=f"one of {', '.join(COMPRESSIONS)}"
            )
        if encryption is not None and not isinstance(encryption, Encryption):
            raise UsageError("encryption is no storelet.Encryption", hint="Encryption(password=…)")
        destinations = _several(destination)
        self._places = frozenset(
            os.path.realpath(each.path) for each in destinations if isinstance(each, Directory)
        )
        self._kept = ExitStack()  # new directories, until a stream has read them
        self._way: SpooledBackup | StreamedBackup
        if destinations:
            policy = _make_policy(reread, change_detection or {}) if reuse else None
            self._way = StreamedBackup(self._label, compression, encryption, destinations, policy)
        else:
            self._way = SpooledBackup(self._label, compression, encryption, reuse=reuse)

    def __enter__(self) -> ZipBackup:
        """Begin the backup."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the backup; one with a destination is saved now, unless the block raised.

        Raises StoreletError.
        """
        try:
            if kind is None and isinstance(self._way, StreamedBackup):
                self._way.write()
        finally:
            self.close()
        if kind is None and isinstance(self._way, SpooledBackup) and not self._way.is_saved:
            _log.warning("Backup %s ended without having been saved anywhere", self.name)

    def close(self) -> None:
        """Let go of all temporary files; what was not saved is gone. May be called twice."""
        self._way.close()
        self._kept.close()

    def include_directory(
        self,
        path: str | os.PathLike[str],
        preserve_paths: bool = False,
        name: str | None = None,
        *,
        exclude: Iterable[str] = (),
        exclude_caches: bool = False,
        exclude_if_present: Iterable[str] = (),
        one_file_system: bool = False,
    ) -> None:
        """Include what is in a directory, in the archive's root.

        With `name` it goes under that directory of the archive, with `preserve_paths` under its
        own whole path, with both under both. `exclude` holds patterns as in a .gitignore there.
        Raises SourceError where the directory is missing or cannot be read; what cannot be read
        beneath it is reported and the rest goes on.
        """
        absolute = _absolute(path)
        parts = [_check_member_name(name)] if name is not None else []
        if preserve_paths:
            parts.append(absolute.strip("/"))
        source = Source(
            path=absolute,
            prefix="".join(f"{part}/" for part in parts if part),
            exclude=_strings(exclude, "exclude"),
            exclude_caches=exclude_caches,
            exclude_if_present=_strings(exclude_if_present, "exclude_if_present"),
            one_file_system=one_file_system,
        )
        self._include(source, absolute)

    def include_file(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Include one file, under its own name in the archive's root or as member `name`.

        Raises SourceError where it is missing or not a regular file.
        """
        absolute = _absolute(path)
        member = os.path.basename(absolute) if name is None else _check_member_name(name)
        self._way.include([find_file(absolute, member)])
        self._label.add_source(member, absolute)

    def include_command(
        self, command: Sequence[str], name: str, *, start: Start = subprocess.Popen
    ) -> None:
        """Include what a command writes to its standard output, as member `name`.

        It is read as it comes, without a temporary file; in a streamed backup when the block
        ends. `start` runs it and is called as `subprocess.Popen` is: give, say,
        `functools.partial(subprocess.Popen, env=…, user=…)`. Raises SourceError where it does not
        end with status 0, a streamed backup when it comes to it: then nothing is saved.
        """
        if isinstance(command, str):
            raise UsageError("command is one string", hint="give a list of its words")
        member = _check_member_name(name)
        self._way.include_output(Output(member, command, start))
        self._label.add_source(member, "")

    def include_new_dir(self, name: str) -> NewDirectory:
        """Make a temporary directory for a block to fill, included as `name` at its end."""
        return NewDirectory(_check_member_name(name), self)

    def save_to_s3(
        self,
        bucket: str,
        access_key: str | None = None,
        secret_key: str | None = None,
        *,
        prefix: str = "",
        upload: Mapping[str, Any] | None = None,
        lock: Lock | None = None,
        **client_options: Any,
    ) -> str:
        """Save the archive to an S3 bucket and return its URL.

        Keys left out come from boto3's own chain (environment, profile, instance role).
        `upload` holds request options (`StorageClass`, …), `lock` says for how long nobody may
        delete the archive, further keywords go to boto3's client (`region_name`,
        `endpoint_url`, …). Raises DestinationError.
        """
        options = {"prefix": prefix, "upload": upload, "lock": lock, **client_options}
        return self._save(S3(bucket, access_key, secret_key, **options))

    def save_to_directory(self, path: str | os.PathLike[str]) -> str:
        """Save the archive into a directory and return its URL. Raises DestinationError."""
        return self._save(Directory(path))

    def _include(self, source: Source, came_from: str) -> None:
        _log.debug("Walking %s", source.path)
        self._way.include(self._choose(walk(source)))
        self._label.add_source(source.prefix, came_from)

    def _keep(self, cleanup: ExitStack) -> None:
        """Take over the clean-up of a new directory where its files are read later."""
        if isinstance(self._way, StreamedBackup):
            self._kept.push(cleanup.pop_all())

    def _choose(self, found: Iterable[Entry | Event]) -> Iterator[Entry]:
        """Yield the entries that go into the archive, and report what else was found."""
        for each in found:
            if not isinstance(each, Entry):
                report(each)
            elif self._label.is_own_archive(each, self._places):
                report(Passed(path=each.path, reason="it is an archive of Storelet's"))
            else:
                yield each

    def _save(self, destination: Destination) -> str:
        if isinstance(self._way, StreamedBackup):
            raise UsageError(
                f"backup {self.name} goes to its destination when its block ends",
                hint="leave out destination= to save by hand",
            )
        return self._way.save(destination)


class NewDirectory:
    """A temporary directory that becomes part of the backup when its block ends well.

    `str(directory)` and `directory.path` are its path.
    """

    def __init__(self, name: str, backup: ZipBackup) -> None:
        self.name = name
        self.path = ""  # made when the block begins
        self._backup = backup
        self._cleanup = ExitStack()

    def __str__(self) -> str:
        """Return the path."""
        return self.path

    def __enter__(self) -> NewDirectory:
        """Make the directory, for its owner alone."""
        self.path = self._cleanup.enter_context(temporary_directory())
        self._cleanup.enter_context(never_include(self.path))
        report(Filling(is_over=False))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Include the content, unless the block raised; remove the directory in any case.

        A streamed backup reads it later, so it stays until then.
        """
        with self._cleanup:
            report(Filling(is_over=True))
            if kind is None:
                self._backup._include(Source(path=self.path, prefix=f"{self.name}/"), "")
                self._backup._keep(self._cleanup)


def _several(destination: Destination | Sequence[Destination] | None) -> Sequence[Destination]:
    if destination is None:
        return ()
    if not isinstance(destination, Sequence):
        return (destination,)
    if not destination:
        raise UsageError("destination is an empty list", hint="give S3(…) or Directory(…)")
    return tuple(destination)


def _make_policy(reread: timedelta, change_detection: Mapping[str, bool]) -> ReusePolicy:
    if unknown := sorted(change_detection.keys() - {"ctime", "inode"}):
        raise UsageError(
            f"change_detection knows no {unknown[0]}", hint='it has "ctime" and "inode"'
        )
    if reread < timedelta(days=1):
        raise UsageError("reread is less than a day", hint="to read all of it: reuse=False")
    return ReusePolicy(reread=reread, **change_detection)


def _absolute(path: str | os.PathLike[str]) -> str:
    """Return a path from the root; an empty one is a variable not set, not the directory here."""
    if not os.fspath(path):
        raise UsageError("the path is empty", hint="give `.` for the current directory")
    return os.path.abspath(path)


def _check_member_name(name: str) -> str:
    """Return a member name without slashes around it; it must not lead anywhere else."""
    stripped = name.strip("/")
    if (
        not stripped
        or not _is_encodable(name)
        or not {"", ".", ".."}.isdisjoint(stripped.split("/"))
    ):
        raise UsageError(
            f"not a name inside an archive: {name!r}", hint="give a relative path without `..`"
        )
    return stripped


def _is_encodable(name: str) -> bool:
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def _strings(values: Iterable[str], argument: str) -> tuple[str, ...]:
    if isinstance(values, str):
        raise UsageError(f"{argument} is one string", hint=f"give a list: {argument}=[{values!r}]")
    return tuple(values)

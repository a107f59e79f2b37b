"""`ZipBackup`, the script's API: sources go in, archives come out at destinations.

Files are read when they are included, into an archive in a temporary file that has no name:
whatever happens, nothing of it is left. Saving completes a copy of the catalogue behind it and
sends all of it; more may be included and saved afterwards.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from threading import Lock
from types import TracebackType
from typing import Any

from storelet.archive import ArchiveWriter, read_record
from storelet.destination.contract import Destination
from storelet.destination.directory import Directory
from storelet.destination.s3 import S3
from storelet.errors import ArchiveExistsError, StoreletError, UsageError
from storelet.observer import Event, Passed, Saved, report
from storelet.source import Entry, Source, find_file, never_include, walk
from storelet.temporary import Spool, temporary_directory
from storelet.zipformat import ArchiveRecord

__all__ = ["NewDirectory", "ZipBackup"]

_log = logging.getLogger("storelet")

_NAME_BYTES = 255 - len("_YYYYMMDDhhmmss.zip")  # a file's name has 255 at most
_NAMES_TRIED = 60  # seconds after now whose names may all be taken before we give up


class ZipBackup:
    """A backup in the making; use it as a context manager.

    `name` begins the archives' names: `<name>_<YYYYMMDDhhmmss>.zip`.
    """

    def __init__(self, name: str) -> None:
        if not name or "/" in name or not name.isprintable() or len(name.encode()) > _NAME_BYTES:
            raise UsageError(
                f"not a name for a backup: {name!r}",
                hint=f"give a name of at most {_NAME_BYTES} bytes, without `/`; prefix= puts "
                "archives under a path",
            )
        self.name = name
        self._lock = Lock()  # what several threads include must not get into each other
        self._record = ArchiveRecord(job=name, host=socket.gethostname(), started_ns=time.time_ns())
        self._own_archive = re.compile(rf"{re.escape(name)}_[0-9]{{14}}\.zip")
        self._spool = Spool()
        self._writer = ArchiveWriter(self._spool, self._record)
        self._is_whole = True
        self._is_saved = False

    def __enter__(self) -> ZipBackup:
        """Begin the backup."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the backup; what was not saved is gone."""
        self.close()
        if kind is None and not self._is_saved:
            _log.warning("Backup %s ended without having been saved anywhere", self.name)

    def close(self) -> None:
        """Give the temporary file back; may be called twice."""
        self._spool.close()

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
        _log.debug("Walking %s", absolute)
        for found in walk(source):
            self._include(self._pass_own_archive(found))

    def include_file(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Include one file, under its own name in the archive's root or as member `name`.

        Raises SourceError where it is missing or not a regular file.
        """
        absolute = _absolute(path)
        member = os.path.basename(absolute) if name is None else _check_member_name(name)
        self._include(find_file(absolute, member))

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
        **client_options: Any,
    ) -> str:
        """Save the archive to an S3 bucket and return its URL.

        Keys left out come from boto3's own chain (environment, profile, instance role).
        `upload` holds request options (`StorageClass`, …), further keywords go to boto3's
        client (`region_name`, `endpoint_url`, …). Raises DestinationError.
        """
        return self._save(
            S3(bucket, access_key, secret_key, prefix=prefix, upload=upload, **client_options)
        )

    def save_to_directory(self, path: str | os.PathLike[str]) -> str:
        """Save the archive into a directory and return its URL. Raises DestinationError."""
        return self._save(Directory(path))

    def _pass_own_archive(self, found: Entry | Event) -> Entry | Event:
        """Pass over archives of this backup, or a destination inside a source doubles nightly.

        They are known by their names and by their own records: nothing else is left out.
        """
        if not isinstance(found, Entry) or not stat.S_ISREG(found.mode):
            return found
        if not self._own_archive.fullmatch(os.path.basename(found.path)):
            return found
        record = read_record(found)
        if record is None or record.job != self.name:
            return found
        return Passed(path=found.path, reason="it is an archive of this backup")

    def _include(self, found: Entry | Event) -> None:
        if not isinstance(found, Entry):
            report(found)
            return
        with self._lock:
            self._require_whole()
            self._is_whole = False  # until the member is: a script may catch what ends it halfway
            for event in self._writer.add(found):
                report(event)
            self._is_whole = True

    def _require_whole(self) -> None:
        """Raise where nothing more may be done with the archive."""
        if self._spool.is_closed:
            raise UsageError(
                f"backup {self.name} has ended", hint="include and save inside its with block"
            )
        if not self._is_whole:
            raise StoreletError(
                f"backup {self.name} broke off in the middle of a file and cannot go on",
                hint="see the error before this one",
            )

    def _save(self, destination: Destination) -> str:
        """Send the archive under the first free name from this second on."""
        with self._lock:
            self._require_whole()
            size, tail = self._writer.offset, self._writer.central_directory()
        for name in self._archive_names():
            try:
                url = self._send(destination, name, size, tail)
            except ArchiveExistsError:
                _log.debug("%s is taken in %s", name, destination)
                continue
            self._is_saved = True
            report(Saved(url=url, destination=str(destination), bytes=size + len(tail)))
            return url
        raise ArchiveExistsError(
            f"the names of the next {_NAMES_TRIED} s are all taken in {destination}",
            hint="is something else writing archives of the same name there?",
        )

    def _archive_names(self) -> Iterator[str]:
        now = datetime.now().astimezone()
        for seconds in range(_NAMES_TRIED):
            stamp = now + timedelta(seconds=seconds)
            yield f"{self.name}_{stamp:%Y%m%d%H%M%S}.zip"

    def _send(self, destination: Destination, name: str, size: int, tail: bytes) -> str:
        upload = destination.open_upload(name, self._metadata())
        try:
            for piece in self._spool.read(size):
                upload.write(piece)
            upload.write(tail)
            return upload.commit()
        except BaseException:
            upload.abort()
            raise

    def _metadata(self) -> dict[str, str]:
        """Say in ASCII, as S3 metadata must be, what the archive's own record says."""
        started = datetime.fromtimestamp(self._record.started_ns / 1e9, UTC)
        return {
            "storelet-job": _ascii(self._record.job),
            "storelet-host": _ascii(self._record.host),
            "storelet-started": started.isoformat(timespec="microseconds"),
        }


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
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Include the content, unless the block raised; remove the directory in any case."""
        with self._cleanup:
            if kind is None:
                self._backup.include_directory(self.path, name=self.name)


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


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()

"""An archive that is open for reading: listed, read and restored, by ranged reads alone."""

from __future__ import annotations

import os
import random
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from storelet.catalogue import DamagedError
from storelet.destination.contract import Destination, Stored, backup_of
from storelet.destination.s3 import S3
from storelet.errors import (
    ArchiveMissingError,
    CredentialsError,
    DamagedArchiveError,
    DestinationMissingError,
    MemberMissingError,
    PermissionDeniedError,
    RestoreError,
    StoreletError,
    UsageError,
    WrongPasswordError,
)
from storelet.label import find_record
from storelet.restore.content import check_readable, find_data, unpack
from storelet.restore.extraction import Extraction, Unpacked
from storelet.restore.listing import Listing, StoredMember
from storelet.restore.paths import Origin, RefusedError, place
from storelet.restore.patterns import make_filter
from storelet.restore.places import find_archive_place, open_destination
from storelet.restore.reading import read_data
from storelet.restore.salvage import salvage
from storelet.restore.survey import Overwrite, survey
from storelet.restore.target import Target, open_root
from storelet.zipformat import RACY_NS, ArchiveRecord

__all__ = ["OpenedArchive", "list_archives", "open_archive"]


def list_archives(
    place: Destination | str | os.PathLike[str],
    name: str | None = None,
    *,
    versions: bool = False,
    password: str | None = None,
    **client_options: Any,
) -> list[OpenedArchive]:
    """Return the archives of the backup `name`, or of any, at a place: the oldest first.

    A place is a destination or its URL: `s3://bucket/prefix`, `file:///path`, or a path.
    With `versions`, deleted ones are listed too, whose versions a bucket keeps. `client_options`
    are those of `S3`. Nothing is read of the archives yet. Raises StoreletError.
    """
    destination: Destination
    if isinstance(place, str | os.PathLike):
        destination = open_destination(place, **client_options)
    else:
        destination = place
    listed = destination.list_versions(name) if versions else destination.list_archives(name)
    return [OpenedArchive(destination, stored, password) for stored in listed]


def open_archive(
    url: str | os.PathLike[str], *, password: str | None = None, **client_options: Any
) -> OpenedArchive:
    """Open the archive of a URL: `s3://bucket/key`, `file:///path`, or a path.

    Any zip will do, by whoever it was made. `password` is for what is encrypted in it;
    `client_options` are those of `S3`, such as `endpoint_url`. Raises StoreletError:
    ArchiveMissingError where there is none.
    """
    destination, name, version = find_archive_place(url, **client_options)
    stored: Stored | None
    if version is None:
        stored = destination.find_archive(name)
    else:
        versions = destination.list_versions(backup_of(name))
        wanted = (name, version)
        stored = next((e for e in versions if (e.name, e.version_id) == wanted), None)
    if stored is None:
        raise _find_reason(destination, name, os.fspath(url))
    return OpenedArchive(destination, stored, password)


def _find_reason(destination: Destination, name: str, url: str) -> StoreletError:
    """Return why there is no such archive.

    To a request for one object S3 answers the same whether the key is wrong, the bucket is missing
    or the object; to one for a list it says which.
    """
    error: StoreletError = ArchiveMissingError(f"no such archive: {url}")
    if isinstance(destination, S3):
        try:
            found = destination.list_archives(backup_of(name))
        except (CredentialsError, DestinationMissingError) as reason:
            return reason
        except StoreletError:
            error.hint = "check the name; a key that may not read it sees none either"
        else:
            if any(each.name == name for each in found):
                error = PermissionDeniedError(
                    f"cannot read {url}",
                    hint="may this key read it? is it encrypted with an SSECustomerKey?",
                )
    return error


class OpenedArchive:
    """An archive at a destination. Methods raise StoreletError."""

    def __init__(
        self, destination: Destination, stored: Stored, password: str | None = None
    ) -> None:
        self.name = stored.name  # of its file
        self.backup = backup_of(stored.name)  # that it is named after, if it is
        self.size = stored.size  # bytes
        self.url = destination.url_of(stored)
        self.is_deleted = stored.is_deleted  # its bucket keeps this version
        self.is_bad = stored.is_bad  # marked so; known of those that were listed
        self.modified = datetime.fromtimestamp(stored.modified, UTC)  # by the destination's clock
        self._destination = destination
        self._stored = stored
        # Any bytes, where os.environ had them.
        self._secret = (password or "").encode(errors="surrogateescape")

    @property
    def problems(self) -> list[str]:
        """What is wrong with the archive's catalogue; members may be missing then."""
        return self._listing.problems

    @property
    def started(self) -> datetime | None:
        """When the backup began, by the archive's own record; None where Storelet made none."""
        record = self._record
        return None if record is None else datetime.fromtimestamp(record.started_ns / 1e9, UTC)

    @property
    def host(self) -> str | None:
        """Name of the host that made it, likewise."""
        return None if self._record is None else self._record.host

    def members(self, patterns: Iterable[str] = ()) -> Iterator[StoredMember]:
        """Yield the members, or those that patterns as in a .gitignore fit, as it lists them."""
        return filter(make_filter(patterns), self._listing.members())

    def find(self, name: str) -> StoredMember:
        """Return the member of a name. Raises MemberMissingError."""
        found = None
        for member in self._listing.members():
            if member.name == name:
                found = member  # the last one is the newest, where an archive was appended to
        if found is None:
            raise MemberMissingError(f"no member {name} in {self.name}")
        return found

    def stream(self, member: str | StoredMember) -> Iterator[bytes]:
        """Yield the content of a member; only after the last piece it is known to be right.

        Raises DamagedArchiveError where it is not, or cannot be read.
        """
        found = self.find(member) if isinstance(member, str) else member
        try:
            check_readable(found, self._listing.end)
            self._check_password([found] if found.encryption else [])
            yield from unpack(read_data(self._read, found), found, self._secret)
        except (DamagedError, RefusedError) as error:
            raise DamagedArchiveError(f"{found.name} in {self.name}: {error}") from error

    def read(self, member: str | StoredMember) -> bytes:
        """Return the content of a member. Raises as `stream` does."""
        return b"".join(self.stream(member))

    def extract(
        self,
        target: str | os.PathLike[str],
        patterns: Iterable[str] = (),
        *,
        overwrite: Overwrite = "never",
        dry_run: bool = False,
    ) -> Unpacked:
        """Restore the members, or those that patterns fit, into a directory, made if missing.

        Nothing is written outside of it, nothing that is there is replaced unless `overwrite` is
        "always" or "if-newer" (than the file there), and a restore that was broken off goes on.
        What cannot be restored is told in the result's `refused`, and the rest is.
        """
        path = os.fspath(target)
        is_new = _is_empty(path)
        return self._extract(path, patterns, place, overwrite, dry_run=dry_run, is_new=is_new)

    def extract_in_place(
        self,
        patterns: Iterable[str] = (),
        *,
        overwrite: Overwrite = "never",
        dry_run: bool = False,
    ) -> Unpacked:
        """Restore to where it came from, as `extract` does.

        Links on the way to a source are followed as they are now; below it none is. Raises
        RestoreError where the archive does not say where that was.
        """
        record = self._listing.record
        if record is None or not record.sources:
            raise RestoreError(
                f"{self.name} does not say where its files came from", hint="restore to a target"
            )
        origin = Origin(record.sources)
        return self._extract("/", patterns, origin.place, overwrite, dry_run=dry_run, is_new=False)

    def verify(
        self, *, sample: float = 1.0, start: float | None = None, compare_source: bool = False
    ) -> Unpacked:
        """Read members back and check them: where they are, what they are called, size and CRC.

        All, or about the part `sample` of them, above 0 and up to 1: where each `start` is the one
        before and `sample`, whole ones left out, all come in turn; without, they are chosen at
        random. A member's turn is its name's, so it is the same in each archive of a backup.

        What is not right is told in the result's `refused`; `problems` are those of the catalogue.
        With `compare_source`, an archive that this host made is compared with what it was made of,
        where that shows no change since a bit before; `different` says what is not the same all
        the same. Raises StoreletError.
        """
        if not 0 < sample <= 1:
            raise UsageError(f"not a part of an archive: sample={sample}", hint="0.05 is 5 %")
        first = random.random() if start is None else start  # noqa: S311 - no secret

        def is_chosen(member: StoredMember) -> bool:
            return (zlib.crc32(member.raw_name) / 2**32 - first) % 1 < sample

        chosen = is_chosen if sample < 1 else make_filter(())
        found = survey(self._read, self._listing, chosen, lambda member: member.name, None, "never")
        self._check_password(found.encrypted)
        return Extraction(
            self._read,
            self._listing,
            found,
            self._make_source_finder() if compare_source else lambda _member: "",
            None,
            secret=self._secret,
            replace=False,
        ).run()

    def _make_source_finder(self) -> Callable[[StoredMember], str]:
        """Return what says where a member came from, empty where that is not on this host."""
        record = self._listing.record
        if record is None or record.host != socket.gethostname():
            return lambda _member: ""
        origin = Origin(record.sources)

        newest = record.started_ns - RACY_NS

        def find_source(member: StoredMember) -> str:
            if max(member.mtime_ns, member.ctime_ns or 0) >= newest:
                return ""  # it may have changed while it was read, and shows nothing of it
            try:
                return origin.place(member)
            except RefusedError:
                return ""

        return find_source

    def mark_bad(self, reason: str) -> None:
        """Mark the archive, one of Storelet's, as not to be trusted, for every host to see.

        The mark is a file `<name>.bad` beside it. Nothing is copied from such an archive any more,
        so the next backup reads everything, and it counts for no rule of retention.
        """
        if self._listing.record is None and self.backup is None:
            raise UsageError(f"{self.name} is not Storelet's to mark")
        self._destination.mark_bad(self._stored, reason)

    def _extract(
        self,
        path: str,
        patterns: Iterable[str],
        find_path: Callable[[StoredMember], str],
        overwrite: Overwrite,
        *,
        dry_run: bool,
        is_new: bool,
    ) -> Unpacked:
        root: int | None = None
        try:
            if not dry_run or os.path.isdir(path):
                root = open_root(path, make=not dry_run)
            with ExitStack() as stack:
                looked_at = None
                if root is not None and not is_new:
                    looked_at = stack.enter_context(closing(Target(root, replace=False)))
                found = survey(
                    self._read,
                    self._listing,
                    make_filter(patterns),
                    find_path,
                    looked_at,
                    overwrite,
                )
            if root is not None and path != "/":
                _require_room(root, found.size, path)
            if not dry_run:
                self._check_password(found.encrypted)
            extraction = Extraction(
                self._read,
                self._listing,
                found,
                find_path,
                root,
                secret=self._secret,
                replace=overwrite != "never",
            )
            return extraction.plan() if dry_run else extraction.run()
        except OSError as error:
            if isinstance(error, StoreletError):
                raise
            raise RestoreError(f"cannot restore to {path}: {error.strerror}") from error
        finally:
            if root is not None:
                os.close(root)

    def _check_password(self, members: Sequence[StoredMember]) -> None:
        """Raise CredentialsError where there is no password for encrypted members, or a wrong one.

        It is wrong where it opens none of them: one that it does not open may be damaged.
        """
        if members and not self._secret:
            raise CredentialsError(
                f"{self.name} is encrypted, and no password is given",
                hint="in a script password=, for storeletctl --password-file FILE",
            )
        is_wrong = False
        for member in members:
            try:
                self._try_password(member)
            except DamagedError:  # which is told of where it is read
                continue
            except WrongPasswordError:
                is_wrong = True
            else:
                return
        if is_wrong:
            raise WrongPasswordError(
                f"{self.name} has another password", hint="give the one it was made with"
            )

    def _try_password(self, member: StoredMember) -> None:
        """Raise WrongPasswordError where the password is not that of a member, or DamagedError."""
        from storelet.encryption import HEAD_BYTES, Decryptor

        head_bytes = HEAD_BYTES[member.encryption]
        head = self._read(member.offset, member.head_bytes + head_bytes)
        start = find_data(head, member)
        Decryptor(self._secret, head[start : start + head_bytes])

    @cached_property
    def _record(self) -> ArchiveRecord | None:
        """Read by itself, as it needs no more of the catalogue than its beginning."""
        return find_record(self._read, self.size)

    @cached_property
    def _listing(self) -> Listing:
        listing = Listing(self._read, self.size)
        if listing.problems:
            salvage(self._read, listing)
        return listing

    def _read(self, offset: int, size: int) -> bytes:
        """Read what there is of a range."""
        return self._destination.read(self._stored, offset, max(min(size, self.size - offset), 0))


def _is_empty(path: str) -> bool:
    """Tell whether nothing is there yet; of what cannot be opened, opening it says more."""
    try:
        return not os.listdir(path)
    except OSError:
        return not os.path.lexists(path)


def _require_room(root: int, size: int, path: str) -> None:
    """Raise RestoreError where what is to be written cannot have room, as it is with bombs."""
    found = os.fstatvfs(root)
    free = found.f_bavail * found.f_frsize
    if size > free:
        raise RestoreError(
            f"there is no room for {size:,} bytes in {path}, which has {free:,}",
            hint="restore a part by patterns, or to another place",
        )

"""Deleting from a bucket, and never anything else than what was listed.

An archive is looked at by HEAD, and its ETag is made a condition: some stores ignore conditions in
a batch (moto), others everywhere (radosgw 16.2). Batches have up to 1,000 keys (S3 API reference,
DeleteObjects); their answer is 200 whatever became of each key. What a batch does not do goes one
by one: stores have no batches, or want the MD5 of them, which boto3 does not send any more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from storelet.destination.contract import Stored
from storelet.destination.deletion import Failures, Files
from storelet.destination.s3client import Bucket
from storelet.destination.s3errors import (
    is_condition_unknown,
    is_denied,
    is_missing,
    is_taken,
    status_of,
    translating,
)
from storelet.destination.s3object import ChangedError, look_at
from storelet.destination.sending import Sending
from storelet.errors import (
    ArchiveLockedError,
    CredentialsError,
    DestinationError,
    DestinationMissingError,
    PermissionDeniedError,
)
from storelet.observer import report_moved

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

__all__ = ["delete_files"]

_log = logging.getLogger("storelet")

_MOST_KEYS = 1000  # of a batch
_LOOKS_AT_ONCE = 8
_STOP_SECONDS = 2.0  # for looks on their way when one has failed


def delete_files(bucket: Bucket, prefix: str, files: Files) -> Failures:
    """Delete files and return what kept some. Raises what will keep all others too."""
    deletion = _Deletion(bucket, prefix)
    names = list(files)
    for start in range(0, len(names), _MOST_KEYS):
        deletion.delete({name: files[name] for name in names[start : start + _MOST_KEYS]})
    return deletion.failures


class _Deletion:
    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self.failures: dict[str, DestinationError] = {}
        self._locked: dict[str, datetime] = {}  # until when, as far as the store says it

    def delete(self, files: Files) -> None:
        """Delete no more than a batch's worth."""
        there = self._find(each for each in files.values() if each is not None)
        going = {name: each for name, each in files.items() if each is None or name in there}
        left = self._delete_together(going) if len(going) > 1 else going
        for name, archive in left.items():
            self._delete_one(name, archive)

    def _find(self, archives: Iterable[Stored]) -> set[str]:
        """Return the names of those archives that are still what was listed."""
        looks: Sending[str | None] = Sending(_LOOKS_AT_ONCE)
        try:
            for archive in archives:
                looks.start(partial(self._look, archive))
            looks.collect()
        finally:
            looks.stop(_STOP_SECONDS)
        return {name for name in looks.done if name is not None}

    def _look(self, archive: Stored) -> str | None:
        try:
            head = look_at(self._bucket, self._prefix, archive)
        except ChangedError:
            said = f"another archive has its name in bucket {self._bucket.name} now"
            self.failures[archive.name] = DestinationError(said)
            return None
        report_moved()
        if head is None:
            return None
        if (until := head.get("ObjectLockRetainUntilDate")) is not None:
            self._locked[archive.name] = until
        return archive.name

    def _delete_together(self, files: Files) -> Files:
        """Delete files by one request, and return those that must be tried one by one."""
        from botocore.exceptions import ClientError

        bucket = self._bucket
        objects = [self._identify(name, archive) for name, archive in files.items()]
        with translating(bucket.name, "delete from"):
            try:
                answer = bucket.client.delete_objects(
                    Bucket=bucket.name, Delete={"Objects": objects, "Quiet": True}, **bucket.owner
                )
            except ClientError as error:
                if status_of(error) >= 500 and not is_condition_unknown(error):
                    raise
                _log.debug("Bucket %s takes no batch of keys to delete: %s", bucket.name, error)
                return files
        report_moved()
        left = {}
        for said in answer.get("Errors", ()):
            name = said["Key"].removeprefix(self._prefix)
            if name not in files:
                return files  # it says names in another way
            code, message = said.get("Code", ""), said.get("Message", "")
            failed = ClientError({"Error": {"Code": code, "Message": message}}, "DeleteObjects")
            if is_denied(failed):
                with self._noting(name):
                    raise failed
            elif not is_missing(failed):
                left[name] = files[name]
        return left

    def _identify(self, name: str, archive: Stored | None) -> ObjectIdentifierTypeDef:
        key = self._prefix + name
        return {"Key": key} if archive is None else {"Key": key, "ETag": archive.version}

    def _delete_one(self, name: str, archive: Stored | None) -> None:
        from botocore.exceptions import ClientError

        with self._noting(name):
            try:
                self._delete_if_same(name, archive)
            except ClientError as error:
                if is_missing(error):
                    return
                # An answer that was lost hides our own success: then it is gone, and no other.
                if is_taken(error) and archive is not None and self._look(archive) is None:
                    return
                raise
        report_moved()

    def _delete_if_same(self, name: str, archive: Stored | None) -> None:
        from botocore.exceptions import ClientError

        what = {"Bucket": self._bucket.name, "Key": self._prefix + name, **self._bucket.owner}
        if archive is not None:
            try:
                self._bucket.client.delete_object(**what, IfMatch=archive.version)
                return
            except ClientError as error:
                if not is_condition_unknown(error):
                    raise
        self._bucket.client.delete_object(**what)

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """Keep what goes wrong with one file, unless it will with all others."""
        try:
            with translating(self._bucket.name, "delete from"):
                yield
        except (CredentialsError, DestinationMissingError):
            raise
        except DestinationError as error:
            if error.is_temporary:
                raise
            self.failures[name] = self._explain(name, error)

    def _explain(self, name: str, error: DestinationError) -> DestinationError:
        """Say until when it is locked, where that keeps it."""
        until = self._locked.get(name)
        if until is None or not isinstance(error, PermissionDeniedError):
            return error
        if until < datetime.now(UTC):
            return error
        when = f"{until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        locked = f"bucket {self._bucket.name} keeps it locked until {when}"
        return ArchiveLockedError(locked, hint="it can be deleted then")

"""Amazon S3, and what speaks its language, as a destination.

Uploads are in `s3upload`; here archives are found, read and deleted. Rules and limits: Amazon S3
User Guide, "Amazon S3 multipart upload limits".
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from storelet.abandoned import take_abandoned
from storelet.destination.contract import Stored, Traffic, is_archive_of
from storelet.destination.deletion import delete_with_marks
from storelet.destination.finding import Finding
from storelet.destination.mark import look_for_marks, mark_name, mark_text
from storelet.destination.s3client import ATTEMPTS, Bucket
from storelet.destination.s3deletion import delete_files
from storelet.destination.s3errors import translating
from storelet.destination.s3lock import Lock, check_lock
from storelet.destination.s3object import find_object, look_at, put_object, stored
from storelet.destination.s3policy import make_policy
from storelet.destination.s3settings import examine_bucket, find_default_lock
from storelet.destination.s3upload import LIMITS, S3Upload, abort_upload
from storelet.errors import ArchiveExistsError, DestinationError, UsageError
from storelet.observer import report_moved
from storelet.reuse import CopyLimits

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.type_defs import ObjectTypeDef, ObjectVersionTypeDef

__all__ = ["S3"]

_READ_BYTES = 1 << 20  # at once, a sign of life each

# Of `upload`, what is not for its giver to say.
_OURS = frozenset(
    {"Body", "Bucket", "ChecksumAlgorithm", "IfMatch", "IfNoneMatch", "Key"}
    | {"ObjectLockMode", "ObjectLockRetainUntilDate"}  # said by `lock`
    | {"SSECustomerKeyMD5"}  # boto3 makes it
)
_CUSTOMER_KEY = re.compile("[A-Za-z0-9+/]{43}=")  # base64 of 32 bytes
# Of `upload`, what concerns archives and not their marks.
_NOT_OF_MARKS = frozenset({"Metadata", "StorageClass"})


class S3:
    """Keeps archives in a bucket, their keys beginning with `prefix`.

    `upload` holds request options (`StorageClass`, `ServerSideEncryption`, …); `lock` says for how
    long nobody may delete an archive; `client_options` go to boto3's client. Keys that are left out
    come from boto3's own chain.
    """

    def __init__(
        self,
        bucket: str,
        access_key: str | None = None,
        secret_key: str | None = None,
        *,
        prefix: str = "",
        upload: Mapping[str, Any] | None = None,
        lock: Lock | None = None,
        **client_options: Any,
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._upload_options = dict(upload or {})
        self._lock = lock
        if ours := sorted(_OURS & self._upload_options.keys()):
            raise UsageError(
                f"bucket {bucket}: upload holds what Storelet says itself: {', '.join(ours)}",
                hint="leave it out",
            )
        if "SSECustomerKey" in self._upload_options:
            key = _read_customer_key(self._upload_options["SSECustomerKey"], bucket)
            self._upload_options["SSECustomerKey"] = key
        if access_key is not None:
            client_options["aws_access_key_id"] = access_key
        if secret_key is not None:
            client_options["aws_secret_access_key"] = secret_key
        self._bucket = Bucket(bucket, self._upload_options, client_options)

    @property
    def copy_limits(self) -> CopyLimits:
        """See the contract."""
        return LIMITS

    @property
    def traffic(self) -> Traffic:
        """See the contract."""
        return self._bucket.traffic

    def __str__(self) -> str:
        """Name it in words."""
        return f"bucket {self.bucket}"

    def open_upload(self, name: str, metadata: Mapping[str, str], size: int = 0) -> S3Upload:
        """See the contract; the metadata becomes the object's."""
        self.abort_abandoned()
        if self.find_archive(name) is not None:
            raise ArchiveExistsError(f"{self.prefix}{name} exists in {self}")
        options = {"ContentType": "application/zip", **self._upload_options}
        options["Metadata"] = {**options.get("Metadata", {}), **metadata}
        if self._lock is not None:
            check_lock(self._bucket)
            options |= self._lock.options
        return S3Upload(self._bucket, self.prefix, name, options, size)

    def list_archives(self, backup: str | None) -> list[Stored]:
        """See the contract."""
        start = self._start_of(backup)
        with translating(self.bucket, "list"):
            pages = self._bucket.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=start, **self._bucket.owner
            )
            found = [self._stored(each) for page in pages for each in page.get("Contents", ())]
        archives = (each for each in found if is_archive_of(each.name, backup))
        return look_for_marks(archives, {each.name for each in found})

    def list_prefixes(self) -> list[str]:
        """Return what this prefix goes on with, up to the next slash: places further down."""
        with translating(self.bucket, "list"):
            pages = self._bucket.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix, Delimiter="/", **self._bucket.owner
            )
            return [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", ())]

    def list_versions(self, backup: str | None) -> list[Stored]:
        """See the contract; a mark counts for all that was ever under an archive's name."""
        start = self._start_of(backup)
        with translating(self.bucket, "list versions in"):
            pages = self._bucket.client.get_paginator("list_object_versions").paginate(
                Bucket=self.bucket, Prefix=start, **self._bucket.owner
            )
            found = [self._version(each) for page in pages for each in page.get("Versions", ())]
        archives = (each for each in found if is_archive_of(each.name, backup))
        return look_for_marks(archives, {each.name for each in found})

    def find_archive(self, name: str) -> Stored | None:
        """See the contract; where the key may not ask, none is found."""
        with translating(self.bucket, "read"):
            head = find_object(self._bucket, self.prefix + name)
            return None if head is None else stored(name, head)

    def url_of(self, archive: Stored) -> str:
        """See the contract."""
        version = f"?versionId={archive.version_id}" if archive.is_deleted else ""
        return f"s3://{self.bucket}/{self.prefix}{archive.name}{version}"

    def read(self, archive: Stored, offset: int, size: int) -> bytes:
        """See the contract."""
        if not size:
            return b""
        doing = "read" if archive.version_id is None else "read versions in"
        with translating(self.bucket, doing):
            data = self._read_persistently(archive, offset, size)
        if len(data) != size:
            raise DestinationError(f"{self} sent other bytes of {archive.name} than asked for")
        return data

    def mark_bad(self, archive: Stored, reason: str) -> None:
        """See the contract."""
        if look_at(self._bucket, self.prefix, archive) is None:
            raise DestinationError(f"{archive.name} is not in {self} any more")
        options = {k: v for k, v in self._upload_options.items() if k not in _NOT_OF_MARKS}
        options |= {"Bucket": self.bucket, "Key": self.prefix + mark_name(archive.name)}
        options |= {"Body": mark_text(reason), "ContentType": "text/plain; charset=utf-8"}
        with translating(self.bucket, "mark an archive in"):
            put_object(self._bucket, options)

    def delete_archives(self, archives: Sequence[Stored]) -> None:
        """See the contract; where the bucket keeps versions, a delete marker hides the archive."""
        delete_with_marks(archives, partial(delete_files, self._bucket, self.prefix))

    def why_untried(self) -> str | None:
        """See the contract."""
        if self._lock is not None:
            return "each archive is locked when it is written"
        locked = find_default_lock(self._bucket)
        return None if locked is None else f"{self} locks whatever is put there, for {locked}"

    def examine_place(self, backup: str, made: Stored | None) -> Iterator[Finding]:
        """See the contract."""
        return examine_bucket(
            self._bucket,
            self.prefix,
            self._start_of(backup),
            self._upload_options,
            self._lock,
            made,
        )

    def least_policy(
        self, backup: str, *, reads: bool = True, deletes: bool = True
    ) -> dict[str, Any]:
        """Return the least that a key must be allowed for the backup `backup`: an IAM policy.

        Archives are read, and listed, in order to be copied from, verified and pruned; they are
        deleted where a copy turns out wrong, and to be pruned. One that has to write alone needs
        less. What `examine` asks for stands by itself. Raises UsageError.
        """
        return make_policy(
            self.bucket,
            self._start_of(backup),
            self._upload_options,
            partition=self._bucket.client.meta.partition,
            is_locked=self._lock is not None,
            reads=reads,
            deletes=deletes,
        )

    def _start_of(self, backup: str | None) -> str:
        return self.prefix if backup is None else f"{self.prefix}{backup}_"

    def abort_abandoned(self) -> None:
        """Abort the uploads that a killed run has left here, as far as they are known."""
        for upload in take_abandoned(self.bucket, self.prefix):
            abort_upload(self._bucket, upload.key, upload.upload_id)

    def _read_persistently(self, archive: Stored, offset: int, size: int) -> bytes:
        """Read, and again where the connection breaks amid the bytes: boto3 does not."""
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        for _ in range(ATTEMPTS - 1):
            with suppress(HTTPClientError, IncompleteReadError):
                return self._read_once(archive, offset, size)
        return self._read_once(archive, offset, size)

    def _read_once(self, archive: Stored, offset: int, size: int) -> bytes:
        options = dict(self._bucket.repeated)
        if archive.version_id is not None:
            options["VersionId"] = archive.version_id
        got = self._bucket.client.get_object(
            Bucket=self.bucket,
            Key=self.prefix + archive.name,
            Range=f"bytes={offset}-{offset + size - 1}",
            IfMatch=archive.version,
            **options,
        )
        return _read_body(got["Body"], size)

    def _version(self, found: ObjectVersionTypeDef) -> Stored:
        is_only = found["IsLatest"] and found["VersionId"] == "null"  # as where none are kept
        return replace(
            self._stored(found),
            version_id=None if is_only else found["VersionId"],
            is_deleted=not found["IsLatest"],
        )

    def _stored(self, found: ObjectTypeDef | ObjectVersionTypeDef) -> Stored:
        return Stored(
            name=found["Key"].removeprefix(self.prefix),
            size=found["Size"],
            version=found["ETag"],
            modified=found["LastModified"].timestamp(),
        )


def _read_customer_key(key: object, bucket: str) -> bytes:
    """Return a key as boto3 takes it, which would take any text for one and encode that."""
    if not isinstance(key, str) or not _CUSTOMER_KEY.fullmatch(key):
        raise UsageError(
            f"bucket {bucket}: SSECustomerKey is not base64 of 32 bytes",
            hint="make one with: openssl rand -base64 32",
        )
    return base64.b64decode(key)


def _read_body(body: StreamingBody, size: int) -> bytes:
    """Return `size` bytes, or one more: a store that knows no ranges sends all it has."""
    pieces, left = [], size + 1
    while left and (piece := body.read(min(_READ_BYTES, left))):
        pieces.append(piece)
        left -= len(piece)
        report_moved()
    return b"".join(pieces)

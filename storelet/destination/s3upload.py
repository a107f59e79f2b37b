"""An upload to S3.

What fits one part is put as one object; anything larger goes as a multipart upload. Copies of
the archive before are its first parts, numbered from 1, since their number is known; fresh parts
follow, and all are sent side by side.

S3 checks what arrives, by a CRC-32 that is named when the upload begins, or by the MD5 of each part
that is no copy:

- where there are copies: a checksum that is named makes stores read every copied byte once more
  (SeaweedFS took twice as long), and some then forget it at the end;
- where the archive is to be locked: S3 wants it in a header, and boto3 puts checksums behind;
- where a store refuses checksums.

Rules and limits: Amazon S3 User Guide, "Amazon S3 multipart upload limits"; API reference,
CompleteMultipartUpload (with checksums part numbers are consecutive).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from storelet.destination.contract import CopyFailedError, Stored
from storelet.destination.s3client import Bucket
from storelet.destination.s3errors import (
    are_checksums_refused,
    is_condition_unknown,
    is_missing,
    is_taken,
    translating,
)
from storelet.destination.s3object import find_object, md5_of, put_object
from storelet.destination.sending import Sending
from storelet.errors import ArchiveExistsError, StoreletError
from storelet.observer import UploadEnded, UploadOpened, report, report_moved
from storelet.reuse import CopyLimits

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

__all__ = [
    "LIMITS",
    "PARTS_AT_ONCE",
    "PART_BYTES",
    "S3Upload",
    "abort_upload",
    "part_bytes",
]

_log = logging.getLogger("storelet")

_MOST_PARTS = 10_000
_LARGEST_PART = 5 << 30
PART_BYTES = 8 << 20  # S3 wants 5 MiB at least of every part but the last
PARTS_AT_ONCE = 4  # on connections of their own; each is in memory until it has arrived
_MEMORY_BYTES = 128 << 20  # for parts on their way, fewer of them where they are large
_COPIES_AT_ONCE = 8
LIMITS = CopyLimits(smallest=5 << 20, usual=128 << 20, largest=_LARGEST_PART, most=9_000)
_ABORT_SECONDS = 2.0  # for parts on their way when an upload is aborted
_OWN_ID = "storelet-upload"  # metadata key: which upload made this object


def part_bytes(number: int, copies: int, expected: int) -> int:
    """Return how large part `number` of an upload is, unless it is the last.

    It has `copies` copied parts, and about `expected` bytes that are not. Half of the numbers
    that are left hold those, in parts of one size; should there be more, sizes double.
    """
    left = _MOST_PARTS - copies
    usual = max(PART_BYTES, -(-2 * expected // left))
    beyond = number - copies - 1 - left // 2
    doublings = 0 if beyond < 0 else 1 + 10 * beyond // left
    return int(min(usual << doublings, _LARGEST_PART))


class S3Upload:
    """Collects parts and sends PARTS_AT_ONCE of them while it goes on.

    No request is made before there is something to copy, or the first part is full.
    """

    def __init__(
        self, bucket: Bucket, prefix: str, name: str, options: Mapping[str, Any], size: int
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._target: dict[str, Any] = {"Bucket": bucket.name, "Key": prefix + name}
        self._own_id = uuid.uuid4().hex
        self._options = {**options, "Metadata": {**options["Metadata"], _OWN_ID: self._own_id}}
        self._is_locked = "ObjectLockMode" in options
        self._doing = "write locked archives to" if self._is_locked else "write to"
        self._expected = size  # bytes that are not copied
        self._size = 0  # bytes given so far, and copied
        self._buffer = bytearray()  # the part that is being filled, as large as it becomes
        self._filled = 0  # bytes of it
        self._copied: tuple[Stored, Sequence[tuple[int, int]]] | None = None
        self._copies: Sending[CompletedPartTypeDef] = Sending(_COPIES_AT_ONCE)
        self._parts: Sending[CompletedPartTypeDef] = Sending(PARTS_AT_ONCE)
        self._upload_id: str | None = None

    def copy(self, source: Stored, ranges: Sequence[tuple[int, int]]) -> None:
        """See the contract; the first copy is awaited, since most fail all for one reason."""
        self._copied = (source, _with_small_first(ranges))
        self._size += sum(size for _, size in ranges)
        with _copying(), translating(self._bucket.name, "copy in"):
            self._begin()

    def write(self, data: bytes | memoryview) -> None:
        """See the contract."""
        self._size += len(data)
        rest = memoryview(data)
        while rest:
            if not self._filled and len(self._buffer) != self._next_bytes:
                self._buffer = bytearray(self._next_bytes)
            room = len(self._buffer) - self._filled
            some = rest[:room]
            self._buffer[self._filled : self._filled + len(some)] = some
            self._filled += len(some)
            rest = rest[room:]
            if self._filled == len(self._buffer):
                self._give_part(self._take_buffer())

    def commit(self) -> str:
        """See the contract."""
        if self._upload_id is not None and self._filled:
            self._give_part(self._take_buffer())
        with _copying(), translating(self._bucket.name, "copy in"):
            self._copies.collect()
        with translating(self._bucket.name, self._doing):
            self._parts.collect()
            self._finish_once()
        self._stop_sending()
        if self._upload_id is not None:
            report(UploadEnded(upload_id=self._upload_id))
            self._upload_id = None
        return "s3://{Bucket}/{Key}".format(**self._target)

    def abort(self) -> None:
        """See the contract."""
        self._stop_sending()
        upload_id, self._upload_id = self._upload_id, None
        if upload_id is not None:
            abort_upload(self._bucket, self._target["Key"], upload_id)

    @property
    def _checksum(self) -> dict[str, Any]:
        return {} if self._copied is not None or self._is_locked else self._bucket.checksum

    def _take_buffer(self) -> bytes:
        """Return what has been filled; the buffer is empty then."""
        taken = bytes(memoryview(self._buffer)[: self._filled])
        self._filled = 0
        return taken

    @property
    def _next_bytes(self) -> int:
        return part_bytes(
            self._copies.count + self._parts.count + 1, self._copies.count, self._expected
        )

    def _stop_sending(self) -> None:
        # What arrives after an abort stays behind; but whoever interrupts us will not wait long.
        self._copies.stop(_ABORT_SECONDS)
        self._parts.stop(_ABORT_SECONDS)

    def _begin(self) -> None:
        """Open the multipart upload, and start its copies."""
        from botocore.exceptions import ClientError

        try:
            self._upload_id = self._create()
        except ClientError as error:
            if not (self._checksum and are_checksums_refused(error)):
                raise
            self._bucket.forgo_checksums(error)
            self._upload_id = self._create()
        report(
            UploadOpened(
                bucket=self._bucket.name, key=self._target["Key"], upload_id=self._upload_id
            )
        )
        source, ranges = self._copied or (None, ())
        for offset, size in ranges:
            copy = partial(self._copy_part, self._upload_id, self._copies.count + 1)
            self._copies.start(partial(copy, source, offset, offset + size - 1))
            if self._copies.count == 1:
                self._copies.collect()

    def _create(self) -> str:
        created = self._bucket.client.create_multipart_upload(
            **self._target, **self._options, **self._checksum
        )
        return created["UploadId"]

    def _copy_part(
        self, upload_id: str, number: int, source: Stored, first: int, last: int
    ) -> CompletedPartTypeDef:
        with _copying(first), translating(self._bucket.name, "copy in"):
            copied = self._bucket.client.upload_part_copy(
                **self._target,
                **self._bucket.repeated,
                **self._bucket.repeated_for_source,
                UploadId=upload_id,
                PartNumber=number,
                CopySource={"Bucket": self._bucket.name, "Key": self._prefix + source.name},
                CopySourceRange=f"bytes={first}-{last}",
                CopySourceIfMatch=source.version,
            )
        report_moved()
        return _completed(number, copied["CopyPartResult"])

    def _give_part(self, data: bytes) -> None:
        """Send a part, while the next one is collected; wait where enough are on their way."""
        with translating(self._bucket.name, self._doing):
            if self._upload_id is None:
                self._begin()
            if not self._parts.count:
                self._give_first_part(data)
                return
            at_once = max(1, min(PARTS_AT_ONCE, _MEMORY_BYTES // len(data)))
            self._parts.collect(at_once - 1)
            self._start_part(data)
        with _copying(), translating(self._bucket.name, "copy in"):
            self._copies.look()

    def _give_first_part(self, data: bytes) -> None:
        """Send a part that may be refused with its checksum, and then is sent without one."""
        from botocore.exceptions import ClientError

        self._start_part(data)
        if not self._checksum:
            return
        try:
            self._parts.collect()
        except ClientError as error:
            if not are_checksums_refused(error):
                raise
            self.abort()
            self._bucket.forgo_checksums(error)
            self._parts = Sending(PARTS_AT_ONCE)
            self._begin()
            self._start_part(data)

    def _start_part(self, data: bytes) -> None:
        number = self._copies.count + self._parts.count + 1
        self._parts.start(partial(self._send_part, self._upload_id, number, data))

    def _send_part(self, upload_id: str | None, number: int, data: bytes) -> CompletedPartTypeDef:
        sent = self._bucket.client.upload_part(
            **self._target,
            **self._bucket.repeated,
            **(self._checksum or md5_of(data)),
            UploadId=upload_id or "",
            PartNumber=number,
            Body=data,
        )
        return _completed(number, sent)

    def _finish_once(self) -> None:
        """Finish where the name is free; that a lost answer hid our success is no failure."""
        from botocore.exceptions import BotoCoreError, ClientError

        taken = ArchiveExistsError("{Key} is taken in bucket {Bucket}".format(**self._target))
        if find_object(self._bucket, self._target["Key"]) is not None:
            raise taken  # asked once more: some ignore the condition (radosgw 16.2, JuiceFS)
        try:
            self._finish_if_free()
        except (BotoCoreError, ClientError) as error:
            if self._is_ours():
                return
            if is_taken(error):
                raise taken from error
            if self._copies.count and isinstance(error, ClientError):
                # Parts of several sizes (R2), copies without checksums, and whatever else.
                raise CopyFailedError(f"{self._bucket.name} refuses the copies: {error}") from error
            raise

    def _finish_if_free(self) -> None:
        """Make the free name a condition, where the store knows conditions."""
        from botocore.exceptions import ClientError

        try:
            self._finish({"IfNoneMatch": "*"})
        except ClientError as error:
            if not is_condition_unknown(error):
                raise
            self._finish({})

    def _finish(self, condition: dict[str, Any]) -> None:
        if self._upload_id is None:
            self._put(condition)
            return
        self._bucket.client.complete_multipart_upload(
            **self._target,
            **self._bucket.repeated,
            **condition,
            UploadId=self._upload_id,
            MultipartUpload={"Parts": self._copies.done + self._parts.done},
            MpuObjectSize=self._size,
        )

    def _put(self, condition: dict[str, Any]) -> None:
        body = bytes(self._buffer[: self._filled])
        put_object(self._bucket, {**self._target, **self._options, **condition, "Body": body})

    def _is_ours(self) -> bool:
        """Tell whether the object is there and ours: a lost answer hides our own success."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            head = find_object(self._bucket, self._target["Key"])
        except (BotoCoreError, ClientError):  # the error being handled already says more
            return False
        return head is not None and head["Metadata"].get(_OWN_ID) == self._own_id


def _with_small_first(ranges: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Cut a small copy off the first one, which all others wait for."""
    (offset, size), *rest = ranges
    if size < 2 * PART_BYTES:
        return ranges
    return [(offset, PART_BYTES), (offset + PART_BYTES, size - PART_BYTES), *rest]


def abort_upload(bucket: Bucket, key: str, upload_id: str) -> None:
    """Abort an upload, and report it where the store keeps nothing of it; failing is logged."""
    try:
        with translating(bucket.name, "abort uploads in"):
            bucket.client.abort_multipart_upload(
                Bucket=bucket.name, Key=key, UploadId=upload_id, **bucket.owner
            )
    except StoreletError as error:
        if not is_missing(error.__cause__):
            _log.warning("Could not abort the upload of %s: %s", key, error)
            return
    report(UploadEnded(upload_id=upload_id))


def _completed(number: int, part: Any) -> CompletedPartTypeDef:
    completed: CompletedPartTypeDef = {"PartNumber": number, "ETag": part["ETag"]}
    if "ChecksumCRC32" in part:  # some stores take checksums and do not return them
        completed["ChecksumCRC32"] = part["ChecksumCRC32"]
    return completed


@contextmanager
def _copying(offset: int | None = None) -> Iterator[None]:
    """Raise what goes wrong with a copy as CopyFailedError: without copies it may go well."""
    try:
        yield
    except CopyFailedError:
        raise
    except StoreletError as error:
        raise CopyFailedError(error.message, offset=offset) from error

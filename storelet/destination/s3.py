"""Amazon S3, and what speaks its language, as a destination.

What fits one part is put as one object; anything larger goes as a multipart upload whose parts
carry CRC-32 checksums, named at its start, so that S3 checks each part and the whole. Rules and
limits: Amazon S3 User Guide, "Amazon S3 multipart upload limits".

boto3 is imported when a client is made, not with this module.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from storelet.abandoned import take_abandoned
from storelet.destination.s3errors import (
    code_of,
    is_condition_unknown,
    is_missing,
    is_taken,
    translating,
)
from storelet.errors import ArchiveExistsError, StoreletError, UsageError
from storelet.observer import UploadEnded, report

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

__all__ = ["PARTS_AT_ONCE", "PART_BYTES", "S3", "part_bytes"]

_log = logging.getLogger("storelet")

PART_BYTES = 8 << 20  # S3 wants 5 MiB at least of every part but the last
PARTS_AT_ONCE = 4  # on connections of their own; each is in memory until it has arrived
_ABORT_SECONDS = 2.0  # for parts on their way when an upload is aborted
_PARTS_PER_SIZE = 1_000  # then parts double, so that the allowed 10,000 reach 8 TB
_OWN_ID = "storelet-upload"  # metadata key: which upload made this object

# Of `upload`, what every request about one object must repeat (S3 API reference, UploadPart).
_REPEATED = frozenset(
    {
        "ExpectedBucketOwner",
        "RequestPayer",
        "SSECustomerAlgorithm",
        "SSECustomerKey",
        "SSECustomerKeyMD5",
    }
)
# Of `upload`, what is not for its giver to say.
_OURS = frozenset({"Body", "Bucket", "ChecksumAlgorithm", "IfMatch", "IfNoneMatch", "Key"})


class S3:
    """Keeps archives in a bucket, their keys beginning with `prefix`.

    `upload` holds request options (`StorageClass`, `ServerSideEncryption`, …); `client_options`
    go to boto3's client. Keys that are left out come from boto3's own chain.
    """

    def __init__(
        self,
        bucket: str,
        access_key: str | None = None,
        secret_key: str | None = None,
        *,
        prefix: str = "",
        upload: Mapping[str, Any] | None = None,
        **client_options: Any,
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._upload_options = dict(upload or {})
        if ours := sorted(_OURS & self._upload_options.keys()):
            raise UsageError(
                f"bucket {bucket}: upload holds what Storelet says itself: {', '.join(ours)}",
                hint="leave it out",
            )
        self._client_options = client_options
        if access_key is not None:
            self._client_options["aws_access_key_id"] = access_key
        if secret_key is not None:
            self._client_options["aws_secret_access_key"] = secret_key
        self._client: S3Client | None = None

    def __str__(self) -> str:
        """Name it in words."""
        return f"bucket {self.bucket}"

    def open_upload(self, name: str, metadata: Mapping[str, str]) -> _S3Upload:
        """See the contract; the metadata becomes the object's."""
        key = self.prefix + name
        with translating(self.bucket):
            client = self._open_client()
            if _is_there(client, self.bucket, key, self._repeated()):
                raise ArchiveExistsError(f"{key} exists in {self}")
        options = dict(self._upload_options)
        own_id = uuid.uuid4().hex
        options["Metadata"] = {**options.get("Metadata", {}), **metadata, _OWN_ID: own_id}
        options.setdefault("ContentType", "application/zip")
        return _S3Upload(client, self.bucket, key, options, self._repeated(), own_id)

    def abort_abandoned(self) -> None:
        """Abort the uploads that `abandoned` names here, beneath our prefix; report each.

        Raises StoreletError.
        """
        for upload in take_abandoned(self.bucket, self.prefix):
            try:
                with translating(self.bucket):
                    self._open_client().abort_multipart_upload(
                        Bucket=upload.bucket, Key=upload.key, UploadId=upload.upload_id
                    )
            except StoreletError as error:
                if not is_missing(error.__cause__):
                    raise
            report(UploadEnded(upload_id=upload.upload_id))

    def _repeated(self) -> dict[str, Any]:
        return {name: value for name, value in self._upload_options.items() if name in _REPEATED}

    def _open_client(self) -> S3Client:
        if self._client is None:
            import boto3
            from botocore.config import Config

            ours = Config(retries={"mode": "standard", "total_max_attempts": 5})
            options = dict(self._client_options)
            options["config"] = ours.merge(options["config"]) if "config" in options else ours
            try:
                self._client = boto3.client("s3", **options)
            except (TypeError, ValueError) as error:
                raise UsageError(
                    f"bucket {self.bucket}: {error}",
                    hint="check the options for boto3's client, endpoint_url among them",
                ) from error
        return self._client


class _S3Upload:
    """Collects parts and sends PARTS_AT_ONCE of them while it goes on.

    No request is made before the first part is full.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        key: str,
        options: Mapping[str, Any],
        repeated: Mapping[str, Any],
        own_id: str,
    ) -> None:
        self._client = client
        self._target: dict[str, Any] = {"Bucket": bucket, "Key": key}
        self._options = options
        self._repeated = repeated
        self._own_id = own_id
        self._buffer = bytearray()
        self._parts: list[CompletedPartTypeDef] = []  # those that have arrived
        self._on_their_way: deque[Future[CompletedPartTypeDef]] = deque()
        self._upload_id: str | None = None

    def write(self, data: bytes | memoryview) -> None:
        self._buffer += data
        while len(self._buffer) >= (size := part_bytes(self._next_number)):
            self._give_part(bytes(self._buffer[:size]))
            del self._buffer[:size]

    def commit(self) -> str:
        if self._upload_id is not None and self._buffer:
            self._give_part(bytes(self._buffer))
        self._await_parts(0)
        with translating(self._target["Bucket"]):
            self._finish_once()
        self._upload_id = None
        return "s3://{Bucket}/{Key}".format(**self._target)

    def abort(self) -> None:
        if self._upload_id is None:
            return
        # What arrives after an abort stays behind; but whoever interrupts us will not wait long.
        wait(self._on_their_way, timeout=_ABORT_SECONDS)
        upload_id, self._upload_id = self._upload_id, None
        try:
            with translating(self._target["Bucket"]):
                self._client.abort_multipart_upload(
                    **self._target, UploadId=upload_id, **self._owner()
                )
        except StoreletError as error:
            if not is_missing(error.__cause__):
                _log.warning("Could not abort the upload of %s: %s", self._target["Key"], error)

    def _owner(self) -> dict[str, Any]:
        """Options that abort and complete know too."""
        return {k: v for k, v in self._repeated.items() if not k.startswith("SSE")}

    @property
    def _next_number(self) -> int:
        return len(self._parts) + len(self._on_their_way) + 1

    def _give_part(self, data: bytes) -> None:
        """Send a part, while the next one is collected; wait where enough are on their way."""
        if self._upload_id is None:
            with translating(self._target["Bucket"]):
                self._upload_id = self._client.create_multipart_upload(
                    **self._target, **self._options, ChecksumAlgorithm="CRC32"
                )["UploadId"]
            _log.debug("Began multipart upload %s", self._upload_id)
        self._await_parts(PARTS_AT_ONCE - 1)
        part: Future[CompletedPartTypeDef] = Future()
        # A daemon thread: one that hangs must not keep a script from ending, as a pool's would.
        Thread(
            target=_fulfil,
            args=(part, partial(self._send_part, self._upload_id, self._next_number, data)),
            name=f"part {self._next_number}",
            daemon=True,
        ).start()
        self._on_their_way.append(part)

    def _await_parts(self, left: int) -> None:
        """Wait until no more than `left` parts are on their way. Raises DestinationError."""
        while len(self._on_their_way) > left:
            with translating(self._target["Bucket"]):
                self._parts.append(self._on_their_way.popleft().result())

    def _send_part(self, upload_id: str, number: int, data: bytes) -> CompletedPartTypeDef:
        sent = self._client.upload_part(
            **self._target,
            **self._repeated,
            UploadId=upload_id,
            PartNumber=number,
            Body=data,
            ChecksumAlgorithm="CRC32",
        )
        part: CompletedPartTypeDef = {"PartNumber": number, "ETag": sent["ETag"]}
        if "ChecksumCRC32" in sent:  # some stores take checksums and do not return them
            part["ChecksumCRC32"] = sent["ChecksumCRC32"]
        return part

    def _finish_once(self) -> None:
        """Finish where the name is free; that a lost answer hid our success is no failure."""
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, key = self._target["Bucket"], self._target["Key"]
        if _is_there(self._client, bucket, key, self._repeated):
            # Once more, because some stores ignore the condition (radosgw 16.2, JuiceFS).
            raise ArchiveExistsError(f"{key} is taken in bucket {bucket}")
        try:
            self._finish_if_free()
        except (BotoCoreError, ClientError) as error:
            if self._is_ours():
                return
            if is_taken(error):
                raise ArchiveExistsError(f"{key} is taken in bucket {bucket}") from error
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
            self._client.put_object(
                **self._target, **self._options, **condition, Body=bytes(self._buffer)
            )
        else:
            self._client.complete_multipart_upload(
                **self._target,
                **self._repeated,
                **condition,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": self._parts},
            )

    def _is_ours(self) -> bool:
        """Tell whether the object is there and ours: a lost answer hides our own success."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            head = self._client.head_object(**self._target, **self._repeated)
        except (BotoCoreError, ClientError):  # the error being handled already says more
            return False
        return head["Metadata"].get(_OWN_ID) == self._own_id


def _fulfil(future: Future[Any], call: Callable[[], Any]) -> None:
    """Call, and hand over what comes of it."""
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
        future.set_exception(error)


def part_bytes(number: int) -> int:
    """Return how large part `number`, from 1 on, of an upload is, unless it is the last."""
    return PART_BYTES << (number - 1) // _PARTS_PER_SIZE


def _is_there(client: S3Client, bucket: str, key: str, options: Mapping[str, Any]) -> bool:
    """Ask by HEAD; what an answer without a body does not explain is left to the upload."""
    from botocore.exceptions import ClientError

    try:
        client.head_object(Bucket=bucket, Key=key, **options)
    except ClientError as error:
        if code_of(error) in {"400", "403", "404", "405", "AccessDenied", "NoSuchKey"}:
            return False
        raise
    return True

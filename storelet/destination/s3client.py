"""The way to a bucket: boto3's client, what each request must say, what has gone over the wire.

boto3 is imported when the client is made, not with this module.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

from storelet.destination.contract import Traffic
from storelet.errors import UsageError
from storelet.observer import report_moved

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from mypy_boto3_s3 import S3Client

__all__ = ["ATTEMPTS", "Bucket"]

_log = logging.getLogger("storelet")

ATTEMPTS = 5  # of each request, where the error is a temporary one
# Without a byte either way, and for connecting. Not less: copying, or completing, may well take
# that long.
_TIMEOUT_SECONDS = 60
_CONNECTIONS = 16  # parts and copies on their way together, and one more

# Of `upload`, what every request about one object must repeat (S3 API reference, UploadPart).
_REPEATED = frozenset(
    {
        "ExpectedBucketOwner",
        "RequestPayer",
        "SSECustomerAlgorithm",
        "SSECustomerKey",
    }
)


class Bucket:
    """A bucket, as the requests to it need it; boto3 retries temporary errors."""

    def __init__(
        self, name: str, upload_options: Mapping[str, Any], client_options: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.has_checksums = True  # until it refuses them
        self.traffic = Traffic()
        self.repeated = {k: v for k, v in upload_options.items() if k in _REPEATED}
        self._client_options = dict(client_options)
        self._client: S3Client | None = None
        self._counting = Lock()

    @property
    def checksum(self) -> dict[str, Any]:
        """The parameter that has S3 check what arrives."""
        return {"ChecksumAlgorithm": "CRC32"} if self.has_checksums else {}

    @property
    def owner(self) -> dict[str, Any]:
        """Of what is repeated, that which is not about the object's bytes."""
        return {k: v for k, v in self.repeated.items() if not k.startswith("SSE")}

    @property
    def repeated_for_source(self) -> dict[str, Any]:
        """What a copy must say of its source, which has the same key and owner."""
        names = {k: f"CopySource{k}" for k in self.repeated if k.startswith("SSE")}
        names["ExpectedBucketOwner"] = "ExpectedSourceBucketOwner"
        return {new: self.repeated[k] for k, new in names.items() if k in self.repeated}

    @property
    def client(self) -> S3Client:
        """boto3's client. Raises UsageError where its options cannot be."""
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def forgo_checksums(self, reason: object) -> None:
        """Go on without: some stores refuse them, or the way in which boto3 sends them."""
        _log.warning("Bucket %s takes no checksums, so none are sent: %s", self.name, reason)
        self.has_checksums = False

    def _make_client(self) -> S3Client:
        import boto3
        import botocore.session
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=_TIMEOUT_SECONDS,
            read_timeout=_TIMEOUT_SECONDS,
            max_pool_connections=_CONNECTIONS,
            # We name checksums where they are wanted: boto3 would add them everywhere.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        options = dict(self._client_options)
        options["config"] = config.merge(options["config"]) if "config" in options else config
        try:
            client = boto3.client("s3", **options)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"bucket {self.name}: {error}",
                hint="check the options for boto3's client, endpoint_url among them",
            ) from error
        client.meta.events.register("before-send.s3", self._watch)
        said = botocore.session.get_session().get_config_variable("request_checksum_calculation")
        if said == "when_required":  # in the environment or a profile
            self.has_checksums = False
        return client

    def _watch(self, request: AWSPreparedRequest, **_more: Any) -> None:
        """Count a request that is about to be sent, signed; boto3 calls this in any thread."""
        headers = request.headers
        size = headers.get("X-Amz-Decoded-Content-Length") or headers.get("Content-Length") or 0
        with self._counting:
            self.traffic += Traffic(1, int(size))
        if request.body:
            request.body = _Body(request.body)  # type: ignore[assignment] # it has read


class _Body:
    """The body of a request on its way: who asks for more of it has sent what was asked before.

    botocore asks for 128 KiB at a time.
    """

    def __init__(self, body: Any) -> None:
        self._file = body if hasattr(body, "read") else io.BytesIO(body)
        self._given = 0  # bytes, on their way

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        if self._given:
            report_moved(sent=self._given)
        piece: bytes = self._file.read(size)
        self._given = len(piece)
        return piece

    def seek(self, offset: int) -> None:
        """Go back: boto3 does so before it sends the same bytes once more."""
        self._file.seek(offset)
        self._given = 0

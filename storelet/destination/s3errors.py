"""What S3's answers mean: boto3's exceptions as Storelet's, each with a hint.

Codes: Amazon S3 API Reference, "Error responses"; other stores use them too, or nearly. What is
temporary is what boto3 tries again, which by then it has done in vain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from storelet.errors import (
    ArchiveLockedError,
    CredentialsError,
    DestinationError,
    DestinationMissingError,
    PermissionDeniedError,
    StoreletError,
    UsageError,
)

__all__ = [
    "are_checksums_refused",
    "code_of",
    "is_condition_unknown",
    "is_denied",
    "is_missing",
    "is_taken",
    "status_of",
    "translating",
]

_WRONG_KEY = {"AuthFailure", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_DENIED = {"403", "AccessDenied", "AccountProblem", "AllAccessDisabled", "Forbidden"}
_TEMPORARY = {
    "BandwidthLimitExceeded",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_TEMPORARY_STATUS = {408, 429, 500, 502, 503, 504}  # not 501, not implemented; 507, disk full
_PERMISSIONS = {
    "write to": "s3:PutObject and s3:AbortMultipartUpload",
    "write locked archives to": "s3:PutObject, s3:PutObjectRetention and s3:AbortMultipartUpload",
    "abort uploads in": "s3:AbortMultipartUpload",
    "copy in": "s3:GetObject",
    "delete from": "s3:DeleteObject",
    "list": "s3:ListBucket",
    "list versions in": "s3:ListBucketVersions",
    "mark an archive in": "s3:PutObject",
    "read": "s3:GetObject",
    "read the lifecycle rules of": "s3:GetLifecycleConfiguration",
    "read the object lock of": "s3:GetBucketObjectLockConfiguration",
    "read the versioning of": "s3:GetBucketVersioning",
    "read versions in": "s3:GetObjectVersion",
}
# Codes and words of stores that keep an object from being deleted for a time.
_LOCKED = re.compile(r"object.?lock|\bworm\b|immutab|retention|legal.?hold", re.IGNORECASE)
_OTHER_REGION = {
    "301",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
}


def code_of(error: BaseException | None) -> str:
    """Return S3's error code, or the HTTP status where the answer had no body; else nothing."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def status_of(error: BaseException | None) -> int:
    """Return the HTTP status of S3's answer, 0 where there was none."""
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_denied(error: BaseException | None) -> bool:
    """Tell whether the key is known and may not."""
    return code_of(error) in _DENIED


def is_missing(error: BaseException | None) -> bool:
    """Tell whether the object or the upload is gone already."""
    return code_of(error) in {"404", "NoSuchKey", "NoSuchUpload"}


def is_taken(error: BaseException | None) -> bool:
    """Tell whether a condition did not hold, or somebody is just writing there.

    `If-None-Match: *` found the name taken, `If-Match` something else under it.
    """
    return code_of(error) in {"409", "412", "ConditionalRequestConflict", "PreconditionFailed"}


def is_condition_unknown(error: BaseException | None) -> bool:
    """Tell whether the store has no such condition (Backblaze B2: NotImplemented)."""
    return code_of(error) in {"501", "NotImplemented"}


def are_checksums_refused(error: BaseException | None) -> bool:
    """Tell whether the store does not take checksums, or not in the way that boto3 sends them.

    radosgw 16.2 and JuiceFS have no trailers, which stand for them over HTTPS
    (MissingContentLength); Wasabi and Backblaze B2 name the checksum in what they say.
    """
    code = code_of(error)
    said = getattr(error, "response", {}).get("Error", {}).get("Message") or ""
    return code in {"411", "MissingContentLength"} or (
        code in {"InvalidArgument", "InvalidRequest", "NotImplemented", "501"}
        and ("checksum" in said.lower() or not said)
    )


@contextmanager
def translating(bucket: str, doing: str = "write to") -> Iterator[None]:
    """Raise what boto3 raises in the block as a StoreletError that names the bucket.

    `doing` is what the block does with the bucket, in words: `write to`, `list`.
    """
    try:
        yield
    except StoreletError:
        raise
    except Exception as error:
        translated = _translate(error, bucket, doing)
        if translated is None:
            raise
        # What boto3 says of a wrong call may hold the call's secrets; what we say is enough.
        raise translated from (None if isinstance(translated, UsageError) else error)


def _translate(error: Exception, bucket: str, doing: str) -> StoreletError | None:
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    match error:
        case boto.ClientError():
            return _translate_answer(error, bucket, doing)
        case boto.NoCredentialsError() | boto.PartialCredentialsError():
            return CredentialsError(
                f"no complete pair of keys for bucket {bucket}",
                hint="give access_key and secret_key, or set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or a profile",
            )
        case boto.ProfileNotFound() | boto.CredentialRetrievalError() | boto.TokenRetrievalError():
            return CredentialsError(f"no key for bucket {bucket}: {error}")
        case boto.HTTPClientError() if "Invalid header value" in str(error):
            # http.client shows the value, which may be a session token.
            return UsageError(
                f"a key or option for bucket {bucket} holds a character that HTTP cannot carry",
                hint="is there a line end in it?",
            )
        case boto.SSLError():
            unreachable = DestinationError(
                f"cannot reach bucket {bucket}: {error}",
                hint="is endpoint_url right, and signed by whom? verify= names a CA file",
            )
            unreachable.is_temporary = "EOF" in str(error)  # it hung up amid the handshake
            return unreachable
        case boto.ConnectionError() | boto.HTTPClientError() | boto.IncompleteReadError():
            unreachable = DestinationError(
                f"cannot reach bucket {bucket}: {error}",
                hint="check the network and endpoint_url",
            )
            # Of no kind of its own is what urllib3 makes of a wrong URL, and the like.
            unreachable.is_temporary = type(error) is not boto.HTTPClientError
            return unreachable
        case boto.NoRegionError():
            return UsageError(f"no region for bucket {bucket}", hint="give region_name")
        case boto.ParamValidationError() | boto.UnknownSignatureVersionError():
            # The value may be a key (SSECustomerKey): name the parameter only.
            said = re.sub(r"value: .*?(?=, type|$)", "its value", " ".join(str(error).split()))
            return UsageError(f"bucket {bucket}: {said}")
        case KeyError() | ResponseParserError():
            lacks = f"its answer lacks {error}" if isinstance(error, KeyError) else "no XML comes"
            return DestinationError(
                f"what answers for bucket {bucket} is no S3: {lacks}",
                hint="check endpoint_url, and what is between",
            )
        case boto.BotoCoreError() | Boto3Error():
            return DestinationError(f"bucket {bucket}: {error}")
        case _:
            return None


def _translate_answer(error: Exception, bucket: str, doing: str) -> StoreletError:
    code = code_of(error)
    said = getattr(error, "response", {}).get("Error", {}).get("Message") or code
    if code == "NoSuchBucket":
        return DestinationMissingError(
            f"no such bucket: {bucket}",
            hint="check the name and endpoint_url, or make it: "
            f"aws s3api create-bucket --bucket {bucket}",
        )
    if code in _EXPIRED:
        return CredentialsError(
            f"bucket {bucket} refuses the key, which has expired: {said}",
            hint="give one that outlasts a run, or a profile or role that boto3 renews it from",
        )
    if code in _WRONG_KEY:
        return CredentialsError(
            f"bucket {bucket} refuses the key: {code}: {said}",
            hint="check access_key and secret_key",
        )
    if doing == "delete from" and _LOCKED.search(f"{code} {said}"):
        return ArchiveLockedError(
            f"bucket {bucket} keeps it locked: {said}", hint="it can be deleted when that is over"
        )
    if is_denied(error):
        return PermissionDeniedError(
            f"the key may not {doing} bucket {bucket}: {said}",
            hint=f"its policy must allow {_PERMISSIONS[doing]} there",
        )
    if code in _OTHER_REGION:
        return DestinationError(
            f"bucket {bucket} is in another region: {said}", hint="give region_name"
        )
    if code == "InvalidObjectState":
        return DestinationError(
            f"the archive is in a cold storage class of bucket {bucket}: {said}",
            hint="have it restored for some days first: aws s3api restore-object",
        )
    if code == "RequestTimeTooSkewed":
        return DestinationError(
            f"bucket {bucket} refuses this machine's time", hint="set the clock: timedatectl"
        )
    answered = DestinationError(f"bucket {bucket} answered {code}: {said}")
    answered.is_temporary = code in _TEMPORARY or status_of(error) in _TEMPORARY_STATUS
    return answered

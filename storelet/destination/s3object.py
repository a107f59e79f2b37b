"""Single objects of a bucket: looked for, looked at, put."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from storelet.destination.contract import Stored
from storelet.destination.s3client import Bucket
from storelet.destination.s3errors import are_checksums_refused, code_of, is_missing, translating
from storelet.errors import DestinationError

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

__all__ = ["ChangedError", "find_object", "look_at", "md5_of", "put_object", "stored"]


class ChangedError(DestinationError):
    """Something else has come under an archive's name."""


def find_object(bucket: Bucket, key: str) -> HeadObjectOutputTypeDef | None:
    """Ask by HEAD; what an answer without a body does not explain is left to the upload."""
    from botocore.exceptions import ClientError

    try:
        return bucket.client.head_object(Bucket=bucket.name, Key=key, **bucket.repeated)
    except ClientError as error:
        if code_of(error) in {"400", "403", "404", "405", "AccessDenied", "NoSuchKey"}:
            return None
        raise


def look_at(bucket: Bucket, prefix: str, archive: Stored) -> HeadObjectOutputTypeDef | None:
    """Return what is said of an archive, None where it is gone.

    Raises ChangedError, and DestinationError where the key may not ask.
    """
    from botocore.exceptions import ClientError

    key = prefix + archive.name
    with translating(bucket.name, "read"):
        try:
            head = bucket.client.head_object(Bucket=bucket.name, Key=key, **bucket.repeated)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
    if not archive.is_same(stored(archive.name, head)):
        raise ChangedError(f"{archive.name} in bucket {bucket.name} is another archive now")
    return head


def md5_of(data: bytes) -> dict[str, Any]:
    """Return the parameter by which every store can check what arrives."""
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    return {"ContentMD5": base64.b64encode(digest).decode()}


def put_object(bucket: Bucket, options: dict[str, Any]) -> None:
    """Put an object, with an MD5 where the store refuses checksums. Raises what boto3 does.

    One that is to be locked wants either, and in the header: boto3 puts checksums behind the data.
    """
    from botocore.exceptions import ClientError

    checksum = {} if "ObjectLockMode" in options else bucket.checksum
    try:
        bucket.client.put_object(**options, **(checksum or md5_of(options["Body"])))
    except ClientError as error:
        if not (checksum and are_checksums_refused(error)):
            raise
        bucket.forgo_checksums(error)
        bucket.client.put_object(**options, **md5_of(options["Body"]))


def stored(name: str, head: HeadObjectOutputTypeDef) -> Stored:
    """Return the archive that an answer to HEAD tells of."""
    return Stored(
        name=name,
        size=head["ContentLength"],
        version=head["ETag"],
        modified=head["LastModified"].timestamp(),
    )

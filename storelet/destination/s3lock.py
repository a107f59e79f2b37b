"""Object lock: until when nobody may delete an archive in S3.

Amazon S3 User Guide, "Locking objects with Object Lock". The bucket must have been made for it, and
keeps versions then: what is locked is a version, and a delete marker hides it all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from storelet.destination.s3client import Bucket
from storelet.destination.s3errors import code_of, is_condition_unknown, is_denied, translating
from storelet.errors import DestinationError, UsageError

__all__ = ["Lock", "check_lock"]

_MODES = ("GOVERNANCE", "COMPLIANCE")
_LONGEST = timedelta(days=36_500)  # "100 years", S3 API reference, DefaultRetention
# What a bucket answers that was not made for it, and a store that knows no such thing.
_NONE = {"404", "405", "MethodNotAllowed", "ObjectLockConfigurationNotFoundError"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Keeps archives in S3 from being deleted for a time, counted from when each is begun.

    A key with `s3:BypassGovernanceRetention` can end GOVERNANCE; nobody can end COMPLIANCE.
    """

    mode: Literal["GOVERNANCE", "COMPLIANCE"]
    retain: timedelta

    def __post_init__(self) -> None:
        """Raise UsageError where it cannot be."""
        if self.mode not in _MODES:
            raise UsageError(f"a lock has no mode {self.mode!r}", hint=" or ".join(_MODES))
        if not timedelta(0) < self.retain <= _LONGEST:
            raise UsageError(
                f"a lock cannot retain for {self.retain}",
                hint="for some time, and 100 years at most",
            )

    @property
    def options(self) -> dict[str, Any]:
        """What requests say of it that begin an object now."""
        until = datetime.now(UTC) + self.retain
        return {"ObjectLockMode": self.mode, "ObjectLockRetainUntilDate": until}


def check_lock(bucket: Bucket) -> None:
    """See that objects of a bucket can be locked: stores that know no lock ignore what is said.

    A key that may not ask is believed; Amazon's S3 refuses the upload then. Raises
    DestinationError.
    """
    from botocore.exceptions import ClientError

    missing = DestinationError(
        f"bucket {bucket.name} has no object lock, so no archive can be locked in it",
        hint="it must be made with it (aws s3api create-bucket --object-lock-enabled-for-bucket); "
        "or leave out lock",
    )
    owner = {k: v for k, v in bucket.owner.items() if k == "ExpectedBucketOwner"}
    with translating(bucket.name, "read the object lock of"):
        try:
            said = bucket.client.get_object_lock_configuration(Bucket=bucket.name, **owner)
        except ClientError as error:
            if is_denied(error):
                return
            if is_condition_unknown(error) or code_of(error) in _NONE:
                raise missing from error
            raise
    if said.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
        raise missing

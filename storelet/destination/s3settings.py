"""What a bucket says of how archives fare in it: versions, lifecycle rules, locks, its clock.

Amazon S3 User Guide, "Managing your storage lifecycle", "Retaining multiple versions of objects".
Many stores know few of these, and many keys may not ask: both are notes. One that a job cannot do
without is looked at by the upload itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from storelet.destination.contract import Stored
from storelet.destination.finding import Finding, attempt
from storelet.destination.s3client import Bucket
from storelet.destination.s3errors import (
    code_of,
    is_condition_unknown,
    is_denied,
    is_taken,
    status_of,
    translating,
)
from storelet.destination.s3lock import Lock, check_lock
from storelet.destination.s3object import look_at
from storelet.errors import DestinationError, StoreletError

__all__ = ["examine_bucket", "find_default_lock"]

_COLD = {"GLACIER", "DEEP_ARCHIVE"}  # restored for some days before they can be read
_SKEW_SECONDS = 60  # worth a warning; S3 refuses requests from 15 minutes on
_UNKNOWN = "the store does not say"
_LEFT = "uploads that a crash leaves unfinished"
# How stores answer that have no such setting, or have not been given any.
_NONE = {
    "404",
    "MethodNotAllowed",
    "NoSuchLifecycleConfiguration",
    "ObjectLockConfigurationNotFoundError",
}


def find_default_lock(bucket: Bucket) -> str | None:
    """Return for how long a bucket locks all that is put there, in words; None: it does not."""
    try:
        said = _ask(bucket, bucket.client.get_object_lock_configuration, "object lock")
    except StoreletError:  # what can be found out without it will be
        return None
    lock = (said or {}).get("ObjectLockConfiguration", {})
    rule = lock.get("Rule", {}).get("DefaultRetention", {})
    if not rule:
        return None
    if rule.get("Years"):
        return _count(rule["Years"], "year")
    return _count(rule.get("Days", 0), "day")


def examine_bucket(
    bucket: Bucket,
    prefix: str,
    start: str,
    options: Mapping[str, Any],
    lock: Lock | None,
    made: Stored | None,
) -> Iterator[Finding]:
    """Yield what is to be said of a bucket where keys of archives begin with `start`.

    `options` are those of uploads; `made` is an archive for trial behind `prefix`.
    """
    if made is not None:
        yield attempt("names", lambda: _try_condition(bucket, prefix, made, options))
        yield from _look_at_storage(bucket, prefix, made)
    yield _try_parts(bucket, start, options, lock)
    if lock is not None:
        yield attempt("lock", lambda: _look_at_lock(bucket))
    yield from _look_at_rules(bucket, start)
    yield from _look_at_clock(bucket, start)


def _try_condition(bucket: Bucket, prefix: str, made: Stored, options: Mapping[str, Any]) -> str:
    """Put an archive under a name that is taken, on condition that it is free."""
    from botocore.exceptions import ClientError

    with translating(bucket.name):
        try:
            bucket.client.put_object(
                Bucket=bucket.name, Key=prefix + made.name, IfNoneMatch="*", **options
            )
        except ClientError as error:
            if is_taken(error):
                return "no archive is ever overwritten: the store sees to that itself"
            if is_condition_unknown(error) or status_of(error) == 400:
                return "the store knows no conditions; Storelet looks whether a name is free"
            raise
    return "the store ignores conditions; Storelet looks whether a name is free"


def _look_at_storage(bucket: Bucket, prefix: str, made: Stored) -> Iterator[Finding]:
    head = look_at(bucket, prefix, made)
    if head is None:
        return
    kind = head.get("StorageClass", "STANDARD")
    encryption = head.get("ServerSideEncryption") or head.get("SSECustomerAlgorithm")
    said = f"class {kind}" + (f", encrypted by the store ({encryption})" if encryption else "")
    if kind in _COLD:
        yield Finding(
            check="storage",
            state="warning",
            message=f"{said}: archives cannot be read, nor copied from, before they are restored",
            hint="use GLACIER_IR or STANDARD_IA, or let a lifecycle rule move old archives",
        )
        return
    yield Finding(check="storage", state="ok", message=said)


def _try_parts(
    bucket: Bucket, start: str, options: Mapping[str, Any], lock: Lock | None
) -> Finding:
    """Begin an upload in parts, locked where archives are, and abort it."""
    key = f"{start}storelet-trial-parts"
    locking = {} if lock is None else lock.options
    doing = "write to" if lock is None else "write locked archives to"

    def begin() -> str:
        with translating(bucket.name, doing):
            begun = bucket.client.create_multipart_upload(
                Bucket=bucket.name, Key=key, **options, **locking
            )
        with translating(bucket.name, "abort uploads in"):
            bucket.client.abort_multipart_upload(
                Bucket=bucket.name, Key=key, UploadId=begun["UploadId"], **bucket.owner
            )
        return "an upload in parts can be begun and aborted"

    return attempt("parts", begin)


def _look_at_lock(bucket: Bucket) -> str:
    check_lock(bucket)
    return "archives can be locked"


def _look_at_rules(bucket: Bucket, start: str) -> Iterator[Finding]:
    """Yield what is to be said of versions and lifecycle rules."""
    rules: Sequence[Mapping[str, Any]] | None = None
    try:
        said = _ask(bucket, bucket.client.get_bucket_lifecycle_configuration, "lifecycle rules")
        rules = [] if said is None else _find_rules(said["Rules"], start)
    except StoreletError as error:
        yield Finding(check="lifecycle", state="note", message=error.message, hint=error.hint)
    else:
        yield from _look_at_lifecycle(rules)
    try:
        versioning = _ask(bucket, bucket.client.get_bucket_versioning, "versioning")
    except StoreletError as error:
        yield Finding(check="versions", state="note", message=error.message, hint=error.hint)
    else:
        yield _look_at_versions(str((versioning or {}).get("Status", "")), rules)


def _find_rules(rules: Sequence[Mapping[str, Any]], start: str) -> list[Mapping[str, Any]]:
    """Return the rules that are on and concern archives: by their prefix, and without tags."""
    found = []
    for rule in rules:
        chosen = rule.get("Filter", {})
        chosen = chosen.get("And", chosen)
        prefix = rule.get("Prefix", chosen.get("Prefix", ""))
        is_ours = start.startswith(prefix) or prefix.startswith(start)
        if rule["Status"] == "Enabled" and is_ours and not chosen.keys() & {"Tag", "Tags"}:
            found.append(rule)
    return found


def _look_at_lifecycle(rules: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for rule in rules:
        name = f"lifecycle rule {rule['ID']}" if rule.get("ID") else "a lifecycle rule"
        expiration = rule.get("Expiration", {})
        if when := _describe_when(expiration):
            yield Finding(
                check="lifecycle",
                state="warning",
                message=f"{name} deletes archives {when}, whatever `keep` says",
                hint="let `keep` in the job delete them, or the rule, not both",
            )
        for transition in rule.get("Transitions", ()):
            if transition.get("StorageClass") in _COLD:
                yield Finding(
                    check="lifecycle",
                    state="warning",
                    message=f"{name} moves archives to {transition['StorageClass']} "
                    f"{_describe_when(transition)}: then they cannot be read nor copied from",
                    hint="the newest archive must stay readable, or each night sends everything",
                )
    aborting = [each["AbortIncompleteMultipartUpload"] for each in rules if _aborts(each)]
    if not aborting:
        yield Finding(
            check="lifecycle",
            state="note",
            message=f"no rule aborts {_LEFT}",
            hint="give the bucket one with AbortIncompleteMultipartUpload after some days",
        )
        return
    days = min(each.get("DaysAfterInitiation", 1) for each in aborting)
    said = f"{_LEFT} are aborted after {_count(days, 'day')}"
    yield Finding(check="lifecycle", state="ok", message=said)


def _aborts(rule: Mapping[str, Any]) -> bool:
    return "AbortIncompleteMultipartUpload" in rule


def _describe_when(action: Mapping[str, Any]) -> str:
    if "Days" in action:
        return f"{_count(action['Days'], 'day')} after they were made"
    return f"from {action['Date']:%Y-%m-%d} on" if "Date" in action else ""


def _look_at_versions(status: str, rules: Sequence[Mapping[str, Any]] | None) -> Finding:
    if status != "Enabled":
        said = "none are kept: what is deleted is gone"
        return Finding(check="versions", state="ok", message=said)
    said = "archives that are deleted stay as hidden versions (and so does what this trial made)"
    ends = [each["NoncurrentVersionExpiration"] for each in rules or () if _ends_versions(each)]
    if ends:
        days = min(each.get("NoncurrentDays", 1) for each in ends)
        message = f"{said} for {_count(days, 'day')}"
        return Finding(check="versions", state="ok", message=message)
    return Finding(
        check="versions",
        state="warning" if rules is not None else "note",
        message=said + (", for ever" if rules is not None else ""),
        hint="give the bucket a lifecycle rule with NoncurrentVersionExpiration, such as 30 days",
    )


def _ends_versions(rule: Mapping[str, Any]) -> bool:
    return "NoncurrentVersionExpiration" in rule


def _look_at_clock(bucket: Bucket, start: str) -> Iterator[Finding]:
    """Compare this machine's clock with the store's, by the Date of an answer (RFC 9110, 6.6.1)."""
    from botocore.exceptions import BotoCoreError, ClientError

    before = time.time()
    try:
        answer: Any = bucket.client.list_objects_v2(
            Bucket=bucket.name, Prefix=start, MaxKeys=1, **bucket.owner
        )
    except ClientError as error:
        answer = error.response
    except BotoCoreError:
        return
    after = time.time()
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if date is None:
        return
    store = parsedate_to_datetime(date).timestamp()
    ahead = max(before - store - 1, 0) or min(after - store, 0)  # its seconds are whole
    if abs(ahead) < _SKEW_SECONDS:
        said = "this machine's clock and the store's agree"
        yield Finding(check="clock", state="ok", message=said)
        return
    side = "ahead of" if ahead > 0 else "behind"
    yield Finding(
        check="clock",
        state="warning",
        message=f"this machine's clock is {timedelta(seconds=int(abs(ahead)))} {side} the store's",
        hint="set the clock: timedatectl; from 15 minutes on S3 refuses every request",
    )


def _ask(bucket: Bucket, call: Callable[..., Any], what: str) -> Mapping[str, Any] | None:
    """Ask for a setting; return None where there is none. Raises StoreletError."""
    from botocore.exceptions import ClientError

    owner = {k: v for k, v in bucket.owner.items() if k == "ExpectedBucketOwner"}
    with translating(bucket.name, f"read the {what} of"):
        try:
            said: Mapping[str, Any] = call(Bucket=bucket.name, **owner)
        except ClientError as error:
            if code_of(error) in _NONE:
                return None
            if not is_denied(error) and status_of(error) in {400, 405, 501}:
                raise DestinationError(f"{_UNKNOWN}: it has no {what}") from error
            raise
    return said


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun if number == 1 else noun + 's'}"

"""The least that a key must be allowed: an IAM policy for the requests that Storelet makes.

Actions: Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3".
Uploads in parts are s3:PutObject; a copy of a part is that and s3:GetObject; there is no request
that lists parts or buckets. All keys begin with the prefix and the backup's name, archives, marks
and what `examination` makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["make_policy"]

_LOCKED = ("s3:PutObjectRetention",)
_OF_OPTIONS = {  # of `upload`, which S3 checks by actions of their own
    "ACL": "s3:PutObjectAcl",
    "GrantFullControl": "s3:PutObjectAcl",
    "GrantRead": "s3:PutObjectAcl",
    "GrantReadACP": "s3:PutObjectAcl",
    "GrantWriteACP": "s3:PutObjectAcl",
    "Tagging": "s3:PutObjectTagging",
}
# Only `examine` asks; a key that may not ask makes no difference to backups.
_EXAMINED = ("s3:GetBucketVersioning", "s3:GetLifecycleConfiguration")
_LOCK_ASKED = "s3:GetBucketObjectLockConfiguration"


def make_policy(
    bucket: str,
    start: str,
    options: Mapping[str, Any],
    *,
    partition: str,
    is_locked: bool,
    reads: bool,
    deletes: bool,
) -> dict[str, Any]:
    """Return the policy for keys that begin with `start`, uploaded with `options`.

    `reads` and `deletes` say whether archives are listed and read, and deleted.
    """
    place = bucket if bucket.startswith("arn:") else f"arn:{partition}:s3:::{bucket}"
    keys = f"{place}/object" if bucket.startswith("arn:") else place  # of an access point
    actions = ["s3:PutObject", "s3:AbortMultipartUpload"]
    actions += ["s3:GetObject"] if reads else []
    actions += ["s3:DeleteObject"] if deletes else []
    actions += _LOCKED if is_locked else ()
    actions += dict.fromkeys(_OF_OPTIONS[name] for name in options if name in _OF_OPTIONS)
    statements = [_allow("Archives", actions, f"{keys}/{_escape(start)}*")]
    if reads:
        listing = _allow("List", ["s3:ListBucket"], place)
        listing["Condition"] = {"StringEquals": {"s3:prefix": start}}
        statements.append(listing)
    if is_locked:
        statements.append(_allow("Lock", [_LOCK_ASKED], place))
    statements += _allow_kms(options, partition)
    asked = [*_EXAMINED, *([] if is_locked else [_LOCK_ASKED])]
    statements.append(_allow("OnlyForDoctor", asked, place))
    return {"Version": "2012-10-17", "Statement": statements}


def _allow_kms(options: Mapping[str, Any], partition: str) -> list[dict[str, Any]]:
    """Return what KMS must allow: S3 User Guide, "Using server-side encryption with KMS keys".

    Parts of an upload are decrypted when it is completed. The account's own key needs nothing.
    """
    key = options.get("SSEKMSKeyId")
    if not key:
        return []
    alias = key[key.index("alias/") :] if "alias/" in key else None
    where = key.rpartition(":")[0] if key.startswith("arn:") else f"arn:{partition}:kms:*:*"
    if alias is None and not key.startswith("arn:"):
        resource = f"{where}:key/{key}"
    else:
        resource = key if alias is None else f"{where}:key/*"
    allowed = _allow("Encryption", ["kms:GenerateDataKey", "kms:Decrypt"], resource)
    if alias is not None:  # policies name keys by their ids alone
        allowed["Condition"] = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}}
    return [allowed]


def _allow(name: str, actions: list[str], resource: str) -> dict[str, Any]:
    return {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resource}


def _escape(text: str) -> str:
    """Write what would be a wildcard or variable as itself: IAM User Guide, "Policy variables"."""
    return "".join(f"${{{char}}}" if char in "*?$" else char for char in text)

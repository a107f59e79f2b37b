"""The least policy is enough, and no action of it is too much: SeaweedFS enforces it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

import storelet
from storelet.destination.s3policy import make_policy
from tests.helpers import Bucket, wait_for
from tests.servers import STRANGER

MIB = 1 << 20


def open_s3(bucket: Bucket, prefix: str = "web/", **options: Any) -> storelet.S3:
    return storelet.S3(
        bucket.name,
        STRANGER,
        bucket.secret_key,
        prefix=prefix,
        region_name="us-east-1",
        endpoint_url=bucket.endpoint,
        **options,
    )


def grant(bucket: Bucket, policy: dict[str, Any], without: str | None = None) -> None:
    """Make a policy of a key that of the bucket: it holds for the stranger, a moment later."""
    probe = {"Bucket": bucket.name, "Key": f"probe-{without}"}
    resource = "arn:aws:s3:::{Bucket}/{Key}".format(**probe)
    allowed = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Resource": resource}
    statements = [{"Sid": "Probe", "Action": ["s3:PutObject"], **allowed}]
    for statement in policy["Statement"]:
        actions = [each for each in statement["Action"] if each != without]
        if actions:
            statements.append({**statement, "Principal": {"AWS": "*"}, "Action": actions})
    document = json.dumps({**policy, "Statement": statements})
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=document)
    stranger = open_s3(bucket)._bucket.client

    def holds() -> bool:
        with suppress(ClientError):
            stranger.put_object(**probe)
            return True
        return False

    wait_for(holds, what="the policy")
    bucket.client.delete_object(**probe)


def states(destination: storelet.S3) -> dict[str, str]:
    return {each.check: each.state for each in storelet.examine(destination, "website")}


def write(path: Path, name: str) -> None:
    (path / name).write_bytes(bytes(6 * MIB) + name.encode())
    os.utime(path / name, (1366561800, 1366561800))  # what has just changed is not reused


def back_up(source: Path, destination: storelet.S3, **options: Any) -> list[storelet.Event]:
    seen: list[storelet.Event] = []
    options = {"compression": "none", "change_detection": {"ctime": False}, **options}
    with (
        storelet.observe(seen.append),
        storelet.ZipBackup("website", destination=destination, **options) as backup,
    ):
        backup.include_directory(source)
    return seen


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    write(path, "first")
    return path


def test_it_is_enough_for_two_nights_for_pruning_verifying_and_examining(
    seaweedfs: Bucket, source: Path
) -> None:
    place = open_s3(seaweedfs)
    with pytest.raises(storelet.PermissionDeniedError):
        back_up(source, place)
    grant(seaweedfs, place.least_policy("website"))
    assert set(states(place).values()) <= {"ok", "note"}
    back_up(source, place)
    write(source, "second")
    saved = [each for each in back_up(source, place) if isinstance(each, storelet.Saved)]
    assert saved[0].bytes_reused > 6 * MIB
    assert [each.is_kept for each in storelet.prune(place, "website", storelet.Keep(last=1))] == [
        True,
        False,
    ]
    (archive,) = storelet.list_archives(place, "website")
    assert archive.verify().refused == []
    archive.mark_bad("a test")


def test_it_is_for_the_archives_of_one_backup_at_one_place(seaweedfs: Bucket) -> None:
    grant(seaweedfs, open_s3(seaweedfs).least_policy("website"))
    for prefix, backup in [("web/", "photos"), ("", "website"), ("else/", "website")]:
        listed, written = storelet.examine(open_s3(seaweedfs, prefix), backup)
        assert (listed.state, written.state) == ("warning", "failed")


@pytest.mark.parametrize(
    ("action", "check"),
    [
        ("s3:PutObject", "write"),
        ("s3:GetObject", "read"),
        ("s3:DeleteObject", "delete"),
        ("s3:ListBucket", "list"),
    ],
)
def test_no_action_of_it_is_too_much(seaweedfs: Bucket, action: str, check: str) -> None:
    place = open_s3(seaweedfs)
    grant(seaweedfs, place.least_policy("website"), without=action)
    assert states(place)[check] in {"warning", "failed"}


def test_one_that_only_writes_is_enough_for_a_backup_that_reuses_nothing(
    seaweedfs: Bucket, source: Path
) -> None:
    place = open_s3(seaweedfs)
    policy = place.least_policy("website", reads=False, deletes=False)
    assert policy["Statement"][0]["Action"] == ["s3:PutObject", "s3:AbortMultipartUpload"]
    grant(seaweedfs, policy)
    write(source, "second")  # more than a part
    back_up(source, place, reuse=False)
    assert len(seaweedfs.keys()) == 1


def actions_of(policy: dict[str, Any], name: str) -> list[str]:
    (statement,) = (each for each in policy["Statement"] if each["Sid"] == name)
    actions: list[str] = statement["Action"]
    return actions


@pytest.fixture
def policy() -> Callable[..., dict[str, Any]]:
    def make(**options: Any) -> dict[str, Any]:
        return make_policy(
            options.pop("bucket", "my-bucket"),
            options.pop("start", "web/website_"),
            options,
            partition="aws",
            is_locked=options.pop("is_locked", False),
            reads=True,
            deletes=True,
        )

    return make


def test_what_options_of_the_upload_ask_for_is_in_it(
    policy: Callable[..., dict[str, Any]],
) -> None:
    plain = actions_of(policy(StorageClass="STANDARD_IA"), "Archives")
    more = actions_of(policy(Tagging="a=b", ACL="private", GrantRead="x"), "Archives")
    assert more == [*plain, "s3:PutObjectTagging", "s3:PutObjectAcl"]
    locked = policy(is_locked=True)
    assert "s3:PutObjectRetention" in actions_of(locked, "Archives")
    assert actions_of(locked, "Lock") == ["s3:GetBucketObjectLockConfiguration"]


@pytest.mark.parametrize(
    ("key", "resource", "alias"),
    [
        ("1234-ab", "arn:aws:kms:*:*:key/1234-ab", None),
        ("alias/backup", "arn:aws:kms:*:*:key/*", "alias/backup"),
        ("arn:aws:kms:eu-west-1:12:key/34", "arn:aws:kms:eu-west-1:12:key/34", None),
        ("arn:aws:kms:eu-west-1:12:alias/b", "arn:aws:kms:eu-west-1:12:key/*", "alias/b"),
    ],
)
def test_a_key_of_kms_is_in_it(
    policy: Callable[..., dict[str, Any]], key: str, resource: str, alias: str | None
) -> None:
    found = policy(ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
    (statement,) = (each for each in found["Statement"] if each["Sid"] == "Encryption")
    assert statement["Action"] == ["kms:GenerateDataKey", "kms:Decrypt"]
    assert statement["Resource"] == resource
    condition = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}}
    assert statement.get("Condition") == (condition if alias else None)


def test_access_points_and_names_with_wildcards_are_written_as_they_must_be(
    policy: Callable[..., dict[str, Any]],
) -> None:
    point = "arn:aws:s3:eu-west-1:12:accesspoint/mine"
    found = policy(bucket=point)
    assert [each["Resource"] for each in found["Statement"]] == [
        f"{point}/object/web/website_*",
        point,
        point,
    ]
    found = policy(start="a*b?c$/website_")
    assert found["Statement"][0]["Resource"] == "arn:aws:s3:::my-bucket/a${*}b${?}c${$}/website_*"

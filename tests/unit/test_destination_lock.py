"""Object lock: archives that nobody may delete for a time, and buckets that cannot lock."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

import storelet
from storelet.destination.s3 import S3
from storelet.destination.s3upload import PART_BYTES
from tests.helpers import Bucket, MotoServer
from tests.proxy import Answer, Fault, Proxy, Request, error_answer, inject

NAME = "example_20130421163000.zip"
NEW = "example_20130422163000.zip"
LOCK = storelet.Lock(mode="GOVERNANCE", retain=timedelta(days=30))
STORES = ["s3_server", "seaweedfs"]


def open_s3(bucket: Bucket, endpoint: str | None = None, **options: Any) -> S3:
    return S3(
        bucket.name,
        bucket.access_key,
        bucket.secret_key,
        region_name="us-east-1",
        endpoint_url=endpoint or bucket.endpoint,
        config=Config(retries={"total_max_attempts": 1}),
        **{"lock": LOCK, **options},
    )


def make_locking(bucket: Bucket) -> Bucket:
    """Make a bucket beside it whose objects can be locked."""
    locking = replace(bucket, name=f"{bucket.name}-locked")
    locking.client.create_bucket(Bucket=locking.name, ObjectLockEnabledForBucket=True)
    return locking


@pytest.fixture(params=STORES)
def locking(request: pytest.FixtureRequest) -> Bucket:
    return make_locking(request.getfixturevalue(request.param))


@pytest.fixture
def proxy(moto_server: MotoServer) -> Iterator[Proxy]:
    """Run an S3 whose answers a test may change."""
    with Proxy(moto_server.endpoint) as proxy:
        yield proxy


def send(destination: S3, data: bytes, name: str = NAME) -> None:
    upload = destination.open_upload(name, {"storelet-job": "example"})
    try:
        upload.write(data)
        upload.commit()
    except BaseException:
        upload.abort()
        raise


def lock_of(bucket: Bucket, key: str = NAME) -> tuple[str | None, datetime | None]:
    head = bucket.client.head_object(Bucket=bucket.name, Key=key)
    return head.get("ObjectLockMode"), head.get("ObjectLockRetainUntilDate")


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
def test_an_archive_is_locked_from_when_it_was_begun(
    locking: Bucket, mode: Literal["GOVERNANCE", "COMPLIANCE"]
) -> None:
    destination = open_s3(locking, lock=storelet.Lock(mode=mode, retain=timedelta(hours=5)))
    before = datetime.now(UTC).replace(microsecond=0)
    send(destination, b"small")
    said, until = lock_of(locking)
    assert (said, until is None) == (mode, False)
    assert until is not None
    assert before <= until - timedelta(hours=5) <= datetime.now(UTC)
    (archive,) = destination.list_archives("example")
    assert destination.read(archive, 1, 3) == b"mal"


def test_an_archive_in_parts_and_one_with_copies_are_locked(seaweedfs: Bucket) -> None:
    """Moto locks nothing that came in parts."""
    locking = make_locking(seaweedfs)
    data = os.urandom(2 * PART_BYTES)
    destination = open_s3(locking)
    send(destination, data)
    (archive,) = destination.list_archives("example")
    upload = destination.open_upload(NEW, {})
    upload.copy(archive, [(100, 6 << 20)])
    upload.write(b"behind")
    upload.commit()
    for key in (NAME, NEW):
        mode, until = lock_of(locking, key)
        assert mode == "GOVERNANCE"
        assert until is not None
        assert timedelta(days=29) < until - datetime.now(UTC) <= timedelta(days=30)
    assert locking.read(NAME) == data
    assert locking.read(NEW) == data[100 : 100 + (6 << 20)] + b"behind"


def test_a_locked_archive_is_hidden_when_it_is_deleted_and_lives_on(locking: Bucket) -> None:
    destination = open_s3(locking)
    send(destination, b"small")
    (archive,) = destination.list_archives("example")
    destination.mark_bad(archive, "because")
    destination.delete_archives(destination.list_archives("example"))
    assert locking.keys() == []
    (version,) = destination.list_versions("example")
    assert version.is_deleted
    assert destination.read(version, 0, 5) == b"small"


def test_seaweedfs_keeps_a_locked_version_whoever_asks(seaweedfs: Bucket) -> None:
    """So that these tests are about something."""
    locking = make_locking(seaweedfs)
    send(open_s3(locking), b"small")
    (version,) = open_s3(locking).list_versions("example")
    assert version.version_id is not None
    with pytest.raises(ClientError, match="AccessDenied"):
        locking.client.delete_object(Bucket=locking.name, Key=NAME, VersionId=version.version_id)


def test_a_mark_is_not_locked(locking: Bucket) -> None:
    destination = open_s3(locking)
    send(destination, b"small")
    destination.mark_bad(destination.list_archives("example")[0], "because")
    assert lock_of(locking, f"{NAME}.bad")[1] is None


def test_what_is_locked_has_an_md5_in_the_header_and_no_checksum(
    s3_server: Bucket, proxy: Proxy
) -> None:
    """S3: Content-MD5 or a checksum is required, and by HTTPS boto3 puts checksums behind."""
    locking = make_locking(s3_server)
    parts = [bytes([number]) * PART_BYTES for number in (1, 2)]
    send(open_s3(locking, proxy.endpoint), b"small", NEW)
    send(open_s3(locking, proxy.endpoint), b"".join(parts))
    by_action: dict[str, list[Request]] = {}
    for each in proxy.requests:
        by_action.setdefault(each.action, []).append(each)
    for each in (*by_action["PutObject"], *by_action["CreateMultipartUpload"]):
        assert each.headers["x-amz-object-lock-mode"] == "GOVERNANCE"
        assert each.headers["x-amz-object-lock-retain-until-date"]
    sent = {
        each.headers["content-md5"] for each in by_action["PutObject"] + by_action["UploadPart"]
    }
    assert sent == {
        base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        for data in (b"small", *parts)
    }
    for each in proxy.requests:
        assert not any(name.startswith("x-amz-checksum") for name in each.headers)
        assert "x-amz-trailer" not in each.headers


def test_save_to_s3_locks_too(s3_server: Bucket) -> None:
    locking = make_locking(s3_server)
    with storelet.ZipBackup("example") as backup:
        url = backup.save_to_s3(
            locking.name, "key", "secret", endpoint_url=locking.endpoint, lock=LOCK
        )
    assert lock_of(locking, url.rpartition("/")[2])[0] == "GOVERNANCE"


# What cannot lock -------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
def test_a_bucket_that_was_not_made_for_it_is_an_error_before_anything_is_sent(
    request: pytest.FixtureRequest, store: str
) -> None:
    bucket: Bucket = request.getfixturevalue(store)
    assert bucket.endpoint is not None
    with Proxy(bucket.endpoint) as proxy:
        with pytest.raises(storelet.DestinationError, match="has no object lock") as raised:
            open_s3(bucket, proxy.endpoint).open_upload(NAME, {})
        assert {each.method for each in proxy.requests} <= {"HEAD", "GET"}
    assert "--object-lock-enabled-for-bucket" in str(raised.value.hint)


@pytest.mark.parametrize(
    "said",
    [
        error_answer(501, "NotImplemented"),
        error_answer(405, "MethodNotAllowed"),
        Answer(status=404),
        Answer(status=200, body=b"<ListBucketResult><Name>b</Name></ListBucketResult>"),
    ],
    ids=["501", "405", "404", "listing"],
)
def test_a_store_that_knows_no_lock_is_an_error_and_not_an_archive_without_one(
    s3_server: Bucket, proxy: Proxy, said: Answer
) -> None:
    proxy.script = lambda request: said if "object-lock" in request.query else None
    with pytest.raises(storelet.DestinationError, match="has no object lock"):
        send(open_s3(s3_server, proxy.endpoint), b"small")
    assert s3_server.keys() == []


def test_a_key_that_may_not_ask_for_the_lock_of_the_bucket_locks_all_the_same(
    s3_server: Bucket, proxy: Proxy
) -> None:
    locking = make_locking(s3_server)
    denied = error_answer(403, "AccessDenied")
    proxy.script = lambda request: denied if "object-lock" in request.query else None
    send(open_s3(locking, proxy.endpoint), b"small")
    assert lock_of(locking)[0] == "GOVERNANCE"


@pytest.mark.parametrize("size", [5, PART_BYTES + 1])
def test_a_key_that_may_not_lock_is_an_error_that_names_the_permission(
    s3_server: Bucket, proxy: Proxy, size: int
) -> None:
    denied = error_answer(403, "AccessDenied")
    locking = make_locking(s3_server)
    proxy.script = lambda request: denied if "x-amz-object-lock-mode" in request.headers else None
    with pytest.raises(storelet.PermissionDeniedError) as raised:
        send(open_s3(locking, proxy.endpoint), bytes(size))
    assert "s3:PutObjectRetention" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("mode", "retain"),
    [
        ("governance", timedelta(days=1)),
        ("", timedelta(days=1)),
        ("GOVERNANCE", timedelta(0)),
        ("COMPLIANCE", timedelta(days=-1)),
        ("COMPLIANCE", timedelta(days=36_501)),
    ],
)
def test_a_lock_that_cannot_be_is_refused(mode: Any, retain: timedelta) -> None:
    with pytest.raises(storelet.UsageError, match="lock") as raised:
        storelet.Lock(mode=mode, retain=retain)
    assert raised.value.hint


@pytest.mark.parametrize("name", ["ObjectLockMode", "ObjectLockRetainUntilDate"])
def test_a_lock_is_said_in_one_way_only(name: str) -> None:
    with pytest.raises(storelet.UsageError, match=name):
        storelet.S3("my-bucket", upload={name: "GOVERNANCE"})


# Locked when it is to be deleted ----------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_one_that_is_locked_is_an_error_that_says_until_when(
    s3_server: Bucket, proxy: Proxy, count: int
) -> None:
    """As in a store that deletes what is hidden elsewhere."""
    locking = make_locking(s3_server)
    names = (NAME, NEW)[:count]
    for days, name in enumerate(names, 1):
        lock = storelet.Lock(mode="GOVERNANCE", retain=timedelta(days=days))
        send(open_s3(locking, lock=lock), b"small", name)
    errors = "".join(
        f"<Error><Key>{name}</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
        for name in (NAME, NEW)
    )
    batch = Answer(status=200, body=f"<DeleteResult>{errors}</DeleteResult>".encode())
    proxy.script = inject(
        Fault(said=error_answer(403, "AccessDenied"), action="DeleteObject"),
        Fault(said=batch, action="DeleteObjects"),
    )
    destination = open_s3(locking, proxy.endpoint)
    with pytest.raises(storelet.ArchiveLockedError) as raised:
        destination.delete_archives(destination.list_archives("example"))
    for name in names:
        until = lock_of(locking, name)[1]
        assert until is not None
        said = f"{name}: bucket {locking.name} keeps it locked until {until:%Y-%m-%d %H:%M} UTC"
        assert said in raised.value.message
    assert raised.value.exit_code == 77


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "AccessDenied", "Access Denied because object protected by object lock."),
        (400, "ObjectLocked", "Object is WORM protected and cannot be overwritten"),
        (403, "ObjectLockedByBucketPolicy", "because"),
        (403, "AccessDenied", "object is immutable until 2026-12-01"),
    ],
)
def test_a_store_that_says_it_is_locked_is_understood(
    s3_server: Bucket, proxy: Proxy, status: int, code: str, message: str
) -> None:
    send(open_s3(s3_server, lock=None), b"small")
    refuse = error_answer(status, code, message)
    proxy.script = inject(Fault(said=refuse, action="DeleteObject"))
    destination = open_s3(s3_server, proxy.endpoint)
    with pytest.raises(storelet.ArchiveLockedError, match=message) as raised:
        destination.delete_archives(destination.list_archives("example"))
    assert raised.value.message.startswith(f"{NAME}: ")


def test_a_lock_that_is_over_is_no_excuse(s3_server: Bucket, proxy: Proxy) -> None:
    locking = make_locking(s3_server)
    send(open_s3(locking), b"small")
    destination = open_s3(locking, proxy.endpoint)
    head = locking.client.head_object(Bucket=locking.name, Key=NAME)
    over = {
        "ETag": head["ETag"],
        "Content-Length": "5",
        "Last-Modified": "Sun, 21 Apr 2013 16:30:00 GMT",
        "x-amz-object-lock-retain-until-date": "2013-05-21T16:30:00Z",
    }
    archives = destination.list_archives("example")
    proxy.script = inject(
        Fault(said=Answer(status=200, headers=over), action="HeadObject"),
        Fault(said=error_answer(403, "AccessDenied"), action="DeleteObject"),
    )
    with pytest.raises(storelet.PermissionDeniedError) as raised:
        destination.delete_archives(archives)
    assert not isinstance(raised.value, storelet.ArchiveLockedError)

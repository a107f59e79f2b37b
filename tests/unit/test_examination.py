"""What an examination finds out about stores that are not as they should be."""

from __future__ import annotations

import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from freezegun import freeze_time

import storelet
from storelet.destination.filesystem import examine_file_system
from tests.helpers import Bucket
from tests.proxy import Answer, Fault, Proxy, Request, Script, error_answer, inject
from tests.scripts import AS_PLAIN_USER, run_script
from tests.servers import STRANGER

MIB = 1 << 20
WRONG = Answer(status=206, body=os.urandom(512), headers={"ETag": '"x"'})
_REFUSED = error_answer(403, "AccessDenied", "no")


def open_s3(bucket: Bucket, **options: Any) -> storelet.S3:
    options = {"access_key": bucket.access_key, "endpoint_url": bucket.endpoint, **options}
    return storelet.S3(
        bucket.name,
        secret_key=bucket.secret_key,
        prefix="web/",
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
        **options,
    )


def look(destination: storelet.S3 | storelet.Directory) -> dict[str, storelet.Finding]:
    """Examine a place; of findings of one name keep the worst."""
    worst: dict[str, storelet.Finding] = {}
    order = ["ok", "note", "warning", "failed"]
    for each in storelet.examine(destination, "website"):
        before = worst.get(each.check)
        if before is None or order.index(each.state) > order.index(before.state):
            worst[each.check] = each
    return worst


@pytest.fixture
def through(seaweedfs: Bucket) -> Iterator[Callable[[Script], storelet.S3]]:
    """Return a function that opens a bucket through a proxy; nothing may be left behind."""
    with Proxy(seaweedfs.endpoint) as proxy:

        def open_with(script: Script) -> storelet.S3:
            proxy.script = script
            return open_s3(seaweedfs, endpoint_url=proxy.endpoint)

        yield open_with
    assert seaweedfs.keys() == []
    assert "Uploads" not in seaweedfs.client.list_multipart_uploads(Bucket=seaweedfs.name)


def test_a_store_that_wants_parts_of_one_size_is_said(
    through: Callable[[Script], storelet.S3],
) -> None:
    sizes: dict[str, set[int]] = defaultdict(set)
    adding = threading.Lock()

    def want_one_size(request: Request) -> Answer | None:
        """Do as Cloudflare R2: all parts but the last have one size."""
        (upload,) = request.query.get("uploadId", [""])
        if request.action == "UploadPartCopy":
            first, last = re.findall("[0-9]+", request.headers["x-amz-copy-source-range"])
            with adding:
                sizes[upload].add(int(last) - int(first))
        if request.action == "CompleteMultipartUpload" and len(sizes[upload]) > 1:
            return error_answer(400, "InvalidPart", "All non-trailing parts must be of one length")
        return None

    copy = look(through(want_one_size))["copy"]
    assert copy.state == "warning"
    assert copy.message.endswith(
        "wants all parts of an upload of one size, so each backup reads and sends everything"
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (error_answer(501, "NotImplemented", "no such thing"), "answered NotImplemented"),
        (_REFUSED, "the key may not copy in bucket"),
    ],
)
def test_a_store_that_does_not_copy_is_said(
    through: Callable[[Script], storelet.S3], answer: Answer, said: str
) -> None:
    found = look(through(inject(Fault(action="UploadPartCopy", said=answer))))
    assert found["copy"].state == "warning"
    assert said in found["copy"].message
    assert found["copy"].message.endswith("so each backup reads and sends everything")
    assert {name for name, each in found.items() if each.state == "failed"} == set()


def test_a_store_that_copies_other_bytes_is_said(
    through: Callable[[Script], storelet.S3],
) -> None:
    def answer(request: Request) -> Answer | None:
        """Say that something else is where the second range begins: 256 bytes before it."""
        return WRONG if request.headers.get("range", "").startswith("bytes=5242624-") else None

    found = look(through(answer))
    assert found["copy"].state == "warning"
    assert "copies other bytes than it is told to" in found["copy"].message


def test_a_store_that_returns_other_bytes_is_no_place_for_backups(
    through: Callable[[Script], storelet.S3],
) -> None:
    read = look(through(lambda request: WRONG if "range" in request.headers else None))["read"]
    assert (read.state, type(read.error)) == ("failed", storelet.DestinationError)


def test_of_a_key_that_may_not_delete_no_more_than_a_small_trial_stays(seaweedfs: Bucket) -> None:
    with Proxy(seaweedfs.endpoint, inject(Fault(action="DeleteObject", said=_REFUSED))) as proxy:
        found = look(open_s3(seaweedfs, endpoint_url=proxy.endpoint))
    (left,) = seaweedfs.keys()
    assert len(seaweedfs.read(left)) <= 1024
    assert found["delete"].state == "warning"
    assert found["delete"].message.endswith(f"; {left.removeprefix('web/')} stays there")
    assert "copy" not in found


def test_a_key_that_may_only_write_does_for_backups(seaweedfs: Bucket) -> None:
    asking = ("ListObjectsV2", "GetObject", "HeadObject", "DeleteObject", "UploadPartCopy")
    script = inject(*(Fault(action=action, said=_REFUSED) for action in asking))
    with Proxy(seaweedfs.endpoint, script) as proxy:
        found = look(open_s3(seaweedfs, endpoint_url=proxy.endpoint))
    assert {name for name, each in found.items() if each.state == "failed"} == set()
    assert (found["list"].state, found["read"].state) == ("warning", "warning")


def test_a_key_that_may_not_write_does_not(seaweedfs: Bucket) -> None:
    write = look(open_s3(seaweedfs, access_key=STRANGER))["write"]
    assert write.state == "failed"
    assert write.error is not None
    assert write.error.exit_code == 77


def test_what_is_no_store_is_said(s3_server: Bucket) -> None:
    with Proxy(script=lambda _request: Answer(status=203, body=b"<h1>Welcome<br>")) as proxy:
        (finding,) = storelet.examine(open_s3(s3_server, endpoint_url=proxy.endpoint), "website")
    assert finding.state == "failed"
    assert "is no S3" in finding.message


def test_a_key_that_is_not_known_ends_it(seaweedfs: Bucket) -> None:
    (finding,) = storelet.examine(open_s3(seaweedfs, access_key="AKIANOSUCHKEY"), "website")
    assert isinstance(finding.error, storelet.CredentialsError)


def test_settings_that_a_key_may_not_ask_for_are_notes(
    through: Callable[[Script], storelet.S3],
) -> None:
    def refuse(request: Request) -> Answer | None:
        asked = {"lifecycle", "versioning", "object-lock"} & set(request.query)
        return _REFUSED if asked else None

    found = look(through(refuse))
    assert (found["lifecycle"].state, found["versions"].state) == ("note", "note")
    assert "s3:GetBucketVersioning" in (found["versions"].hint or "")
    assert found["copy"].state == "ok"


@pytest.mark.parametrize("status", [400, 405, 501])
def test_settings_that_a_store_does_not_know_are_notes(
    through: Callable[[Script], storelet.S3], status: int
) -> None:
    def refuse(request: Request) -> Answer | None:
        asked = {"lifecycle", "versioning", "object-lock"} & set(request.query)
        return error_answer(status, "NotImplemented", "what?") if asked else None

    found = look(through(refuse))
    assert {found["lifecycle"].state, found["versions"].state} <= {"note", "ok"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(status=200, headers={"ETag": '"x"'}), "the store ignores conditions"),
        (error_answer(501, "NotImplemented"), "the store knows no conditions"),
        (None, "the store sees to that itself"),
    ],
)
def test_whether_a_store_knows_conditions_is_said(
    through: Callable[[Script], storelet.S3], answer: Answer | None, said: str
) -> None:
    second = [] if answer is None else [Fault(action="PutObject", said=answer, first=2, last=2)]
    names = look(through(inject(*second)))["names"]
    assert said in names.message


@pytest.mark.parametrize(("minutes", "side"), [(10, "ahead of"), (-10, "behind")])
def test_a_clock_that_is_wrong_is_a_warning(seaweedfs: Bucket, minutes: int, side: str) -> None:
    then = datetime.now(UTC) + timedelta(minutes=minutes)
    with freeze_time(then, tick=True, ignore=["threading", "queue"]):
        clock = look(open_s3(seaweedfs))["clock"]
    assert clock.state == "warning"
    assert re.search(f"0:(10:0|09:5)[0-9] {side} the store's", clock.message)


def test_a_clock_that_is_right_is_well(seaweedfs: Bucket) -> None:
    assert look(open_s3(seaweedfs))["clock"].state == "ok"


# What a bucket says of itself ---------------------------------------------------------------------


def test_versions_that_nothing_expires_are_a_warning(s3_server: Bucket) -> None:
    bucket = s3_server
    assert look(open_s3(bucket))["versions"].state == "ok"
    on = {"Status": "Enabled"}
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration=on)
    versions = look(open_s3(bucket))["versions"]
    assert versions.state == "warning"
    assert "NoncurrentVersionExpiration" in (versions.hint or "")
    set_rules(bucket, {"NoncurrentVersionExpiration": {"NoncurrentDays": 30}})
    versions = look(open_s3(bucket))["versions"]
    assert (versions.state, versions.message[-12:]) == ("ok", " for 30 days")


def set_rules(bucket: Bucket, *rules: dict[str, Any]) -> None:
    filled: Any = [
        {"ID": f"rule {number}", "Status": "Enabled", "Filter": {"Prefix": ""}, **rule}
        for number, rule in enumerate(rules)
    ]
    bucket.client.put_bucket_lifecycle_configuration(
        Bucket=bucket.name, LifecycleConfiguration={"Rules": filled}
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"Expiration": {"Days": 30}}, "rule 0 deletes archives 30 days after they were made"),
        (
            {"Filter": {"Prefix": "web/"}, "Expiration": {"Days": 1}},
            "rule 0 deletes archives 1 day after they were made",
        ),
        (
            {"Transitions": [{"Days": 2, "StorageClass": "DEEP_ARCHIVE"}]},
            "moves archives to DEEP_ARCHIVE 2 days after they were made",
        ),
    ],
)
def test_rules_that_take_archives_away_are_warnings(
    s3_server: Bucket, rule: dict[str, Any], said: str
) -> None:
    set_rules(s3_server, rule)
    lifecycle = look(open_s3(s3_server))["lifecycle"]
    assert lifecycle.state == "warning"
    assert said in lifecycle.message


@pytest.mark.parametrize(
    "rule",
    [
        {"Status": "Disabled", "Expiration": {"Days": 30}},
        {"Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30}},
        {"Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Expiration": {"Days": 30}},
        {"Transitions": [{"Days": 30, "StorageClass": "STANDARD_IA"}]},
    ],
)
def test_rules_that_do_not_concern_archives_are_none(
    s3_server: Bucket, rule: dict[str, Any]
) -> None:
    set_rules(s3_server, {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}, rule)
    lifecycle = look(open_s3(s3_server))["lifecycle"]
    assert lifecycle.state == "ok"
    assert lifecycle.message.endswith("are aborted after 7 days")


def test_a_cold_storage_class_is_a_warning(s3_server: Bucket) -> None:
    found = look(open_s3(s3_server, upload={"StorageClass": "DEEP_ARCHIVE"}))
    assert {name: found[name].state for name in ("storage", "read", "copy")} == {
        "storage": "warning",
        "read": "warning",
        "copy": "warning",
    }
    assert s3_server.keys() == []


# Locks --------------------------------------------------------------------------------------------


LOCK = storelet.Lock(mode="COMPLIANCE", retain=timedelta(days=3650))


def make_locking(bucket: Bucket) -> Bucket:
    locking = Bucket(name=f"{bucket.name}-locked", client=bucket.client, endpoint=bucket.endpoint)
    locking.client.create_bucket(Bucket=locking.name, ObjectLockEnabledForBucket=True)
    return locking


@pytest.mark.parametrize("store", ["s3_server", "seaweedfs"])
def test_nothing_is_written_that_would_be_locked(
    request: pytest.FixtureRequest, store: str
) -> None:
    locking = make_locking(request.getfixturevalue(store))
    found = look(open_s3(locking, lock=LOCK))
    assert (found["write"].state, found["lock"].state) == ("note", "ok")
    assert found["parts"].state == "ok"
    kept: Any = {
        "ObjectLockEnabled": "Enabled",
        "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}},
    }
    locking.client.put_object_lock_configuration(Bucket=locking.name, ObjectLockConfiguration=kept)
    found = look(open_s3(locking))
    assert found["write"].state == "note"
    assert found["write"].message.endswith("locks whatever is put there, for 30 days")
    assert "Versions" not in locking.client.list_object_versions(Bucket=locking.name)


def test_a_lock_that_the_bucket_does_not_know_is_a_failure(s3_server: Bucket) -> None:
    assert look(open_s3(s3_server, lock=LOCK))["lock"].state == "failed"


# Directories --------------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_written_is_a_failure() -> None:
    script = AS_PLAIN_USER + (
        "with tempfile.TemporaryDirectory() as place:\n"
        "    os.chmod(place, 0o555)\n"
        "    for each in storelet.examine(storelet.Directory(place), 'website'):\n"
        "        print(each.check, each.state, each.error and each.error.exit_code)\n"
    )
    said = run_script(script).stdout
    assert said.splitlines() == ["list ok None", "write failed 77"]


def test_a_disk_with_less_room_than_the_newest_archive_is_a_warning(destination: Path) -> None:
    found = {each.check: each.state for each in examine_file_system(str(destination), 1 << 60)}
    assert found["room"] == "warning"
    found = {each.check: each.state for each in examine_file_system(str(destination), 1)}
    assert found == {"room": "ok", "file system": "ok"}

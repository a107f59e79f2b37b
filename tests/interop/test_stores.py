"""Any store that speaks S3: whole backups to real servers, by HTTP and HTTPS, and wrong keys."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

import storelet
from storelet.destination.contract import Destination
from storelet.destination.s3upload import PART_BYTES
from tests.helpers import Bucket
from tests.interop.readers import READERS, Found, look
from tests.manual import blocks_of, chapter_of
from tests.servers import STRANGER, Server

# What a store does otherwise than Amazon S3, by store and test. Such a test is xfail, and strict:
# a row must go when a store has learnt it, or Storelet gets along without.
DIFFERENCES = {
    "radosgw": {
        # So Storelet looks once more before it completes; the contract's suite has a name taken.
        "test_an_upload_is_not_completed_over_a_taken_name": "ignores IfNoneMatch on complete",
        # So whoever copies must look at the archive itself before and after.
        "test_nothing_is_copied_from_an_object_that_has_changed": "ignores CopySourceIfMatch",
        "test_data_that_its_checksum_does_not_fit_are_refused": "does not look at checksums",
        "test_completing_says_the_etag": "answers an empty ETag",
    },
    "s3_server": {
        "test_nothing_is_copied_from_an_object_that_has_changed": "ignores CopySourceIfMatch",
        "test_data_that_its_checksum_does_not_fit_are_refused": "does not look at checksums",
    },
}
(UNZIP,) = (reader for reader in READERS if reader.name == "unzip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A server and a fresh bucket in it."""

    server: Server
    bucket: Bucket

    def options(self, **changed: Any) -> dict[str, Any]:
        """Return what Storelet is to be told of it."""
        return {
            "bucket": self.bucket.name,
            "access_key": self.bucket.access_key,
            "secret_key": self.bucket.secret_key,
            "endpoint_url": self.server.endpoint,
            "region_name": "us-east-1",
            **changed,
        }

    def tls_options(self) -> dict[str, Any]:
        """Return the same for HTTPS."""
        return self.options(
            endpoint_url=self.server.tls_endpoint, verify=str(self.server.authority)
        )

    def assert_empty(self) -> None:
        """Fail if there is anything in it, be it unfinished."""
        assert self.bucket.keys() == []
        listed = self.bucket.client.list_multipart_uploads(Bucket=self.bucket.name)
        assert listed.get("Uploads", []) == []


@pytest.fixture(params=["seaweedfs", "radosgw"])
def store(request: pytest.FixtureRequest) -> Store:
    """Take one store after the other, where it can be had."""
    expect_difference(request)
    server = request.getfixturevalue(f"{request.param}_server")
    return Store(server=server, bucket=request.getfixturevalue(request.param))


@pytest.fixture(params=["s3_server", "seaweedfs", "radosgw"])
def asked(request: pytest.FixtureRequest) -> Bucket:
    """Make a bucket in one store after the other, moto's among them, to ask it past Storelet."""
    expect_difference(request)
    bucket: Bucket = request.getfixturevalue(request.param)
    return bucket


def expect_difference(request: pytest.FixtureRequest) -> None:
    """Mark a test with what the table says of it."""
    test = getattr(request.node, "originalname", "")
    if reason := DIFFERENCES.get(request.param, {}).get(test):
        raises = (AssertionError, storelet.DestinationError)
        request.applymarker(pytest.mark.xfail(reason=reason, raises=raises))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Make a directory to keep the same archive in."""
    path = tmp_path / "kept"
    path.mkdir()
    return path


@pytest.fixture
def large_tree(tree: Path) -> Path:
    """Make a tree whose archive goes in several parts."""
    for name in ("große Datei", "écrit à 日本 ✓.bin", "third"):
        (tree / "größe ✓" / name).write_bytes(os.urandom(PART_BYTES))
    return tree


def stream(source: Path, options: dict[str, Any], kept: Path) -> None:
    """Back up to a store and a directory at once."""
    places: list[Destination] = [storelet.S3(**options), storelet.Directory(kept)]
    with storelet.ZipBackup("größe", destination=places) as backup:
        backup.include_directory(source)


def spool(source: Path, options: dict[str, Any], kept: Path) -> None:
    """Back up, and save to a store and a directory."""
    with storelet.ZipBackup("größe") as backup:
        backup.include_directory(source)
        backup.save_to_s3(**options)
        backup.save_to_directory(kept)


WITH_UNZIP = pytest.mark.skipif(UNZIP.missing is not None, reason=str(UNZIP.missing))
WAYS = pytest.mark.parametrize("back_up", [stream, spool])


def only(names: Sequence[Any]) -> Any:
    (name,) = names
    return name


def assert_arrived(source: Path, store: Store, kept: Path, prefix: str = "") -> None:
    """Fail unless the one archive in the store is whole, and `unzip` brings back the source."""
    archive = only(list(kept.iterdir()))
    key = only(store.bucket.keys())
    assert re.fullmatch(rf"{re.escape(prefix)}größe_20\d{{12}}\.zip", key)
    assert store.bucket.read(key) == archive.read_bytes()
    assert comparable(UNZIP.read(archive)) == comparable(look(source))


def comparable(found: dict[bytes, Found]) -> dict[bytes, Found]:
    """Leave out when directories and links were changed, which unzip does itself."""
    return {
        name: each if each.kind == "file" else replace(each, mtime=0)
        for name, each in found.items()
    }


@WAYS
@WITH_UNZIP
def test_a_backup_comes_back_as_it_was(
    store: Store, large_tree: Path, kept: Path, back_up: Any
) -> None:
    back_up(large_tree, store.options(prefix="größe ✓/a b+c%20/"), kept)
    assert_arrived(large_tree, store, kept, "größe ✓/a b+c%20/")


@WAYS
@WITH_UNZIP
def test_a_backup_by_https_comes_back_as_it_was(
    store: Store, large_tree: Path, kept: Path, back_up: Any
) -> None:
    back_up(large_tree, store.tls_options(), kept)
    assert_arrived(large_tree, store, kept)


@WAYS
@pytest.mark.parametrize("by", ["HTTP", "HTTPS"])
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"secret_key": "no secret"}, "SignatureDoesNotMatch"),
        ({"access_key": "AKIANOBODYKNOWS00000"}, "InvalidAccessKeyId"),
    ],
)
def test_a_wrong_key_is_told_from_other_errors_and_nothing_is_left(
    store: Store, tree: Path, kept: Path, back_up: Any, by: str, keys: dict[str, str], said: str
) -> None:
    options = (store.options() if by == "HTTP" else store.tls_options()) | keys
    with pytest.raises(storelet.CredentialsError, match=f"{store.bucket.name} .*{said}") as raised:
        back_up(tree, options, kept)
    assert raised.value.exit_code == 12
    assert "access_key" in str(raised.value.hint)
    store.assert_empty()


@WAYS
def test_a_key_that_may_not_write_is_told_from_one_that_is_wrong(
    store: Store, tree: Path, kept: Path, back_up: Any
) -> None:
    with pytest.raises(storelet.PermissionDeniedError, match=store.bucket.name) as raised:
        back_up(tree, store.options(access_key=STRANGER), kept)
    assert raised.value.exit_code == 77
    store.assert_empty()


@WAYS
def test_a_missing_bucket_is_an_error_and_is_not_made(
    store: Store, tree: Path, kept: Path, back_up: Any
) -> None:
    with pytest.raises(storelet.DestinationMissingError, match="no such bucket: none-such") as said:
        back_up(tree, store.options(bucket="none-such"), kept)
    assert said.value.exit_code == 10
    buckets = store.bucket.client.list_buckets()["Buckets"]
    assert "none-such" not in [each.get("Name") for each in buckets]


# What Storelet builds on, asked of the store itself -----------------------------------------------


def code_of(call: Callable[..., Any], **arguments: Any) -> str:
    """Call, and return the error's code, or nothing."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return ""


def begin(bucket: Bucket, key: str) -> dict[str, str]:
    """Begin an upload; return what its parts name."""
    begun = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    return {"Bucket": bucket.name, "Key": key, "UploadId": begun["UploadId"]}


def end(bucket: Bucket, upload: dict[str, str], etag: str, **condition: str) -> Any:
    """Complete an upload of one part."""
    parts: Any = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    complete: Any = bucket.client.complete_multipart_upload
    return complete(**upload, MultipartUpload=parts, **condition)


def send_part(bucket: Bucket, upload: dict[str, str], data: bytes) -> str:
    """Send the one part; return its ETag."""
    send: Any = bucket.client.upload_part
    return str(send(**upload, PartNumber=1, Body=data)["ETag"])


def test_nothing_is_put_over_a_taken_name(asked: Bucket) -> None:
    put: Any = asked.client.put_object
    name = {"Bucket": asked.name, "Key": "taken"}
    assert code_of(put, **name, Body=b"first", IfNoneMatch="*") == ""
    assert code_of(put, **name, Body=b"second", IfNoneMatch="*") == "PreconditionFailed"
    assert asked.read("taken") == b"first"


def test_an_upload_is_not_completed_over_a_taken_name(asked: Bucket) -> None:
    asked.client.put_object(Bucket=asked.name, Key="taken", Body=b"first")
    upload = begin(asked, "taken")
    etag = send_part(asked, upload, b"second")
    code = code_of(end, bucket=asked, upload=upload, etag=etag, IfNoneMatch="*")
    assert code == "PreconditionFailed"
    assert asked.read("taken") == b"first"


def test_completing_says_the_etag(asked: Bucket) -> None:
    upload = begin(asked, "whole")
    said = end(asked, upload, send_part(asked, upload, b"data"))
    head = asked.client.head_object(Bucket=asked.name, Key="whole")
    assert said["ETag"] == head["ETag"]


def test_a_range_is_copied_as_it_is_and_outlives_its_source(asked: Bucket) -> None:
    data = os.urandom(PART_BYTES)
    etag = asked.client.put_object(Bucket=asked.name, Key="old", Body=data)["ETag"]
    upload = begin(asked, "new")
    copied = copy_range(asked, upload, etag)
    end(asked, upload, copied["CopyPartResult"]["ETag"])
    asked.client.delete_object(Bucket=asked.name, Key="old")
    assert asked.read("new") == data[11 : PART_BYTES - 7]


def test_nothing_is_copied_from_an_object_that_has_changed(asked: Bucket) -> None:
    etag = asked.client.put_object(Bucket=asked.name, Key="old", Body=b"as it was")["ETag"]
    asked.client.put_object(Bucket=asked.name, Key="old", Body=os.urandom(PART_BYTES))
    upload = begin(asked, "new")
    code = code_of(copy_range, bucket=asked, upload=upload, etag=etag)
    assert code in ("412", "PreconditionFailed")


def copy_range(bucket: Bucket, upload: dict[str, str], etag: str) -> Any:
    """Copy nearly all of `old` as part 1, where it still is what it was."""
    copy: Any = bucket.client.upload_part_copy
    return copy(
        **upload,
        PartNumber=1,
        CopySource={"Bucket": bucket.name, "Key": "old"},
        CopySourceRange=f"bytes=11-{PART_BYTES - 8}",
        CopySourceIfMatch=etag,
    )


def test_data_that_its_checksum_does_not_fit_are_refused(asked: Bucket) -> None:
    put: Any = asked.client.put_object
    wrong = base64.b64encode(bytes(4)).decode()
    code = code_of(put, Bucket=asked.name, Key="wrong", Body=b"data", ChecksumCRC32=wrong)
    assert code == "BadDigest"
    assert asked.keys() == []


def test_a_bucket_takes_the_rules_of_the_manual(asked: Bucket) -> None:
    (text,) = blocks_of(chapter_of("Destinations"), "json")
    rules = json.loads(text)
    asked.client.put_bucket_lifecycle_configuration(Bucket=asked.name, LifecycleConfiguration=rules)
    kept = asked.client.get_bucket_lifecycle_configuration(Bucket=asked.name)
    assert kept["Rules"] == rules["Rules"]

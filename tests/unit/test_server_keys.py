"""Archives that the store encrypts: with keys of its own, of KMS, or of ours, night after night."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

import storelet
from tests.helpers import Bucket, MotoServer
from tests.nights import Nights, contents, contents_of
from tests.proxy import Proxy
from tests.zipparser import parse_zip

MIB = 1 << 20
KEY = b"k" * 32
OF_OURS = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64encode(KEY).decode()}
OF_KMS = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/backup"}
OLD = 1_366_561_800


@pytest.fixture
def proxy(moto_server: MotoServer) -> Iterator[Proxy]:
    with Proxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def large(tree: Path) -> Path:
    """Make the tree one of which S3 copies something."""
    (tree / "z").write_bytes(os.urandom(12 * MIB))
    for path in tree.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (OLD, OLD))
    return tree


def open_bucket(bucket: Bucket, upload: dict[str, str], endpoint: str | None = None) -> storelet.S3:
    return storelet.S3(
        bucket.name,
        bucket.access_key,
        bucket.secret_key,
        endpoint_url=endpoint or bucket.endpoint,
        region_name="us-east-1",
        upload=upload,
    )


@pytest.mark.parametrize("upload", [OF_KMS, {"ServerSideEncryption": "AES256"}])
def test_each_archive_is_encrypted_as_its_upload_says_also_where_it_is_copied(
    large: Path, s3_server: Bucket, upload: dict[str, str]
) -> None:
    nights = Nights(large)
    for _ in range(2):
        nights.back_up(open_bucket(s3_server, upload))
    assert nights.saved.bytes_reused > 12 * MIB
    for key in s3_server.keys():  # noqa: SIM118 - no mapping
        head = s3_server.client.head_object(Bucket=s3_server.name, Key=key)
        assert {name: head[name] for name in upload} == upload  # type: ignore[literal-required]


def test_a_key_of_ours_goes_with_every_request_about_an_archive(
    large: Path, s3_server: Bucket, proxy: Proxy
) -> None:
    nights = Nights(large)
    for _ in range(2):
        nights.back_up(open_bucket(s3_server, OF_OURS, proxy.endpoint))
    assert nights.saved.bytes_reused > 12 * MIB
    key = "x-amz-server-side-encryption-customer-key"
    copied_from = "x-amz-copy-source-server-side-encryption-customer-key"
    assert {"UploadPartCopy", "GetObject", "HeadObject", "UploadPart"} <= set(proxy.actions)
    for request in proxy.requests:
        assert (key in request.headers) == (request.action != "ListObjectsV2"), request.action
        assert (copied_from in request.headers) == (request.action == "UploadPartCopy")


def test_what_is_encrypted_with_a_key_of_ours_is_read_with_it_alone(
    large: Path, seaweedfs: Bucket
) -> None:
    """In a store that knows what it is, and copies no such archive."""
    events: list[storelet.Event] = []
    with storelet.observe(events.append):
        for _ in range(2):
            with storelet.ZipBackup(
                "example",
                destination=open_bucket(seaweedfs, OF_OURS),
                change_detection={"ctime": False},
            ) as backup:
                backup.include_directory(large)
    reasons = [each.reason for each in events if isinstance(each, storelet.NotReused)]
    assert len(reasons) == 2
    assert "NotImplemented" in reasons[1]
    keys = seaweedfs.keys()
    assert len(keys) == 2
    for key in keys:
        got = seaweedfs.client.get_object(
            Bucket=seaweedfs.name, Key=key, SSECustomerAlgorithm="AES256", SSECustomerKey=KEY
        )
        assert contents(parse_zip(got["Body"].read())) == contents_of(large)
        with pytest.raises(ClientError):
            seaweedfs.client.get_object(Bucket=seaweedfs.name, Key=key)

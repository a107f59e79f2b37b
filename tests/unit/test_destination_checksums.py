"""Stores that refuse checksums: what comes after the first refusal goes without them.

Over HTTPS boto3 sends a checksum behind the data (aws-chunked): radosgw 16.2 and JuiceFS answer
411. Wasabi compares with a type named at create, and knows none. Backblaze B2 once refused the
header that names the algorithm.
"""

from __future__ import annotations

import os
import ssl
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import trustme
from botocore.config import Config

import storelet
from storelet.destination.s3upload import PART_BYTES, PARTS_AT_ONCE
from tests.helpers import Bucket
from tests.proxy import Answer, Proxy, Request, error_answer

REFUSALS = {
    "411": error_answer(411, "MissingContentLength"),
    "400": error_answer(
        400,
        "InvalidRequest",
        "Checksum Type mismatch occurred, expected checksum Type: null, "
        "actual checksum Type: crc32",
    ),
    "501": error_answer(
        501,
        "NotImplemented",
        "A header you provided implies functionality that is not implemented: "
        "x-amz-sdk-checksum-algorithm",
    ),
}
SIZES = {"one put": 10, "parts": 5 * PART_BYTES // 2}
MANY_PARTS = (PARTS_AT_ONCE + 1) * PART_BYTES + 10  # more than are on their way at once

Choose = Callable[[Request], bool]


@pytest.fixture
def proxy(s3_server: Bucket) -> Iterator[Proxy]:
    """Run the store in front of it that refuses."""
    with Proxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_proxy(s3_server: Bucket, authority: trustme.CA) -> Iterator[Proxy]:
    """Run the same by HTTPS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Proxy(s3_server.endpoint, tls=context) as proxy:
        yield proxy


@pytest.fixture(params=SIZES)
def data(request: pytest.FixtureRequest) -> bytes:
    """Make what goes by one put, or in parts."""
    return os.urandom(SIZES[request.param])


@pytest.fixture(params=REFUSALS)
def refusal(request: pytest.FixtureRequest) -> Answer:
    """Take one answer after the other."""
    return REFUSALS[request.param]


def has_checksum(request: Request) -> bool:
    """Tell whether a request that writes carries or names a checksum."""
    names = ("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer")
    return request.method in ("PUT", "POST") and (
        any(name.startswith(names) for name in request.headers)
        or b"<Checksum" in request.body[:4096]
    )


def is_chunked(request: Request) -> bool:
    return "transfer-encoding" in request.headers


def refuse(proxy: Proxy, refusal: Answer, choose: Choose) -> None:
    proxy.script = lambda request: refusal if choose(request) else None


def open_s3(bucket: Bucket, proxy: Proxy, **options: Any) -> storelet.S3:
    config = Config(retries={"total_max_attempts": 1})
    return storelet.S3(
        bucket.name,
        bucket.access_key,
        bucket.secret_key,
        endpoint_url=proxy.endpoint,
        region_name="us-east-1",
        config=config,
        **options,
    )


def back_up(name: str, destination: storelet.S3, data: bytes) -> None:
    """Back up a file with such data."""
    with (
        storelet.ZipBackup(name, destination=destination) as backup,
        backup.include_new_dir("größe") as directory,
    ):
        Path(directory.path, "naïve").write_bytes(data)


def assert_whole(bucket: Bucket, name: str, data: bytes) -> None:
    """Fail unless there is one archive of the name, with the data, and nothing unfinished."""
    (key,) = (key for key in bucket.keys() if key.startswith(f"{name}_"))  # noqa: SIM118
    with zipfile.ZipFile(BytesIO(bucket.read(key))) as archive:
        assert archive.testzip() is None
        assert archive.read("größe/naïve") == data
    listed = bucket.client.list_multipart_uploads(Bucket=bucket.name)
    assert listed.get("Uploads", []) == []


def assert_refused(proxy: Proxy, choose: Choose, most: int) -> None:
    """Fail unless there were refusals, no more than were on their way, and no checksum then."""
    refused = [number for number, each in enumerate(proxy.requests) if choose(each)]
    assert 1 <= len(refused) <= most
    after = proxy.requests[refused[-1] + 1 :]
    assert {each.action for each in after} & {"PutObject", "CompleteMultipartUpload"}
    assert [each.action for each in after if has_checksum(each)] == []
    creates = [each for each in proxy.requests if each.action == "CreateMultipartUpload"]
    assert not any(map(has_checksum, creates[-1:]))


def test_a_store_that_refuses_checksums_gets_the_archive_without(
    s3_server: Bucket, proxy: Proxy, data: bytes, refusal: Answer
) -> None:
    refuse(proxy, refusal, has_checksum)
    back_up("example", open_s3(s3_server, proxy), data)
    assert_whole(s3_server, "example", data)
    assert_refused(proxy, has_checksum, most=1)


@pytest.mark.parametrize("size", [10, 2 * PART_BYTES, MANY_PARTS])
def test_a_store_that_refuses_them_with_data_only_gets_the_archive_without(
    s3_server: Bucket, proxy: Proxy, refusal: Answer, size: int
) -> None:
    """Who named one at create must begin anew: S3 itself would want it with each part."""

    data = os.urandom(size)

    def refuses(request: Request) -> bool:
        return request.method == "PUT" and has_checksum(request)

    refuse(proxy, refusal, refuses)
    back_up("example", open_s3(s3_server, proxy), data)
    assert_whole(s3_server, "example", data)
    assert_refused(proxy, refuses, most=PARTS_AT_ONCE)


def test_by_https_a_store_that_takes_nothing_chunked_gets_the_archive_all_the_same(
    s3_server: Bucket, tls_proxy: Proxy, authority: trustme.CA, tmp_path: Path, data: bytes
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    refuse(tls_proxy, REFUSALS["411"], is_chunked)
    back_up("example", open_s3(s3_server, tls_proxy, verify=str(tmp_path / "authority.pem")), data)
    assert_whole(s3_server, "example", data)
    assert_refused(tls_proxy, is_chunked, most=PARTS_AT_ONCE)


def test_a_store_that_knows_neither_checksums_nor_conditions_gets_the_archive(
    s3_server: Bucket, proxy: Proxy, data: bytes
) -> None:
    def refuses(request: Request) -> bool:
        return has_checksum(request) or "if-none-match" in request.headers

    refuse(proxy, REFUSALS["501"], refuses)
    back_up("example", open_s3(s3_server, proxy), data)
    assert_whole(s3_server, "example", data)


def test_what_a_store_refused_once_it_is_not_sent_again(
    s3_server: Bucket, proxy: Proxy, data: bytes
) -> None:
    refuse(proxy, REFUSALS["411"], has_checksum)
    destination = open_s3(s3_server, proxy)
    for name in ("first", "second"):
        back_up(name, destination, data)
        assert_whole(s3_server, name, data)
    assert_refused(proxy, has_checksum, most=1)


def test_a_store_that_refuses_without_checksums_too_is_an_error_at_once(
    s3_server: Bucket, proxy: Proxy, data: bytes, refusal: Answer
) -> None:
    refuse(proxy, refusal, lambda request: request.method in ("PUT", "POST"))
    with pytest.raises(storelet.DestinationError, match=f"bucket {s3_server.name} answered"):
        back_up("example", open_s3(s3_server, proxy), data)
    assert s3_server.keys() == []
    # With both, without a condition, without a checksum, without either.
    assert sum(each.method in ("PUT", "POST") for each in proxy.requests) <= 4


def test_a_store_that_takes_checksums_gets_them_in_every_request(
    s3_server: Bucket, proxy: Proxy, data: bytes
) -> None:
    back_up("example", open_s3(s3_server, proxy), data)
    assert_whole(s3_server, "example", data)
    assert all(has_checksum(each) for each in proxy.requests if each.method in ("PUT", "POST"))

"""S3 as a destination where the contract's suite does not reach: faults, races, wrong keys."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import freezegun
import pytest
import trustme
from botocore.config import Config

import storelet
from storelet.destination.contract import Stored
from storelet.destination.s3 import S3
from storelet.destination.s3upload import PART_BYTES, PARTS_AT_ONCE, part_bytes
from tests.answering import answering
from tests.helpers import CLONE, Bucket, MotoServer, wait_for
from tests.proxy import Answer, Proxy, Request, error_answer
from tests.zipparser import parse_zip

CUSTOMER_KEY = base64.b64encode(b"0123456789abcdef" * 2).decode()
NAME = "example_20130421163000.zip"
NO_RETRY = Config(retries={"total_max_attempts": 1})
ONE_RETRY = Config(retries={"total_max_attempts": 2})


@pytest.fixture
def proxy(moto_server: MotoServer) -> Iterator[Proxy]:
    """Run an S3 whose answers a test may change."""
    with Proxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def small() -> bytes:
    """Make what goes as one object."""
    return b"small"


@pytest.fixture(scope="module")
def large() -> bytes:
    """Make what goes in two parts."""
    return os.urandom(PART_BYTES + 1)


@pytest.fixture(params=["small", "large"])
def data(request: pytest.FixtureRequest) -> bytes:
    """Make what goes in one or in two parts."""
    return request.getfixturevalue(request.param)


def open_s3(
    bucket: Bucket | str, endpoint: str | None, config: Config = NO_RETRY, **options: Any
) -> S3:
    keys = {"access_key": "AKIDAKID", "secret_key": "s3cr3t", "region_name": "us-east-1"}
    name = bucket if isinstance(bucket, str) else bucket.name
    return S3(name, **{**keys, "endpoint_url": endpoint, "config": config, **options})


def send(bucket: Bucket | str, endpoint: str | None, data: bytes, **options: Any) -> str:
    """Upload through an endpoint, as a backup does."""
    upload = open_s3(bucket, endpoint, **options).open_upload(NAME, {"storelet-job": "example"})
    try:
        upload.write(data)
        return upload.commit()
    except BaseException:
        upload.abort()
        raise


def save(bucket: Bucket, endpoint: str, data: bytes) -> str:
    """Back up a file with such data through an endpoint."""
    with storelet.ZipBackup("example") as backup:
        with backup.include_new_dir("d") as d:
            Path(d.path, "file").write_bytes(data)
        return backup.save_to_s3(
            bucket.name, "key", "secret", endpoint_url=endpoint, config=NO_RETRY
        )


def test_parts_are_sent_side_by_side_but_few_at_once(s3_server: Bucket, proxy: Proxy) -> None:
    """Each part waits for others: sent one after the other, the second would wait in vain.

    The first goes alone: it shows whether the store takes checksums.
    """
    together = threading.Barrier(PARTS_AT_ONCE)
    now = most = 0
    counting = threading.Lock()

    def answer(request: Request) -> Answer | str | None:
        nonlocal now, most
        if request.action == "UploadPart" and request.query["partNumber"] != ["1"]:
            with counting:
                now += 1
                most = max(most, now)
            together.wait(30)
            with counting:
                now -= 1
        return None

    proxy.script = answer
    data = os.urandom((2 * PARTS_AT_ONCE + 1) * PART_BYTES - 10_000)  # its last part is short
    save(s3_server, proxy.endpoint, data)
    (key,) = s3_server.keys()
    assert parse_zip(s3_server.read(key))["d/file"].data == data
    assert most == PARTS_AT_ONCE


def unfinished(bucket: Bucket) -> list[Any]:
    return bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])


def contents(bucket: Bucket, key: str) -> dict[str, bytes]:
    return parse_zip(bucket.read(key)).contents()


# Requests ---------------------------------------------------------------------------------------


def test_an_archive_of_one_part_is_put_under_the_condition_that_its_name_is_free(
    s3_server: Bucket, proxy: Proxy, small: bytes
) -> None:
    url = save(s3_server, proxy.endpoint, small)
    assert set(proxy.actions[:-1]) == {"HeadObject"}
    put = proxy.requests[-1]
    assert put.action == "PutObject"
    assert put.headers["if-none-match"] == "*"
    assert any(name.startswith("x-amz-checksum-") for name in put.headers)
    key = url.rpartition("/")[2]
    head = s3_server.client.head_object(Bucket=s3_server.name, Key=key)
    assert head["ContentType"] == "application/zip"
    assert head["Metadata"]["storelet-job"] == "example"
    assert head["Metadata"]["storelet-host"] == os.uname().nodename
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", head["Metadata"]["storelet-started"]
    )


def test_a_larger_archive_goes_in_parts_with_checksums_from_create_to_complete(
    s3_server: Bucket, proxy: Proxy, large: bytes
) -> None:
    url = save(s3_server, proxy.endpoint, large)
    parts = [request for request in proxy.requests if request.action == "UploadPart"]
    parts.sort(key=lambda part: part.query["partNumber"])  # sent side by side
    assert [part.query["partNumber"] for part in parts] == [["1"], ["2"]]
    assert len(parts[0].body) == PART_BYTES
    assert all("x-amz-checksum-crc32" in part.headers for part in parts)
    (create,) = [each for each in proxy.requests if each.action == "CreateMultipartUpload"]
    assert create.headers["x-amz-checksum-algorithm"] == "CRC32"
    complete = proxy.requests[-1]
    assert complete.action == "CompleteMultipartUpload"
    assert complete.headers["if-none-match"] == "*"
    for part in parts:
        checksum = f"<ChecksumCRC32>{part.headers['x-amz-checksum-crc32']}</ChecksumCRC32>"
        assert checksum.encode() in complete.body
    assert contents(s3_server, url.rpartition("/")[2]) == {"d/file": large}
    assert unfinished(s3_server) == []


def test_parts_are_of_a_size_that_s3_allows_and_reach_as_far_as_an_object_may() -> None:
    for copies in (0, 1, 5_000, 9_000):
        for expected in (0, 1 << 20, 10**10, 10**12, 2 * 10**12, 8 * 10**12):
            fresh = range(copies + 1, 10_001)
            sizes = [part_bytes(number, copies, expected) for number in fresh]
            assert all(5 << 20 <= size <= 5 << 30 for size in sizes)
            assert sizes == sorted(sizes)
            most = (5 << 30) * len(sizes)  # that so many parts can hold
            assert sum(sizes) >= min(8 * expected, most // 3)
            assert copies or sum(sizes) > 5 * 10**11  # whatever was expected
    assert part_bytes(1, 0, 0) == part_bytes(5_000, 0, 0) == PART_BYTES
    assert part_bytes(5_001, 0, 0) == PART_BYTES * 2
    assert part_bytes(9_001, 9_000, 0) == PART_BYTES


def test_options_of_the_upload_reach_the_object(
    s3_server: Bucket, proxy: Proxy, small: bytes, large: bytes
) -> None:
    upload = {
        "StorageClass": "STANDARD_IA",
        "Metadata": {"mine": "too"},
        "ContentType": "application/x-mine",
        "RequestPayer": "requester",
    }
    for prefix, data in (("small/", small), ("large/", large)):
        proxy.requests.clear()
        send(s3_server, proxy.endpoint, data, prefix=prefix, upload=upload)
        head = s3_server.client.head_object(Bucket=s3_server.name, Key=prefix + NAME)
        assert head["StorageClass"] == "STANDARD_IA"
        assert head["ContentType"] == "application/x-mine"
        assert {"mine", "storelet-job"} <= set(head["Metadata"])
        assert all(r.headers["x-amz-request-payer"] == "requester" for r in proxy.requests)


def test_a_key_of_the_customers_own_goes_with_every_request_that_needs_it(
    s3_server: Bucket, proxy: Proxy, large: bytes
) -> None:
    upload = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": CUSTOMER_KEY}
    send(s3_server, proxy.endpoint, large, upload=upload)
    name = "x-amz-server-side-encryption-customer-key"
    assert {request.headers[name] for request in proxy.requests} == {CUSTOMER_KEY}


@pytest.mark.parametrize(
    "key",
    [
        "s3cr3t" + "k" * 26,  # the bytes themselves
        b"s3cr3t" + b"k" * 26,
        base64.b64encode(b"s3cr3t" + b"k" * 25).decode(),
        base64.b64encode(b"s3cr3t" + b"k" * 27).decode(),
        CUSTOMER_KEY + "\n",
        CUSTOMER_KEY.replace("M", "-"),
        "",
        None,
    ],
)
def test_a_key_of_the_customers_own_is_base64_of_32_bytes(key: object) -> None:
    upload = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
    with pytest.raises(storelet.UsageError) as said:
        S3("my-bucket", upload=upload)
    assert str(said.value) == (
        "bucket my-bucket: SSECustomerKey is not base64 of 32 bytes"
        " (make one with: openssl rand -base64 32)"
    )


@pytest.mark.parametrize(
    "name", ["Body", "Bucket", "Key", "ChecksumAlgorithm", "IfNoneMatch", "SSECustomerKeyMD5"]
)
def test_what_storelet_says_itself_is_no_option_of_the_upload(small: bytes, name: str) -> None:
    with pytest.raises(storelet.UsageError, match=f"bucket my-bucket: upload holds .*: {name}"):
        send("my-bucket", None, small, upload={name: "x"})


# Names that are taken -----------------------------------------------------------------------------


def test_a_name_taken_before_costs_no_upload(s3_server: Bucket, proxy: Proxy) -> None:
    s3_server.client.put_object(Bucket=s3_server.name, Key=NAME, Body=b"theirs")
    destination = S3(s3_server.name, "k", "s", endpoint_url=proxy.endpoint)
    with pytest.raises(storelet.ArchiveExistsError, match=NAME):
        destination.open_upload(NAME, {})
    assert proxy.actions == ["HeadObject"]


def take_name(
    bucket: Bucket, before: str, then: Callable[[Request], Answer | str | None] = lambda _: None
) -> Callable[[Request], Answer | str | None]:
    """Have somebody else take the name just before the first request of a kind."""
    taken: list[str] = []

    def script(request: Request) -> Answer | str | None:
        if request.action == before and not taken:
            key = request.path.partition("?")[0].removeprefix(f"/{bucket.name}/")
            bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"theirs")
            taken.append(key)
        return then(request)

    return script


@freezegun.freeze_time("2013-04-21 16:30:00")
@pytest.mark.parametrize(
    ("size", "before"),
    [("small", "PutObject"), ("large", "UploadPart"), ("large", "CompleteMultipartUpload")],
)
def test_a_name_taken_during_the_upload_is_not_overwritten_and_the_next_is_used(
    s3_server: Bucket, proxy: Proxy, request: pytest.FixtureRequest, size: str, before: str
) -> None:
    data: bytes = request.getfixturevalue(size)
    proxy.script = take_name(s3_server, before)
    url = save(s3_server, proxy.endpoint, data)
    assert url == f"s3://{s3_server.name}/example_20130421163001.zip"
    assert s3_server.keys() == [NAME, "example_20130421163001.zip"]
    assert s3_server.read(NAME) == b"theirs"
    assert contents(s3_server, "example_20130421163001.zip") == {"d/file": data}
    assert unfinished(s3_server) == []


def test_a_store_that_ignores_the_condition_is_asked_once_more_before_the_end(
    s3_server: Bucket, proxy: Proxy, large: bytes
) -> None:
    def ignore(request: Request) -> None:
        request.headers.pop("if-none-match", None)

    proxy.script = take_name(s3_server, "UploadPart", ignore)
    with pytest.raises(storelet.ArchiveExistsError, match=f"{NAME} is taken in bucket"):
        send(s3_server, proxy.endpoint, large)
    assert s3_server.keys() == [NAME]
    assert s3_server.read(NAME) == b"theirs"
    assert unfinished(s3_server) == []


@freezegun.freeze_time("2013-04-21 16:30:00")
def test_a_conflict_with_somebody_who_is_just_writing_leads_to_the_next_name(
    s3_server: Bucket, proxy: Proxy, data: bytes
) -> None:
    def script(request: Request) -> Answer | None:
        if "if-none-match" in request.headers and NAME in request.path:
            return error_answer(409, "ConditionalRequestConflict")
        return None

    proxy.script = script
    url = save(s3_server, proxy.endpoint, data)
    assert url.endswith("example_20130421163001.zip")
    assert unfinished(s3_server) == []


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_store_without_conditions_gets_the_archive_without_one(
    s3_server: Bucket, proxy: Proxy, data: bytes, is_lost: bool
) -> None:
    def script(request: Request) -> Answer | str | None:
        if "if-none-match" in request.headers:
            return error_answer(501, "NotImplemented")
        is_end = request.action in ("PutObject", "CompleteMultipartUpload")
        return "lose" if is_end and is_lost else None

    proxy.script = script
    send(s3_server, proxy.endpoint, data)
    assert s3_server.read(NAME) == data


@pytest.mark.parametrize("status", [400, 403, 405])
def test_a_key_that_may_not_ask_whether_a_name_is_taken_may_still_save(
    s3_server: Bucket, proxy: Proxy, small: bytes, status: int
) -> None:
    proxy.script = lambda asked: Answer(status=status) if asked.method == "HEAD" else None
    send(s3_server, proxy.endpoint, small)
    assert s3_server.read(NAME) == small
    with pytest.raises(storelet.ArchiveExistsError):
        send(s3_server, proxy.endpoint, b"another")
    assert s3_server.read(NAME) == small


# Answers that are lost ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", [NO_RETRY, ONE_RETRY], ids=["no retry", "one retry"])
def test_success_whose_answer_was_lost_is_success(
    s3_server: Bucket, proxy: Proxy, data: bytes, config: Config
) -> None:
    ends: list[Request] = []

    def script(request: Request) -> Answer | str | None:
        if request.action not in ("PutObject", "CompleteMultipartUpload"):
            return None
        ends.append(request)
        if len(ends) == 1:
            return "lose"
        return error_answer(404, "NoSuchUpload") if request.method == "POST" else None

    proxy.script = script
    send(s3_server, proxy.endpoint, data, config=config)
    assert len(ends) == (1 if config is NO_RETRY else 2)
    assert s3_server.keys() == [NAME]
    assert s3_server.read(NAME) == data


def test_an_error_within_a_good_answer_is_no_success(
    s3_server: Bucket, proxy: Proxy, large: bytes
) -> None:
    body = error_answer(200, "InternalError").body
    proxy.script = lambda request: (
        Answer(status=200, body=body) if request.action == "CompleteMultipartUpload" else None
    )
    with pytest.raises(storelet.DestinationError, match="answered InternalError"):
        send(s3_server, proxy.endpoint, large)
    assert s3_server.keys() == []
    assert unfinished(s3_server) == []


def test_an_archive_of_somebody_else_is_not_taken_for_ours(
    s3_server: Bucket, proxy: Proxy, small: bytes
) -> None:
    def script(request: Request) -> Answer | None:
        if request.action != "PutObject":
            return None
        key = request.path.removeprefix(f"/{s3_server.name}/")
        s3_server.client.put_object(Bucket=s3_server.name, Key=key, Body=b"theirs")
        return error_answer(500, "InternalError")

    proxy.script = script
    with pytest.raises(storelet.DestinationError, match="answered InternalError"):
        send(s3_server, proxy.endpoint, small)
    assert [s3_server.read(key) for key in s3_server.keys()] == [b"theirs"]  # noqa: SIM118


# Faults -----------------------------------------------------------------------------------------


MULTIPART = ["HeadObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        *((action, error_answer(503, "SlowDown")) for action in [*MULTIPART, "PutObject"]),
        ("CreateMultipartUpload", "lose"),
        ("UploadPart", "lose"),
    ],
)
def test_a_passing_fault_is_survived(
    s3_server: Bucket, proxy: Proxy, small: bytes, large: bytes, action: str, fault: Answer | str
) -> None:
    seen: list[str] = []

    def script(request: Request) -> Answer | str | None:
        seen.append(request.action)
        return fault if seen.count(action) == 1 and request.action == action else None

    data = large if action in MULTIPART else small
    proxy.script = script
    send(s3_server, proxy.endpoint, data, config=ONE_RETRY)
    assert s3_server.read(NAME) == data


@pytest.mark.parametrize("action", [*MULTIPART, "PutObject"])
@pytest.mark.parametrize(
    "fault",
    [error_answer(500, "InternalError"), Answer(status=502, body=b"<html>")],
    ids=["500", "502"],
)
def test_a_lasting_fault_is_an_error_that_names_the_bucket_and_nothing_is_left(
    s3_server: Bucket, proxy: Proxy, small: bytes, large: bytes, action: str, fault: Answer
) -> None:
    proxy.script = lambda request: fault if request.action == action else None
    with pytest.raises(storelet.DestinationError, match=f"bucket {s3_server.name} "):
        send(s3_server, proxy.endpoint, large if action in MULTIPART else small)
    assert s3_server.keys() == []
    assert unfinished(s3_server) == []
    wants_abort = action in ("UploadPart", "CompleteMultipartUpload")
    assert ("AbortMultipartUpload" in proxy.actions) == wants_abort


def test_an_upload_that_cannot_be_aborted_is_warned_of_and_hides_no_error(
    s3_server: Bucket, proxy: Proxy, large: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def script(request: Request) -> Answer | None:
        match request.action:
            case "CompleteMultipartUpload":
                return error_answer(400, "InvalidPart", "the first error")
            case "AbortMultipartUpload":
                return error_answer(500, "InternalError")
        return None

    proxy.script = script
    with pytest.raises(storelet.DestinationError, match="the first error"):
        send(s3_server, proxy.endpoint, large)
    messages = [record.getMessage() for record in caplog.records if record.name == "storelet"]
    assert any(re.match(r"Could not abort the upload of example_\d+\.zip: ", m) for m in messages)


def test_a_store_that_never_answers_is_given_up(
    s3_server: Bucket, proxy: Proxy, small: bytes
) -> None:
    proxy.script = lambda _request: "hang"
    config = NO_RETRY.merge(Config(read_timeout=0.3))
    unreachable = f"cannot reach bucket {s3_server.name}"
    with pytest.raises(storelet.DestinationError, match=unreachable) as raised:
        send(s3_server, proxy.endpoint, small, config=config)
    assert raised.value.is_temporary


def test_an_answer_that_is_not_s3s_is_an_error_that_says_so(
    s3_server: Bucket, proxy: Proxy, large: bytes
) -> None:
    """As a portal's, or a balancer's, that answers everything with 200."""
    for action in ("HeadObject", "CreateMultipartUpload", "UploadPart"):
        proxy.script = lambda request, action=action: (
            Answer(status=200) if request.action == action else None
        )
        with pytest.raises(storelet.DestinationError, match=f"{s3_server.name} is no S3") as said:
            send(s3_server, proxy.endpoint, large)
        assert not said.value.is_temporary
        assert unfinished(s3_server) == []


def test_a_request_without_an_answer_is_given_up_after_a_minute() -> None:
    config = storelet.S3("my-bucket", region_name="us-east-1")._bucket.client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (60, 60)  # type: ignore[attr-defined]


class _Slow(BaseHTTPRequestHandler):
    """Takes half of an object, gives half of one, and waits for `go_on` before the other half."""

    protocol_version = "HTTP/1.1"
    go_on: threading.Event
    size = 16 << 20  # more than what the kernel keeps of it on its way

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_PUT(self) -> None:
        size = int(self.headers["Content-Length"])
        self.rfile.read(size // 2)
        self.go_on.wait(30)
        self.rfile.read(size - size // 2)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(206)
        self.send_header("Content-Length", str(self.size))
        self.end_headers()
        self.wfile.write(bytes(self.size // 2))
        self.go_on.wait(30)
        self.wfile.write(bytes(self.size // 2))


@pytest.fixture
def slow() -> Iterator[tuple[str, threading.Event]]:
    """Run a store on a line that stands still in the middle of what is sent and read."""
    go_on = threading.Event()
    handler = type("Slow", (_Slow,), {"go_on": go_on})
    with answering(handler) as place:
        yield f"http://{place}", go_on
        go_on.set()


def test_what_is_sent_is_heard_of_within_a_request(slow: tuple[str, threading.Event]) -> None:
    """On a slow line a part takes minutes, and is no reason to think that nothing moves."""
    endpoint, go_on = slow
    sent = 0

    def note(event: storelet.Event) -> None:
        nonlocal sent
        if isinstance(event, storelet.Moved):
            sent += event.bytes_sent

    def put() -> None:
        data = bytes(_Slow.size)
        open_s3("my-bucket", endpoint)._bucket.client.put_object(
            Bucket="my-bucket", Key=NAME, Body=data
        )

    with storelet.observe(note):
        sending = threading.Thread(target=put)
        sending.start()
        wait_for(lambda: sent, what="a sign of life")
        assert sent < _Slow.size
        go_on.set()
        sending.join()


def test_what_is_read_back_is_heard_of_within_a_request(
    slow: tuple[str, threading.Event],
) -> None:
    endpoint, go_on = slow
    stored = Stored(name=NAME, size=_Slow.size, version='"x"', modified=0)
    events: list[storelet.Event] = []

    def read() -> None:
        open_s3("my-bucket", endpoint).read(stored, 0, _Slow.size)

    with storelet.observe(events.append):
        reading = threading.Thread(target=read)
        reading.start()
        wait_for(lambda: events, what="a sign of life")
        assert reading.is_alive()
        go_on.set()
        reading.join()


def test_an_interrupt_during_the_upload_aborts_it(s3_server: Bucket, proxy: Proxy) -> None:
    proxy.script = lambda request: "hang" if request.action == "UploadPart" else None
    running = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, s3_server.name, proxy.endpoint],
        cwd=CLONE,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(lambda: "UploadPart" in proxy.actions, what="a part on its way")
        running.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in running.communicate(timeout=30)[1]
    finally:
        running.kill()
        running.wait()
    assert proxy.actions[-1] == "AbortMultipartUpload"
    assert unfinished(s3_server) == []
    assert s3_server.keys() == []


INTERRUPTED = """
import os, signal, storelet, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
with storelet.ZipBackup("example") as backup:
    with backup.include_new_dir("d") as d, open(f"{d}/large", "wb") as file:
        file.write(os.urandom(9 << 20))
    backup.save_to_s3(sys.argv[1], "k", "s", endpoint_url=sys.argv[2], region_name="us-east-1")
"""


# Errors that people make --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "error", "message", "hint"),
    [
        (404, "NoSuchBucket", "DestinationMissingError", "no such bucket: my-bucket", "name"),
        (403, "InvalidAccessKeyId", "CredentialsError", "my-bucket refuses the key", "access_key"),
        (403, "SignatureDoesNotMatch", "CredentialsError", "refuses the key", "secret_key"),
        (400, "ExpiredToken", "CredentialsError", "refuses the key, which has expired", "profile"),
        (403, "AccessDenied", "PermissionDeniedError", "may not write to bucket my-b", "PutObj"),
        (400, "IllegalLocationConstraintException", "DestinationError", "region", "region_name"),
        (403, "RequestTimeTooSkewed", "DestinationError", "my-bucket refuses this", "clock"),
        (400, "EntityTooLarge", "DestinationError", "my-bucket answered EntityTooLarge", None),
    ],
)
def test_what_s3_refuses_is_an_error_that_names_the_bucket_and_hints_at_the_remedy(
    small: bytes, status: int, code: str, error: str, message: str, hint: str | None
) -> None:
    refuse = error_answer(status, code, "the store's own words")
    with (
        Proxy(script=lambda _request: refuse) as proxy,
        pytest.raises(storelet.StoreletError, match=message) as raised,
    ):
        send("my-bucket", proxy.endpoint, small)
    assert type(raised.value).__name__ == error
    assert hint is None or hint in str(raised.value.hint)
    assert message in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "is_temporary"),
    [
        *((error_answer(status, "InternalError"), True) for status in (500, 502, 503, 504)),
        *((error_answer(503, code), True) for code in ("SlowDown", "ServiceUnavailable")),
        (error_answer(200, "InternalError"), True),
        (Answer(status=502, body=b"<html>"), True),
        (error_answer(400, "RequestTimeout"), True),
        (error_answer(429, "TooManyRequests"), True),
        (None, True),  # no answer
        (error_answer(507, "XMinioStorageFull"), False),
        (error_answer(501, "NotImplemented"), False),
        (error_answer(400, "InvalidPart"), False),
        (error_answer(400, "ExpiredToken"), False),
        (error_answer(403, "InvalidAccessKeyId"), False),
        (error_answer(403, "AccessDenied"), False),
        (error_answer(403, "RequestTimeTooSkewed"), False),
        (error_answer(404, "NoSuchBucket"), False),
    ],
    ids=lambda value: f"{value.status} {value.body!r}" if isinstance(value, Answer) else None,
)
def test_what_may_pass_by_itself_is_temporary_and_nothing_else(
    s3_server: Bucket, proxy: Proxy, large: bytes, answer: Answer | None, is_temporary: bool
) -> None:
    action = "CompleteMultipartUpload" if answer else "UploadPart"
    proxy.script = lambda request: (answer or "lose") if request.action == action else None
    with pytest.raises(storelet.StoreletError) as raised:
        send(s3_server, proxy.endpoint, large)
    assert raised.value.is_temporary == is_temporary


def test_an_archive_in_a_cold_storage_class_cannot_be_read_and_the_error_says_why(
    s3_server: Bucket, small: bytes
) -> None:
    send(s3_server, s3_server.endpoint, small, upload={"StorageClass": "GLACIER"})
    destination = open_s3(s3_server, s3_server.endpoint)
    (archive,) = destination.list_archives("example")
    with pytest.raises(storelet.DestinationError, match="the archive is in a cold") as raised:
        destination.read(archive, 0, 1)
    assert "restore-object" in str(raised.value.hint)
    assert not raised.value.is_temporary


@pytest.mark.parametrize(
    ("action", "permission"),
    [("ListObjectVersions", "s3:ListBucketVersions"), ("GetObject", "s3:GetObjectVersion")],
)
def test_a_key_that_may_not_see_versions_is_an_error_that_names_the_permission(
    s3_server: Bucket, proxy: Proxy, small: bytes, action: str, permission: str
) -> None:
    s3_server.client.put_bucket_versioning(
        Bucket=s3_server.name, VersioningConfiguration={"Status": "Enabled"}
    )
    send(s3_server, proxy.endpoint, small)
    refuse = error_answer(403, "AccessDenied")
    proxy.script = lambda request: refuse if request.action == action else None
    destination = open_s3(s3_server, proxy.endpoint)
    with pytest.raises(storelet.PermissionDeniedError, match="versions in bucket") as raised:
        destination.read(destination.list_versions("example")[0], 0, 1)
    assert permission in str(raised.value.hint)


def test_a_host_that_has_no_address_is_temporary(small: bytes) -> None:
    with pytest.raises(storelet.DestinationError) as raised:
        send("my-bucket", "http://storelet.invalid", small)
    assert raised.value.is_temporary


def test_a_store_that_hangs_up_amid_the_tls_handshake_is_temporary(small: bytes) -> None:
    """As one does that is just being started, behind a balancer that speaks TLS for it."""

    def hang_up() -> None:
        connection, _ = server.accept()
        connection.recv(1 << 16)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=hang_up).start()
        with pytest.raises(storelet.DestinationError) as raised:
            send("my-bucket", f"https://127.0.0.1:{server.getsockname()[1]}", small)
    assert raised.value.is_temporary


def test_a_certificate_of_who_knows_whom_is_not_temporary(small: bytes) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    with Proxy(tls=tls) as proxy, pytest.raises(storelet.DestinationError) as raised:
        send("my-bucket", proxy.endpoint, small)
    assert "certificate" in str(raised.value)
    assert not raised.value.is_temporary


def test_an_endpoint_that_is_no_url_is_not_temporary(small: bytes) -> None:
    with pytest.raises(storelet.StoreletError) as raised:
        send("my-bucket", "http://[::1", small)
    assert not raised.value.is_temporary


def test_a_missing_bucket_is_an_error_on_a_real_store_too(
    moto_server: MotoServer, small: bytes, large: bytes
) -> None:
    for data in (small, large):
        with pytest.raises(storelet.DestinationMissingError, match="no such bucket: none") as said:
            send("none-such", moto_server.endpoint, data)
        assert said.value.exit_code == 10
        assert "create-bucket --bucket none-such" in str(said.value.hint)


def test_no_network_is_an_error_that_names_the_bucket(small: bytes) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(storelet.DestinationError, match="cannot reach bucket my-b") as raised:
            send("my-bucket", endpoint, small)
    assert raised.value.is_temporary
    assert "network" in str(raised.value.hint)
    assert endpoint in str(raised.value)


def test_speaking_tls_to_what_does_not_is_an_error_with_a_hint(
    moto_server: MotoServer, small: bytes
) -> None:
    endpoint = moto_server.endpoint.replace("http:", "https:")
    with pytest.raises(storelet.DestinationError, match="cannot reach bucket my-b") as raised:
        send("my-bucket", endpoint, small)
    assert not raised.value.is_temporary
    assert "endpoint_url" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ({"access_key": None, "secret_key": None}, {}),
        ({"access_key": "AKID", "secret_key": None}, {}),
        ({"access_key": None, "secret_key": None}, {"AWS_ACCESS_KEY_ID": "AKID"}),
        ({"access_key": None, "secret_key": None}, {"AWS_PROFILE": "none-such"}),
    ],
)
def test_missing_keys_are_an_error_that_says_where_they_could_come_from(
    small: bytes,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    environment: dict[str, str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(storelet.CredentialsError, match="bucket my-bucket") as raised:
        send("my-bucket", "http://127.0.0.1:1", small, **options)
    assert raised.value.exit_code == 12


def test_keys_left_out_come_from_botos_own_chain_and_given_ones_win(
    s3_server: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
    with storelet.ZipBackup("example") as backup:
        backup.save_to_s3(s3_server.name)
        backup.save_to_s3(s3_server.name, "GIVEN", "secret")
    keys = [request.headers["authorization"].split("Credential=")[1] for request in proxy.requests]
    assert keys[0].startswith(s3_server.access_key)
    assert keys[-1].startswith("GIVEN/")
    assert len(s3_server.keys()) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"aws_session_token": "t0k3n\n"},
        {"access_key": "t0k3n\n"},
        {"upload": {"SSECustomerAlgorithm": "t0k3n\n", "SSECustomerKey": CUSTOMER_KEY}},
    ],
)
def test_a_key_with_a_line_end_is_an_error_that_does_not_show_it(
    small: bytes, moto_server: MotoServer, options: dict[str, Any]
) -> None:
    with pytest.raises(storelet.UsageError, match=r"bucket my-bucket .* HTTP cannot carry") as said:
        send("my-bucket", moto_server.endpoint, small, **options)
    assert "t0k3n" not in "".join(traceback.format_exception(said.value))


def test_options_that_do_not_exist_are_errors_that_name_them_and_no_values(
    small: bytes, moto_server: MotoServer
) -> None:
    for options, named in (
        ({"upload": {"StorageKlass": "s3cr3t"}}, "StorageKlass"),
        ({"upload": {"StorageClass": ["s3cr3t"]}}, "StorageClass"),
        ({"regionname": "s3cr3t"}, "regionname"),
        ({"endpoint_url": "nonsense"}, "nonsense"),
        ({"region_name": "not a region"}, "not a region"),
    ):
        with pytest.raises(storelet.UsageError, match="bucket my-bucket") as raised:
            send("my-bucket", moto_server.endpoint, small, **options)
        assert named in str(raised.value)
        assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


def test_a_bucket_name_that_cannot_be_one_is_an_error(small: bytes) -> None:
    with pytest.raises(storelet.UsageError, match="No Bucket"):
        send("No Bucket", "http://127.0.0.1:1", small)

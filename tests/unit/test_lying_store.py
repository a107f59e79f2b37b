"""Reuse in an S3 that does not do as it says: whatever it does, the archive is right.

Each test backs up a tree twice, the second time through a store that misbehaves. In the end every
archive that stands there must be read back byte for byte, and nothing may be left half done.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config

import storelet
from storelet.abandoned import AbandonedUpload, abandoned
from storelet.destination.s3 import S3
from storelet.reuse import CopyLimits
from tests.helpers import Bucket, MotoServer
from tests.nights import Nights, contents, contents_of
from tests.proxy import Answer, Proxy, Request, error_answer
from tests.zipparser import parse_zip

MIB = 1 << 20
NO_RETRY = Config(retries={"total_max_attempts": 1})
ONE_RETRY = Config(retries={"total_max_attempts": 2})

Said = Answer | str | None


@pytest.fixture
def proxy(moto_server: MotoServer) -> Iterator[Proxy]:
    """Run an S3 whose answers a test may change."""
    with Proxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    """Make a tree of two spans that can be copied, with a file between them that changes."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(os.urandom(6 * MIB))
    for number in range(4):
        (tree / f"b-{number}").write_bytes(os.urandom(200_000))
    (tree / "c").write_bytes(os.urandom(1000))
    (tree / "d").write_bytes(os.urandom(7 * MIB))
    (tree / "e").write_bytes(b"")
    return Nights(tree)


class Store:
    """A bucket behind a proxy, with a first archive in it."""

    def __init__(self, bucket: Bucket, proxy: Proxy, nights: Nights, way: str) -> None:
        self.bucket = bucket
        self.proxy = proxy
        self.nights = nights
        self.way = way
        self.config = NO_RETRY
        self.back_up()
        (self.first,) = bucket.keys()
        (nights.source / "c").write_bytes(os.urandom(1001))

    def open(self) -> S3:
        keys = self.bucket.access_key, self.bucket.secret_key
        return S3(
            self.bucket.name,
            *keys,
            region_name="us-east-1",
            endpoint_url=self.proxy.endpoint,
            config=self.config,
        )

    def back_up(self) -> None:
        self.proxy.requests.clear()
        if self.way == "streamed":
            self.nights.back_up(self.open())
            return
        with self.nights.next(), storelet.ZipBackup("example") as backup:
            backup.include_directory(self.nights.source)
            backup.save_to_s3(
                self.bucket.name,
                self.bucket.access_key,
                self.bucket.secret_key,
                region_name="us-east-1",
                endpoint_url=self.proxy.endpoint,
                config=self.config,
            )

    def lie(self, script: Callable[[Request], Said]) -> None:
        """Back up while the store does as `script` says, and look at all that is there then."""
        self.proxy.script = script
        self.back_up()
        self.check()

    def check(self) -> None:
        first, newest = self.bucket.keys()
        assert first == self.first
        assert contents(parse_zip(self.bucket.read(newest))) == contents_of(self.nights.source)
        assert self.unfinished == []
        assert len(self.nights.of(storelet.Saved)) == 1
        opened = [event.upload_id for event in self.nights.of(storelet.UploadOpened)]
        ended = [event.upload_id for event in self.nights.of(storelet.UploadEnded)]
        assert sorted(opened) == sorted(ended)

    @property
    def unfinished(self) -> list[Any]:
        listed = self.bucket.client.list_multipart_uploads(Bucket=self.bucket.name)
        return list(listed.get("Uploads", []))


@pytest.fixture(params=["streamed", "spooled"])
def store(request: pytest.FixtureRequest, s3_server: Bucket, proxy: Proxy, nights: Nights) -> Store:
    return Store(s3_server, proxy, nights, request.param)


def range_of(request: Request) -> tuple[int, int]:
    """Return first and last byte of a copy."""
    first, last = request.headers["x-amz-copy-source-range"].removeprefix("bytes=").split("-")
    return int(first), int(last)


def set_range(request: Request, first: int, last: int) -> None:
    request.headers["x-amz-copy-source-range"] = f"bytes={first}-{last}"


# One that does as it says -----------------------------------------------------------------------


def test_without_a_lie_all_but_what_changed_is_copied(store: Store) -> None:
    store.lie(lambda _request: None)
    assert store.nights.reasons == []
    saved = store.nights.saved
    assert saved.bytes_reused > 13 * MIB
    assert saved.bytes_sent < MIB
    assert saved.requests == len(store.proxy.requests)
    copies = [each for each in store.proxy.requests if each.action == "UploadPartCopy"]
    etag = store.bucket.client.head_object(Bucket=store.bucket.name, Key=store.first)["ETag"]
    assert {each.headers["x-amz-copy-source-if-match"] for each in copies} == {etag}
    numbers = sorted(int(each.query["partNumber"][0]) for each in copies)
    assert numbers == list(range(1, len(copies) + 1)), "numbered from 1, before all fresh parts"
    assert all(range_of(each)[1] - range_of(each)[0] + 1 >= 5 * MIB for each in copies)
    (complete,) = [e for e in store.proxy.requests if e.action == "CompleteMultipartUpload"]
    assert complete.headers["if-none-match"] == "*"


# Wrong bytes ------------------------------------------------------------------------------------


def copy_all(request: Request) -> None:
    del request.headers["x-amz-copy-source-range"]


def copy_the_beginning(request: Request) -> None:
    first, last = range_of(request)
    set_range(request, 0, last - first)


def copy_one_byte_further(request: Request) -> None:
    first, last = range_of(request)
    set_range(request, first + 1, last + 1)


def copy_one_byte_less(request: Request) -> None:
    first, last = range_of(request)
    set_range(request, first, last - 1)


def copy_one_byte_more(request: Request) -> None:
    first, last = range_of(request)
    set_range(request, first, last + 1)


def copy_the_end(request: Request) -> None:
    """Copy the last bytes of the archive; what is copied last ends shortly before them."""
    first, last = range_of(request)
    set_range(request, first + 500, last + 500)


@pytest.mark.parametrize(
    "lie",
    [
        copy_all,
        copy_the_beginning,
        copy_one_byte_further,
        copy_one_byte_less,
        copy_one_byte_more,
        copy_the_end,
    ],
)
def test_copies_of_other_bytes_are_found_out_deleted_and_made_good(
    store: Store, lie: Callable[[Request], None]
) -> None:
    def script(request: Request) -> Said:
        if request.action == "UploadPartCopy":
            lie(request)
        return None

    store.lie(script)
    assert len(store.nights.reasons) == 1
    assert store.nights.saved.bytes_reused == 0
    assert store.proxy.actions.count("DeleteObject") == 1


@pytest.mark.parametrize(
    "lie", [copy_all, copy_the_beginning, copy_one_byte_further, copy_one_byte_less, copy_the_end]
)
def test_one_copy_of_other_bytes_is_found_out_among_right_ones(
    store: Store, lie: Callable[[Request], None]
) -> None:
    def script(request: Request) -> Said:
        if request.action == "UploadPartCopy" and range_of(request)[0] > 5 * MIB:
            lie(request)
        return None

    store.lie(script)
    assert len(store.nights.reasons) == 1
    assert store.nights.saved.bytes_reused == 0


@pytest.mark.parametrize(("files", "size"), [(40, MIB), (1, 40 * MIB)])
def test_bytes_that_are_wrong_in_one_piece_of_a_span_are_found_out(
    s3_server: Bucket, proxy: Proxy, tmp_path: Path, files: int, size: int
) -> None:
    """A span is copied in pieces; any of them may be wrong, not only those at its ends."""

    class Piecewise(S3):
        @property
        def copy_limits(self) -> CopyLimits:
            return replace(super().copy_limits, usual=10 * MIB)

    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(files):
        (tree / f"{number:02}").write_bytes(os.urandom(size))
    nights = Nights(tree)
    keys = s3_server.access_key, s3_server.secret_key
    for wrong in (None, None, 1, 2, 3, 4):  # the first time there is nothing to copy

        def script(request: Request, wrong: int | None = wrong) -> Said:
            if request.action == "UploadPartCopy" and request.query["partNumber"] == [str(wrong)]:
                first, last = range_of(request)
                shift = 1 if first == 0 else -1
                set_range(request, first + shift, last + shift)
            return None

        proxy.script = script
        nights.back_up(
            Piecewise(s3_server.name, *keys, region_name="us-east-1", endpoint_url=proxy.endpoint)
        )
        newest = s3_server.keys()[-1]
        assert contents(parse_zip(s3_server.read(newest))) == contents_of(tree), wrong
        assert len(nights.reasons) == (wrong is not None)


# Refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (501, "NotImplemented", "NotImplemented"),
        (400, "InvalidArgument", "InvalidArgument"),
        (400, "InvalidRequest", "InvalidRequest"),
        (403, "AccessDenied", "may not copy"),
        (403, "InvalidObjectState", "cold storage"),
        (404, "NoSuchKey", "NoSuchKey"),
        (405, "MethodNotAllowed", "MethodNotAllowed"),
        (412, "PreconditionFailed", "PreconditionFailed"),
        (500, "InternalError", "InternalError"),
        (503, "SlowDown", "SlowDown"),
    ],
)
@pytest.mark.parametrize("which", ["every copy", "the last copy"])
def test_a_copy_that_is_refused_is_sent_instead(
    store: Store, status: int, code: str, reason: str, which: str
) -> None:
    def script(request: Request) -> Said:
        if request.action == "UploadPartCopy" and (
            which == "every copy" or range_of(request)[0] > 5 * MIB
        ):
            return error_answer(status, code)
        return None

    store.lie(script)
    assert store.nights.reasons
    assert all(reason in said for said in store.nights.reasons)
    saved = store.nights.saved
    if which == "every copy":
        assert saved.bytes_reused == 0
    elif store.way == "streamed":
        assert saved.bytes_reused > 6 * MIB, "what can be copied is"
        assert "d" in store.nights.read
        assert "a" not in store.nights.read


@pytest.mark.parametrize("code", ["InvalidPart", "EntityTooSmall", "InvalidRequest", "BadDigest"])
def test_an_upload_with_copies_that_cannot_be_completed_is_made_without(
    store: Store, code: str
) -> None:
    """Cloudflare R2 wants all parts of one size; others want a checksum of each."""

    def script(request: Request) -> Said:
        if request.action == "CompleteMultipartUpload":
            (upload,) = request.query["uploadId"]
            if any(
                each.action == "UploadPartCopy" and each.query["uploadId"] == [upload]
                for each in store.proxy.requests
            ):
                return error_answer(400, code)
        return None

    store.lie(script)
    assert len(store.nights.reasons) == 1
    assert code in store.nights.reasons[0]
    assert store.nights.saved.bytes_reused == 0


def test_an_error_inside_a_200_is_one(store: Store) -> None:
    def script(request: Request) -> Said:
        if request.action == "UploadPartCopy":
            return replace(error_answer(400, "InvalidRequest"), status=200)
        return None

    store.lie(script)
    assert store.nights.saved.bytes_reused == 0
    assert len(store.nights.reasons) == 1


@pytest.mark.parametrize("fault", ["503", "lose"])
def test_a_temporary_error_of_a_copy_is_nothing_to_speak_of(store: Store, fault: str) -> None:
    failed = threading.Event()

    def script(request: Request) -> Said:
        if request.action == "UploadPartCopy" and not failed.is_set():
            failed.set()
            return error_answer(503, "SlowDown") if fault == "503" else fault
        return None

    store.config = ONE_RETRY
    store.lie(script)
    assert failed.is_set()
    assert store.nights.reasons == []
    assert store.nights.saved.bytes_reused > 13 * MIB


def test_an_answer_to_completing_that_is_lost_is_no_failure(store: Store) -> None:
    def script(request: Request) -> Said:
        return "lose" if request.action == "CompleteMultipartUpload" else None

    store.lie(script)
    assert store.nights.reasons == []
    assert store.nights.saved.bytes_reused > 13 * MIB


@pytest.mark.parametrize("action", ["CreateMultipartUpload", "UploadPart"])
def test_a_store_that_refuses_checksums_still_copies(store: Store, action: str) -> None:
    def script(request: Request) -> Said:
        names = "x-amz-checksum-algorithm", "x-amz-sdk-checksum-algorithm", "x-amz-checksum-crc32"
        if request.action == action and any(name in request.headers for name in names):
            return error_answer(400, "InvalidRequest", "Checksum Type mismatch occurred")
        return None

    store.lie(script)
    assert store.nights.reasons == []
    assert store.nights.saved.bytes_reused > 13 * MIB


@pytest.mark.parametrize("action", ["UploadPartCopy", "UploadPart", "CompleteMultipartUpload"])
def test_a_backup_that_is_broken_off_among_copies_leaves_nothing(store: Store, action: str) -> None:
    def script(request: Request) -> Said:
        if request.action == action:
            return error_answer(403, "InvalidAccessKeyId")
        return None

    store.proxy.script = script
    (store.nights.source / "f").write_bytes(os.urandom(9 * MIB))
    if action != "UploadPartCopy":  # a copy that fails may fail for any reason
        with pytest.raises(storelet.StoreletError):
            store.back_up()
        assert store.bucket.keys() == [store.first]
    else:
        store.back_up()
    assert store.unfinished == []


def test_a_backup_that_is_interrupted_among_copies_leaves_nothing(store: Store) -> None:
    """Here while a file is read, behind copies that are on their way."""
    if store.way == "spooled":
        return  # it reads before it sends
    (store.nights.source / "f").write_bytes(os.urandom(20 * MIB))

    def interrupt(event: storelet.Event) -> None:
        if isinstance(event, storelet.Added) and event.member == "f":
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        store.nights.next(),
        storelet.observe(interrupt),
        storelet.ZipBackup("example", destination=store.open()) as backup,
    ):
        backup.include_directory(store.nights.source)
    assert "UploadPartCopy" in store.proxy.actions
    assert store.bucket.keys() == [store.first]
    assert store.unfinished == []


# Read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["ListObjectsV2", "GetObject"])
@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (501, "NotImplemented"), (500, "InternalError")]
)
def test_a_key_that_may_not_list_or_read_makes_full_archives(
    store: Store, action: str, status: int, code: str
) -> None:
    store.lie(lambda e: error_answer(status, code) if e.action == action else None)
    assert len(store.nights.reasons) == 1
    assert ("may not" if status == 403 else code) in store.nights.reasons[0]
    assert store.nights.saved.bytes_reused == 0


@pytest.mark.parametrize("size", [0, 1, 100, None])
def test_a_catalogue_that_is_read_as_garbage_makes_a_full_archive(
    store: Store, size: int | None
) -> None:
    def script(request: Request) -> Said:
        if request.action != "GetObject":
            return None
        first, last = request.headers["range"].removeprefix("bytes=").split("-")
        right = int(last) - int(first) + 1
        return Answer(status=206, body=os.urandom(right if size is None else size))

    store.lie(script)
    assert len(store.nights.reasons) == 1
    assert store.nights.saved.bytes_reused == 0


def test_a_store_that_knows_no_ranges_makes_full_archives(store: Store) -> None:
    def script(request: Request) -> Said:
        if request.action == "GetObject":
            request.headers.pop("range", None)
        return None

    store.lie(script)
    assert len(store.nights.reasons) == 1
    assert store.nights.saved.bytes_reused == 0


def test_what_is_read_back_wrong_is_not_trusted(store: Store) -> None:
    """After completing: the catalogue is asked for again, and members are."""

    def script(request: Request) -> Said:
        is_complete = "CompleteMultipartUpload" in store.proxy.actions
        if request.action == "GetObject" and is_complete:
            return error_answer(403, "AccessDenied")
        return None

    store.lie(script)
    assert len(store.nights.reasons) == 1
    assert store.nights.saved.bytes_reused == 0


def test_an_archive_of_another_size_than_was_sent_is_not_trusted(store: Store) -> None:
    def script(request: Request) -> Said:
        copies = "UploadPartCopy" in store.proxy.actions
        if request.action == "CompleteMultipartUpload" and copies and not dropped:
            (upload,) = request.query["uploadId"]
            dropped.append(upload)
            key = request.path.partition("?")[0].rpartition("/")[2]
            store.bucket.client.put_object(Bucket=store.bucket.name, Key=key, Body=b"short")
            store.bucket.client.abort_multipart_upload(
                Bucket=store.bucket.name, Key=key, UploadId=upload
            )
            body = (
                f"<CompleteMultipartUploadResult><Key>{key}</Key></CompleteMultipartUploadResult>"
            )
            return Answer(status=200, body=body.encode())
        return None

    dropped: list[str] = []
    store.lie(script)
    assert len(store.nights.reasons) == 1
    assert store.nights.saved.bytes_reused == 0


def test_a_wrong_archive_that_may_not_be_deleted_is_said_loudly(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def script(request: Request) -> Said:
        if request.action == "UploadPartCopy":
            copy_one_byte_further(request)
        if request.action == "DeleteObject":
            return error_answer(403, "AccessDenied")
        return None

    store.proxy.script = script
    with pytest.raises(storelet.DestinationError) as raised:
        store.back_up()
    wrong = store.bucket.keys()[1]
    assert wrong in str(raised.value)
    assert any(wrong in record.getMessage() for record in caplog.records)
    assert store.unfinished == []


# Changed under us -------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["CreateMultipartUpload", "UploadPartCopy", "UploadPart"])
@pytest.mark.parametrize("what", ["other bytes", "fewer bytes", "gone"])
def test_an_archive_that_changes_under_the_copies_is_not_trusted(
    store: Store, when: str, what: str
) -> None:
    """The condition on each copy would say so; moto ignores it, as radosgw 16.2 does."""
    done = threading.Event()
    data = store.bucket.read(store.first)

    def script(request: Request) -> Said:
        if request.action == when and not done.is_set():
            done.set()
            where = {"Bucket": store.bucket.name, "Key": store.first}
            if what == "gone":
                store.bucket.client.delete_object(**where)
            else:
                body = data[::-1] if what == "other bytes" else data[: 13 * MIB]
                store.bucket.client.put_object(**where, Body=body)
        return None

    store.proxy.script = script
    store.back_up()
    assert done.is_set()
    newest = store.bucket.keys()[-1]
    assert newest != store.first
    assert contents(parse_zip(store.bucket.read(newest))) == contents_of(store.nights.source)
    assert len(store.bucket.keys()) == 2 - (what == "gone")
    assert store.unfinished == []
    if what != "gone":
        assert len(store.nights.reasons) == 1


def take_the_name(store: Store, data: bytes) -> list[str]:
    """Let somebody else have the next name before it is asked for the last time."""

    def script(request: Request) -> Said:
        request.headers.pop("if-none-match", None)  # which the store ignores, too
        if request.action == "CreateMultipartUpload" and not taken:
            key = request.path.partition("?")[0].rpartition("/")[2]
            taken.append(key)
            store.bucket.client.put_object(Bucket=store.bucket.name, Key=key, Body=data)
        return None

    taken: list[str] = []
    store.proxy.script = script
    return taken


def test_a_condition_that_is_ignored_overwrites_nothing(store: Store) -> None:
    taken = take_the_name(store, b"theirs")
    try:
        store.back_up()
    except storelet.ArchiveExistsError:
        assert store.bucket.keys() == [store.first, *taken]
    else:
        newest = store.bucket.keys()[-1]
        assert newest not in (store.first, *taken)
        assert contents(parse_zip(store.bucket.read(newest))) == contents_of(store.nights.source)
    assert store.bucket.read(taken[0]) == b"theirs"
    assert store.unfinished == []


def test_who_was_slower_reuses_the_archive_of_who_was_faster(store: Store, tmp_path: Path) -> None:
    """Its members are others, in other places than those of the archive compared at first."""
    other, kept = tmp_path / "other", tmp_path / "kept"
    kept.mkdir()
    other.mkdir()
    for name in ("d", "b-0", "b-2", "e"):
        shutil.copy2(store.nights.source / name, other / name)
    (other / "0").write_bytes(b"only theirs")
    night = Nights(other)
    night.day = store.nights.day
    night.back_up(storelet.Directory(kept))
    (faster,) = kept.iterdir()
    taken = take_the_name(store, faster.read_bytes())
    try:
        store.back_up()
    except storelet.ArchiveExistsError:
        assert store.bucket.keys() == [store.first, *taken]
        return
    newest = store.bucket.keys()[-1]
    assert newest not in (store.first, *taken)
    assert contents(parse_zip(store.bucket.read(newest))) == contents_of(store.nights.source)


def test_what_is_skipped_is_said_once_though_the_archive_is_made_twice(
    s3_server: Bucket, proxy: Proxy, nights: Nights
) -> None:
    store = Store(s3_server, proxy, nights, "streamed")

    def script(request: Request) -> Said:
        if request.action == "UploadPartCopy":
            copy_one_byte_further(request)
        return None

    store.proxy.script = script
    gone = store.nights.source / "gone"
    gone.write_text("gone")
    with (
        store.nights.next(),
        storelet.ZipBackup("example", destination=store.open()) as backup,
    ):
        backup.include_directory(store.nights.source)
        gone.unlink()
    store.check()
    assert len(store.nights.reasons) == 1
    assert [event.path for event in store.nights.of(storelet.Skipped)] == [str(gone)]
    members = [event.member for event in store.nights.of(storelet.Added)]
    assert len(members) == len(set(members)), "the figures of the run count each file once"


# Several destinations ---------------------------------------------------------------------------


def test_a_lie_of_one_destination_does_not_cost_the_other(
    s3_server: Bucket, proxy: Proxy, nights: Nights, tmp_path: Path
) -> None:
    store = Store(s3_server, proxy, nights, "streamed")
    directory = tmp_path / "kept"
    directory.mkdir()
    nights.back_up(storelet.Directory(directory))

    def script(request: Request) -> Said:
        if request.action == "UploadPartCopy":
            copy_one_byte_further(request)
        return None

    proxy.script = script
    nights.back_up(store.open(), storelet.Directory(directory))
    newest = sorted(directory.iterdir())[-1].read_bytes()
    for archive in (s3_server.read(s3_server.keys()[-1]), newest):
        assert contents(parse_zip(archive)) == contents_of(nights.source)
    assert len(s3_server.keys()) == 2
    assert len(list(directory.iterdir())) == 2
    reused = {each.destination: each.bytes_reused for each in nights.of(storelet.Saved)}
    assert reused[f"directory {directory}"] > 13 * MIB
    assert reused[f"bucket {s3_server.name}"] == 0


# Uploads that are remembered --------------------------------------------------------------------


def test_an_upload_is_reported_before_its_first_part_and_when_it_has_ended(store: Store) -> None:
    def script(request: Request) -> Said:
        if request.action in ("UploadPart", "UploadPartCopy"):
            known.append(
                request.query["uploadId"][0]
                in [event.upload_id for event in store.nights.of(storelet.UploadOpened)]
            )
        return None

    known: list[bool] = []
    store.lie(script)
    assert known
    assert all(known)
    (opened,) = store.nights.of(storelet.UploadOpened)
    assert (opened.bucket, opened.key) == (store.bucket.name, store.bucket.keys()[1])


@pytest.mark.parametrize(
    ("answer", "has_ended"),
    [(None, True), ((404, "NoSuchUpload"), True), ((403, "AccessDenied"), False)],
)
def test_an_upload_has_ended_when_the_store_says_so(
    s3_server: Bucket, proxy: Proxy, answer: tuple[int, str] | None, has_ended: bool
) -> None:
    def script(request: Request) -> Said:
        if request.action == "AbortMultipartUpload" and answer is not None:
            return error_answer(*answer)
        return None

    proxy.script = script
    events: list[storelet.Event] = []
    keys = s3_server.access_key, s3_server.secret_key
    s3 = S3(s3_server.name, *keys, endpoint_url=proxy.endpoint, config=NO_RETRY)
    with storelet.observe(events.append):
        upload = s3.open_upload("example_20130421163000.zip", {})
        upload.write(bytes(9 * MIB))
        upload.abort()
    assert [type(event) for event in events if not isinstance(event, storelet.Moved)] == [
        storelet.UploadOpened,
        *([storelet.UploadEnded] if has_ended else []),
    ]


def begin(bucket: Bucket, key: str) -> AbandonedUpload:
    """Begin an upload, as a run does that is killed then."""
    created = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    bucket.client.upload_part(
        Bucket=bucket.name, Key=key, UploadId=created["UploadId"], PartNumber=1, Body=b"x"
    )
    return AbandonedUpload(bucket=bucket.name, key=key, upload_id=created["UploadId"])


def unfinished(bucket: Bucket) -> set[str]:
    listed = bucket.client.list_multipart_uploads(Bucket=bucket.name)
    return {upload["UploadId"] for upload in listed.get("Uploads", [])}


def test_uploads_that_were_abandoned_are_aborted_by_the_next_and_no_others(
    s3_server: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("content")
    ours = [begin(s3_server, "web/example_20130421163000.zip") for _ in range(2)]
    theirs = begin(s3_server, "web/example_20130421163000.zip")
    elsewhere = begin(s3_server, "other/example_20130421163000.zip")
    gone = replace(theirs, upload_id="no-such-upload")
    other_bucket = replace(theirs, bucket="another-bucket")
    events: list[storelet.Event] = []
    keys = s3_server.access_key, s3_server.secret_key
    s3 = S3(s3_server.name, *keys, prefix="web/", endpoint_url=s3_server.endpoint)
    with (
        storelet.observe(events.append),
        abandoned([*ours, gone, elsewhere, other_bucket]),
    ):
        with storelet.ZipBackup("example", destination=s3) as backup:
            backup.include_file(tmp_path / "file")
        assert unfinished(s3_server) == {theirs.upload_id, elsewhere.upload_id}
        ended = {e.upload_id for e in events if isinstance(e, storelet.UploadEnded)}
        assert ended == {each.upload_id for each in (*ours, gone)}
        again = begin(s3_server, "web/example_20130421163000.zip")
        with storelet.ZipBackup("example", destination=s3) as backup:
            backup.include_file(tmp_path / "file")
        assert again.upload_id in unfinished(s3_server), "each is aborted once"
    with storelet.ZipBackup(
        "example", destination=S3(s3_server.name, *keys, endpoint_url=s3_server.endpoint)
    ) as backup:
        backup.include_file(tmp_path / "file")
    assert elsewhere.upload_id in unfinished(s3_server), "nothing is left to be aborted"


def test_an_abandoned_upload_that_cannot_be_aborted_ends_no_backup(
    s3_server: Bucket, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("content")
    ours = begin(s3_server, "example_20130421163000.zip")

    def script(request: Request) -> Said:
        if request.action == "AbortMultipartUpload":
            return error_answer(403, "AccessDenied")
        return None

    proxy.script = script
    events: list[storelet.Event] = []
    keys = s3_server.access_key, s3_server.secret_key
    s3 = S3(s3_server.name, *keys, endpoint_url=proxy.endpoint, config=NO_RETRY)
    with (
        storelet.observe(events.append),
        abandoned([ours]),
        storelet.ZipBackup("example", destination=s3) as backup,
    ):
        backup.include_file(tmp_path / "file")
    assert len(s3_server.keys()) == 1
    assert not [event for event in events if isinstance(event, storelet.UploadEnded)]
    assert "Could not abort" in caplog.text

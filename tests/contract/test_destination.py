"""The contract of `destination.contract`: one suite, every destination.

Limits are tried just below and just above. What only one destination can do is tested with it,
in `tests/unit`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import storelet
from storelet.destination.contract import Destination, Upload
from storelet.destination.directory import Directory
from storelet.destination.s3 import S3
from storelet.destination.s3upload import PART_BYTES
from tests.helpers import Bucket

NAME = "example_20130421163000.zip"
SIZES = [0, 10, PART_BYTES + 10]  # put as one, or in parts
METADATA = {"storelet-job": "example", "storelet-host": "a host"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryPlace:
    """A directory, and how to look into it past Storelet."""

    path: Path
    words: str
    url: str  # what the URLs of archives begin with

    def open(self) -> Directory:
        return Directory(self.path)

    def open_missing(self) -> Directory:
        return Directory(self.path / "missing")

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.path.iterdir()}

    def unfinished(self) -> list[str]:
        kept = (".zip", ".zip.bad")
        return [name for name in os.listdir(self.path) if not name.endswith(kept)]

    def metadata(self, _name: str) -> None:
        """Return what is kept with an archive: here nothing can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """A bucket and a prefix, and how to look into it past Storelet."""

    bucket: Bucket
    words: str
    url: str

    def open(self, bucket: str | None = None) -> S3:
        return S3(
            bucket or self.bucket.name,
            self.bucket.access_key,
            self.bucket.secret_key,
            prefix="some/where/",
            region_name="us-east-1",
            endpoint_url=self.bucket.endpoint,
        )

    def open_missing(self) -> S3:
        return self.open("no-such-bucket")

    def contents(self) -> dict[str, bytes]:
        keys = self.bucket.keys()
        return {key.removeprefix("some/where/"): self.bucket.read(key) for key in keys}

    def unfinished(self) -> list[str]:
        listed = self.bucket.client.list_multipart_uploads(Bucket=self.bucket.name)
        return [upload["Key"] for upload in listed.get("Uploads", ())]

    def metadata(self, name: str) -> dict[str, str]:
        head = self.bucket.client.head_object(Bucket=self.bucket.name, Key=f"some/where/{name}")
        return head["Metadata"]


Place = DirectoryPlace | S3Place


@pytest.fixture(params=["directory", "bucket", "s3_server", "seaweedfs", "radosgw"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Make an empty place for archives; at the end nothing unfinished may lie about in it."""
    place: Place
    if request.param == "directory":
        path = tmp_path / "kept"
        path.mkdir()
        place = DirectoryPlace(path=path, words=f"directory {path}", url=f"file://{path}/")
    else:
        bucket: Bucket = request.getfixturevalue(request.param)
        url = f"s3://{bucket.name}/some/where/"
        place = S3Place(bucket=bucket, words=f"bucket {bucket.name}", url=url)
    yield place
    assert place.unfinished() == []


@pytest.fixture
def destination(place: Place) -> Destination:
    """Open the place as Storelet does."""
    return place.open()


def upload_whole(destination: Destination, data: bytes, name: str = NAME) -> str:
    upload = destination.open_upload(name, METADATA)
    upload.write(data)
    return upload.commit()


def test_it_is_named_in_words(place: Place, destination: Destination) -> None:
    assert str(destination) == place.words


def test_an_archive_of_any_size_arrives_byte_for_byte(
    place: Place, destination: Destination
) -> None:
    sizes = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, PART_BYTES * 5 // 2]
    contents = {f"{size}.zip": os.urandom(size) for size in sizes}
    for name, data in contents.items():
        assert upload_whole(destination, data, name) == place.url + name
    assert place.contents() == contents


@pytest.mark.parametrize("piece", [1_000_003, PART_BYTES - 1, PART_BYTES * 2 + 1])
def test_pieces_of_any_size_are_joined_in_order(
    place: Place, destination: Destination, piece: int
) -> None:
    data = os.urandom(PART_BYTES * 2 + 2)
    upload = destination.open_upload(NAME, METADATA)
    for start in range(0, len(data), piece):
        upload.write(data[start : start + piece])
        upload.write(b"")
    upload.commit()
    assert place.contents() == {NAME: data}


def test_nothing_is_to_be_seen_before_the_commit(place: Place, destination: Destination) -> None:
    seen: set[str] = set()
    for size in SIZES:
        upload = destination.open_upload(f"{size}.zip", METADATA)
        upload.write(bytes(size))
        assert set(place.contents()) == seen
        upload.commit()
        seen.add(f"{size}.zip")
        assert set(place.contents()) == seen


def test_after_an_abort_nothing_is_there_and_the_name_is_free(
    place: Place, destination: Destination
) -> None:
    for size in SIZES:
        upload = destination.open_upload(NAME, METADATA)
        upload.write(bytes(size))
        upload.abort()
        upload.abort()
        assert place.contents() == {}
        assert place.unfinished() == []
    upload_whole(destination, b"another")
    assert place.contents() == {NAME: b"another"}


def test_an_abort_after_the_commit_takes_nothing_back(
    place: Place, destination: Destination
) -> None:
    for name, size in (("a.zip", 10), ("b.zip", PART_BYTES + 10)):
        upload = destination.open_upload(name, METADATA)
        upload.write(bytes(size))
        upload.commit()
        upload.abort()
        assert place.contents()[name] == bytes(size)


def test_a_taken_name_is_refused_when_it_is_opened(place: Place, destination: Destination) -> None:
    upload_whole(destination, b"mine")
    with pytest.raises(storelet.ArchiveExistsError, match=NAME):
        destination.open_upload(NAME, METADATA)
    assert place.contents() == {NAME: b"mine"}


def test_a_name_taken_meanwhile_is_refused_at_the_commit_and_nothing_overwritten(
    place: Place, destination: Destination
) -> None:
    for size in SIZES:
        name = f"{size}.zip"
        upload = destination.open_upload(name, METADATA)
        upload.write(bytes(size))
        upload_whole(place.open(), b"faster", name)
        with pytest.raises(storelet.ArchiveExistsError):
            upload.commit()
        upload.abort()
        assert place.contents()[name] == b"faster"
        assert place.unfinished() == []


def test_uploads_side_by_side_do_not_get_into_each_other(
    place: Place, destination: Destination
) -> None:
    uploads: dict[str, Upload] = {
        name: destination.open_upload(name, METADATA) for name in ("a.zip", "b.zip", "c.zip")
    }
    for size in (10, PART_BYTES, 10):
        for name, upload in uploads.items():
            upload.write(name[:1].encode() * size)
    uploads.pop("b.zip").abort()
    for upload in uploads.values():
        upload.commit()
    assert place.contents() == {
        name: name[:1].encode() * (PART_BYTES + 20) for name in ("a.zip", "c.zip")
    }


def test_a_missing_place_is_an_error_and_never_made_up(place: Place) -> None:
    missing = place.open_missing()
    for size in [*SIZES, *SIZES]:
        with pytest.raises(storelet.DestinationMissingError) as raised:
            upload_whole(missing, bytes(size))
        assert str(missing).split()[-1] in raised.value.message
        assert raised.value.exit_code == 10
        assert raised.value.hint


def test_metadata_is_kept_with_the_archive_where_it_can_be(
    place: Place, destination: Destination
) -> None:
    upload_whole(destination, b"small", "a.zip")
    upload_whole(destination, bytes(PART_BYTES + 10), "b.zip")
    for name in ("a.zip", "b.zip"):
        kept = place.metadata(name)
        assert kept is None or METADATA.items() <= kept.items()


def test_names_and_contents_that_are_odd_arrive(place: Place, destination: Destination) -> None:
    names = ["ü ✓.zip", "a b+c%20.zip", "-rf.zip", "'\"$(x)`.zip", "n" * 251 + ".zip"]
    for name in names:
        upload_whole(destination, name.encode(), name)
    assert place.contents() == {name: name.encode() for name in names}


def test_no_descriptor_is_left_open(place: Place) -> None:
    upload_whole(place.open(), b"warm")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        destination = place.open()
        upload_whole(destination, bytes(PART_BYTES + 10), f"{number}.zip")
        upload = destination.open_upload("aborted.zip", METADATA)
        upload.write(bytes(PART_BYTES + 10))
        upload.abort()
        with pytest.raises(storelet.ArchiveExistsError):
            destination.open_upload(f"{number}.zip", METADATA)
    assert len(os.listdir("/proc/self/fd")) <= before + 3  # a client keeps its connection

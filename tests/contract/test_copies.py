"""The contract of `destination.contract`, what reuse needs of it: list, read, copy, delete."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storelet
from storelet.destination.contract import CopyFailedError, Destination, Stored, backup_of
from storelet.destination.directory import Directory
from storelet.destination.s3 import S3
from tests.contract.test_destination import (  # noqa: F401 - fixtures
    METADATA,
    DirectoryPlace,
    Place,
    S3Place,
    destination,
    place,
    upload_whole,
)

MIB = 1 << 20
SMALLEST = 5 * MIB  # of a copy in S3
OLD = "example_20130421163000.zip"
NEW = "example_20130422163000.zip"


def found(destination: Destination, name: str = OLD) -> Stored:  # noqa: F811
    archive = destination.find_archive(name)
    assert archive is not None
    return archive


def replace(place: Place, name: str, data: bytes) -> None:  # noqa: F811
    """Put other bytes under a name, past Storelet; as many as before may be."""
    if isinstance(place, DirectoryPlace):
        (place.path / name).unlink()
        (place.path / name).write_bytes(data)
    else:
        bucket = place.bucket
        bucket.client.put_object(Bucket=bucket.name, Key=f"some/where/{name}", Body=data)


# Listed and found -------------------------------------------------------------------------------


def test_the_archives_of_a_backup_are_listed_and_those_of_no_other(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    others = [
        "example_2013042116300.zip",
        "example_201304211630000.zip",
        "example_20130421163000.part.zip",
        "example_20130421163000_zip.zip",
        "example_2013042116300x.zip",
        "example_x_20130421163000.zip",
        "example__20130421163000.zip",
        "xexample_20130421163000.zip",
        "Example_20130421163000.zip",
        "example20130421163000.zip",
        "example_20130421163000_20130421163000.zip",
        "exam_20130421163000.zip",
        "example_" + "\u0661" * 14 + ".zip",  # digits too, but not ours
    ]
    for name in (*others, OLD, NEW):
        upload_whole(destination, name.encode(), name)
    assert [each.name for each in destination.list_archives("example")] == [OLD, NEW]
    assert [each.name for each in place.open().list_archives("example_x")] == [others[5]]
    assert [each.name for each in destination.list_archives("example_20130421163000")] == [
        others[10]
    ]
    assert destination.list_archives("nothing") == []
    for odd in ("exampl.", "*", "%", "example_", "ü ✓"):
        assert all(backup_of(each.name) == odd for each in destination.list_archives(odd))


def test_they_are_listed_by_their_time_at_the_destination_oldest_first(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    """Not by name: that is a local time, and its clock may have been wrong."""
    names = ["example_20130423000000.zip", "example_20130421000000.zip", NEW]
    for name in names:
        upload_whole(destination, b"x", name)
        if isinstance(place, S3Place):
            time.sleep(1.05)  # what S3 says of times is in seconds
        else:
            time.sleep(0.02)
    assert [each.name for each in destination.list_archives("example")] == names


def test_many_archives_are_all_listed(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # instead of 1,000 in one answer
    names = {f"example_{number:014}.zip" for number in range(25)}
    for name in names:
        upload_whole(destination, b"", name)
    assert {each.name for each in destination.list_archives("example")} == names


def test_what_is_listed_is_what_is_found(destination: Destination) -> None:  # noqa: F811
    upload_whole(destination, b"content", OLD)
    (listed,) = destination.list_archives("example")
    single = found(destination)
    assert (listed.name, listed.size, listed.version) == (OLD, 7, single.version)
    assert single.size == 7
    assert abs(listed.modified - single.modified) <= 1
    assert abs(listed.modified - time.time()) < 60
    assert destination.find_archive(NEW) is None


def test_another_version_is_told_from_the_first(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    upload_whole(destination, b"before", OLD)
    before = found(destination)
    assert found(place.open()) == before
    replace(place, OLD, b"behind")
    assert found(destination).version != before.version


def test_in_a_place_that_is_missing_nothing_is_listed(place: Place) -> None:  # noqa: F811
    missing = place.open_missing()
    with pytest.raises(storelet.DestinationMissingError):
        missing.list_archives("example")


# Read and deleted -------------------------------------------------------------------------------


def test_any_range_is_read(destination: Destination) -> None:  # noqa: F811
    data = os.urandom(100_000)
    upload_whole(destination, data, OLD)
    archive = found(destination)
    for offset, size in ((0, 1), (0, 100_000), (99_999, 1), (1, 99_998), (5, 0), (100_000, 0)):
        assert destination.read(archive, offset, size) == data[offset : offset + size]


@pytest.mark.parametrize(("offset", "size"), [(0, 11), (9, 2), (10, 1), (1000, 5)])
def test_what_is_beyond_the_end_is_an_error(
    destination: Destination,  # noqa: F811
    offset: int,
    size: int,
) -> None:
    upload_whole(destination, b"0123456789", OLD)
    with pytest.raises(storelet.DestinationError):
        destination.read(found(destination), offset, size)


@pytest.mark.parametrize("data", [b"9876543210", b"0123456789 and more", b"0"])
def test_an_archive_that_is_another_one_by_now_is_not_read(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    data: bytes,
) -> None:
    upload_whole(destination, b"0123456789", OLD)
    archive = found(destination)
    replace(place, OLD, data)
    with pytest.raises(storelet.DestinationError):
        destination.read(archive, 0, 1)


def test_an_archive_that_is_gone_is_an_error_of_its_own_and_not_a_missing_place(
    destination: Destination,  # noqa: F811
) -> None:
    upload_whole(destination, b"0123456789", OLD)
    archive = found(destination)
    destination.delete_archives([archive])
    with pytest.raises(storelet.DestinationError) as raised:
        destination.read(archive, 0, 1)
    assert not isinstance(raised.value, storelet.DestinationMissingError)


def test_it_may_be_deleted_twice_and_nothing_else_goes(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    for name in (OLD, NEW):
        upload_whole(destination, name.encode(), name)
    archive = found(destination)
    for _ in range(2):
        destination.delete_archives([archive])
        assert place.contents() == {NEW: NEW.encode()}
    assert destination.find_archive(OLD) is None
    upload_whole(destination, b"again", OLD)
    assert place.contents()[OLD] == b"again"


# Copied -----------------------------------------------------------------------------------------


@pytest.fixture
def data() -> bytes:
    """Make an archive of which three ranges can be copied."""
    return os.urandom(3 * SMALLEST + 1000)


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, SMALLEST)],
        [(1, SMALLEST)],
        [(0, 3 * SMALLEST + 1000)],
        [(7, SMALLEST), (SMALLEST + 100, SMALLEST), (2 * SMALLEST + 900, SMALLEST + 1)],
        [(SMALLEST, SMALLEST), (0, SMALLEST)],
        [(5, SMALLEST)] * 12,
    ],
    ids=["first", "second byte on", "all", "three", "out of order", "twelve"],
)
@pytest.mark.parametrize("fresh", [0, 9 * MIB])
def test_ranges_are_copied_exactly_and_what_is_written_follows(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    data: bytes,
    ranges: list[tuple[int, int]],
    fresh: int,
) -> None:
    upload_whole(destination, data, OLD)
    written = os.urandom(fresh)
    before = destination.traffic
    upload = destination.open_upload(NEW, METADATA, sum(size for _, size in ranges) + fresh)
    upload.copy(found(destination), ranges)
    for start in range(0, fresh, 3 * MIB):
        upload.write(written[start : start + 3 * MIB])
    assert upload.commit() == place.url + NEW
    expected = b"".join(data[offset : offset + size] for offset, size in ranges) + written
    assert place.contents() == {OLD: data, NEW: expected}
    sent = (destination.traffic - before).bytes_sent
    assert fresh <= sent <= fresh + 20_000, "copies are not sent"


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_ranges_are_copied_exactly(tmp_path: Path, data: st.DataObject) -> None:
    directory = Directory(tmp_path)
    for name in (OLD, NEW):
        (tmp_path / name).unlink(missing_ok=True)
    content = os.urandom(data.draw(st.integers(1, 5000)))
    upload_whole(directory, content, OLD)
    expected, ranges = b"", []
    for _ in range(data.draw(st.integers(1, 10))):
        offset = data.draw(st.integers(0, len(content) - 1))
        size = data.draw(st.integers(1, len(content) - offset))
        ranges.append((offset, size))
        expected += content[offset : offset + size]
    upload = directory.open_upload(NEW, METADATA)
    upload.copy(found(directory), ranges)
    upload.write(b"behind")
    upload.commit()
    assert (tmp_path / NEW).read_bytes() == expected + b"behind"


def test_an_archive_is_copied_from_a_copy_of_a_copy(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    data: bytes,
) -> None:
    upload_whole(destination, data, OLD)
    name, expected = OLD, data
    for day in range(23, 27):
        upload = destination.open_upload(f"example_201304{day}000000.zip", METADATA)
        upload.copy(found(destination, name), [(10, len(expected) - 20)])
        upload.write(str(day).encode())
        upload.commit()
        name, expected = f"example_201304{day}000000.zip", expected[10:-10] + str(day).encode()
        assert place.contents()[name] == expected
    kept = place.metadata(name)
    assert kept is None or METADATA.items() <= kept.items()


def commit_copies(
    destination: Destination,  # noqa: F811
    source: Stored,
    ranges: list[tuple[int, int]],
) -> None:
    """Copy; what goes wrong may show at any step."""
    upload = destination.open_upload(NEW, METADATA)
    try:
        upload.copy(source, ranges)
        upload.write(bytes(20 * MIB))
        upload.commit()
    finally:
        upload.abort()


def test_a_source_that_is_gone_cannot_be_copied_and_nothing_is_left(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    data: bytes,
) -> None:
    upload_whole(destination, data, OLD)
    source = found(destination)
    destination.delete_archives([source])
    with pytest.raises(CopyFailedError) as raised:
        commit_copies(destination, source, [(0, SMALLEST), (SMALLEST, SMALLEST)])
    assert "no such directory" not in raised.value.message
    assert place.contents() == {}
    assert place.unfinished() == []


def test_a_source_that_is_another_one_by_now_cannot_be_copied(tmp_path: Path) -> None:
    """S3 is asked for that by a condition, which moto ignores: see tests/unit."""
    directory = Directory(tmp_path)
    upload_whole(directory, b"0123456789", OLD)
    source = found(directory)
    (tmp_path / OLD).unlink()
    (tmp_path / OLD).write_bytes(b"9876543210")
    with pytest.raises(CopyFailedError):
        commit_copies(directory, source, [(0, 5)])
    assert [path.name for path in tmp_path.iterdir()] == [OLD]


def test_a_range_beyond_the_end_cannot_be_copied(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    data: bytes,
) -> None:
    upload_whole(destination, data, OLD)
    source = found(destination)
    for ranges in ([(len(data), SMALLEST)], [(0, SMALLEST), (len(data) - 10, SMALLEST)]):
        with pytest.raises(CopyFailedError):
            commit_copies(destination, source, ranges)
        assert place.contents() == {OLD: data}


def test_copies_that_are_aborted_leave_nothing_and_the_source_as_it_was(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    data: bytes,
) -> None:
    upload_whole(destination, data, OLD)
    for written in (b"", b"x", bytes(20 * MIB)):
        upload = destination.open_upload(NEW, METADATA)
        upload.copy(found(destination), [(0, SMALLEST), (100, SMALLEST)])
        upload.write(written)
        upload.abort()
        upload.abort()
        assert place.contents() == {OLD: data}
        assert place.unfinished() == []


def test_a_name_taken_meanwhile_stays_what_it_is(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    data: bytes,
) -> None:
    upload_whole(destination, data, OLD)
    upload = destination.open_upload(NEW, METADATA)
    upload.copy(found(destination), [(0, SMALLEST)])
    upload.write(b"behind")
    upload_whole(place.open(), b"faster", NEW)
    with pytest.raises(storelet.ArchiveExistsError):
        upload.commit()
    upload.abort()
    assert place.contents() == {OLD: data, NEW: b"faster"}


def test_its_limits_can_be(destination: Destination) -> None:  # noqa: F811
    limits = destination.copy_limits
    assert 0 < limits.smallest <= limits.usual / 2
    assert limits.usual <= limits.largest
    assert limits.most > 0


def test_traffic_only_grows(destination: Destination, data: bytes) -> None:  # noqa: F811
    seen = [destination.traffic]
    upload_whole(destination, data, OLD)
    seen.append(destination.traffic)
    assert seen[1].bytes_sent - seen[0].bytes_sent >= len(data)
    destination.read(found(destination), 0, 10)
    seen.append(destination.traffic)
    assert seen[2].bytes_sent - seen[1].bytes_sent < 1000
    assert [each.requests for each in seen] == sorted(each.requests for each in seen)
    if isinstance(destination, S3):
        assert seen[2].requests > seen[1].requests > 0


def test_only_regular_files_are_archives(tmp_path: Path) -> None:
    (tmp_path / OLD).mkdir()
    (tmp_path / NEW).symlink_to("/etc/hostname")
    directory = Directory(tmp_path)
    assert directory.list_archives("example") == []
    assert directory.find_archive(OLD) is None
    assert directory.find_archive(NEW) is None

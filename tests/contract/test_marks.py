"""The contract of `destination.contract`: archives that are marked as bad."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime

import pytest

import storelet
from storelet.destination.contract import Destination
from tests.contract.test_copies import NEW, OLD, found, replace
from tests.contract.test_destination import (  # noqa: F401 - fixtures
    Place,
    destination,
    place,
    upload_whole,
)


def test_an_archive_that_is_marked_is_listed_as_bad_and_no_other(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    for name in (OLD, NEW, "example_x_20130421163000.zip"):
        upload_whole(destination, b"content", name)
    assert not any(each.is_bad for each in destination.list_archives("example"))
    destination.mark_bad(found(destination), "its members overlap")
    for each in (destination, place.open()):  # every host sees it
        assert {(a.name, a.is_bad) for a in each.list_archives("example")} == {
            (OLD, True),
            (NEW, False),
        }
        assert [a.is_bad for a in each.list_archives("example_x")] == [False]
    assert place.contents()[OLD] == b"content"


def test_a_mark_says_in_one_line_when_by_whom_and_why(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    upload_whole(destination, b"content", OLD)
    before = datetime.now(UTC).replace(microsecond=0)
    destination.mark_bad(found(destination), "größe/a: CRC\nis wrong")
    text = place.contents()[f"{OLD}.bad"].decode()
    said = re.fullmatch(r"Storelet found this archive bad at (\S+) on (\S+): (.*)\n", text)
    assert said is not None
    assert before <= datetime.fromisoformat(said[1]) <= datetime.now(UTC)
    assert said[2] == socket.gethostname()
    assert said[3] == "größe/a: CRC is wrong"


def test_it_may_be_marked_twice(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    upload_whole(destination, b"content", OLD)
    for reason in ("a long first reason", "second"):
        destination.mark_bad(found(destination), reason)
        assert place.contents()[f"{OLD}.bad"].endswith(f": {reason}\n".encode())
    assert [each.is_bad for each in destination.list_archives("example")] == [True]


def test_one_listing_tells_of_archives_and_marks(destination: Destination) -> None:  # noqa: F811
    for name in (OLD, NEW):
        upload_whole(destination, b"content", name)
        destination.mark_bad(found(destination, name), "because")
    if not isinstance(destination, storelet.S3):
        return
    before = destination.traffic
    assert [each.is_bad for each in destination.list_archives("example")] == [True, True]
    assert (destination.traffic - before).requests == 1


def test_a_marked_archive_is_read_as_any(destination: Destination) -> None:  # noqa: F811
    upload_whole(destination, b"0123456789", OLD)
    destination.mark_bad(found(destination), "because")
    (archive,) = destination.list_archives("example")
    assert archive.is_bad
    assert destination.read(archive, 2, 3) == b"234"


@pytest.mark.parametrize("data", [b"9876543210", b"0", None])
def test_an_archive_that_is_gone_or_another_one_by_now_is_not_marked(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    data: bytes | None,
) -> None:
    upload_whole(destination, b"0123456789", OLD)
    archive = found(destination)
    destination.delete_archives([archive])
    if data is not None:
        upload_whole(destination, b"0123456789", OLD)
        replace(place, OLD, data)
    with pytest.raises(storelet.DestinationError, match=OLD):
        destination.mark_bad(archive, "because")
    assert place.contents() == ({} if data is None else {OLD: data})


def test_a_mark_without_an_archive_is_none(destination: Destination) -> None:  # noqa: F811
    upload_whole(destination, b"content", OLD)
    destination.mark_bad(found(destination), "because")
    destination.delete_archives([found(destination)])
    assert destination.list_archives("example") == []
    assert destination.find_archive(OLD) is None


def test_a_mark_of_the_longest_name_can_be_made(
    destination: Destination,  # noqa: F811
) -> None:
    name = "n" * 232
    with storelet.ZipBackup(name, destination=destination):
        pass
    (archive,) = destination.list_archives(name)
    destination.mark_bad(archive, "because")
    assert [each.is_bad for each in destination.list_archives(name)] == [True]

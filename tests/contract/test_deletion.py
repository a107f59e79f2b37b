"""The contract of `destination.contract`: archives are deleted, and nothing else ever is."""

from __future__ import annotations

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

OTHER = "example_x_20130421163000.zip"
NAMES = [f"example_201304{day:02}163000.zip" for day in range(1, 13)]


@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_archives_are_deleted_with_their_marks_and_nothing_else_is(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    count: int,
) -> None:
    for name in (*NAMES, OTHER):
        upload_whole(destination, name.encode(), name)
    for name in (*NAMES[::3], OTHER):
        destination.mark_bad(found(destination, name), "because")
    before = place.contents()
    listed = destination.list_archives("example")
    listed.sort(key=lambda each: each.name)
    destination.delete_archives(listed[:count])
    stay = {name for name in before if not name.startswith(tuple(NAMES[:count]) or "none")}
    assert place.contents() == {name: before[name] for name in stay}
    assert {f"{OTHER}.bad", OTHER, *NAMES[count:]} <= stay


@pytest.mark.parametrize("count", [1, 3])
def test_they_may_be_deleted_twice(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    count: int,
) -> None:
    for name in NAMES[:4]:
        upload_whole(destination, name.encode(), name)
        destination.mark_bad(found(destination, name), "because")
    going = destination.list_archives("example")[:count]
    kept = {each.name for each in destination.list_archives("example")[count:]}
    for _ in range(2):
        destination.delete_archives(going)
        assert {name for name in place.contents() if name.endswith(".zip")} == kept
    upload_whole(destination, b"again", going[0].name)
    assert place.contents()[going[0].name] == b"again"
    assert not found(destination, going[0].name).is_bad


@pytest.mark.parametrize("count", [1, 3])
def test_what_has_come_under_its_name_since_is_not_deleted_and_the_others_are(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    count: int,
) -> None:
    """Of one that is bad the mark stays too: who knows what it is now."""
    for name in NAMES[:count]:
        upload_whole(destination, b"0123456789", name)
    destination.mark_bad(found(destination, NAMES[0]), "because")
    going = destination.list_archives("example")
    replace(place, NAMES[0], b"9876543210")
    with pytest.raises(storelet.DestinationError, match=NAMES[0]) as raised:
        destination.delete_archives(going)
    assert not any(name in raised.value.message for name in NAMES[1:])
    assert place.contents().keys() == {NAMES[0], f"{NAMES[0]}.bad"}
    assert place.contents()[NAMES[0]] == b"9876543210"


def test_several_that_stay_are_one_error(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    for name in NAMES[:5]:
        upload_whole(destination, b"0123456789", name)
    going = sorted(destination.list_archives("example"), key=lambda each: each.name)
    for name in NAMES[1:4]:
        replace(place, name, b"another")
    with pytest.raises(storelet.DestinationError) as raised:
        destination.delete_archives(going)
    assert raised.value.message.startswith(f"{NAMES[1]} and 2 more: ")
    assert place.contents() == dict.fromkeys(NAMES[1:4], b"another")


def test_a_mark_that_was_left_goes_with_the_archive_that_is_gone(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    """As where a deletion was broken off: archives go first."""
    for name in (OLD, NEW):
        upload_whole(destination, b"content", name)
        destination.mark_bad(found(destination, name), "because")
    going = destination.list_archives("example")
    destination.delete_archives([found(destination, OLD), found(destination, NEW)])
    assert place.contents().keys() == {f"{OLD}.bad", f"{NEW}.bad"}
    destination.delete_archives(going)
    assert place.contents() == {}

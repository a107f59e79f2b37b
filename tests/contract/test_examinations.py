"""What `storelet.examine` says of a place where all is well, and that it leaves nothing there."""

from __future__ import annotations

import pytest

import storelet
from storelet.destination.contract import Destination
from tests.contract.test_destination import (  # noqa: F401 - fixtures
    NAME,
    Place,
    destination,
    place,
    upload_whole,
)

EVERYWHERE = {"list", "write", "read", "delete", "copy"}


@pytest.mark.parametrize("quick", [False, True])
def test_nothing_is_wrong_with_a_good_place_and_nothing_of_the_trial_stays(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
    quick: bool,
) -> None:
    upload_whole(destination, b"an archive")
    before = place.contents()
    findings = list(storelet.examine(destination, "example", quick=quick))
    assert [str(each) for each in findings if each.state in ("warning", "failed")] == []
    expected = EVERYWHERE - {"copy"} if quick else EVERYWHERE
    assert {each.check for each in findings} >= expected
    assert findings[0].message == "1 archive of example"
    assert place.contents() == before
    assert destination.find_archive(NAME) is not None


def test_a_place_that_is_missing_is_said_and_ends_it(place: Place) -> None:  # noqa: F811
    (finding,) = storelet.examine(place.open_missing(), "example")
    assert (finding.check, finding.state) == ("list", "failed")
    assert isinstance(finding.error, storelet.DestinationMissingError)


def test_who_stops_in_the_middle_leaves_nothing(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    examination = storelet.examine(destination, "example")
    while next(examination).check != "write":
        pass
    assert len(place.contents()) == 1
    examination.close()
    assert place.contents() == {}

"""The contract of `destination.contract`: versions, where a destination keeps those.

SeaweedFS, moto and radosgw do, in a bucket that is told to.
"""

from __future__ import annotations

import time

import pytest

import storelet
from storelet.destination.contract import Destination, Stored
from tests.contract.test_copies import NEW, OLD, found, replace
from tests.contract.test_destination import (  # noqa: F401 - fixtures
    Place,
    S3Place,
    destination,
    place,
    upload_whole,
)
from tests.helpers import Bucket

BUCKETS = ["s3_server", "seaweedfs", "radosgw"]


@pytest.fixture(params=BUCKETS)
def versioned(request: pytest.FixtureRequest) -> S3Place:
    """Make a bucket that keeps versions."""
    bucket: Bucket = request.getfixturevalue(request.param)
    bucket.client.put_bucket_versioning(
        Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"}
    )
    return S3Place(bucket=bucket, words=f"bucket {bucket.name}", url="")


def test_where_none_are_kept_versions_are_the_archives(
    place: Place,  # noqa: F811
    destination: Destination,  # noqa: F811
) -> None:
    for name in (OLD, NEW, "example_x_20130421163000.zip"):
        upload_whole(destination, name.encode(), name)
    destination.mark_bad(found(destination), "because")
    versions = destination.list_versions("example")
    assert {(each.name, each.is_bad) for each in versions} == {(OLD, True), (NEW, False)}
    assert versions == destination.list_archives("example")
    assert [destination.read(each, 0, 3) for each in versions] == [b"exa", b"exa"]
    destination.delete_archives(versions)
    assert destination.list_versions("example") == []


def test_a_deleted_archive_is_listed_and_read_while_its_version_lives(versioned: S3Place) -> None:
    store = versioned.open()
    for name in (OLD, NEW, "example_x_20130421163000.zip"):
        upload_whole(store, name.encode(), name)
    store.delete_archives([found(store)])
    assert [each.name for each in store.list_archives("example")] == [NEW]
    versions = {each.name: each for each in versioned.open().list_versions("example")}
    assert versions.keys() == {OLD, NEW}
    assert {name for name, each in versions.items() if each.is_deleted} == {OLD}
    assert all(each.version_id for each in versions.values())
    for name, each in versions.items():
        assert (each.size, store.read(each, 8, 4)) == (len(name), b"2013")


def test_each_version_of_a_name_is_read_by_its_id(versioned: S3Place) -> None:
    """Storelet makes no second one, but others may, and a name may be used again."""
    store = versioned.open()
    upload_whole(store, b"0123456789", OLD)
    replace(versioned, OLD, b"9876543210")
    store.delete_archives([found(store)])
    upload_whole(store, b"again", OLD)
    versions = store.list_versions("example")
    read = {store.read(each, 0, each.size): each.is_deleted for each in versions}
    assert read == {b"0123456789": True, b"9876543210": True, b"again": False}


def test_a_version_costs_one_request_to_read_and_an_archive_too(versioned: S3Place) -> None:
    store = versioned.open()
    for name in (OLD, NEW):
        upload_whole(store, name.encode(), name)
    store.delete_archives([found(store)])
    for listed in (store.list_versions("example"), store.list_archives("example")):
        for archive in listed:
            before = store.traffic
            store.read(archive, 0, 1)
            assert (store.traffic - before).requests == 1


def test_versions_are_listed_oldest_first_and_a_mark_counts_though_it_is_deleted(
    versioned: S3Place,
) -> None:
    store = versioned.open()
    for name in (NEW, OLD):
        upload_whole(store, name.encode(), name)
        time.sleep(1.05)  # what S3 says of times is in seconds
    store.mark_bad(found(store), "because")
    store.delete_archives(store.list_archives("example"))
    versions = store.list_versions("example")
    assert [each.name for each in versions] == [NEW, OLD]
    assert [each.is_bad for each in versions] == [False, True]


def test_deleting_a_deleted_archive_ends_no_version_and_hides_nothing_twice(
    versioned: S3Place,
) -> None:
    store = versioned.open()
    for name in (OLD, NEW):
        upload_whole(store, name.encode(), name)
        store.mark_bad(found(store, name), "because")
    store.delete_archives(store.list_archives("example"))
    before = markers(versioned)
    assert len(before) == 4
    store.delete_archives([found_version(store, OLD), found_version(store, NEW)])
    assert len(store.list_versions("example")) == 2
    assert {key for key in markers(versioned) if key.endswith(".zip")} == {
        key for key in before if key.endswith(".zip")
    }


def found_version(store: Destination, name: str) -> Stored:
    (version,) = [each for each in store.list_versions("example") if each.name == name]
    return version


def markers(versioned: S3Place) -> list[str]:
    bucket = versioned.bucket
    listed = bucket.client.list_object_versions(Bucket=bucket.name)
    return [each["Key"] for each in listed.get("DeleteMarkers", ())]


def test_many_versions_are_all_listed(versioned: S3Place) -> None:
    for _ in range(3):
        for number in range(340):
            replace(versioned, f"example_{number:014}.zip", b"")
    versions = versioned.open().list_versions("example")
    assert len(versions) == 1020
    assert len({each.version_id for each in versions}) == 1020


def test_in_a_place_that_is_missing_no_versions_are_listed(place: Place) -> None:  # noqa: F811
    with pytest.raises(storelet.DestinationMissingError):
        place.open_missing().list_versions("example")

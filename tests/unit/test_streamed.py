"""The streamed way of a backup: planned, then read and sent when the block ends."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import storelet
from storelet.destination.contract import Upload
from tests.helpers import Bucket


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kept"
    path.mkdir()
    return path


@pytest.fixture
def events() -> Iterator[list[storelet.Event]]:
    """Note all events but how bytes move."""
    seen: list[storelet.Event] = []

    def note(event: storelet.Event) -> None:
        if not isinstance(event, storelet.Moved):
            seen.append(event)

    with storelet.observe(note):
        yield seen


class Full(storelet.Directory):
    """A directory whose disk is full after so many bytes."""

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path)
        self.room = room

    def open_upload(self, name: str, metadata: Mapping[str, str], size: int = 0) -> Upload:
        upload = super().open_upload(name, metadata, size)
        write = upload.write

        def write_some(data: bytes) -> None:
            self.room -= len(data)
            if self.room < 0:
                raise storelet.DestinationError(f"no room in {self}")
            write(data)

        upload.write = write_some  # type: ignore[method-assign]
        return upload


def names(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        return set(opened.namelist())


def only(directory: Path) -> Path:
    (archive,) = directory.iterdir()
    return archive


def test_it_is_saved_when_the_block_ends_well_and_not_before(
    tree: Path, kept: Path, events: list[storelet.Event]
) -> None:
    with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(tree)
        assert (events, list(kept.iterdir())) == ([], [])
    archive = only(kept)
    assert {"hello.txt", "link", "empty/", "sub/deeper/file"} <= names(archive)
    size = archive.stat().st_size
    assert events[-1] == storelet.Saved(
        url=archive.as_uri(), destination=f"directory {kept}", bytes=size, bytes_sent=size
    )


def test_it_holds_what_the_spooled_way_holds(tree: Path, tmp_path: Path) -> None:
    for way in ("spooled", "streamed"):
        (tmp_path / way).mkdir()
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        backup.include_file("/etc/hostname", name="machine/name")
        backup.save_to_directory(tmp_path / "spooled")
    with storelet.ZipBackup(
        "example", destination=storelet.Directory(tmp_path / "streamed")
    ) as backup:
        backup.include_directory(tree)
        backup.include_file("/etc/hostname", name="machine/name")
    first, second = only(tmp_path / "spooled"), only(tmp_path / "streamed")
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
        assert one.namelist() == other.namelist()
        assert [one.read(name) for name in one.namelist()] == [
            other.read(name) for name in other.namelist()
        ]


def test_a_block_that_raises_leaves_nothing(tree: Path, kept: Path) -> None:
    made = []
    with (
        pytest.raises(KeyError),
        storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup,
    ):
        backup.include_directory(tree)
        with backup.include_new_dir("made") as directory:
            made.append(directory.path)
            Path(directory.path, "file").touch()
        raise KeyError
    assert list(kept.iterdir()) == []
    assert not os.path.exists(made[0])


def test_it_needs_no_room_for_temporary_files(
    tree: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(tree)
    assert "hello.txt" in names(only(kept))


def test_a_new_directory_stays_until_it_is_read_and_is_gone_afterwards(kept: Path) -> None:
    with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
        with backup.include_new_dir("made") as directory:
            Path(directory.path, "file").write_text("content")
        assert os.path.exists(directory.path)
    assert not os.path.exists(directory.path)
    with zipfile.ZipFile(only(kept)) as opened:
        assert opened.read("made/file") == b"content"


def test_a_file_that_vanished_before_the_end_is_skipped_and_reported(
    tree: Path, kept: Path, events: list[storelet.Event]
) -> None:
    with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(tree)
        (tree / "hello.txt").unlink()
    skipped = [each for each in events if isinstance(each, storelet.Skipped)]
    assert skipped == [storelet.Skipped(path=str(tree / "hello.txt"), reason="it vanished")]
    assert "hello.txt" not in names(only(kept))


def test_several_destinations_get_the_same_and_each_file_is_read_once(
    tree: Path, kept: Path, bucket: Bucket, events: list[storelet.Event]
) -> None:
    destinations = [storelet.Directory(kept), storelet.S3(bucket.name, "key", "secret")]
    with storelet.ZipBackup("example", destination=destinations) as backup:
        backup.include_directory(tree)
    (key,) = bucket.keys()
    assert bucket.read(key) == only(kept).read_bytes()
    paths = [each.path for each in events if isinstance(each, storelet.Added)]
    assert len(paths) == len(set(paths)) > 5
    assert [type(each) for each in events[-2:]] == [storelet.Saved, storelet.Saved]


@pytest.mark.parametrize("room", [0, 100, 1_000])
def test_one_that_fails_does_not_keep_the_others_from_theirs(
    tree: Path, kept: Path, tmp_path: Path, room: int
) -> None:
    (tmp_path / "full").mkdir()
    destinations = [Full(tmp_path / "full", room), storelet.Directory(kept)]
    with (
        pytest.raises(storelet.DestinationError, match=f"no room in directory {tmp_path}/full"),
        storelet.ZipBackup("example", destination=destinations) as backup,
    ):
        backup.include_directory(tree)
    assert "hello.txt" in names(only(kept))
    assert list((tmp_path / "full").iterdir()) == []


def test_all_that_fail_are_named_and_nothing_is_read_for_nobody(
    tree: Path, tmp_path: Path, events: list[storelet.Event]
) -> None:
    missing = [storelet.Directory(tmp_path / name) for name in ("nowhere", "neither")]
    with (
        pytest.raises(storelet.StoreletError) as raised,
        storelet.ZipBackup("example", destination=missing) as backup,
    ):
        backup.include_directory(tree)
    assert str(tmp_path / "nowhere") in raised.value.message
    assert str(tmp_path / "neither") in raised.value.message
    assert raised.value.exit_code == 10
    assert events == []


def test_a_large_archive_goes_to_s3_in_parts_and_a_failure_leaves_none(
    tree: Path, bucket: Bucket
) -> None:
    (tree / "large").write_bytes(os.urandom(20 << 20))
    with storelet.ZipBackup("example", destination=storelet.S3(bucket.name, "k", "s")) as backup:
        backup.include_directory(tree)
    (key,) = bucket.keys()
    assert "-" in bucket.client.head_object(Bucket=bucket.name, Key=key)["ETag"]  # of parts

    def fail(event: storelet.Event) -> None:
        if isinstance(event, storelet.Added) and event.path.endswith("sub/script.sh"):
            raise KeyboardInterrupt

    with (
        storelet.observe(fail),
        pytest.raises(KeyboardInterrupt),
        storelet.ZipBackup("other", destination=storelet.S3(bucket.name, "k", "s")) as backup,
    ):
        backup.include_directory(tree)
    assert bucket.keys() == [key]
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)


def test_a_taken_name_is_not_overwritten(tree: Path, kept: Path) -> None:
    for _ in range(3):
        with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
            backup.include_directory(tree)
    assert len(list(kept.iterdir())) == 3


def test_archives_in_its_destination_are_passed_over_and_nothing_else_there(tree: Path) -> None:
    """Two jobs that back up one another's archives would double them every night."""
    (tree / "empty" / "thesis.txt").write_text("years of work")
    (tree / "empty" / "photos_20130421163000.zip").write_text("an ordinary file")
    for name in ("web", "home", "web", "home"):
        destination = storelet.Directory(tree / "empty")
        with storelet.ZipBackup(name, destination=destination) as backup:
            backup.include_directory(tree)
    for archive in (tree / "empty").glob("[wh]*.zip"):
        assert {each for each in names(archive) if each.startswith("empty/")} == {
            "empty/",
            "empty/thesis.txt",
            "empty/photos_20130421163000.zip",
        }


def test_marks_in_its_destination_are_passed_over_and_what_only_looks_like_one_is_not(
    tree: Path,
) -> None:
    destination = storelet.Directory(tree / "empty")
    for name in ("web", "home"):
        with storelet.ZipBackup(name, destination=destination) as backup:
            backup.include_directory(tree / "sub")
        (archive,) = destination.list_archives(name)
        destination.mark_bad(archive, "because")
    earlier = next((tree / "empty").glob("web*.bad")).read_bytes()
    (tree / "web_20130421163000.zip.bad").write_bytes(earlier)  # wherever it is
    (tree / "home_20130421163000.zip.bad").write_bytes(earlier)  # not where this one goes
    (tree / "web.bad").write_bytes(earlier)
    (tree / "empty" / "photos_20130421163000.zip.bad").write_text("no picture of mine")
    (tree / "empty" / "photos_20130421163001.zip.bad").mkdir()
    with storelet.ZipBackup("web", destination=destination) as backup:
        backup.include_directory(tree)
    *_, newest = destination.list_archives("web")
    assert {each for each in names(tree / "empty" / newest.name) if ".bad" in each} == {
        "home_20130421163000.zip.bad",
        "web.bad",
        "empty/photos_20130421163000.zip.bad",
        "empty/photos_20130421163001.zip.bad/",
    }


def test_what_can_mean_nothing_is_refused(tree: Path, kept: Path) -> None:
    with pytest.raises(storelet.UsageError, match="empty list"):
        storelet.ZipBackup("example", destination=[])
    with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(tree)
        with pytest.raises(storelet.UsageError, match="goes to its destination"):
            backup.save_to_directory(kept)
    with pytest.raises(storelet.UsageError, match="has ended"):
        backup.include_directory(tree)
    assert len(list(kept.iterdir())) == 1


def test_several_threads_may_include_at_once(kept: Path, tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        for number in range(300):
            (tmp_path / name / f"{number}").write_text(f"{name}{number}")
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with (
            storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup,
            ThreadPoolExecutor(8) as pool,
        ):
            for name in "abcdefgh":
                pool.submit(backup.include_directory, tmp_path / name, name=name)
    finally:
        sys.setswitchinterval(switching)
    with zipfile.ZipFile(only(kept)) as opened:
        for name in "abcdefgh":
            for number in range(300):
                assert opened.read(f"{name}/{number}").decode() == f"{name}{number}"
        assert len(opened.namelist()) == 8 * 301

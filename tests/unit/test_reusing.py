"""Whole backups that reuse what the archive before has: night after night, in a directory and S3.

Each test ends by reading the archive strictly, which sees a gap between members as well as a
member that is not in the catalogue; what went over is in the events.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storelet
from storelet.catalogue import find_catalogue, read_headers
from storelet.destination.contract import Stored, Upload
from storelet.zipformat import CHANGED, PRIVATE_ID, TRUNCATED
from tests.helpers import Bucket
from tests.nights import Choosy, Nights, archives, contents, contents_of, last
from tests.zipparser import ParsedZip, parse_zip

MIB = 1 << 20
LOOSE = {"ctime": False, "inode": False}
OLD = 1_366_561_800

Change = tuple[str, str, int]  # what is done, with which file, of how many bytes


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kept"
    path.mkdir()
    return path


@pytest.fixture
def nights(tree: Path) -> Nights:
    return Nights(tree)


def edit_header(archive: Path, name: str, **changes: int) -> None:
    """Change the version or the flags in a member's private field, as if it had been so."""
    data = bytearray(archive.read_bytes())
    found = find_catalogue(bytes(data[-98:]))
    assert found is not None
    start, size = found
    (header,) = [
        each for each in read_headers(bytes(data[start : start + size])) if each.name == name
    ]
    at = data.index(struct.pack("<H", PRIVATE_ID) + b"\x2e", start + header.start)
    if at > start + header.end:  # with the archive's record it is longer
        at = data.index(struct.pack("<H", PRIVATE_ID), start + header.start)
    for field, value in changes.items():
        data[at + {"version": 4, "flags": 5}[field]] = value
    archive.write_bytes(data)


# Nothing has changed ----------------------------------------------------------------------------


def test_what_has_not_changed_is_not_even_read(nights: Nights, tree: Path, kept: Path) -> None:
    nights.back_up(storelet.Directory(kept))
    first = nights.saved
    assert [event.is_first for event in nights.of(storelet.NotReused)] == [True]
    assert (first.bytes_reused, first.bytes_sent) == (0, first.bytes)
    read, whole = len(nights.read), contents_of(tree)
    for path in tree.rglob("*"):  # behind the back of who does not look at the ctime
        if path.is_file() and not path.is_symlink():
            found = path.stat()
            path.write_bytes(bytes(found.st_size))
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    nights.back_up(storelet.Directory(kept), change_detection={"ctime": False})
    assert (nights.read, nights.reused, nights.reasons) == (set(), read, [])
    assert contents(last(kept)) == whole
    saved = nights.saved
    assert saved.bytes == archives(kept)[-1].stat().st_size
    assert saved.bytes_reused + saved.bytes_sent == saved.bytes
    assert saved.bytes_reused > 0
    assert (len(nights.of(storelet.NotReused)), len(nights.of(storelet.Saved))) == (0, 1)


def test_the_new_archive_has_its_own_time_and_members_the_times_of_their_reading(
    nights: Nights, kept: Path
) -> None:
    for _ in range(3):
        nights.back_up(storelet.Directory(kept))
    parsed = [parse_zip(path.read_bytes()) for path in archives(kept)]
    starts = []
    for archive in parsed:
        record = archive.members[0].private.archive
        assert record is not None
        assert record[1:] == ("example", os.uname().nodename)
        starts.append(record[0])
    assert len(set(starts)) == 3
    read_at = [{m.name: m.private.read_at for m in archive.members} for archive in parsed]
    assert read_at[0] == read_at[1] == read_at[2]


def test_members_are_copied_byte_for_byte_with_all_that_is_known_of_them(
    nights: Nights, tree: Path, kept: Path
) -> None:
    (tree / "large").write_bytes(os.urandom(MIB) + bytes(MIB))  # with a data descriptor
    os.utime(tree / "large", (OLD, OLD))
    (tree / b"caf\xe9".decode("utf-8", "surrogateescape")).write_text("raw")
    nights.back_up(storelet.Directory(kept))
    nights.back_up(storelet.Directory(kept))
    assert nights.read == set()
    first, second = (parse_zip(path.read_bytes()) for path in archives(kept))
    assert {m.name: (bytes(m.stored), m.extra) for m in first.members[1:]} == {
        m.name: (bytes(m.stored), m.extra) for m in second.members[1:]
    }
    assert second["caf%E9"].private.raw_name == b"caf\xe9"


def test_another_machine_goes_on(
    nights: Nights, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    nights.back_up(storelet.Directory(kept))
    monkeypatch.undo()
    nights.back_up(storelet.Directory(kept))
    assert nights.read == set()
    record = last(kept).members[0].private.archive
    assert record is not None
    assert record[2] == os.uname().nodename


def test_reuse_can_be_turned_off(nights: Nights, tree: Path, kept: Path) -> None:
    for _ in range(2):
        nights.back_up(storelet.Directory(kept), reuse=False)
        assert {"hello.txt", "link"} <= nights.read
        assert nights.of(storelet.NotReused) == []
        assert nights.saved.bytes_reused == 0
    assert contents(last(kept)) == contents_of(tree)


# Something has changed --------------------------------------------------------------------------


def test_only_what_has_changed_is_read(nights: Nights, tree: Path, kept: Path) -> None:
    nights.back_up(storelet.Directory(kept))
    (tree / "sub" / "script.sh").write_text("changed")
    (tree / "sub" / "new").write_text("new")
    (tree / "hello.txt").unlink()
    (tree / "secret").chmod(0o640)  # of which only the ctime tells
    nights.back_up(storelet.Directory(kept))
    assert nights.read == {"sub/script.sh", "sub/new", "secret"}
    assert contents(last(kept)) == contents_of(tree)
    assert last(kept)["secret"].mode & 0o777 == 0o640


def test_a_change_that_keeps_size_and_mtime_is_seen_by_the_ctime(
    nights: Nights, tree: Path, kept: Path
) -> None:
    nights.back_up(storelet.Directory(kept))
    (tree / "hello.txt").write_text("HELLO\n" * 100)
    os.utime(tree / "hello.txt", (OLD, OLD))
    nights.back_up(storelet.Directory(kept))
    assert nights.read == {"hello.txt"}
    assert last(kept)["hello.txt"].data == b"HELLO\n" * 100


def test_a_file_that_was_put_in_place_of_another_is_seen_by_the_inode(
    nights: Nights, tree: Path, kept: Path
) -> None:
    nights.back_up(storelet.Directory(kept), change_detection={"ctime": False})
    (tree / "other").write_text("HELLO\n" * 100)
    os.utime(tree / "other", (OLD, OLD))
    (tree / "other").rename(tree / "hello.txt")
    nights.back_up(storelet.Directory(kept), change_detection={"ctime": False})
    assert nights.read == {"hello.txt"}
    assert last(kept)["hello.txt"].data == b"HELLO\n" * 100


def test_what_changed_shortly_before_it_was_read_is_read_once_more(tree: Path, kept: Path) -> None:
    """On the real clock: all of the tree has just been made, only mtimes can be old."""
    events: list[storelet.Event] = []
    with storelet.observe(events.append):
        for _ in range(2):
            with storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup:
                backup.include_directory(tree)
    assert not [event for event in events if isinstance(event, storelet.Reused)]
    assert contents(last(kept)) == contents_of(tree)


def test_files_renamed_replaced_by_directories_and_the_other_way_round(
    nights: Nights, tree: Path, kept: Path
) -> None:
    nights.back_up(storelet.Directory(kept))
    (tree / "hello.txt").rename(tree / "moved.txt")
    (tree / "nothing").unlink()
    (tree / "nothing").mkdir()
    (tree / "nothing" / "inside").write_text("inside")
    shutil.rmtree(tree / "sub")
    (tree / "sub").write_text("a file now")
    (tree / "link").unlink()
    (tree / "link").write_text("hello.txt")  # what the link's target was
    nights.back_up(storelet.Directory(kept))
    assert nights.read == {"moved.txt", "nothing/inside", "sub", "link"}
    assert contents(last(kept)) == contents_of(tree)
    nights.back_up(storelet.Directory(kept))
    assert nights.read == set()
    assert contents(last(kept)) == contents_of(tree)


def test_directories_are_as_they_are_now(nights: Nights, tree: Path, kept: Path) -> None:
    nights.back_up(storelet.Directory(kept))
    (tree / "empty").chmod(0o711)
    (tree / "sub" / "another").touch()
    os.utime(tree / "sub", (OLD, OLD))
    nights.back_up(storelet.Directory(kept))
    assert nights.read == {"sub/another"}
    archive = last(kept)
    assert archive["empty/"].mode & 0o777 == 0o711
    assert archive["sub/"].mtime == OLD


def test_of_hard_links_one_may_be_copied_and_the_other_read(
    nights: Nights, tree: Path, kept: Path
) -> None:
    (tree / "one").write_text("shared")
    os.link(tree / "one", tree / "other")
    nights.back_up(storelet.Directory(kept))
    edit_header(archives(kept)[-1], "other", flags=CHANGED)  # so that it is read again
    nights.back_up(storelet.Directory(kept))
    assert nights.read == {"other"}
    one, other = (last(kept)[name].private for name in ("one", "other"))
    assert one.link_group == other.link_group > 0
    assert (one.inode, one.ctime_ns) == (other.inode, other.ctime_ns)
    os.link(tree / "one", tree / "third")  # which changes the ctime of all
    nights.back_up(storelet.Directory(kept))
    assert nights.read == {"one", "other", "third"}
    links = [last(kept)[name].private for name in ("one", "other", "third")]
    assert len({(each.link_group, each.inode, each.ctime_ns) for each in links}) == 1


@pytest.mark.parametrize("flags", [CHANGED, TRUNCATED])
def test_what_was_not_read_well_is_read_again(nights: Nights, kept: Path, flags: int) -> None:
    nights.back_up(storelet.Directory(kept))
    edit_header(archives(kept)[-1], "sub/script.sh", flags=flags)
    nights.back_up(storelet.Directory(kept))
    assert nights.read == {"sub/script.sh"}
    assert last(kept)["sub/script.sh"].private.flags == 0


def test_a_new_directory_is_always_fresh(tree: Path, kept: Path, nights: Nights) -> None:
    def back_up(text: str) -> None:
        with (
            nights.next(),
            storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup,
        ):
            backup.include_directory(tree)
            with backup.include_new_dir("made") as made:
                Path(made.path, "dump").write_text(text)
                os.utime(Path(made.path, "dump"), (OLD, OLD))

    back_up("one")
    back_up("two")
    assert nights.read == {"made/dump"}
    assert last(kept)["made/dump"].data == b"two"


def test_a_file_that_vanishes_before_it_is_read_is_skipped_and_one_that_is_copied_is_not(
    nights: Nights, tree: Path, kept: Path
) -> None:
    nights.back_up(storelet.Directory(kept))
    (tree / "new").write_text("new")
    with (
        nights.next(),
        storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup,
    ):
        backup.include_directory(tree)
        (tree / "new").unlink()
        (tree / "hello.txt").unlink()
    assert [event.path for event in nights.of(storelet.Skipped)] == [str(tree / "new")]
    assert contents(last(kept)) == contents_of(tree) | {"hello.txt": b"hello\n" * 100}


def test_all_goes_and_comes_again(nights: Nights, tree: Path, kept: Path) -> None:
    nights.back_up(storelet.Directory(kept))
    whole = contents_of(tree)
    tree.rename(tree.with_name("away"))
    tree.mkdir()
    nights.back_up(storelet.Directory(kept))
    assert last(kept).members == []
    tree.rmdir()
    tree.with_name("away").rename(tree)
    nights.back_up(storelet.Directory(kept))
    assert "is empty" in nights.reasons[0]
    assert contents(last(kept)) == whole


def test_much_is_packed_by_helpers_beside_what_is_copied(nights: Nights, kept: Path) -> None:
    source = nights.source
    for number in range(60):
        (source / f"file-{number:02}").write_bytes(os.urandom(400_000))
    (source / "huge").write_bytes(os.urandom(3 * MIB))
    nights.back_up(storelet.Directory(kept))
    changed = {f"file-{number:02}" for number in range(60) if number % 4}
    for name in changed:
        (source / name).write_bytes(os.urandom(400_001))
    nights.back_up(storelet.Directory(kept))
    assert nights.read == changed
    assert contents(last(kept)) == contents_of(source)
    nights.back_up(storelet.Directory(kept))
    assert nights.read == set()
    assert contents(last(kept)) == contents_of(source)


# The layout -------------------------------------------------------------------------------------


def test_no_reader_of_a_stream_meets_a_member_that_was_deleted(
    nights: Nights, tree: Path, kept: Path
) -> None:
    for number in range(40):
        (tree / f"secret-{number}").write_bytes(os.urandom(200))
    nights.back_up(Choosy(kept))
    for number in range(0, 40, 7):
        (tree / f"secret-{number}").unlink()
    for destination in (Choosy(kept), storelet.Directory(kept)):
        nights.back_up(destination)
        assert nights.reused > 0
        with archives(kept)[-1].open("rb") as archive:
            piped = subprocess.run(
                ["bsdtar", "-tf", "-"], input=archive.read(), capture_output=True, check=True
            )
        assert set(piped.stdout.decode().splitlines()) == set(contents_of(tree))
        subprocess.run(["unzip", "-tqq", archives(kept)[-1]], check=True, capture_output=True)


def test_spans_too_short_to_be_copied_join_the_tail(nights: Nights, tree: Path, kept: Path) -> None:
    for number in range(30):
        (tree / f"x-{number:02}").write_bytes(os.urandom(300))
    nights.back_up(Choosy(kept))
    for number in range(0, 30, 2):
        (tree / f"x-{number:02}").write_bytes(os.urandom(300))
    nights.back_up(Choosy(kept))
    assert {f"x-{number:02}" for number in range(30)} - {"x-29"} <= nights.read
    assert nights.reused > 0
    assert contents(last(kept)) == contents_of(tree)
    nights.back_up(Choosy(kept))
    assert nights.read == set()
    assert contents(last(kept)) == contents_of(tree)


def test_bytes_between_members_of_the_archive_before_are_not_copied(
    nights: Nights, tree: Path, kept: Path
) -> None:
    """A program may take a member out of the catalogue and leave its bytes where they are."""
    (tree / "a").write_text("kept")
    (tree / "b").write_text("taken out")
    (tree / "c").write_text("kept")
    nights.back_up(storelet.Directory(kept))
    take_out(archives(kept)[-1], "b")
    (tree / "b").unlink()
    nights.back_up(storelet.Directory(kept))
    assert contents(last(kept)) == contents_of(tree)


def take_out(archive: Path, name: str) -> None:
    """Take a member out of the catalogue alone."""
    data = archive.read_bytes()
    found = find_catalogue(data[-98:])
    assert found is not None
    start, size = found
    catalogue = data[start : start + size]
    (header,) = [each for each in read_headers(catalogue) if each.name == name]
    count = len(list(read_headers(catalogue))) - 1
    shorter = catalogue[: header.start] + catalogue[header.end :]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(shorter), start, 0)
    archive.write_bytes(data[:start] + shorter + end)
    with zipfile.ZipFile(archive) as opened:
        assert name not in opened.namelist()


@st.composite
def changes(draw: st.DrawFn) -> list[Change]:
    """Make a night's changes."""
    names = [f"{directory}{name}" for directory in ("", "d/", "d/e/", "f/") for name in "abcxyz"]
    change = st.tuples(
        st.sampled_from(["write", "write", "write", "delete", "move", "directory", "touch"]),
        st.sampled_from(names),
        st.sampled_from([0, 1, 50, 500, 900, 1024, 3000, 9000]),
    )
    return draw(st.lists(change, max_size=12))


class Tree:
    """A directory that changes; each change has a time of its own, long ago."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = OLD
        path.mkdir()

    def apply(self, change: Change) -> None:
        action, name, size = change
        path = self.path / name
        self.clock += 1
        match action:
            case "write":
                self._make_room(path)
                path.write_bytes(os.urandom(size))
                os.utime(path, (self.clock, self.clock))
            case "delete":
                self._remove(path)
            case "move" if path.is_file():
                target = path.with_name(f"moved-{path.name}")
                self._remove(target)
                path.rename(target)
            case "directory":
                self._make_room(path)
                path.mkdir()
                (path / "inside").write_bytes(os.urandom(size))
                os.utime(path / "inside", (self.clock, self.clock))
            case "touch" if path.exists():
                os.utime(path, (self.clock, self.clock))

    def _make_room(self, path: Path) -> None:
        self._remove(path)
        for parent in reversed(path.relative_to(self.path).parents[:-1]):
            if (self.path / parent).is_file():
                (self.path / parent).unlink()
        path.parent.mkdir(parents=True, exist_ok=True)

    def _remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(changes(), min_size=2, max_size=6))
def test_every_night_is_whole_whatever_has_changed(
    nightly: list[list[Change]],
) -> None:
    with tempfile.TemporaryDirectory() as top:
        tree = Tree(Path(top, "tree"))
        places: list[storelet.Directory] = []
        for kind, name in ((Choosy, "choosy"), (storelet.Directory, "plain")):
            Path(top, name).mkdir()
            places.append(kind(Path(top, name)))
        for night in nightly:
            for change in night:
                tree.apply(change)
            with storelet.ZipBackup(
                "example", destination=places, change_detection=LOOSE
            ) as backup:
                backup.include_directory(tree.path)
            for place in places:
                archive = last(Path(place.path))
                assert contents(archive) == contents_of(tree.path)
                record = archive.members[0].private.archive if archive.members else None
                assert (record is None) == (not archive.members)


# Read anew in time ------------------------------------------------------------------------------


def test_what_was_read_long_ago_is_read_anew_a_bit_each_night(
    nights: Nights, tree: Path, kept: Path
) -> None:
    for number in range(100):
        (tree / f"r-{number:02}").write_bytes(os.urandom(2000))
    nights.back_up(storelet.Directory(kept))
    first = nights.read
    nights.day = 30
    nights.back_up(storelet.Directory(kept))
    assert nights.read == set(), "30 days are not more than 30 days"
    read: list[set[str]] = []
    while nights.day < 31 + 40:
        nights.back_up(storelet.Directory(kept))
        read.append(nights.read)
        archive = last(kept)
        assert contents(archive) == contents_of(tree)
    assert set().union(*read) == first
    size = archives(kept)[0].stat().st_size
    most = max(sum((tree / name).lstat().st_size for name in each) for each in read)
    assert most <= size / 30 + max(path.lstat().st_size for path in tree.iterdir())
    assert sum(len(each) for each in read[:31]) >= len(first) - 1


def test_reread_can_be_shorter(nights: Nights, tree: Path, kept: Path) -> None:
    nights.back_up(storelet.Directory(kept))
    nights.day += 1
    nights.back_up(storelet.Directory(kept), reread=timedelta(days=1))
    assert len(nights.read) == len(nights.of(storelet.Added)) > 5
    assert contents(last(kept)) == contents_of(tree)


# What cannot be reused --------------------------------------------------------------------------


def spoil_nothing_of_ours(archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("hello.txt", "not ours")


def spoil_cut_off(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-30])


def spoil_emptied(archive: Path) -> None:
    archive.write_bytes(b"")


def spoil_noise(archive: Path) -> None:
    archive.write_bytes(os.urandom(archive.stat().st_size))


def spoil_headers(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    found = find_catalogue(bytes(data[-98:]))
    assert found is not None
    start, size = found
    data[start + size // 2 : start + size] = os.urandom(size - size // 2)
    archive.write_bytes(data)


def spoil_version(archive: Path) -> None:
    first = parse_zip(archive.read_bytes()).members[0].name.decode()
    edit_header(archive, first, version=2)


def spoil_job(archive: Path) -> None:
    data = archive.read_bytes()
    at = data.rindex(b"\7\0example")
    archive.write_bytes(data[:at] + b"\7\0another" + data[at + 9 :])


def spoil_overlap(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    found = find_catalogue(bytes(data[-98:]))
    assert found is not None
    start, size = found
    headers = list(read_headers(bytes(data[start : start + size])))
    struct.pack_into("<L", data, start + headers[2].start + 42, 0)
    archive.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_nothing_of_ours, "not one that"),
        (spoil_cut_off, "not one that Storelet has made"),
        (spoil_emptied, "not one that Storelet has made"),
        (spoil_noise, "not one that Storelet has made"),
        (spoil_headers, "damaged|not whole"),
        (spoil_version, "not one that this Storelet understands"),
        (spoil_job, "not one that this Storelet understands"),
        (spoil_overlap, "damaged"),
    ],
)
def test_an_archive_before_that_is_none_makes_the_next_a_full_one(
    nights: Nights, tree: Path, kept: Path, spoil: Any, reason: str
) -> None:
    nights.back_up(storelet.Directory(kept))
    whole = nights.read
    spoil(archives(kept)[-1])
    nights.back_up(storelet.Directory(kept))
    assert nights.read == whole
    (said,) = nights.reasons
    assert re.search(reason, said), said
    assert contents(last(kept)) == contents_of(tree)
    nights.back_up(storelet.Directory(kept))
    assert (nights.read, nights.reasons) == (set(), [])


def test_nothing_is_copied_from_a_bad_archive_nor_from_older_ones_and_then_it_goes_on(
    nights: Nights, tree: Path, kept: Path
) -> None:
    destination = storelet.Directory(kept)
    nights.back_up(destination)
    whole = nights.read
    nights.back_up(destination)
    assert nights.read == set()
    older, bad = destination.list_archives("example")
    destination.mark_bad(bad, "CRC is wrong")
    nights.back_up(destination)
    assert (nights.read, nights.reused) == (whole, 0)
    assert nights.reasons == [f"{bad.name} is marked as bad, and older archives may be too"]
    assert contents(last(kept)) == contents_of(tree)
    nights.back_up(destination)
    assert (nights.read, nights.reasons) == (set(), [])
    destination.mark_bad(older, "because")  # a newer one is good
    nights.back_up(destination)
    assert (nights.read, nights.reasons) == (set(), [])


def test_members_of_another_version_are_read_and_the_others_are_not(
    nights: Nights, tree: Path, kept: Path
) -> None:
    """It has neighbours before and behind it that are copied."""
    nights.back_up(storelet.Directory(kept))
    edit_header(archives(kept)[-1], "hello.txt", version=2)
    nights.back_up(storelet.Directory(kept))
    assert nights.read == {"hello.txt"}
    assert contents(last(kept)) == contents_of(tree)


@pytest.mark.parametrize("flags", [4, 8, 12])
def test_flags_that_are_wrong_in_what_becomes_the_first_member_end_no_backup(
    nights: Nights, tree: Path, kept: Path, flags: int
) -> None:
    nights.back_up(storelet.Directory(kept))
    first, second = parse_zip(archives(kept)[-1].read_bytes()).members[:2]
    assert (first.name, second.name) == (b"empty/", b"gr\xc3\xb6\xc3\x9fe \xe2\x9c\x93/")
    edit_header(archives(kept)[-1], second.name.decode(), flags=flags)
    (tree / "empty").rmdir()
    nights.back_up(storelet.Directory(kept))
    assert contents(last(kept)) == contents_of(tree)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_damage_in_the_catalogue_before_ends_no_backup_and_loses_no_member(
    damage: list[tuple[float, int]],
) -> None:
    """What it copies may be damaged then, as long as that is not looked at or read anew."""
    with tempfile.TemporaryDirectory() as top:
        tree = Tree(Path(top, "tree"))
        for name in ("a", "b", "d/c", "d/e/f", "d/e/g"):
            tree.apply(("write", name, 50))
        Path(top, "kept").mkdir()
        for night in range(2):
            if night:
                archive = archives(Path(top, "kept"))[-1]
                data = bytearray(archive.read_bytes())
                start = len(data) - 22 - struct.unpack("<L", data[-10:-6])[0]
                for where, value in damage:
                    data[start + int(where * (len(data) - start - 1))] = value
                archive.write_bytes(data)
            destination = storelet.Directory(Path(top, "kept"))
            with storelet.ZipBackup(
                "example", destination=destination, change_detection=LOOSE
            ) as backup:
                backup.include_directory(tree.path)
        with zipfile.ZipFile(archives(Path(top, "kept"))[-1]) as opened:
            assert sorted(opened.namelist()) == sorted(contents_of(tree.path))


def test_bytes_that_rotted_in_the_archive_before_are_seen_where_they_are_looked_at(
    nights: Nights, tree: Path, kept: Path
) -> None:
    nights.back_up(storelet.Directory(kept))
    archive = archives(kept)[-1]
    data = bytearray(archive.read_bytes())
    data[:4] = b"rots"  # the first local header
    archive.write_bytes(data)
    nights.back_up(storelet.Directory(kept))
    assert "is not what was copied" in nights.reasons[0]
    assert contents(last(kept)) == contents_of(tree)
    assert len(archives(kept)) == 2, "what was put together from it is gone"


class Snatched(storelet.Directory):
    """A directory whose newest archive is gone, or another one, when copying begins."""

    def __init__(self, path: Path, *, replaced: bool) -> None:
        super().__init__(path)
        self.replaced = replaced

    def open_upload(self, name: str, metadata: Mapping[str, str], size: int = 0) -> Upload:
        upload = super().open_upload(name, metadata, size)
        for archive in archives(Path(self.path)):
            data = archive.read_bytes()
            archive.unlink()
            if self.replaced:
                archive.write_bytes(data[::-1])
        return upload


@pytest.mark.parametrize("replaced", [False, True])
def test_an_archive_that_is_pruned_or_replaced_before_it_is_copied_is_read_anew(
    nights: Nights, tree: Path, kept: Path, replaced: bool
) -> None:
    nights.back_up(storelet.Directory(kept))
    whole = nights.read
    nights.back_up(Snatched(kept, replaced=replaced))
    assert nights.read == whole
    (reason,) = nights.reasons
    assert "no such directory" not in reason
    assert nights.reused == nights.saved.bytes_reused == 0
    assert contents(last(kept)) == contents_of(tree)


class Pruned(storelet.Directory):
    """A directory from which somebody prunes all archives when they have just been listed."""

    def list_archives(self, backup: str | None) -> list[Stored]:
        listed = super().list_archives(backup)
        for archive in listed:
            self.delete_archives([archive])
        return listed


def test_an_archive_that_is_pruned_before_it_is_read_is_nothing_to_fail_for(
    nights: Nights, tree: Path, kept: Path
) -> None:
    nights.back_up(storelet.Directory(kept))
    nights.back_up(Pruned(kept))
    assert len(nights.reasons) == 1
    assert contents(last(kept)) == contents_of(tree)


def test_an_archive_that_is_pruned_while_the_next_is_made_may_be(
    nights: Nights, tree: Path, kept: Path
) -> None:
    nights.back_up(storelet.Directory(kept))
    before = archives(kept)[0]
    (tree / "new").write_text("new")

    def prune(event: storelet.Event) -> None:
        nights.events.append(event)
        if isinstance(event, storelet.Added):
            before.unlink()

    with (
        nights.next(),
        storelet.observe(prune),
        storelet.ZipBackup("example", destination=storelet.Directory(kept)) as backup,
    ):
        backup.include_directory(tree)
    assert (nights.read, nights.reasons) == ({"new"}, [])
    assert [contents(parse_zip(each.read_bytes())) for each in archives(kept)] == [
        contents_of(tree)
    ]


# Several destinations ---------------------------------------------------------------------------


def test_each_destination_copies_from_its_own_archive_and_each_file_is_read_once(
    nights: Nights, tree: Path, tmp_path: Path, bucket: Bucket
) -> None:
    paths = [tmp_path / name for name in ("one", "two", "three")]
    for path in paths:
        path.mkdir()
    one, two, three = (storelet.Directory(path) for path in paths)
    s3 = storelet.S3(bucket.name, "key", "secret")
    nights.back_up(one)
    (tree / "hello.txt").write_text("second night")
    nights.back_up(two)
    (tree / "sub" / "script.sh").write_text("third night")
    nights.back_up(one, two, three, s3)
    added = [event.member for event in nights.of(storelet.Added)]
    assert len(added) == len(set(added)), "each is read once"
    assert set(added) == {n for n in contents_of(tree) if not n.endswith("/")}
    assert nights.reused == 0, "the third destination had nothing"
    reused = {event.destination: event.bytes_reused for event in nights.of(storelet.Saved)}
    assert reused[str(two)] > reused[str(one)] > 0
    assert reused[str(three)] == reused[str(s3)] == 0
    (key,) = bucket.keys()
    for archive in (*(archives(path)[-1].read_bytes() for path in paths), bucket.read(key)):
        assert contents(parse_zip(archive)) == contents_of(tree)
    nights.back_up(one, two, three)
    assert nights.read == set()
    for path in paths:
        assert contents(last(path)) == contents_of(tree)


def test_a_destination_that_fails_keeps_no_other_from_reusing(
    nights: Nights, tree: Path, kept: Path, tmp_path: Path
) -> None:
    nights.back_up(storelet.Directory(kept))
    with pytest.raises(storelet.DestinationMissingError):
        nights.back_up(storelet.Directory(tmp_path / "missing"), storelet.Directory(kept))
    assert nights.read == set()
    assert nights.reused > 0
    assert contents(last(kept)) == contents_of(tree)


# Other backups of the same place ----------------------------------------------------------------


def test_archives_of_other_names_are_never_copied_from(
    nights: Nights, tree: Path, kept: Path
) -> None:
    nights.back_up(storelet.Directory(kept), name="example")
    for name in ("exampl", "example_20230101000000.zip", "example_", "xexample", "example.*"):
        nights.back_up(storelet.Directory(kept), name=name)
        assert [event.is_first for event in nights.of(storelet.NotReused)] == [True], name
        assert nights.reused == 0
    nights.back_up(storelet.Directory(kept), name="example")
    assert nights.read == set()


# Saved from a temporary file --------------------------------------------------------------------


@pytest.fixture
def large(tree: Path) -> Path:
    """Make enough that S3 can copy it: 6 MiB in the middle, 6 in one file."""
    for number in range(20):
        (tree / f"n-{number:02}").write_bytes(os.urandom(320_000))
    (tree / "z").write_bytes(os.urandom(6 * MIB))
    return tree


def s3_contents(bucket: Bucket) -> dict[str, bytes]:
    return contents(parse_zip(bucket.read(bucket.keys()[-1])))


@pytest.mark.parametrize("which", ["bucket", "s3_server"])
def test_a_spooled_archive_is_not_sent_where_it_is_already(
    nights: Nights, large: Path, which: str, request: pytest.FixtureRequest
) -> None:
    bucket: Bucket = request.getfixturevalue(which)
    nights.spool(bucket)
    first = nights.saved
    assert first.bytes_sent >= first.bytes > 12 * MIB
    whole = nights.read
    (large / "hello.txt").write_text("changed")
    nights.spool(bucket)
    assert nights.read == whole, "a spooled backup reads everything"
    assert nights.saved.bytes_reused > 12 * MIB
    assert nights.saved.bytes_sent < MIB
    assert nights.saved.requests > 0
    assert s3_contents(bucket) == contents_of(large)
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)


def test_a_spooled_archive_copies_what_is_the_same_by_content_not_by_inode(
    nights: Nights, large: Path, bucket: Bucket
) -> None:
    nights.spool(bucket)
    shutil.copytree(large, large.with_name("copy"), symlinks=True)  # with its times
    shutil.rmtree(large)
    large.with_name("copy").rename(large)
    (large / "n-03").write_bytes(os.urandom(320_000))
    nights.spool(bucket)
    assert 6 * MIB < nights.saved.bytes_reused < 13 * MIB
    assert nights.saved.bytes_sent < 7 * MIB
    assert s3_contents(bucket) == contents_of(large)


def test_a_change_that_only_the_content_tells_is_seen(
    nights: Nights, large: Path, bucket: Bucket
) -> None:
    nights.spool(bucket)
    found = (large / "z").stat()
    (large / "z").write_bytes(os.urandom(6 * MIB))
    os.utime(large / "z", ns=(found.st_atime_ns, found.st_mtime_ns))
    nights.spool(bucket)
    assert s3_contents(bucket) == contents_of(large)


def test_what_is_saved_without_reuse_is_sent_whole(
    nights: Nights, large: Path, bucket: Bucket
) -> None:
    nights.spool(bucket)
    nights.spool(bucket, reuse=False)
    assert nights.saved.bytes_reused == 0
    assert nights.saved.bytes_sent >= nights.saved.bytes
    assert s3_contents(bucket) == contents_of(large)


def test_a_spooled_archive_goes_to_several_places_and_on(
    nights: Nights, large: Path, bucket: Bucket, kept: Path
) -> None:
    nights.spool(bucket, directory=kept)
    nights.spool(bucket, bucket, directory=kept)
    reused = [event.bytes_reused for event in nights.of(storelet.Saved)]
    assert len(reused) == 3
    assert min(reused) > 12 * MIB
    stored = [bucket.read(key) for key in bucket.keys()]  # noqa: SIM118 - no mapping
    for archive in (*stored, archives(kept)[-1].read_bytes()):
        assert contents(parse_zip(archive)) == contents_of(large)


def test_what_was_streamed_can_be_spooled_from_and_the_other_way_round(
    nights: Nights, large: Path, bucket: Bucket
) -> None:
    s3 = storelet.S3(bucket.name, "key", "secret")
    nights.back_up(s3)
    nights.spool(bucket)
    assert nights.saved.bytes_sent < MIB
    nights.back_up(s3)
    assert nights.read == set() or nights.saved.bytes_sent < MIB
    assert s3_contents(bucket) == contents_of(large)


def are_linked(archive: ParsedZip, *names: str) -> bool:
    """Tell whether members are links to one file, as far as an archive knows."""
    links = [archive[name].private for name in names]
    return len({(e.link_group, e.inode, e.ctime_ns) for e in links}) == 1 and all(
        each.link_group for each in links
    )


def test_hard_links_stay_together_when_one_is_copied_and_the_other_sent(
    nights: Nights, large: Path, bucket: Bucket
) -> None:
    """A link that is added changes the ctime of all, and the content of none."""
    nights.spool(bucket)
    for names in (("z", "zz"), ("z", "zz", "zzz")):
        os.link(large / "z", large / names[-1])
        nights.spool(bucket)
        archive = parse_zip(bucket.read(bucket.keys()[-1]))
        assert are_linked(archive, *names), names
        assert contents(archive) == contents_of(large)


def test_hard_links_stay_together_where_the_ctime_is_not_trusted(
    nights: Nights, tree: Path, kept: Path
) -> None:
    (tree / "one").write_text("shared")
    names = ["one"]
    nights.back_up(storelet.Directory(kept), change_detection=LOOSE)
    for name in ("other", "third"):
        os.link(tree / "one", tree / name)
        names.append(name)
        nights.back_up(storelet.Directory(kept), change_detection=LOOSE)
        assert are_linked(last(kept), *names), names


# Streamed to S3 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["bucket", "s3_server"])
def test_nights_in_s3(
    nights: Nights, large: Path, which: str, request: pytest.FixtureRequest
) -> None:
    bucket: Bucket = request.getfixturevalue(which)
    s3 = storelet.S3(
        bucket.name, bucket.access_key, bucket.secret_key, endpoint_url=bucket.endpoint
    )
    nights.back_up(s3)
    whole = nights.read
    nights.back_up(s3)
    assert nights.read == set()
    assert nights.saved.bytes_sent < MIB
    assert nights.saved.requests < 30
    for change in range(3):
        (large / f"n-{change:02}").write_bytes(os.urandom(320_000))
        (large / f"n-{10 + change}").unlink()
        nights.back_up(s3)
        assert "z" not in nights.read
        assert nights.read < whole
        assert nights.saved.bytes_reused > 6 * MIB
        assert s3_contents(bucket) == contents_of(large)
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)


def test_what_is_too_small_to_copy_is_not_even_looked_for(
    nights: Nights, tree: Path, bucket: Bucket
) -> None:
    s3 = storelet.S3(bucket.name, "key", "secret")
    nights.back_up(s3)
    nights.back_up(s3)
    assert nights.of(storelet.NotReused) == []
    assert nights.saved.bytes_reused == 0
    assert s3_contents(bucket) == contents_of(tree)

"""The archive writer: entries in, a zip out to any sink, whatever the files do meanwhile."""

from __future__ import annotations

import io
import mmap
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storelet.archive import Piece, write_members
from storelet.entry import Entry
from storelet.layout import Layout, Sink
from storelet.observer import Added, Event, Moved, Skipped, Truncated, observe
from storelet.plan import WHOLE_BYTES, Plan
from storelet.source import Source, walk
from storelet.zipformat import CHANGED, DEFLATED, STORED, TRUNCATED, ArchiveRecord
from tests.zipparser import ParsedMember, ParsedZip, parse_zip

RECORD = ArchiveRecord(job="example", host="here", started_ns=1_366_561_800_000_000_000)


def entry_of(path: Path, name: str | None = None) -> Entry:
    return Entry.of(str(path), path.name if name is None else name, path.lstat())


class Writer:
    """One archive: entries are planned, then read and written to a sink."""

    def __init__(self, sink: Sink) -> None:
        self.layout = Layout(sink, RECORD)
        self._plan = Plan()

    def add(self, *entries: Entry) -> list[Event]:
        """Plan entries and write what is new; return what was reported."""
        planned = [shelf.count for shelf in self._plan.shelves]
        events: list[Event] = [
            skipped for entry in entries if (skipped := self._plan.add(entry)) is not None
        ]
        with observe(events.append):
            for shelf, first in zip(self._plan.shelves, planned, strict=True):
                pieces = (Piece(batch, [self.layout]) for batch in shelf.batches(first))
                write_members(pieces, "fast")
        return [each for each in events if not isinstance(each, Moved)]

    def catalogue(self) -> bytes:
        """Return what completes the archive."""
        return b"".join(self.layout.catalogue())


def write(*entries: Entry) -> tuple[ParsedZip, list[Event]]:
    """Write an archive of the entries; return it parsed, with what was reported."""
    return write_to(io.BytesIO(), *entries)


def write_to(sink: io.BytesIO, *entries: Entry) -> tuple[ParsedZip, list[Event]]:
    writer = Writer(sink)
    events = writer.add(*entries)
    sink.write(writer.catalogue())
    return parse_zip(sink.getvalue()), events


def write_tree(path: Path) -> tuple[ParsedZip, list[Event]]:
    return write(*found_in(path))


def found_in(path: Path) -> list[Entry]:
    return [found for found in walk(Source(path=str(path))) if isinstance(found, Entry)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Make a file larger than what is read whole, half of it compressible."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(WHOLE_BYTES) + bytes(WHOLE_BYTES))
    return path


# What is written --------------------------------------------------------------------------------


def test_a_tree_is_in_the_archive_byte_for_byte(tree: Path) -> None:
    parsed, events = write_tree(tree)
    found = found_in(tree)
    assert parsed.names == [
        *(entry.name for entry in found if entry.is_directory),
        *(entry.name for entry in found if not entry.is_directory),
    ]
    for name, data in parsed.contents().items():
        path = tree / name
        assert data == (os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes())
    added = [event for event in events if isinstance(event, Added)]
    assert added == events
    assert [event.member for event in added] == list(parsed.contents())


def test_a_report_tells_bytes_read_and_bytes_stored(tree: Path, file: Path) -> None:
    parsed, events = write(entry_of(tree / "hello.txt"), entry_of(file), entry_of(tree / "link"))
    for event, member in zip(events, parsed.members, strict=True):
        assert isinstance(event, Added)
        assert event.bytes_stored == member.stored_size
        assert event.bytes_read == (
            0 if member.mode & stat.S_IFLNK == stat.S_IFLNK else member.size
        )


def test_the_stat_of_every_entry_is_kept(tree: Path) -> None:
    before = int(os.stat(tree).st_atime)
    parsed, _ = write_tree(tree)
    for member in parsed.members:
        said = (tree / member.name.decode()).lstat()
        assert member.mode == said.st_mode
        assert member.mtime == int(said.st_mtime)
        assert member.owner == (said.st_uid, said.st_gid)
        private = member.private
        assert (private.mtime_ns, private.ctime_ns) == (said.st_mtime_ns, said.st_ctime_ns)
        assert (private.inode, private.source_size) == (said.st_ino, said.st_size)
        assert private.read_at >= before
        assert (private.flags, private.link_group, private.raw_name) == (0, 0, None)


def test_setuid_setgid_and_sticky_bits_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o7751)
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    parsed, _ = write_tree(tmp_path)
    assert parsed["file"].mode == stat.S_IFREG | 0o7751
    assert parsed["sticky/"].mode == stat.S_IFDIR | 0o1777


@pytest.mark.parametrize("mtime", [-1_000_000_000, 0, 315_532_799, 4_354_819_200, 9_000_000_000])
def test_times_of_any_year_are_kept(tmp_path: Path, mtime: int) -> None:
    path = tmp_path / "file"
    path.touch()
    os.utime(path, (mtime, mtime))
    if int(path.stat().st_mtime) != mtime:
        pytest.skip("this file system has no such year")
    parsed, _ = write(entry_of(path))
    assert parsed["file"].private.mtime_ns == mtime * 1_000_000_000


def test_a_file_of_a_year_past_2262_does_not_end_the_backup(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("from the future")
    os.utime(path, (15_000_000_000, 15_000_000_000))  # 2445
    if path.stat().st_mtime < 15_000_000_000:
        pytest.skip("this file system has no such year")
    parsed, _ = write(entry_of(path))
    assert parsed.contents() == {"file": b"from the future"}


def test_small_files_have_exact_sizes_and_are_stored_where_deflate_does_not_shrink_them(
    tmp_path: Path,
) -> None:
    contents = {"empty": b"", "one": b"x", "random": os.urandom(1000), "text": b"text" * 1000}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    parsed, _ = write_tree(tmp_path)
    assert parsed.contents() == contents
    assert not any(member.is_streamed for member in parsed.members)
    methods = {member.name.decode(): member.method for member in parsed.members}
    assert methods == {"empty": STORED, "one": STORED, "random": STORED, "text": DEFLATED}


@pytest.mark.parametrize(
    ("size", "is_streamed"),
    [(WHOLE_BYTES, False), (WHOLE_BYTES + 1, True), (WHOLE_BYTES * 3, True)],
)
def test_large_files_are_streamed_and_always_deflated(
    tmp_path: Path, size: int, is_streamed: bool
) -> None:
    (tmp_path / "file").write_bytes(data := os.urandom(size))
    member = write_tree(tmp_path)[0]["file"]
    assert member.data == data
    assert (member.is_streamed, member.method) == (
        is_streamed,
        DEFLATED if is_streamed else STORED,
    )
    assert member.stored_size <= size + size // 1000


def test_a_sparse_file_is_kept_as_its_bytes(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as sparse:
        sparse.seek(32 << 20)
        sparse.write(b"end")
    member = write_tree(tmp_path)[0]["file"]
    assert member.size == (32 << 20) + 3
    assert member.stored_size < 100_000
    assert member.data[-5:] == b"\0\0end"


@pytest.mark.parametrize("size", [0, 10, WHOLE_BYTES + 10])
def test_a_file_of_proc_is_kept_as_it_was_read(size: int) -> None:
    path = Path("/proc/self/limits")
    if not path.exists():
        pytest.skip("there is no /proc")
    entry = entry_of(path)._replace(size=size)  # whatever the walk believed
    parsed, events = write(entry)
    assert parsed["limits"].data == path.read_bytes()
    assert isinstance(events[0], Added)
    assert events[0].changed


# Names ------------------------------------------------------------------------------------------


def test_a_taken_name_is_skipped_and_says_which_file_has_it(tree: Path) -> None:
    first, second = entry_of(tree / "hello.txt"), entry_of(tree / "secret", "hello.txt")
    parsed, events = write(first, second)
    assert parsed.contents() == {"hello.txt": (tree / "hello.txt").read_bytes()}
    assert events[0] == Skipped(
        path=str(tree / "secret"),
        reason=f"hello.txt is taken by {tree}/hello.txt; give another name=",
    )


def test_directories_of_one_name_merge_and_the_first_ones_mode_counts(tree: Path) -> None:
    parsed, events = write(
        entry_of(tree / "sub", "same/"),
        entry_of(tree / "hello.txt", "same/a"),
        entry_of(tree / "sub" / "deeper", "same/"),
        entry_of(tree / "secret", "same/b"),
    )
    assert parsed.names == ["same/", "same/a", "same/b"]
    assert parsed["same/"].mode == (tree / "sub").stat().st_mode
    assert not any(isinstance(event, Skipped) for event in events)


def test_no_files_name_is_a_directorys(tree: Path) -> None:
    file, directory = tree / "hello.txt", tree / "sub"
    for first, second in (
        (entry_of(file, "x"), entry_of(directory, "x/")),
        (entry_of(directory, "x/"), entry_of(file, "x")),
        (entry_of(file, "x"), entry_of(tree / "secret", "x/y/z")),
        (entry_of(tree / "secret", "x/y/z"), entry_of(file, "x")),
        (entry_of(tree / "secret", "x/y/z"), entry_of(file, "x/y")),
        (entry_of(file, "x/y"), entry_of(tree / "link", "x/y")),
        (entry_of(tree / "link", "x"), entry_of(file, "x/y")),
    ):
        parsed, events = write(first, second)
        assert parsed.names == [first.name]
        (skipped,) = [event for event in events if isinstance(event, Skipped)]
        assert skipped.path == second.path
        assert "give another name=" in skipped.reason


def test_a_name_stays_taken_where_its_file_could_not_be_read(tree: Path) -> None:
    gone = entry_of(tree / "secret")._replace(path=str(tree / "gone"))
    parsed, events = write(gone, entry_of(tree / "secret"))
    assert events == [
        Skipped(
            path=str(tree / "secret"),
            reason=f"secret is taken by {tree}/gone; give another name=",
        ),
        Skipped(path=str(tree / "gone"), reason="it vanished"),
    ]
    assert parsed.names == []


def test_two_names_that_readers_see_as_one_are_not_both_members(tmp_path: Path) -> None:
    contents = {b"%FF": b"by name", b"\xff": b"by byte", b"\xfe": b"another"}
    for name, data in contents.items():
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(data)
    parsed, events = write_tree(tmp_path)
    assert parsed.contents() == {"%FF": b"by name", "%FE": b"another"}
    (skipped,) = [event for event in events if isinstance(event, Skipped)]
    assert os.fsencode(skipped.path).endswith(b"/\xff")
    assert f"%FF is taken by {tmp_path}/%FF" in skipped.reason


def test_directories_that_readers_see_as_one_merge(tmp_path: Path) -> None:
    for name in (b"%FF", b"\xff"):
        directory = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        directory.mkdir()
        (directory / name.hex()).touch()
    parsed, _ = write_tree(tmp_path)
    assert sorted(parsed.names) == ["%FF/", "%FF/254646", "%FF/ff"]


def test_a_name_of_4096_bytes_is_kept(tree: Path) -> None:
    for name in ("n" * 4096, "ü" * 2048, "/".join(["d" * 255] * 16)):
        parsed, _ = write(entry_of(tree / "secret", name))
        assert parsed.contents() == {name: b"for my eyes\n"}


@pytest.mark.parametrize(
    "name", ["n" * 0x7000, "n/" * 0x3800, "\udcff" * 0x2556, "d" * 0x7000 + "/"]
)
def test_a_name_too_long_for_a_zip_is_skipped(tree: Path, name: str) -> None:
    parsed, events = write(entry_of(tree / "secret", name + "/x"), entry_of(tree / "secret"))
    assert isinstance(events[0], Skipped)
    assert "too long" in events[0].reason
    assert parsed.names == ["secret"]
    longest = name.rstrip("/")[1:] or "x"
    assert len(write(entry_of(tree / "secret", longest))[0].members) == 1


# Links ------------------------------------------------------------------------------------------


def link_group(member: ParsedMember) -> tuple[int, int, int] | None:
    """Return what hard links to one file share; None of what has no other link."""
    private = member.private
    return (private.link_group, private.inode, private.ctime_ns) if private.link_group else None


def test_hard_links_share_a_link_group_and_others_have_none(tmp_path: Path) -> None:
    for name in ("a", "b", "single"):
        (tmp_path / name).write_text(name)
    for link, name in (("a2", "a"), ("a3", "a"), ("b2", "b")):
        os.link(tmp_path / name, tmp_path / link)
    (tmp_path / "directory").mkdir()  # its own links are no hard links
    (tmp_path / "directory" / "sub").mkdir()
    parsed, _ = write_tree(tmp_path)
    groups = {m.name.decode(): link_group(m) for m in parsed.members}
    assert groups["a"] == groups["a2"] == groups["a3"] is not None
    assert groups["b"] == groups["b2"] is not None
    assert groups["a"] != groups["b"]
    assert {groups[name] for name in ("single", "directory/", "directory/sub/")} == {None}
    assert parsed["a3"].data == b"a"


def test_an_inode_that_is_used_again_joins_no_earlier_group(tmp_path: Path) -> None:
    entries = []
    sink = io.BytesIO()
    writer = Writer(sink)
    for round_ in ("first", "second"):
        path = tmp_path / round_
        path.write_text(round_)
        os.link(path, tmp_path / "other")
        entries.append(entry_of(path))
        writer.add(entries[-1], entry_of(tmp_path / "other", f"{round_}-other"))
        path.unlink()
        (tmp_path / "other").unlink()
    sink.write(writer.catalogue())
    parsed = parse_zip(sink.getvalue())
    first, second = (link_group(parsed[round_]) for round_ in ("first", "second"))
    assert None not in (first, second)
    assert first != second, f"inodes {[entry.inode for entry in entries]}"
    assert link_group(parsed["first-other"]) == first
    assert link_group(parsed["second-other"]) == second


# Files that change ------------------------------------------------------------------------------


class MeddlingSink(io.BytesIO):
    """Does something to the source once `after` bytes have come in."""

    def __init__(self, after: int, meddle: Callable[[], object]) -> None:
        super().__init__()
        self._after = after
        self._meddle: Callable[[], object] | None = meddle

    def write(self, data: object, /) -> int:
        if self._meddle and self.tell() >= self._after:
            meddle, self._meddle = self._meddle, None
            meddle()
        return super().write(data)  # type: ignore[arg-type]


def write_meddling(entry: Entry, meddle: Callable[[], object]) -> tuple[ParsedZip, list[Event]]:
    return write_to(MeddlingSink(0, meddle), entry)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more" * 1000)


def overwrite_end(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"overwrites")


@pytest.mark.parametrize(
    "meddle",
    [
        append,
        overwrite_end,
        lambda path: os.truncate(path, WHOLE_BYTES * 3 // 2),
        lambda path: os.truncate(path, 0),
        lambda path: os.truncate(path, 1 << 40),
    ],
)
def test_a_large_file_that_changes_while_it_is_read_is_kept_as_read_and_flagged(
    file: Path, meddle: Callable[[Path], object]
) -> None:
    before = file.read_bytes()
    parsed, events = write_meddling(entry_of(file), lambda: meddle(file))
    member = parsed["file"]
    assert member.data[:WHOLE_BYTES] == before[:WHOLE_BYTES]
    assert member.size <= len(before)
    assert member.private.flags == CHANGED
    (event,) = events
    assert isinstance(event, Added)
    assert event.changed
    assert event.bytes_read == member.size


def test_a_file_replaced_or_removed_while_it_is_read_is_kept_as_it_was_opened(file: Path) -> None:
    before = file.read_bytes()

    def replace_file() -> None:
        file.unlink()
        file.write_bytes(b"another")

    parsed, _ = write_meddling(entry_of(file), replace_file)
    assert parsed["file"].data == before


def test_a_file_that_became_a_link_is_skipped_and_the_link_not_followed(file: Path) -> None:
    entry = entry_of(file)
    file.unlink()
    file.symlink_to("/etc/passwd")
    parsed, events = write(entry)
    assert parsed.members == []
    assert events == [Skipped(path=str(file), reason="it is a symbolic link now")]


def test_a_link_that_became_a_file_is_skipped(tree: Path) -> None:
    entry = entry_of(tree / "link")
    (tree / "link").unlink()
    (tree / "link").write_text("a file now")
    parsed, events = write(entry)
    assert parsed.members == []
    assert isinstance(events[0], Skipped)


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Mount a small disk; give its path, and what makes its second half give read errors."""
    if os.geteuid() != 0:
        pytest.skip("a failing disk needs root, to mount one")
    image, mounted = tmp_path / "disk", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as disk:
        disk.truncate(64 << 20)
    for command in (["mkfs.ext4", "-qF", image], ["mount", "-o", "loop", image, mounted]):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a failing disk cannot be made here: {error}")

    def fail() -> None:
        subprocess.run(["umount", mounted], check=True)
        subprocess.run(["mount", "-o", "loop,ro", image, mounted], check=True)
        os.truncate(image, 20 << 20)

    try:
        yield mounted, fail
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_disk_that_breaks_a_file_off_is_reported_and_the_archive_is_sound(
    failing_disk: tuple[Path, Callable[[], None]],
) -> None:
    disk, fail = failing_disk
    data = os.urandom(24 << 20)
    (disk / "large").write_bytes(data)
    (disk / "rest").write_text("still read")
    fail()
    parsed, events = write_tree(disk)
    (member,) = [each for each in parsed.members if each.name == b"large"]
    assert 0 < member.size < len(data)
    assert member.data == data[: member.size]
    assert member.private.flags == TRUNCATED
    reason = f"truncated at {member.size}: Input/output error"
    assert Truncated(path=str(disk / "large"), reason=reason) in events


# The sink ---------------------------------------------------------------------------------------


class FullSink(io.BytesIO):
    """Takes so many bytes, then raises what a full disk raises."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def write(self, data: object, /) -> int:
        if self.tell() + len(data) > self._room:  # type: ignore[arg-type]
            raise OSError("full")
        return super().write(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [0, 10, WHOLE_BYTES])
def test_an_error_of_the_sink_is_never_a_skipped_entry(file: Path, room: int) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="full"):
        Writer(FullSink(room)).add(entry_of(file))
    assert os.listdir("/proc/self/fd") == before


def test_the_catalogue_may_be_asked_for_again_and_more_added_after_it(tree: Path) -> None:
    sink = io.BytesIO()
    writer = Writer(sink)
    assert parse_zip(writer.catalogue()).members == []
    writer.add(entry_of(tree / "hello.txt"))
    first = sink.getvalue() + writer.catalogue()
    assert first == sink.getvalue() + writer.catalogue()
    writer.add(entry_of(tree / "secret"))
    second = sink.getvalue() + writer.catalogue()
    assert parse_zip(first).names == ["hello.txt"]
    assert parse_zip(second).names == ["hello.txt", "secret"]


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_names_come_no_reader_finds_one_twice_or_a_file_above_a_file(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "some-file"
    path.touch()
    folder = path.parent
    parts = st.lists(st.sampled_from(["a", "b", "%FF", "\udcff"]), min_size=1, max_size=3)
    entries = [
        entry_of(folder, "/".join(each) + "/") if is_directory else entry_of(path, "/".join(each))
        for each, is_directory in data.draw(st.lists(st.tuples(parts, st.booleans()), max_size=12))
    ]
    parsed, events = write(*entries)
    assert len(parsed.names) == len(set(parsed.names))
    files = {name for name in parsed.names if not name.endswith("/")}
    for name in parsed.names:
        above = name.rstrip("/").split("/")
        assert not files & {"/".join(above[:depth]) for depth in range(1, len(above))}
        assert name.endswith("/") or name + "/" not in parsed.names
    added = [event for event in events if isinstance(event, Added)]
    skipped = [event for event in events if isinstance(event, Skipped)]
    assert len(added) == len(files)
    directories = sum(entry.is_directory for entry in entries)
    assert len(entries) - directories <= len(added) + len(skipped)


# Zip64 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "is_zip64"), [(0xFFFFFF00, True), (0xFFFF0000, False)])
def test_what_begins_past_4_gib_has_zip64_where_needed(
    tree: Path, tmp_path: Path, start: int, is_zip64: bool
) -> None:
    with (tmp_path / "archive").open("w+b") as sink:
        sink.seek(start)
        writer = Writer(sink)
        writer.layout.skip(start)
        writer.add(*(entry_of(tree / "random.bin", name) for name in ("a", "b", "c", "d")))
        sink.write(writer.catalogue())
        sink.flush()
        with mmap.mmap(sink.fileno(), 0, access=mmap.ACCESS_READ) as data:
            parsed = parse_zip(data, start)
            wide = [0x0001 in member.extra for member in parsed.members]
            assert parsed.has_zip64_end == is_zip64
            assert wide == ([False, True, True, True] if is_zip64 else [False] * 4)
            assert all(m.data == (tree / "random.bin").read_bytes() for m in parsed.members)
            for member in parsed.members:
                member.stored.release()

"""Walking a source and reading its files: what is found, what is passed over, what changes."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from storelet.entry import Entry
from storelet.errors import SourceError, SourceMissingError, UsageError
from storelet.observer import Passed, Skipped
from storelet.source import (
    BLOCK_BYTES,
    OpenedFile,
    Source,
    UnreadableError,
    find_file,
    never_include,
    open_file,
    read_link,
    walk,
)
from tests.scripts import AS_PLAIN_USER, run_script


def walk_all(path: Path, **options: object) -> list[Entry | Skipped | Passed]:
    return list(walk(Source(path=str(path), **options)))


def names(path: Path, **options: object) -> list[str]:
    return [found.name for found in walk_all(path, **options) if isinstance(found, Entry)]


def entry_of(path: Path) -> Entry:
    return Entry.of(str(path), path.name, path.lstat())


# Walking ----------------------------------------------------------------------------------------


def test_a_directory_comes_before_what_is_in_it_and_names_are_in_order(tree: Path) -> None:
    assert names(tree) == [
        "dangling",
        "empty/",
        "größe ✓/",
        "größe ✓/naïve.txt",
        "hello.txt",
        "link",
        "nothing",
        "random.bin",
        "secret",
        "sub/",
        "sub/deeper/",
        "sub/deeper/file",
        "sub/script.sh",
    ]


def test_a_prefix_stands_before_every_name_and_gives_the_root_a_member(tree: Path) -> None:
    found = walk_all(tree / "sub", prefix="a/b/")
    assert [entry.name for entry in found if isinstance(entry, Entry)] == [
        "a/b/",
        "a/b/deeper/",
        "a/b/deeper/file",
        "a/b/script.sh",
    ]
    assert isinstance(found[0], Entry)
    assert found[0].path == str(tree / "sub")


def test_an_entry_says_what_lstat_said(tree: Path) -> None:
    (found,) = [e for e in walk_all(tree) if isinstance(e, Entry) and e.name == "secret"]
    said = (tree / "secret").lstat()
    assert found.path == str(tree / "secret")
    assert (found.mode, found.size) == (stat.S_IFREG | 0o600, said.st_size)
    assert (found.mtime_ns, found.ctime_ns) == (said.st_mtime_ns, said.st_ctime_ns)
    assert (found.device, found.inode, found.links) == (said.st_dev, said.st_ino, 1)
    assert (found.uid, found.gid) == (said.st_uid, said.st_gid)


def test_links_are_entries_and_not_followed(tree: Path) -> None:
    (tree / "up").symlink_to("..")
    links = {e.name: e for e in walk_all(tree) if isinstance(e, Entry) and e.is_symlink}
    assert set(links) == {"dangling", "link", "up"}
    assert read_link(links["dangling"]) == b"nowhere/to/be/found"


def test_a_link_given_as_root_is_followed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(tree)
    assert names(tmp_path / "other") == names(tree)


def test_a_missing_root_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match=f"no such directory: {tmp_path}/missing") as said:
        walk_all(tmp_path / "missing")
    assert isinstance(said.value, FileNotFoundError)
    assert said.value.hint


def test_a_file_as_root_is_an_error_that_hints_at_include_file(tree: Path) -> None:
    with pytest.raises(SourceError, match=r"not a directory: .*/hello\.txt") as said:
        walk_all(tree / "hello.txt")
    assert "include_file" in str(said.value.hint)


def test_fifos_sockets_and_devices_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    expected = {"fifo": "it is a FIFO", "socket": "it is a socket"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        with suppress(PermissionError):  # only root may make devices
            os.mknod(tmp_path / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
            expected["device"] = "it is a character device"
        found = walk_all(tmp_path)
    assert all(isinstance(each, Passed) for each in found)
    assert {Path(each.path).name: each.reason for each in found} == expected


def test_what_vanishes_during_the_walk_is_skipped_and_the_rest_goes_on(tree: Path) -> None:
    walking = walk(Source(path=str(tree)))
    next(walking)
    (tree / "hello.txt").unlink()
    shutil.rmtree(tree / "größe ✓")
    rest = list(walking)
    gone = {tree / "hello.txt", tree / "größe ✓"}
    assert {Path(s.path) for s in rest if isinstance(s, Skipped)} == gone
    assert {s.reason for s in rest if isinstance(s, Skipped)} == {"it vanished"}
    assert isinstance(rest[-1], Entry)
    assert rest[-1].name == "sub/script.sh"


def test_a_directory_that_vanishes_or_may_not_be_read_is_skipped_with_the_reason() -> None:
    done = run_script(
        AS_PLAIN_USER
        + """
from storelet.source import Source, walk
with tempfile.TemporaryDirectory() as top:
    for name in ("a", "b", "c"):
        os.mkdir(f"{top}/{name}")
        open(f"{top}/{name}/file", "w").close()
    os.chmod(f"{top}/b", 0)
    for found in walk(Source(path=top)):
        print(type(found).__name__, found.path.removeprefix(top), getattr(found, "reason", ""))
    os.chmod(f"{top}/b", 0o700)
"""
    )
    assert done.stdout.splitlines() == [
        "Entry /a ",
        "Entry /a/file ",
        "Entry /b ",
        "Skipped /b Permission denied",
        "Entry /c ",
        "Entry /c/file ",
    ]


def test_a_root_that_may_not_be_read_is_an_error_that_says_why() -> None:
    done = run_script(
        AS_PLAIN_USER
        + """
from storelet.source import Source, walk
with tempfile.TemporaryDirectory() as top:
    os.mkdir(f"{top}/locked", 0)
    try:
        next(walk(Source(path=f"{top}/locked")))
    except storelet.SourceError as error:
        print(str(error).replace(top, ""))
"""
    )
    assert done.stdout == "cannot read directory /locked: Permission denied\n"


def test_a_tree_deeper_than_pythons_stack_is_walked(tmp_path: Path) -> None:
    deep = str(tmp_path / "top")
    for _ in range(1_500):
        os.mkdir(deep)
        deep += "/d"
    found = names(tmp_path)
    subprocess.run(["rm", "-r", tmp_path / "top"], check=True)  # shutil's own stack ends too
    assert len(found) == 1_500


def test_a_tree_deeper_than_a_path_may_be_is_skipped_where_it_gets_too_deep(
    tmp_path: Path,
) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=descriptor)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    try:
        found = walk_all(tmp_path)
    finally:
        shutil.rmtree(tmp_path)
    assert isinstance(found[-1], Skipped)
    assert found[-1].reason == "File name too long"
    assert sum(isinstance(each, Entry) for each in found) >= 15


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.txt"], {"a.log", "sub/", "sub/b.log", "sub/cache/", "sub/cache/c.log"}),
        (["cache/"], {"a.log", "a.txt", "sub/", "sub/b.log", "sub/b.txt"}),
        (["/a.*", "sub"], set()),
        (["*.log", "!a.log"], {"a.log", "a.txt", "sub/", "sub/b.txt", "sub/cache/"}),
        (
            ["/sub/*", "!/sub/b.log"],
            {"a.log", "a.txt", "sub/", "sub/b.log"},
        ),
        (["a.log/", "# comment", ""], None),
    ],
)
@pytest.mark.parametrize("prefix", ["", "under/"])
def test_excluded_is_what_gitignore_would_ignore(
    tmp_path: Path, patterns: list[str], left: set[str] | None, prefix: str
) -> None:
    (tmp_path / "sub" / "cache").mkdir(parents=True)
    for name in ("a.txt", "a.log", "sub/b.txt", "sub/b.log", "sub/cache/c.log"):
        (tmp_path / name).touch()
    everything = set(names(tmp_path, prefix=prefix))
    found = names(tmp_path, prefix=prefix, exclude=tuple(patterns))
    root = {prefix} - {""}
    assert set(found) == (everything if left is None else root | {prefix + name for name in left})


def test_an_excluded_directory_is_not_entered(tmp_path: Path) -> None:
    descend = tmp_path / "excluded"
    descend.mkdir()
    os.mkfifo(descend / "fifo")
    assert walk_all(tmp_path, exclude=("excluded/",)) == []


def test_a_pattern_that_is_none_is_a_clear_error(tree: Path) -> None:
    with pytest.raises(UsageError, match="exclude pattern not understood"):
        walk_all(tree, exclude=("!",))


@pytest.mark.parametrize("is_signed", [True, False])
def test_a_cache_stays_out_where_its_tag_is_signed(tmp_path: Path, is_signed: bool) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "thing").touch()
    signature = b"Signature: 8a477f597d28d172789f06886806bc55"
    (cache / "CACHEDIR.TAG").write_bytes(signature + b"\n" if is_signed else b"no")
    everything = ["cache/", "cache/CACHEDIR.TAG", "cache/thing"]
    assert names(tmp_path) == everything
    assert names(tmp_path, exclude_caches=True) == (["cache/"] if is_signed else everything)


def test_a_cache_tag_that_is_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "CACHEDIR.TAG")
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "sub" / "CACHEDIR.TAG")
    assert names(tmp_path, exclude_caches=True) == ["sub/"]


def test_a_directory_with_a_named_file_stays_empty(tree: Path) -> None:
    (tree / "sub" / ".nobackup").touch()
    found = names(tree, exclude_if_present=(".nobackup",))
    assert "sub/" in found
    assert not any(name.startswith("sub/") and name != "sub/" for name in found)


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="/dev/shm is not mounted")
def test_other_file_systems_stay_out_where_one_is_asked_for() -> None:
    with open(f"/dev/shm/storelet-test-{os.getpid()}", "w") as file:
        try:
            inside = file.name.removeprefix("/dev/")
            assert inside in names(Path("/dev"))
            found = names(Path("/dev"), one_file_system=True)
        finally:
            os.unlink(file.name)
    assert inside not in found
    assert "shm/" in found


def test_storelets_own_directories_are_passed_over_while_they_are_its_own(tree: Path) -> None:
    before = names(tree)
    with never_include(str(tree / "sub")), never_include(str(tree / "missing")):
        with never_include(str(tree / "sub")):
            pass
        found = walk_all(tree)
        assert [each.path for each in found if isinstance(each, Passed)] == [str(tree / "sub")]
        assert len(found) < len(before)
    assert names(tree) == before


# A single file ----------------------------------------------------------------------------------


def test_a_single_file_is_found_through_links(tree: Path) -> None:
    entry = find_file(str(tree / "link"), "as/this")
    assert (entry.path, entry.name) == (str(tree / "hello.txt"), "as/this")
    assert not entry.is_symlink


@pytest.mark.parametrize("name", ["missing", "dangling"])
def test_a_missing_file_is_an_error_that_names_it(tree: Path, name: str) -> None:
    with pytest.raises(SourceMissingError, match=f"no such file: {tree}/{name}"):
        find_file(str(tree / name), name)


def test_what_is_no_file_is_an_error_and_never_blocks(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    for name in ("fifo", "sub"):
        with pytest.raises(SourceError, match=f"not a regular file: {tree}/{name}"):
            find_file(str(tree / name), name)


def test_a_file_behind_a_file_is_an_error_that_says_why(tree: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read file .*/hello\.txt/x: Not a directory"):
        find_file(str(tree / "hello.txt" / "x"), "x")


# Reading ----------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Make a file of two blocks and a half."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(BLOCK_BYTES * 2 + BLOCK_BYTES // 2))
    return path


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES])
def test_a_whole_file_is_read_as_it_is(file: Path, size: int) -> None:
    os.truncate(file, size)
    with open_file(entry_of(file)) as opened:
        assert opened.read_whole() == file.read_bytes()
    assert not opened.changed


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, BLOCK_BYTES * 5 // 2])
def test_a_file_in_blocks_is_read_as_it_is(file: Path, size: int) -> None:
    os.truncate(file, size)
    with open_file(entry_of(file)) as opened:
        blocks = list(opened.blocks())
    assert b"".join(blocks) == file.read_bytes()
    assert all(len(block) == BLOCK_BYTES for block in blocks[:-1])
    assert (opened.changed, opened.broken_off) == (False, None)


def test_the_entry_of_an_opened_file_is_as_it_was_when_opened(file: Path) -> None:
    entry = entry_of(file)
    os.truncate(file, 10)
    with open_file(entry) as opened:
        assert (entry.size, opened.entry.size) == (BLOCK_BYTES * 5 // 2, 10)
        assert (opened.entry.path, opened.entry.name) == (entry.path, entry.name)


@pytest.mark.parametrize("content", [b"", b"shorter", b"longer" * 1000])
def test_a_whole_file_that_changed_is_read_once_more(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"as it was opened")
    with open_file(entry_of(path)) as opened:
        path.write_bytes(content)
        assert opened.read_whole() == content
    assert not opened.changed
    assert opened.entry.size == len(content)
    assert opened.entry.mtime_ns == path.stat().st_mtime_ns


def test_a_whole_file_that_grows_without_end_is_read_up_to_a_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with open_file(entry_of(path)) as opened:
        os.truncate(path, 1 << 40)
        data = opened.read_whole()
    assert BLOCK_BYTES <= len(data) <= BLOCK_BYTES + 1
    assert opened.changed


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
def test_a_file_whose_size_is_a_lie_is_read_whole_and_reported() -> None:
    path = Path("/proc/self/limits")
    assert path.stat().st_size == 0
    with open_file(entry_of(path)) as opened:
        assert opened.read_whole() == path.read_bytes()
    assert opened.changed


def test_a_file_that_grows_is_read_up_to_its_size_when_opened(file: Path) -> None:
    before = file.read_bytes()
    with open_file(entry_of(file)) as opened:
        blocks = opened.blocks()
        data = next(blocks)
        with file.open("ab") as other:
            other.write(b"more")
        data += b"".join(blocks)
    assert data == before
    assert opened.changed


def test_a_file_that_shrinks_is_reported_as_changed(file: Path) -> None:
    with open_file(entry_of(file)) as opened:
        blocks = opened.blocks()
        data = next(blocks)
        os.truncate(file, BLOCK_BYTES + 10)
        data += b"".join(blocks)
    assert data == file.read_bytes()
    assert (opened.changed, opened.broken_off) == (True, None)


def test_a_file_that_is_overwritten_is_reported_as_changed(file: Path) -> None:
    with open_file(entry_of(file)) as opened:
        blocks = opened.blocks()
        next(blocks)
        with file.open("r+b") as other:
            other.write(b"x")
        assert len(b"".join(blocks)) == BLOCK_BYTES * 3 // 2
    assert opened.changed


class BrokenDisk:
    """A disk that gives `good` bytes of a file and then errors, as in read(2)."""

    def __init__(self, file: Path) -> None:
        self.good = 0
        self.descriptor = os.open(file, os.O_RDONLY)
        self._read = os.read

    def read(self, descriptor: int, size: int, /) -> bytes:
        if descriptor == self.descriptor and os.lseek(descriptor, 0, os.SEEK_CUR) >= self.good:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._read(descriptor, size)


@pytest.fixture
def broken(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokenDisk]:
    """Open the file on a broken disk."""
    disk = BrokenDisk(file)
    monkeypatch.setattr(os, "read", disk.read)
    yield disk
    os.close(disk.descriptor)


def test_a_read_error_breaks_a_large_file_off_and_says_where(
    file: Path, broken: BrokenDisk
) -> None:
    broken.good = BLOCK_BYTES * 2
    opened = OpenedFile(entry_of(file), broken.descriptor)
    assert b"".join(opened.blocks()) == file.read_bytes()[: BLOCK_BYTES * 2]
    assert opened.broken_off == f"truncated at {BLOCK_BYTES * 2}: Input/output error"


def test_a_read_error_at_the_start_makes_a_file_unreadable(file: Path, broken: BrokenDisk) -> None:
    with pytest.raises(UnreadableError, match="Input/output error"):
        list(OpenedFile(entry_of(file), broken.descriptor).blocks())
    with pytest.raises(UnreadableError, match="Input/output error"):
        OpenedFile(entry_of(file), broken.descriptor).read_whole()


def test_a_read_that_would_block_makes_a_file_unreadable(file: Path) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        with (
            OpenedFile(entry_of(file), reader) as pipe,
            pytest.raises(UnreadableError, match="would block"),
        ):
            pipe.read_whole()
    finally:
        os.close(writer)


def test_a_file_that_vanished_or_became_another_kind_is_unreadable_and_never_blocks(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    entry = entry_of(path)
    path.unlink()
    with pytest.raises(UnreadableError, match="it vanished"), open_file(entry):
        pass
    os.mkfifo(path)
    with pytest.raises(UnreadableError, match="it is no regular file any more"), open_file(entry):
        pass
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(UnreadableError, match="it is a symbolic link now"), open_file(entry):
        pass
    path.unlink()
    path.mkdir()
    with pytest.raises(UnreadableError, match="it is no regular file any more"), open_file(entry):
        pass


def test_a_link_that_vanished_is_unreadable(tree: Path) -> None:
    entry = entry_of(tree / "link")
    (tree / "link").unlink()
    with pytest.raises(UnreadableError, match="it vanished"):
        read_link(entry)


def test_a_file_that_may_not_be_read_is_unreadable_with_the_reason() -> None:
    done = run_script(
        AS_PLAIN_USER
        + """
from storelet.source import UnreadableError, find_file, open_file
with tempfile.NamedTemporaryFile() as file:
    os.chmod(file.name, 0)
    try:
        with open_file(find_file(file.name, "x")):
            pass
    except UnreadableError as error:
        print(error)
"""
    )
    assert done.stdout == "Permission denied\n"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(UnreadableError), open_file(entry_of(tmp_path / "fifo")):
            pass
    assert os.listdir("/proc/self/fd") == before

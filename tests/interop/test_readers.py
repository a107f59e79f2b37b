"""Any unzip on any machine: what Storelet writes, read by programs that are not Storelet."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import storelet
from storelet.archive import Piece, write_members
from storelet.entry import Entry
from storelet.layout import Layout
from storelet.plan import WHOLE_BYTES, Plan
from storelet.zipformat import ArchiveRecord, portable_name
from tests.interop.readers import (
    READERS,
    Found,
    Java,
    Reader,
    hash_of,
    java_is_missing,
    look,
)
from tests.zipparser import parse_zip

RECORD = ArchiveRecord(job="example", host="here", started_ns=0)


@pytest.fixture(params=READERS, ids=lambda reader: reader.name)
def reader(request: pytest.FixtureRequest) -> Reader:
    """Take one reader after the other, where it is installed."""
    if request.param.missing:
        pytest.skip(request.param.missing)
    return request.param


@pytest.fixture(scope="module")
def maybe_java() -> Iterator[Java | None]:
    """Run Java's readers for all tests here, where there is a Java."""
    if java_is_missing():
        yield None
        return
    with Java.start() as java:
        yield java


@pytest.fixture
def java(maybe_java: Java | None) -> Java:
    """Take Java's readers."""
    if maybe_java is None:
        pytest.skip(str(java_is_missing()))
    return maybe_java


def back_up(source: Path, kept: Path) -> Path:
    """Back a directory up; return the archive."""
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(source)
        backup.save_to_directory(kept)
    (archive,) = kept.glob("example_*.zip")
    return archive


def expected_from(source: Path, reader: Reader) -> dict[bytes, Found]:
    """Say what a reader should bring back of a directory."""
    expected = {}
    for path, found in look(source).items():
        is_file = found.kind == "link" and not reader.keeps_links
        name = portable_name(os.fsdecode(path)).encode()
        expected[name] = comparable(replace(found, kind="file" if is_file else found.kind), reader)
    return expected


def comparable(found: Found, reader: Reader) -> Found:
    """Leave out what a reader does not bring back, and what a file system has no say in."""
    return replace(
        found,
        mode=found.mode if reader.keeps_modes and found.kind != "link" else 0,
        mtime=found.mtime if reader.keeps_times and found.kind == "file" else 0,
    )


def assert_read_back(source: Path, archive: Path, reader: Reader) -> None:
    read = {name: comparable(found, reader) for name, found in reader.read(archive).items()}
    assert read == expected_from(source, reader), reader.name


def assert_java_reads_back(source: Path, archive: Path, java: Java) -> None:
    expected = {
        portable_name(os.fsdecode(path)).encode(): found.content
        for path, found in look(source).items()
    }
    assert java.read(archive) == (expected, expected)


# Any tree ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """A file, link or empty directory of a tree."""

    path: bytes
    kind: str
    data: bytes
    mode: int
    mtime: int
    size: int | None = None  # of a file much larger than what may be printed here

    @property
    def content(self) -> bytes:
        """What is in the file: its data, or random or empty bytes of its size."""
        if self.size is None:
            return self.data
        seeded = random.Random(self.data)  # noqa: S311 - no secret
        return seeded.randbytes(self.size) if self.data else bytes(self.size)


def is_left_alone(char: str) -> bool:
    """Tell whether bsdtar leaves a character of a name as it is: it composes accents."""
    return (
        unicodedata.normalize("NFD", char) == char
        and not unicodedata.combining(char)
        and not "\u1100" <= char <= "\u11ff"
    )


CHARACTERS = st.one_of(
    st.sampled_from("äöüßéñ .-_%'\"*?<>|&$()[]{}!~#@+=,;^`\n\t\x01\x7f"),
    st.characters(exclude_categories=("Cs",), exclude_characters="/\0\\:").filter(is_left_alone),
)
NAMES = (
    st.one_of(
        st.text(CHARACTERS, min_size=1, max_size=12).map(str.encode),
        st.binary(min_size=1, max_size=8).filter(lambda name: not set(name) & set(b"/\0\\:")),
        st.sampled_from([b"a", b"b", b"-rf", b" ", b"...", b"x" * 255, "ü".encode() * 127]),
    )
    .filter(lambda name: name not in (b".", b".."))
    .filter(lambda name: is_composed(name))
)
THINGS = st.builds(
    Thing,
    path=st.lists(NAMES, min_size=1, max_size=4).map(b"/".join),
    kind=st.sampled_from(["file", "file", "file", "link", "directory"]),
    data=st.binary(max_size=300),
    mode=st.integers(0, 0o777),
    mtime=st.integers(0, (1 << 31) - 1),
    size=st.sampled_from([None, None, None, 0, WHOLE_BYTES, WHOLE_BYTES + 1, WHOLE_BYTES * 2]),
)


def is_composed(name: bytes) -> bool:
    text = portable_name(os.fsdecode(name))
    return unicodedata.normalize("NFC", text) == text


def make_tree(top: Path, things: list[Thing]) -> None:
    """Make what can be made of the things; two may want one name, or one lie behind a link."""
    for thing in things:
        path = os.path.join(os.fsencode(top), thing.path)
        try:
            os.makedirs(path if thing.kind == "directory" else os.path.dirname(path), exist_ok=True)
            if thing.kind == "link":
                # Where it leads up or to the root, 7z refuses to make it.
                os.symlink(b"to " + thing.data[:4000].translate(None, b"\0/."), path)
            elif thing.kind == "file":
                with open(path, "xb") as file:
                    file.write(thing.content)
        except (FileExistsError, FileNotFoundError, NotADirectoryError):
            continue
        if thing.kind == "directory":
            os.chmod(path, thing.mode | 0o700)  # root alone reads what it may not
        elif thing.kind == "file":
            os.chmod(path, thing.mode | 0o600)
            os.utime(path, (thing.mtime, thing.mtime))


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(things=st.lists(THINGS, max_size=8))
@example(things=[Thing(path=b"-rf", kind="file", data=b"", mode=0o640, mtime=1, size=3 << 20)])
@example(things=[Thing(path=b"caf\xe9/x", kind="link", data=b"\xff\n", mode=0, mtime=0)])
def test_any_tree_is_read_back_byte_for_byte_by_every_reader(
    things: list[Thing], maybe_java: Java | None
) -> None:
    with tempfile.TemporaryDirectory() as top:
        source, kept = Path(top, "source"), Path(top, "kept")
        source.mkdir()
        kept.mkdir()
        make_tree(source, things)
        names = [portable_name(os.fsdecode(path)) for path in look(source)]
        assume(len(names) == len(set(names)) > 0)  # else one is skipped, see test_archive
        archive = back_up(source, kept)
        parse_zip(archive.read_bytes())
        for reader in READERS:
            if not reader.missing:
                assert_read_back(source, archive, reader)
        if maybe_java:
            assert_java_reads_back(source, archive, maybe_java)


# Names ------------------------------------------------------------------------------------------

ODD_NAMES = {
    "unicode": "größe ✓ \U0001f600 \u202e \ufeff \uffff \U0010ffff \x85\u2028".encode(),
    "not composed": "e\u0301 \u212b \u1112\u1161".encode(),
    "spaces": b"  two  spaces  ",
    "quotes": b"'single\" `back`",
    "dashes": b"--help -rf",
    "newlines": b"one\ntwo\r\nthree\n",
    "control characters": b"\x01\x1b[31m\x7f",
    "wildcards": b"*?[a-z]{b}~!$HOME",
    "percent": b"100%41%",
    "dots": b"...",
    "a device of Windows": b"con",
    "255 bytes": b"x" * 255,
    "255 bytes of two each": "ü".encode() * 127 + b"x",
}
WINDOWS_NAMES = {
    "backslashes": b"back\\slash\\",
    "a leading backslash": b"\\lead",
    "colons": b"C:colon:",
}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Make a directory to save archives to."""
    path = tmp_path / "kept"
    path.mkdir()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make an empty directory to include."""
    path = tmp_path / "source"
    path.mkdir()
    return path


def make_named(top: Path, *names: bytes) -> None:
    for name in names:
        path = os.path.join(os.fsencode(top), name)
        with open(path, "wb") as file:
            file.write(b"in " + name)
        os.makedirs(path + b".d" if len(name) < 250 else os.path.join(path[:-3], name))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_arrive_as_they_are(source: Path, kept: Path, reader: Reader, name: str) -> None:
    if name == "not composed" and "bsdtar" in reader.name:
        pytest.skip("bsdtar composes what is not: its choice")
    make_named(source, ODD_NAMES[name])
    assert_read_back(source, back_up(source, kept), reader)


@pytest.mark.parametrize("name", WINDOWS_NAMES)
def test_names_that_mean_something_to_windows_arrive_as_they_are(
    source: Path, kept: Path, reader: Reader, name: str
) -> None:
    if "bsdtar" in reader.name:
        pytest.skip("bsdtar takes backslashes and colons for separators and drives: its choice")
    make_named(source, WINDOWS_NAMES[name])
    assert_read_back(source, back_up(source, kept), reader)


def test_java_reads_all_the_odd_names(source: Path, kept: Path, java: Java) -> None:
    make_named(source, *ODD_NAMES.values(), *WINDOWS_NAMES.values())
    assert_java_reads_back(source, back_up(source, kept), java)


def test_names_that_are_not_utf_8_are_readable_as_percent_and_hex(
    source: Path, kept: Path, reader: Reader, java: Java
) -> None:
    make_named(source, b"caf\xe9", b"\xff\xfe\x80", "ü".encode() + b"\xfc")
    archive = back_up(source, kept)
    names = {b"caf%E9", b"%FF%FE%80", "ü%FC".encode()}
    assert {name for name in reader.read(archive) if not name.endswith(b".d")} == names
    assert_read_back(source, archive, reader)
    assert_java_reads_back(source, archive, java)


def test_a_path_of_nearly_4096_bytes_arrives(
    source: Path, kept: Path, reader: Reader, java: Java
) -> None:
    # The readers' own working directories stand before it, and the path ends at 4,096.
    long = source / "/".join(["d" * 99] * 38)
    long.mkdir(parents=True)
    (long / "file").write_text("at the bottom")
    archive = back_up(source, kept)
    assert_read_back(source, archive, reader)
    assert_java_reads_back(source, archive, java)


def test_a_name_of_4096_bytes_does_not_stop_who_reads_it_by_the_catalogue(
    tree: Path, kept: Path, java: Java
) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_file(tree / "hello.txt", name="n" * 4096)
        backup.include_file(tree / "secret")
        backup.save_to_directory(kept)
    (archive,) = kept.iterdir()
    expected = {b"n" * 4096: hash_of(b"hello\n" * 100), b"secret": hash_of(b"for my eyes\n")}
    assert java.read(archive) == (expected, expected)
    python = READERS[-1].read(archive)
    assert {name: found.content for name, found in python.items()} == expected


# What survives ----------------------------------------------------------------------------------


def unzip(archive: Path, into: Path, *options: str) -> None:
    if not shutil.which("unzip"):
        pytest.skip("unzip is not installed")
    command = ["unzip", "-qq", *options, str(archive), "-d", str(into)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_modes_times_links_and_empty_directories_survive_unzip(
    tree: Path, kept: Path, tmp_path: Path
) -> None:
    for number, mode in enumerate((0o400, 0o444, 0o555, 0o600, 0o640, 0o755, 0o777)):
        (tree / f"mode-{number}").touch()
        (tree / f"mode-{number}").chmod(mode)
        (tree / f"directory-{number}").mkdir()
        (tree / f"directory-{number}").chmod(mode | 0o500)
    (tree / "to-a-directory").symlink_to("sub/deeper", target_is_directory=True)
    (tree / "absolute").symlink_to("/nowhere/at/all")
    os.utime(tree / "sub", (1_000_000_000, 1_000_000_000))
    unzip(back_up(tree, kept), tmp_path / "back")
    before, after = look(tree), look(tmp_path / "back")
    assert {name: replace(found, mtime=0) for name, found in after.items()} == {
        name: replace(found, mtime=0) for name, found in before.items()
    }
    for name, found in before.items():
        assert found.kind == "link" or after[name].mtime == found.mtime
    assert (tmp_path / "back" / "link").read_text() == "hello\n" * 100


def test_setuid_setgid_and_sticky_bits_survive_an_unzip_that_keeps_them(
    source: Path, kept: Path, tmp_path: Path
) -> None:
    for mode in (0o4755, 0o2755, 0o1755, 0o7777):
        (source / f"{mode:o}").touch()
        (source / f"{mode:o}").chmod(mode)
    unzip(back_up(source, kept), tmp_path / "back", "-K")
    for path in (tmp_path / "back").iterdir():
        assert f"{stat.S_IMODE(path.stat().st_mode):o}" == path.name


def test_owners_survive_an_unzip_that_keeps_them(source: Path, kept: Path, tmp_path: Path) -> None:
    for uid, gid in ((0, 0), (1, 2), (65534, 65534), (70_000, 4_000_000_000)):
        (source / f"{uid}-{gid}").touch()
        try:
            os.chown(source / f"{uid}-{gid}", uid, gid)
        except OSError as error:
            pytest.skip(f"only root may give files to anybody: {error.strerror}")
    unzip(back_up(source, kept), tmp_path / "back", "-X")
    for path in (tmp_path / "back").iterdir():
        assert f"{path.stat().st_uid}-{path.stat().st_gid}" == path.name


@pytest.mark.parametrize(
    ("mtime", "restored"),
    [
        (0, 0),
        (1, 1),
        (315_532_799, 315_532_799),  # the last second of 1979
        ((1 << 31) - 1, (1 << 31) - 1),  # of 2038
        (-1, None),
        (-1_000_000_000, None),
        (1 << 31, 1 << 31),  # by the DOS time alone
        (4_102_444_798, 4_102_444_798),  # the last even second of 2099; 2100 is no leap year
        (4_354_819_200, None),  # the first second that DOS has not
        (8_000_000_000, None),
        (15_000_000_000, None),
    ],
)
def test_times_of_any_year_stop_no_reader_and_come_back_where_they_fit(
    source: Path,
    kept: Path,
    reader: Reader,
    java: Java,
    monkeypatch: pytest.MonkeyPatch,
    mtime: int,
    restored: int | None,
) -> None:
    (source / "file").write_text("x")
    os.utime(source / "file", (mtime, mtime))
    if int((source / "file").stat().st_mtime) != mtime:
        pytest.skip("this file system has no such year")
    monkeypatch.setenv("TZ", "UTC")
    archive = back_up(source, kept)
    found = reader.read(archive)[b"file"]
    assert found.content == hash_of(b"x")
    java.read(archive)
    if reader.keeps_times and restored is not None and reader.name == "unzip":
        assert found.mtime == restored


@pytest.mark.parametrize(
    "command",
    [
        ["unzip", "-tqq"],
        ["zipinfo", "-v"],
        ["7z", "t", "-bd"],
        ["zip", "-qT"],
        ["bsdtar", "-tf"],
        ["jar", "-tf"],
    ],
    ids=lambda command: command[0],
)
def test_no_tester_finds_anything_to_complain_about(
    tree: Path, kept: Path, command: list[str]
) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    (tree / "large").write_bytes(os.urandom(WHOLE_BYTES * 2) + bytes(WHOLE_BYTES))
    os.link(tree / "large", tree / "hard-link")
    archive = back_up(tree, kept)
    done = subprocess.run([*command, archive], capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for word in ("warning", "error", "caution", "invalid", "unexpected"):
        assert word not in done.stdout.lower()


# Zip64 ------------------------------------------------------------------------------------------


def add(layout: Layout, *entries: Entry) -> None:
    """Read entries into an archive."""
    plan = Plan()
    for entry in entries:
        assert plan.add(entry) is None
    batches = [batch for shelf in plan.shelves for batch in shelf.batches()]
    write_members((Piece(batch, [layout]) for batch in batches), "fast")


def test_more_than_65535_members_are_all_found(tree: Path, tmp_path: Path, java: Java) -> None:
    archive, count = tmp_path / "many.zip", 65_540
    with archive.open("wb") as sink:
        layout = Layout(sink, RECORD)
        entry = Entry.of(str(tree), "", tree.lstat())
        add(layout, *(entry._replace(name=f"{number}/") for number in range(count - 1)))
        add(layout, Entry.of(str(tree / "secret"), "last", (tree / "secret").lstat()))
        sink.writelines(layout.catalogue())
    assert archive.read_bytes()[-98:-94] == b"PK\x06\x06", "APPNOTE 4.3.14"
    streamed, by_catalogue = java.read(archive)
    assert streamed == by_catalogue
    assert len(streamed) == count
    with zipfile.ZipFile(archive) as python:
        assert len(python.namelist()) == count
        assert python.read("last") == b"for my eyes\n"
    for command in (["unzip", "-Z1"], ["bsdtar", "-tf"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, archive], capture_output=True, check=True)
            assert len(done.stdout.splitlines()) == count
    if shutil.which("7z"):
        done = subprocess.run(["7z", "l", archive], capture_output=True, check=True)
        assert f"{count - 1} folders".encode() in done.stdout


def test_what_begins_past_4_gib_is_found(tree: Path, tmp_path: Path, java: Java) -> None:
    archive = tmp_path / "far.zip"
    with archive.open("wb") as sink:
        layout = Layout(sink, RECORD)
        add(layout, Entry.of(str(tree / "nothing"), "first", (tree / "nothing").lstat()))
        hole = (1 << 32) - layout.offset - 100
        sink.seek(hole, os.SEEK_CUR)
        layout.skip(hole)
        for name in ("before", "after"):
            add(layout, Entry.of(str(tree / "secret"), name, (tree / "secret").lstat()))
        sink.writelines(layout.catalogue())
    expected = dict.fromkeys((b"before", b"after"), hash_of(b"for my eyes\n"))
    expected[b"first"] = hash_of(b"")
    assert java.read(archive)[1] == expected
    for reader in READERS:
        if not reader.missing and "pipe" not in reader.name:
            found = reader.read(archive)
            assert {name: each.content for name, each in found.items()} == expected, reader.name


@pytest.mark.slow
def test_a_file_larger_than_4_gib_is_read_back_by_every_reader(
    source: Path, kept: Path, java: Java
) -> None:
    with (source / "sparse").open("wb") as sparse:
        sparse.truncate((4 << 30) + 12_345)
        sparse.seek(0, os.SEEK_END)
        sparse.write(b"end")
    (source / "zzz").write_text("behind it")
    archive = back_up(source, kept)
    member = parse_zip(archive.read_bytes())["sparse"]
    assert (member.size, member.is_streamed) == ((4 << 30) + 12_348, True)
    assert set(member.local_extra) == {0x0001, 0x5455, 0x7875}
    assert member.extra[0x0001] == member.size.to_bytes(8, "little"), "its size and no more"
    assert_java_reads_back(source, archive, java)
    for reader in READERS:
        if not reader.missing:
            assert_read_back(source, archive, reader)

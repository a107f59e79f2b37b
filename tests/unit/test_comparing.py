"""A verification that looks at the sources, too."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import storelet
from storelet.restore import opened
from storelet.restore.comparing import Comparison

LARGE = 2 << 20  # no helper takes it


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Take what is new for old, but where a test is about that."""
    if "racy" not in request.node.name:
        monkeypatch.setattr(opened, "RACY_NS", -60_000_000_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/small").write_bytes(b"small")
    (source / "large").write_bytes(os.urandom(LARGE))
    (source / "link").symlink_to("large")
    return source


@pytest.fixture(params=[None, "password"])
def archive(source: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Archive:
    kept = tmp_path / "kept"
    kept.mkdir()
    encryption = request.param and storelet.Encryption(request.param)
    with storelet.ZipBackup("b", destination=storelet.Directory(kept), encryption=encryption) as b:
        b.include_directory(source, name="data")
    (path,) = kept.iterdir()
    return Archive(path, request.param)


@dataclass(frozen=True)
class Archive:
    path: Path
    password: str | None

    def compare(self, **how: float) -> storelet.Unpacked:
        archive = storelet.open_archive(self.path, password=self.password)
        return archive.verify(compare_source=True, **how)


def rot(source: Path, archive: Archive) -> None:
    """Change a byte of a source as a failing disk does, so that `lstat` says nothing of it.

    Nobody can set a ctime, so the archive gets to hear of the new one.
    """
    before = source.stat()
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    source.write_bytes(data)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    old, new = (
        struct.pack("<qqQ", each.st_mtime_ns, each.st_ctime_ns, each.st_ino)
        for each in (before, source.stat())
    )
    stored = archive.path.read_bytes()
    assert stored.count(old) == 1
    archive.path.write_bytes(stored.replace(old, new))


def test_sources_that_are_the_same_are_compared(archive: Archive) -> None:
    result = archive.compare()
    assert (result.compared, result.different, result.refused) == (2, [], [])
    again = storelet.open_archive(archive.path, password=archive.password)
    assert again.verify().compared == 0


@pytest.mark.parametrize("name", ["sub/small", "large"])
def test_rot_is_found_though_the_archive_is_right(
    source: Path, archive: Archive, name: str
) -> None:
    rot(source / name, archive)
    result = archive.compare()
    assert [each for each, _ in result.different] == [f"data/{name}"]
    assert f"{source / name} holds, which shows no change" in result.different[0][1]
    assert (result.compared, result.refused) == (2, [])


def test_helpers_compare_too(source: Path, tmp_path: Path) -> None:
    for number in range(3_000):
        (source / f"{number}").write_bytes(b"x" * 4_000)
    kept = tmp_path / "kept"
    kept.mkdir()
    with storelet.ZipBackup("b", destination=storelet.Directory(kept)) as backup:
        backup.include_directory(source)
    (path,) = kept.iterdir()
    rot(source / "1234", Archive(path, None))
    result = Archive(path, None).compare()
    assert [name for name, _ in result.different] == ["1234"]
    assert result.compared == 3_002


def test_what_has_changed_is_not_compared(source: Path, archive: Archive) -> None:
    (source / "sub/small").write_bytes(b"other")
    times = (source / "large").stat()
    (source / "large").write_bytes(os.urandom(LARGE))
    os.utime(source / "large", ns=(times.st_atime_ns, times.st_mtime_ns))  # only the ctime tells
    result = archive.compare()
    assert (result.compared, result.different, result.refused) == (0, [], [])


def test_what_is_gone_or_something_else_by_now_is_not_compared(
    source: Path, archive: Archive
) -> None:
    (source / "sub/small").unlink()
    (source / "large").unlink()
    os.mkfifo(source / "large")
    result = archive.compare()
    assert (result.compared, result.different, result.refused) == (0, [], [])


def test_only_the_sample_is_compared(archive: Archive) -> None:
    parts = [archive.compare(sample=0.25, start=start).compared for start in (0, 0.25, 0.5, 0.75)]
    assert sum(parts) == 2


def test_an_archive_of_another_host_is_not_compared(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    result = archive.compare()
    assert (result.compared, result.refused) == (0, [])


def test_a_damaged_member_is_told_as_that(source: Path, archive: Archive) -> None:
    rot(source / "large", archive)
    again = storelet.open_archive(archive.path, password=archive.password)
    member = again.find("data/large")
    data = bytearray(archive.path.read_bytes())
    data[member.offset + 300_000] ^= 1
    archive.path.write_bytes(data)
    result = archive.compare()
    assert [name for name, _ in result.refused] == ["data/large"]
    assert result.different == []


def test_what_may_have_changed_while_it_was_read_is_racy(source: Path, archive: Archive) -> None:
    """It was new when it was backed up: no time can tell a change within that moment."""
    rot(source / "large", archive)
    result = archive.compare()
    assert (result.compared, result.different) == (0, [])


def test_what_changes_while_it_is_read_is_not_compared(source: Path, tmp_path: Path) -> None:
    path = source / "large"
    found, data = path.stat(), path.read_bytes()
    kept = tmp_path / "kept"
    kept.mkdir()
    with storelet.ZipBackup("b", destination=storelet.Directory(kept)) as backup:
        backup.include_file(path)
    (archive,) = kept.iterdir()
    (member,) = storelet.open_archive(archive).members()
    assert member.ctime_ns == found.st_ctime_ns

    def write_meanwhile(times: int) -> Iterator[bytes]:
        yield data[:100]
        for _ in range(times):
            path.write_bytes(bytes(len(data)))
        yield data[100:]

    comparison = Comparison()
    assert comparison.write(str(path)[1:], member, write_meanwhile(0)) is True
    assert comparison.write(str(path)[1:], member, write_meanwhile(1)) is False

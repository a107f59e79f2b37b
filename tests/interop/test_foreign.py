"""Zips that other programs made are listed, read and restored."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

import storelet
from tests.interop.readers import Found, look
from tests.rawzip import WINDOWS, RawMember, build_zip, extra_field

MTIME = 1_234_567_890
LINES = b"a line that is there more than once\n" * 5000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a tree of what every zip program knows."""
    top = tmp_path / "source"
    (top / "directory").mkdir(parents=True)
    (top / "empty directory").mkdir()
    (top / "directory" / "lines").write_bytes(LINES)
    (top / "directory" / "none").write_bytes(b"")
    (top / "größe €").write_bytes(b"short")
    (top / "random").write_bytes(os.urandom(3 << 20))
    (top / "program").write_bytes(b"#!/bin/sh\n")
    (top / "program").chmod(0o755)
    (top / "directory" / "lines").chmod(0o640)
    (top / "link").symlink_to("directory/lines")
    for path in sorted(top.rglob("*"), reverse=True):
        os.utime(path, (MTIME, MTIME), follow_symlinks=False)
    return top


def run(*command: str | Path, cwd: Path) -> None:
    if not shutil.which(str(command[0])):
        pytest.skip(f"{command[0]} is not installed")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    subprocess.run(
        command, cwd=cwd, env=environment, check=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def info_zip(*options: str) -> Callable[[Path, Path], None]:
    return lambda archive, source: run("zip", "-qry", *options, archive, ".", cwd=source)


def piped(archive: Path, source: Path) -> None:
    run("sh", "-c", 'zip -qr - . | cat > "$0"', archive, cwd=source)  # -y would be refused


def with_comment(archive: Path, source: Path) -> None:
    run("sh", "-c", 'echo "PK and more" | zip -qryz "$0" .', archive, cwd=source)


def seven_zip(*options: str) -> Callable[[Path, Path], None]:
    return lambda archive, source: run("7z", "a", "-tzip", *options, archive, ".", cwd=source)


def bsdtar(archive: Path, source: Path) -> None:
    run("bsdtar", "--format", "zip", "-cf", archive, ".", cwd=source)


def bsdtar_piped(archive: Path, source: Path) -> None:
    run("sh", "-c", 'bsdtar --format zip -cf - . | cat > "$0"', archive, cwd=source)


def jar(archive: Path, source: Path) -> None:
    run("jar", "-cMf", archive, "-C", source, ".", cwd=source)


def python(archive: Path, source: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(source.rglob("*")):
            packed.write(path, path.relative_to(source))


def self_extracting(archive: Path, source: Path) -> None:
    info_zip()(archive, source)
    archive.write_bytes(b"#!/bin/sh\nexit 1\n" * 900 + archive.read_bytes())


def self_extracting_adjusted(archive: Path, source: Path) -> None:
    self_extracting(archive, source)
    run("zip", "-qA", archive, cwd=source)


def followed_by_something(archive: Path, source: Path) -> None:
    info_zip()(archive, source)
    archive.write_bytes(archive.read_bytes() + bytes(5000))


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "zip": info_zip(),
    "zip, stored": info_zip("-0"),
    "zip, bzip2": info_zip("-Z", "bzip2"),
    "zip, zip64": info_zip("-fz"),
    "zip, piped": piped,
    "zip, with a comment": with_comment,
    "zip, self-extracting": self_extracting,
    "zip, self-extracting, adjusted": self_extracting_adjusted,
    "zip, followed by something": followed_by_something,
    "7z": seven_zip("-snl"),
    "7z, bzip2": seven_zip("-snl", "-mm=BZip2"),
    "7z, AES": seven_zip("-snl", "-psecret", "-mem=AES256"),
    "bsdtar": bsdtar,
    "bsdtar, piped": bsdtar_piped,
    "jar": jar,
    "python": python,
}
FOLLOWING_LINKS = {"zip, piped", "jar", "python"}
WITHOUT_MODES = {"jar"}
IN_LOCAL_TIME = {"jar", "python"}


@pytest.mark.parametrize("name", MAKERS)
def test_what_others_made_is_restored(name: str, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "foreign.zip"
    MAKERS[name](path, source)
    archive = storelet.open_archive(path, password="secret" if name == "7z, AES" else None)
    result = archive.extract(tmp_path / "target")
    assert (result.refused, archive.problems) == ([], [])
    expected = {each: comparable(found, name) for each, found in look(source).items()}
    if name in FOLLOWING_LINKS:
        expected[b"link"] = expected[b"directory/lines"]
    restored = look(tmp_path / "target")
    assert {each: comparable(found, name) for each, found in restored.items()} == expected
    (lines,) = archive.members(["directory/lines"])
    assert archive.read(lines) == LINES
    again = archive.extract(tmp_path / "target")
    assert (again.files, again.refused) == (0, [])


def comparable(found: Found, name: str) -> tuple[str, str, int, int]:
    """Return what of a file comes back by way of a maker."""
    usual = 0o755 if found.kind == "directory" else 0o644
    mode = 0o777 if found.kind == "link" else usual if name in WITHOUT_MODES else found.mode
    # Times in steps of 2 s, and the time zone of who made them.
    mtime = 0 if name in IN_LOCAL_TIME else found.mtime
    return found.kind, found.content, mode, mtime


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (info_zip("-e", "-P", "secret"), "it is encrypted"),
        (seven_zip("-psecret"), "it is encrypted"),
        (seven_zip("-mm=LZMA"), "method 14, LZMA; try 7z"),
        (seven_zip("-mm=Deflate64"), "method 9, Deflate64; try 7z"),
        (seven_zip("-mm=PPMd"), "method 98, PPMd; try 7z"),
    ],
    ids=["zip -e", "7z, ZipCrypto", "LZMA", "Deflate64", "PPMd"],
)
def test_what_cannot_be_read_is_named_and_the_rest_is_restored(
    make: Callable[[Path, Path], None], reason: str, source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.zip"
    make(path, source)
    archive = storelet.open_archive(path)
    refused = dict(archive.extract(tmp_path / "target").refused)
    assert reason in refused["directory/lines"]
    assert not (tmp_path / "target/directory/lines").exists()
    assert (tmp_path / "target/empty directory").is_dir()
    assert all(reason in each for each in refused.values())
    with pytest.raises(storelet.DamagedArchiveError, match="directory/lines"):
        archive.read("directory/lines")
    sizes = {each.name: each.size for each in archive.members()}
    assert sizes["directory/lines"] == len(LINES)


def test_what_python_appended_twice_is_named_and_its_newest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "foreign.zip"
    for content in ("one", "two", "three"):
        with zipfile.ZipFile(path, "a") as packed:
            if content != "one":
                with pytest.warns(UserWarning, match="Duplicate name"):
                    packed.writestr("twice", content)
            else:
                packed.writestr("twice", content)
            packed.writestr(content, content)
    archive = storelet.open_archive(path)
    assert archive.problems == []
    assert archive.read("twice") == b"three"
    result = archive.extract(tmp_path / "target")
    assert {name for name, _ in result.refused} == {"twice"}
    assert {each.name for each in (tmp_path / "target").iterdir()} == {"one", "two", "three"}


def test_names_modes_and_times_of_windows(tmp_path: Path) -> None:
    raw = "grösse.txt".encode("cp437")
    unicode_path = extra_field(
        0x7075, b"\1" + struct.pack("<L", zlib.crc32(b"x?.txt")) + "x€.txt".encode()
    )
    ticks = (MTIME + 11_644_473_600) * 10_000_000 + 1_234_567
    times = extra_field(0x000A, bytes(4) + struct.pack("<HHQQQ", 1, 24, ticks, 0, 0))
    members = [
        RawMember(name=b"folder\\", content=b"", host=WINDOWS, mode=0x10, general=0),
        RawMember(name=b"folder\\file.txt", host=WINDOWS, mode=0x20, general=0, extra=times),
        RawMember(name=b"folder\\sub\\locked.txt", host=WINDOWS, mode=0x21, general=0),
        RawMember(name=raw, host=WINDOWS, mode=0x20, general=0),
        RawMember(name=b"x?.txt", host=WINDOWS, mode=0x20, general=0, extra=unicode_path),
        RawMember(name=b"no slash", content=b"", host=WINDOWS, mode=0x10, general=0),
        RawMember(name=b"C:\\temp\\c.txt", host=WINDOWS, mode=0x20, general=0),
        RawMember(name=b"both/a\\b", host=WINDOWS, mode=0x20, general=0),
    ]
    path = tmp_path / "foreign.zip"
    path.write_bytes(build_zip(members))
    archive = storelet.open_archive(path)
    target = tmp_path / "target"
    assert archive.extract(target).refused == []
    assert {str(each.relative_to(target)) for each in target.rglob("*")} == {
        "folder",
        "folder/file.txt",
        "folder/sub",
        "folder/sub/locked.txt",
        "grösse.txt",
        "x€.txt",
        "no slash",
        "C:",
        "C:/temp",
        "C:/temp/c.txt",
        "both",
        "both/a\\b",
    }
    assert (target / "no slash").is_dir()
    assert (target / "folder/file.txt").stat().st_mtime_ns == MTIME * 10**9 + 123_456_700
    modes = [(target / "folder" / name).stat().st_mode for name in ("file.txt", "sub/locked.txt")]
    assert [stat.S_IMODE(mode) for mode in modes] == [0o644, 0o444]

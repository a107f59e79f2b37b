"""What is left of an archive without its catalogue, or without all of it, is found and restored."""

from __future__ import annotations

import io
import os
import random
import re
import stat
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

import storelet
from storelet.destination.contract import Stored
from storelet.restore.extraction import Unpacked
from storelet.restore.listing import Listing
from storelet.restore.salvage import salvage
from tests.rawzip import RawMember, build_zip, extra_field
from tests.trees import describe_tree, make_strange_tree
from tests.zipparser import ParsedZip, parse_zip

MIB = 1 << 20
NO_MODES = (
    "they have no modes and no hard links, and symbolic links are files with what they point to"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Back up a tree with small members, and large ones that a data descriptor follows."""
    top = tmp_path_factory.mktemp("salvaged")
    make_strange_tree(top / "source")
    dice = random.Random(3)  # noqa: S311 - no secret
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as packed:
        for number in range(30):
            packed.writestr(f"inner{number}", dice.randbytes(9000))
    (top / "source" / "inner.zip").write_bytes(inner.getvalue())
    (top / "source" / "large.zip").write_bytes(inner.getvalue() * 12)
    (top / "source" / "zeros").write_bytes(bytes(9 * MIB))
    (top / "kept").mkdir()
    with storelet.ZipBackup("whole", destination=storelet.Directory(top / "kept")) as backup:
        backup.include_directory(top / "source")
    (path,) = (top / "kept").iterdir()
    return path.read_bytes()


@pytest.fixture(scope="module")
def parsed(whole: bytes) -> ParsedZip:
    return parse_zip(whole)


def open_bytes(top: Path, data: bytes) -> storelet.OpenedArchive:
    path = top / "damaged.zip"
    path.write_bytes(data)
    return storelet.open_archive(path)


def contents_in(target: Path) -> dict[bytes, bytes]:
    found = {}
    for path in target.rglob("*"):
        if not path.is_dir() or path.is_symlink():
            content = os.readlink(os.fsencode(path)) if path.is_symlink() else path.read_bytes()
            found[os.fsencode(path.relative_to(target))] = content
    return found


def catalogue_of(data: bytes) -> int:
    return int(struct.unpack_from("<L", data, len(data) - 6)[0])


def test_a_whole_archive_has_no_problems(tmp_path: Path, whole: bytes) -> None:
    assert open_bytes(tmp_path, whole).problems == []


@pytest.mark.parametrize("lost", [1, 4, 18, 22, 23, 60, 100])
def test_what_only_lacks_its_end_is_restored_with_all_metadata(
    tmp_path: Path, whole: bytes, lost: int
) -> None:
    archive = open_bytes(tmp_path, whole[:-lost])
    result = archive.extract(tmp_path / "target")
    assert result.refused == []
    assert "its end is missing or damaged" in archive.problems
    open_bytes(tmp_path, whole).extract(tmp_path / "expected")
    found, expected = describe_tree(tmp_path / "target"), describe_tree(tmp_path / "expected")
    assert contents_in(tmp_path / "target").keys() == contents_in(tmp_path / "expected").keys()
    differing = {name for name in expected if found.get(name) != expected[name]}
    # Of the last header nothing is left but what its local one says.
    assert len(differing) <= (0 if lost <= 22 else 3)
    assert any(NO_MODES in problem for problem in archive.problems) == bool(lost > 22)


def test_what_comes_before_a_cut_is_restored(
    tmp_path: Path, whole: bytes, parsed: ParsedZip
) -> None:
    dice = random.Random(4)  # noqa: S311 - no secret
    cuts = [dice.randrange(catalogue_of(whole)) for _ in range(12)]
    cuts += [member.offset + extra for member in parsed.members[-6:] for extra in (0, 3, 31, 70)]
    for number, cut in enumerate(cuts):
        archive = open_bytes(tmp_path, whole[:cut])
        target = tmp_path / str(number)
        result = archive.extract(target)
        there = {m.name: m.data for m in parsed.members if end_of(parsed, m.offset) <= cut}
        files = {name: data for name, data in there.items() if not name.endswith(b"/")}
        assert contents_in(target) == files, cut
        assert len(result.refused) <= 1
        assert result.refused in ([], [(name_at(parsed, cut), "the archive ends before it does")])
        found = len(list(archive.members()))
        assert archive.problems[1:] == (
            [f"{found:,} members are in no catalogue: {NO_MODES}"] if found else []
        )
        assert "it has no catalogue" in archive.problems[0]


def end_of(parsed: ParsedZip, offset: int) -> int:
    """Return where the data of a member end."""
    (member,) = [each for each in parsed.members if each.offset == offset]
    head = 30 + len(member.name) + sum(4 + len(each) for each in member.local_extra.values())
    descriptor = (24 if 1 in member.local_extra else 16) if member.is_streamed else 0
    return offset + head + member.stored_size + descriptor


def name_at(parsed: ParsedZip, cut: int) -> str:
    """Return the name of the member that a cut goes through."""
    *_, last = [member for member in parsed.members if member.offset < cut]
    return os.fsdecode(last.name)


def test_a_catalogue_with_a_hole_is_read_on_behind_it(tmp_path: Path, whole: bytes) -> None:
    start = catalogue_of(whole)
    headers = [found.start() for found in re.finditer(b"PK\1\2", whole[start:])]
    hole = start + headers[4]
    data = bytearray(whole)
    data[hole : hole + 60] = bytes(60)
    archive = open_bytes(tmp_path, bytes(data))
    assert archive.extract(tmp_path / "target").refused == []
    assert archive.problems == [
        f"its catalogue is damaged at byte {hole:,}",
        f"1 members are in no catalogue: {NO_MODES}",
    ]
    open_bytes(tmp_path, whole).extract(tmp_path / "expected")
    found, expected = describe_tree(tmp_path / "target"), describe_tree(tmp_path / "expected")
    assert found.keys() == expected.keys()
    assert len([name for name in expected if found[name] != expected[name]]) <= 3


def test_a_catalogue_with_a_length_that_is_wrong_is_read_on_behind_it(
    tmp_path: Path, whole: bytes
) -> None:
    start = catalogue_of(whole)
    headers = [found.start() for found in re.finditer(b"PK\1\2", whole[start:])]
    for value in (0, 3, 60_000):
        data = bytearray(whole)
        struct.pack_into("<H", data, start + headers[4] + 28, value)
        archive = open_bytes(tmp_path, bytes(data))
        archive.extract(tmp_path / str(value))
        open_bytes(tmp_path, whole).extract(tmp_path / "expected")
        found = contents_in(tmp_path / str(value))
        lost = contents_in(tmp_path / "expected").keys() - found.keys()
        assert len(lost) <= 1


def test_names_modes_and_times_are_what_local_headers_have(tmp_path: Path) -> None:
    members = [
        RawMember(
            name=b"d/", content=b"", mode=stat.S_IFDIR | 0o700, local_extra=extra_field(9, b"x")
        ),
        RawMember(name="größe".encode(), local_extra=extra_field(0x5455, b"\1" + b"\1\0\0\0")),
        RawMember(name=b"gr\x94\xe1e", general=0),
    ]
    data = build_zip(members)
    archive = open_bytes(tmp_path, data[: data.index(b"PK\1\2")])
    assert [each.name for each in archive.members()] == ["d/", "größe", "größe"]
    directory, file, _ = archive.members()
    assert (directory.is_directory, stat.S_IMODE(file.mode), file.mtime_ns) == (True, 0o644, 10**9)


@pytest.mark.parametrize("method", [0, 8, 12])
@pytest.mark.parametrize("is_wide", [False, True])
def test_streamed_members_are_measured_by_their_descriptors(
    tmp_path: Path, method: int, is_wide: bool
) -> None:
    dice = random.Random(5)  # noqa: S311 - no secret
    contents = {b"%d" % n: dice.randbytes(n * 100) + b"PK\7\x08PK\3\4" * n for n in range(20)}
    data = b"".join(streamed(name, contents[name], method, is_wide) for name in contents)
    archive = open_bytes(tmp_path, data)
    result = archive.extract(tmp_path / "target")
    assert result.refused == []
    assert contents_in(tmp_path / "target") == contents


def streamed(
    name: bytes, content: bytes, method: int, is_wide: bool, signature: bytes = b"PK\7\x08"
) -> bytes:
    """Return a member whose sizes come behind it."""
    out = io.BytesIO()
    kind = {0: zipfile.ZIP_STORED, 8: zipfile.ZIP_DEFLATED, 12: zipfile.ZIP_BZIP2}[method]
    with zipfile.ZipFile(out, "w", kind) as packed:
        packed.writestr("x", content)
        (info,) = packed.infolist()
    stored = out.getvalue()[31 : 31 + info.compress_size]
    wide = extra_field(1, bytes(16)) if is_wide else b""
    unknown = 0xFFFFFFFF if is_wide else 0
    header = struct.pack(
        "<4sHHHLLLLHH", b"PK\3\4", 45, 8, method, 0, 0, unknown, unknown, len(name), len(wide)
    )
    sizes = struct.pack("<LQQ" if is_wide else "<LLL", info.CRC, len(stored), len(content))
    return header + name + wide + stored + signature + sizes


def test_deflated_members_are_measured_without_a_signature_too(tmp_path: Path) -> None:
    contents = {b"%d" % n: b"content %d" % n * 900 for n in range(9)}
    data = b"".join(streamed(name, contents[name], 8, False, b"") for name in contents)
    archive = open_bytes(tmp_path, data)
    assert archive.extract(tmp_path / "target").refused == []
    assert contents_in(tmp_path / "target") == contents


def test_what_a_pipe_gave_and_a_cut_shortened_is_restored(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(20):
        (tmp_path / "source" / f"{number}").write_bytes(b"line %d\n" % number * number * 5000)
    done = subprocess.run(
        ["zip", "-r", "-", "source"], cwd=tmp_path, stdout=subprocess.PIPE, check=True
    )
    data = done.stdout[: done.stdout.index(b"PK\1\2")]
    assert open_bytes(tmp_path, data).extract(tmp_path / "target").refused == []
    assert contents_in(tmp_path / "target/source") == contents_in(tmp_path / "source")


def test_garbage_between_members_costs_only_what_it_covers(
    tmp_path: Path, whole: bytes, parsed: ParsedZip
) -> None:
    dice = random.Random(6)  # noqa: S311 - no secret
    members = [member for member in parsed.members if not member.name.endswith(b"/")]
    for number, victim in enumerate(members):
        start = victim.offset + dice.randrange(-40, 60)
        data = bytearray(whole[: catalogue_of(whole)])
        data[start : start + 50] = dice.randbytes(50)
        open_bytes(tmp_path, bytes(data)).extract(tmp_path / str(number))
        found = contents_in(tmp_path / str(number))
        lost = {each.name for each in members if found.get(each.name) != each.data}
        assert len(lost) <= 2, (victim.name, lost)  # some take less than 50 bytes


class FrugalDirectory(storelet.Directory):
    """A directory that gives only so many bytes of its archives."""

    bytes_left = 2 * MIB

    def read(self, archive: Stored, offset: int, size: int) -> bytes:
        self.bytes_left -= size
        assert self.bytes_left >= 0
        return super().read(archive, offset, size)


def test_what_is_no_zip_is_not_read_to_its_end_to_say_so(tmp_path: Path) -> None:
    (tmp_path / "disk_20261120023000.zip").touch()
    os.truncate(tmp_path / "disk_20261120023000.zip", 1 << 40)
    (archive,) = storelet.list_archives(FrugalDirectory(tmp_path))
    assert archive.problems == ["it is no zip: it neither begins nor ends like one"]
    assert list(archive.members()) == []
    assert archive.extract(tmp_path / "target") == Unpacked()


def test_what_has_lost_its_end_may_have_a_program_before_it(tmp_path: Path) -> None:
    dice = random.Random(7)  # noqa: S311 - no secret
    program = b"#!/bin/sh\nPK\3\4 " + dice.randbytes(MIB - 1000)
    content = dice.randbytes(3 * MIB)
    data = program + streamed(b"file", content, 0, is_wide=False)
    archive = open_bytes(tmp_path, data[:-4])
    assert archive.extract(tmp_path / "target").refused == [
        ("file", "the archive ends before it does")
    ]
    assert open_bytes(tmp_path, data).read("file") == content


def test_each_byte_is_read_once(whole: bytes) -> None:
    data = whole[: catalogue_of(whole)] * 4
    reads: list[int] = []

    def read(offset: int, size: int) -> bytes:
        reads.append(size)
        return data[offset : offset + size]

    listing = Listing(read, len(data))
    salvage(read, listing)
    assert len(list(listing.members())) == 4 * len(parse_zip(whole).members)
    assert sum(reads) < 1.5 * len(data)
    assert max(reads) <= 8 * MIB


@pytest.mark.parametrize(
    "piece",
    [
        struct.pack("<4sHHHLLLLHH", b"PK\3\4", 20, 8, 8, 0, 0, 0, 0, 1, 0) + b"x",
        struct.pack("<4sHHHLLLLHH", b"PK\3\4", 20, 8, 8, 0, 0, 0, 0, 1, 0)
        + b"x"
        + b"\0\1\0\xfe\xff!",
        struct.pack("<4sHHHLLLLHH", b"PK\3\4", 20, 8, 0, 0, 0, 0, 0, 1, 0) + b"x",
        struct.pack("<4sHHHLLLLHH", b"PK\3\4", 20, 0, 0, 0, 0, 60, 60, 1, 0) + b"x",
        b"PK\3\4",
        b"PK\7\x08",
    ],
)
def test_lies_do_not_keep_it_busy(piece: bytes) -> None:
    data = piece * (2 * MIB // len(piece))
    total = 0

    def read(offset: int, size: int) -> bytes:
        nonlocal total
        total += size
        return data[offset : offset + size]

    listing = Listing(read, len(data))
    salvage(read, listing)
    assert total < 30 * len(data)

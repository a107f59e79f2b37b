"""The catalogue read back and moved into another archive, and what damage does to that."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import storelet
from storelet.catalogue import (
    TAIL_BYTES,
    DamagedError,
    find_catalogue,
    read_headers,
    read_record,
    relocate,
    set_record,
    split,
)
from storelet.layout import Layout
from storelet.zipformat import (
    CHANGED,
    DEFLATED,
    PRIVATE,
    PRIVATE_VERSION,
    STORED,
    TRUNCATED,
    ArchiveRecord,
    Member,
    central_header,
    end_records,
    fingerprint,
    portable_name,
)

GIB4 = 0xFFFFFFFF  # from here on a field has no room, APPNOTE 4.4.1.4
RECORD = ArchiveRecord(job="example", host="a host", started_ns=1366561800_000000000)

_SIZES = st.one_of(
    st.integers(0, 3000), st.integers(GIB4 - 2, GIB4 + 2), st.integers(GIB4, 1 << 50)
)
_OFFSETS = st.one_of(
    st.integers(0, 3000), st.integers(GIB4 - 3000, GIB4 + 3000), st.integers(0, 1 << 50)
)


@st.composite
def members(draw: st.DrawFn) -> Member:
    """Make a member of any size, time and name; a name is what the file system gives."""
    name = draw(st.binary(min_size=1, max_size=20).filter(lambda raw: b"\0" not in raw))
    size = draw(_SIZES)
    streamed = draw(st.booleans())
    return Member(
        os.fsdecode(name),
        draw(st.sampled_from([0o100644, 0o104755, 0o120777, 0o040755])),
        draw(st.integers(0, GIB4)),
        draw(st.integers(0, GIB4)),
        draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        draw(st.integers(0, (1 << 64) - 1)),
        draw(st.integers(0, (1 << 63) - 1)),
        draw(st.integers(0, GIB4)),
        draw(st.integers(-(1 << 62), 1 << 62)),
        flags=draw(st.sampled_from([0, CHANGED, TRUNCATED, CHANGED | TRUNCATED])),
        method=DEFLATED if streamed else draw(st.sampled_from([STORED, DEFLATED])),
        crc=draw(st.integers(0, GIB4)),
        size=size,
        stored_size=draw(_SIZES),
        streamed=streamed,
        encrypted=draw(st.booleans()),
    )


def catalogue_of(listed: list[tuple[Member, int]], record: ArchiveRecord | None = RECORD) -> bytes:
    return set_record(b"".join(central_header(*each) for each in listed), record)


def without_needed(headers: bytes) -> bytes:
    """Return headers without the version needed: what has shrunk may still ask for more."""
    changed = bytearray(headers)
    for header in read_headers(headers):
        changed[header.start + 6 : header.start + 8] = b"\0\0"
    return bytes(changed)


class Nowhere:
    """A sink for what is not looked at."""

    def write(self, data: bytes | memoryview) -> None:
        pass


def sample() -> bytes:
    """Make a catalogue with something of everything."""
    names = ["a/", "a/b", "caf\udce9", "large", "far", "last"]
    sizes = [0, 10, 20, 5 << 32, 30, 40]
    offsets = [0, 100, 200, 300, (5 << 32) + 400, (5 << 32) + 500]
    return catalogue_of(
        [
            (
                Member(
                    name,
                    *(0o100644, 1, 2, 3, 4, 5, size, 6, 7),
                    size=size,
                    stored_size=size,
                    encrypted=name in ("a/b", "far"),
                ),
                offset,
            )
            for name, size, offset in zip(names, sizes, offsets, strict=True)
        ]
    )


SAMPLE = sample()


# Found ------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 40), _SIZES, _OFFSETS, st.binary(max_size=300))
def test_the_catalogue_is_found_from_the_end(
    count: int, size: int, offset: int, before: bytes
) -> None:
    tail = (bytes(TAIL_BYTES) + before + end_records(count, size, offset))[-max(TAIL_BYTES, 300) :]
    assert find_catalogue(tail) == (offset, size)
    assert find_catalogue(tail[-TAIL_BYTES:]) == (offset, size)


@given(st.binary(max_size=2 * TAIL_BYTES))
@example(b"")
@example(b"PK\x05\x06")
@example(b"PK\x05\x06" + b"\xff" * 18)
def test_what_is_no_end_has_no_catalogue(tail: bytes) -> None:
    found = find_catalogue(tail)
    assert found is None or tail[-22:-18] == b"PK\x05\x06"


# Read -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(members(), _OFFSETS), min_size=1, max_size=6), st.booleans())
def test_headers_are_read_as_they_were_written(
    listed: list[tuple[Member, int]], has_record: bool
) -> None:
    catalogue = catalogue_of(listed, RECORD if has_record else None)
    headers = list(read_headers(catalogue))
    assert [header.start for header in headers] == [0, *(each.end for each in headers[:-1])]
    assert headers[-1].end == len(catalogue)
    for header, (member, offset) in zip(headers, listed, strict=True):
        assert header.name == portable_name(member.name)
        assert (header.mode, header.method) == (member.mode, member.method)
        assert header.encrypted == member.encrypted
        assert header.crc == (0 if member.encrypted else member.crc)
        assert (header.size, header.stored_size) == (member.size, member.stored_size)
        assert header.offset == offset
        assert header.version == PRIVATE_VERSION
        assert header.flags & (CHANGED | TRUNCATED) == member.flags
        assert (header.link_group, header.read_at) == (member.link_group, member.read_at)
        assert header.fingerprint == fingerprint(
            member.mtime_ns, member.ctime_ns, member.inode, member.source_size
        )
        assert (header.uid, header.gid) == (member.uid, member.gid)
        raw_name = os.fsencode(member.name)
        assert header.raw_name == (b"" if header.name.encode() == raw_name else raw_name)
    assert read_record(catalogue) == (RECORD if has_record else None)


@given(
    st.lists(st.tuples(members(), _OFFSETS), min_size=1, max_size=6),
    st.lists(st.integers(0, 200), max_size=40),
)
def test_chunks_of_any_size_become_pieces_of_whole_headers(
    listed: list[tuple[Member, int]], sizes: list[int]
) -> None:
    catalogue = catalogue_of(listed)

    def chunks() -> Iterator[bytes]:
        at = 0
        for size in sizes:
            yield catalogue[at : at + size]
            at += size
        yield catalogue[at:]

    pieces = list(split(chunks()))
    assert b"".join(pieces) == catalogue
    assert all(pieces)
    assert sum(len(list(read_headers(piece))) for piece in pieces) == len(listed)


@given(st.text(max_size=30), st.text(max_size=30), st.integers(-(1 << 63), (1 << 63) - 1))
def test_the_record_is_set_read_replaced_and_taken_away(
    job: str, host: str, started_ns: int
) -> None:
    job, host = (each.encode(errors="replace").decode() for each in (job, host))
    record = ArchiveRecord(job=job, host=host, started_ns=started_ns)
    bare = set_record(SAMPLE, None)
    assert read_record(bare) is None
    once = set_record(bare, record)
    assert read_record(once) == record
    assert set_record(set_record(once, RECORD), record) == once
    assert set_record(once, None) == bare
    assert list(read_headers(once))[1:] == [
        each._replace(
            start=each.start + len(once) - len(bare), end=each.end + len(once) - len(bare)
        )
        for each in list(read_headers(bare))[1:]
    ]


def test_a_name_that_is_not_utf8_stays_when_a_record_comes_and_goes() -> None:
    header = central_header(Member("caf\udce9", 0o100644, 1, 2, 3, 4, 5, 6, 7, 8), 9)
    assert b"caf\xe9" in header
    with_record = set_record(header, RECORD)
    assert b"caf\xe9" in with_record
    assert read_record(with_record) == RECORD
    assert set_record(with_record, None) == header


@pytest.mark.parametrize("raw_name_bytes", range(1, 49))
def test_times_that_look_like_the_private_field_fool_nobody(raw_name_bytes: int) -> None:
    """The bytes 50 before the end of a header are a file's to choose where it has a raw name."""
    fake = struct.unpack("<q", struct.pack("<HHBBH", 0x6C53, 46, 1, 12, 0))[0]
    name = os.fsdecode(b"\xff" * raw_name_bytes)
    member = Member(name, 0o100644, 1, 2, fake, fake, fake, 6, 0, fake)
    header = central_header(member, 9)
    (read,) = read_headers(header)
    assert (read.flags & ~4, read.read_at) == (0, fake)
    assert read.fingerprint == fingerprint(fake, fake, fake, 6)
    with_record = set_record(header, RECORD)
    assert read_record(with_record) == RECORD
    assert set_record(with_record, None) == header


# Moved ------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(members(), _OFFSETS, _OFFSETS), min_size=1, max_size=6))
def test_moved_members_have_the_headers_they_would_have_had_there(
    listed: list[tuple[Member, int, int]],
) -> None:
    for member, old, new in listed:
        moved, count = relocate(central_header(member, old), new - old)
        expected = central_header(member, new)
        assert count == 1
        assert without_needed(moved) == without_needed(expected)
        needed, least = (struct.unpack_from("<H", each, 6)[0] for each in (moved, expected))
        assert needed in ((51,) if member.encrypted else (least, 45))


@given(st.lists(st.tuples(members(), _OFFSETS), min_size=1, max_size=6), st.integers(0, 1 << 40))
def test_all_members_are_moved_together_and_back(
    listed: list[tuple[Member, int]], shift: int
) -> None:
    catalogue = catalogue_of(listed)
    moved, count = relocate(memoryview(catalogue), shift)
    assert count == len(listed)
    assert [h.offset for h in read_headers(moved)] == [offset + shift for _, offset in listed]
    back, _ = relocate(moved, -shift)
    assert without_needed(back) == without_needed(catalogue)


# Damaged ----------------------------------------------------------------------------------------


def use(catalogue: bytes, chunk: int) -> None:
    """Do with a catalogue all that is done with that of a previous archive."""
    chunks = [catalogue[at : at + chunk] for at in range(0, len(catalogue), chunk)]
    record = read_record(catalogue)
    pieces = list(split(chunks))
    headers = [header for piece in pieces for header in read_headers(piece)]
    if record is None:
        return
    layout = Layout(Nowhere(), RECORD)
    for piece in pieces[:1]:
        layout.add(set_record(piece, None), 10)
    for piece in pieces:
        for header in read_headers(piece):  # any of them may be the first that is copied
            fresh = Layout(Nowhere(), RECORD)
            fresh.add(piece[header.start : header.end], -header.offset)
            assert b"".join(fresh.catalogue())
    assert headers


@given(
    st.lists(
        st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=8
    ),
    st.sampled_from([1, 46, 100, 1 << 20]),
)
def test_damaged_bytes_are_damage_and_nothing_else(
    changes: list[tuple[int, int]], chunk: int
) -> None:
    damaged = bytearray(SAMPLE)
    for at, value in changes:
        damaged[at] = value
    with suppress(DamagedError):
        use(bytes(damaged), chunk)


@pytest.mark.parametrize("value", [0x00, 0x04, 0x2C, 0x7F, 0xFF])
def test_no_damaged_byte_is_more_than_damage(value: int) -> None:
    for at in range(len(SAMPLE)):
        damaged = bytearray(SAMPLE)
        damaged[at] = value
        with suppress(DamagedError):
            use(bytes(damaged), 1 << 20)


@given(st.integers(0, len(SAMPLE) - 1), st.integers(1, 200))
def test_a_catalogue_that_is_cut_off_or_has_a_hole_is_damaged(at: int, hole: int) -> None:
    for damaged in (SAMPLE[:at], SAMPLE[:at] + SAMPLE[at + hole :]):
        with suppress(DamagedError):
            use(damaged, 1 << 20)
    ends = {0, *(header.end for header in read_headers(SAMPLE))}
    if at not in ends:
        with pytest.raises(DamagedError):
            list(split([SAMPLE[:at]]))


@given(st.binary(max_size=300), st.integers(0, len(SAMPLE)))
def test_noise_is_damage(noise: bytes, at: int) -> None:
    for damaged in (noise, SAMPLE[:at] + noise, noise + SAMPLE[at:], b"PK\x01\x02" + noise):
        with suppress(DamagedError):
            use(damaged, 64)


def test_a_header_without_the_private_field_is_known_as_such() -> None:
    whole = central_header(Member("a", 0o100644, 1, 2, 3, 4, 5, 6, 7, 8), 9)
    (read,) = read_headers(whole)
    assert read.version == PRIVATE_VERSION
    plain = bytearray(whole[: -PRIVATE.size])
    struct.pack_into("<H", plain, 30, len(plain) - 47)
    (read,) = read_headers(bytes(plain))
    assert (read.version, read.name, read.offset) == (0, "a", 9)
    assert read_record(bytes(plain)) is None
    with pytest.raises(DamagedError):
        set_record(bytes(plain), RECORD)


def test_a_header_of_another_program_is_damage() -> None:
    """One that was put into an archive of ours; it is full the next night."""
    plain = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 9, 1, 0, 0, 0, 0, 0, 9) + b"a"
    assert read_record(plain) is None
    with pytest.raises(DamagedError):
        list(read_headers(plain))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (6, 45),  # version needed
        (8, 0),  # general flags, which say that it is encrypted
        (16, 1),  # the CRC
        (46 + 1 + 9 + 15 + 4, 1),  # AE-1, which has one
        (46 + 1 + 9 + 15 + 8, 1),  # AES-128
        (46 + 1 + 9 + 15 + 9, 12),  # a method beneath that is none of ours
    ],
)
def test_another_encryption_than_ours_is_damage(at: int, value: int) -> None:
    member = Member("a", 0o100644, 1, 2, 3, 4, 5, 6, 7, 8, size=6, encrypted=True)
    header = bytearray(central_header(member, 9))
    (read,) = read_headers(bytes(header))
    assert (read.encrypted, read.method) == (True, STORED)
    assert header[at] != value
    header[at] = value
    with pytest.raises(DamagedError):
        list(read_headers(bytes(header)))


def test_the_catalogue_of_a_real_archive_is_read(tree: Path, tmp_path: Path) -> None:
    with storelet.ZipBackup("example") as backup:
        backup.include_directory(tree)
        backup.save_to_directory(tmp_path)
    (archive,) = tmp_path.glob("*.zip")
    data = archive.read_bytes()
    found = find_catalogue(data[-TAIL_BYTES:])
    assert found is not None
    offset, size = found
    record = read_record(data[offset : offset + size])
    assert record is not None
    assert (record.job, record.host) == ("example", os.uname().nodename)
    named = {header.name for header in read_headers(data[offset : offset + size])}
    assert {"hello.txt", "empty/", "größe ✓/naïve.txt"} <= named

"""The zip's records: as APPNOTE has them, read back by a parser of the tests' own."""

from __future__ import annotations

import io
import os
import stat
import time
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storelet.catalogue import set_record
from storelet.encryption import OVERHEAD, Encryptor
from storelet.zipformat import (
    CHANGED,
    DEFLATED,
    TRUNCATED,
    ArchiveRecord,
    Member,
    central_header,
    data_descriptor,
    end_records,
    local_header,
    needs_zip64,
    portable_name,
)
from tests.zipparser import ParsedZip, parse_zip

RECORD = ArchiveRecord(job="example", host="here", started_ns=1_366_561_800_123_456_789)
MEMBER = Member(
    name="file",
    mode=stat.S_IFREG | 0o644,
    uid=1000,
    gid=1000,
    mtime_ns=1_366_561_800_000_000_000,
    ctime_ns=1_366_561_801_000_000_000,
    inode=7,
    source_size=0,
    link_group=0,
    read_at=1_366_561_802,
)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
PASSWORD = "open sesame"
UINT32 = st.integers(0, 0xFFFFFFFF)
UINT64 = st.integers(0, (1 << 64) - 1)


def write_zip(*members: Member, data: bytes = b"") -> bytes:
    """Put together an archive in which every member has the content `data`."""
    archive = io.BytesIO()
    central = b""
    for member in members:
        compressor = zlib.compressobj(wbits=-15)
        deflated = compressor.compress(data) + compressor.flush()
        stored = deflated if member.method == DEFLATED else data
        if member.encrypted:
            encryptor = Encryptor(PASSWORD.encode())
            stored = encryptor.head + encryptor.update(stored) + encryptor.finish()
        whole = member._replace(crc=zlib.crc32(data), size=len(data), stored_size=len(stored))
        header = central_header(whole, archive.tell())
        central += header if central else set_record(header, RECORD)
        archive.write(local_header(whole) + stored)
        if member.streamed:
            archive.write(data_descriptor(whole))
    ends = end_records(len(members), len(central), archive.tell())
    return archive.getvalue() + central + ends


def read(*members: Member, data: bytes = b"") -> ParsedZip:
    return parse_zip(write_zip(*members, data=data), password=PASSWORD)


@given(
    member=st.builds(
        Member,
        name=st.text(min_size=1, max_size=50),
        mode=st.integers(0, 0xFFFF),
        uid=UINT32,
        gid=UINT32,
        mtime_ns=INT64,
        ctime_ns=INT64,
        inode=UINT64,
        source_size=UINT64,
        link_group=UINT32,
        read_at=INT64,
        flags=st.sampled_from([0, CHANGED, TRUNCATED, CHANGED | TRUNCATED]),
    ),
    kind=st.sampled_from(["stored", "deflated", "streamed", "zip64"]),
    data=st.binary(max_size=500),
)
def test_a_member_is_read_back_as_it_was_described(member: Member, kind: str, data: bytes) -> None:
    member = member._replace(
        name=member.name.rstrip("/") + "/" * stat.S_ISDIR(member.mode) or "x",
        method=0 if kind == "stored" else DEFLATED,
        streamed=kind in ("streamed", "zip64"),
        zip64=kind == "zip64",
    )
    parsed = read(member, data=data).members[0]
    assert parsed.name == portable_name(member.name).encode()
    assert parsed.data == data
    assert parsed.is_encrypted == member.encrypted
    assert parsed.mode == member.mode
    assert parsed.owner == (member.uid, member.gid)
    private = parsed.private
    for name in ("flags", "link_group", "mtime_ns", "ctime_ns", "inode", "source_size", "read_at"):
        assert getattr(private, name) == getattr(member, name)


def test_only_the_first_central_record_tells_of_the_archive() -> None:
    first, second = read(MEMBER, MEMBER._replace(name="other")).members
    assert first.private.archive == (RECORD.started_ns, "example", "here")
    assert second.private.archive is None


def test_the_private_field_stands_in_the_central_directory_alone() -> None:
    member = read(MEMBER).members[0]
    assert set(member.local_extra) == {0x5455, 0x7875}
    assert set(member.extra) == {0x5455, 0x7875, 0x6C53}


def test_members_are_made_by_unix_so_that_readers_believe_the_modes() -> None:
    assert read(MEMBER).members[0].made_by >> 8 == 3


def test_a_directory_is_marked_for_dos_too() -> None:
    directory = MEMBER._replace(name="sub/", mode=stat.S_IFDIR | 0o755)
    assert read(directory).members[0].external & 0xFFFF == 0x10
    assert read(MEMBER).members[0].external & 0xFFFF == 0


@pytest.mark.parametrize(
    ("raw", "portable"),
    [
        (b"plain", "plain"),
        ("größe ✓ \U0001f600".encode(), "größe ✓ \U0001f600"),
        (b"caf\xe9", "caf%E9"),
        (b"\xff\xfe/\x80", "%FF%FE/%80"),
        (b"100%", "100%"),
        ("ü".encode() + b"\xfc", "ü%FC"),
    ],
)
def test_names_that_are_not_utf_8_are_readable_elsewhere_and_kept_raw(
    raw: bytes, portable: str
) -> None:
    member = read(MEMBER._replace(name=os.fsdecode(raw))).members[0]
    assert member.name.decode() == portable
    assert member.private.raw_name == (None if raw == portable.encode() else raw)


def dos_time_of(mtime: float) -> tuple[int, ...]:
    """Return year, month, day, hour, minute, second as a reader of DOS times sees them."""
    ns = round(mtime * 1_000_000_000)
    date, clock = read(MEMBER._replace(mtime_ns=ns)).members[0].dos_time
    day = (1980 + (date >> 9), date >> 5 & 15, date & 31)
    return (*day, clock >> 11, clock >> 5 & 63, (clock & 31) * 2)


@pytest.fixture(params=["UTC", "America/St_Johns", "Pacific/Kiritimati"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the test in a time zone."""
    name = str(request.param)
    monkeypatch.setenv("TZ", name)
    time.tzset()
    request.addfinalizer(lambda: (monkeypatch.undo(), time.tzset()))
    return name


@pytest.mark.usefixtures("zone")
def test_dos_times_are_local_and_their_seconds_even() -> None:
    for mtime in (1_366_561_800, 1_366_561_801.9, 1_382_834_700, 946_684_799):
        local = time.localtime(mtime)
        assert dos_time_of(mtime) == (*local[:5], local.tm_sec // 2 * 2)


@pytest.mark.usefixtures("zone")
def test_dos_times_reach_from_1980_to_2107_and_are_the_nearest_beyond() -> None:
    first = time.mktime((1980, 1, 1, 0, 0, 0, 0, 0, -1))
    last = time.mktime((2107, 12, 31, 23, 59, 58, 0, 0, -1))
    for early in (first, first - 1, 0, -1, -(1 << 40), -(1 << 60)):
        assert dos_time_of(early) == (1980, 1, 1, 0, 0, 0)
    for late in (last, last + 1, last + 2, 1 << 40, 1 << 60):
        assert dos_time_of(late) == (2107, 12, 31, 23, 59, 58)
    assert dos_time_of(last - 2) == (2107, 12, 31, 23, 59, 56)
    assert dos_time_of(first + 2) == (1980, 1, 1, 0, 0, 2)


@pytest.mark.parametrize("seconds", [0, 1, 315_532_799, (1 << 31) - 1])
def test_the_extended_timestamp_holds_times_that_fit(seconds: int) -> None:
    member = read(MEMBER._replace(mtime_ns=seconds * 1_000_000_000 + 999)).members[0]
    assert member.mtime == seconds
    assert member.local_extra[0x5455] == member.extra[0x5455]


@pytest.mark.parametrize("seconds", [-(1 << 31), -1, 1 << 31, 1 << 32, 1 << 60])
def test_the_extended_timestamp_is_left_out_where_the_time_does_not_fit(seconds: int) -> None:
    member = read(MEMBER._replace(mtime_ns=seconds * 1_000_000_000)).members[0]
    assert member.mtime is None
    assert 0x5455 not in member.local_extra


@given(st.integers(-(1 << 63) * 1_000_000_000, (1 << 63) * 1_000_000_000))
@example(15_032_385_535 * 1_000_000_000)  # 2446, ext4's last second
@example(-(1 << 63) - 1)
@example(1 << 63)
def test_times_beyond_the_private_fields_range_are_the_nearest_it_has(ns: int) -> None:
    private = read(MEMBER._replace(mtime_ns=ns, ctime_ns=ns)).members[0].private
    assert private.mtime_ns == private.ctime_ns == max(-(1 << 63), min(ns, (1 << 63) - 1))


@pytest.mark.parametrize("field", ["size", "stored_size", "offset"])
@pytest.mark.parametrize(
    ("value", "is_wide"), [(0xFFFFFFFE, False), (0xFFFFFFFF, True), (1 << 40, True)]
)
def test_a_central_header_has_zip64_where_a_field_overflows_and_nowhere_else(
    field: str, value: int, is_wide: bool
) -> None:
    values = {"size": 1, "stored_size": 2, "offset": 3, field: value}
    offset = values.pop("offset")
    header = central_header(MEMBER._replace(**values), offset)
    assert (b"\x01\x00\x08\x00" + value.to_bytes(8, "little") in header) == is_wide
    assert header[6:8] == (b"\x2d\x00" if is_wide else b"\x0a\x00"), "version needed"
    at = {"stored_size": 20, "size": 24, "offset": 42}[field]
    assert header[at : at + 4] == min(value, 0xFFFFFFFF).to_bytes(4, "little")


def test_the_fields_of_zip64_stand_in_the_order_of_appnote_4_5_3() -> None:
    member = MEMBER._replace(size=1 << 33, stored_size=1 << 34)
    wide = b"".join(n.to_bytes(8, "little") for n in (1 << 33, 1 << 34, 1 << 35))
    assert b"\x01\x00\x18\x00" + wide in central_header(member, 1 << 35)


@pytest.mark.parametrize(
    ("count", "size", "offset", "is_wide"),
    [
        (0, 0, 0, False),
        (0xFFFE, 0xFFFFFFFE, 0xFFFFFFFE, False),
        (0xFFFF, 1, 1, True),
        (0x10000, 1, 1, True),
        (1, 0xFFFFFFFF, 1, True),
        (1, 1, 0xFFFFFFFF, True),
    ],
)
def test_end_records_have_zip64_where_a_field_overflows_and_nowhere_else(
    count: int, size: int, offset: int, is_wide: bool
) -> None:
    records = end_records(count, size, offset)
    assert len(records) == (22 + 20 + 56 if is_wide else 22)
    if is_wide:
        for number, at in ((count, 24), (count, 32), (size, 40), (offset, 48)):
            assert records[at : at + 8] == number.to_bytes(8, "little")
        assert records[56 + 8 : 56 + 16] == (offset + size).to_bytes(8, "little")


@pytest.mark.parametrize("size", [0, 1 << 20, 0xFFFFFFFF - 5_000_000])
def test_a_streamed_member_has_no_zip64_where_it_cannot_need_it(size: int) -> None:
    assert not needs_zip64(size)


@given(st.integers(0, 0xFFFFFFFF))
@example(4_290_676_619)
def test_a_streamed_member_never_outgrows_what_its_header_announced(size: int) -> None:
    # zlib.h on stored blocks: five bytes for each of up to 16,383, and what ends the stream.
    at_most = size + 5 * (size // 16_383 + 2) + 10 + OVERHEAD
    assert needs_zip64(size) or at_most < 0xFFFFFFFF


@pytest.mark.parametrize("kind", ["stored", "deflated", "streamed", "zip64"])
def test_what_is_encrypted_has_its_crc_nowhere(kind: str) -> None:
    member = MEMBER._replace(
        method=0 if kind == "stored" else DEFLATED,
        streamed=kind in ("streamed", "zip64"),
        zip64=kind == "zip64",
    )
    data = b"of this somebody may think"
    crc = zlib.crc32(data).to_bytes(4, "little")
    assert crc in write_zip(member, data=data)
    assert crc not in write_zip(member._replace(encrypted=True), data=data)


@pytest.mark.parametrize("size", [1, 1 << 40])
def test_who_knows_no_aes_is_told_so_by_the_version_needed(size: int) -> None:
    header = central_header(MEMBER._replace(encrypted=True, size=size), 0)
    assert header[6:8] == (51).to_bytes(2, "little")


def test_an_empty_archive_is_an_end_record() -> None:
    assert parse_zip(end_records(0, 0, 0)).members == []

"""Which members of the previous archive are taken for what is there now."""

from __future__ import annotations

import stat
import time
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storelet.catalogue import DamagedError
from storelet.destination.contract import Stored
from storelet.entry import Entry
from storelet.layout import Layout
from storelet.matching import PlanMatch, ReusePolicy, SpoolMatch
from storelet.plan import Plan
from storelet.previous import Members, PreviousArchive
from storelet.reuse import find_spans
from storelet.zipformat import (
    CHANGED,
    RACY_NS,
    TRUNCATED,
    ArchiveRecord,
    Member,
    central_header,
    local_header,
)

STARTED = 1_700_000_000_000_000_000
RECORD = ArchiveRecord(job="example", host="a host", started_ns=STARTED)
ENTRY = Entry(
    "/srv/file",
    "file",
    stat.S_IFREG | 0o644,
    5,
    STARTED - RACY_NS - 1,
    STARTED - RACY_NS - 1,
    7,
    8,
    1,
    1000,
    100,
)
LOOSE = ReusePolicy(ctime=False, inode=False)


def member_of(entry: Entry, **changes: Any) -> Member:
    member = Member(
        entry.name,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        entry.ctime_ns,
        entry.inode,
        entry.size,
        0,
        STARTED // 1_000_000_000,
        crc=zlib.crc32(b"hello"),
        size=entry.size,
        stored_size=entry.size,
    )
    return member._replace(**changes)


class Bytes(bytearray):
    """A sink."""

    def write(self, data: bytes | memoryview) -> None:
        self.extend(data)


def archive_of(members: Sequence[Member]) -> PreviousArchive:
    """Make an archive with such members, as it is read from a destination."""
    data = Bytes()
    layout = Layout(data, RECORD)
    for member in members:
        start = layout.offset
        layout.write(local_header(member) + bytes(member.stored_size))
        layout.add(central_header(member, 0), start)
    stored = Stored(name="example_20230101000000.zip", size=len(data), version="1", modified=0)
    return PreviousArchive(stored, RECORD, Members(layout.headers(), layout.offset))


def plan_of(entries: Sequence[Entry]) -> Plan:
    plan = Plan()
    for entry in entries:
        assert plan.add(entry) is None
    return plan


def is_live(entry: Entry, member: Member | None = None, policy: ReusePolicy | None = None) -> bool:
    """Tell whether the member of ENTRY, or another one, is taken for `entry`."""
    match = PlanMatch(plan_of([entry]), policy or ReusePolicy())
    live = match.find_live(archive_of([member or member_of(ENTRY)]))
    return live == b"\1"


def test_a_file_with_the_same_stat_is_reused() -> None:
    assert is_live(ENTRY)
    assert is_live(ENTRY, policy=LOOSE)
    assert is_live(ENTRY._replace(path="/mnt/elsewhere"))


def test_a_file_that_has_become_a_link_or_is_none_any_more_is_read() -> None:
    """Links that are copied and others that are read must go on to be known as one file."""
    linked = ENTRY._replace(links=2)
    for policy in (None, LOOSE):
        assert not is_live(linked, policy=policy)
        assert not is_live(ENTRY, member_of(ENTRY, link_group=ENTRY.device), policy)
        assert is_live(linked, member_of(ENTRY, link_group=ENTRY.device), policy)


@pytest.mark.parametrize(
    ("change", "is_seen_loosely"),
    [
        ({"size": 6}, True),
        ({"mtime_ns": ENTRY.mtime_ns - 1}, True),
        ({"mtime_ns": ENTRY.mtime_ns - 1_000_000_000}, True),
        ({"ctime_ns": ENTRY.ctime_ns - 1}, False),
        ({"inode": 9}, False),
    ],
)
def test_any_change_of_the_stat_is_seen_unless_it_is_left_out(
    change: dict[str, int], is_seen_loosely: bool
) -> None:
    changed = ENTRY._replace(**change)
    assert not is_live(changed)
    assert is_live(changed, policy=LOOSE) is not is_seen_loosely


def test_what_is_left_out_is_left_out_alone() -> None:
    no_ctime, no_inode = ReusePolicy(ctime=False), ReusePolicy(inode=False)
    other_ctime = ENTRY._replace(ctime_ns=ENTRY.ctime_ns - 1)
    other_inode = ENTRY._replace(inode=9)
    assert is_live(other_ctime, policy=no_ctime)
    assert not is_live(other_ctime, policy=no_inode)
    assert is_live(other_inode, policy=no_inode)
    assert not is_live(other_inode, policy=no_ctime)


@pytest.mark.parametrize(
    "change",
    [
        {"uid": 0},
        {"gid": 0},
        {"mode": stat.S_IFREG | 0o600},
        {"mode": stat.S_IFREG | stat.S_ISUID | 0o644},
        {"mode": stat.S_IFLNK | 0o644},
    ],
)
def test_without_the_ctime_owner_and_mode_must_be_the_same(change: dict[str, int]) -> None:
    changed = ENTRY._replace(ctime_ns=ENTRY.ctime_ns - 1, **change)
    assert not is_live(changed, policy=ReusePolicy(ctime=False))
    assert not is_live(changed, policy=LOOSE)
    # Also where the ctime, which the policy does not trust, happens to be the same.
    assert not is_live(ENTRY._replace(**change), policy=ReusePolicy(ctime=False))
    assert not is_live(ENTRY._replace(**change), policy=LOOSE)


@pytest.mark.parametrize("which", ["mtime_ns", "ctime_ns"])
def test_what_may_have_changed_once_more_when_it_was_read_is_not_trusted(which: str) -> None:
    for ns, expected in ((-RACY_NS - 1, True), (-RACY_NS, False), (0, False), (10**12, False)):
        entry = ENTRY._replace(**{which: STARTED + ns})
        assert is_live(entry, member_of(entry)) is expected


def test_a_ctime_that_is_left_out_may_be_new() -> None:
    entry = ENTRY._replace(ctime_ns=STARTED)
    assert is_live(entry, member_of(entry), LOOSE)
    entry = ENTRY._replace(mtime_ns=STARTED)
    assert not is_live(entry, member_of(entry), LOOSE)


@pytest.mark.parametrize("flags", [CHANGED, TRUNCATED, CHANGED | TRUNCATED])
def test_what_was_not_read_well_is_read_again(flags: int) -> None:
    for policy in (None, LOOSE):
        assert not is_live(ENTRY, member_of(ENTRY, flags=flags), policy)


def test_a_file_is_no_directory_and_a_link_no_file() -> None:
    directory = ENTRY._replace(name="file/", mode=stat.S_IFDIR | 0o755)
    assert not is_live(directory)
    assert not is_live(ENTRY, member_of(directory))
    assert is_live(directory, member_of(directory))
    other = ENTRY._replace(name="other")
    assert not is_live(other)


def test_names_that_are_not_utf8_are_found() -> None:
    entry = ENTRY._replace(name="caf\udce9/gr\udcfc\udcdfe", path="/srv/caf\udce9/gr\udcfc\udcdfe")
    assert is_live(entry, member_of(entry))


def test_two_raw_names_that_look_alike_are_not_taken_for_each_other() -> None:
    """One is `caf%E9` by its own name, the other as readers see it."""
    plain, raw = ENTRY._replace(name="caf%E9"), ENTRY._replace(name="caf\udce9")
    assert not is_live(plain, member_of(raw), LOOSE)
    assert not is_live(raw, member_of(plain), LOOSE)


def test_times_beyond_64_bits_are_compared_as_far_as_they_go() -> None:
    entry = ENTRY._replace(mtime_ns=-(1 << 70), ctime_ns=-(1 << 70))
    assert is_live(entry, member_of(entry))
    entry = ENTRY._replace(mtime_ns=1 << 70)
    assert not is_live(entry, member_of(entry)), "it is not older than the archive"


def test_members_without_a_private_field_of_this_version_are_nobodys() -> None:
    whole = archive_of([member_of(ENTRY)])
    header = central_header(member_of(ENTRY), 0)
    at = header.index(b"\x53\x6c\x2e\x00")
    changed = bytearray(header)
    for version, expected in ((1, b"\1"), (0, b"\0"), (2, b"\0"), (255, b"\0")):
        changed[at + 4] = version
        for match in (
            PlanMatch(plan_of([ENTRY]), ReusePolicy()),
            SpoolMatch(archive_of([member_of(ENTRY)]).members),
        ):
            members = Members([bytes(changed)], whole.stored.size)
            assert match.find_live(PreviousArchive(whole.stored, RECORD, members)) == expected


def test_members_that_overlap_are_damage() -> None:
    for offsets in ([0, 0], [100, 50], [0, 1 << 20]):
        headers = b"".join(
            central_header(member_of(ENTRY._replace(name=f"f{at}")), offset)
            for at, offset in enumerate(offsets)
        )
        previous = archive_of([member_of(ENTRY)])
        damaged = PreviousArchive(previous.stored, RECORD, Members([headers], 1 << 20))
        with pytest.raises(DamagedError):
            PlanMatch(plan_of([ENTRY]), ReusePolicy()).find_live(damaged)


# All together -----------------------------------------------------------------------------------

_NAMES = [f"{directory}{name}" for directory in ("", "d/", "d/e/") for name in "abcx"]


@given(st.data())
def test_every_entry_is_either_copied_or_wanted(data: st.DataObject) -> None:
    """Whatever was before, and whichever spans are chosen of it."""
    names = st.lists(st.sampled_from(_NAMES), unique=True)
    before, now = data.draw(names), data.draw(names)
    directories = [ENTRY._replace(name=n, mode=stat.S_IFDIR | 0o755) for n in ("d/", "d/e/")]
    old = [*directories, *(ENTRY._replace(name=name) for name in before)]
    new = [*directories, *(ENTRY._replace(name=name) for name in now)]
    changed = data.draw(st.sets(st.sampled_from([entry.name for entry in new])))
    new = [e._replace(mtime_ns=e.mtime_ns - (e.name in changed)) for e in new]
    plan = plan_of(new)
    match = PlanMatch(plan, ReusePolicy())
    previous = archive_of([member_of(entry) for entry in old])
    live = match.find_live(previous)
    spans = find_spans(previous.members.offsets, live)
    chosen = [span for span in spans if data.draw(st.booleans())]
    copied = [old[member].name for span in chosen for member in range(span.first, span.stop)]
    wanted = match.wanted(chosen)
    left = [
        entry.name
        for shelf in plan.shelves
        for batch in shelf.batches()
        for number, entry in enumerate(batch.entries, batch.first)
        if wanted[shelf][number]
    ]
    assert sorted([*copied, *left]) == sorted(entry.name for entry in new)
    assert changed.isdisjoint(copied)
    assert {old[member].name for member, is_live in enumerate(live) if is_live} == (
        {entry.name for entry in new} & {entry.name for entry in old}
    ) - changed


@given(st.data())
def test_of_a_spooled_archive_each_member_is_either_copied_or_sent(data: st.DataObject) -> None:
    names = st.lists(st.sampled_from(_NAMES), unique=True, min_size=1)
    contents = st.sampled_from([(1, 10), (2, 10), (1, 20)])
    old, new = ({name: data.draw(contents) for name in data.draw(names)} for _ in ("before", "now"))

    def members(listed: dict[str, tuple[int, int]], read_at: int) -> list[Member]:
        return [
            member_of(ENTRY._replace(name=name, size=size), crc=crc, read_at=read_at)
            for name, (crc, size) in listed.items()
        ]

    spooled = archive_of(members(new, 2)).members
    match = SpoolMatch(spooled)
    previous = archive_of(members(old, 1))
    live = match.find_live(previous)
    spans = find_spans(previous.members.offsets, live)
    chosen = [span for span in spans if data.draw(st.booleans())]
    copied = [list(old)[m] for span in chosen for m in range(span.first, span.stop)]
    for spans in ((), chosen, ()):
        wanted = match.wanted(spans)
        left = [name for name, is_wanted in zip(new, wanted, strict=True) if is_wanted]
        assert sorted([*(copied if spans else ()), *left]) == sorted(new)
    assert all(old[name] == new[name] for name in copied)


@pytest.mark.parametrize(
    "change",
    [
        {"crc": 1},
        {"size": 6, "stored_size": 6},
        {"mtime_ns": 1},
        {"uid": 0},
        {"gid": 0},
        {"mode": stat.S_IFREG | 0o600},
        {"name": "other"},
        {"flags": CHANGED},
        {"flags": TRUNCATED},
    ],
)
def test_of_a_spooled_archive_only_the_same_members_are_copied(change: dict[str, Any]) -> None:
    member = member_of(ENTRY)
    for changed, expected in ((member, b"\1"), (member._replace(**change), b"\0")):
        match = SpoolMatch(archive_of([member]).members)
        assert match.find_live(archive_of([changed])) == expected
    later = member._replace(ctime_ns=STARTED, inode=99, read_at=int(time.time()))
    assert SpoolMatch(archive_of([member]).members).find_live(archive_of([later])) == b"\1"

"""The plan of an archive and the names that are taken in it."""

from __future__ import annotations

import stat
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storelet.entry import Entry
from storelet.names import Names
from storelet.observer import Skipped
from storelet.output import Output
from storelet.plan import WHOLE_BYTES, Facts, Filler, Plan, Shelf
from storelet.zipformat import fingerprint, portable_name


def entry(name: str, *, size: int = 10, path: str | None = None, inode: int = 1) -> Entry:
    """Make an entry, of a directory where the name ends in `/`."""
    kind = stat.S_IFDIR | 0o755 if name.endswith("/") else stat.S_IFREG | 0o644
    at = path or f"/srv/{name.rstrip('/')}"
    return Entry(at, name, kind, size, 2, 3, 4, inode, 1, 1000, 100)


def entries_of(shelf: Shelf) -> list[Entry]:
    return [each for batch in shelf.batches() for each in batch.entries]


# Names ------------------------------------------------------------------------------------------


class Model:
    """Which names are taken, told by the rule: one name is one file, directories merge."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.directories: set[str] = set()

    def take(self, name: str) -> bool:
        """Take a name and the directories above it; tell whether it could be had."""
        bare = name.rstrip("/")
        parents = {bare[:at] for at, char in enumerate(bare) if char == "/"}
        if name.endswith("/"):
            parents.add(bare)
        elif bare in self.directories or bare in self.files:
            return False
        if parents & self.files:
            return False
        self.directories |= parents
        if not name.endswith("/"):
            self.files.add(bare)
        return True


_PARTS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4)
_NAMED = st.tuples(_PARTS, st.booleans()).map(lambda each: "/".join(each[0]) + "/" * each[1])


@given(st.lists(_NAMED, max_size=30))
def test_one_name_is_one_file_and_directories_merge(names: list[str]) -> None:
    model, plan = Model(), Plan()
    planned = []
    for number, name in enumerate(names):
        could = model.take(name)
        said = plan.add(entry(name, path=f"/srv/{number}"))
        assert (said is None) == could, name
        if said is not None:
            assert said.path == f"/srv/{number}"
        elif name not in planned:
            planned.append(name)
    assert [each.name for each in entries_of(plan.directories)] == [
        name for name in planned if name.endswith("/")
    ]
    assert [each.name for each in entries_of(plan.files)] == [
        name for name in planned if not name.endswith("/")
    ]
    for name in {*planned, *names, "nothing", "a/nothing", "nothing/"}:
        found = plan.find(name)
        assert (found is not None) == (name in planned)
        if found is not None:
            shelf, number = found
            assert entries_of(shelf)[number].name == name


def test_a_name_that_is_refused_takes_nothing() -> None:
    names = Names()
    assert names.take(entry("a/b"), 0) is None
    assert names.take(entry("a/b/c/d"), 1) == 0
    assert names.find("a/b/c/d") is None
    assert names.take(entry("a"), 1) is not None
    assert names.find("a") is None
    assert names.find("a/") is None, "implied, and no member itself"
    assert names.take(entry("a/"), 2) is None
    assert names.find("a/") == 2


def test_who_has_the_name_is_said() -> None:
    plan = Plan()
    plan.add(entry("www/index", path="/srv/one/index"))
    assert plan.add(entry("www/index", path="/srv/two/index")) == Skipped(
        path="/srv/two/index",
        reason="www/index is taken by /srv/one/index; give another name=",
    )
    said = plan.add(entry("www/index/below", path="/srv/two/below"))
    assert said is not None
    assert "www/index is taken by /srv/one/index" in said.reason
    said = plan.add(entry("www", path="/srv/www"))
    assert said is not None
    assert "is a directory in the archive" in said.reason


def test_names_are_compared_as_readers_see_them() -> None:
    plan = Plan()
    assert plan.add(entry("caf\udce9")) is None
    said = plan.add(entry("caf%E9", path="/srv/plain"))
    assert said is not None
    assert said.path == "/srv/plain"
    assert plan.find("caf%E9") == (plan.files, 0)
    assert plan.add(entry("d\udce9/file")) is None
    assert plan.find(portable_name("d\udce9/file")) == (plan.files, 1)


@pytest.mark.parametrize("char", ["a", "é", "✓", "\udce9"])
def test_a_name_too_long_for_a_zip_is_skipped(char: str) -> None:
    bytes_each = len(portable_name(char).encode())
    longest = (0x7000 - 1) // bytes_each
    plan = Plan()
    assert plan.add(entry(char * longest)) is None
    said = plan.add(entry(char * (longest + 1)))
    assert said is not None
    assert "too long" in said.reason


# Batches ----------------------------------------------------------------------------------------

_SIZES = st.one_of(st.integers(0, 5000), st.sampled_from([WHOLE_BYTES, WHOLE_BYTES + 1, 1 << 33]))


@given(st.lists(_SIZES, max_size=300), st.integers(0, 300))
def test_batches_hold_all_in_order_and_a_large_file_is_one_by_itself(
    sizes: list[int], closed_at: int
) -> None:
    shelf = Shelf()
    listed = [entry(f"f{number}", size=size, inode=number) for number, size in enumerate(sizes)]
    for number, each in enumerate(listed):
        if number == closed_at:  # somebody looks, and goes on
            assert [e for b in shelf.batches() for e in b.entries] == listed[:number]
        shelf.add(each)
    batches = shelf.batches()
    assert [each for batch in batches for each in batch.entries] == listed
    assert shelf.count == len(listed)
    assert shelf.bytes == sum(sizes)
    first = 0
    for batch in batches:
        assert (batch.first, batch.size) == (first, len(batch.entries))
        first += batch.size
        large = [each for each in batch.entries if each.size > WHOLE_BYTES]
        assert batch.is_large == bool(large)
        assert not large or batch.size == 1
        assert sum(each.size for each in batch.entries) <= 2 * WHOLE_BYTES or large
        assert batch.cost >= sum(each.size for each in batch.entries)
    for number, each in enumerate(listed):
        assert shelf.entry(number) == each
        assert shelf.facts(number) == Facts(0, 0, each.uid, each.gid, each.mode)
        assert shelf.fingerprint(number) == fingerprint(
            each.mtime_ns, each.ctime_ns, each.inode, each.size
        )


def test_links_and_raw_names_are_facts() -> None:
    shelf = Shelf()
    linked = entry("a")._replace(links=2, device=7)
    for each in (linked, entry("caf\udce9"), entry("caf%E9"), entry("d/")._replace(links=9)):
        shelf.add(each)
    assert [shelf.facts(number).link_group for number in range(4)] == [7, 0, 0, 0]
    raw_names = [shelf.facts(number).raw_name for number in range(4)]
    assert [bool(raw_name) for raw_name in raw_names] == [False, True, False, False]


def test_an_entry_that_is_not_there_is_none() -> None:
    shelf = Shelf()
    shelf.add(entry("a"))
    with pytest.raises(IndexError):
        shelf.entry(1)


def test_batches_from_a_point_on_are_those_behind_it() -> None:
    shelf = Shelf()
    for number in range(300):
        shelf.add(entry(f"f{number}"))
    shelf.batches()
    first = shelf.count
    for number in range(300, 500):
        shelf.add(entry(f"f{number}"))
    later = [each.name for batch in shelf.batches(first) for each in batch.entries]
    assert later == [f"f{number}" for number in range(300, 500)]


def test_long_names_make_short_batches() -> None:
    """A batch travels to a helper in the slot that its answer comes back in."""
    filler = Filler()
    listed = [entry("n" * 4000 + str(number)) for number in range(100)]
    batches = [batch for each in listed for batch in filler.add(each)]
    batches += filler.close()
    assert [each for batch in batches for each in batch.entries] == listed
    assert max(batch.size for batch in batches) < 20
    assert all(len(batch.marshalled) < 200_000 for batch in batches)
    assert list(filler.close()) == []


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 0, 0, 0),
        ((1 << 63) - 1, -(1 << 63), (1 << 64) - 1, (1 << 63) - 1),
        (1 << 80, -(1 << 80), 1, 1),
    ],
)
def test_any_stat_is_kept(numbers: Sequence[int]) -> None:
    mtime_ns, ctime_ns, inode, size = numbers
    odd = entry("odd")._replace(
        mtime_ns=mtime_ns,
        ctime_ns=ctime_ns,
        inode=inode,
        size=size,
        uid=0xFFFFFFFE,
        gid=0xFFFFFFFE,
        device=(1 << 64) - 1,
    )
    plan = Plan()
    plan.add(odd)
    assert entries_of(plan.files) == [odd]
    assert plan.files.facts(0)[2:] == (0xFFFFFFFE, 0xFFFFFFFE, odd.mode)
    assert plan.files.fingerprint(0) == fingerprint(mtime_ns, ctime_ns, inode, size)


def test_what_nobody_knows_the_size_of_counts_for_nothing() -> None:
    """Parts of an upload are as large as what is to come wants them."""
    plan = Plan()
    plan.add(entry("a", size=10))
    before = plan.files.size_of(None)
    plan.add_output(Output("dump", ["true"]))
    assert plan.files.size_of(None) == plan.files.size_of(bytearray([1, 1])) == before + 512

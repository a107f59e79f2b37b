"""The planner of copies: what is chosen of the previous archive, and how it is cut."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storelet.destination.directory import Directory
from storelet.destination.s3 import S3
from storelet.reuse import CopyLimits, Span, choose, cut, expire, find_spans

MIB = 1 << 20
GIB = 1 << 30
S3_LIMITS = S3("bucket").copy_limits
DIRECTORY_LIMITS = Directory("/nowhere").copy_limits
TINY_LIMITS = CopyLimits(smallest=3, usual=6, largest=10, most=4)


@st.composite
def limits(draw: st.DrawFn) -> CopyLimits:
    """Make limits of a few bytes; what is cut in two must still be large enough."""
    smallest = draw(st.integers(1, 8))
    usual = draw(st.integers(2 * smallest, 4 * smallest))
    largest = draw(st.integers(usual, 6 * smallest))
    most = draw(st.integers(1, 12))
    return CopyLimits(smallest=smallest, usual=usual, largest=largest, most=most)


@st.composite
def archives(draw: st.DrawFn, largest: int = 40) -> tuple[list[int], bytearray]:
    """Make the offsets of members, that of the catalogue behind them, and which are live."""
    sizes = draw(st.lists(st.integers(1, largest), min_size=1, max_size=60))
    start = draw(st.integers(0, 5))  # a damaged archive may begin with anything
    live = draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    return list(accumulate(sizes, initial=start)), bytearray(live)


@st.composite
def large_archives(draw: st.DrawFn) -> tuple[list[int], bytearray]:
    """Make the same with members of such sizes that S3's limits matter."""
    size = st.one_of(
        st.integers(30, 4 * MIB),
        st.sampled_from([5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 128 * MIB, 128 * MIB + 1]),
        st.integers(4 * GIB, 6000 * GIB),
    )
    sizes = draw(st.lists(size, min_size=1, max_size=40))
    live = draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    return list(accumulate(sizes, initial=0)), bytearray(live)


def members_of(spans: list[Span]) -> list[int]:
    return [member for span in spans for member in range(span.first, span.stop)]


def check_chosen(offsets: list[int], live: bytearray, limits: CopyLimits) -> None:
    """Check all that is promised of what is copied of an archive."""
    found = find_spans(offsets, live)
    assert members_of(found) == [member for member, is_live in enumerate(live) if is_live]
    assert all(a.stop < b.first for a, b in pairwise(found)), "neighbours are one span"
    for span in found:
        assert span.offset == offsets[span.first]
        assert span.offset + span.size == offsets[span.stop]
    chosen = choose(found, limits)
    assert chosen == [span for span in found if span in chosen], "in order, each once"
    pieces = cut(chosen, limits)
    assert len(pieces) <= limits.most
    assert all(limits.smallest <= size <= limits.largest for _, size in pieces)
    rest = iter(pieces)
    for span in chosen:
        at = span.offset
        while at < span.offset + span.size:
            offset, size = next(rest)
            assert offset == at
            at += size
        assert at == span.offset + span.size
    assert not list(rest)
    left = [span for span in found if span.size >= limits.smallest and span not in chosen]
    if left:  # only where there are too many, and then the smallest
        assert len(cut([*chosen, *left], limits)) > limits.most
        assert max(span.size for span in left) <= min((s.size for s in chosen), default=1 << 99)


@given(archives(), limits())
def test_live_members_are_copied_once_in_order_within_the_limits(
    archive: tuple[list[int], bytearray], limits: CopyLimits
) -> None:
    check_chosen(*archive, limits)


@given(large_archives())
def test_the_limits_of_s3_hold_for_archives_of_any_size(
    archive: tuple[list[int], bytearray],
) -> None:
    check_chosen(*archive, S3_LIMITS)


@given(archives())
def test_a_directory_copies_every_span_in_one_piece(
    archive: tuple[list[int], bytearray],
) -> None:
    check_chosen(*archive, DIRECTORY_LIMITS)
    found = find_spans(*archive)
    assert choose(found, DIRECTORY_LIMITS) == found
    assert cut(found, DIRECTORY_LIMITS) == [(span.offset, span.size) for span in found]


def test_the_limits_of_s3_are_those_of_its_guide() -> None:
    assert S3_LIMITS.smallest == 5 * MIB
    assert S3_LIMITS.largest == 5 * GIB
    assert S3_LIMITS.most < 10_000, "something is left for fresh parts"
    assert S3_LIMITS.usual >= 2 * S3_LIMITS.smallest


@pytest.mark.parametrize(
    ("size", "count"),
    [(5 * MIB - 1, 0), (5 * MIB, 1), (128 * MIB, 1), (128 * MIB + 1, 2), (256 * MIB + 1, 3)],
)
def test_a_span_is_copied_from_5_mib_on_and_cut_beyond_128(size: int, count: int) -> None:
    offsets = [0, 10, 10 + size, 20 + size]
    assert (
        len(cut(choose(find_spans(offsets, bytearray([0, 1, 0])), S3_LIMITS), S3_LIMITS)) == count
    )


def test_an_archive_of_40_tib_is_copied_whole() -> None:
    offsets = [0, 40 << 40]
    chosen = choose(find_spans(offsets, bytearray([1])), S3_LIMITS)
    assert [span.size for span in chosen] == [40 << 40]
    assert len(cut(chosen, S3_LIMITS)) <= S3_LIMITS.most


def test_of_too_many_spans_the_largest_are_copied() -> None:
    sizes = [5 * MIB + number for number in range(10_001)]
    offsets = list(accumulate((each for size in sizes for each in (size, 1)), initial=0))
    found = find_spans(offsets, bytearray([1, 0] * len(sizes)))
    chosen = choose(found, S3_LIMITS)
    assert S3_LIMITS.most - 10 < len(chosen) <= S3_LIMITS.most
    assert chosen == found[-len(chosen) :]


@given(
    archives(),
    st.lists(st.integers(0, 9), min_size=60, max_size=60),
    st.integers(-1, 11),
    st.integers(0, 300),
)
def test_what_expires_is_the_oldest_and_keeps_its_budget(
    archive: tuple[list[int], bytearray], read_at: list[int], before: int, budget: int
) -> None:
    offsets, live = archive
    spans = choose(find_spans(offsets, live), TINY_LIMITS)
    chosen = expire(spans, offsets, read_at, before=before, budget=budget)
    sizes = [offsets[member + 1] - offsets[member] for member in chosen]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(members_of(spans))
    assert sum(sizes[:-1]) < budget or not chosen, "it ends with the member that reaches it"
    old = [member for member in members_of(spans) if read_at[member] < before]
    if not old or not budget:
        assert chosen == []
        return
    oldest = min(read_at[member] for member in old)
    span = next(each for each in spans if each.first <= chosen[0] < each.stop)
    assert oldest in read_at[span.first : span.stop]
    assert chosen[0] == next(m for m in range(span.first, span.stop) if read_at[m] < before)
    if sum(sizes) < budget:
        assert set(old) <= set(chosen)


def test_what_expires_is_one_piece_of_a_span() -> None:
    offsets = [0, 10, 20, 30, 40, 50]
    span = Span(0, 5, 0, 50)
    read_at = [9, 3, 8, 3, 9]
    assert expire([span], offsets, read_at, before=5, budget=25) == [1, 2, 3]
    assert expire([span], offsets, read_at, before=3, budget=25) == []


def test_all_that_is_old_expires_in_the_end() -> None:
    """Each night a thirtieth: after some more than thirty nights nothing old is left."""
    sizes = [7 + number % 5 for number in range(200)]
    offsets = list(accumulate(sizes, initial=0))
    read_at = [0] * len(sizes)
    for night in range(31, 31 + 40):
        old = expire(
            find_spans(offsets, bytearray(b"\1" * len(sizes))),
            offsets,
            read_at,
            before=night - 30,
            budget=offsets[-1] // 30,
        )
        assert sum(sizes[member] for member in old) < offsets[-1] // 30 + max(sizes)
        for member in old:
            read_at[member] = night
    assert min(read_at) >= 31

"""Proofs: for every member it is remembered when it was proved last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from storeletd.proofs import CIRCLE, Proof, find_needed, find_next, find_whole_since

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PIECES = 8  # arcs that the circle is looked at in
PIECE = CIRCLE // PIECES


def prove(first: int, size: int, day: int) -> Proof:
    at = BEGIN + timedelta(days=day)
    return Proof(place="here", archive="a", first=first * PIECE, size=size * PIECE, proved_at=at)


def last_proved(proofs: list[Proof], piece: int) -> datetime | None:
    """Return when a piece was proved last; the slow way."""
    times = [
        proof.proved_at
        for proof in proofs
        if (piece - proof.first // PIECE) % PIECES < proof.size // PIECE
    ]
    return max(times, default=None)


some_proofs = st.lists(st.tuples(st.integers(0, PIECES - 1), st.integers(1, PIECES)), max_size=12)


@given(some_proofs)
def test_forgetting_what_is_not_needed_changes_nothing(arcs: list[tuple[int, int]]) -> None:
    proofs = [prove(*arc, day) for day, arc in enumerate(arcs)][::-1]
    needed = find_needed(proofs)
    for piece in range(PIECES):
        assert last_proved(needed, piece) == last_proved(proofs, piece)
    assert len(needed) <= PIECES
    assert find_whole_since(needed) == find_whole_since(proofs)


@given(some_proofs)
def test_all_is_proved_since_the_member_was_that_waits_longest(arcs: list[tuple[int, int]]) -> None:
    proofs = [prove(*arc, day) for day, arc in enumerate(arcs)][::-1]
    times = [last_proved(proofs, piece) for piece in range(PIECES)]
    assert find_whole_since(proofs) == (None if None in times else min(filter(None, times)))


def test_one_part_comes_after_the_other_and_round_again() -> None:
    proofs: list[Proof] = []
    for day in range(5):
        proofs.insert(0, prove(find_next(proofs) // PIECE, 3, day))
    assert [proof.first // PIECE for proof in proofs[::-1]] == [0, 3, 6, 1, 4]
    assert find_whole_since(proofs[-2:]) is None
    assert find_whole_since(proofs[-3:]) == BEGIN


def test_a_sample_that_is_no_whole_part_leaves_no_gap() -> None:
    size, proofs = round(0.3 * CIRCLE), [prove(0, 0, 0)]
    for day in range(4):
        first = find_next(proofs)
        at = BEGIN + timedelta(days=day)
        proof = Proof(place="here", archive="a", first=first, size=size, proved_at=at)
        proofs.insert(0, proof)
    assert find_whole_since(proofs) == BEGIN

"""Proofs: which members of a job's archives were verified when; pure.

Each member has a point on a circle of CIRCLE points, by its name, and keeps it from one archive to
the next. A verification proves all members on one arc of it, so a few proofs say of each member,
however many there are, when it was proved; and where the next one begins at the end of the last,
everything is proved in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

__all__ = ["CIRCLE", "Proof", "find_needed", "find_next", "find_whole_since", "sort_by_place"]

CIRCLE = 1 << 32

_Arc = tuple[int, int]  # from a point to the one behind the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A part of an archive that was read back and is right."""

    place: str  # the destination that has it
    archive: str  # URL
    first: int  # point on the circle
    size: int  # points, up to CIRCLE
    proved_at: datetime


def sort_by_place(proofs: Iterable[Proof]) -> dict[str, list[Proof]]:
    """Return the proofs of each place, in the order in which they come."""
    places: dict[str, list[Proof]] = {}
    for proof in proofs:
        places.setdefault(proof.place, []).append(proof)
    return places


def find_next(proofs: Sequence[Proof]) -> int:
    """Return where the next verification of a place begins; its proofs are the newest first."""
    return (proofs[0].first + proofs[0].size) % CIRCLE if proofs else 0


def find_needed(proofs: Iterable[Proof]) -> list[Proof]:
    """Return the proofs of a place that say of some member when it was last proved.

    Both the newest first.
    """
    needed = []
    left: list[_Arc] = [(0, CIRCLE)]
    for proof in proofs:
        still_left = _cut(left, proof)
        if still_left != left:
            needed.append(proof)
        left = still_left
    return needed


def find_whole_since(proofs: Iterable[Proof]) -> datetime | None:
    """Return since when all of a place is proved: None where some of it never was."""
    left: list[_Arc] = [(0, CIRCLE)]
    for proof in proofs:
        left = _cut(left, proof)
        if not left:
            return proof.proved_at
    return None


def _cut(arcs: list[_Arc], proof: Proof) -> list[_Arc]:
    """Return what a proof leaves of the arcs."""
    end = proof.first + proof.size
    for first, stop in ((proof.first, min(end, CIRCLE)), (0, end - CIRCLE)):
        if first < stop:
            arcs = [piece for arc in arcs for piece in _cut_one(arc, first, stop)]
    return arcs


def _cut_one(arc: _Arc, first: int, stop: int) -> list[_Arc]:
    pieces = ((arc[0], min(arc[1], first)), (max(arc[0], stop), arc[1]))
    return [piece for piece in pieces if piece[0] < piece[1]]

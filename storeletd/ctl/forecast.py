"""How long a run will take, as far as the last good one tells.

Pure; times are seconds since the run began. What is done is the least of three parts: of the
files that were read then, of the bytes read and of the bytes sent. Until anything is done the
time then taken counts down. From then on two rates are weighed: that of then, and more and more
that of now. Nothing is said where there is no good run to go by, nor from when on this one does
more than that did, or takes longer to begin. What is said moves slowly, so that it can be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from storeletd.ctl.replies import Progress, Run
from storeletd.ctl.summaries import find_took

__all__ = ["Forecast", "find_basis"]

_GOOD = ("success", "partial")
_MORE = 1.05  # times what was done then is still the same: files grow a bit
_SECONDS = 5.0  # in which what is said has gone most of the way to what is thought


def find_basis(runs: Sequence[Run]) -> Run | None:
    """Return which of a job's runs, newest first, tells how long the next backup takes.

    That is the last good one. But after one that read everything the next may well reuse nearly
    all of it: it counts only where the good one before it reused nothing either.
    """
    good = [run for run in runs if run["kind"] == "backup" and run["outcome"] in _GOOD][:2]
    reused = [run["files"]["reused"] > 0 for run in good]
    return good[0] if reused[:1] == [True] or reused == [False, False] else None


class Forecast:
    """What is thought of one run."""

    def __init__(self, basis: Run) -> None:
        files, size = basis["files"], basis["bytes"]
        self._whole = (files["read"], size["read"], size["sent"])
        self._took = find_took(basis) or 0.0
        self._waited: float | None = None  # before anything was done
        self._end: float | None = self._took  # as it is said
        self._seen_at = 0.0

    def see(self, progress: Progress, elapsed: float) -> None:
        """Take note how far the run is."""
        if self._end is None:
            return
        parts = self._find_parts(progress)
        done = min(parts, default=0.0)
        if done and self._waited is None:
            self._waited = elapsed
        waited = self._waited or 0.0
        if max(parts, default=0.0) > _MORE or waited > self._took:
            self._end = None
            return
        if done:
            rest = max(1 - done, 0.0)
            then, now = self._took - waited, (elapsed - waited) / done  # what all of it takes
            thought = elapsed + rest * (rest**3 * then + (1 - rest**3) * now)
            moved = 1 - math.exp((self._seen_at - elapsed) / _SECONDS)
            self._end += (thought - self._end) * moved
        self._seen_at = elapsed

    def left(self, elapsed: float) -> float | None:
        """Return how many seconds there are left, at least one; None where that is unknown."""
        if self._end is None or self._end - elapsed < 1:
            return None
        return self._end - elapsed

    def _find_parts(self, progress: Progress) -> Sequence[float]:
        files, size = progress["files"], progress["bytes"]
        done = (files["read"], size["read"], size["sent"])
        return [now / then for now, then in zip(done, self._whole, strict=True) if then]

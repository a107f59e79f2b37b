"""What a worker is told: one JSON document on its standard input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from storeletd.brake import Measure
from storeletd.events import OpenedUpload
from storeletd.jobs import Job
from storeletd.troubles import Letter

__all__ = ["Order", "Sample", "Summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Which part of the newest archive at each place is to be verified."""

    part: float  # of all members, up to 1
    firsts: Mapping[str, int] = field(default_factory=dict)  # where it begins; see `proofs`


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run, as its hooks and pings are told of it."""

    run_id: int
    kind: Literal["backup", "verify"]
    outcome: str = ""  # while it is on there is none
    message: str = ""  # why it is not a success
    archives: tuple[str, ...] = ()  # URLs of what it saved
    log: str = ""  # its last lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job, what to do for it, and what its earlier runs have left."""

    job: Job
    # abort `uploads`, ask destinations, send `letters`, do what comes after a run: no runs
    kind: Literal["backup", "verify", "abort", "ask", "notify", "after"]
    summary: Summary | None = None  # of the run that it is, or comes after
    uploads: tuple[OpenedUpload, ...] = ()  # aborted before anything is sent to their buckets
    before: Measure | None = None  # the last good backup
    held_why: str | None = None  # nothing is to be pruned
    sample: Sample | None = None  # what to verify
    letters: tuple[Letter, ...] = ()  # to be sent

    def to_json(self) -> str:
        """Return the order for a worker; it may hold secrets in plain text."""
        return json.dumps(
            {
                "job": self.job.to_json(),
                "kind": self.kind,
                "summary": self.summary and asdict(self.summary),
                "uploads": [asdict(upload) for upload in self.uploads],
                "before": self.before and asdict(self.before),
                "held_why": self.held_why,
                "sample": self.sample and asdict(self.sample),
                "letters": [asdict(letter) for letter in self.letters],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        values = json.loads(text)
        return cls(
            job=Job.from_json(values["job"]),
            kind=values["kind"],
            summary=values["summary"] and _read_summary(values["summary"]),
            uploads=tuple(OpenedUpload(**upload) for upload in values["uploads"]),
            before=values["before"] and Measure(**values["before"]),
            held_why=values["held_why"],
            sample=values["sample"] and Sample(**values["sample"]),
            letters=tuple(Letter(**letter) for letter in values["letters"]),
        )


def _read_summary(values: Mapping[str, Any]) -> Summary:
    return Summary(**{**values, "archives": tuple(values["archives"])})

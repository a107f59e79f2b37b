"""What a worker is told: one JSON document on its standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from storeletd.events import OpenedUpload
from storeletd.jobs import Job

__all__ = ["Order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job, what to do for it, and what its earlier runs have left."""

    job: Job
    kind: Literal["backup", "abort", "ask"]  # abort `uploads`, ask destinations: those are no runs
    uploads: tuple[OpenedUpload, ...]  # to be aborted, before anything is sent to their buckets

    def to_json(self) -> str:
        """Return the order for a worker; it may hold secrets in plain text."""
        return json.dumps(
            {
                "job": self.job.to_json(),
                "kind": self.kind,
                "uploads": [asdict(upload) for upload in self.uploads],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        values = json.loads(text)
        return cls(
            job=Job.from_json(values["job"]),
            kind=values["kind"],
            uploads=tuple(OpenedUpload(**upload) for upload in values["uploads"]),
        )

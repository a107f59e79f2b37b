"""The JSON of the control socket, as the daemon's server documents it.

Times are ISO 8601 with offset; sizes are bytes. Nothing but shapes: no values, no behaviour.
"""

from __future__ import annotations

from typing import Any, TypedDict

__all__ = [
    "Archive",
    "Bytes",
    "BytesSoFar",
    "Due",
    "Files",
    "Health",
    "Hold",
    "Job",
    "JobDetails",
    "Jobs",
    "Problem",
    "Progress",
    "Reload",
    "Run",
    "RunDetails",
    "Setting",
    "SkippedEntry",
    "Verification",
]


class Due(TypedDict):
    """The due times a run stands for."""

    first: str
    last: str
    count: int


class Archive(TypedDict):
    """An archive that a run saved."""

    url: str
    bytes: int
    bytes_reused: int
    bytes_sent: int
    requests: int


class Files(TypedDict):
    """What became of the files that were found in the sources."""

    seen: int  # reused, read and skipped together
    reused: int
    read: int
    skipped: int  # not, or not whole, in the archive


class Bytes(TypedDict):
    """What a run did, over all its archives."""

    archive: int
    reused: int  # of the archive
    read: int  # from sources
    sent: int


class Run(TypedDict):
    """One run, whatever its state."""

    id: int
    job: str
    kind: str
    cause: str
    state: str  # queued, running, finished
    outcome: str | None
    exit_code: int | None  # of the outcome
    due: Due | None
    queued_at: str
    begun_at: str | None
    finished_at: str | None
    message: str | None
    hint: str | None
    files: Files
    bytes: Bytes
    requests: int
    notes: list[str]  # worth knowing, and of no effect on the outcome
    archives: list[Archive]
    collided_with: int | None
    repeats: int | None  # the first run of all that were for the same
    attempt: int  # the how manieth of them this is
    retry_at: str | None  # it is to be repeated, not before then


class SkippedEntry(TypedDict):
    """An entry that is not in the archive."""

    path: str
    reason: str


class RunDetails(Run):
    """A run with what was kept of it."""

    skipped_entries: list[SkippedEntry]
    output: list[str]


class Problem(TypedDict):
    """What is wrong with a job file, or with the job directory."""

    file: str
    line: int | None
    key: str | None
    message: str
    hint: str | None
    loaded: bool  # an older good version of the job is loaded


class Verification(TypedDict):
    """How archives of a job were verified."""

    outcome: str | None  # of the last one
    finished_at: str | None
    message: str | None
    hint: str | None
    proved_at: str | None  # the last good one
    proved_whole_since: str | None  # all in turn; None where some of it never was
    next_due: str | None


class Hold(TypedDict):
    """Nothing is pruned."""

    since: str
    why: str


class Job(TypedDict):
    """A loaded job."""

    name: str
    path: str
    language: str
    state: str  # idle, queued, running, verifying, broken, paused, waiting
    schedule: list[str]
    timezone: str
    next_due: str | None  # not in a pause
    next_start: str | None  # later than that by the random delay
    paused: bool
    paused_until: str | None  # None where it has no end, either
    overdue_since: str | None
    waits_for: str | None  # what a catch-up waits for
    problem: str | None
    last_run: Run | None  # a backup, as the next three; also one that is not finished
    last_finished: Run | None
    last_archive: Archive | None
    last_success: str | None
    last_good: str | None  # success or partial
    verification: Verification | None  # None where there never was nor will be one
    prune_held: Hold | None
    runs: list[Run]  # its last, as many as were asked for, newest first


Setting = TypedDict("Setting", {"value": Any, "from": str})


class JobDetails(Job):
    """A loaded job with its settings and some runs."""

    settings: dict[str, Setting]
    problems: list[Problem]  # with its file


class Jobs(TypedDict):
    """All jobs, and all that is wrong with files."""

    jobs: list[Job]
    problems: list[Problem]


class Health(TypedDict):
    """The daemon itself."""

    status: str
    version: str
    pid: int
    started: str
    jobs_directory: str
    state_directory: str
    jobs: int
    problems: int
    running: int
    queued: int


class Reload(TypedDict):
    """What a reload changed; names of jobs."""

    added: list[str]
    changed: list[str]
    removed: list[str]
    problems: list[Problem]


class BytesSoFar(TypedDict):
    """The bytes a run has moved so far."""

    read: int  # from sources
    sent: int  # to destinations


class Progress(TypedDict):
    """How far a run is."""

    files: Files
    bytes: BytesSoFar
    current: str | None  # path of the entry it is at

"""One run: from its row in history to its outcome.

A run, as `ActiveRun.work` reads:

1. its row, which is in history already, becomes `running`;
2. a worker is started under a keeper and told the job;
3. its events and output are taken down while its time is watched;
4. when all its processes are gone it has its outcome, and its job's commands for that are run;
5. the row is closed, by one statement;
6. journal and followers are told.

Whatever goes wrong, a run gets an outcome. Where the history cannot be written just then, the
closed row is kept to be written later (`record`). What is not guaranteed: that a worker ends at
once when told to; its keeper sees to it that it ends within the grace.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from storeletd import journal
from storeletd.aftermath import Aftermath
from storeletd.brake import Measure
from storeletd.database import HistoryError
from storeletd.events import (
    Busy,
    Ended,
    EndedUpload,
    Event,
    Held,
    Logged,
    Noted,
    OpenedUpload,
    Progress,
    Proved,
    SavedArchive,
    SkippedEntry,
    conclude,
    decode,
)
from storeletd.history import KEPT_SKIPPED, History
from storeletd.jobs import Job, make_printable
from storeletd.jobstate import JobStates
from storeletd.launch import start_worker
from storeletd.limits import TimeLimits
from storeletd.order import Order, Sample, Summary
from storeletd.planner import find_retry
from storeletd.process import WorkerProcess
from storeletd.proofs import Proof, find_next, sort_by_place
from storeletd.records import EXIT_CODES, Run

__all__ = ["ActiveRun", "Message"]

_log = logging.getLogger("storeletd.run")

OUTPUT_LINES = 200  # of a run, kept in history
_LOG_CHARACTERS = 10_000  # of them, that are told somebody
_FOLLOWER_LAG = 10_000  # messages a follower may be behind before lines are dropped

_LOG_LEVELS = {
    "success": logging.INFO,
    "partial": logging.WARNING,
    "skipped": logging.WARNING,
    "cancelled": logging.WARNING,
}


@dataclass(frozen=True, slots=True)
class Message:
    """What a follower of a run gets."""

    kind: Literal["state", "log", "progress", "finished"]
    data: Run | Logged | Progress  # a Run for `state` and `finished`


class ActiveRun:
    """One run that waits or is on."""

    def __init__(
        self,
        job: Job,
        run: Run,
        history: History,
        states: JobStates,
        *,
        sample: float | None = None,
    ) -> None:
        self.job = job
        self.run = run
        self.lines: deque[Logged] = deque(maxlen=OUTPUT_LINES)
        self.task: asyncio.Task[None] | None = None
        self.is_recorded = False  # whether its outcome is in history
        self._history = history
        self._states = states
        self._sample = sample  # of a verification, if not what the job says
        self._process: WorkerProcess | None = None
        self._ending: Ended | None = None  # how we ended it, whatever the worker says
        self._last_word: Ended | None = None
        self._skipped: list[SkippedEntry] = []
        self._aftermath = Aftermath(
            job, history.directory, take=self._take, take_output=self._take_output
        )
        self._followers: set[asyncio.Queue[Message]] = set()
        self._limits = TimeLimits(
            timeout=job.settings.timeout, idle_timeout=job.settings.idle_timeout, end=self._time_out
        )

    async def work(self) -> None:
        """Do the run, whatever becomes of it, to its outcome."""
        try:
            self._begin()
            ended = self._conclude(await self._run_worker())
        except OSError as error:
            ended = Ended(outcome="failed", message=f"no worker could be started: {error}")
        except Exception as error:  # noqa: BLE001 - every run gets an outcome
            _log.exception("Run %d broke off", self.run.id)
            ended = Ended(outcome="failed", message=f"storeletd failed: {error!r}")
        await self._see_aftermath(ended)
        self.finish(ended)

    def end(self, ending: Ended) -> None:
        """Tell the worker to end; the first reason given is the run's outcome.

        Unless the worker has said its own: then it is only on its way out.
        """
        if self._last_word is None:
            self._ending = self._ending or ending
        self._aftermath.hurry()
        if self._process is not None:
            self._process.terminate()

    def finish(self, ended: Ended) -> None:
        """Close the row and tell everybody."""
        code = EXIT_CODES[ended.outcome] if ended.exit_code is None else ended.exit_code
        now = _now()
        self.run = replace(
            self.run,
            state="finished",
            outcome=ended.outcome,
            exit_code=code,
            finished_at=now,
            message=ended.message,
            hint=ended.hint,
            retry_at=self._find_retry(ended, now),
        )
        self.record()
        said = ended.outcome
        said += f": {ended.message}" if ended.message else ""
        said += f" ({ended.hint})" if ended.hint else ""
        if self.run.retry_at is not None and ended.outcome != "cancelled":
            said += f"; again at {self.run.retry_at.astimezone():%H:%M:%S}"
        said += _describe_figures(self.run)
        level = _LOG_LEVELS.get(ended.outcome, logging.ERROR)
        self._log(level, f"Run {self.run.id} of {self.job.name}: {said}", event="run-finished")
        self._publish(Message("finished", self.run))

    def record(self) -> bool:
        """Write the closed row into history; return whether that could be done."""
        output = [line.message for line in self.lines]
        try:
            self._history.finish(self.run, output=output, skipped=self._skipped)
        except HistoryError as error:
            _log.error("The outcome of run %d is not in history yet: %s", self.run.id, error)
            return False
        self.is_recorded = True
        return True

    async def follow(self) -> AsyncIterator[Message]:
        """Yield how it stands, the lines so far, and then what happens until the end."""
        if self.run.state == "finished":  # its end was told before; it is about to be let go of
            yield Message("finished", self.run)
            return
        queue: asyncio.Queue[Message] = asyncio.Queue()
        queue.put_nowait(Message("state", self.run))
        for line in self.lines:
            queue.put_nowait(Message("log", line))
        self._followers.add(queue)
        try:
            while True:
                message = await queue.get()
                yield message
                if message.kind == "finished":
                    return
        finally:
            self._followers.discard(queue)

    def _begin(self) -> None:
        self.run = self._history.start(self.run, now=_now())
        what = "" if self.run.kind == "backup" else f"{self.run.kind}, "
        message = f"Run {self.run.id} of {self.job.name} begins ({what}{self.run.cause})"
        self._log(logging.INFO, message, event="run-begun")
        self._publish(Message("state", self.run))

    async def _run_worker(self) -> int:
        """Start the worker and see it through; return its exit status."""
        self._process = await start_worker(self._make_order(), self._history.directory)
        if self._ending:  # cancelled while it was being started
            self._process.terminate()
        with self._limits:
            return await self._process.see_through(self._take_event, self._take_output)

    async def _see_aftermath(self, ended: Ended) -> None:
        """Do what the job wants after its runs; whatever becomes of it, the outcome stays."""
        archives = tuple(archive.url for archive in self.run.archives)
        summary = replace(
            self._summary,
            outcome=ended.outcome,
            message=ended.message or "",
            archives=archives,
            log="\n".join(line.message for line in self.lines)[-_LOG_CHARACTERS:],
        )
        await self._aftermath.see_through(summary)

    @property
    def _summary(self) -> Summary:
        return Summary(run_id=self.run.id, kind=self.run.kind)

    def _make_order(self) -> Order:
        if self.run.kind == "verify":
            return Order(
                job=self.job, kind="verify", summary=self._summary, sample=self._find_sample()
            )
        state, before = self._states.get(self.job.name), None
        uploads: tuple[OpenedUpload, ...] = ()
        try:
            uploads = self._history.left_uploads(self.job.name)
            before = self._history.last_good(self.job.name)
        except HistoryError as error:  # the job's next run aborts them
            _log.error("What earlier runs have left cannot be looked up: %s", error)
        return Order(
            job=self.job,
            kind="backup",
            summary=self._summary,
            uploads=uploads,
            before=_measure(before),
            held_why=state.held_why if state else None,
        )

    def _find_sample(self) -> Sample:
        said = self.job.settings.verify
        part = self._sample or (said.sample if said else 1.0)
        places = sort_by_place(self._history.proofs(self.job.name))
        firsts = {place: find_next(proofs) for place, proofs in places.items()}
        return Sample(part=part, firsts=firsts)

    def _time_out(self, why: str, is_idle: bool) -> None:
        self.end(Ended(outcome="timeout", message=why, is_temporary=is_idle))

    def _find_retry(self, ended: Ended, now: datetime) -> datetime | None:
        """Return when the run is to be repeated, where what ended it may pass by itself.

        Who started it by hand knows how it ended, and may start it again.
        """
        if not ended.is_temporary or self.run.cause == "manual":
            return None
        if ended.outcome == "cancelled":  # by the end of the daemon: the next one repeats it
            return now if self.run.is_owed_when_cut_short else None
        settings = self.job.settings
        return find_retry(
            retries=settings.retries,
            wait=settings.retry_wait,
            attempt=self.run.attempt,
            ended_at=now,
        )

    def _take_event(self, line: bytes) -> None:
        try:
            self._take(decode(line))
        except ValueError as error:
            _log.warning("Run %d: %s", self.run.id, error)

    def _take(self, event: Event) -> None:
        match event:
            case Logged():
                self._take_line(event)
            case Progress():
                self._take_progress(event)
            case Busy(is_busy=is_busy):
                self._limits.set_busy(is_busy)
            case SkippedEntry() if len(self._skipped) < KEPT_SKIPPED:
                self._skipped.append(event)
            case SavedArchive():
                self.run = replace(self.run, archives=(*self.run.archives, event))
            case Noted(message=message) if message not in self.run.notes:
                self.run = replace(self.run, notes=(*self.run.notes, message))
            case OpenedUpload() | EndedUpload():
                self._take_upload(event)
            case Proved():
                self._take_proof(event)
            case Held(why=why):
                self._hold(why)
            case Ended():
                self._last_word = self._last_word or event

    def _take_upload(self, event: OpenedUpload | EndedUpload) -> None:
        """Write it at once: it is needed when this run, or the daemon, ends in no order."""
        try:
            if isinstance(event, OpenedUpload):
                self._history.open_upload(self.run.id, event)
            else:
                self._history.end_upload(self.job.name, event.upload_id)
        except HistoryError as error:  # the bucket's lifecycle rule is what remains
            _log.error("An upload of run %d is not in history: %s", self.run.id, error)

    def _take_proof(self, event: Proved) -> None:
        proof = Proof(**asdict(event), proved_at=_now())
        try:
            self._history.add_proof(self.job.name, proof)
        except HistoryError as error:  # it is proved once more then
            _log.error("What run %d has verified is not in history: %s", self.run.id, error)

    def _hold(self, why: str) -> None:
        state = self._states.get(self.job.name)
        if state is not None:
            self._states.put(replace(state, held_since=_now(), held_why=why))
        self._log(
            logging.ERROR,
            f"Nothing of {self.job.name} is pruned from now on: {make_printable(why)};"
            f" if that is as it should be: storeletctl resume-prune {self.job.name}",
            event="prune-held",
        )

    def _take_output(self, line: str) -> None:
        self._take_line(Logged(level=logging.INFO, message=line))

    def _take_line(self, line: Logged) -> None:
        # What jobs print may hold anything; tabs may stay.
        message = "\t".join(map(make_printable, line.message.split("\t")))
        line = replace(line, message=message)
        self.lines.append(line)
        self._log(line.level, line.message)
        self._publish(Message("log", line))

    def _take_progress(self, progress: Progress) -> None:
        self._limits.see_bytes()
        self.run = replace(
            self.run,
            files=progress.files,
            bytes_read=progress.bytes_read,
            reused=progress.reused,
            skipped=progress.skipped,
        )
        self._publish(Message("progress", progress))

    def _conclude(self, status: int) -> Ended:
        said = self._ending or self._last_word
        if said is not None:
            return said
        return conclude(status, saved=len(self.run.archives), skipped=self.run.skipped)

    def _publish(self, message: Message) -> None:
        for queue in self._followers:
            if queue.qsize() < _FOLLOWER_LAG or message.kind in ("state", "finished"):
                queue.put_nowait(message)

    def _log(self, level: int, message: str, *, event: str | None = None) -> None:
        # The message is never a format, and never an argument: journald would get both.
        extra = journal.fields(
            event=event, job=self.job.name, run=self.run.id, outcome=self.run.outcome
        )
        _log.log(level, message, extra=extra)


def _describe_figures(run: Run) -> str:
    """Return what an archive took, for the journal; nothing of a run that saved none."""
    if run.kind == "verify":
        return f"; checked {run.files:,} members, {run.bytes_read:,} bytes"
    if not run.archives:
        return ""
    size = sum(archive.bytes for archive in run.archives)
    sent = sum(archive.bytes_sent for archive in run.archives)
    return f"; read {run.files:,} of {run.files_seen:,} files, sent {sent:,} of {size:,} bytes"


def _measure(run: Run | None) -> Measure | None:
    """Return what a backup found, where it saved something."""
    if run is None or not run.archives:
        return None
    largest = max(archive.bytes for archive in run.archives)
    return Measure(bytes=largest, seen=run.files_seen, changed=run.files)


def _now() -> datetime:
    return datetime.now(UTC)

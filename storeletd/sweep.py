"""Sweeps: at the daemon's start, an end of the uploads that lost runs left.

What such an upload has sent costs money until it is aborted, and the job's next run, which would
do it, may be a week away. Only workers speak with destinations: one is started for each job that
has left some, one after the other, like that of a run. But a sweep is no run.

A Python module alone knows its destinations: what its runs left, its next run aborts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from storeletd import journal
from storeletd.database import HistoryError
from storeletd.errand import do_errand
from storeletd.events import EndedUpload, Event, Logged
from storeletd.history import History
from storeletd.jobs import Job, make_printable
from storeletd.order import Order

__all__ = ["abort_left_uploads"]

_log = logging.getLogger("storeletd.sweep")


async def abort_left_uploads(jobs: Iterable[Job], history: History) -> None:
    """Abort what runs of each job have left; what cannot be is said, and stays in history."""
    for job in jobs:
        if job.language == "yaml":
            sweep = _Sweep(job, history)
            try:
                await sweep.work()
            except (OSError, ValueError, HistoryError) as error:
                sweep.log(logging.WARNING, f"Uploads that runs of {job.name} left: {error}")


class _Sweep:
    """The sweep of one job's destinations."""

    def __init__(self, job: Job, history: History) -> None:
        self._job = job
        self._history = history

    async def work(self) -> None:
        """Have a worker do it, where there is anything to do.

        Raises OSError, HistoryError, and ValueError where the worker says what is no event.
        """
        uploads = self._history.left_uploads(self._job.name)
        if not uploads:
            return
        order = Order(job=self._job, kind="abort", uploads=uploads)
        ended = await do_errand(order, self._history.directory, self._take_event, self._take_output)
        if ended is not None and ended.message is not None:
            self.log(logging.WARNING, ended.message)
        left = set(uploads).intersection(self._history.left_uploads(self._job.name))
        for upload in left:
            message = f"A lost upload of {upload.key} to bucket {upload.bucket} was not aborted"
            self.log(logging.WARNING, message)
        if aborted := len(uploads) - len(left):
            self.log(logging.INFO, f"Lost uploads of {self._job.name}: {aborted} aborted")

    def log(self, level: int, message: str) -> None:
        """Log under the job's name."""
        _log.log(level, make_printable(message), extra=journal.fields(job=self._job.name))

    def _take_event(self, event: Event) -> None:
        match event:
            case Logged(level=level, message=message):
                self.log(level, message)
            case EndedUpload(upload_id=upload_id):
                self._history.end_upload(self._job.name, upload_id)

    def _take_output(self, line: str) -> None:
        self.log(logging.INFO, line)

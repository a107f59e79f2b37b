"""The worker: the child process that does one run.

1. it reads its order from standard input and where to report from its environment;
2. a YAML job becomes calls of the library, one for one; a Python module is executed as
   `__main__`, in the text that was checked. Uploads that earlier runs have left are aborted by
   the library when it comes to their buckets, or, where that is the order, at once;
3. what the library reports, and what is logged, goes to the runner as events;
4. its last event is the outcome.

Nobody imports this module: the daemon runs it, and here alone a job's own code is executed.
"""

from __future__ import annotations

import atexit
import linecache
import logging
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Literal, NoReturn

import storelet
from storeletd import events, secrets
from storeletd.brake import Measure, find_anomaly
from storeletd.channel import Channel
from storeletd.destinations import find_directories, prune_archives, set_environment
from storeletd.hooks import run_after, run_before
from storeletd.jobs import Job
from storeletd.order import Order
from storeletd.proving import verify_archives
from storeletd.rights import hint_at_rights
from storeletd.steps import abort_uploads, ask_destinations, run_settings

_log = logging.getLogger("storeletd.worker")

_PROGRESS_SECONDS = 0.2
_STATUS = {"success": 0, "partial": 3, "failed": 1, "skipped": 75}  # should nobody get the word
_TEXT_CHARACTERS = 8_000  # of a message: what a module raises or logs may be of any length
_FILE_LINES = 1_000  # of "Added file …" in the log of a run with `log_files: auto`


def main() -> int:
    """Do the run that standard input describes; its outcome is the last event."""
    channel = Channel(int(os.environ.pop(events.EVENTS_FD)))
    signal.signal(signal.SIGTERM, _exit_in_order)
    order = Order.from_json(sys.stdin.read())
    _detach_standard_input()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # it is a text file
    reporter = _Reporter(channel)
    with (
        _logging_to(channel, order.job.settings.log_files),
        storelet.observe(reporter.observe),
        storelet.never_include(os.environ.pop("STATE_DIRECTORY")),
        storelet.never_include(os.environ["TMPDIR"]),
        storelet.abandoned([storelet.AbandonedUpload(**asdict(each)) for each in order.uploads]),
    ):
        ended = _run(order, channel, reporter.figures)
    reporter.send_progress()
    channel.send(ended)
    return _STATUS[ended.outcome]


def _run(order: Order, channel: Channel, figures: storelet.Figures) -> events.Ended:
    """Do what is ordered and say how it ended."""
    status = 0
    try:
        set_environment(order.job)
        if order.kind not in ("backup", "verify"):
            _run_errand(order, channel)
            return events.Ended(outcome="success")
        if not _run_before(order, channel):
            return events.Ended(outcome="skipped", message="its command of before says not now")
        _ping_start(order, channel)
        if order.kind == "verify":
            assert order.sample is not None  # noqa: S101 - the order says of what
            verify_archives(order.job, order.sample, channel.send)
            return events.Ended(outcome="success")
        if order.job.language == "yaml":
            run_settings(order.job)
        else:
            _run_module(order.job)
    except storelet.StoreletError as error:
        channel.check_process()
        return _describe(error, hint_at_rights(error, find_directories(order.job)))
    except SystemExit as error:
        channel.check_process()
        status = _find_status(error)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything
        channel.check_process()
        with suppress(Exception):  # it may have closed or replaced standard error
            told = "".join(traceback.format_exception(error))
            print(secrets.mask(told), end="", file=sys.stderr)  # noqa: T201 - as Python does
        said = traceback.format_exception_only(error)[-1].strip()
        return events.Ended(outcome="failed", message=said[:_TEXT_CHARACTERS])
    channel.check_process()
    ended = events.conclude(status, saved=len(figures.archives), skipped=figures.skipped)
    if order.job.settings.keep is not None:
        _prune(order, channel, ended, figures)
    return ended


def _run_errand(order: Order, channel: Channel) -> None:
    """Do what is ordered and is no run. Raises StoreletError."""
    match order.kind:
        case "abort":
            abort_uploads(order.job)
        case "ask":
            ask_destinations(order.job)
        case "notify":
            from storeletd.posting import post_letters  # 0.1 s that no other order needs

            post_letters(order.job, order.letters)
        case "after":
            from storeletd.pinging import ping_end

            assert order.summary is not None  # noqa: S101 - the order says of which run
            with ThreadPoolExecutor(1) as pool:  # neither is to wait for the other
                pinged = pool.submit(ping_end, order.job, order.summary)
                for reason in run_after(order.job, order.summary):
                    _warn(channel, reason)
                _warn(channel, pinged.result())


def _warn(channel: Channel, reason: str | None) -> None:
    """Say what went wrong, if anything, and changes nothing about the outcome."""
    if reason is not None:
        _log.warning("%s", reason)
        channel.send(events.Noted(message=reason[:_TEXT_CHARACTERS]))


def _run_before(order: Order, channel: Channel) -> bool:
    """Run the job's `before`, during which nothing is idle; return whether the run goes on."""
    if order.job.settings.before is None:
        return True
    assert order.summary is not None  # noqa: S101 - the order says of which run
    channel.send(events.Busy(is_busy=True))
    is_going_on = run_before(order.job, order.summary)
    channel.send(events.Busy(is_busy=False))
    return is_going_on


def _ping_start(order: Order, channel: Channel) -> None:
    if order.job.settings.healthchecks is not None:
        from storeletd.pinging import ping_start  # few jobs need it

        assert order.summary is not None  # noqa: S101 - the order says of which run
        _warn(channel, ping_start(order.job, order.summary))


def _prune(order: Order, channel: Channel, ended: events.Ended, figures: storelet.Figures) -> None:
    """Delete what the job lets go; where that cannot be, the run is what it was."""
    if ended.outcome != "success":
        reasons = ["the newest archive is not whole"]
    elif order.held_why is not None:
        reasons = [f"held, {order.held_why}; storeletctl resume-prune {order.job.name}"]
    elif anomaly := find_anomaly(order.before, _measure(figures)):
        channel.send(events.Held(why=anomaly))
        reasons = [f"{anomaly}; storeletctl resume-prune {order.job.name}"]
    else:
        reasons = prune_archives(order.job)[1]
    for reason in reasons:
        _warn(channel, f"not pruned: {reason}")


def _measure(figures: storelet.Figures) -> Measure:
    """Return what the run found; where nothing could be reused, nobody knows what changed."""
    return Measure(
        bytes=max(archive.bytes for archive in figures.archives),
        seen=figures.files + figures.reused + figures.skipped,
        changed=0 if figures.not_reused else figures.files,
    )


def _describe(error: storelet.StoreletError, hint: str | None) -> events.Ended:
    """Return the last word about an error; a module's own may hold anything."""
    return events.Ended(
        outcome="failed",
        message=str(error.message)[:_TEXT_CHARACTERS],
        hint=None if hint is None else str(hint)[:_TEXT_CHARACTERS],
        exit_code=error.exit_code if isinstance(error.exit_code, int) else None,
        is_temporary=bool(error.is_temporary),
    )


def _find_status(error: SystemExit) -> int:
    """Return the status that Python itself would end with."""
    match error.code:
        case None:
            return 0
        case int(code):
            return code & 0xFF
        case said:
            with suppress(Exception):  # as above
                print(said, file=sys.stderr)  # noqa: T201 - as Python does
            return 1


def _run_module(job: Job) -> None:
    """Execute a Python backup module as `python FILE` would, in the text that was checked."""
    module = types.ModuleType("__main__")
    module.__file__ = job.path
    sys.modules["__main__"] = module
    # Last, not first: a job called queue.py must not be imported where Python's queue is meant.
    sys.path.append(os.path.dirname(job.path))
    sys.argv = [job.path]
    # A traceback would quote its lines, which may hold keys, and as the file is by now.
    linecache.cache[job.path] = (0, None, [], job.path)
    try:
        exec(compile(job.source, job.path, "exec"), module.__dict__)  # noqa: S102 - our purpose
    finally:
        _finish_module()


def _finish_module() -> None:
    """Wait for threads and call what atexit knows, as Python does when a script ends."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()


def _detach_standard_input() -> None:
    """Let what the job starts find the end of its input, not ours."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _exit_in_order(_number: int, _frame: types.FrameType | None) -> NoReturn:
    """End by an exception, so that uploads are aborted and temporary directories removed."""
    raise SystemExit(128 + signal.SIGTERM)


class _Reporter:
    """The observer: counts the library's events and passes on what the runner wants to know."""

    def __init__(self, channel: Channel) -> None:
        self.figures = storelet.Figures()
        self._channel = channel
        self._truncated = 0  # files that were read, and are not whole
        self._checked = 0  # members that were read back
        self._bytes_checked = 0
        self._current: str | None = None
        self._next_progress = 0.0
        self._filling = 0  # new directories, at this moment
        # What is sent in several threads is reported in them; again, should a signal interrupt us.
        self._observing = threading.RLock()

    def observe(self, event: storelet.Event) -> None:
        with self._observing:
            self._observe(event)

    def _observe(self, event: storelet.Event) -> None:
        self.figures.count(event)
        match event:
            case storelet.Added(path=path):
                self._current = path
                self._send_progress_if_due()
            case storelet.Moved():
                self._send_progress_if_due()
            case storelet.Restored(bytes=size):
                self._checked += 1
                self._bytes_checked += size
                self._send_progress_if_due()
            case storelet.Filling(is_over=is_over):
                self._filling += -1 if is_over else 1
                self._channel.send(events.Busy(is_busy=self._filling > 0))
            case storelet.Skipped(path=path, reason=reason):
                self._channel.send(events.SkippedEntry(path=path, reason=reason))
            case storelet.Truncated(path=path, reason=reason):
                self._truncated += 1
                self._channel.send(events.SkippedEntry(path=path, reason=reason))
            case storelet.Reused():
                self.send_progress()
            case storelet.NotReused(destination=destination, reason=reason):
                note = f"not reused from {destination}: {reason}"
                self._channel.send(events.Noted(message=note[:_TEXT_CHARACTERS]))
            case storelet.NotPruned(destination=destination, reason=reason):
                note = f"not pruned: {destination}: {reason}"
                self._channel.send(events.Noted(message=note[:_TEXT_CHARACTERS]))
            case storelet.UploadOpened(bucket=bucket, key=key, upload_id=upload_id):
                opened = events.OpenedUpload(bucket=bucket, key=key, upload_id=upload_id)
                self._channel.send(opened)
            case storelet.UploadEnded(upload_id=upload_id):
                # Without a runner nobody is there to forget it; other uploads must be ended, too.
                with suppress(BrokenPipeError):
                    self._channel.send(events.EndedUpload(upload_id=upload_id))
            case storelet.Saved():
                self._send_saved(event)

    def _send_progress_if_due(self) -> None:
        if time.monotonic() >= self._next_progress:
            self.send_progress()

    def send_progress(self) -> None:
        self._next_progress = time.monotonic() + _PROGRESS_SECONDS
        self._channel.send(
            events.Progress(
                files=self.figures.files - self._truncated + self._checked,
                bytes_read=self.figures.bytes_read
                + self.figures.bytes_underway
                + self._bytes_checked,
                bytes_sent=self.figures.bytes_sent,
                reused=self.figures.reused,
                skipped=self.figures.skipped,
                current=self._current,
            )
        )

    def _send_saved(self, saved: storelet.Saved) -> None:
        self._channel.send(
            events.SavedArchive(
                url=saved.url,
                bytes=saved.bytes,
                bytes_reused=saved.bytes_reused,
                bytes_sent=saved.bytes_sent,
                requests=saved.requests,
            )
        )


@contextmanager
def _logging_to(channel: Channel, log_files: bool | Literal["auto"]) -> Iterator[None]:
    """Send log records to the runner.

    `storelet.setup_logging()` in a module finds a root logger that has a handler, and leaves it.
    """
    handler = _ChannelHandler(channel)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    limit = {"auto": _FILE_LINES, True: None, False: 0}[log_files]
    counter = _FileLines(limit)
    logging.getLogger("storelet.files").addFilter(counter.admit)
    try:
        yield
    finally:
        if counter.more:
            _log.info("Added %d more files", counter.more)


class _FileLines:
    """Lets the first lines about files through and counts the rest; a million drown a journal."""

    def __init__(self, limit: int | None) -> None:
        self.more = 0
        self._left = limit

    def admit(self, _record: logging.LogRecord) -> bool:
        if self._left is None:
            return True
        if self._left > 0:
            self._left -= 1
            return True
        self.more += 1
        return False


class _ChannelHandler(logging.Handler):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)[:_TEXT_CHARACTERS]
            self._channel.send(events.Logged(level=record.levelno, message=message))
        except OSError:
            self.handleError(record)


if __name__ == "__main__":
    sys.exit(main())

"""The daemon's process: options, wiring, signals, systemd.

Started by systemd (`Type=notify`) or by hand, as any user. SIGTERM and SIGINT end it in order,
SIGHUP reloads the job files. Exit statuses: 0 ended in order, 1 failed, 2 wrong command line,
11 another daemon has the state directory, 78 a file or directory of its own is unusable.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from storelet import StoreletError
from storeletd import journal
from storeletd.daemon import Daemon
from storeletd.database import Database
from storeletd.exporter import Address, Exporter, open_port, read_address
from storeletd.jobdir import JobDirectory
from storeletd.listener import open_listener
from storeletd.notice import Notice
from storeletd.server import Server
from storeletd.textfile import Textfile

__all__ = ["main", "make_parser"]

_log = logging.getLogger("storeletd")


class UnusableError(StoreletError):
    """A file or directory of the daemon's own is unusable."""

    exit_code = 78


class StateTakenError(StoreletError):
    """Another daemon has the state directory."""

    exit_code = 11


def main() -> int:
    """Run the daemon until it is told to end; return its exit status."""
    options = make_parser().parse_args()
    journal.set_up_logging(options.log_to)
    # The memory of a run may hold secrets. What we start inherits it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with _own_state(options.state):
            asyncio.run(_serve(options))
    except StoreletError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Declare the command line. The manual page is made from it, too."""
    state = os.environ.get("STATE_DIRECTORY", "/var/lib/storelet")
    runtime = os.environ.get("RUNTIME_DIRECTORY", "/run/storelet")
    parser = argparse.ArgumentParser(
        prog="storeletd", description="Run the backup jobs of a directory on their schedules."
    )
    parser.add_argument(
        "--jobs",
        type=Path,
        default="/etc/storelet.d",
        metavar="DIR",
        help="job files (%(default)s)",
    )
    parser.add_argument(
        "--state", type=Path, default=state, metavar="DIR", help="history (%(default)s)"
    )
    parser.add_argument(
        "--socket",
        type=Path,
        default=f"{runtime}/storeletd.sock",
        metavar="PATH",
        help="control socket (%(default)s)",
    )
    parser.add_argument(
        "--log-to",
        choices=("journal", "stderr"),
        default=journal.find_log_to(),
        help="where to log (the journal under systemd, else standard error)",
    )
    parser.add_argument(
        "--max-runs",
        type=_positive,
        default=2,
        metavar="N",
        help="runs at once (%(default)s); others wait in order",
    )
    parser.add_argument(
        "--metrics",
        type=_address,
        metavar="HOST:PORT",
        help="serve GET /metrics there, for Prometheus (nowhere)",
    )
    parser.add_argument(
        "--metrics-file",
        type=Path,
        metavar="PATH",
        help="write them to this file, for node_exporter's textfile collector (nowhere)",
    )
    parser.add_argument("--version", action="version", version=f"storeletd {version('storelet')}")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"not a positive number: {text}")
    return number


def _address(text: str) -> Address:
    try:
        return read_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@contextlib.contextmanager
def _own_state(directory: Path) -> Iterator[None]:
    """Hold the state directory, made if need be, for this process alone (flock(2))."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnusableError(
            f"cannot use state directory {directory}: {error.strerror}", hint="give --state"
        ) from error
    with open(descriptor, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateTakenError(
                f"another storeletd has state directory {directory}", hint="give --state"
            ) from error
        yield


async def _serve(options: argparse.Namespace) -> None:
    """Bring the parts up in order, wait for the end, take them down in reverse."""
    stopping = _listen_for_signals()
    database = Database(options.state / "history.sqlite")
    daemon = Daemon(JobDirectory(options.jobs), database, max_runs=options.max_runs)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(database.close)
        listener = stack.enter_context(open_listener(options.socket))
        port = stack.enter_context(open_port(options.metrics)) if options.metrics else None
        stack.push_async_callback(daemon.stop)
        await daemon.start()
        server = Server(daemon, listener)
        stack.push_async_callback(server.stop)
        await server.start()
        if port is not None:
            exporter = Exporter(daemon, port)
            stack.push_async_callback(exporter.stop)
            await exporter.start()
            _log.info("Metrics are at %s", exporter.url)
        if options.metrics_file is not None:
            textfile = Textfile(daemon, options.metrics_file)
            stack.push_async_callback(textfile.stop)
            await textfile.start()
        notice = Notice(daemon)
        stack.push_async_callback(notice.stop)
        await notice.start()
        _reload_on_hangup(daemon, notice)
        started = f"storeletd {version('storelet')} is ready; jobs in {daemon.directory}"
        _log.info(started + f": {len(daemon.jobs)}", extra=journal.fields(event="daemon-started"))
        await stopping.wait()
        _log.info("storeletd ends", extra=journal.fields(event="daemon-stopped"))


def _listen_for_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


def _reload_on_hangup(daemon: Daemon, notice: Notice) -> None:
    loop = asyncio.get_running_loop()
    pending: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references

    def reload() -> None:
        task = asyncio.create_task(notice.reload())
        pending.add(task)
        task.add_done_callback(pending.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)


if __name__ == "__main__":
    sys.exit(main())

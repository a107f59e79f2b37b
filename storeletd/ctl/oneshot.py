"""The verb run: a job file run once, for other schedulers. It needs no daemon."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from storeletd.ctl import console
from storeletd.ctl.console import CommandError
from storeletd.ctl.invocation import json_option
from storeletd.ctl.replies import RunDetails
from storeletd.ctl.runs import print_outcome
from storeletd.ctl.summaries import describe_skipped

if TYPE_CHECKING:
    from storeletd.foreground import ForegroundRun

__all__ = ["run"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="Show the run's own lines, too.")
@json_option
def run(file: Path, verbose: bool, as_json: bool) -> int:
    """Run the job of FILE once, here and now. Needs no daemon.

    For cron, a systemd timer and the like: its schedule does not count, it is not repeated, and
    nothing is remembered of it. The exit code is the outcome's, as of run-now; 11 where FILE is
    running already, 78 where it is broken or not safe. ^C and SIGTERM end the run in order.
    """
    from storeletd.ctl.progress import open_display, show_event

    # What the daemon would log is shown, where it is asked for.
    logging.getLogger("storeletd").addHandler(logging.NullHandler())
    with _open_run(file) as foreground:
        live = console.is_terminal() and not as_json
        begun = cast(RunDetails, foreground.describe())
        with open_display(begun, live=live, lines=verbose and not as_json) as display:
            foreground.work(partial(show_event, display))
        ended = cast(RunDetails, foreground.describe())
    if as_json:
        console.print_json({"runs": [ended], "errors": []})
    else:
        print_outcome(ended)
        entries = ended["skipped_entries"]
        lines = describe_skipped(ended, entries, most=len(entries))
        console.print_all(f"  {line}" for line in lines)
    return ended["exit_code"] or 0


@contextmanager
def _open_run(file: Path) -> Iterator[ForegroundRun]:
    """Begin the run. Raises CommandError where it may not be, or the file is broken."""
    from storelet import StoreletError
    from storeletd.foreground import open_run
    from storeletd.jobs import JobFileError

    try:
        with open_run(file) as foreground:
            yield foreground
    except JobFileError as error:
        first, *more = error.problems
        told = f"{first} (and {len(more)} more)" if more else str(first)
        hint = f"storeletctl validate {file}" if more else error.hint
        raise CommandError(told, hint=hint, exit_code=error.exit_code) from error
    except StoreletError as error:
        raise CommandError(error.message, hint=error.hint, exit_code=error.exit_code) from error

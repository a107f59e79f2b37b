"""The verbs about runs: run-now, cancel, history, logs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import click

from storeletd.ctl import console
from storeletd.ctl.console import CommandError, print_line
from storeletd.ctl.formats import describe_bytes, escape
from storeletd.ctl.invocation import Invocation, json_option, pass_invocation
from storeletd.ctl.names import JOB
from storeletd.ctl.replies import Run
from storeletd.ctl.summaries import (
    describe_begin,
    describe_outcome,
    describe_run,
    describe_skipped,
    describe_state,
    describe_took,
)
from storeletd.ctl.tables import Column, print_table

if TYPE_CHECKING:
    from storeletd.ctl.client import Client

__all__ = ["cancel", "follow", "history", "logs", "print_outcome", "run_now", "worst_exit_code"]

# From best to worst; codes that are not here, such as 77, are as bad as the last.
_EXIT_CODES = (0, 75, 3, 143, 124, 11, 4, 1)

_NO_SUCH_JOB = 4
_NO_SUCH_RUN = 4
_INTERRUPTED = 130
_ALL_ACTIVE = (
    1000  # runs among which those not finished are: skipped ones pile up behind a long one
)
_LOOK_BACK = 20  # runs among which one that has lines is looked for
_POLL_SECONDS = 1.0
_MOST = 1_000_000  # runs or lines to ask for: more than anybody reads
_ID_DIGITS = 18  # of a run's number; the daemon reads no more

_RUN_ID = click.IntRange(1, 10**_ID_DIGITS - 1)
_AMOUNT = click.IntRange(1, _MOST)

_COLUMNS = (
    Column(title="RUN", right=True),
    Column(title="JOB", name=True),
    Column(title="BEGUN"),
    Column(title="TOOK", right=True),
    Column(title="OUTCOME", words=True),
    Column(title="READ", right=True),
    Column(title="SENT", right=True),
    Column(title="SIZE", right=True),
)


@click.command("run-now")
@click.argument("jobs", type=JOB, nargs=-1, required=True, metavar="JOB...")
@click.option("--no-wait", is_flag=True, help="Print the run's number and do not follow it.")
@click.option("-v", "--verbose", is_flag=True, help="Show the run's own lines, too.")
@json_option
@pass_invocation
def run_now(
    invocation: Invocation, jobs: Sequence[str], no_wait: bool, verbose: bool, as_json: bool
) -> int:
    """Start a run of each JOB and follow it to its end.

    The exit code is the outcome's: 0 success, 3 partial, 75 skipped, 124 timed out, 143
    cancelled, 1 failed or lost, or that of the error, such as 10 for a missing destination; of
    several the worst. ^C ends the following, not the run; once more, on a terminal, the run.
    """
    client = invocation.client()
    runs, errors = _start_runs(client, jobs, as_json)
    if no_wait and not as_json:
        console.print_all(str(run["id"]) for run in runs)
    elif not no_wait:
        runs = [follow(client, run, verbose=verbose, as_json=as_json) for run in runs]
    if as_json:
        refused = [{**console.describe_error(error), "job": job} for job, error in errors.items()]
        console.print_json({"runs": runs, "errors": refused})
    outcomes = [] if no_wait else [run["exit_code"] or 0 for run in runs]
    return worst_exit_code([*outcomes, *(error.exit_code for error in errors.values())])


def _start_runs(
    client: Client, jobs: Sequence[str], as_json: bool
) -> tuple[list[Run], dict[str, CommandError]]:
    """Start all that can be started; a single job that cannot be is raised instead."""
    runs, errors = [], {}
    for job in dict.fromkeys(jobs):
        try:
            runs.append(client.start_run(job))
        except CommandError as error:
            if len(jobs) == 1:
                raise
            errors[job] = error
            if not as_json:
                console.print_error(error, as_json=False)
    return runs, errors


def follow(client: Client, run: Run, *, verbose: bool, as_json: bool) -> Run:
    """Follow a run to its end and say how it ended; with `as_json` only return it."""
    from storeletd.ctl.forecast import find_basis
    from storeletd.ctl.progress import follow_run, open_display

    live = console.is_terminal() and not as_json
    basis = find_basis(client.runs(run["job"], limit=_LOOK_BACK)) if live else None
    display = open_display(run, live=live, lines=verbose and not as_json, basis=basis)
    run = follow_run(client, run, display)
    if as_json:
        return run
    print_outcome(run)
    if run["files"]["skipped"]:
        entries = client.run(run["id"])["skipped_entries"]
        console.print_all(f"  {line}" for line in describe_skipped(run, entries))
    return run


def print_outcome(run: Run) -> None:
    """Say how a finished run ended, and what can be done about it."""
    console.print_all(describe_outcome(run))
    if run["hint"]:
        print_line(f"  Try: {escape(run['hint'])}")


def worst_exit_code(codes: Sequence[int]) -> int:
    """Return the exit code that says most about several runs."""
    return max(
        codes,
        key=lambda code: _EXIT_CODES.index(code) if code in _EXIT_CODES else len(_EXIT_CODES),
        default=0,
    )


@click.command()
@click.argument("which", type=JOB, metavar="JOB|RUN-ID")
@json_option
@pass_invocation
def cancel(invocation: Invocation, which: str, as_json: bool) -> None:
    """Cancel a run, or all runs of JOB that are queued or running.

    A number is the name of a job where there is such a job, else that of a run. The run's
    processes are told to end and killed when they do not; `status` says when they have.
    """
    client = invocation.client()
    cancelled = [client.cancel(run_id) for run_id in _find_cancellable(client, which)]
    if as_json:
        console.print_json({"runs": cancelled})
        return
    for run in cancelled:
        print_line(f"run {run['id']} of {escape(run['job'])} is being cancelled")


def _find_cancellable(client: Client, which: str) -> list[int]:
    """Return the numbers of a job's runs that are not finished, or the one number given."""
    try:
        runs = client.runs(which, limit=_ALL_ACTIVE)
    except CommandError as error:
        is_number = which.isascii() and which.isdecimal() and len(which) <= _ID_DIGITS
        if error.exit_code == _NO_SUCH_JOB and is_number:
            return [int(which)]
        raise
    # the newest first: a queued run must not start because the one before it ends
    ids = [run["id"] for run in runs if run["state"] != "finished"]
    if not ids:
        raise CommandError(f"job {which} has no run to cancel", hint=f"storeletctl history {which}")
    return ids


@click.command()
@click.argument("job", type=JOB, required=False)
@click.option(
    "--limit", type=_AMOUNT, metavar="N", default=20, show_default=True, help="Runs to show."
)
@click.option(
    "--run", "run_id", type=_RUN_ID, metavar="ID", help="Show all that is kept of one run."
)
@json_option
@pass_invocation
def history(
    invocation: Invocation, job: str | None, limit: int, run_id: int | None, as_json: bool
) -> None:
    """Show past runs, of JOB or of all jobs, newest first."""
    client = invocation.client()
    if run_id is not None:
        run = client.run(run_id)
        _check_job(run, job)
        if as_json:
            console.print_json(run)
        else:
            console.print_all(describe_run(run))
        return
    runs = client.runs(job, limit=limit)
    if as_json:
        console.print_json({"runs": runs})
    elif runs:
        print_table(_COLUMNS, [_history_row(run) for run in runs])
    else:
        console.print_remark(f"no run of {job} yet" if job else "no runs yet")


def _history_row(run: Run) -> Sequence[str]:
    ran, saved = run["begun_at"] is not None, run["archives"]
    return (
        str(run["id"]),
        run["job"],
        describe_begin(run),
        describe_took(run),
        describe_state(run),
        f"{run['files']['read']:,}" if ran else "",
        describe_bytes(run["bytes"]["sent"]) if saved else "",
        describe_bytes(run["bytes"]["archive"]) if saved else "",
    )


def _last_lines(lines: list[str], most: int | None) -> list[str]:
    return lines if most is None else lines[len(lines) - min(most, len(lines)) :]


def _check_job(run: Run, job: str | None) -> None:
    if job is not None and run["job"] != job:
        raise CommandError(
            f"run {run['id']} is one of job {run['job']}, not of {job}",
            hint=f"storeletctl history {job}",
            exit_code=_NO_SUCH_RUN,
        )


@click.command()
@click.argument("job", type=JOB)
@click.option("-f", "--follow", is_flag=True, help="Go on with the lines of this and later runs.")
@click.option(
    "--run", "run_id", type=_RUN_ID, metavar="ID", help="That run's lines.  [default: newest]"
)
@click.option(
    "-n", "--lines", "most", type=click.IntRange(0, _MOST), metavar="N", help="Only the last lines."
)
@json_option
@pass_invocation
def logs(
    invocation: Invocation,
    job: str,
    follow: bool,
    run_id: int | None,
    most: int | None,
    as_json: bool,
) -> int:
    """Show the lines of JOB's newest run.

    These are what the run logged and what its commands printed; the last 200 are kept.
    """
    if follow and as_json:
        raise click.UsageError("--json and --follow exclude each other: one document has an end")
    client = invocation.client()
    run = _find_run(client, job, run_id)
    if follow:
        return _follow_lines(client, job, run, most=most, only=run_id is not None)
    output = _last_lines(client.run(run["id"])["output"], most) if run else []
    if as_json:
        console.print_json({"run": run, "lines": output})
    elif run is None:
        console.print_remark(f"no run of {job} yet")
    else:
        console.print_all(escape(line.expandtabs()) for line in output)
    return 0


def _find_run(client: Client, job: str, run_id: int | None) -> Run | None:
    """Return the run asked for, or the newest one that can have lines."""
    if run_id is not None:
        run = client.run(run_id)
        _check_job(run, job)
        return run
    runs = client.runs(job, limit=_LOOK_BACK)
    return next((run for run in runs if _can_have_lines(run)), None)


def _can_have_lines(run: Run) -> bool:
    """Tell a run that began or may begin from a due time that was skipped or missed."""
    return run["begun_at"] is not None or run["state"] != "finished"


def _follow_lines(
    client: Client, job: str, run: Run | None, *, most: int | None, only: bool
) -> int:
    """Print lines as they come until the user ends it, or the run (`only`) does."""
    try:
        if run is not None:
            _print_run_lines(client, run, most)
        while not (run and only):
            run = _wait_for_run(client, job, after=run["id"] if run else 0)
            print_line(f"-- run {run['id']}, {describe_begin(run)} --")
            _print_run_lines(client, run, None)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _print_run_lines(client: Client, run: Run, most: int | None) -> None:
    """Print the last lines of a run so far, and those that come until its end."""
    events = client.events(run["id"])
    first = next(events)
    so_far = client.run(run["id"])["output"]
    if first.name == "finished":  # then the stream has no lines
        console.print_all(escape(line.expandtabs()) for line in _last_lines(so_far, most))
        return
    lines = (event.data for event in events if event.name == "log")
    passed_over = 0 if most is None else max(len(so_far) - most, 0)
    for line in islice(lines, passed_over, None):
        print_line(console.describe_line(line["level"], line["message"]))


def _wait_for_run(client: Client, job: str, *, after: int) -> Run:
    """Return the first run of the job that begins after run number `after`."""
    while True:
        runs = client.runs(job, limit=_LOOK_BACK)
        later = [run for run in runs if run["id"] > after and _can_have_lines(run)]
        if later:
            return later[-1]
        time.sleep(_POLL_SECONDS)

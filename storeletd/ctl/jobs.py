"""The verbs about jobs as a whole: list, status, show, reload."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from storeletd.ctl import console
from storeletd.ctl.console import colour, print_all, print_line
from storeletd.ctl.formats import (
    describe_bytes,
    describe_count,
    describe_problem,
    describe_span,
    describe_time,
    escape,
)
from storeletd.ctl.invocation import Invocation, json_option, pass_invocation
from storeletd.ctl.names import JOB
from storeletd.ctl.replies import Health, Job, Problem
from storeletd.ctl.summaries import describe_run, describe_runs
from storeletd.ctl.tables import Column, print_table

if TYPE_CHECKING:
    from storeletd.ctl.client import Client

__all__ = ["list_jobs", "reload", "show", "status"]

_NOT_WELL = 3
_NAMED = 5  # jobs that are not well, in the first line
_NEAR = timedelta(days=6)  # so long a weekday says which one is meant
_INVALID = 78
_AT_REST = ("idle", "waiting")
_WELL = (None, "success", "skipped")  # last outcomes of a job that is well

_COLUMNS = (
    Column(title="NAME", name=True, usual=16),
    Column(title="STATE", words=True, usual=7),
    Column(title="LAST", words=True, usual=7),
    Column(title="WHEN", spare=3, usual=9),
    Column(title="NEXT", usual=9),
    Column(title="LEFT", right=True, spare=1, usual=4),
    Column(title="SIZE", right=True, usual=7),
    Column(title="SENT", right=True, spare=4, usual=7),
    Column(title="FILES", right=True, spare=5, usual=7),
    Column(title="AGE", right=True, usual=3),
    Column(title="PROVED", words=True, spare=2, usual=7),
)


@click.command("list")
@json_option
@pass_invocation
def list_jobs(invocation: Invocation, as_json: bool) -> None:
    """List the jobs, and the job files that are broken.

    LAST is the last outcome and WHEN its time, NEXT the next due time and LEFT the time till
    then. SIZE is that of the newest archive and AGE that of the last good one;
    SENT and FILES say what the last run sent and saw. PROVED is how long ago an archive was last
    verified. A narrow terminal shows fewer columns. Elsewhere there are always all, two spaces or
    more apart: awk -F'  +'.
    """
    client = invocation.client()
    answer = client.jobs()
    if as_json:
        console.print_json(answer)
        return
    if answer["jobs"]:
        now = datetime.now(UTC)
        print_table(_COLUMNS, [_list_row(job, now) for job in answer["jobs"]])
    else:
        directory = client.health()["jobs_directory"]
        console.print_remark(f"no jobs: put a job file such as website.yaml into {directory}")
    if answer["problems"]:
        print_line()
    for problem in answer["problems"]:
        print_line(colour(describe_problem(problem), "broken"))


def _list_row(job: Job, now: datetime) -> Sequence[str]:
    finished, archive = job["last_finished"], job["last_archive"]
    due, saved = job["next_start"], finished if finished and finished["archives"] else None
    return (
        job["name"],
        "overdue" if job["overdue_since"] and job["state"] in _AT_REST else job["state"],
        (finished and finished["outcome"]) or "",
        _describe_moment(finished["finished_at"], now) if finished else "",
        _describe_moment(due, now) if due else _never_due(job),
        describe_span((datetime.fromisoformat(due) - now).total_seconds()) if due else "",
        describe_bytes(archive["bytes"]) if archive else "",
        describe_bytes(saved["bytes"]["sent"]) if saved else "",
        f"{saved['files']['seen']:,}" if saved else "",
        _describe_age(job["last_good"], now),
        _describe_proof(job, now),
    )


def _describe_age(time: str | None, now: datetime) -> str:
    if time is None:
        return ""
    return describe_span((now - datetime.fromisoformat(time)).total_seconds())


def _describe_proof(job: Job, now: datetime) -> str:
    verification = job["verification"]
    if verification is None:
        return ""
    if verification["outcome"] in (None, "success"):
        age = _describe_age(verification["proved_at"], now)
        return f"{age} ago" if age else ""
    return verification["outcome"] or ""


def _describe_moment(time: str | None, now: datetime) -> str:
    """Return a time; for people who read a terminal without the date, or without the weekday."""
    if time is None or not console.is_terminal():
        return describe_time(time) if time else ""
    moment = datetime.fromisoformat(time)
    return f"{moment.astimezone():{'%a %H:%M' if abs(moment - now) < _NEAR else '%Y-%m-%d %H:%M'}}"


def _never_due(job: Job) -> str:
    return "manual" if job["schedule"] == ["manual"] else ""


@click.command()
@click.argument("job", type=JOB, required=False)
@json_option
@pass_invocation
def status(invocation: Invocation, job: str | None, as_json: bool) -> int:
    """Show whether all is well, or one JOB in detail.

    What is not well comes first. Exit code 3 says that something is: a job that is overdue, whose
    last outcome or verification is neither success nor skipped or whose archives are not pruned
    because of what a run looked like, or a broken job file.
    """
    client = invocation.client()
    if job is None:
        return _show_daemon_status(client, as_json)
    return _show_job_status(client, job, as_json)


def _show_daemon_status(client: Client, as_json: bool) -> int:
    health, answer = client.health(), client.jobs()
    jobs = answer["jobs"]
    well = not answer["problems"] and all(_is_well(job) for job in jobs)
    if as_json:
        document = {"well": well, "health": health, "jobs": jobs, "problems": answer["problems"]}
        console.print_json(document)
    else:
        print_all(_describe_daemon(health, jobs, answer["problems"]))
    return 0 if well else _NOT_WELL


def _show_job_status(client: Client, name: str, as_json: bool) -> int:
    from storeletd.ctl.client import BrokenJobError

    try:
        job = client.job(name)
    except BrokenJobError as error:
        error.exit_code = _NOT_WELL  # it is there, but not well
        raise
    problems = job["problems"]
    last = client.run(job["runs"][0]["id"]) if job["runs"] else None
    well = not problems and _is_well(job)
    if as_json:
        console.print_json({**job, "well": well, "last_run": last})
        return 0 if well else _NOT_WELL
    print_all(_describe_job(job))
    print_all(_describe_problems(problems))
    if last is not None:
        print_line()
        print_all(describe_run(last, brief=True))
    return 0 if well else _NOT_WELL


def _is_well(job: Job) -> bool:
    last = job["last_finished"]
    verification = job["verification"]
    is_fine = job["problem"] is None and job["overdue_since"] is None and job["prune_held"] is None
    is_proved = verification is None or verification["outcome"] in _WELL
    return is_fine and is_proved and (last is None or last["outcome"] in _WELL)


def _describe_daemon(
    health: Health, jobs: Sequence[Job], problems: Sequence[Problem]
) -> Iterator[str]:
    yield _say_how_all_is(jobs, problems)
    up = datetime.now(UTC) - datetime.fromisoformat(health["started"])
    since = f"{describe_time(health['started'])} ({describe_span(up.total_seconds())})"
    yield f"storeletd {escape(health['version'])}, process {health['pid']}, since {since}"
    counts = (
        describe_count(health["jobs"], "job"),
        f"{health['running']} running",
        f"{health['queued']} queued",
        describe_count(len(problems), "problem"),
    )
    yield f"{', '.join(counts)}; job files in {escape(health['jobs_directory'])}"
    for job in sorted(jobs, key=_is_well):  # what is not well comes first
        yield ""
        yield _describe_state(job)
        for line in describe_runs([job["last_run"]] if job["last_run"] else []):
            yield f"  {line}"
        yield from _describe_failed_proof(job)
        yield from _describe_hold(job)
    yield from _describe_problems(problems)


def _say_how_all_is(jobs: Sequence[Job], problems: Sequence[Problem]) -> str:
    """Return in one line whether all is well, and else what is not."""
    ill = [job["name"] for job in jobs if not _is_well(job)]
    parts = []
    if ill:
        names = ", ".join(map(escape, ill[:_NAMED])) + ", …" * (len(ill) > _NAMED)
        parts.append(f"{names} ({len(ill):,} of {describe_count(len(jobs), 'job')})")
    if problems:
        parts.append(describe_count(len(problems), "problem") + " with job files")
    return colour(f"Not well: {', '.join(parts)}", "failed") if parts else "All is well"


def _describe_state(job: Job) -> str:
    state = f"{escape(job['name'])}: {colour(job['state'])}"
    if job["paused"] and job["paused_until"]:
        state += f" until {describe_time(job['paused_until'])}"
    if job["waits_for"]:
        state += f" for {escape(job['waits_for'])}"
    if job["overdue_since"]:
        state += f", {colour('overdue')} since {describe_time(job['overdue_since'])}"
    if job["next_start"]:
        left = datetime.fromisoformat(job["next_start"]) - datetime.now(UTC)
        next_start = describe_time(job["next_start"])
        state += f", next {next_start} (in {describe_span(left.total_seconds())})"
    elif not job["paused"]:
        state += f", {_never_due(job) or 'never due'}"
    return state if job["last_run"] else f"{state}, no run yet"


def _describe_job(job: Job) -> Iterator[str]:
    yield _describe_state(job)
    yield f"  file:      {escape(job['path'])}"
    yield f"  schedule:  {escape(', '.join(job['schedule']))} ({escape(job['timezone'])})"
    yield from _describe_proofs(job)
    yield from _describe_hold(job)
    for line in describe_runs(job["runs"]):
        yield f"  {line}"


def _describe_proofs(job: Job) -> Iterator[str]:
    verification, now = job["verification"], datetime.now(UTC)
    if verification is None:
        return
    proved, whole = verification["proved_at"], verification["proved_whole_since"]
    said = f"{_describe_age(proved, now)} ago" if proved else "never"
    if whole:
        said += f", all of it within {_describe_age(whole, now)}"
    elif proved:
        said += ", and not yet all of it"
    if verification["next_due"]:
        said += f"; next {describe_time(verification['next_due'])}"
    yield f"  proved:    {said}"


def _describe_failed_proof(job: Job) -> Iterator[str]:
    verification = job["verification"]
    if verification is None or verification["outcome"] in _WELL:
        return
    message = escape(verification["message"] or verification["outcome"] or "")
    yield f"  {colour('not proved', 'failed')}: {message}"
    if verification["hint"]:
        yield f"    Try: {escape(verification['hint'])}"


def _describe_hold(job: Job) -> Iterator[str]:
    held = job["prune_held"]
    if held is not None:
        since = describe_time(held["since"])
        yield f"  {colour('not pruned', 'failed')} since {since}: {escape(held['why'])}"
        yield f"    Try: storeletctl resume-prune {escape(job['name'])}, if that is as it should be"


def _describe_problems(problems: Sequence[Problem]) -> Iterator[str]:
    if problems:
        yield ""
    for problem in problems:
        yield colour(describe_problem(problem), "broken")
        if problem["hint"]:
            yield f"  Try: {escape(problem['hint'])}"
        if problem["loaded"]:
            yield "  The last good version of the job stays loaded."


@click.command()
@click.argument("job", type=JOB)
@json_option
@pass_invocation
def show(invocation: Invocation, job: str, as_json: bool) -> None:
    """Show the effective settings of JOB, each with its origin."""
    details = invocation.client().job(job)
    if as_json:
        console.print_json({"job": details["name"], "settings": details["settings"]})
        return
    import yaml

    for key, setting in details["settings"].items():
        text = yaml.safe_dump({key: setting["value"]}, allow_unicode=True, sort_keys=False)
        first, *rest = map(escape, text.splitlines())  # bidi controls are as they were
        print_line(f"{first:<30}  # {escape(setting['from'])}")
        for line in rest:
            print_line(line)


@click.command()
@json_option
@pass_invocation
def reload(invocation: Invocation, as_json: bool) -> int:
    """Let the daemon read the job directory now.

    It does so by itself within seconds of a change; this says at once what came of it. Exit
    code 78 says that a job file is broken.
    """
    answer = invocation.client().reload()
    code = _INVALID if answer["problems"] else 0
    if as_json:
        console.print_json(answer)
        return code
    changes = (
        ("added", answer["added"]),
        ("changed", answer["changed"]),
        ("removed", answer["removed"]),
    )
    for word, names in changes:
        if names:
            print_line(f"{word}: {escape(', '.join(names))}")
    if not any(names for _, names in changes):
        print_line("no job has changed")
    print_all(_describe_problems(answer["problems"]))
    return code

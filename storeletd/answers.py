"""What the control socket answers: the daemon's things as JSON; a run alone is in `messages`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from storelet import StoreletError
from storeletd.daemon import Daemon
from storeletd.jobs import Job
from storeletd.jobstate import JobState
from storeletd.messages import describe_archive, describe_run, describe_run_whole, to_iso
from storeletd.planner import FOREVER
from storeletd.proofs import find_whole_since, sort_by_place
from storeletd.records import Run

__all__ = [
    "NoSuchRunError",
    "describe_job",
    "describe_problems",
    "find_run_whole",
]

_GOOD = ("success", "partial")


class NoSuchRunError(StoreletError):
    """There is no run of that number."""

    exit_code = 4


def find_run_whole(daemon: Daemon, run_id: int) -> dict[str, Any]:
    """Return a run with its skipped entries and last lines. Raises NoSuchRunError."""
    active = daemon.runner.find(run_id)
    run = active or daemon.history.run(run_id)
    if run is None:
        raise NoSuchRunError(f"no such run: {run_id}", hint="storeletctl history")
    skipped = daemon.history.skipped_entries(run_id)
    lines = daemon.runner.lines(run_id) if active else daemon.history.output(run_id)
    return describe_run_whole(run, skipped, lines)


def describe_job(daemon: Daemon, job: Job, *, runs: int = 0) -> dict[str, Any]:
    """Return a job with how it stands, and its last `runs` runs, the newest first."""
    active = daemon.runner.active(job.name, "backup")
    problems = [str(each) for each in daemon.problems if each.file == job.path]
    history = daemon.history
    newest = history.runs(job=job.name, limit=max(runs, 1))
    last_run = active[0] if active else _find(newest, lambda _run: True, history.last)
    last_finished = _find(newest, lambda run: run.outcome is not None, history.last_finished)
    last_success = _find(newest, lambda run: run.outcome == "success", history.last_success)
    last_good = _find(newest, lambda run: run.outcome in _GOOD, history.last_good)
    last_saved = _find(newest, lambda run: bool(run.archives), history.last_saved)
    described = {run.id: describe_run(run) for run in (*newest, *active)}
    return {
        "name": job.name,
        "path": job.path,
        "language": job.language,
        "state": _describe_state(daemon, job, active, problems),
        "schedule": list(job.settings.schedule.texts),
        "timezone": str(job.settings.timezone),
        **_describe_times(daemon, job),
        "problem": "\n".join(problems) or None,
        "last_run": last_run and (described.get(last_run.id) or describe_run(last_run)),
        "last_finished": last_finished
        and (described.get(last_finished.id) or describe_run(last_finished)),
        "last_archive": last_saved and describe_archive(last_saved.archives[-1]),
        "last_success": last_success and to_iso(last_success.finished_at),
        "last_good": last_good and to_iso(last_good.finished_at),
        "verification": _describe_verification(daemon, job),
        "prune_held": _describe_hold(daemon.states.get(job.name)),
        "runs": [described[run.id] for run in newest[:runs]],
    }


def _find(
    newest: Sequence[Run], is_it: Callable[[Run], bool], ask: Callable[[str], Run | None]
) -> Run | None:
    """Return the first backup that is it; ask the history only where it is older than these."""
    found = next((run for run in newest if run.kind == "backup" and is_it(run)), None)
    return ask(newest[-1].job) if found is None and newest else found


def _describe_state(
    daemon: Daemon, job: Job, active: Sequence[Run], problems: Sequence[str]
) -> str:
    if active:
        return active[0].state
    if any(run.state == "running" for run in daemon.runner.active(job.name, "verify")):
        return "verifying"
    if problems:
        return "broken"
    if daemon.is_paused(job):
        return "paused"
    return "waiting" if daemon.readiness.reason(job.name) else "idle"


def _describe_verification(daemon: Daemon, job: Job) -> dict[str, Any] | None:
    """Return how archives of the job were verified; None where that never was nor will be."""
    last = daemon.history.last_attempt(job.name, "verify")
    if last is None and job.settings.verify is None:
        return None
    success = daemon.history.last_success(job.name, "verify")
    return {
        "outcome": last and last.outcome,
        "finished_at": last and to_iso(last.finished_at),
        "message": last and last.message,
        "hint": last and last.hint,
        "proved_at": success and to_iso(success.finished_at),
        "proved_whole_since": success and to_iso(_find_whole_since(daemon, success)),
        "next_due": to_iso(daemon.next_verification(job)),
    }


def _find_whole_since(daemon: Daemon, success: Run) -> datetime | None:
    """Return since when all of the archives is proved, at all places of the last good one."""
    places = sort_by_place(daemon.history.proofs(success.job))
    begun = success.begun_at or success.queued_at
    current = [proofs for proofs in places.values() if proofs[0].proved_at >= begun]
    wholes = [find_whole_since(proofs) for proofs in current]
    return min(filter(None, wholes)) if wholes and all(wholes) else None


def _describe_hold(state: JobState | None) -> dict[str, Any] | None:
    """Return since when, and why, nothing is pruned."""
    if state is None or state.held_since is None:
        return None
    return {"since": to_iso(state.held_since), "why": state.held_why}


def _describe_times(daemon: Daemon, job: Job) -> dict[str, Any]:
    state = daemon.states.get(job.name)
    until = state.paused_until if state else None
    is_paused = daemon.is_paused(job)
    due, delay = (None, timedelta(0)) if until == FOREVER else daemon.next_start(job)
    return {
        "next_due": to_iso(due),
        "next_start": to_iso(due + delay) if due else None,
        "paused": is_paused,
        "paused_until": to_iso(until) if is_paused and until != FOREVER else None,
        "overdue_since": to_iso(state.overdue_since) if state else None,
        "waits_for": daemon.readiness.reason(job.name),
    }


def describe_problems(daemon: Daemon) -> list[dict[str, Any]]:
    """Return what is wrong with job files now, and whether an older version is loaded."""
    loaded = {job.path for job in daemon.jobs.values()}
    return [
        {
            "file": each.file,
            "line": each.line,
            "key": each.key,
            "message": each.message,
            "hint": each.hint,
            "loaded": each.file in loaded,
        }
        for each in daemon.problems
    ]

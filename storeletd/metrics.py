"""What a Prometheus server is told: how each job stands now.

The text format 0.0.4. A time that is not known has no line, so that nothing looks like 1970.
"""

from __future__ import annotations

from collections.abc import Iterator

from storeletd.daemon import Daemon
from storeletd.jobs import Job

__all__ = ["METRICS_TYPE", "describe_metrics"]

METRICS_TYPE = "text/plain; version=0.0.4"

# Name, meaning; all are gauges with the label `job`.
_METRICS = {
    "storelet_job_last_success_timestamp_seconds": "When the last run that was a success ended.",
    "storelet_job_last_run_exit_code": "How the last run ended: 0 is success, 3 partial.",
    "storelet_job_next_start_timestamp_seconds": "When the job starts next by itself.",
    "storelet_job_overdue": "Whether no archive was saved for longer than max_age.",
    "storelet_job_paused": "Whether the job is paused.",
    "storelet_job_running": "Whether a run is on.",
    "storelet_job_last_verify_exit_code": "How the last verification ended: 0 is success.",
    "storelet_job_last_verify_success_timestamp_seconds": "When the last good one ended.",
    "storelet_job_prune_held": "Whether nothing is pruned until somebody has looked.",
}


def describe_metrics(daemon: Daemon) -> str:
    """Return the metrics of all jobs. Raises HistoryError."""
    jobs = [(job.name, dict(_measure(daemon, job))) for job in daemon.jobs.values()]
    return "".join(
        line
        for metric, meaning in _METRICS.items()
        for line in (
            f"# HELP {metric} {meaning}\n# TYPE {metric} gauge\n",
            # A job's name has no character that would need an escape.
            *(
                f'{metric}{{job="{job}"}} {values[metric]}\n'
                for job, values in jobs
                if metric in values
            ),
        )
    )


def _measure(daemon: Daemon, job: Job) -> Iterator[tuple[str, float]]:
    success = daemon.history.last_success(job.name)
    if success is not None and success.finished_at is not None:
        yield "storelet_job_last_success_timestamp_seconds", success.finished_at.timestamp()
    last = daemon.history.last_finished(job.name)
    if last is not None and last.exit_code is not None:
        yield "storelet_job_last_run_exit_code", last.exit_code
    due, delay = daemon.next_start(job)
    if due is not None and not daemon.is_paused(job):
        start = due.timestamp() + delay.total_seconds()
        yield "storelet_job_next_start_timestamp_seconds", start
    state = daemon.states.get(job.name)
    yield "storelet_job_overdue", int(state is not None and state.overdue_since is not None)
    yield "storelet_job_paused", int(daemon.is_paused(job))
    yield "storelet_job_prune_held", int(state is not None and state.held_since is not None)
    yield from _measure_verification(daemon, job)
    active = daemon.runner.active(job.name, "backup")
    yield "storelet_job_running", int(any(run.state == "running" for run in active))


def _measure_verification(daemon: Daemon, job: Job) -> Iterator[tuple[str, float]]:
    last = daemon.history.last_attempt(job.name, "verify")
    if last is not None and last.exit_code is not None:
        yield "storelet_job_last_verify_exit_code", last.exit_code
    success = daemon.history.last_success(job.name, "verify")
    if success is not None and success.finished_at is not None:
        name = "storelet_job_last_verify_success_timestamp_seconds"
        yield name, success.finished_at.timestamp()

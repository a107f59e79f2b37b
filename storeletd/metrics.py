"""What a Prometheus server is told: how the daemon and each job stand now.

The text format 0.0.4. What is not known has no line, so that nothing looks like 1970 and no
success outlives its job.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from storeletd.daemon import Daemon
from storeletd.jobs import Job
from storeletd.records import Run

__all__ = ["METRICS", "METRICS_TYPE", "describe_metrics"]

METRICS_TYPE = "text/plain; version=0.0.4"

# Name, meaning. All are gauges; those of a job have the label `name`, since `job` is Prometheus'
# own word for what it asks, and would come out as `exported_job`.
METRICS = {
    "storelet_build_info": "Always 1; the label says which version runs.",
    "storelet_start_time_seconds": "When the daemon was started.",
    "storelet_job_file_problems": "What is wrong with job files, as of the last reload.",
    "storelet_job_last_success_timestamp_seconds": "When the last run that was a success ended.",
    "storelet_job_last_run_exit_code": "How the last run ended: 0 is success, 3 partial.",
    "storelet_job_last_run_duration_seconds": "How long the last backup took that ran.",
    "storelet_job_last_run_seen_files": "Files it found in the sources.",
    "storelet_job_last_run_read_files": "Files it read.",
    "storelet_job_last_run_reused_files": "Files it had copied from an earlier archive.",
    "storelet_job_last_run_skipped_files": "Entries that are not whole in the archive.",
    "storelet_job_last_run_read_bytes": "What it read from the sources.",
    "storelet_job_last_run_sent_bytes": "What it sent to all destinations.",
    "storelet_job_last_run_archive_bytes": "Size of the archives it saved.",
    "storelet_job_next_start_timestamp_seconds": "When the job starts next by itself.",
    "storelet_job_max_age_seconds": "How old its newest archive may be.",
    "storelet_job_overdue": "Whether no archive was saved for longer than max_age.",
    "storelet_job_paused": "Whether the job is paused.",
    "storelet_job_running": "Whether a run is on.",
    "storelet_job_last_verify_exit_code": "How the last verification ended: 0 is success.",
    "storelet_job_last_verify_success_timestamp_seconds": "When the last good one ended.",
    "storelet_job_prune_held": "Whether nothing is pruned until somebody has looked.",
}


def describe_metrics(daemon: Daemon) -> str:
    """Return the metrics of the daemon and all jobs. Raises HistoryError."""
    lines: dict[str, list[str]] = {metric: [] for metric in METRICS}
    for metric, labels, value in _measure_all(daemon):
        lines[metric].append(f"{metric}{labels} {value}\n")
    return "".join(
        f"# HELP {metric} {meaning}\n# TYPE {metric} gauge\n{''.join(lines[metric])}"
        for metric, meaning in METRICS.items()
        if lines[metric]
    )


def _measure_all(daemon: Daemon) -> Iterator[tuple[str, str, float]]:
    """Yield (metric, labels, value)."""
    yield "storelet_build_info", f'{{version="{version("storelet")}"}}', 1
    yield "storelet_start_time_seconds", "", daemon.started.timestamp()
    yield "storelet_job_file_problems", "", len(daemon.problems)
    for job in daemon.jobs.values():
        # A job's name has no character that would need an escape.
        labels = f'{{name="{job.name}"}}'
        yield from ((metric, labels, value) for metric, value in _measure(daemon, job))


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
    if job.settings.max_age is not None:
        yield "storelet_job_max_age_seconds", job.settings.max_age.total_seconds()
    yield "storelet_job_overdue", int(state is not None and state.overdue_since is not None)
    yield "storelet_job_paused", int(daemon.is_paused(job))
    yield "storelet_job_prune_held", int(state is not None and state.held_since is not None)
    yield from _measure_work(daemon.history.last_attempt(job.name))
    yield from _measure_verification(daemon, job)
    active = daemon.runner.active(job.name, "backup")
    yield "storelet_job_running", int(any(run.state == "running" for run in active))


def _measure_work(run: Run | None) -> Iterator[tuple[str, float]]:
    """Measure what a run did, where that is known: of a lost one it is not."""
    if run is None or run.begun_at is None or run.finished_at is None or run.outcome == "lost":
        return
    seconds = (run.finished_at - run.begun_at).total_seconds()
    yield "storelet_job_last_run_duration_seconds", max(seconds, 0)  # the clock may be set
    yield "storelet_job_last_run_seen_files", run.files_seen
    yield "storelet_job_last_run_read_files", run.files
    yield "storelet_job_last_run_reused_files", run.reused
    yield "storelet_job_last_run_skipped_files", run.skipped
    yield "storelet_job_last_run_read_bytes", run.bytes_read
    yield "storelet_job_last_run_sent_bytes", sum(each.bytes_sent for each in run.archives)
    yield "storelet_job_last_run_archive_bytes", sum(each.bytes for each in run.archives)


def _measure_verification(daemon: Daemon, job: Job) -> Iterator[tuple[str, float]]:
    last = daemon.history.last_attempt(job.name, "verify")
    if last is not None and last.exit_code is not None:
        yield "storelet_job_last_verify_exit_code", last.exit_code
    success = daemon.history.last_success(job.name, "verify")
    if success is not None and success.finished_at is not None:
        name = "storelet_job_last_verify_success_timestamp_seconds"
        yield name, success.finished_at.timestamp()

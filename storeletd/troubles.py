"""Troubles: what is wrong with a job now, and how to tell somebody.

A job has up to one trouble of each topic: its backups, its verifications, its being overdue, its
archives being held. What somebody was told last is remembered by topic; where that is not what is
so now, there is a letter to write, so that nobody is told the same twice, and nothing is forgotten
over a restart or a network that is down.

A run that somebody started by hand is no news to them, but for a success that ends a trouble; nor
is one that is to be repeated, before that has failed, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from storeletd.history import History
from storeletd.jobs import Job
from storeletd.jobstate import JobState
from storeletd.records import Kind, Run

__all__ = ["Letter", "Trouble", "find_run_troubles", "find_state_troubles", "write_letters"]

_LINES = 20  # of a run, the last ones
_WORDS = {"lost": "failed"}  # outcomes that are called otherwise
_RETRIED = ("failed", "timeout")
_TOPICS: Mapping[str, Kind] = {"backup": "backup", "verification": "verify"}
_WELL = {
    "backup": "its backup is a success again",
    "verification": "its archives are right again",
    "overdue": "it is not overdue any more",
    "prune": "its archives are pruned again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What is wrong."""

    word: str  # failed, partial, missed, timeout, overdue, held
    why: str
    hint: str | None
    since: datetime
    run: int | None = None
    lines: tuple[str, ...] = ()  # the last ones of that run


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What somebody is told."""

    word: str  # of the trouble, or recovered
    title: str
    body: str


def find_run_troubles(history: History, name: str) -> dict[str, Trouble | None]:
    """Return the trouble, or None, of each topic that runs say something of. HistoryError."""
    found: dict[str, Trouble | None] = {}
    for topic, kind in _TOPICS.items():
        run = history.last_news(name, kind)
        if run is None or run.finished_at is None or run.outcome is None:
            continue
        if run.outcome == "success":
            found[topic] = None
        elif run.retry_at is None or run.outcome not in _RETRIED:
            found[topic] = _describe(run, run.finished_at, history.output(run.id))
    return found


def find_state_troubles(job: Job, state: JobState) -> dict[str, Trouble | None]:
    """Return the trouble, or None, of each topic that is remembered of the job itself."""
    found: dict[str, Trouble | None] = {"overdue": None, "prune": None}
    if state.overdue_since is not None:
        why = f"no archive was saved for longer than {job.settings.max_age}"
        hint = f"storeletctl status {job.name}"
        found["overdue"] = Trouble(word="overdue", why=why, hint=hint, since=state.overdue_since)
    if state.held_since is not None:
        hint = f"storeletctl resume-prune {job.name}, if that is as it should be"
        why = f"no archive is deleted any more: {state.held_why}"
        found["prune"] = Trouble(word="held", why=why, hint=hint, since=state.held_since)
    return found


def write_letters(
    name: str, host: str, troubles: Mapping[str, Trouble | None], told: Mapping[str, str]
) -> Iterator[tuple[str, Letter]]:
    """Yield the topics of which something else was told than is so, each with what to tell."""
    for topic, trouble in troubles.items():
        if trouble is None and topic in told:
            body = f"{_WELL[topic]} (was: {told[topic]})\n"
            yield topic, Letter(word="recovered", title=f"{name} on {host}: recovered", body=body)
        elif trouble is not None and told.get(topic) != trouble.word:
            subject = trouble.word if topic != "verification" else f"verification {trouble.word}"
            title = f"{name} on {host}: {subject}"
            yield topic, Letter(word=trouble.word, title=title, body=_write(trouble))


def _describe(run: Run, since: datetime, lines: tuple[str, ...]) -> Trouble:
    outcome = run.outcome or ""
    return Trouble(
        word=_WORDS.get(outcome, outcome),
        why=run.message or outcome,
        hint=run.hint,
        since=since,
        run=run.id,
        lines=lines[-_LINES:],
    )


def _write(trouble: Trouble) -> str:
    parts = [trouble.why, f"Since {trouble.since.astimezone():%a %Y-%m-%d %H:%M %Z}"]
    if trouble.hint:
        parts.append(f"Try: {trouble.hint}")
    if trouble.run is not None:
        parts.append(f"All of it: storeletctl history --run {trouble.run}")
    if trouble.lines:
        parts += ["", "Its last lines:", *(f"  {line}" for line in trouble.lines)]
    return "\n".join(parts) + "\n"

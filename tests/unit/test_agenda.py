"""The agenda over any life of a daemon: each due time is counted in one row, and none is lost."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from storeletd.agenda import Agenda, Standing, describe_times, find_host, find_owed
from storeletd.database import Database, HistoryError
from storeletd.history import History
from storeletd.jobs import Job
from storeletd.jobstate import JobState, JobStates
from storeletd.planner import FOREVER, LATE, Decision, find_delay, find_retry
from storeletd.records import EXIT_CODES, Run
from storeletd.schedule import Schedule, due_between
from storeletd.settings import Language, Settings

HOST = "4a0c"
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def make_job(language: Language = "python", **values: Any) -> Job:
    model = Settings.model_validate({"timezone": "UTC", **values})
    return Job(name="web", path="/web", language=language, settings=model, source="", lines={})


def delay_of(job: Job) -> timedelta:
    return find_delay(job.settings.randomized_delay, host=HOST, job=job.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What becomes of each run, until this changes."""

    lasts: timedelta
    outcome: str
    is_temporary: bool


class Machine:
    """A daemon without its processes and tasks, on a clock of its own.

    It does with agenda, history and job states what Daemon and Runner do; what it stands for
    is the world: the clocks, how long runs take, when destinations answer.
    """

    def __init__(self, directory: Path, now: datetime) -> None:
        self.directory = directory
        self.now = now  # by the clock on the wall, which may be set
        self.elapsed = timedelta(0)
        self.work = Work(lasts=MINUTE, outcome="success", is_temporary=False)
        self.answers_after = timedelta(0)
        self.jobs: dict[str, Job] = {}
        self.looks = 0
        self.boot()

    def boot(self) -> None:
        self.database = Database(self.directory / "history.sqlite")
        self.history, self.states = History(self.database), JobStates(self.database)
        self.agenda = Agenda(self.states, self.history, host=HOST)
        self.active: list[Run] = []  # the first runs, the second waits
        self.run_ends = timedelta(0)
        self.ready_at: timedelta | None = None
        self.is_ready = False
        self.history.close_unfinished(now=self.now)
        self.reload(self.jobs)

    def stop(self) -> None:
        """End as on SIGTERM: runs are ended, and the next daemon repeats them."""
        for run in self.active:
            is_repeated = run.cause == "catch-up" and run.repeats is not None
            owes = run.cause != "manual" and not is_repeated
            self.history.finish(self.end(run, "cancelled", retry_at=self.now if owes else None))
        self.kill()

    def kill(self) -> None:
        self.database.close()

    def end(self, run: Run, outcome: str, **more: Any) -> Run:
        code = EXIT_CODES[outcome]
        at = self.now
        return replace(
            run, state="finished", outcome=outcome, exit_code=code, finished_at=at, **more
        )

    def reload(self, jobs: dict[str, Job]) -> None:
        gone = self.jobs.keys() - jobs.keys()
        self.jobs = jobs
        for name, decision in self.agenda.set_jobs(jobs, self.now):
            self.record(name, decision)
        if gone:
            self.forget_readiness()
        self.look()

    def pause(self, until: datetime | None) -> None:
        self.look()
        self.states.put(replace(self.state, paused_until=until or FOREVER))
        self.forget_readiness()
        self.agenda.touch("web")
        self.look()

    def resume(self) -> None:
        if self.state.paused_until is not None:
            end = min(self.state.paused_until, self.now)
            self.states.put(replace(self.state, paused_until=end))
            self.agenda.touch("web")
            self.look()

    @property
    def state(self) -> JobState:
        state = self.states.get("web")
        assert state is not None
        return state

    def look(self) -> None:
        for job in self.agenda.find_due(self.now):
            self.decide(job)
        self.states.write()

    def decide(self, job: Job) -> None:
        self.looks += 1
        standing = Standing(
            active_run=self.active[0].id if self.active else None,
            waiting=len(self.active) > 1,
            is_ready=self.is_ready,
        )
        is_waiting = False
        for decision in self.agenda.look(job, self.now, standing):
            self.see(job, decision)
            if decision.action == "wait":
                if self.ready_at is None:
                    self.ready_at = self.elapsed + delay_of(job) + self.answers_after
            elif decision.action == "run":
                self.begin(decision)
            else:
                self.record(job.name, decision)
            if decision.due is not None:
                self.states.advance(job.name, decision.due.last)
            is_waiting = decision.action == "wait"
        if not is_waiting:
            self.forget_readiness()

    def see(self, job: Job, decision: Decision) -> None:
        """Fail where the decision is none that may be made."""
        due, state = decision.due, self.state
        if decision.action == "run":
            assert state.paused_until is None or state.paused_until <= self.now
            may_queue = job.settings.overlap == "queue" and decision.due is not None
            assert not self.active or may_queue
        if due is not None:
            times = state.times()
            assert times is not None
            # It goes on where the one before has ended, with nothing left out.
            assert due == due_between(*times, state.decided_until, due.last)
            is_changed = state.schedule != describe_times(job)  # then nothing is put off any more
            delay = timedelta(0) if is_changed else delay_of(job)
            assert due.last.astimezone(UTC) + delay <= self.now
            is_late = self.now - due.first.astimezone(UTC) > delay_of(job) + LATE
            if decision.action == "run" and is_late:
                assert decision.cause == "catch-up"

    def begin(self, decision: Decision) -> None:
        owed = decision.repeats
        self.queue(
            self.history.begin(
                job="web",
                cause=decision.cause,
                due=decision.due,
                now=self.now,
                repeats=owed.run_id if owed else None,
                attempt=owed.attempt if owed else 1,
            )
        )

    def run_now(self) -> None:
        if not self.active:
            self.queue(self.history.begin(job="web", cause="manual", due=None, now=self.now))

    def queue(self, run: Run) -> None:
        self.active.append(run)
        assert len(self.active) <= 2, "one behind the other is enough"
        if len(self.active) == 1:
            self.start()

    def start(self) -> None:
        self.active[0] = self.history.start(self.active[0], now=self.now)
        self.run_ends = self.elapsed + self.work.lasts

    def finish(self) -> None:
        run = self.active.pop(0)
        job = self.jobs.get("web")
        retry_at = None
        if job and self.work.is_temporary and run.cause != "manual":
            retry_at = find_retry(
                retries=job.settings.retries,
                wait=job.settings.retry_wait,
                attempt=run.attempt,
                ended_at=self.now,
            )
        self.history.finish(self.end(run, self.work.outcome, retry_at=retry_at))
        if self.active:
            self.start()
        self.agenda.touch("web")
        self.look()

    def record(self, name: str, decision: Decision) -> None:
        assert decision.due is not None
        assert decision.why
        self.history.record(
            job=name,
            outcome="skipped" if decision.action == "skip" else "missed",
            cause=decision.cause,
            due=decision.due,
            now=self.now,
            message=decision.why,
            collided_with=decision.collided_with,
        )

    def forget_readiness(self) -> None:
        self.is_ready, self.ready_at = False, None

    def live(self, span: timedelta) -> None:
        """Let time pass while the daemon runs; it looks when it has to, and at no other time."""
        end = self.elapsed + span
        while (step := self.next_event(end)) is not None:
            self.sleep(step)
            if self.active and self.run_ends <= self.elapsed:
                self.finish()
            elif self.ready_at is not None and self.ready_at <= self.elapsed:
                self.is_ready, self.ready_at = True, None
                self.agenda.touch("web")
                self.look()
            else:
                self.look()
        self.sleep(end - self.elapsed)

    def next_event(self, end: timedelta) -> timedelta | None:
        """Return how long until something happens, if anything does before `end`."""
        events = [self.ready_at] if self.ready_at is not None else []
        events += [self.run_ends] if self.active else []
        steps = [max(event - self.elapsed, timedelta(0)) for event in events]
        if look := self.agenda.next_look():
            assert look > self.now, "it looks again and again"
            steps.append(look - self.now)
        step = min(steps, default=None)
        return step if step is not None and self.elapsed + step <= end else None

    def sleep(self, span: timedelta) -> None:
        self.elapsed += span
        self.now += span


# Any life of a daemon

ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Pacific/Apia",
    "UTC",
]
SCHEDULES = ["*/7 * * * *", "30 2 * * *", "@hourly", "every 45m", "every 6h", "02:30:30"]
# just before the local clock is changed: by an hour, by half an hour, by a day
BEGINNINGS = [
    datetime(2026, 3, 28, 20, tzinfo=UTC),
    datetime(2026, 10, 24, 20, tzinfo=UTC),
    datetime(2026, 4, 4, 8, tzinfo=UTC),
    datetime(2011, 12, 29, 20, tzinfo=UTC),
]
schedules = st.just("manual") | st.lists(st.sampled_from(SCHEDULES), min_size=1, max_size=2)
jobs = st.builds(
    make_job,
    language=st.sampled_from(["python", "yaml"]),
    schedule=schedules,
    timezone=st.sampled_from(ZONES),
    randomized_delay=st.sampled_from(["1s", "10m", "3h"]),
    catch_up=st.booleans() | st.sampled_from([{"max_late": "10s"}, {"max_late": "12h"}]),
    overlap=st.sampled_from(["skip", "queue"]),
    retries=st.integers(0, 3),
    retry_wait=st.sampled_from(["1s", "1m", "20m"]),
)
seconds = st.integers(0, 90) | st.integers(0, 4000) | st.integers(0, 40_000)
spans = seconds.map(lambda n: n * SECOND)
long_spans = spans | st.integers(0, 900_000).map(lambda n: n * SECOND)
AHEAD = HOUR  # a clock set back by more makes its due times count anew


class Lives(RuleBasedStateMachine):
    """Counts, beside the daemon, the due times of the schedules that were in force."""

    @initialize(now=st.sampled_from(BEGINNINGS), job=jobs)
    def begin(self, now: datetime, job: Job) -> None:
        self.temporary = tempfile.TemporaryDirectory()
        self.counted = 0  # due times of times that are over
        self.in_force: tuple[Schedule, ZoneInfo] | None = None
        self.since = now
        self.most_retries = 0
        self.machine = Machine(Path(self.temporary.name), now)
        self.load(job)

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.machine.database.close()
            self.temporary.cleanup()

    @property
    def has_job(self) -> bool:
        return "web" in self.machine.jobs

    def count(self, until: datetime) -> int:
        due = due_between(*self.in_force, self.since, until) if self.in_force else None
        return due.count if due else 0

    def foresee(self, job: Job | None) -> None:
        """Reckon what a look at this job, now, brings about."""
        now = self.machine.now
        if job is None:
            return
        times = (job.settings.schedule, job.settings.timezone)
        if self.in_force is None:
            state = self.machine.states.get("web")  # of a job that was removed
            was_ahead = state is not None and now < state.decided_until <= now + AHEAD
            self.in_force, self.since = times, state.decided_until if was_ahead and state else now
            return
        decided_until = self.machine.state.decided_until
        if decided_until - now > AHEAD:
            self.counted += self.count(decided_until)
            self.since = decided_until = now
        if self.in_force != times:
            end = max(decided_until, now)
            self.counted += self.count(end)
            self.in_force, self.since = times, end

    def load(self, job: Job) -> None:
        self.most_retries = max(self.most_retries, job.settings.retries)
        self.foresee(job)
        self.machine.reload({"web": job})

    @rule(span=spans)
    def live(self, span: timedelta) -> None:
        self.machine.live(min(span, 6 * HOUR))

    @rule(
        lasts=spans,
        ends=st.sampled_from(
            [
                ("success", False),
                ("failed", False),
                ("failed", True),
                ("timeout", True),
                ("skipped", False),  # by the job's own code
            ]
        ),
        answers_after=spans,
    )
    def change_the_world(
        self, lasts: timedelta, ends: tuple[str, bool], answers_after: timedelta
    ) -> None:
        outcome, is_temporary = ends
        self.machine.work = Work(lasts=lasts, outcome=outcome, is_temporary=is_temporary)
        self.machine.answers_after = answers_after

    @rule(span=long_spans)
    def suspend(self, span: timedelta) -> None:
        self.machine.now += span
        self.machine.look()

    @rule(span=long_spans, sign=st.sampled_from([-1, 1]))
    def set_clock(self, span: timedelta, sign: int) -> None:
        self.machine.now += sign * span
        self.foresee(self.machine.jobs.get("web"))
        self.machine.look()

    @rule(
        end=st.sampled_from([Machine.stop, Machine.kill]),
        down=long_spans,
        keeps=st.sampled_from([True, True, True, False]),
        sign=st.sampled_from([1, 1, 1, -1]),
    )
    def restart(self, end: Any, down: timedelta, keeps: bool, sign: int) -> None:
        end(self.machine)
        self.machine.now += sign * down
        if not keeps:
            self.machine.jobs = {}
        if self.has_job:
            with closing(Database(self.machine.database.path)) as database:
                self.machine.states = JobStates(database)
            self.foresee(self.machine.jobs["web"])
        self.machine.boot()

    @rule(job=jobs)
    def change_the_job(self, job: Job) -> None:
        self.load(job)

    @precondition(lambda self: self.has_job)
    @rule(values=st.fixed_dictionaries({"catch_up": st.booleans(), "retries": st.integers(0, 3)}))
    def change_its_settings(self, values: dict[str, Any]) -> None:
        job = self.machine.jobs["web"]
        self.load(replace(job, settings=job.settings.model_copy(update=values)))

    @precondition(lambda self: self.has_job)
    @rule()
    def remove_the_job(self) -> None:
        self.counted += self.count(max(self.machine.now, self.machine.state.decided_until))
        self.in_force = None
        self.machine.reload({})

    @precondition(lambda self: self.has_job)
    @rule(span=st.none() | long_spans)
    def pause(self, span: timedelta | None) -> None:
        self.machine.pause(None if span is None else self.machine.now + span)

    @precondition(lambda self: self.has_job)
    @rule()
    def resume(self) -> None:
        self.machine.resume()

    @precondition(lambda self: self.has_job)
    @rule()
    def run_now(self) -> None:
        self.machine.run_now()

    @invariant()
    def every_due_time_is_counted_in_one_row(self) -> None:
        counts = [run.due.count for run in self.rows() if run.due]
        state = self.machine.states.get("web")
        decided = self.count(state.decided_until) if state else 0
        assert sum(counts) == self.counted + decided

    @invariant()
    def nothing_that_may_be_decided_is_left(self) -> None:
        job = self.machine.jobs.get("web")
        state = self.machine.states.get("web")
        if job is None or state is None:
            return
        now = self.machine.now
        assert state.schedule == describe_times(job)
        if state.paused_until is not None and now < state.paused_until:
            return
        delay = delay_of(job)
        due = due_between(*self.times(job), state.decided_until, now - delay)
        if due is not None:  # it is to be caught up, when destinations answer
            assert self.machine.ready_at is not None
            assert job.settings.catch_up
            last = due.last.astimezone(UTC)
            assert now - delay - last > LATE

    @invariant()
    def every_run_has_a_reason(self) -> None:
        before: Run | None = None  # that was to do something
        for run in self.rows():
            assert (run.due is not None) + (run.cause == "manual") + (run.repeats is not None) == 1
            if run.repeats is not None:
                assert before is not None
                self.see_repetition(run, before)
            if run.begun_at is not None or run.outcome not in ("skipped", "missed"):
                before = run

    def see_repetition(self, run: Run, before: Run) -> None:
        assert before.retry_at is not None
        assert run.repeats == (before.repeats or before.id)
        if run.cause == "retry":
            assert before.outcome in ("failed", "timeout")
            assert run.attempt == before.attempt + 1 <= self.most_retries + 1
        else:
            assert run.cause == "catch-up"
            assert before.outcome in ("lost", "cancelled")
            assert run.attempt == before.attempt
            assert not (before.cause == "catch-up" and before.repeats)  # once is enough

    def times(self, job: Job) -> tuple[Schedule, ZoneInfo]:
        return job.settings.schedule, job.settings.timezone

    def rows(self) -> tuple[Run, ...]:
        return self.machine.history.runs(limit=1_000_000)[::-1]


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=80, stateful_step_count=20)


# Single things


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, NOON)
    yield machine
    machine.database.close()


def rows(machine: Machine) -> list[tuple[str, str | None, int]]:
    runs = machine.history.runs()[::-1]
    return [(run.cause, run.outcome, run.due.count if run.due else 0) for run in runs]


HOURLY = make_job(schedule="@hourly")


def test_a_job_that_is_new_has_no_due_times_before_it_was_seen(machine: Machine) -> None:
    machine.now += HOUR / 2
    machine.reload({"web": HOURLY})
    assert machine.state.known_since == machine.state.decided_until == machine.now
    machine.live(HOUR)
    assert rows(machine) == [("schedule", "success", 1)]


def test_a_year_of_downtime_is_one_run_and_one_row(machine: Machine) -> None:
    machine.reload({"web": make_job(schedule="* * * * *")})
    machine.kill()
    machine.now += 365 * DAY
    machine.looks = 0
    machine.boot()
    assert machine.looks == 1
    assert rows(machine) == [("catch-up", None, 365 * 24 * 60)]


def test_suspended_and_then_restarted_catches_up_once(machine: Machine) -> None:
    machine.reload({"web": HOURLY})
    machine.now += 10 * HOUR
    machine.look()
    machine.live(HOUR / 2)
    machine.stop()
    machine.boot()
    machine.look()
    assert rows(machine) == [("catch-up", "success", 10)]


def test_a_boot_with_the_clock_far_ahead_silences_no_job(machine: Machine) -> None:
    machine.reload({"web": HOURLY})
    machine.now += 3650 * DAY
    machine.look()
    machine.live(HOUR / 2)
    machine.now -= 3650 * DAY
    machine.look()
    machine.live(2 * HOUR)
    assert [count for _, _, count in rows(machine)] == [3650 * 24, 1, 1]


def test_a_clock_set_back_while_a_run_is_on_loses_no_due_time_to_a_restart(
    machine: Machine,
) -> None:
    """The end of that run must not bring back the time that was wrong."""
    machine.reload({"web": HOURLY})
    machine.now += 3650 * DAY
    machine.look()
    machine.now -= 3650 * DAY
    machine.look()
    machine.live(HOUR / 2)  # the run ends
    machine.kill()
    machine.now += 5 * HOUR
    machine.boot()
    assert [count for _, _, count in rows(machine)] == [3650 * 24, 5]


def test_a_job_that_skips_itself_is_not_repeated_for_ever(machine: Machine) -> None:
    machine.work = Work(lasts=SECOND, outcome="failed", is_temporary=True)
    machine.reload({"web": make_job(schedule="@daily", retry_wait="1s")})
    machine.now += DAY
    machine.look()
    machine.live(SECOND)
    machine.work = Work(lasts=SECOND, outcome="skipped", is_temporary=False)
    machine.live(HOUR)
    assert rows(machine) == [("catch-up", "failed", 1), ("retry", "skipped", 0)]


def test_a_retry_that_waits_by_a_clock_that_was_ahead_is_made_when_it_is_put_right(
    machine: Machine,
) -> None:
    machine.work = Work(lasts=10 * MINUTE, outcome="failed", is_temporary=True)
    machine.reload({"web": make_job(schedule="30 2 * * *", retry_wait="1h")})
    machine.live(timedelta(hours=14, minutes=35))
    machine.now += 5 * HOUR
    machine.live(10 * MINUTE)
    assert rows(machine) == [("schedule", "failed", 1)]
    machine.now -= 5 * HOUR
    machine.look()
    assert rows(machine) == [("schedule", "failed", 1), ("retry", None, 0)]


def test_retries_are_counted_and_all_name_the_first(machine: Machine) -> None:
    machine.work = Work(lasts=SECOND, outcome="failed", is_temporary=True)
    machine.reload({"web": make_job(schedule="@daily", retries=2, retry_wait="1m")})
    machine.live(20 * HOUR)
    first, *others = machine.history.runs()[::-1]
    assert (first.cause, first.attempt, first.repeats) == ("schedule", 1, None)
    assert [(run.cause, run.attempt, run.repeats) for run in others] == [
        ("retry", 2, first.id),
        ("retry", 3, first.id),
    ]


@pytest.mark.parametrize(
    ("language", "randomized_delay", "waits"),
    [
        ("yaml", None, True),
        ("python", "10m", True),
        ("python", None, False),  # what its destinations are the module alone knows
    ],
)
def test_a_catch_up_waits_for_the_destinations_and_the_random_delay(
    machine: Machine, language: Language, randomized_delay: str | None, waits: bool
) -> None:
    values = {"randomized_delay": randomized_delay} if randomized_delay else {}
    machine.answers_after = HOUR
    machine.reload({"web": make_job(language, schedule="@daily", **values)})
    machine.now += DAY
    machine.look()
    assert rows(machine) == ([] if waits else [("catch-up", None, 1)])
    machine.live(2 * HOUR)
    assert rows(machine) == [("catch-up", "success", 1)]


def test_what_was_due_before_a_change_pays_for_what_is_owed(machine: Machine) -> None:
    machine.work = Work(lasts=SECOND, outcome="failed", is_temporary=True)
    machine.reload({"web": make_job(schedule="@hourly", retry_wait="1m")})
    machine.live(HOUR + 10 * SECOND)
    machine.now += HOUR
    machine.reload({"web": make_job(schedule="@daily", retry_wait="1m")})
    assert rows(machine) == [("schedule", "failed", 1), ("schedule", None, 1)]
    assert len(machine.active) == 1


def test_another_schedule_makes_no_due_time_of_before_count_anew(machine: Machine) -> None:
    machine.reload({"web": HOURLY})
    machine.live(HOUR + MINUTE)
    machine.now -= 10 * MINUTE
    machine.look()
    machine.reload({"web": make_job(schedule=["@hourly", "@daily"])})
    machine.live(20 * MINUTE)
    assert rows(machine) == [("schedule", "success", 1)]


def test_what_was_due_of_a_job_that_is_removed_is_missed(machine: Machine) -> None:
    machine.reload({"web": HOURLY})
    machine.now += 3 * HOUR
    machine.reload({})
    (run,) = machine.history.runs()
    assert (run.outcome, run.message) == ("missed", "its job file was removed")
    machine.now += 3 * HOUR
    machine.reload({"web": HOURLY})
    machine.live(HOUR + MINUTE)
    assert rows(machine) == [("schedule", "missed", 3), ("schedule", "success", 1)]


def test_due_times_of_a_removed_job_that_cannot_be_recorded_are_recorded_later(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storeletd.database._BUSY_SECONDS", 0.05)
    machine.kill()
    machine.boot()
    machine.reload({"web": HOURLY})
    machine.now += 3 * HOUR
    with closing(sqlite3.connect(machine.database.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(HistoryError, match="locked"):
            machine.reload({})
    machine.reload({})  # as at the next scan
    assert rows(machine) == [("schedule", "missed", 3)]
    machine.now += 3 * HOUR
    machine.reload({})
    machine.reload({"web": HOURLY})
    assert rows(machine) == [("schedule", "missed", 3)]


def test_a_pause_outlives_a_restart_and_an_editor_that_writes_the_file_anew(
    machine: Machine,
) -> None:
    machine.reload({"web": HOURLY})
    machine.pause(NOON + 3 * HOUR)
    machine.reload({})
    machine.reload({"web": HOURLY})
    machine.kill()
    machine.boot()
    machine.live(2 * HOUR)
    assert rows(machine) == []
    machine.live(2 * HOUR + MINUTE)
    assert rows(machine) == [("schedule", "skipped", 3), ("schedule", "success", 1)]
    assert machine.state.paused_until is None


def test_what_a_lost_run_was_for_is_repeated_once(machine: Machine) -> None:
    machine.work = Work(lasts=10 * MINUTE, outcome="success", is_temporary=False)
    machine.reload({"web": make_job(schedule="@daily")})
    machine.live(12 * HOUR)
    for _ in range(3):
        machine.kill()
        machine.boot()
    assert rows(machine) == [("schedule", "lost", 1), ("catch-up", "lost", 0)]
    assert find_owed(machine.history, "web") is None


def test_when_a_job_is_due_next_is_told_whatever_has_happened(machine: Machine) -> None:
    job = make_job(schedule="@hourly", randomized_delay="10m")
    delay = delay_of(job)
    assert timedelta(0) < delay < 10 * MINUTE
    machine.reload({"web": job})
    for _ in range(2):  # reckoned, and remembered
        assert machine.agenda.next_start(job, machine.now) == (NOON + HOUR, delay)
    machine.live(HOUR)  # it is due, and will start
    assert machine.agenda.next_start(job, machine.now) == (NOON + HOUR, delay)
    machine.live(delay)
    assert machine.agenda.next_start(job, machine.now) == (NOON + 2 * HOUR, delay)
    machine.pause(NOON + 5 * HOUR)
    assert machine.agenda.next_start(job, machine.now) == (NOON + 6 * HOUR, delay)
    machine.pause(None)
    assert machine.agenda.next_start(job, machine.now) == (None, delay)
    manual = make_job(schedule="manual")
    machine.reload({"web": manual})
    assert machine.agenda.next_start(manual, machine.now) == (None, timedelta(0))


def test_a_job_that_is_not_due_is_not_looked_at(machine: Machine) -> None:
    machine.reload({"web": HOURLY})
    assert machine.agenda.next_look() == NOON + HOUR
    machine.looks = 0
    for _ in range(59):
        machine.now += MINUTE
        machine.look()
    assert machine.looks == 0
    machine.now += MINUTE
    machine.look()
    assert machine.looks == 1


def test_the_host_has_a_name_that_stays() -> None:
    assert find_host() == find_host() != ""

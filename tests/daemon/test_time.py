"""The daemon and time: what is due while it is down, asleep, paused, or under a wrong clock."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.clock import DAY, NIGHT, Clock, give_clock
from tests.helpers import ACCESS_KEY, SECRET_KEY, Bucket, Daemon, wait_for

NOWHERE = "http://127.0.0.1:9"  # discard: nobody listens there


@pytest.fixture
def clock(daemon: Daemon, tmp_path: Path) -> Clock:
    """Start the daemon anew with a clock of its own, ten minutes before three at night."""
    clock = Clock(tmp_path / "clock")
    clock.set(NIGHT)
    give_clock(daemon, clock)
    daemon.stop()
    shutil.rmtree(daemon.state)
    daemon.start()
    return clock


def write_job(
    daemon: Daemon, tree: Path, destination: Path, more: str = "", name: str = "web"
) -> None:
    """Write a job that is due at three every night, unless `more` says otherwise."""
    schedule = "" if "schedule:" in more else 'schedule: "0 3 * * *"\n'
    path = daemon.jobs / f"{name}.yaml"
    path.write_text(
        f"{schedule}{more}include:\n- directory: {tree}\nsave:\n- directory: {destination}\n"
    )
    path.chmod(0o600)
    daemon.ctl("reload")


def write_s3_job(daemon: Daemon, tree: Path, bucket: str, endpoint: str, more: str = "") -> None:
    """Write the same with a bucket as its destination."""
    path = daemon.jobs / "web.yaml"
    path.write_text(
        f'schedule: "0 3 * * *"\n{more}include:\n- directory: {tree}\nsave:\n- s3: {bucket}\n'
        f"  endpoint_url: {endpoint}\n  access_key: {ACCESS_KEY}\n"
        f"  secret_key: {SECRET_KEY}\n  region_name: us-east-1\n"
    )
    path.chmod(0o600)
    daemon.ctl("reload")


def write_sleeper(daemon: Daemon, more: str = "") -> None:
    """Write a job whose runs do not end by themselves."""
    path = daemon.jobs / "web.py"
    path.write_text(f'SCHEDULE = "0 3 * * *"\n{more}import time\ntime.sleep(600)\n')
    path.chmod(0o600)
    daemon.ctl("reload")


def runs(daemon: Daemon, job: str = "web") -> list[dict[str, Any]]:
    """Return the runs of a job, the oldest first."""
    found: list[dict[str, Any]] = daemon.request("GET", f"/runs?job={job}")[1]["runs"]
    return found[::-1]


def job(daemon: Daemon, name: str = "web") -> dict[str, Any]:
    found: dict[str, Any] = daemon.request("GET", f"/jobs/{name}")[1]
    return found


def finished(
    daemon: Daemon, count: int, job: str = "web", seconds: float = 20
) -> list[dict[str, Any]]:
    """Wait until a job has so many runs, all of them over; return them, the oldest first."""

    def look() -> list[dict[str, Any]] | None:
        found = runs(daemon, job)
        return found if len(found) == count and all(run["outcome"] for run in found) else None

    return wait_for(look, seconds=seconds, what=f"{count} finished runs of {job}")


def brief(run: dict[str, Any]) -> tuple[str, str, int]:
    return run["cause"], run["outcome"], run["due"]["count"] if run["due"] else 0


def restart(daemon: Daemon, clock: Clock, at: datetime) -> None:
    """Let the daemon be down until then."""
    daemon.stop()
    clock.set(at)
    daemon.start()


def strike_three(daemon: Daemon, clock: Clock, night: datetime = NIGHT) -> None:
    """Let it be three o'clock in a moment."""
    clock.set(night.replace(minute=59, second=59))
    daemon.ctl("reload")


# Due times in order


def test_a_job_runs_when_it_is_due(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    strike_three(daemon, clock)
    (run,) = finished(daemon, 1, seconds=40)
    assert brief(run) == ("schedule", "success", 1)
    assert run["due"]["first"] == run["due"]["last"] == "2027-03-20T03:00:00.000+00:00"


def test_due_times_that_passed_while_it_was_down_make_one_run_and_one_row(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    restart(daemon, clock, NIGHT + 5 * DAY)
    (run,) = finished(daemon, 1)
    assert brief(run) == ("catch-up", "success", 5)
    assert run["due"]["first"] == "2027-03-20T03:00:00.000+00:00"
    assert run["due"]["last"] == "2027-03-24T03:00:00.000+00:00"
    restart(daemon, clock, NIGHT + 5 * DAY)
    daemon.ctl("reload")
    assert len(runs(daemon)) == 1


def test_a_machine_that_slept_is_noticed_without_anybody_saying_so(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    clock.set(NIGHT + DAY)
    (run,) = finished(daemon, 1, seconds=60)
    assert brief(run) == ("catch-up", "success", 1)


def test_after_a_suspend_and_a_restart_nothing_runs_twice(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    clock.set(NIGHT + DAY / 2)
    daemon.ctl("reload")
    finished(daemon, 1)
    daemon.stop()
    daemon.start()
    clock.set(NIGHT + DAY / 2 + timedelta(minutes=10))
    daemon.ctl("reload")
    assert [brief(run) for run in finished(daemon, 1)] == [("catch-up", "success", 1)]


def test_without_catch_up_they_are_recorded_as_missed(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination, "catch_up: false\n")
    restart(daemon, clock, NIGHT + 5 * DAY)
    (run,) = finished(daemon, 1)
    assert brief(run) == ("schedule", "missed", 5)
    assert run["begun_at"] is None
    assert "catch_up is false" in run["message"]


def test_what_is_later_than_max_late_is_missed_and_the_rest_caught_up(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination, "catch_up: {max_late: 12h}\n")
    restart(daemon, clock, NIGHT + 5 * DAY + timedelta(hours=6))
    missed, caught = finished(daemon, 2)
    assert brief(missed) == ("schedule", "missed", 5)
    assert "max_late" in missed["message"]
    assert brief(caught) == ("catch-up", "success", 1)


def test_a_schedule_that_was_changed_meanwhile_loses_no_night(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    daemon.stop()
    write_path = daemon.jobs / "web.yaml"
    write_path.write_text(write_path.read_text().replace("0 3 * * *", "30 17 * * *"))
    clock.set(NIGHT + DAY / 2)
    daemon.start()
    (run,) = finished(daemon, 1)
    assert brief(run) == ("catch-up", "success", 1)
    assert job(daemon)["next_due"] == "2027-03-20T17:30:00.000+00:00"


# A catch-up waits


def test_a_catch_up_waits_for_its_destination_and_no_run_fails_meanwhile(
    daemon: Daemon, clock: Clock, tree: Path, tmp_path: Path
) -> None:
    mount = tmp_path / "mount"
    write_job(daemon, tree, mount)
    restart(daemon, clock, NIGHT + DAY)
    wait_for(lambda: "no such directory" in (job(daemon)["waits_for"] or ""), what="a reason")
    assert job(daemon)["state"] == "waiting"
    assert "waiting" in daemon.ctl("list").stdout
    assert runs(daemon) == []
    restart(daemon, clock, NIGHT + 2 * DAY)  # what waits is not lost, and counted once
    wait_for(lambda: "no such directory" in (job(daemon)["waits_for"] or ""), what="a reason")
    mount.mkdir()
    (run,) = finished(daemon, 1)
    assert brief(run) == ("catch-up", "success", 2)
    assert job(daemon)["waits_for"] is None


def test_a_catch_up_waits_for_a_store_that_does_not_answer(
    daemon: Daemon, clock: Clock, tree: Path, tmp_path: Path
) -> None:
    write_s3_job(daemon, tree, "my-bucket", NOWHERE)
    restart(daemon, clock, NIGHT + DAY)
    wait_for(lambda: "cannot reach" in (job(daemon)["waits_for"] or ""), seconds=40, what="why")
    assert runs(daemon) == []


def test_the_next_due_time_ends_the_waiting(
    daemon: Daemon, clock: Clock, tree: Path, tmp_path: Path
) -> None:
    """Nobody waits in silence for a destination that will never answer."""
    write_job(daemon, tree, tmp_path / "nowhere")
    restart(daemon, clock, NIGHT + DAY)
    wait_for(lambda: job(daemon)["waits_for"], what="a reason")
    strike_three(daemon, clock, NIGHT + DAY)
    (run,) = finished(daemon, 1, seconds=40)
    assert brief(run) == ("catch-up", "failed", 2)
    assert run["exit_code"] == 10


def test_a_random_delay_is_the_same_after_a_restart(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination, "randomized_delay: 10h\n")
    write_job(daemon, tree, destination, "randomized_delay: 10h\n", name="other")
    before = [job(daemon, name)["next_start"] for name in ("web", "other")]
    assert before[0] != before[1]
    assert job(daemon)["next_due"] == "2027-03-20T03:00:00.000+00:00"
    restart(daemon, clock, NIGHT)
    assert [job(daemon, name)["next_start"] for name in ("web", "other")] == before
    clock.set(datetime.fromisoformat(before[0]) - timedelta(seconds=2))
    daemon.ctl("reload")
    (run,) = finished(daemon, 1)
    assert brief(run) == ("schedule", "success", 1)
    assert run["due"]["last"] == "2027-03-20T03:00:00.000+00:00"
    assert run["queued_at"] >= before[0]


def test_a_catch_up_waits_for_its_random_delay(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination, "randomized_delay: 10h\n")
    restart(daemon, clock, NIGHT + DAY)
    assert re.search("delay of [1-9]", wait_for(lambda: job(daemon)["waits_for"]))
    assert runs(daemon) == []


# Runs that are cut short, or fail for what may pass


def test_a_lost_run_is_run_again_once(daemon: Daemon, clock: Clock) -> None:
    write_sleeper(daemon)
    strike_three(daemon, clock)
    wait_for(lambda: job(daemon)["state"] == "running", seconds=40)
    daemon.kill()
    daemon.start()
    wait_for(lambda: job(daemon)["state"] == "running")
    lost, again = runs(daemon)
    assert brief(lost) == ("schedule", "lost", 1)
    assert (again["cause"], again["due"], again["repeats"]) == ("catch-up", None, lost["id"])
    daemon.kill()
    daemon.start()
    assert [run["outcome"] for run in finished(daemon, 2)] == ["lost", "lost"]
    assert job(daemon)["state"] == "idle"


def test_a_run_that_the_end_of_the_daemon_cut_short_is_run_again(
    daemon: Daemon, clock: Clock
) -> None:
    write_sleeper(daemon)
    strike_three(daemon, clock)
    wait_for(lambda: job(daemon)["state"] == "running", seconds=40)
    daemon.stop()
    daemon.start()
    wait_for(lambda: job(daemon)["state"] == "running")
    cut, again = runs(daemon)
    assert brief(cut) == ("schedule", "cancelled", 1)
    assert (again["cause"], again["due"], again["repeats"]) == ("catch-up", None, cut["id"])
    daemon.ctl("cancel", "web")
    finished(daemon, 2)
    daemon.stop()
    daemon.start()
    assert job(daemon)["state"] == "idle"  # somebody meant that


def test_a_run_that_somebody_started_or_cancelled_is_not_repeated(
    daemon: Daemon, clock: Clock
) -> None:
    clock.set(NIGHT - DAY / 2)
    write_sleeper(daemon)
    daemon.ctl("run-now", "--no-wait", "web")
    wait_for(lambda: job(daemon)["state"] == "running")
    daemon.kill()
    daemon.start()
    assert [brief(run) for run in finished(daemon, 1)] == [("manual", "lost", 0)]
    assert job(daemon)["state"] == "idle"


def test_without_catch_up_a_lost_run_stays_lost(daemon: Daemon, clock: Clock) -> None:
    write_sleeper(daemon, "CATCH_UP = False\n")
    strike_three(daemon, clock)
    wait_for(lambda: job(daemon)["state"] == "running", seconds=40)
    daemon.kill()
    daemon.start()
    assert [brief(run) for run in finished(daemon, 1)] == [("schedule", "lost", 1)]
    assert job(daemon)["state"] == "idle"


def test_what_may_pass_is_tried_again_so_often_and_then_no_more(
    daemon: Daemon, clock: Clock, tree: Path, tmp_path: Path
) -> None:
    write_s3_job(daemon, tree, "my-bucket", NOWHERE, "retries: 2\nretry_wait: 1s\n")
    strike_three(daemon, clock)
    first, second, third = finished(daemon, 3, seconds=90)
    assert brief(first) == ("schedule", "failed", 1)
    for attempt, run in ((2, second), (3, third)):
        assert brief(run) == ("retry", "failed", 0)
        assert (run["attempt"], run["repeats"]) == (attempt, first["id"])
    waits = [
        datetime.fromisoformat(run["retry_at"]) - datetime.fromisoformat(run["finished_at"])
        for run in (first, second)
    ]
    assert waits == [timedelta(seconds=1), timedelta(seconds=2)]
    assert third["retry_at"] is None
    assert "again at" in daemon.ctl("history", "--run", str(first["id"])).stdout


def test_a_retry_survives_a_restart(
    daemon: Daemon, clock: Clock, tree: Path, s3_server: Bucket
) -> None:
    write_s3_job(daemon, tree, s3_server.name, NOWHERE, "retry_wait: 1h\n")
    strike_three(daemon, clock)
    finished(daemon, 1, seconds=60)
    write_s3_job(daemon, tree, s3_server.name, str(s3_server.endpoint), "retry_wait: 1h\n")
    restart(daemon, clock, clock.now() + timedelta(minutes=30))
    assert job(daemon)["state"] == "idle"
    clock.set(clock.now() + timedelta(minutes=31))
    daemon.ctl("reload")
    failed, again = finished(daemon, 2)
    assert brief(again) == ("retry", "success", 0)
    assert again["repeats"] == failed["id"]


def test_what_will_not_pass_is_not_tried_again(
    daemon: Daemon, clock: Clock, tree: Path, tmp_path: Path
) -> None:
    write_job(daemon, tree, tmp_path / "nowhere", "retry_wait: 1s\n")
    strike_three(daemon, clock)
    (run,) = finished(daemon, 1, seconds=40)
    assert brief(run) == ("schedule", "failed", 1)
    assert run["retry_at"] is None


# Pauses


def test_a_pause_survives_restart_and_reload_and_what_is_due_in_it_is_skipped(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    daemon.ctl("pause", "web")
    path = daemon.jobs / "web.yaml"
    path.rename(path.with_suffix(".away"))
    daemon.ctl("reload")
    path.with_suffix(".away").rename(path)
    daemon.ctl("reload")
    restart(daemon, clock, NIGHT + 3 * DAY)
    assert job(daemon)["state"] == "paused"
    assert job(daemon)["next_start"] is None
    assert "paused" in daemon.ctl("list").stdout
    assert runs(daemon) == []
    daemon.ctl("resume", "web")
    (run,) = finished(daemon, 1)
    assert brief(run) == ("schedule", "skipped", 3)
    assert "paused" in run["message"]
    assert job(daemon)["next_start"] == "2027-03-23T03:00:00.000+00:00"


def test_a_pause_may_have_an_end(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    until = {"until": (NIGHT + DAY).isoformat()}
    status, answer = daemon.request("POST", "/jobs/web/pause", json.dumps(until))
    assert status == 200, answer
    assert job(daemon)["next_start"] == "2027-03-21T03:00:00.000+00:00"
    strike_three(daemon, clock, NIGHT + DAY)
    skipped, ran = finished(daemon, 2, seconds=40)
    assert brief(skipped) == ("schedule", "skipped", 1)
    assert brief(ran) == ("schedule", "success", 1)


def test_run_now_runs_a_paused_job(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    daemon.ctl("pause", "web")
    daemon.ctl("run-now", "web")
    assert job(daemon)["state"] == "paused"


# Overdue


def test_an_overdue_job_is_said_once_and_so_is_its_recovery(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination, "schedule: manual\nmax_age: 26h\n")
    assert daemon.ctl("status").returncode == 0
    assert 'storelet_job_overdue{name="web"} 0' in metrics(daemon)
    clock.set(NIGHT + 2 * DAY)
    daemon.ctl("reload")
    restart(daemon, clock, NIGHT + 2 * DAY)
    assert job(daemon)["overdue_since"] is not None
    assert "overdue" in daemon.ctl("list").stdout
    assert daemon.ctl("status", check=False).returncode == 3
    assert 'storelet_job_overdue{name="web"} 1' in metrics(daemon)
    daemon.ctl("run-now", "web")
    assert job(daemon)["overdue_since"] is None
    assert 'storelet_job_overdue{name="web"} 0' in metrics(daemon)
    assert daemon.log().count("Job web is overdue: it has never saved an archive") == 1
    assert daemon.log().count("Job web is not overdue any more") == 1


def metrics(daemon: Daemon) -> str:
    return daemon.ask("GET", "/metrics")[1]


# A clock that is wrong


def test_a_clock_that_steps_back_a_little_runs_nothing_twice(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    strike_three(daemon, clock)
    finished(daemon, 1, seconds=40)
    strike_three(daemon, clock)
    wait_for(lambda: clock.now() > NIGHT + timedelta(minutes=10, seconds=2))
    daemon.ctl("reload")
    assert len(runs(daemon)) == 1


def test_a_clock_that_once_showed_2036_does_not_silence_a_job(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    clock.set(datetime(2036, 1, 1, tzinfo=UTC))
    daemon.ctl("reload")
    finished(daemon, 1)
    restart(daemon, clock, NIGHT)
    strike_three(daemon, clock)
    first, second = finished(daemon, 2, seconds=40)
    assert brief(first)[:2] == ("catch-up", "success")
    assert brief(second) == ("schedule", "success", 1)
    assert "The clock was ahead" in daemon.log()


def test_a_clock_set_back_and_forth_by_a_day_keeps_every_night(
    daemon: Daemon, clock: Clock, tree: Path, destination: Path
) -> None:
    write_job(daemon, tree, destination)
    strike_three(daemon, clock)
    finished(daemon, 1, seconds=40)  # the night of the 20th
    clock.set(NIGHT - timedelta(hours=20))
    daemon.ctl("reload")
    strike_three(daemon, clock)
    finished(daemon, 2, seconds=40)  # the clock says that it is the same night, but it is not
    strike_three(daemon, clock, NIGHT + DAY)
    third = finished(daemon, 3, seconds=40)[2]  # forth again: the 21st
    assert third["due"]["last"] == "2027-03-21T03:00:00.000+00:00"
    assert [run["outcome"] for run in runs(daemon)] == ["success"] * 3

"""The daemon and the archives that it verifies, and those that it does not delete."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from storelet.zipformat import RACY_NS
from tests.clock import DAY, NIGHT, Clock
from tests.daemon.test_daemon import finished, run, write_yaml
from tests.daemon.test_time import NOWHERE, clock, job, runs, strike_three, write_s3_job
from tests.helpers import Daemon, MotoServer, wait_for

__all__ = ["clock"]  # a fixture

VERIFY = "verify: {every: 1w}\n"
_NAME_SECONDS = 1.1  # so that the next archive has a name of its own


def verified(daemon: Daemon, count: int, name: str = "web") -> list[dict[str, Any]]:
    """Wait until so many verifications of a job are over; return them, the oldest first."""

    def look() -> list[dict[str, Any]] | None:
        found = [run for run in runs(daemon, name) if run["kind"] == "verify"]
        return found if len(found) == count and all(run["outcome"] for run in found) else None

    return wait_for(look, seconds=30, what=f"{count} verifications of {name}")


def metric(daemon: Daemon, name: str) -> float | None:
    """Return a metric of the job web."""
    lines = daemon.ask("GET", "/metrics")[1].splitlines()
    prefix = f'storelet_job_{name}{{name="web"}} '
    return next(
        (float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)), None
    )


def damage(directory: Path, name: bytes) -> Path:
    """Change a byte of the content of a member, in the newest archive; return that."""
    archive = max(directory.glob("*.zip"))
    data = bytearray(archive.read_bytes())
    (length,) = struct.unpack_from("<H", data, data.index(name) - 2)
    data[data.index(name) + len(name) + length] ^= 0x55
    archive.write_bytes(data)
    return archive


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(40):
        (source / f"file-{number:02}").write_bytes(os.urandom(2_000))
    return source


def test_the_first_archive_is_verified_and_then_every_week(
    daemon: Daemon, clock: Clock, source: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", source, destination, VERIFY)
    run(daemon, "web")
    (first,) = verified(daemon, 1)
    assert (first["outcome"], first["cause"], first["files"]["read"]) == ("success", "schedule", 40)
    assert "s ago" in daemon.ctl("list").stdout
    clock.set(NIGHT + 6.9 * DAY)
    daemon.ctl("reload")
    verified(daemon, 1)
    assert job(daemon)["verification"]["next_due"][:10] == "2027-03-27"
    clock.set(NIGHT + 7.1 * DAY)
    daemon.ctl("reload")
    _, second = verified(daemon, 2)
    assert second["outcome"] == "success"
    assert metric(daemon, "last_verify_exit_code") == 0
    success = metric(daemon, "last_verify_success_timestamp_seconds")
    assert success is not None
    assert abs(success - clock.now().timestamp()) < 60


def test_all_is_verified_in_turn_across_restarts(
    daemon: Daemon, clock: Clock, source: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", source, destination, "verify: {every: 1w, sample: 25%}\n")
    run(daemon, "web")
    for week in range(1, 4):
        (*_, last) = verified(daemon, week)
        assert 0 < last["files"]["read"] < 40
        assert job(daemon)["verification"]["proved_whole_since"] is None
        daemon.stop()
        clock.set(NIGHT + week * 7.1 * DAY)
        daemon.start()
    done = verified(daemon, 4)
    assert sum(each["files"]["read"] for each in done) == 40
    assert job(daemon)["verification"]["proved_whole_since"][:10] == "2027-03-20"
    assert "all of it within" in daemon.ctl("status", "web").stdout


def test_an_archive_that_is_not_right_is_a_failed_run_and_reused_no_more(
    daemon: Daemon, source: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", source, destination, VERIFY)
    time.sleep(RACY_NS / 1e9)
    run(daemon, "web")
    verified(daemon, 1)
    archive = damage(destination, b"file-07")
    done = daemon.ctl("verify", "web", check=False)
    assert done.returncode == 1
    assert "file-07" in done.stdout
    assert "verify failed" in done.stdout
    assert archive.with_name(f"{archive.name}.bad").exists()
    assert "failed" in daemon.ctl("list").stdout
    status = daemon.ctl("status", check=False)
    assert status.returncode == 3
    assert "file-07" in status.stdout
    assert metric(daemon, "last_verify_exit_code") == 1
    assert metric(daemon, "last_run_exit_code") == 0
    again = run(daemon, "web")
    assert again["files"]["reused"] == 0
    assert "marked as bad" in again["notes"][0]
    *_, last = verified(daemon, 3)  # at once, as the last one failed
    assert (last["outcome"], last["cause"]) == ("success", "schedule")
    assert daemon.ctl("status").returncode == 0


def test_each_place_is_verified_though_another_is_damaged(
    daemon: Daemon, source: Path, destination: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    path = write_yaml(daemon, "web", source, destination)
    path.write_text(f"{path.read_text()}- directory: {other}\n")
    daemon.ctl("reload")
    run(daemon, "web")
    damage(destination, b"file-07")
    done = daemon.ctl("verify", "web", check=False)
    assert done.returncode == 1
    (last,) = verified(daemon, 1)
    assert last["files"]["read"] == 39 + 40
    assert not list(other.glob("*.bad"))
    assert len(list(destination.glob("*.bad"))) == 1


def test_rot_in_a_source_is_a_failed_run_and_no_mark(
    daemon: Daemon, source: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", source, destination, "verify: {every: 1w, compare_source: true}\n")
    time.sleep(RACY_NS / 1e9 + 0.1)
    run(daemon, "web")
    verified(daemon, 1)
    assert "40 compared with their sources" in daemon.log()
    forge_content(max(destination.glob("*.zip")), (source / "file-07").read_bytes())
    done = daemon.ctl("verify", "web", check=False)
    assert done.returncode == 1
    assert "is whole, but differs from its sources: file-07" in done.stdout
    assert not list(destination.glob("*.bad"))


def forge_content(archive: Path, content: bytes) -> None:
    """Let an archive hold something else, and a CRC that fits, as if its source had rotted."""
    forged = bytes([content[0] ^ 1]) + content[1:]
    data = archive.read_bytes()
    assert data.count(content) == 1
    crcs = [struct.pack("<L", zlib.crc32(each)) for each in (content, forged)]
    archive.write_bytes(data.replace(content, forged).replace(*crcs))


def test_a_bucket_that_is_away_is_asked_again(
    daemon: Daemon, clock: Clock, moto_server: MotoServer, source: Path
) -> None:
    bucket = moto_server.make_bucket("backups")
    write_s3_job(daemon, source, bucket.name, bucket.endpoint, VERIFY)
    run(daemon, "web")
    (first,) = verified(daemon, 1)
    assert first["outcome"] == "success"
    write_s3_job(daemon, source, bucket.name, NOWHERE, f"retries: 1\nretry_wait: 1s\n{VERIFY}")
    clock.set(NIGHT.replace(hour=1) + 8 * DAY)
    daemon.ctl("reload")
    *_, failed, again = verified(daemon, 3)
    assert (failed["outcome"], failed["retry_at"] is not None) == ("failed", True)
    assert (again["cause"], again["repeats"], again["attempt"]) == ("retry", failed["id"], 2)
    assert len(bucket.keys()) == 1  # nothing is marked


def test_a_verification_keeps_no_backup_waiting(
    daemon: Daemon, clock: Clock, source: Path, destination: Path
) -> None:
    """Not even one that hangs, where the job does not overlap."""
    path = write_yaml(daemon, "web", source, destination)
    path.write_text(path.read_text().replace("manual", '"0 3 * * *"'))
    daemon.ctl("reload")
    run(daemon, "web")
    (source / "large").write_bytes(os.urandom(100_000_000))  # that takes a while
    run(daemon, "web")
    status, answer = daemon.request("POST", "/jobs/web/verify")
    assert status == 202
    worker = wait_for(lambda: find_worker(daemon), seconds=10, what="a worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        assert job(daemon)["state"] == "verifying"
        strike_three(daemon, clock)
        backup = wait_for(lambda: runs(daemon)[3:], seconds=20, what="a backup")[0]
        assert finished(daemon, backup["id"])["outcome"] == "success"
    finally:
        os.kill(worker, signal.SIGCONT)
    assert finished(daemon, answer["run"]["id"])["outcome"] == "success"
    assert daemon.ctl("history").stdout.count("verified") == 1


def find_worker(daemon: Daemon) -> int | None:
    """Return the process that works, not its keeper."""
    works = [each for each in daemon.processes() if "storeletd.worker" in each]
    return next((int(each.split()[0]) for each in works if "keeper" not in each), None)


def test_a_verification_is_no_backup(daemon: Daemon, source: Path, destination: Path) -> None:
    write_yaml(daemon, "web", source, destination)
    done = run(daemon, "web")
    daemon.ctl("verify", "web")
    found = job(daemon)
    assert found["last_run"]["id"] == found["last_finished"]["id"] == done["id"]
    assert [run["kind"] for run in found["runs"]] == ["verify", "backup"]


def test_an_encrypted_archive_is_verified_with_the_jobs_password(
    daemon: Daemon, source: Path, destination: Path
) -> None:
    path = write_yaml(daemon, "web", source, destination, "encryption: {password: right}\n")
    run(daemon, "web")
    assert daemon.ctl("verify", "web").returncode == 0
    path.write_text(path.read_text().replace("right", "wrong"))
    daemon.ctl("reload")
    done = daemon.ctl("verify", "web", check=False)
    assert done.returncode == 12
    assert not list(destination.glob("*.bad"))


def test_there_must_be_an_archive_of_this_host(
    daemon: Daemon, source: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", source, destination)
    daemon.ctl("reload")
    done = daemon.ctl("verify", "web", check=False)
    assert done.returncode == 4
    assert "no archive of web" in done.stdout


def test_what_is_marked_as_bad_or_another_hosts_is_not_verified(
    daemon: Daemon, source: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", source, destination)
    for _ in range(3):
        run(daemon, "web")
        time.sleep(_NAME_SECONDS)
    first, second, third = sorted(destination.glob("*.zip"))
    name = socket.gethostname().encode()
    host, other = (struct.pack("<H", len(name)) + each for each in (name, b"x" * len(name)))
    assert third.read_bytes().count(host) == 1
    third.write_bytes(third.read_bytes().replace(host, other))
    second.with_name(f"{second.name}.bad").write_text("Storelet found this archive bad at noon")
    assert daemon.ctl("verify", "web").returncode == 0
    assert f"Verified file://{first}" in daemon.log()


@pytest.mark.parametrize("sample", ["0%", "101%", "5", "nan%", "5%%", 5])
def test_a_sample_that_is_none_is_refused(
    daemon: Daemon, source: Path, destination: Path, sample: object
) -> None:
    write_yaml(daemon, "web", source, destination)
    daemon.ctl("reload")
    if isinstance(sample, str):
        done = daemon.ctl("verify", "web", "--sample", sample, check=False)
        assert done.returncode == 2
        sample = f'"{sample}"'
    status, answer = daemon.request("POST", "/jobs/web/verify", f'{{"sample": {sample}}}')
    assert (status, answer["exit_code"]) == (400, 2)


# The brake


def test_nothing_is_deleted_after_an_archive_that_shrank_until_somebody_says_so(
    daemon: Daemon, source: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", source, destination, "keep: {last: 1}\n")
    run(daemon, "web")
    for path in list(source.iterdir())[5:]:
        path.unlink()
    time.sleep(_NAME_SECONDS)
    done = run(daemon, "web")
    assert done["outcome"] == "success"
    assert "shrunk from" in done["notes"][0]
    assert len(list(destination.iterdir())) == 2
    assert metric(daemon, "prune_held") == 1
    assert "Nothing of web is pruned from now on: the archive has shrunk" in daemon.log()
    daemon.stop()
    daemon.start()
    status = daemon.ctl("status", check=False)
    assert status.returncode == 3
    assert "shrunk from" in status.stdout
    assert "storeletctl resume-prune web" in status.stdout
    time.sleep(_NAME_SECONDS)
    held = run(daemon, "web")
    assert "held" in held["notes"][0]
    assert len(list(destination.iterdir())) == 3
    jobs = ("--jobs", str(daemon.jobs))
    by_hand = daemon.ctl("prune", "web", *jobs, check=False)
    assert by_hand.returncode == 1
    assert "are held: the archive has shrunk" in by_hand.stderr
    assert "delete" in daemon.ctl("prune", "web", "--dry-run", *jobs).stdout
    assert "pruned again" in daemon.ctl("resume-prune", "web").stdout
    assert daemon.ctl("status").returncode == 0
    time.sleep(_NAME_SECONDS)
    assert run(daemon, "web")["notes"] == []
    assert len(list(destination.iterdir())) == 1


def test_nothing_is_deleted_where_most_files_changed_at_once(
    daemon: Daemon, source: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", source, destination, "keep: {last: 1}\n")
    time.sleep(RACY_NS / 1e9 + 0.1)
    run(daemon, "web")
    run_again = run(daemon, "web")
    assert run_again["files"]["read"] == 0
    for path in source.iterdir():
        path.write_bytes(os.urandom(2_000))
    time.sleep(_NAME_SECONDS)
    done = run(daemon, "web")
    assert done["outcome"] == "success"
    assert "40 of 40 files have changed at once" in done["notes"][0]
    assert len(list(destination.iterdir())) == 2
    assert job(daemon)["prune_held"]["why"] == "40 of 40 files have changed at once"


def test_a_run_that_reads_everything_for_another_reason_is_no_disaster(
    daemon: Daemon, source: Path, destination: Path
) -> None:
    write_yaml(daemon, "web", source, destination, "keep: {last: 1}\n")
    time.sleep(RACY_NS / 1e9 + 0.1)
    run(daemon, "web")
    run(daemon, "web")
    write_yaml(daemon, "web", source, destination, "keep: {last: 1}\nencryption: {password: new}\n")
    daemon.ctl("reload")
    time.sleep(_NAME_SECONDS)
    done = run(daemon, "web")
    assert done["files"]["read"] == 40
    assert job(daemon)["prune_held"] is None
    assert len(list(destination.iterdir())) == 1

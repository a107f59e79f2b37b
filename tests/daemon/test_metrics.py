"""What Prometheus is told of a real daemon."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.daemon.test_daemon import (
    SOON,
    jobs,
    problems,
    run,
    started,
    write_job,
    write_sleeper,
    write_yaml,
)
from tests.helpers import Daemon, wait_for


def read_metrics(text: str) -> dict[str, float]:
    """Read metrics by name and labels; a name may come once only."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            assert name not in found, line
            found[name] = float(value)
    return found


def metrics(daemon: Daemon) -> dict[str, float]:
    status, text = daemon.ask("GET", "/metrics")
    assert status == 200, text
    return read_metrics(text)


def of_job(found: dict[str, float], name: str) -> dict[str, float]:
    """Return the metrics of a job without what they all begin and end with."""
    pattern = re.compile(rf'storelet_job_(\w+){{name="{name}"}}')
    return {match[1]: value for each, value in found.items() if (match := pattern.fullmatch(each))}


def write_tree(directory: Path, **files: int) -> Path:
    """Make files of so many bytes each, old enough to be reused."""
    directory.mkdir(exist_ok=True)
    for name, size in files.items():
        (directory / name).write_bytes(b"x" * size)
    return directory


def test_it_says_what_the_last_backup_took(
    daemon: Daemon, tmp_path: Path, destination: Path
) -> None:
    source = write_tree(tmp_path / "source", one=1000, two=200)
    write_yaml(daemon, "web", source, destination)
    before = time.time()
    assert run(daemon, "web")["outcome"] == "success"
    said = of_job(metrics(daemon), "web")
    archive = next(destination.glob("*.zip")).stat().st_size
    assert before - 1 <= said["last_success_timestamp_seconds"] <= time.time()
    assert 0 < said["last_run_duration_seconds"] < time.time() - before
    figures = {
        name.removeprefix("last_run_"): value
        for name, value in said.items()
        if name.endswith(("_files", "_bytes"))
    }
    assert figures == {
        "seen_files": 2,
        "read_files": 2,
        "reused_files": 0,
        "skipped_files": 0,
        "read_bytes": 1200,
        "sent_bytes": archive,
        "archive_bytes": archive,
    }


def test_it_says_which_daemon_it_is(daemon: Daemon) -> None:
    said = metrics(daemon)
    assert said[f'storelet_build_info{{version="{version("storelet")}"}}'] == 1
    assert time.time() - 60 < said["storelet_start_time_seconds"] < time.time()


def test_it_says_whether_a_job_file_is_broken(
    daemon: Daemon, tree: Path, destination: Path
) -> None:
    path = write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON)
    assert metrics(daemon)["storelet_job_file_problems"] == 0
    write_job(daemon, path.name, "schedule: never ever\nfrobnicate: yes\n")
    wait_for(lambda: problems(daemon), seconds=SOON)
    assert metrics(daemon)["storelet_job_file_problems"] == len(problems(daemon)) > 0


def test_what_is_not_known_has_no_line(daemon: Daemon, tree: Path, destination: Path) -> None:
    path = write_yaml(daemon, "web", tree, destination)
    wait_for(lambda: "web" in jobs(daemon), seconds=SOON)
    assert of_job(metrics(daemon), "web") == {
        "overdue": 0,
        "paused": 0,
        "prune_held": 0,
        "running": 0,
    }
    run(daemon, "web")
    assert "last_success_timestamp_seconds" in of_job(metrics(daemon), "web")
    path.unlink()
    wait_for(lambda: "web" not in jobs(daemon), seconds=SOON)
    assert of_job(metrics(daemon), "web") == {}


def test_a_lost_run_has_no_duration(daemon: Daemon, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_sleeper(daemon, "slow", mark)
    started(daemon, "slow", mark)
    daemon.kill()
    daemon.start()
    said = of_job(metrics(daemon), "slow")
    assert said["last_run_exit_code"] == 1
    assert not {name for name in said if name.endswith(("_seconds", "_files", "_bytes"))}


def test_promtool_is_content(daemon: Daemon, tree: Path, destination: Path) -> None:
    promtool = shutil.which("promtool") or pytest.skip("promtool is not installed")
    write_yaml(daemon, "web", tree, destination)
    run(daemon, "web")
    said = daemon.ask("GET", "/metrics")[1]
    done = subprocess.run(
        [promtool, "check", "metrics"], input=said, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
